"""One network call of a run: read the model's law where it is needed, draw, and keep what the next call wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .ctmc import MaskedProcess, Shaping, TokenProcess
from .draws import Draws
from .kernels import Jump, categorical
from .method import Call, Rows, TokenMethod, TokenPlan
from .order import closeness, spread_order
from .tweedie import conditional

#: Float64 numbers that one block of rows may hold; rows are handled in blocks of so many.
BLOCK = 1 << 22


@dataclass(frozen=True)
class Reading:
    """How a model's output is to be read.

    Attributes:
        prediction: ``"logits"``, ``"log_probs"``, ``"score"`` or ``"loo_logits"``.
        shaping: temperature and nucleus.
        fill: ``"sample"`` or ``"argmax"``: how a filling call reveals what is left.
    """

    prediction: str = "logits"
    shaping: Shaping = field(default_factory=Shaping)
    fill: str = "sample"


@dataclass(frozen=True)
class Kept:
    """A model's output at the tokens that a later call will ask for, in the model's dtype.

    Attributes:
        rows: places in the flattened batch, increasing, (R,).
        output: (R, V).
        tokens: value of each at that call, (R,).
        time: of the call.
    """

    rows: torch.Tensor
    output: torch.Tensor
    tokens: torch.Tensor
    time: float

    def find(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(index of each of `rows` among those kept, whether it is there at all)."""
        at = torch.searchsorted(self.rows, rows).clamp_max(len(self.rows) - 1)
        return at, self.rows[at] == rows

    def only(self, rows: torch.Tensor) -> Kept:
        """The part at `rows`."""
        at, there = self.find(rows)
        at = at[there]
        return Kept(rows[there], self.output[at], self.tokens[at], self.time)


@dataclass(frozen=True)
class TokenState:
    """What a run carries from one call to the next.

    Attributes:
        past: outputs kept, newest first.
        sample: the sample before the predictor, of methods that start from it again, (B, L).
        lag: lag of each sequence, (B,), of multistep methods.
        revealed: places revealed at the calls kept, newest first, each (B, L) bool.
        balanced: sequences whose tokens are revealed in balanced numbers, (B,).
        order: when each place is revealed, (B, L), of methods that spread their reveals (`spread_order`).
    """

    past: tuple[Kept, ...] = ()
    sample: torch.Tensor | None = None
    lag: torch.Tensor | None = None
    revealed: tuple[torch.Tensor, ...] = ()
    balanced: torch.Tensor | None = None
    order: torch.Tensor | None = None


def check_shapes(process: TokenProcess, sample: torch.Tensor, output: torch.Tensor) -> None:
    """Refuse tokens and outputs that do not belong together, with a sentence."""
    if sample.dtype != torch.long:
        raise TypeError(f"tokens must be int64, got {sample.dtype}")
    if sample.ndim != 2 or output.ndim != 3 or output.shape[:2] != sample.shape:
        raise ValueError(
            f"tokens of shape (B, L) and a model's output of shape (B, L, V) are needed, got {tuple(sample.shape)} and "
            f"{tuple(output.shape)}"
        )
    if isinstance(process, MaskedProcess):
        columns = output.shape[-1] - (process.mask < output.shape[-1])
        if columns < 1:
            raise ValueError("the model's output has no column beside the mask's; the vocabulary is wrong")


