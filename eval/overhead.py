"""What a scheduler costs beside the network: microseconds of one `step()`, ours against diffusers' own, in one run.

Run with ``python -m fewstep.eval.overhead``. Every scheduler takes whole runs of 20 steps on random tensors; the runs
of all schedulers are interleaved, so that a busy machine slows them alike, and the median step is reported. The first
steps of a run are left out, where multistep methods still do less, and so is making the plan, which is once a run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from .results import write_results

SHAPES = ((1, 4, 64, 64), (1, 16, 128, 128))
STEPS = 20


def _schedulers() -> dict[str, Callable[[], Any]]:
    import diffusers

    from fewstep import samplers

    config: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return {
        "diffusers Euler": lambda: diffusers.EulerDiscreteScheduler(**config),
        "diffusers DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**config),
        "diffusers DPM++ 3M": lambda: diffusers.DPMSolverMultistepScheduler(**config, solver_order=3),
        "diffusers UniPC 2": lambda: diffusers.UniPCMultistepScheduler(**config),
        "exponential-adams 2": lambda: samplers.ExponentialAdamsScheduler(**config, order=2),
        "exponential-adams 3": lambda: samplers.ExponentialAdamsScheduler(**config, order=3),
        "adams-bashforth 1": lambda: samplers.AdamsBashforthScheduler(**config, order=1),
        "adams-bashforth 3": lambda: samplers.AdamsBashforthScheduler(**config, order=3),
        "adams-bashforth 4": lambda: samplers.AdamsBashforthScheduler(**config, order=4),
        "ghvb 2.5": lambda: samplers.GHVBScheduler(**config, momentum=2.5),
        "heavy-ball 2": lambda: samplers.HeavyBallScheduler(**config, order=2),
        "nesterov 2": lambda: samplers.NesterovScheduler(**config, order=2),
        "lml": lambda: samplers.LMLScheduler(**config),
    }


def step_times(shape: Sequence[int], repeats: int = 30) -> dict[str, float]:
    """Median microseconds of one step for each scheduler, on the shape (B, C, H, W), float32, host."""
    import torch

    made = {name: make() for name, make in _schedulers().items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(tuple(shape), generator=generator) for _ in range(STEPS)]
    for repeat in range(repeats + 2):
        for name, scheduler in made.items():
            scheduler.set_timesteps(STEPS)
            x = outputs[0]
            for i, t in enumerate(scheduler.timesteps):
                scheduler.scale_model_input(x, t)  # once a call in every pipeline; timed for none
                begin = time.perf_counter()
                x = scheduler.step(outputs[i], t, x, return_dict=False)[0]
                if repeat >= 2 and i >= 4:
                    times[name].append(1e6 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="runs of 20 steps a scheduler (default 30)")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write settings and rows to this file")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads must be at least 1")

    import torch

    torch.set_num_threads(options.threads)
    rows = []
    for shape in SHAPES:
        medians = step_times(shape, options.repeats)
        reference = medians["diffusers DPM++ 2M"]
        print(f"\n{'x'.join(map(str, shape))}, median microseconds of one step")
        for name, value in medians.items():
            print(f"  {name:22s} {value:9.1f}   {value / reference:5.2f} x DPM++ 2M")
            row = {"scheduler": name, "shape": list(shape), "microseconds": round(value, 2)}
            rows.append({**row, "ratio": round(value / reference, 4)})
    if options.json:
        words = ["python -m fewstep.eval.overhead", *(sys.argv[1:] if arguments is None else arguments)]
        settings = {"steps": STEPS, "repeats": options.repeats, "threads": options.threads}
        write_results(options.json, " ".join(words), settings, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
