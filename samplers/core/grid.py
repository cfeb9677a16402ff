"""The grid: the noise levels at which the network is called, and the one where the sample ends.

A grid is strictly monotone, float64, and knows nothing of methods. N network calls make N + 1 nodes: N where the
network is called and one final node, clean data unless asked otherwise. The builders follow diffusers 0.42.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .process import EDM, Flow, Node, Process, VPContinuous, VPDiscrete

SPACINGS = ("linspace", "leading", "trailing", "karras", "exponential", "beta", "logsnr")


@dataclass(frozen=True)
class Grid:
    """Noise levels from first to last. `nodes[:-1]` are told to the network; `nodes[-1]` is where the sample ends."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if len(self.nodes) < 2:
            raise ValueError("a grid needs at least two noise levels: one where the network is called, one to end at")
        levels = [node.ratio for node in self.nodes]
        pairs = list(pairwise(levels))
        if not (all(a > b for a, b in pairs) or all(a < b for a, b in pairs)):
            at = next(i for i, (a, b) in enumerate(pairs) if not (a > b if levels[0] > levels[-1] else a < b))
            raise ValueError(
                "the noise levels of a grid must be strictly monotone, without duplicates: "
                f"numbers {at} and {at + 1} (from 0) are {levels[at]:.6g} and {levels[at + 1]:.6g}; "
                "ask for fewer steps or another spacing"
            )

    @property
    def calls(self) -> int:
        """Number of network calls of a one-call-per-step method."""
        return len(self.nodes) - 1

    @property
    def timesteps(self) -> tuple[float, ...]:
        """What the network is told, one number a call."""
        return tuple(node.timestep for node in self.nodes[:-1])

    @property
    def descending(self) -> bool:
        """Whether the run goes from noise to data."""
        return self.nodes[0].ratio > self.nodes[-1].ratio

    def from_noise(self, interval: int) -> int:
        """Number of an interval, given in order of travel, counted from the noisy end: the same in both directions."""
        return interval if self.descending else self.calls - 1 - interval

    def reversed(self) -> Grid:
        """The same noise levels, travelled the other way."""
        return Grid(self.nodes[::-1])

    def tail(self, start: int) -> Grid:
        """The grid from node `start` on: what is left when a run begins there (image to image)."""
        if not 0 <= start < self.calls:
            raise ValueError(f"a run over {self.calls} calls can start at 0 .. {self.calls - 1}, not at {start}")
        return Grid(self.nodes[start:]) if start else self


#: Clean data: alpha = 1, sigma = 0. The network is never called there.
CLEAN = Node(0.0, 1.0, 0.0)


def karras(sigma_min: float, sigma_max: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """Sigmas equally spaced in sigma^(1/rho) (Karras et al. 2022, arXiv 2206.00364, equation 5), decreasing."""
    ramp = np.linspace(0, 1, steps)
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def exponential(sigma_min: float, sigma_max: float, steps: int) -> np.ndarray:
    """Sigmas equally spaced in log sigma, decreasing."""
    return np.exp(np.linspace(math.log(sigma_max), math.log(sigma_min), steps))


def beta(sigma_min: float, sigma_max: float, steps: int, alpha: float = 0.6, beta_: float = 0.6) -> np.ndarray:
    """Sigmas at quantiles of a Beta distribution, denser at both ends (Lee et al. 2024, arXiv 2407.12173)."""
    try:
        from scipy.stats import beta as distribution
    except ImportError:
        raise ImportError("the beta grid needs scipy: pip install 'fewstep[eval]'") from None
    quantiles = distribution.ppf(1 - np.linspace(0, 1, steps), alpha, beta_)
    return sigma_min + quantiles * (sigma_max - sigma_min)


def shift_sigmas(sigmas: np.ndarray, shift: float) -> np.ndarray:
    """Static flow shift, sigma -> s sigma / (1 + (s - 1) sigma) (Esser et al. 2024, arXiv 2403.03206)."""
    if shift <= 0:
        raise ValueError(f"the flow shift must be above 0, got {shift:g}")
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def shift_sigmas_by_mu(sigmas: np.ndarray, mu: float, kind: str = "exponential") -> np.ndarray:
    """Dynamic flow shift by mu: ``exponential`` shifts by exp(mu), ``linear`` by mu (which must then be above 0)."""
    if kind not in ("exponential", "linear"):
        raise ValueError(f"the time shift type is exponential or linear, got {kind!r}")
    return shift_sigmas(sigmas, math.exp(mu) if kind == "exponential" else mu)


def stretch_to_terminal(sigmas: np.ndarray, terminal: float) -> np.ndarray:
    """Stretch 1 - sigma so that the last sigma becomes `terminal` (LTX-Video's shift_terminal)."""
    if not 0 <= terminal < 1:
        raise ValueError(f"shift_terminal lies in [0, 1), got {terminal:g}")
    return 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])


