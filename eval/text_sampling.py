"""One run of any token sampler on a text model, with its network calls counted by a hook and its own time apart."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.swapping import DIFFUSERS
from fewstep.samplers import MaskedProcess, Reading, Shaping, generators, run_tokens, token_method
from fewstep.samplers.discrete import ConfidenceDecoding, CosineMask

from .token_contenders import TokenContender


@dataclass(frozen=True)
class TextRun:
    """What one run gave and cost.

    Attributes:
        tokens: (n, L) int64 on the host.
        calls: of the network, counted by a hook on it.
        sequences: that went through it, summed over the calls, counted by the same hook.
        planned: calls that were asked for; those beyond `calls` were skipped, since no token had changed since the last
            one or none was left to draw.
        seconds: of the whole run.
        step_microseconds: mean time of a call that was not the network's.
    """

    tokens: Tensor
    calls: int
    sequences: int
    planned: int
    seconds: float
    step_microseconds: float


class _Watch:
    """A denoiser that knows how long it took; the hook counts what reaches the network."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls = self.sequences = 0
        self.seconds = 0.0

    def counted(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        self.calls += 1
        self.sequences += len(tokens) if isinstance(tokens, Tensor) else 0

    def __call__(self, tokens: Tensor, t: float) -> Tensor:
        begin = time.perf_counter()
        output = self.model(tokens, t)
        if output.device.type == "cuda":
            torch.cuda.synchronize(output.device)
        self.seconds += time.perf_counter() - begin
        return output


@torch.no_grad()
def sample_text(
    model: Any,
    contender: TokenContender,
    calls: int,
    start: Tensor,
    seeds: Sequence[int],
    shaping: Shaping | None = None,
) -> TextRun:
    """Take sequences from noise to data.

    Args:
        model: a `text_models.MaskedText` or a `text_chain.ChainText`.
        contender: the sampler.
        calls: network calls.
        start: sequences with masks, (n, L); under uniform noise only its shape counts.
        seeds: of each sequence; diffusers' schedulers take one generator a batch, with the first.
        shaping: temperature and nucleus.

    Raises:
        ValueError: fewer calls than the sampler can do with, or masks that it left.
    """
    if calls < contender.fewest:
        raise ValueError(f"{contender.name} needs at least {contender.fewest} network calls, got {calls}")
    if contender.method.startswith(DIFFUSERS):  # loading the class is not the run's time
        import diffusers

        getattr(diffusers, contender.method.removeprefix(DIFFUSERS))
    watch = _Watch(model)
    handle = model.network.register_forward_hook(watch.counted, with_kwargs=True)
    begin = time.perf_counter()
    try:
        if contender.method.startswith(DIFFUSERS):
            tokens = _scheduler(watch, contender, calls, start, seeds, shaping or Shaping())
        elif contender.method == "maskgit":
            process = MaskedProcess(CosineMask(), mask=model.mask)  # the schedule that it was published with
            decoding = ConfidenceDecoding(**contender.fields)
            reading = Reading(shaping=shaping or Shaping())
            tokens, _ = decoding.sample(watch, process, start, calls, generators(seeds), reading)
        else:
            tokens = _method(watch, contender, calls, start, seeds, shaping or Shaping())
        seconds = time.perf_counter() - begin
    finally:
        handle.remove()
    if model.mask is not None and (left := int((tokens == model.mask).sum())):
        raise ValueError(f"{contender.name} left {left} masks after {calls} calls")
    solver = 1e6 * (seconds - watch.seconds) / max(watch.calls, 1)
    return TextRun(tokens.cpu(), watch.calls, watch.sequences, calls, seconds, solver)


def _method(
    watch: _Watch, contender: TokenContender, calls: int, start: Tensor, seeds: Sequence[int], shaping: Shaping
) -> Tensor:
    model = watch.model
    made = generators(seeds)
    if model.kind == "uniform":
        values = len(model.network.matrix)
        noise = [torch.rand(start.shape[1], generator=g, dtype=torch.float64) for g in made]
        start = (torch.stack(noise) * values).long()
    plan = token_method(contender.method, **contender.fields).plan(model.process, calls=calls)
    if len(plan.calls) != calls:
        raise ValueError(f"{contender.name} plans {len(plan.calls)} network calls where {calls} were asked for")
    reading = Reading("logits", shaping)
    found = run_tokens(watch, plan, start, made, reading, time_aware=model.time_aware, split=not model.time_aware)
    return found.tokens


def _scheduler(
    watch: _Watch, contender: TokenContender, calls: int, start: Tensor, seeds: Sequence[int], shaping: Shaping
) -> Tensor:
    """diffusers' schedulers, in the loops of the pipelines that they are for."""
    generator = torch.Generator().manual_seed(int(seeds[0]))
    loops: dict[str, Callable[..., Tensor]] = {
        "AmusedScheduler": _amused,
        "BlockRefinementScheduler": _block_refinement,
        "DiscreteDDIMScheduler": _discrete_ddim,
    }
    loop = loops[contender.method.removeprefix(DIFFUSERS)]
    return loop(watch, dict(contender.fields), calls, start, generator, shaping)


def _shaped(logits: Tensor, shaping: Shaping) -> Tensor:
    """Logits of the law that temperature and nucleus leave, for schedulers that know neither."""
    if shaping == Shaping():
        return logits
    flat = shaping(logits.double().reshape(-1, logits.shape[-1]))
    return flat.log().reshape(logits.shape).to(logits.dtype)


def _amused(
    watch: _Watch, fields: dict[str, Any], calls: int, x: Tensor, generator: torch.Generator, shaping: Shaping
) -> Tensor:
    """As in `AmusedPipeline`: temperature of the choice from 2 to 0, cosine schedule."""
    from diffusers import AmusedScheduler

    mask = watch.model.mask
    scheduler: Any = AmusedScheduler(mask_token_id=mask, **fields)
    scheduler.set_timesteps(calls)
    share = float((x == mask).double().mean())
    for i, timestep in enumerate(scheduler.timesteps):
        logits = _shaped(watch(x, 1 - i / calls), shaping)
        x = scheduler.step(logits, timestep, x, starting_mask_ratio=share, generator=generator).prev_sample
    return x


def _block_refinement(
    watch: _Watch, fields: dict[str, Any], calls: int, x: Tensor, generator: torch.Generator, shaping: Shaping
) -> Tensor:
    """As in `LLaDA2Pipeline`, the whole text as one block: it ends when no mask is left."""
    from diffusers import BlockRefinementScheduler

    mask = watch.model.mask
    scheduler: Any = BlockRefinementScheduler(**fields)
    masks = int((x == mask).sum(1).max())
    scheduler.set_timesteps(calls, block_length=masks)
    for i in range(calls):
        if not (x == mask).any():
            break
        logits = _shaped(watch(x, 1 - i / calls), dataclasses.replace(shaping, temperature=1.0))
        x = scheduler.step(
            logits, i, x, mask_token_id=mask, temperature=shaping.temperature, generator=generator
        ).prev_sample
    return x


def _discrete_ddim(
    watch: _Watch, fields: dict[str, Any], calls: int, x: Tensor, generator: torch.Generator, shaping: Shaping
) -> Tensor:
    """Uniform noise, alpha = i / N at call i; drawn at temperature 1, as its law is meant."""
    from diffusers import DiscreteDDIMScheduler

    scheduler: Any = DiscreteDDIMScheduler(**fields)
    scheduler.set_timesteps(calls)
    values = len(watch.model.network.matrix)
    x = torch.randint(values, x.shape, generator=generator)
    for i in scheduler.timesteps.tolist():
        logits = _shaped(watch(x, 1 - i / calls), shaping)
        x = scheduler.step(logits, i, x, temperature=1.0, generator=generator).prev_sample
    return x
