"""The forward process: how data turns into noise, and what the network predicts of it.

Every process here has Gaussian marginals ``x = alpha * x0 + sigma * eps``. A `Node` is one noise level of it, with the
number that the network is told there. All arithmetic is float64 on the host; tensors meet only the resulting floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


@dataclass(frozen=True)
class Node:
    """One noise level: ``x = alpha * x0 + sigma * eps``, and the `timestep` that the network is told."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise-to-signal ratio sigma / alpha (the sigma of k-diffusion); infinite where no signal is left."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def lambda_(self) -> float:
        """Half log-SNR, log(alpha / sigma); -inf at pure noise, +inf at clean data."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha) - math.log(self.sigma) if self.alpha > 0 else -math.inf


@dataclass(frozen=True)
class Linear:
    """A quantity that is linear in the sample and the network's output: ``x * of_sample + output * of_output``."""

    of_sample: float
    of_output: float

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.of_sample + other.of_sample, self.of_output + other.of_output)

    def __rmul__(self, factor: float) -> Linear:
        return Linear(factor * self.of_sample, factor * self.of_output)


@runtime_checkable
class Process(Protocol):
    """What a method, a grid or a pipeline may ask of a forward process."""

    @property
    def prediction(self) -> str:
        """What the network's output is, a name of `_Conversions`'s table or an EDM preconditioning."""
        ...

    #: dx/dtau is ``eps - slope_mix * x0`` for tau = sigma / (alpha + slope_mix * sigma): 0 for VP and EDM, 1 for flow.
    slope_mix: ClassVar[float]

    def at(self, timestep: float) -> Node:
        """The noise level at which the network is told `timestep`."""
        ...

    def at_sigma(self, sigma: float) -> Node:
        """The noise level with this sigma, in units of the process: sigma / alpha for VP, sigma for flow and EDM."""
        ...

    def sigma_of(self, node: Node) -> float:
        """The sigma of a node in the units of the process; `at_sigma` undoes it."""
        ...

    def input_scale(self, node: Node) -> float:
        """Factor on the sample before it enters the network (1 but for EDM preconditioning)."""
        ...

    def x0(self, node: Node) -> Linear: ...

    def eps(self, node: Node) -> Linear: ...


class _Conversions:
    """Conversions between what a network predicts and x0, eps; `alpha` and `sigma` as functions of the timestep.

    ==================  =======================  ==================================  ==================================
    prediction          the network's output p   x0                                  eps
    ==================  =======================  ==================================  ==================================
    epsilon             eps                      (x - sigma p) / alpha               p
    sample              x0                       p                                   (x - alpha p) / sigma
    v_prediction        alpha eps - sigma x0     (alpha x - sigma p) / d             (sigma x + alpha p) / d
    flow_prediction     eps - x0                 (x - sigma p) / (alpha + sigma)     (x + alpha p) / (alpha + sigma)
    reversed_flow       x0 - eps                 (x + sigma p) / (alpha + sigma)     (x - alpha p) / (alpha + sigma)
    ==================  =======================  ==================================  ==================================

    with d = alpha^2 + sigma^2 (1 for a VP process). Sources: Ho et al. 2020 (arXiv 2006.11239), Salimans and Ho 2022
    (arXiv 2202.00512), Lipman et al. 2023 (arXiv 2210.02747).
    """

    prediction: str
    slope_mix: ClassVar[float] = 0.0

    def _check_prediction(self, allowed: Sequence[str] = PREDICTIONS) -> None:
        if self.prediction not in allowed:
            raise ValueError(f"prediction must be one of {', '.join(allowed)}, got {self.prediction!r}")

    def at(self, timestep: float) -> Node:
        raise NotImplementedError

    def alpha(self, timestep: float) -> float:
        """Signal scale at a timestep."""
        return self.at(timestep).alpha

    def sigma(self, timestep: float) -> float:
        """Noise scale at a timestep."""
        return self.at(timestep).sigma

    def sigma_of(self, node: Node) -> float:
        return node.ratio

    def input_scale(self, node: Node) -> float:
        return 1.0

    def x0(self, node: Node) -> Linear:
        a, s = node.alpha, node.sigma
        if self.prediction == "epsilon":
            if a == 0:
                raise ValueError(
                    "a network that predicts epsilon says nothing about the data where no signal is left "
                    "(zero terminal SNR); use v_prediction, or a schedule whose last alpha is above 0"
                )
            return Linear(1 / a, -s / a)
        if self.prediction == "sample":
            return Linear(0.0, 1.0)
        if self.prediction == "v_prediction":
            d = a * a + s * s
            return Linear(a / d, -s / d)
        sign = -1 if self.prediction == "reversed_flow" else 1
        return Linear(1 / (a + s), -sign * s / (a + s))

    def eps(self, node: Node) -> Linear:
        a, s = node.alpha, node.sigma
        if self.prediction == "epsilon":
            return Linear(0.0, 1.0)
        if self.prediction == "sample":
            return Linear(1 / s, -a / s)
        if self.prediction == "v_prediction":
            d = a * a + s * s
            return Linear(s / d, a / d)
        sign = -1 if self.prediction == "reversed_flow" else 1
        return Linear(1 / (a + s), sign * a / (a + s))