@dataclass(frozen=True)
class GridOptions:
    """How to place the noise levels; the names are those of diffusers' scheduler options.

    Attributes:
        spacing: one of `SPACINGS`. ``linspace``, ``leading``, ``trailing`` place training timesteps (VP-discrete) as
            diffusers' multistep solvers do; ``karras``, ``exponential``, ``beta``, ``logsnr`` place sigmas between
            `sigma_min` and `sigma_max`.
        steps_offset: added to every timestep of the ``leading`` spacing.
        final_sigma: ``zero`` ends at clean data, ``sigma_min`` at the smallest noise level of the process. The sigma
            spacings then have one interval for each call (diffusers' last step has length 0 there).
        sigma_min, sigma_max: ends of the sigma spacings; by default those of the process.
        rho: exponent of the ``karras`` spacing.
        lambda_min: smallest half log-SNR of timestep spacings (diffusers' lambda_min_clipped).
        shift: static shift of a flow process.
        dynamic_shift: shift a flow by `mu`, given per run, instead of by `shift`.
        shift_type: ``exponential`` or ``linear``, for `mu`.
        shift_terminal: last sigma before the final one, reached by stretching; None for no stretching.
        training_steps: number of training timesteps; a flow's smallest linspace sigma is 1 / training_steps.
        flow_end: sigma at which the equal steps of a flow's ``trailing`` spacing would arrive (diffusers'
            use_flow_sigmas has 1 / training_steps).
    """

    spacing: str = "linspace"
    steps_offset: int = 0
    final_sigma: str = "zero"
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7.0
    lambda_min: float = -math.inf
    shift: float = 1.0
    dynamic_shift: bool = False
    shift_type: str = "exponential"
    shift_terminal: float | None = None
    training_steps: int = 1000
    flow_end: float = 0.0

    def __post_init__(self) -> None:
        if self.spacing not in SPACINGS:
            raise ValueError(f"unknown grid {self.spacing!r}; known are {', '.join(SPACINGS)}")
        if not self.rho > 0:
            raise ValueError(f"rho must be above 0, got {self.rho!r}")
        if self.final_sigma not in ("zero", "sigma_min"):
            raise ValueError(f"the final sigma is zero or sigma_min, got {self.final_sigma!r}")


def _check_steps(steps: int, most: int | None) -> None:
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"the number of steps must be a whole number of at least 1, got {steps!r}")
    if most is not None and steps > most:
        raise ValueError(f"{steps} steps are more than the {most} timesteps that the model was trained with")


