"""Exact denoisers as problems of the benchmark: data whose law is known, with classes, so that there is guidance.

``oracle:NAME`` or ``oracle:NAME:PROCESS`` with PROCESS one of vp (the default, Stable Diffusion's betas), flow and edm:

* ``gaussian``: class N(0, diag(s^2)) with 16 scales s from 0.05 to 1 among all data N(0, I); stiff under guidance.
* ``mixture``: 8 classes of two Gaussians each, in 8 dimensions.
* ``finite``: 40 pictures that the shipped model drew, 4 of each garment; all there is to draw is these pictures. The
  last step lands on one of them, so the error is that of the samples that end on another picture, 0 where none does.

The guided prediction is p_all + g (p_class - p_all), at g <= 1 that of the class alone, as pipelines have it. All is
float64, on the host. The schedulers are driven by the loop that every pipeline has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewstep.samplers import EDM, Flow, Process, VPDiscrete, betas_of_schedule, noise, oracle
from fewstep.samplers.core.oracle import Oracle
from fewstep.samplers.core.registry import nearest

from .benchmark_problems import Problem, Sampled, Stopwatch, begin_memory, peak_memory, start_scale, versions
from .contenders import Contender

PROCESSES = ("vp", "flow", "edm")


class GuidedOracle(torch.nn.Module):
    """Classifier-free guidance on exact denoisers; one forward pass is one network call.

    Args:
        everything: denoiser of all data.
        classes: denoiser of each class.
    """

    def __init__(self, everything: Oracle, classes: Sequence[Oracle]) -> None:
        super().__init__()
        self.everything, self.classes = everything, list(classes)

    def forward(self, x: torch.Tensor, timestep: float, labels: Sequence[int], guidance: float) -> torch.Tensor:
        """Guided prediction for the network's input `x` (B, ...), sample b being of class labels[b]."""
        of_class = torch.empty_like(x)
        for label in sorted(set(labels)):
            rows = torch.tensor([row for row, other in enumerate(labels) if other == label])
            of_class[rows] = self.classes[label](x[rows], timestep)
        if guidance <= 1:
            return of_class
        of_all = self.everything(x, timestep)
        return of_all + guidance * (of_class - of_all)


def _gaussian(process: Process) -> tuple[GuidedOracle, tuple[int, ...]]:
    mean = torch.zeros(16, dtype=torch.float64)
    scales = torch.logspace(math.log10(0.05), 0, 16, dtype=torch.float64)
    return GuidedOracle(oracle.gaussian(process, mean, 1.0), [oracle.gaussian(process, mean, scales)]), (1, 4, 4)


def _classes(
    process: Process, means: torch.Tensor, scale: float, classes: int, shape: Sequence[int]
) -> tuple[GuidedOracle, tuple[int, ...]]:
    """Components (K, D), K / classes of each class, in turn."""
    members = [means[label::classes] for label in range(classes)]
    each = [oracle.mixture(process, some, scale) for some in members]
    return GuidedOracle(oracle.mixture(process, means, scale), each), tuple(shape)


def _mixture(process: Process) -> tuple[GuidedOracle, tuple[int, ...]]:
    means = 0.7 * torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(20))
    return _classes(process, means, 0.15, 8, (2, 2, 2))


def _finite(process: Process) -> tuple[GuidedOracle, tuple[int, ...]]:
    from .benchmark_problems import garments_problem

    model = garments_problem(device="cpu")
    latents = model.run(Contender("", "exponential-adams"), "logsnr", 3.0, 20, range(40)).latents
    pictures = model.pictures(latents).double()
    return _classes(process, pictures.flatten(1), 0.0, 10, pictures.shape[1:])


_KINDS = {"gaussian": _gaussian, "mixture": _mixture, "finite": _finite}


def _process(kind: str) -> tuple[Process, Any]:
    """The process and a scheduler of diffusers that is configured for it."""
    import diffusers

    betas: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    if kind == "flow":
        return Flow(), diffusers.FlowMatchEulerDiscreteScheduler()
    if kind == "edm":
        return EDM(), diffusers.EDMEulerScheduler()
    made = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    return made, diffusers.DDIMScheduler(**betas, clip_sample=False, timestep_spacing="linspace")


class OracleProblem(Problem):
    """An exact denoiser; sample i is of class i mod the number of classes."""

    fingerprint: Mapping[str, Any]

    def __init__(self, kind: str, process: str = "vp", seed: int = 0) -> None:
        self.name = f"oracle:{kind}" + ("" if process == "vp" else f":{process}")
        self.process, self.seed, self.device = process, int(seed), torch.device("cpu")
        forward, self.scheduler = _process(process)
        self.network, self.shape = _KINDS[kind](forward)
        means = self.network.everything.means
        self.fingerprint = {
            "oracle": kind,
            "process": process,
            "data": [len(means), round(float(means.sum()), 4), round(float(means.square().sum()), 4)],
            "seed": self.seed,
            "versions": versions(),
        }

    @torch.no_grad()
    def run(self, contender: Contender, grid: str | None, guidance: float, steps: int, items: range) -> Sampled:
        scheduler = self.make_scheduler(contender, grid, guidance)
        factor = start_scale(scheduler, self.process, steps)
        labels = [i % len(self.network.classes) for i in items]
        begin_memory(self.device)
        watch = Stopwatch()
        begin = time.perf_counter()
        scheduler.set_timesteps(steps)
        x = noise(self.shape, [self.seed + i for i in items], dtype=torch.float64)
        x = x * (factor * float(scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else 1.0))
        with watch.watching([self.network], scheduler):
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                prediction = self.network(scaled.double(), float(t), labels, guidance)
                x = scheduler.step(prediction, t, x, return_dict=False)[0].double()
        seconds = time.perf_counter() - begin
        return Sampled(x, watch.calls, seconds, watch.step_microseconds, peak_memory(self.device))


def oracle_problem(name: str, seed: int = 0) -> OracleProblem:
    """The problem ``oracle:KIND`` or ``oracle:KIND:PROCESS``.

    Raises:
        ValueError: an unknown kind or process; the nearest is given.
    """
    words = name.removeprefix("oracle:").split(":")
    kind, process = words[0], words[1] if len(words) > 1 else "vp"
    if kind not in _KINDS or len(words) > 2:
        raise ValueError(
            f"unknown exact model {name!r}{nearest(kind, _KINDS)} Known are oracle: and {', '.join(_KINDS)}"
        )
    if process not in PROCESSES:
        raise ValueError(f"the process of an exact model is vp, flow or edm, got {process!r}")
    return OracleProblem(kind, process, seed)
