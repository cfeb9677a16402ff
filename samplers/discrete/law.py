"""The exact law of a run on a small state space: no sampling, no noise.

The law of all sequences is carried through the transition kernel of every call, in float64. It is how solvers are
compared here: total variation to the data's law, at equal network calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch

from .ctmc import MaskedProcess, TokenProcess
from .kernels import Jump
from .method import Call, Rows, TokenPlan
from .order import spread_order
from .stepping import _chance
from .tweedie import conditional

#: (tokens (S, L), t) -> p (S, L, V), the denoiser's law, exact or not
LawDenoiser = Callable[[torch.Tensor, float], torch.Tensor]

#: Pairs of (path, next state) handled at once.
CHUNK = 1 << 21


def sequences(process: TokenProcess, length: int, values: int) -> torch.Tensor:
    """All sequences, (S, L): values 0 .. V - 1 and, for masks, the mask, which must be V."""
    if isinstance(process, MaskedProcess) and process.mask != values:
        raise ValueError(f"the mask must be number {values}, after the values, got {process.mask}")
    count = values + isinstance(process, MaskedProcess)
    return torch.tensor(list(itertools.product(range(count), repeat=length)))


def law_of_run(
    plan: TokenPlan, denoiser: LawDenoiser, length: int, values: int, order: torch.Tensor | None = None
) -> torch.Tensor:
    """Law of the sequences at the end of a run that starts from noise, (V,) * L.

    Methods with a lag that depends on the draw are not covered; give a fixed lag. Numbers of tokens may be balanced for
    methods without memory.

    Args:
        plan: of the run.
        denoiser: the network.
        length, values: L and V.
        order: when each place is revealed, (L,), for methods that spread their reveals; the law is that given the order
            (`law_of_spread_run` takes the mean over its shifts).
    """
    method, process = plan.method, plan.process
    masked = isinstance(process, MaskedProcess)
    if getattr(method, "lag", 1) == "auto" or (method.reveal != "independent" and method.memory):
        raise ValueError("the exact law needs a fixed lag and, for methods with memory, tokens revealed independently")
    if (method.reveal == "spread") != (order is not None):
        raise ValueError("the law of a method that spreads its reveals is taken given their order, and no other's is")
    states = sequences(process, length, values)
    count = len(states)
    if masked:
        paths, weight = torch.tensor([[count - 1]]), torch.ones(1, dtype=torch.float64)
    else:
        paths, weight = torch.arange(count)[:, None], torch.full((count,), 1 / count, dtype=torch.float64)
    powers = (values + masked) ** torch.arange(length - 1, -1, -1)
    past_times: list[float] = []
    for call in plan.calls:
        table = denoiser(states, call.time).to(torch.float64)
        tables = [table] + [denoiser(states, t).to(torch.float64) for t in past_times]
        times = [call.time, *past_times]
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for part in torch.arange(len(paths)).split(max(1, CHUNK // count)):
            at, base = _transitions(plan, call, states, tables, times, paths[part])
            n = len(part)
            to = weight[part][:, None].expand(n, count).clone()
            for k in range(length):
                to = to * at[:, k][:, states[:, k]]
            if masked and method.reveal != "independent" and call.kind == "single":
                to = to * _balanced_weight(states, base, values, _chance(method, process, call) or 0.0, order)
            row, new = (to > 0).nonzero(as_tuple=True)
            found.append((torch.cat([new[:, None], paths[part][row]], 1), to[row, new]))
        paths, weight = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
        keep = 1 + (method.memory if method.stages == 1 else call.kind == "predictor")
        paths = paths[:, :keep]
        past_times = times[: keep - 1]
        key = (paths * count ** torch.arange(paths.shape[1])).sum(1)
        unique, inverse = key.unique(return_inverse=True)
        weight = torch.zeros(len(unique), dtype=torch.float64).index_add_(0, inverse, weight)
        paths = torch.stack([unique // count**j % count for j in range(paths.shape[1])], 1)
    law = torch.zeros(count, dtype=torch.float64).index_add_(0, paths[:, 0], weight)
    clean = torch.tensor(list(itertools.product(range(values), repeat=length)))
    return law[clean @ powers].reshape((values,) * length)


def _transitions(
    plan: TokenPlan,
    call: Call,
    states: torch.Tensor,
    tables: list[torch.Tensor],
    times: list[float],
    paths: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Law of every token after the call, (N, L, V or V + 1), and the tokens it starts from, (N, L)."""
    method, process = plan.method, plan.process
    masked = isinstance(process, MaskedProcess)
    n, length, values = len(paths), states.shape[1], tables[0].shape[-1]

    def rows(age: int) -> Rows:
        tokens = states[paths[:, age]]
        p = tables[age][paths[:, age]].reshape(-1, values)
        is_open = (tokens == values) if masked else torch.ones_like(tokens, dtype=torch.bool)
        return Rows(p, tokens.reshape(-1), times[age], is_open.reshape(-1))

    now = rows(0)
    base = states[paths[:, 1 if call.kind == "corrector" and method.restarts else 0]]
    if call.kind == "fill":
        jump = Jump(torch.ones(len(now.p), dtype=torch.float64), now.p)
    elif call.kind == "conditional":
        jump = conditional(process, call, now, call.end)
    elif call.kind == "corrector":
        jump = method.jump(process, call, now, rows(1))
    elif method.stages == 1 and call.extra and paths.shape[1] > 1:
        w = min(int(getattr(method, "lag", 1)), paths.shape[1] - 1, len(call.extra))
        beta = torch.full((len(now.p),), call.extra[w - 1], dtype=torch.float64)
        jump = method.jump(process, call, now, rows(w), beta)
    else:
        jump = method.jump(process, call, now, None)
    chance = _chance(method, process, call)
    balanced = masked and method.reveal != "independent" and call.kind == "single"
    if chance is not None:
        jump = Jump(torch.full_like(jump.move, 1.0 if balanced else chance), jump.to)
    moved = jump.probabilities()
    stay = torch.nn.functional.one_hot(base.reshape(-1), values + masked).to(torch.float64)
    law = torch.nn.functional.pad(moved, (0, int(masked)))
    law = law + stay * (1.0 if balanced else (1 - moved.sum(-1, keepdim=True)).clamp_min(0.0))
    if masked:
        law = torch.where((base.reshape(-1) == values)[:, None], law, stay)
    return law.reshape(n, length, -1), base


