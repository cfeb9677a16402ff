"""Does the second-order term of STSL help on a shipped model? The same runs with it and without it.

Run with ``python -m fewstep.eval.stsl_ablation``. The pictures are drawn by the `garments` model with seeds of their
own, measured without noise, and restored by the same model without a prompt. Both runs of a pair have the same starts
and the same noise, and differ in `hessian_weight` alone. Compared are the decoded pictures, without the projection of
the data that usually follows. Evaluations are those of the network for one picture.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .results import write_results

TASKS = ("sr4", "inpaint", "gaussian-deblur")
PRESETS = ("paper", "default")

#: Of the second-order term: none, and the published one.
WEIGHTS = (0.0, 0.02)

#: Seeds of the pictures and of the mask; those of the runs begin at 0.
PICTURE_SEED, MASK_SEED = 700_000, 11
MISSING, BLUR_SIGMA, KERNEL_SIZE = 0.4, 1.5, 9


@dataclass(frozen=True)
class Restored:
    """One run.

    Attributes:
        psnr: in dB, (B,).
        residual: root mean square of y - A D(z), (B,).
        forward, backward: network evaluations a picture.
        seconds: of the processor, in one thread.
    """

    psnr: torch.Tensor
    residual: torch.Tensor
    forward: int
    backward: int
    seconds: float


def clean_pictures(pipe: Any, count: int) -> torch.Tensor:
    """Pictures that the model draws of captions over all garments, (count, 3, H, W) in [-1, 1], rounded to 8 bits."""
    import numpy as np

    from fewstep.pipelines import generate

    from .guidance import asked

    prompts, _ = asked(count)
    made = [
        generate(pipe, prompt, steps=25, guidance=3.0, seed=PICTURE_SEED + i).images[0]
        for i, prompt in enumerate(prompts)
    ]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in made]).float() / 127.5 - 1


def operator_of(task: str, size: tuple[int, int]) -> Any:
    """What is measured: a quarter of the size, 60 % of the pixels, a Gaussian blur."""
    from fewstep.pipelines.restoration.tasks import task_operator

    if task == "inpaint":
        known = torch.rand(size, generator=torch.Generator().manual_seed(MASK_SEED)) >= MISSING
        return task_operator(task, size, mask=known.float())
    if task == "gaussian-deblur":
        return task_operator(task, size, blur_sigma=BLUR_SIGMA, kernel_size=KERNEL_SIZE)
    return task_operator(task, size)


def restore(pipe: Any, x: torch.Tensor, task: str, method: Any, steps: int, seed: int = 0) -> Restored:
    """Measure pictures x and restore them, each with a generator of its own.

    Args:
        pipe: a `StableDiffusionRestorationPipeline`, whose networks are taken as they are, so that nothing is computed
            twice to save memory.
        x: (B, 3, H, W) in [-1, 1].
        task: one of `TASKS`.
        method: of latents.
        steps: noise levels.
        seed: of the first picture's run; the next has the next.
    """
    from fewstep.pipelines.restoration.coder import Coder, prompt_embeds
    from fewstep.pipelines.restoration.network import CountedNetwork
    from fewstep.pipelines.restoration.schedule import grid_of, process_of
    from fewstep.samplers import generators
    from fewstep.samplers.posterior import run_posterior

    for module in (pipe.unet, pipe.vae):
        module.eval().requires_grad_(False)
    coder, process = Coder(pipe.vae), process_of(pipe.scheduler)
    operator = operator_of(task, (x.shape[-2], x.shape[-1]))
    told = prompt_embeds(pipe.tokenizer, pipe.text_encoder, [""] * len(x), x.device)
    network = CountedNetwork(pipe.unet, len(x), told)
    began = time.process_time()
    result = run_posterior(
        network, method, process, grid_of(pipe.scheduler, process, steps), operator, operator.A(x),
        shape=(int(pipe.unet.config.in_channels), x.shape[-2] // coder.factor, x.shape[-1] // coder.factor),
        decode=coder.decode, encode=coder.encode, generator=generators(range(seed, seed + len(x))),
    )  # fmt: skip
    with torch.no_grad():
        error = (coder.decode(result.sample).clamp(-1, 1) - x).double().square().flatten(1).mean(1)
    return Restored(
        10 * torch.log10(4 / error), result.residual.double(), network.forward, network.backward,
        time.process_time() - began,
    )  # fmt: skip


def paired(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Mean of second - first, and its standard error."""
    apart = (second - first).double()
    return float(apart.mean()), float(apart.std() / len(apart) ** 0.5)