def betas_of_schedule(
    name: str,
    count: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    trained: Sequence[float] | None = None,
) -> np.ndarray:
    """Variances beta_t of one training step, shape (count,), float64.

    The schedules of diffusers 0.42.1: ``linear``, ``scaled_linear`` (linear in the square root), ``squaredcos_cap_v2``
    (Nichol and Dhariwal 2021), ``laplace``, ``exp``, ``sigmoid``; or `trained`, a list of one's own.
    """
    if trained is not None:
        betas = np.asarray(trained, dtype=np.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise ValueError("trained betas must be a list of at least two numbers")
    elif count < 2:
        raise ValueError(f"the number of training timesteps must be at least 2, got {count}")
    elif name == "linear":
        betas = np.linspace(beta_start, beta_end, count)
    elif name == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, count) ** 2
    elif name in ("squaredcos_cap_v2", "exp", "laplace"):
        t = np.arange(count + 1) / count
        if name == "squaredcos_cap_v2":
            bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        elif name == "exp":
            bar = np.exp(-12.0 * t)
        else:
            lambda_ = -0.5 * np.sign(0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6)
            snr = np.exp(lambda_)
            bar = np.sqrt(snr / (1 + snr))
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
        if name == "laplace":
            betas = np.maximum(betas, 1e-8)
    elif name == "sigmoid":
        betas = 1 / (1 + np.exp(-np.linspace(-6, 6, count))) * (beta_end - beta_start) + beta_start
    else:
        raise ValueError(
            f"unknown beta schedule {name!r}; known are linear, scaled_linear, squaredcos_cap_v2, exp, laplace, sigmoid"
        )
    if not (np.isfinite(betas).all() and (betas >= 0).all() and (betas <= 1).all() and betas.any()):
        raise ValueError("the betas of a schedule must lie in [0, 1] and not all be 0")
    return betas


