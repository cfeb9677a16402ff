"""Problems with closed-form solutions, written without the code under test (numpy and the error function only).

The probability-flow ODE moves a sample so that its place in the law of its noise level stays the same. In one dimension
that fixes it: x_t is the quantile of the marginal at t at the level of x_0. For a Gaussian mixture the marginal's
distribution function is a sum of error functions.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from fewstep.samplers import (
    EDM,
    GHVB,
    LML,
    AdamsBashforth,
    ExponentialAdams,
    Flow,
    Grid,
    HeavyBall,
    Nesterov,
    VPDiscrete,
    betas_of_schedule,
    methods,
)
from fewstep.samplers.core import oracle

MEANS = np.array([-0.9, 0.6])
SCALES = np.array([0.7, 0.9])
WEIGHTS = np.array([0.4, 0.6])
LEVELS = np.linspace(0.08, 0.92, 9)


def vp(prediction: str = "epsilon") -> VPDiscrete:
    return VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012), prediction)


PROCESSES = {"vp": vp, "flow": lambda p="flow_prediction": Flow(p), "edm": lambda p="edm": EDM(prediction=p)}

#: first and last sigma / alpha of the test intervals
RANGES = {"vp": (4.0, 0.4), "flow": (4.0, 0.4), "edm": (4.0, 0.4)}


@lru_cache(maxsize=4096)
def _quantiles(nodes: tuple[tuple[float, float], ...]) -> torch.Tensor:
    """(nodes, levels) exact solutions, by bisection of the distribution function to rounding."""
    alpha, sigma = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in zip(*nodes, strict=True))
    means, scales, weights = (torch.from_numpy(v) for v in (MEANS, SCALES, WEIGHTS))
    spread = (alpha**2 * scales**2 + sigma**2).sqrt() * math.sqrt(2)
    levels = torch.from_numpy(LEVELS)
    low = torch.full((len(nodes), len(levels)), -60.0, dtype=torch.float64)
    high = -low
    for _ in range(64):
        middle = (low + high) / 2
        cdf = (weights * 0.5 * (1 + torch.erf((middle[..., None] - alpha * means) / spread))).sum(-1)
        low, high = torch.where(cdf < levels, middle, low), torch.where(cdf < levels, high, middle)
    return (low + high) / 2


def exact_path(points: Grid) -> torch.Tensor:
    """The exact solution at every node of a grid, (nodes, levels, 1), float64."""
    return _quantiles(tuple((n.alpha, n.sigma) for n in points.nodes))[..., None]


def denoiser(process):
    """The exact network for the mixture."""
    return oracle.mixture(process, torch.from_numpy(MEANS)[:, None], torch.from_numpy(SCALES), WEIGHTS.tolist())


def _ratio_to_sigma(process, ratio: float) -> float:
    return ratio / (1 + ratio) if isinstance(process, Flow) else ratio


def grid(process, kind: str, steps: int, spacing: str) -> Grid:
    """A grid over the test interval: ``equal`` steps in sigma / alpha (VP, EDM) or sigma (flow), or ``smooth``,
    unequal: equal steps in the square root of log(sigma / alpha) + 2."""
    first, last = RANGES[kind]
    if spacing == "equal":
        sigmas = np.linspace(_ratio_to_sigma(process, first), _ratio_to_sigma(process, last), steps + 1)
    else:
        roots = np.linspace(math.sqrt(math.log(first) + 2), math.sqrt(math.log(last) + 2), steps + 1)
        sigmas = [_ratio_to_sigma(process, r) for r in np.exp(roots**2 - 2)]
    return Grid(tuple(process.at_sigma(float(s)) for s in sigmas))


def call_grid(method, process, points: Grid) -> Grid:
    """The noise levels of a method's network calls on a grid, and its last node."""
    return Grid((*method.plan(process, points).calls, points.nodes[-1]))


def solve(method, process, points: Grid, given: int = 0, stop: int | None = None) -> torch.Tensor:
    """Run a method up to call `stop`, its samples up to call `given` replaced by the exact solution.

    Where a step takes several calls, that is done at the first of them alone: the others belong to the step.
    """
    plan = method.plan(process, points)
    network = denoiser(process)
    truth = exact_path(call_grid(method, process, points))
    x, state = truth[0], ()
    for i, node in enumerate(plan.calls[:stop]):
        if i <= given and i % method.spec.calls == 0:
            x = truth[i]
        x, state = method.step(plan, i, x, network(x * process.input_scale(node), node.timestep), state)
    return x


def slope(errors: list[float], counts: list[int]) -> float:
    """Least-squares slope of log error against log step length."""
    return float(np.polyfit(-np.log(counts), np.log(errors), 1)[0])


def error(x: torch.Tensor, points: Grid, node: int = -1) -> float:
    """Root mean square distance to the exact solution at a node."""
    return float((x - exact_path(points)[node]).square().mean().sqrt())


_VARIANTS = [
    *[
        ExponentialAdams(order=k, form=f, solver_type=s)
        for k in (1, 2)
        for f in ("x0", "eps")
        for s in ("midpoint", "heun")
    ],
    *[ExponentialAdams(order=k, form=f, solver_type="heun") for k in (3, 4) for f in ("x0", "eps")],
    *[ExponentialAdams(order=3, form=f, variant="published") for f in ("x0", "eps")],
    *[AdamsBashforth(order=k, weights=w) for k in (1, 2, 3, 4) for w in ("fixed", "variable")],
    *[GHVB(momentum=m, weights=w) for m in (0.8, 1.5, 2.5, 3.0, 3.8) for w in ("fixed", "moment-matched")],
    GHVB(momentum="auto", guidance_scale=1.0),
    *[HeavyBall(order=k, damping=d) for k in (1, 2, 4) for d in (0.8, 1.0)],
    HeavyBall(base="exponential-adams", order=2, damping=0.8),
    HeavyBall(base="exponential-adams", order=2, damping=1.0),
    HeavyBall(momentum=1.8),
    HeavyBall(momentum="auto", guidance_scale=3.0),
    *[Nesterov(order=k, damping=d) for k in (1, 2, 4) for d in (0.7, 1.0)],
    LML(),
    LML(order=3, form="x0"),
    LML(base="euler"),
    LML(order=2, damping_mode="absolute", damping=5.0),
    LML(order=3, damping_mode="absolute", damping=5.0),
    LML(order=2, form="x0", gamma=0.2, gamma_max=0.1, freeze=0.3),
    AdamsBashforth(order=4, euler_at_final=True),
    GHVB(momentum=2.5, euler_at_final=True),
    GHVB(momentum=4.5),
    GHVB(momentum=5.0, weights="moment-matched"),
    HeavyBall(base="exponential-adams", order=3, damping=0.8),
    HeavyBall(base="exponential-adams", order=4, damping=1.0, solver_type="heun"),
    Nesterov(order=3, damping=0.7),
]
_COVERED = {type(method) for method in _VARIANTS}
#: every registered method, with the variants that have properties of their own; a new method is in it by itself
METHODS = [*_VARIANTS, *(cls() for cls in methods().values() if cls not in _COVERED)]


def name_of(method) -> str:
    """Readable test id: the method and its fields."""
    return "-".join(
        [method.name, *(str(v) for v in vars(method).values() if not isinstance(v, bool) and v is not None)]
    )
