"""The ways of editing that are compared, what each costs, and how one is run.

A comparison is at equal numbers of network calls, those of the inversion and of the edit together; the two predictions
of classifier-free guidance are two calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fewstep.samplers import Flow, Grid
from fewstep.samplers.inversion import inverter

from .editing_edits import Edit

FLOW_EDIT = "flowedit"


@dataclass(frozen=True)
class EditMethod:
    """A way of editing with its settings.

    Attributes:
        name: in tables and for ``--samplers``.
        solver: of `inverter`, or ``flowedit``.
        origin: ``"own"``, the recommended setting of this package; ``"published"``, others' methods and settings.
        place: ``"flow"`` or ``"epsilon"``: the model that it runs on.
        strategy: words of `Injection`, or none.
        inject: steps from the noise end in which features are put back, as far as there are as many.
        guidance: of the edit; 1 is without.
        skip: share of the steps that are left out at the noise end.
        warm: begin with the last velocity of the inversion.
        fields: of rf-inversion, or source_guidance of flowedit.
        steps: of the authors, for tables at their own settings; None: the method has none.
    """

    name: str
    solver: str
    origin: str = "published"
    place: str = "flow"
    strategy: str = "none"
    inject: int = 1
    guidance: float = 2.0
    skip: float = 0.0
    warm: bool = False
    fields: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None

    @property
    def family(self) -> str:
        """Whose code it is."""
        return "fewstep"

    def skipped(self, steps: int) -> int:
        """Steps that are left out of so many: never all."""
        return min(round(self.skip * steps), steps - self._fewest)

    @property
    def _fewest(self) -> int:
        return 2 if self.solver == "exact" else 1

    def calls(self, steps: int, doubled: bool) -> int:
        """Network calls of inversion and edit.

        Args:
            steps: of the whole grid.
            doubled: whether guidance takes two predictions, as it does unless the network reads it as an input.
        """
        left = steps - self.skipped(steps)
        times = 2 if doubled and self.guidance > 1 else 1
        if self.solver == FLOW_EDIT:
            source = 2 if doubled and self.fields.get("source_guidance", 1.0) > 1 else 1
            return left * (source + times)
        made = inverter(self.solver)
        grid = Grid(tuple(Flow().at_sigma(1 - i / left) for i in range(left + 1)))
        back = len(made.backward.stages(Flow(), grid)) - (1 if self.warm or made.needs_pair else 0)
        return len(made.forward.stages(Flow(), grid.reversed())) + times * back

    def steps_for(self, calls: int, doubled: bool) -> int | None:
        """The most steps that so many calls allow; None if they allow none."""
        best = None
        for steps in range(self._fewest, 4 * calls + 8):
            if self.calls(steps, doubled) <= calls:
                best = steps
        return best

    def injection(self, steps: int) -> Any:
        """What is put back on a grid of so many steps."""
        from fewstep.pipelines import Injection

        return Injection(self.strategy, steps=min(self.inject, steps - self.skipped(steps)))

    def settings(self) -> dict[str, Any]:
        """JSON; everything that decides what it does."""
        return {
            "solver": self.solver,
            "place": self.place,
            "strategy": self.strategy,
            "inject": self.inject,
            "guidance": self.guidance,
            "skip": self.skip,
            "warm": self.warm,
            "fields": dict(self.fields),
        }


@dataclass(frozen=True, eq=False)
class EditRun:
    """What one run gave and cost.

    Attributes:
        images: edited pictures, PIL, 8 bits; none of a round trip.
        reconstructions, latent_errors: PSNR in dB and relative error of the latents of the round trip at these
            steps, an entry a picture; None where it was not made, or the method has no inversion.
        calls: of the network, counted by a hook; of an edit without those of its reconstruction.
        seconds: of inversion and edit, or of the round trip.
    """

    images: list[Any]
    reconstructions: Sequence[float] | None
    latent_errors: Sequence[float] | None
    calls: int
    seconds: float


def run_method(
    pipe: Any,
    method: EditMethod,
    steps: int,
    edits: Sequence[Edit],
    seed: int = 0,
    kept: dict[Any, Any] | None = None,
    together: Sequence[EditMethod] = (),
) -> EditRun:
    """Edit some pictures.

    Args:
        pipe: a pipeline of the method's place.
        method: how.
        steps: of the whole grid.
        edits: what is edited, and the prompts.
        seed: of the noise of the first picture, where the method draws some.
        kept: inversions and reconstructions of the same pictures with the same pipeline, for the methods that share
            them; what is made is added. Their calls and seconds count for every method.
        together: methods that will share them, so that all they need is recorded.
    """
    from fewstep.pipelines import FlowEdit, edit, flow_edit, reconstruct

    targets = [one.target for one in edits]
    if method.solver == FLOW_EDIT:
        free = FlowEdit(skip=method.skipped(steps), guidance=method.guidance, **method.fields)  # type: ignore[arg-type]
        with _counting(pipe) as counted:
            pictures, sources = [one.picture for one in edits], [one.source for one in edits]
            made = flow_edit(pipe, pictures, sources, targets, free, steps=steps, seed=seed)
        return EditRun(made.images, None, None, len(counted), made.seconds)
    kept = {} if kept is None else kept
    key = (method.solver, tuple(method.fields.items()), steps, method.skipped(steps), seed)
    if key not in kept:
        with _counting(pipe) as counted:
            inversion = _inverted(pipe, method, steps, edits, seed, _recorded([method, *together], steps))
        kept[key] = inversion, len(counted), reconstruct(pipe, inversion)
    inversion, calls, back = kept[key]
    with _counting(pipe) as counted:
        made = edit(pipe, inversion, targets, method.injection(steps), guidance=method.guidance, warm=method.warm)
    return EditRun(made.images, back.psnr, back.latent_error, calls + len(counted), inversion.seconds + made.seconds)


def round_trip(pipe: Any, method: EditMethod, steps: int, edits: Sequence[Edit], seed: int = 0) -> EditRun:
    """Invert and sample again with the same prompt, without guidance; arguments as in `run_method`."""
    from fewstep.pipelines import reconstruct

    with _counting(pipe) as counted:
        inversion = _inverted(pipe, method, steps, edits, seed)
        back = reconstruct(pipe, inversion)
    return EditRun([], back.psnr, back.latent_error, len(counted), inversion.seconds + back.seconds)


@contextmanager
def _counting(pipe: Any) -> Iterator[list[int]]:
    """A list that grows by an entry a call of the denoiser."""
    network = getattr(pipe, "transformer", None)
    counted: list[int] = []
    hook = (pipe.unet if network is None else network).register_forward_hook(lambda *_: counted.append(1))
    try:
        yield counted
    finally:
        hook.remove()


def _recorded(methods: Sequence[EditMethod], steps: int) -> Any:
    """An injection that records what all these methods need of those that share a solver and its inversion."""
    from fewstep.pipelines import Injection

    made = [method.injection(steps) for method in methods if method.solver == methods[0].solver]
    words = {word for injection in made for word in injection.words}
    return Injection(" ".join(sorted(words)) or "none", steps=max(injection.steps for injection in made))


def _inverted(pipe: Any, method: EditMethod, steps: int, edits: Sequence[Edit], seed: int, record: Any = None) -> Any:
    from fewstep.pipelines import invert

    return invert(
        pipe,
        [one.picture for one in edits],
        [one.source for one in edits],
        steps=steps,
        solver=method.solver,
        injection=method.injection(steps) if record is None else record,
        skip=method.skipped(steps),
        seed=seed,
        **method.fields,  # type: ignore[arg-type]  # the fields of its solver
    )
