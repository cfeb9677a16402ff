"""Momentum by stability against fixed momentum: solver errors under guidance, where the exact answer is known.

Run with ``python -m fewstep.eval.momentum``. The problem is Gaussian data under classifier-free guidance g, one
coordinate for each of 16 scales s, whose guided ODE

    dx_bar/dsigma_bar = x_bar sigma_bar [(1 - g) / (1 + sigma_bar^2) + g / (s^2 + sigma_bar^2)]

has a closed-form solution and becomes stiff as g grows: it is where samplers diverge under strong guidance. The grid is
the default one of the schedulers (Stable Diffusion's betas, ``linspace``, to clean data), whole timesteps: on exactly
equal steps in time an instability may never be seeded, and a method look better than it is. The exact answer has a
root mean square of about 0.25: an error well above it is a divergence. With ``--model NAME`` the error is measured on
a pipeline instead, as the distance of the final latents to those of 250 steps of second-order exponential Adams from
the same noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from fewstep.samplers import (
    GHVB,
    AdamsBashforth,
    ExponentialAdams,
    HeavyBall,
    Method,
    VPDiscrete,
    betas_of_schedule,
    make_grid,
    run,
    scheduler_class,
)

from .results import write_results


def contenders(guidance: float) -> dict[str, Method]:
    """The methods that are compared, by label."""
    exponential: dict[str, Any] = {"base": "exponential-adams", "order": 2}
    return {
        "DDIM": AdamsBashforth(order=1),
        "Adams-Bashforth 2": AdamsBashforth(order=2),
        "Adams-Bashforth 4": AdamsBashforth(order=4),
        "DPM++ 2M": ExponentialAdams(order=2),
        "GHVB 1.5": GHVB(momentum=1.5),
        "GHVB 2.5": GHVB(momentum=2.5),
        "GHVB 3.5": GHVB(momentum=3.5),
        "GHVB auto": GHVB(momentum="auto", guidance_scale=guidance),
        "heavy ball 0.8 on AB 2": HeavyBall(order=2, damping=0.8),
        "heavy ball auto on AB 2": HeavyBall(order=2, damping="auto", guidance_scale=guidance),
        "heavy ball 0.8 on DPM++ 2M": HeavyBall(damping=0.8, **exponential),
        "heavy ball auto on DPM++ 2M": HeavyBall(damping="auto", guidance_scale=guidance, **exponential),
    }


def gaussian_error(method: Method, guidance: float, steps: int) -> float:
    """Root mean square error of 64 samples of the guided Gaussian, at clean data."""
    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    grid = make_grid(process, steps)
    scales = torch.from_numpy(np.geomspace(0.05, 1.0, 16))
    first = grid.nodes[0]

    def growth(ratio: float) -> torch.Tensor:
        return (1 + ratio**2) ** ((1 - guidance) / 2) * (scales**2 + ratio**2) ** (guidance / 2)

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        node = process.at(timestep)
        r = node.ratio
        return x / node.alpha * r * ((1 - guidance) / (1 + r * r) + guidance / (scales**2 + r * r))

    z = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = z * first.ratio
    end = run(network, method, process, grid, start * first.alpha).sample
    return float((end - start * growth(0.0) / growth(first.ratio)).square().mean().sqrt())


class PipelineError:
    """Distance of a pipeline's final latents to a converged run, from the same noise and prompts."""

    def __init__(self, model: str, prompts: Sequence[str], reference_steps: int = 250) -> None:
        from fewstep.pipelines import load

        self.pipe = cast(Any, load(model))
        self.config = self.pipe.scheduler.config
        self.prompts = list(prompts)
        self.pipe.set_progress_bar_config(disable=True)
        self.reference_steps = reference_steps
        self._references: dict[float, torch.Tensor] = {}

    def latents(self, method: Method, guidance: float, steps: int) -> torch.Tensor:
        """Final latents (len(prompts), C, h, w)."""
        self.pipe.scheduler = scheduler_class(method).from_config(self.config, **dataclasses.asdict(method))
        generators = [torch.Generator().manual_seed(i) for i in range(len(self.prompts))]
        result = self.pipe(
            self.prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="latent",
        )
        return result.images

    def __call__(self, method: Method, guidance: float, steps: int) -> float:
        if guidance not in self._references:
            self._references[guidance] = self.latents(ExponentialAdams(order=2), guidance, self.reference_steps)
        off = self.latents(method, guidance, steps) - self._references[guidance]
        return float(off.square().mean().sqrt())


def prompts_for_garments(count: int) -> list[str]:
    """Captions of the shipped model, colours and garments in turn."""
    from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, caption

    labels = [(i % len(GARMENTS), (i * 3) % len(COLOURS), i % len(BACKGROUNDS)) for i in range(count)]
    return [caption(g, c, b) for g, c, b in labels]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table a guidance scale, and write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.momentum", description=__doc__.split("\n")[0])
    parser.add_argument("--guidance", default="3,7.5,15", help="guidance scales (default 3,7.5,15)")
    parser.add_argument("--steps", default="8,10,15,20,30", help="numbers of steps (default 8,10,15,20,30)")
    parser.add_argument("--model", help="measure on this shipped model instead of the closed-form problem")
    parser.add_argument("--count", type=int, default=40, help="pictures on a model (default 40)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(arguments)
    error = PipelineError(options.model, prompts_for_garments(options.count)) if options.model else gaussian_error
    try:
        steps = [int(n) for n in options.steps.split(",")]
        scales = [float(g) for g in options.guidance.split(",")]
    except ValueError:
        parser.error("--steps and --guidance are lists of numbers, such as 8,10,15")
    rows = []
    for guidance in scales:
        print(f"\nguidance {guidance:g}, rms error{'':12s}" + "".join(f"{n:>10d}" for n in steps))
        for label, method in contenders(guidance).items():
            errors = [error(method, guidance, n) for n in steps]
            print(f"  {label:32s}" + "".join(f"{e:10.3g}" for e in errors))
            fields = {"sampler": method.name, **dataclasses.asdict(method), "guidance": guidance}
            rows += [
                {"method": label, **fields, "nfe": n, "rmse": float(f"{e:.5g}")}
                for n, e in zip(steps, errors, strict=True)
            ]
    if options.json:
        words = ["python -m fewstep.eval.momentum", *(sys.argv[1:] if arguments is None else arguments)]
        settings: dict[str, Any] = {"problem": options.model or "guided Gaussian", "grid": "linspace"}
        settings |= {"samples": 64, "seed": 0, "reference": "closed form"}
        if isinstance(error, PipelineError):
            settings |= {"samples": options.count, "seeds": [0, options.count - 1]}
            settings["grid"] = error.config.timestep_spacing
            settings["reference"] = f"exponential-adams 2, {error.reference_steps} steps"
        write_results(options.json, " ".join(words), settings, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