def rescale_to_zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alpha-bar): the last becomes 0, the first stays (Lin et al. 2023, arXiv 2305.08891)."""
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@dataclass(frozen=True, eq=False)
class VPDiscrete(_Conversions):
    """Variance-preserving process on training timesteps 0 .. T-1: alpha = sqrt(alpha-bar), sigma = sqrt(1 - alpha-bar).

    Between two training timesteps log(sigma / alpha) is interpolated linearly, so `at` and `at_sigma` undo each other.

    Args:
        alphas_cumprod: alpha-bar of every training timestep, strictly decreasing, in (0, 1); the last may be 0.
        prediction: one of `PREDICTIONS`.
    """

    alphas_cumprod: tuple[float, ...]
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        self._check_prediction()
        bar = np.asarray(self.alphas_cumprod, dtype=np.float64)
        if len(bar) < 2 or not np.isfinite(bar).all() or (np.diff(bar) > 0).any() or bar[0] >= 1 or bar[-1] < 0:
            raise ValueError("alphas_cumprod must decrease from below 1 to 0 or above and have at least two entries")

    @classmethod
    def from_betas(cls, betas: np.ndarray, prediction: str = "epsilon", zero_terminal_snr: bool = False) -> VPDiscrete:
        """Process of a list of betas; with `zero_terminal_snr` rescaled so that the last timestep is pure noise.

        A network that predicts epsilon cannot be used at pure noise; for it the last alpha-bar is 2^-24, as in
        diffusers, or half of the one before it, should that be smaller.
        """
        bar = np.cumprod(1 - betas)
        if zero_terminal_snr:
            bar = rescale_to_zero_terminal_snr(bar)
            bar[-1] = min(2.0**-24, bar[-2] / 2) if prediction == "epsilon" else 0.0
        return cls(tuple(bar.tolist()), prediction)

    @cached_property
    def _log_ratio(self) -> np.ndarray:
        bar = np.asarray(self.alphas_cumprod)
        with np.errstate(divide="ignore"):
            return 0.5 * (np.log1p(-bar) - np.log(bar))

    def _node(self, timestep: float, log_ratio: float) -> Node:
        if math.isinf(log_ratio):
            return Node(timestep, 0.0, 1.0) if log_ratio > 0 else Node(timestep, 1.0, 0.0)
        ratio = math.exp(log_ratio)
        alpha = 1 / math.hypot(1.0, ratio)
        return Node(timestep, alpha, ratio * alpha)

    def at(self, timestep: float) -> Node:
        last = len(self.alphas_cumprod) - 1
        if not 0 <= timestep <= last:
            raise ValueError(f"timesteps of this process lie in [0, {last}], got {timestep:g}")
        low = min(int(timestep), last - 1)
        part = timestep - low
        table = self._log_ratio
        if part in (0.0, 1.0):
            bar = self.alphas_cumprod[low + int(part)]
            return Node(float(timestep), math.sqrt(bar), math.sqrt(1 - bar))
        return self._node(float(timestep), float((1 - part) * table[low] + part * table[low + 1]))

    def at_sigma(self, sigma: float) -> Node:
        if sigma < 0 or math.isnan(sigma):
            raise ValueError(f"sigma must not be negative, got {sigma:g}")
        log_ratio = math.log(sigma) if sigma > 0 else -math.inf
        finite = np.isfinite(self._log_ratio)
        timestep = float(np.interp(log_ratio, self._log_ratio[finite], np.arange(len(finite))[finite]))
        if math.isinf(sigma):
            timestep = float(len(finite) - 1)
        return self._node(timestep, log_ratio)


@dataclass(frozen=True)
class VPContinuous(_Conversions):
    """Variance-preserving process in continuous time t in [0, 1], told to the network as ``t * time_scale``.

    ``linear``: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2 (Song et al. 2021, arXiv 2011.13456);
    ``cosine``: alpha = cos(pi t / 2) (Salimans and Ho 2022, arXiv 2202.00512).
    """

    schedule: str = "linear"
    beta_min: float = 0.1
    beta_max: float = 20.0
    time_scale: float = 1000.0
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        self._check_prediction()
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"the schedule of a continuous VP process is linear or cosine, got {self.schedule!r}")
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max <= 0:
            raise ValueError("a continuous VP process needs 0 <= beta_min <= beta_max and beta_max > 0")

    def at(self, timestep: float) -> Node:
        t = timestep / self.time_scale
        if not 0 <= t <= 1:
            raise ValueError(f"timesteps of this process lie in [0, {self.time_scale:g}], got {timestep:g}")
        if self.schedule == "cosine":
            return Node(timestep, math.cos(math.pi * t / 2) if t < 1 else 0.0, math.sin(math.pi * t / 2))
        log_alpha = -t * t * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2
        return Node(timestep, math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)))

    def at_sigma(self, sigma: float) -> Node:
        if sigma < 0 or math.isnan(sigma):
            raise ValueError(f"sigma must not be negative, got {sigma:g}")
        if self.schedule == "cosine":
            t = 2 / math.pi * math.atan(sigma)
        else:
            square = math.log1p(sigma * sigma)  # -2 log alpha
            b, a = self.beta_min, (self.beta_max - self.beta_min) / 2
            t = 2 * square / (b + math.sqrt(b * b + 4 * a * square)) if square > 0 else 0.0
        alpha = 1 / math.hypot(1.0, sigma)
        noise = 1.0 if math.isinf(sigma) else sigma * alpha
        return Node(min(t, 1.0) * self.time_scale, alpha, noise)


@dataclass(frozen=True)
class Flow(_Conversions):
    """Rectified flow: x = (1 - sigma) x0 + sigma eps, sigma in [0, 1], told to the network as ``sigma * time_scale``.

    With the prediction ``reversed_flow`` time runs the other way (Mochi; diffusers' invert_sigmas): the network is told
    ``(1 - sigma) * time_scale`` and predicts x0 - eps.

    Reference: Liu, Gong, Liu 2023 (arXiv 2209.03003); Lipman et al. 2023 (arXiv 2210.02747).
    """

    prediction: str = "flow_prediction"
    time_scale: float = 1000.0
    slope_mix: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        self._check_prediction((*PREDICTIONS, "reversed_flow"))

    @property
    def backwards(self) -> bool:
        """Whether the network's time is 1 - sigma."""
        return self.prediction == "reversed_flow"

    def at(self, timestep: float) -> Node:
        time = timestep / self.time_scale
        return self.at_sigma(1 - time if self.backwards else time)

    def at_sigma(self, sigma: float) -> Node:
        if not 0 <= sigma <= 1:
            raise ValueError(f"sigma of a flow process lies in [0, 1], got {sigma:g}")
        time = 1 - sigma if self.backwards else sigma
        return Node(time * self.time_scale, 1 - sigma, float(sigma))

    def sigma_of(self, node: Node) -> float:
        return node.sigma


@dataclass(frozen=True)
class EDM(_Conversions):
    """Variance-exploding process of Karras et al.: x = x0 + sigma eps, told to the network as log(sigma) / 4.

    With ``prediction="edm"`` the output F is preconditioned, x0 = c_skip x + c_out F and the input is c_in x, with
    c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2), c_in = 1 / sqrt(sigma^2 + sd^2);
    ``"edm_v"`` has -c_out, as diffusers' EDM schedulers with v-prediction. The other predictions take x as it is.

    Reference: Karras, Aittala, Aila, Laine 2022 (arXiv 2206.00364).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    prediction: str = "edm"

    def __post_init__(self) -> None:
        self._check_prediction((*PREDICTIONS, "edm", "edm_v"))
        if not 0 < self.sigma_min < self.sigma_max or self.sigma_data <= 0:
            raise ValueError("an EDM process needs 0 < sigma_min < sigma_max and sigma_data > 0")

    def at(self, timestep: float) -> Node:
        return Node(timestep, 1.0, math.exp(4 * timestep))

    def at_sigma(self, sigma: float) -> Node:
        if sigma < 0 or not math.isfinite(sigma):
            raise ValueError(f"sigma of an EDM process is finite and not negative, got {sigma:g}")
        return Node(0.25 * math.log(sigma) if sigma > 0 else -math.inf, 1.0, float(sigma))

    @property
    def _preconditioned(self) -> bool:
        return self.prediction in ("edm", "edm_v")

    def input_scale(self, node: Node) -> float:
        return 1 / math.hypot(node.sigma, self.sigma_data) if self._preconditioned else 1.0

    def x0(self, node: Node) -> Linear:
        if not self._preconditioned:
            return super().x0(node)
        s, d = node.sigma, self.sigma_data
        out = s * d / math.hypot(s, d) * (1 if self.prediction == "edm" else -1)
        return Linear(d * d / (s * s + d * d), out)

    def eps(self, node: Node) -> Linear:
        if not self._preconditioned:
            return super().eps(node)
        x0 = self.x0(node)
        return Linear((1 - x0.of_sample) / node.sigma, -x0.of_output / node.sigma)


def field_of(process: Process, kind: str, node: Node) -> Linear:
    """What a method extrapolates, as a linear form: ``"x0"``, ``"eps"`` or ``"slope"`` = eps - slope_mix * x0."""
    if kind == "x0":
        return process.x0(node)
    if kind == "eps" or process.slope_mix == 0:
        return process.eps(node)
    if process.prediction == "flow_prediction" and process.slope_mix == 1:
        return Linear(0.0, 1.0)
    return process.eps(node) + (-process.slope_mix) * process.x0(node)


def slope_coordinate(process: Process, node: Node) -> tuple[float, float]:
    """(scale, tau) of a node: x / scale obeys d(.)/dtau = slope. VP, EDM: (alpha, sigma / alpha); flow: (1, sigma)."""
    scale = node.alpha + process.slope_mix * node.sigma
    return scale, node.sigma / scale if scale > 0 else math.inf


def ddim(process: Process, node: Node, to: Node) -> Linear:
    """One first-order step ``alpha' x0 + sigma' eps`` (Song, Meng, Ermon 2021, arXiv 2010.02502; eta = 0).

    All methods of this package are this step plus a combination of differences of network outputs.
    """
    if to.sigma == 0:
        return to.alpha * process.x0(node)
    if process.prediction == "flow_prediction" and process.slope_mix == 1:
        return Linear(1.0, to.sigma - node.sigma)  # alpha + sigma = 1 at both ends: no rounding of the sum
    return to.alpha * process.x0(node) + to.sigma * process.eps(node)
