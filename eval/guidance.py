"""Ways of guidance on a shipped model: what a judge finds in the pictures, how saturated they are, what they cost.

Run with ``python -m fewstep.eval.guidance``. Every cell is the same prompts and seeds. Evaluations are those of the
network for one picture: a guided step is two, a step of the conditional prediction alone is one. Saturation is the mean
of max - min over the colours of a pixel, 0 to 1, and its error the mean absolute difference to what the same prompts
have in many unguided steps, picture by picture: the colours of the model's own distribution.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .results import write_results

#: The rival of every way of guidance under a strong scale: plain guidance with a sampler that damps.
DAMPED = "CFG, heavy ball auto"

#: Label -> arguments of `set_guidance`.
Modes = dict[str, dict[str, Any]]


def modes(intervals: Sequence[str]) -> Modes:
    """The ways that are compared, by label."""
    found: Modes = {
        "CFG": {"mode": "cfg"},
        "CFG-Zero*": {"mode": "cfg-zero"},
        "CFG-Zero*, zero-init 1": {"mode": "cfg-zero", "zero_init_steps": 1},
    }
    found |= {f"CFG in {text}": {"mode": "cfg", "interval": text} for text in intervals}
    found |= {f"CFG-Zero* in {text}": {"mode": "cfg-zero", "interval": text} for text in intervals[-1:]}
    return found | {DAMPED: {"mode": "cfg"}}


def asked(count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Prompts of the garments model and the answers that a judge should give, question by question."""
    from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, canonical_caption

    labels = [(i % len(GARMENTS), (3 * i) % len(COLOURS), i // 2 % len(BACKGROUNDS)) for i in range(count)]
    prompts = [canonical_caption(*label) for label in labels]
    garments, colours, backgrounds = zip(*labels, strict=True)
    return prompts, {"garment": list(garments), "colour": list(colours), "background": list(backgrounds)}


def saturation(pictures: np.ndarray) -> np.ndarray:
    """Mean of max - min over the channels: (B, H, W, 3) uint8 -> (B,), 0 (grey) to 1."""
    values = pictures.astype(np.float64) / 255
    return (values.max(-1) - values.min(-1)).mean((1, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a cell, and write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.guidance", description=__doc__.split("\n")[0])
    parser.add_argument("--guidance", default="3,7.5", help="guidance scales (default 3,7.5)")
    parser.add_argument("--steps", default="8,20", help="numbers of steps (default 8,20)")
    parser.add_argument("--intervals", default="0.4,4;4,inf", help="noise levels with guidance (default 0.4,4;4,inf)")
    parser.add_argument("--count", type=int, default=100, help="pictures a cell (default 100)")
    parser.add_argument("--reference-steps", type=int, default=20, help="of the unguided pictures (default 20)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(arguments)

    import torch

    from fewstep.pipelines import generate, load, set_guidance, set_sampler
    from fewstep.samplers import GuidanceInterval

    from .judge import Judge

    try:
        scales = [float(scale) for scale in options.guidance.split(",")]
        steps = [int(number) for number in options.steps.split(",")]
        intervals = options.intervals.split(";") if options.intervals else []
        for text in intervals:
            GuidanceInterval.parse(text)
    except ValueError as error:
        parser.error(str(error))
    if options.count < 1 or options.reference_steps < 1:
        parser.error("--count and --reference-steps are at least 1")
    pipe: Any = load("garments")
    judge = Judge.from_pretrained(_judge_folder())
    prompts, right = asked(options.count)

    def pictures(number: int, scale: float) -> tuple[np.ndarray, Any]:
        made = generate(pipe, prompts, steps=number, guidance=scale)
        return np.stack([np.asarray(image) for image in made.images]), made

    reference = saturation(pictures(options.reference_steps, 1.0)[0])
    rows = []
    for scale in scales:
        for number in steps:
            for label, settings in modes(intervals).items():
                set_guidance(pipe, **settings)
                if label == DAMPED:
                    set_sampler(pipe, "heavy-ball", base="exponential-adams", damping="auto")
                else:
                    set_sampler(pipe, "exponential-adams")
                drawn, made = pictures(number, scale)
                answers = judge.answers(torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1)
                found = saturation(drawn)
                row: dict[str, Any] = {"guidance": scale, "steps": number, "way": label}
                for question, wanted in right.items():
                    share = (answers[question] == torch.tensor(wanted)).float().mean()
                    row[question] = round(float(share), 4)
                row["all"] = round(
                    float(torch.stack([answers[q] == torch.tensor(w) for q, w in right.items()]).all(0).float().mean()),
                    4,
                )
                row["saturation"] = round(float(found.mean()), 4)
                row["saturation_error"] = round(float(abs(found - reference).mean()), 4)
                row["evaluations"] = round((2 * made.calls - made.halved) / len(made.batches), 2)
                row["seconds"] = round(made.seconds, 3)
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if options.json:
        words = ["python -m fewstep.eval.guidance", *(sys.argv[1:] if arguments is None else arguments)]
        common: dict[str, Any] = {
            "model": "garments",
            "sampler": "exponential-adams 2, or heavy-ball auto on it",
            "grid": "trailing",
        }
        common |= {"samples": options.count, "seeds": [0, options.count - 1], "intervals": intervals}
        common |= {"reference": f"unguided, {options.reference_steps} steps"}
        common |= {"reference_saturation": round(float(reference.mean()), 4)}
        write_results(options.json, " ".join(words), common, rows)
    return 0


def _judge_folder() -> str:
    from pathlib import Path

    import fewstep.assets

    return str(Path(fewstep.assets.__file__).parent / "models" / "garments-judge")


if __name__ == "__main__":
    raise SystemExit(main())