def advance(
    plan: TokenPlan,
    i: int,
    sample: torch.Tensor,
    output: torch.Tensor,
    state: TokenState | None = None,
    draws: Draws | None = None,
    reading: Reading | None = None,
    editable: torch.Tensor | None = None,
    shape: Sequence[int] | None = None,
) -> tuple[torch.Tensor, TokenState]:
    """Take what call `i` said about `sample` and go on to where call `i + 1`, or the end, is.

    Args:
        plan: of the run.
        i: number of the call, from 0.
        sample: tokens that the model saw, (B, L) int64.
        output: what it said, (B, L, V); guidance applied, temperature not.
        state: what the last call returned; None at the first, and where a run begins in the middle.
        draws: source of random numbers.
        reading: what the output means, and its shaping.
        editable: positions that may change, (B, L) or (L,); given tokens of uniform noise are told by this alone.
            Masked processes change masks only in any case.
        shape: how the L tokens of a sequence stand to each other, such as (H, W) for a picture; by default (L,).

    Returns:
        The next tokens and the state to pass on.
    """
    method, process, call = plan.method, plan.process, plan.calls[i]
    reading, draws, state = reading or Reading(), draws or Draws(), state or TokenState()
    check_shapes(process, sample, output)
    if sample.device.type == "mps":  # no float64 there
        given = None if editable is None else editable.cpu()
        new, after = advance(plan, i, sample.cpu(), output.cpu(), state, draws, reading, given, shape)
        return new.to(sample.device), after
    if call.kind == "corrector" and not state.past:
        call = Call("conditional", call.time, call.end, call.time, call.end, call.left)
    batch, length = sample.shape
    base = state.sample if call.kind == "corrector" and state.sample is not None else sample
    may = torch.ones_like(base, dtype=torch.bool) if editable is None else editable.to(base.device).expand_as(base)
    if isinstance(process, MaskedProcess):
        may = may & (base == process.mask)
    rows = may.reshape(-1).nonzero()[:, 0]
    numbers = draws.uniform(batch, 2 * length + 1, sample.device)
    place, value = numbers[:, :length], numbers[:, length : 2 * length].reshape(-1)

    chance = _chance(method, process, call)
    chosen, balanced, order = None, state.balanced, state.order
    if chance is not None:
        if balanced is None:
            balanced = torch.full((batch,), method.reveal != "independent", device=sample.device)
            if method.reveal == "spread":
                if shape is not None and math.prod(shape) != length:
                    raise ValueError(f"{length} tokens do not have the shape {tuple(shape)}")
                order = spread_order(shape or (length,), place[:, 0])
        chosen = _chosen(may, chance, place if order is None else order, numbers[:, -1], balanced)
        rows = chosen.reshape(-1).nonzero()[:, 0]
    lag, beta = _lag(method, call, state, chosen, balanced, order, shape or (length,), batch, sample.device)

    flat, logits = sample.reshape(-1), output.reshape(batch * length, -1)
    new = base.reshape(-1).clone()
    lost = torch.zeros(batch, dtype=torch.float64, device=sample.device)
    for block in rows.split(max(1, BLOCK // logits.shape[-1])):
        if not block.numel():
            break
        jump = _law(method, process, call, block, flat, logits, state, reading, lag, beta, length)
        if beta is not None and isinstance(process, MaskedProcess):
            lost.index_add_(0, block // length, jump.to.sum(-1) - 1.0)
        moving = jump.to.sum(-1) > 0
        if chosen is None:
            moving &= place.reshape(-1)[block] < jump.move
        at = block[moving]
        if call.kind == "fill" and reading.fill == "argmax":
            new[at] = jump.to[moving].argmax(-1)
        else:
            new[at] = categorical(jump.to[moving], value[at])
    new = new.reshape(batch, length)
    kept = _keep(method, process, call, state, sample, logits, new, may)
    if not kept:
        return new, TokenState(balanced=balanced, order=order)
    if lag is not None and beta is not None and chosen is not None and getattr(method, "lag", 0) == "auto":
        tolerance = getattr(method, "tolerance", 0.0)
        lag = (lag + (lost / chosen.sum(1).clamp_min(1) > tolerance)).clamp_max(method.memory)
    history = () if chosen is None else (chosen, *state.revealed)[: method.memory]
    return new, TokenState(kept, sample if method.restarts else None, lag, history, balanced, order)


def _chance(method: TokenMethod, process: TokenProcess, call: Call) -> float | None:
    if call.kind == "fill":
        return 1.0
    if call.kind == "conditional":
        if not isinstance(process, MaskedProcess):
            return None
        m = process.ratio(call.time)
        return 1.0 if m <= 0 else (m - process.ratio(call.end)) / m
    return method.chance(process, call)


def _chosen(
    may: torch.Tensor, chance: float, place: torch.Tensor, rounding: torch.Tensor, balanced: torch.Tensor
) -> torch.Tensor:
    """Who is revealed, (B, L): each with `chance`; where balanced, that share of them, rounded up or down at random."""
    alone = may & (place < chance)
    if not balanced.any():
        return alone
    share = may.sum(1).to(torch.float64) * chance
    number = torch.where((share - share.round()).abs() < 1e-9, share.round(), (share + rounding).floor())
    rank = torch.where(may, place, 2.0).argsort(1).argsort(1)
    return torch.where(balanced[:, None], may & (rank < number[:, None]), alone)


def _lag(
    method: TokenMethod,
    call: Call,
    state: TokenState,
    chosen: torch.Tensor | None,
    balanced: torch.Tensor | None,
    order: torch.Tensor | None,
    shape: Sequence[int],
    batch: int,
    device: torch.device,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Lag and over-weight of every sequence, (B,) each, of multistep methods."""
    if method.stages != 1 or not method.memory:
        return None, None
    fixed = getattr(method, "lag", 1)
    first = torch.full((batch,), 1 if fixed == "auto" else int(fixed), device=device)
    lag = first if state.lag is None else state.lag
    reach = min(len(state.past), len(call.extra))
    if not reach:
        return lag, None
    used = lag.clamp_max(reach)
    beta = torch.tensor(call.extra, dtype=torch.float64, device=device)[used - 1]
    if chosen is not None and balanced is not None and balanced.any() and state.revealed:

        def pairs(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            if order is not None:
                return closeness(one, other, shape)
            return (one.sum(1) * (other.sum(1) - (one & other).sum(1).clamp_max(1))).to(torch.float64)

        before = state.revealed[0]
        owed = (1.0 if call.left == 1 else 0.5) * pairs(chosen, chosen) / 2
        owed += (1.0 if len(state.revealed) == 1 else 0.5) * pairs(before, before) / 2
        reached = torch.stack([pairs(chosen, one) for one in state.revealed[:reach]]).cumsum(0)
        reached = reached.gather(0, used[None] - 1)[0]
        beta = torch.where(balanced, owed / torch.where(reached > 0, reached, 1.0), beta)
    return lag, beta


def _law(
    method: TokenMethod,
    process: TokenProcess,
    call: Call,
    rows: torch.Tensor,
    flat: torch.Tensor,
    logits: torch.Tensor,
    state: TokenState,
    reading: Reading,
    lag: torch.Tensor | None,
    beta: torch.Tensor | None,
    length: int,
) -> Jump:
    """Law of the next value at `rows`."""

    def read(output: torch.Tensor, tokens: torch.Tensor, time: float) -> torch.Tensor:
        return process.probabilities(output, tokens, time, reading.prediction, reading.shaping)

    tokens = flat[rows]
    open_ = tokens == process.mask if isinstance(process, MaskedProcess) else torch.ones_like(rows, dtype=torch.bool)
    now = Rows(read(logits[rows], tokens, call.time), tokens, call.time, open_)
    if call.kind == "fill":
        return Jump(torch.ones_like(now.p[:, 0]), now.p)
    if call.kind == "conditional":
        return conditional(process, call, now, call.end)
    past, weight = None, None
    if call.kind == "corrector":
        p, before = _past(state.past[0], rows, now.p, tokens, read)
        past = Rows(p, before, state.past[0].time, torch.ones_like(open_))
    elif lag is not None and beta is not None:
        used = lag.clamp_max(min(len(state.past), len(call.extra)))[rows // length]
        p, before = now.p.clone(), tokens.clone()
        for w in used.unique().tolist():
            mine = used == w
            p[mine], before[mine] = _past(state.past[w - 1], rows[mine], now.p[mine], tokens[mine], read)
        # lags differ between sequences of masks only, whose rates need no time of the past
        past = Rows(p, before, state.past[int(used[0]) - 1].time, torch.ones_like(open_))
        weight = beta[rows // length]
    return method.jump(process, call, now, past, weight)


def _past(
    kept: Kept,
    rows: torch.Tensor,
    p: torch.Tensor,
    tokens: torch.Tensor,
    read: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What an earlier call said at `rows`, and the tokens then.

    Rows of which nothing was kept, since a pipeline has masked them again, get what the present call says: with
    nothing to extrapolate from they are drawn from it as it is.
    """
    at, there = kept.find(rows)
    p, tokens = p.clone(), tokens.clone()
    if there.any():
        at = at[there]
        tokens[there] = kept.tokens[at]
        p[there] = read(kept.output[at], kept.tokens[at], kept.time)
    return p, tokens


def _keep(
    method: TokenMethod,
    process: TokenProcess,
    call: Call,
    state: TokenState,
    sample: torch.Tensor,
    logits: torch.Tensor,
    new: torch.Tensor,
    may: torch.Tensor,
) -> tuple[Kept, ...]:
    """The outputs that later calls will ask for: at the tokens still masked only, unless the method starts again."""
    if not method.memory or call.left == 1 or (method.stages == 2 and call.kind != "predictor"):
        return ()
    if isinstance(process, MaskedProcess) and not method.restarts:
        may = may & (new == process.mask)
    rows = may.reshape(-1).nonzero()[:, 0]
    if not rows.numel():
        return ()
    fresh = Kept(rows, logits[rows], sample.reshape(-1)[rows], call.time)
    older = state.past[: method.memory - 1] if method.stages == 1 else ()
    trimmed = (kept.only(rows) for kept in older)
    return (fresh, *(kept for kept in trimmed if len(kept.rows)))