def cell(preset: str, task: str, runs: Sequence[Restored]) -> dict[str, Any]:
    """A row of results, from a run without the term and one with it."""
    without, within = runs
    better, error = paired(without.psnr, within.psnr)
    off, off_error = paired(without.residual, within.residual)
    return {
        "preset": preset,
        "task": task,
        "psnr_first": float(without.psnr.mean()),
        "psnr_second": float(within.psnr.mean()),
        "psnr_difference": better,
        "psnr_difference_error": error,
        "residual_first": float(without.residual.mean()),
        "residual_second": float(within.residual.mean()),
        "residual_difference": off,
        "residual_difference_error": off_error,
        "forward_first": without.forward,
        "forward_second": within.forward,
        "backward_first": without.backward,
        "backward_second": within.backward,
        "seconds_first": round(without.seconds, 1),
        "seconds_second": round(within.seconds, 1),
    }


def stsl_table(report: dict[str, Any]) -> str:
    """One row a preset and task: PSNR and residual without and with the term, paired differences, evaluations."""
    lines = [
        "| preset | task | PSNR, dB: η = 0 | η = 0.02 | difference | residual: η = 0 | η = 0.02 | difference "
        "| forward + backward: η = 0 | η = 0.02 |",
        "| --- |" + " --- |" * 9,
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['preset']} | {row['task']} | {row['psnr_first']:.2f} | {row['psnr_second']:.2f} "
            f"| {row['psnr_difference']:+.3f} ± {row['psnr_difference_error']:.3f} "
            f"| {row['residual_first']:.4f} | {row['residual_second']:.4f} "
            f"| {row['residual_difference']:+.4f} ± {row['residual_difference_error']:.4f} "
            f"| {row['forward_first']} + {row['backward_first']} | {row['forward_second']} + {row['backward_second']} |"
        )
    settings = report.get("settings", {})
    said = f"Noise levels: {settings['steps']}. " if "steps" in settings else ""
    return "\n".join(lines) + "\n\n" + said + verdict(report["rows"])


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What the paired differences say, two standard errors being what counts as one."""
    better = [r for r in rows if r["psnr_difference"] > 2 * r["psnr_difference_error"]]
    worse = [r for r in rows if r["psnr_difference"] < -2 * r["psnr_difference_error"]]
    said = [
        f"By more than two standard errors of the paired difference the term raises the PSNR in {len(better)} of "
        f"{len(rows)} rows and lowers it in {len(worse)}."
    ]
    for word, found in (("raised", better), ("lowered", worse)):
        if found:
            named = ", ".join(f"{r['preset']}, {r['task']} ({r['psnr_difference']:+.2f} dB)" for r in found)
            said.append(f"It is {word} in {named}.")
    return " ".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a cell, and write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.stsl_ablation", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=8, help="pictures, at least 2 (default 8)")
    parser.add_argument("--steps", type=int, default=20, help="noise levels (default 20; published: 50)")
    parser.add_argument("--data-weight", type=float, default=1.0, help="weight of the misfit (default 1)")
    parser.add_argument("--presets", default=",".join(PRESETS), help=f"of stsl (default {','.join(PRESETS)})")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"default {','.join(TASKS)}")
    parser.add_argument("--json", help="file for the rows")
    options = parser.parse_args(arguments)
    presets, tasks = options.presets.split(","), options.tasks.split(",")
    for kind, given, known in (("preset", presets, PRESETS), ("task", tasks, TASKS)):
        for name in given:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    if options.count < 2 or options.steps < 1:
        parser.error("at least 2 pictures and 1 step are needed")

    from fewstep.pipelines import load
    from fewstep.pipelines.restoration import StableDiffusionRestorationPipeline
    from fewstep.samplers.posterior import STSL

    torch.set_num_threads(1)
    drawn_by = load("garments")
    x = clean_pictures(drawn_by, options.count)
    pipe = StableDiffusionRestorationPipeline.from_pipe(drawn_by)
    pipe.set_progress_bar_config(disable=True)
    given = sys.argv[1:] if arguments is None else list(arguments)
    settings = {
        "model": "garments", "samples": options.count, "steps": options.steps, "weights": list(WEIGHTS),
        "data_weight": options.data_weight, "picture_seed": PICTURE_SEED, "mask_seed": MASK_SEED,
        "missing": MISSING, "blur_sigma": BLUR_SIGMA, "kernel_size": KERNEL_SIZE, "threads": 1,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for preset in presets:
        for task in tasks:
            runs = []
            for weight in WEIGHTS:
                method = STSL.preset(preset, hessian_weight=weight, data_weight=options.data_weight)
                runs.append(restore(pipe, x, task, method, options.steps))
            rows.append(cell(preset, task, runs))
            row = rows[-1]
            print(
                f"{preset:8s} {task:16s} PSNR {row['psnr_first']:.2f} -> {row['psnr_second']:.2f} dB, difference "
                f"{row['psnr_difference']:+.3f} +- {row['psnr_difference_error']:.3f}, "
                f"{row['seconds_first']:.0f} + {row['seconds_second']:.0f} s",
                flush=True,
            )
            if options.json:
                complete = len(rows) == len(presets) * len(tasks)
                command = " ".join(["python -m fewstep.eval.stsl_ablation", *given])
                write_results(options.json, command, {**settings, "complete": complete}, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
