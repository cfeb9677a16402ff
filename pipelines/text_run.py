"""The windows of a run: a scheduler's loop over its network calls, those that say nothing new left out."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fewstep.samplers import Shaping
from fewstep.samplers.core.registry import nearest
from fewstep.samplers.discrete import NoiseSchedule, SkippingDenoiser, noise_schedule
from fewstep.samplers.token_schedulers import TOKEN_SCHEDULERS, TokenScheduler

from .text_networks import check_columns, guided
from .text_tokens import TextCodec
from .text_windows import Window


def check_scheduler(scheduler: Any) -> None:
    """Refuse what cannot fill masks.

    Raises:
        TypeError: not a scheduler of tokens.
        ValueError: one set for uniform noise.
    """
    known = inspect.signature(scheduler.step).parameters if hasattr(scheduler, "step") else {}
    if not {"model_output", "timestep", "sample", "generator"} <= known.keys() or "mask_token_id" not in getattr(
        scheduler, "config", {}
    ):
        name = type(scheduler).__name__
        raise TypeError(
            f"{name} is no scheduler of masked tokens{nearest(name, TOKEN_SCHEDULERS)} "
            f"Use one of {', '.join(TOKEN_SCHEDULERS)}, or diffusers' AmusedScheduler"
        )
    if scheduler.config.get("process", "masked") != "masked":
        raise ValueError("the text pipeline is for masks, and the scheduler is set to uniform noise")


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """Noise schedule of a scheduler, log-linear where its configuration says nothing."""
    config = scheduler.config
    name = config.get("noise_schedule")
    if name is None and isinstance(scheduler, TokenScheduler):
        name = config.get("masking_schedule")
    return noise_schedule(name or "log_linear", config.get("schedule_eps", 1e-3))


def own_scheduler(scheduler: Any, mask: int, count_calls: bool) -> Any:
    """A scheduler for one run, which shares nothing that is written to."""
    own = copy.deepcopy(scheduler)
    own.register_to_config(mask_token_id=mask)
    if count_calls and isinstance(own, TokenScheduler):
        own.register_to_config(steps_are_model_calls=True)
    return own


def run_window(
    scheduler: Any,
    network: Callable[[torch.Tensor, float], torch.Tensor],
    tokens: torch.Tensor,
    mask: int,
    number: int,
    generators: Sequence[torch.Generator],
    shaping: dict[str, Any],
    time_aware: bool = False,
    after_call: Callable[[int, float, torch.Tensor], None] | None = None,
) -> tuple[torch.Tensor, SkippingDenoiser, int]:
    """Fill the masks of `tokens`.

    Args:
        scheduler: of this run alone; `set_timesteps` is called here.
        network: (tokens, t) -> output; what must not be drawn is -inf there (0 for scores).
        tokens: (B, L) int64 with masks. Everything else is left as it is.
        mask: number of the mask token.
        number: for `set_timesteps`.
        generators: one a row.
        shaping: temperature, top_p, top_k, those that are set.
        time_aware: whether the network depends on t; where it does not, no call is made about unchanged tokens.
        after_call: told (calls over, t, tokens) after every call.

    Returns:
        The tokens, the counted network, and the calls of the plan.
    """
    ours = isinstance(scheduler, TokenScheduler)
    scheduler.set_timesteps(number, device=tokens.device)
    times = scheduler.timesteps.tolist()
    counted = SkippingDenoiser(network, time_aware, split=True)
    restarts = ours and scheduler.method.restarts
    counter = ours and scheduler.config.steps_are_model_calls
    shape = None if ours or not shaping else Shaping(**shaping)
    one = list(generators) if ours else (generators[0] if len(generators) == 1 else None)
    x, before = tokens, tokens
    for i, t in enumerate(times):
        time = t if ours else 1 - i / len(times)
        needed = (x == mask).any(1)
        if restarts and scheduler.has_stored_state:  # the second stage starts again from `before`
            needed = needed | (before == mask).any(1)
        if not needed.any():
            counted.skipped += len(times) - i
            break
        output = counted(x, time, needed)
        if shape is not None:
            p = shape(output.flatten(0, 1).double())
            output = p.log().view(output.shape).to(output.dtype)
        before, x = (
            x,
            scheduler.step(
                model_output=output,
                timestep=i if counter else scheduler.timesteps[i],
                sample=x,
                generator=one,
                **(shaping if ours else {}),
            ).prev_sample,
        )
        if after_call is not None:
            after_call(i + 1, time, x)
    return x, counted, len(times)


class WindowRun:
    """What the windows of one run share, and its counts.

    Args:
        network: (tokens, t) -> output of the model.
        scheduler: of the pipeline; a copy of it is run.
        codec: the tokenizer.
        guidance: scale of classifier-free guidance, 1 for none.
        special: whether special tokens may be drawn.
        shaping: temperature, top_p, top_k; None where the scheduler's holds.
        steps, calls: of every window; both None: one call a mask.
        time_aware: whether the network depends on t.

    Attributes:
        calls, skipped, sequences, windows: as in `MaskedTextOutput`.
        batched: whether the scheduler takes several texts at once, each with its own generator.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor, float], torch.Tensor],
        scheduler: Any,
        codec: TextCodec,
        *,
        guidance: float,
        special: bool,
        shaping: dict[str, Any],
        steps: int | None,
        calls: int | None,
        time_aware: bool,
    ) -> None:
        self.shaping = {name: value for name, value in shaping.items() if value is not None}
        try:
            Shaping(**self.shaping)  # its sentences come before the first call
        except TypeError:
            raise ValueError(f"temperature, top_p and top_k must be numbers, got {self.shaping}") from None
        self.codec, self.guidance, self.time_aware = codec, guidance, time_aware
        self.steps, self.asked = steps, calls
        self.batched = isinstance(scheduler, TokenScheduler)
        self.scheduler = own_scheduler(scheduler, codec.mask, calls is not None or steps is None)
        self.score = scheduler.config.get("prediction_type") == "score"
        self.drawable = sorted(set(codec.values) - set(() if special else codec.special))
        if not self.drawable:
            raise ValueError("the tokenizer has special tokens alone, so there is nothing to write")
        self.network = self._drawing(network)
        self.calls = self.skipped = self.sequences = self.windows = 0

    def _drawing(self, inner: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[..., torch.Tensor]:
        """The network, counted, with nothing for tokens that must not be drawn."""
        hidden: dict[torch.device, torch.Tensor] = {}

        def network(tokens: torch.Tensor, t: float) -> torch.Tensor:
            self.sequences += len(tokens)
            output = inner(tokens, t)
            if output.device not in hidden:
                check_columns(output, self.drawable)
                never = torch.ones(output.shape[-1], dtype=torch.bool)
                never[self.drawable] = False
                hidden[output.device] = never.to(output.device)
            return output.masked_fill(hidden[output.device], 0.0 if self.score else -math.inf)

        return network

    def _number(self, window: Window) -> int:
        return self.asked or self.steps or window.masks

    def planned(self, window: Window) -> int:
        """Calls of a window's plan."""
        self.scheduler.set_timesteps(self._number(window))
        return len(self.scheduler.timesteps)

    def fill(
        self,
        window: Window,
        tokens: torch.Tensor,
        given: torch.Tensor,
        generators: Sequence[torch.Generator],
        after_call: Callable[[int, float, torch.Tensor], None],
    ) -> tuple[torch.Tensor, int]:
        """Fill one window.

        Args:
            window: which one.
            tokens: in it, (B, W).
            given: what was there from the start, (W,) bool, which guidance masks out.
            generators: one a row.
            after_call: told (calls over, t, tokens of the window) after every call.

        Returns:
            The tokens, and the calls of the plan.
        """
        head = len(self.codec.head)
        inner = slice(head, head + tokens.shape[1])
        whole = torch.cat(
            [
                torch.tensor(self.codec.head, dtype=torch.long, device=tokens.device).expand(len(tokens), -1),
                tokens,
                torch.tensor(self.codec.tail, dtype=torch.long, device=tokens.device).expand(len(tokens), -1),
            ],
            dim=1,
        )
        network = self.network
        if self.guidance != 1 and bool(given.any()):
            prompt = torch.zeros(whole.shape[1], dtype=torch.bool, device=whole.device)
            prompt[inner] = given
            network = guided(network, prompt, self.codec.mask, self.guidance, self.score)
        filled, counted, planned = run_window(
            self.scheduler,
            network,
            whole,
            self.codec.mask,
            self._number(window),
            generators,
            self.shaping,
            time_aware=self.time_aware,
            after_call=lambda call, time, x: after_call(call, time, x[:, inner]),
        )
        self.calls += counted.calls
        self.skipped += counted.skipped
        self.windows += 1
        return filled[:, inner], planned