def law_of_spread_run(plan: TokenPlan, denoiser: LawDenoiser, length: int, values: int) -> torch.Tensor:
    """Law of a run that spreads its reveals, the mean over the shift of `spread_order`: L orders, by their shares."""
    place = spread_order((length,), torch.zeros(1, dtype=torch.float64))[0]
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - place).sort().values, torch.ones(1)])
    law = torch.zeros((values,) * length, dtype=torch.float64)
    for low, high in itertools.pairwise(edges.tolist()):
        if high > low:
            order = (place + (low + high) / 2) % 1.0
            law += (high - low) * law_of_run(plan, denoiser, length, values, order)
    return law


def _balanced_weight(
    states: torch.Tensor, base: torch.Tensor, values: int, chance: float, order: torch.Tensor | None = None
) -> torch.Tensor:
    """Probability of each set of revealed places, (N, S), by its number, and by the order if there is one."""
    masks = (base == values).sum(1)[:, None]
    left = (states == values).sum(1)[None]
    revealed = masks - left
    share = masks.to(torch.float64) * chance
    whole = (share + 1e-9).floor()
    more = (share - whole).clamp_min(0.0)
    more = torch.where(more < 1e-9, 0.0, more)
    number = torch.where(revealed == whole, 1 - more, torch.where(revealed == whole + 1, more, 0.0))
    if order is not None:  # the earliest of the masks
        rank = torch.where(base == values, order, 2.0).argsort(1).argsort(1)
        early = (rank[:, None] < revealed[..., None]) & (base == values)[:, None]
        return number * (early == ((base == values)[:, None] & (states != values)[None])).all(-1)
    ways = torch.tensor([[math.comb(n, k) for k in range(len(states[0]) + 1)] for n in range(len(states[0]) + 1)])
    return number / ways[masks, revealed.clamp_min(0)].clamp_min(1)


def total_variation(law: torch.Tensor, data: torch.Tensor) -> float:
    """Half the sum of the absolute differences."""
    return 0.5 * (law - data).abs().sum().item()


def masked_conditionals(data: torch.Tensor) -> LawDenoiser:
    """Exact p(v | revealed tokens) of a joint law (V,) * L, for sequences in which V is the mask."""
    length, values = data.ndim, data.shape[0]
    table = data.to(torch.float64)
    for axis in range(length):
        table = torch.cat([table, table.sum(axis, keepdim=True)], axis)
    flat, powers = table.reshape(-1), (values + 1) ** torch.arange(length - 1, -1, -1)

    def denoiser(tokens: torch.Tensor, t: float) -> torch.Tensor:
        place = (tokens * powers).sum(-1)[..., None, None]
        freed = place + ((values - tokens) * powers)[..., None]
        each = freed + (torch.arange(values) - values) * powers[:, None]
        found = flat[each]
        total = found.sum(-1, keepdim=True)
        return torch.where(total > 0, found / total.clamp_min(1e-300), 1 / values)

    return denoiser


def uniform_conditionals(data: torch.Tensor, process: TokenProcess) -> LawDenoiser:
    """Exact p(clean token i | x_t) of a joint law (V,) * L under uniform noise, by brute force."""
    length, values = data.ndim, data.shape[0]
    data = data.to(torch.float64)
    clean = torch.tensor(list(itertools.product(range(values), repeat=length)))

    def denoiser(tokens: torch.Tensor, t: float) -> torch.Tensor:
        alpha = process.schedule.alpha(t)
        gamma = (1 - alpha) / values
        seen = torch.ones(len(tokens), len(clean), dtype=torch.float64)
        for i in range(length):
            seen = seen * (gamma + alpha * (tokens[:, i, None] == clean[None, :, i]).to(torch.float64))
        joint = seen * data.reshape(-1)
        total = joint.sum(1)
        return torch.stack(
            [
                torch.stack([joint[:, clean[:, i] == v].sum(1) / total for v in range(values)], -1)
                for i in range(length)
            ],
            1,
        )

    return denoiser
