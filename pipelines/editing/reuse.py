"""What an edit takes over from an inversion: the same model, the same embeddings, the recorded features."""

from __future__ import annotations

from contextlib import ExitStack

from .feature_store import FeatureStore
from .inversion import Inversion
from .leg import Leg, injector_of, interval_of
from .models import PROCESS, Condition, EditModel
from .strategy import Injection, parse_blocks


def record_again(model: EditModel, inversion: Inversion, injection: Injection, window: int, store: FeatureStore) -> int:
    """Record features that the inversion did not, from what the network saw then; the calls it took.

    Raises:
        ValueError: the text encoder now gives other embeddings for the source prompt.
    """
    condition = source_condition(model, inversion)
    with ExitStack() as stack:
        device = model.device
        injector = injector_of(stack, model, injection, store, inversion.latents.sample)
        leg = Leg(model, condition, inversion.size, injector=injector, mode="record", window=window)
        for stage in inversion.inverter.forward.stages(PROCESS, inversion.grid.reversed()):
            interval, kind = interval_of(stage)
            if interval < window:
                leg.evaluate(inversion.inputs[interval, kind].to(device), stage.node.sigma, interval, kind)
    return leg.calls


def source_condition(model: EditModel, inversion: Inversion) -> Condition:
    """The source prompts, embedded again.

    Raises:
        ValueError: the embeddings are not those of the inversion.
    """
    condition = model.condition(inversion.prompts, inversion.guidance)
    if not condition.agrees(dict(inversion.conditioning)):
        raise ValueError(
            "the inversion was made with other embeddings of its source prompt; the text encoder of this pipeline is "
            "another one: invert again"
        )
    return condition


def check_model(model: EditModel, inversion: Inversion) -> None:
    """Refuse an inversion of another model.

    Raises:
        ValueError: with the name of the model that it was made with.
    """
    if not model.is_that_of(inversion.fingerprint):
        raise ValueError(
            f"this inversion was made with another model ({inversion.model or 'of no name'}), so that its noise means "
            "nothing to this one; invert again, or load that model"
        )


def features_of(
    model: EditModel, inversion: Inversion, injection: Injection, window: int
) -> tuple[FeatureStore, int, int]:
    """(features for an edit, network calls they took, tensors recorded): those of the inversion if they are enough."""
    if not window:
        return inversion.features, 0, 0
    had = inversion.injection
    count = len(model.blocks())
    enough = (
        had.window(inversion.edges) >= window
        and set(injection.tensors) <= set(had.tensors)
        and set(parse_blocks(injection.blocks, count)) <= set(parse_blocks(had.blocks, count))
    )
    if enough:
        for stage in inversion.inverter.forward.stages(PROCESS, inversion.grid.reversed()):
            interval, kind = interval_of(stage)
            for block in parse_blocks(injection.blocks, count) if interval < window else ():
                for tensor in injection.tensors:
                    if (interval, kind, "cond", block, tensor) not in inversion.features:
                        raise ValueError(
                            "the inversion holds fewer features than it says, so it is damaged; invert again"
                        )
        return inversion.features, 0, 0
    store = FeatureStore(inversion.features.memory)
    calls = record_again(model, inversion, injection, window, store)
    return store, calls, len(store)
