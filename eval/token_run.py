"""``fewstep benchmark --task tokens``: samplers of pictures made of tokens, at equal numbers of network calls.

Every sampler draws the same captions in the real `AmusedPipeline`. Columns of a row: FID and KID (features of the
garments judge, of all pictures together), the share of pictures in which the judge finds what was asked for, and the
standard deviation of each over the seeds as ``..._spread`` (of FID and KID that of the seeds' own, which have fewer
pictures each and so a larger bias and spread). ``calls`` are counted by a hook on the network; the two predictions of
guidance are one call, in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .benchmark_cells import Arrays, Cell
from .benchmark_metrics import distances_to_data, number
from .task_options import TaskOptions, finite, option
from .task_run import Planned, Row, Task, item_seeds, over_seeds, split_by_seed, versions_of_tokens

#: The judges of shipped models.
JUDGES = {"garments-tokens": "garments"}
QUESTIONS = ("garment", "colour", "background")
ACCURACIES = tuple(f"{question}_accuracy" for question in QUESTIONS)


@dataclass(frozen=True)
class TokenOptions(TaskOptions):
    """What a comparison of samplers of token pictures measures; what is not here is in `TaskOptions`.

    Attributes:
        judge: ``garments``: captions, judge and statistics of the garments data. By default that of a shipped model.
        guidance: guidance scales; 1 is without.
        save_pictures: keep the pictures as PNG files below ``out/pictures``.
    """

    task: ClassVar[str] = "tokens"

    model: str = option("garments-tokens", "an AmusedPipeline: shipped, a folder, or a name on the hub")
    nfe: tuple[int, ...] = option((4, 8, 16), "numbers of network calls")
    guidance: tuple[float, ...] = option((3.0,), "guidance scales")
    count: int = option(64, "pictures a seed")
    batch: int = option(64, "pictures at once")
    judge: str | None = option(None, "garments, for a model of yours that draws them")
    save_pictures: bool = option(False, "keep the pictures below OUT/pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.guidance:
            raise ValueError("name at least one guidance scale")
        for guidance in self.guidance:
            finite("guidance", guidance, 0)
        if self.judge not in (None, "garments"):
            raise ValueError(f"the judge of token pictures is garments, got {self.judge!r}")
        if self.judge is None and self.model not in JUDGES:
            raise ValueError(
                f"the model {self.model!r} brings no judge of its own; if it draws garments from their captions, say "
                "--judge garments"
            )


class TokenTask(Task):
    """The comparison of samplers of token pictures.

    Raises:
        ValueError, FileNotFoundError: a model or samplers that are not there or do not fit.
    """

    name = "tokens"
    columns = (
        *(f"{c}{s}" for c in ("fid", "kid", *ACCURACIES) for s in ("", "_spread")), "calls", "seconds",
        "scheduler_microseconds",
    )  # fmt: skip

    def __init__(self, options: TokenOptions) -> None:
        from fewstep.pipelines.loading import torch_device

        from .token_contenders import select
        from .token_problem import TokenProblem

        self.options: TokenOptions = options
        self.contenders = select(options.samplers, "masked", "pictures")
        self.notes = []
        dtype = None if options.dtype is None else getattr(torch, options.dtype)
        self.problem = TokenProblem.from_pretrained(options.model, torch_device(options.device), dtype)

    def plan(self) -> list[Planned]:
        options = self.options
        code = versions_of_tokens("token_problem", "token_run", "judge", "frechet", "kernel", "statistics")
        made = []
        for guidance in options.guidance:
            for nfe in options.nfe:
                for contender in self.contenders:
                    if contender.fewest > nfe:
                        continue
                    settings = {
                        "kind": "tokens",
                        "problem": self.problem.fingerprint,
                        "versions": code,
                        "sampler": contender.method,
                        "fields": dict(contender.fields),
                        "nfe": nfe,
                        "guidance": float(guidance),
                        "seed": options.seed,
                        "seeds": options.seeds,
                        "saved": options.save_pictures,
                    }
                    cell = Cell(settings, options.count * options.seeds, options.batch)
                    row = {
                        "sampler": contender.name,
                        "family": contender.family,
                        "origin": contender.origin,
                        "guidance": float(guidance),
                        "nfe": nfe,
                        "samples": cell.items,
                    }
                    made.append(Planned(cell, row, contender))
        return made

    def compute(self, planned: Planned, items: range) -> Mapping[str, Any]:
        s = planned.cell.settings
        run = self.problem.run(planned.contender, s["guidance"], s["nfe"], items, item_seeds(self.options, items))
        pictures = self.problem.pictures(run.tokens)
        if self.options.save_pictures:
            from .benchmark_run import save_pictures

            words = planned.contender.name.replace(" ", "-").lower()
            folder = Path(self.options.out) / "pictures" / f"{words}-g{s['guidance']:g}-{s['nfe']}"
            save_pictures(folder, pictures, items)
        return {
            **{name: values.numpy() for name, values in self.problem.judged(pictures, items).items()},
            "calls": np.full(len(items), float(run.calls)),
            "seconds": run.seconds,
            "step": run.step_microseconds,
        }

    def merge(self, cell: Cell, arrays: Arrays) -> dict[str, Any]:
        features = torch.from_numpy(arrays["features"])
        parts = split_by_seed(cell.items, cell.settings["seeds"])
        row: dict[str, Any] = {}
        whole = distances_to_data(features) if len(features) > 1 else (float("nan"),) * 2
        each = [distances_to_data(features[p]) if p.stop - p.start > 1 else (float("nan"),) * 2 for p in parts]
        for k, name in enumerate(("fid", "kid")):
            row[name], row[f"{name}_spread"] = number(whole[k]), over_seeds([pair[k] for pair in each])[1]
        for question in QUESTIONS:
            right = arrays.get(f"{question}_right")
            values = [None if right is None else float(right[p].mean()) for p in parts]
            row[f"{question}_accuracy"], row[f"{question}_accuracy_spread"] = over_seeds(values)
        return {
            **row,
            "calls": number(float(arrays["calls"].mean())),
            "seconds": number(float(arrays["seconds"].sum()), 4),
            "scheduler_microseconds": number(float(np.median(arrays["step"])), 4),
        }

    def settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "model": options.model,
            "judge": options.judge or JUDGES[options.model],
            "samples": options.count,
            "seeds": options.seeds,
            "first_seed": options.seed,
            "batch": options.batch,
            "guidance": list(options.guidance),
            "schedule": self.problem.fingerprint["scheduler"].get("masking_schedule"),
            "device": self.problem.device.type,
            "dtype": self.problem.fingerprint["dtype"],
        }

    def markdown(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        from .token_output import markdown_table

        return markdown_table(rows)

    def lines(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
        from .token_output import verdicts

        return [f"guidance {verdict.ours['guidance']:g}, {verdict.sentence()}" for verdict in verdicts(rows, settings)]

    def plots(self, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> list[Path]:
        from .token_output import token_plots

        return token_plots(rows, folder)