def _spaced_timesteps(steps: int, options: GridOptions, process: VPDiscrete) -> np.ndarray:
    count = len(process.alphas_cumprod)
    last = count
    if options.lambda_min > -math.inf:
        last = sum(process.at(t).lambda_ >= options.lambda_min for t in range(count))
        if steps > last:
            raise ValueError(f"only {last} timesteps have a half log-SNR of at least {options.lambda_min:g}")
    if options.spacing == "trailing":
        ratio = count / steps
        return np.arange(last, 0, -ratio)[:steps].round() - 1
    if steps + 1 > last:  # as many calls as timesteps: every one of them
        return np.linspace(last - 1, 0, steps).round()
    if options.spacing == "linspace":
        return np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    return np.minimum((np.arange(1, steps + 1) * (last // (steps + 1)))[::-1] + options.steps_offset, count - 1)


def _sigma_range(process: Process, options: GridOptions) -> tuple[float, float]:
    if isinstance(process, VPDiscrete):
        low, high = process.at(0).ratio, process.at(len(process.alphas_cumprod) - 1).ratio
        high = high if math.isfinite(high) else 4096.0  # alpha-bar 2^-24, as diffusers rounds zero terminal SNR
    elif isinstance(process, VPContinuous):
        low, high = process.at(1e-3 * process.time_scale).ratio, process.at(process.time_scale).ratio
        high = high if math.isfinite(high) else 4096.0
    elif isinstance(process, EDM):
        low, high = process.sigma_min, process.sigma_max
    else:
        low, high = 1 / options.training_steps, 1.0
    low = low if options.sigma_min is None else options.sigma_min
    high = high if options.sigma_max is None else options.sigma_max
    if not 0 < low < high:
        raise ValueError(f"a grid needs 0 < sigma_min < sigma_max, got {low:g} and {high:g}")
    return low, high


def _spaced_sigmas(spacing: str, low: float, high: float, steps: int, rho: float, flow: bool) -> np.ndarray:
    if steps == 1:
        return np.array([high])
    if spacing == "karras":
        return karras(low, high, steps, rho)
    if spacing == "beta":
        return beta(low, high, steps)
    if spacing == "logsnr" and flow:
        top = min(high, 1 - 1e-3)  # log-SNR has no uniform spacing from sigma = 1 on
        lambdas = np.linspace(math.log(1 / top - 1), math.log(1 / low - 1), steps)
        return 1 / (1 + np.exp(lambdas))
    return exponential(low, high, steps)


def make_grid(
    process: Process,
    steps: int | None = None,
    options: GridOptions | None = None,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Grid:
    """Place the noise levels of a run.

    Args:
        process: the forward process.
        steps: number of network calls of a one-call-per-step method; may be left out when a list is given.
        options: spacing, shift, final sigma.
        timesteps: what the network is to be told, strictly decreasing (VP), or one's own sigmas' timesteps (flow).
        sigmas: one's own sigmas without the final one, in the units of the process, strictly decreasing. The shift of
            a flow process is applied to them, as diffusers does.
        mu: dynamic shift of a flow process; needed exactly when `options.dynamic_shift` is set.

    Raises:
        ValueError: steps out of range, duplicate or increasing noise levels, mu missing, lists of another length.
    """
    options = options or GridOptions()
    given = sigmas if sigmas is not None else timesteps
    if given is not None:
        given = [float(value) for value in given]
        if not given:
            raise ValueError("the list of noise levels is empty")
        if steps is not None and steps != len(given):
            raise ValueError(f"{steps} steps were asked for, but the list of noise levels has {len(given)}")
        steps = len(given)
    if steps is None:
        raise ValueError("say how many steps to take, or give a list of timesteps or sigmas")
    discrete = isinstance(process, VPDiscrete)
    _check_steps(steps, len(process.alphas_cumprod) if isinstance(process, VPDiscrete) else None)
    steps = int(steps)
    flow = isinstance(process, Flow)
    if options.dynamic_shift and mu is None:
        raise ValueError("this flow model shifts its noise levels by mu, and none was given")
    if mu is not None and not options.dynamic_shift:
        raise ValueError("mu was given, but the grid is not set to shift dynamically (use_dynamic_shifting)")

    low, high = _sigma_range(process, options)
    if discrete and sigmas is None and (timesteps is not None or options.spacing in SPACINGS[:3]):
        times = given if given is not None else _spaced_timesteps(steps, options, process)  # type: ignore[arg-type]
        nodes = [process.at(float(t)) for t in times]
    elif flow:
        nodes = [process.at_sigma(float(s)) for s in _flow_sigmas(steps, options, low, high, timesteps, sigmas, mu)]
    elif timesteps is not None and sigmas is None:
        nodes = [process.at(t) for t in timesteps]
    elif sigmas is not None:
        nodes = [process.at_sigma(float(s)) for s in sigmas]
    elif options.spacing in SPACINGS[:3]:
        if isinstance(process, EDM):
            nodes = [process.at_sigma(float(s)) for s in _spaced_sigmas("karras", low, high, steps, options.rho, False)]
        else:
            top, end = process.at_sigma(high).timestep, process.at_sigma(low).timestep
            times = (
                np.linspace(top, end, steps + 1)[:-1] if options.spacing != "linspace" else np.linspace(top, end, steps)
            )
            nodes = [process.at(float(t)) for t in times]
    else:
        ends = options.final_sigma == "sigma_min"
        levels = _spaced_sigmas(options.spacing, low, high, steps + ends, options.rho, False)[:steps]
        nodes = [process.at_sigma(float(s)) for s in levels]
    if discrete and not math.isfinite(process.at(len(process.alphas_cumprod) - 1).ratio):  # type: ignore[attr-defined]
        nodes[0] = _pure_noise_if_last(process, nodes[0])
    clean = process.at_sigma(0.0) if isinstance(process, Flow) else CLEAN  # some flows tell their time backwards
    final = clean if options.final_sigma == "zero" else process.at_sigma(low)
    return Grid((*nodes, final))


def _pure_noise_if_last(process: Process, node: Node) -> Node:
    last = len(process.alphas_cumprod) - 1  # type: ignore[attr-defined]
    return process.at(last) if node.ratio >= 4096 * (1 - 1e-9) else node


def _flow_sigmas(
    steps: int,
    options: GridOptions,
    low: float,
    high: float,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    mu: float | None,
) -> np.ndarray:
    """Sigmas of a flow run: base list, then shift, then stretch, then the sigma spacings over the resulting range."""
    if sigmas is not None:
        base = np.asarray(sigmas, dtype=np.float64)
    elif timesteps is not None:
        base = np.asarray(timesteps, dtype=np.float64) / options.training_steps
    elif options.spacing == "trailing":
        base = np.linspace(high, options.flow_end, steps + 1)[:-1]
    elif options.spacing == "leading":
        base = np.linspace(0, high, steps + 1)[:0:-1] if steps == 1 else np.linspace(high, high / (steps + 1), steps)
    else:
        # diffusers' flow-matching schedulers shift the smallest sigma once when built and once more for each run
        smallest = low if options.dynamic_shift else float(shift_sigmas(np.array([low]), options.shift)[0])
        base = np.linspace(high, smallest, steps) if steps > 1 else np.array([high])
    if base.min() <= 0 or base.max() > 1:
        raise ValueError("the sigmas of a flow run must lie in (0, 1]; the final one is added by itself")
    if options.dynamic_shift:
        assert mu is not None
        base = shift_sigmas_by_mu(base, mu, options.shift_type)
    else:
        base = shift_sigmas(base, options.shift)
    if options.shift_terminal and len(base) > 1:
        base = stretch_to_terminal(base, options.shift_terminal)
    if options.spacing in SPACINGS[3:] and sigmas is None and timesteps is None:
        base = _spaced_sigmas(options.spacing, float(base[-1]), float(base[0]), steps, options.rho, True)
    return np.minimum(base, 1.0)
