"""``fewstep benchmark --task restoration``: ways to restore degraded pictures, at equal numbers of network evaluations.

Every way gets the same pictures with the same noise and the same missing pixels. Columns of a row, each the mean over
pictures and seeds (the noise of measurement and draws), with the standard deviation of the mean over the seeds as
``..._spread``:

    psnr, psnr_luma  in dB, of the colours and of Rec. 601 luma; more is better
    ssim             Wang et al., 2004; lpips where its weights are there
    residual         root mean square of y - A x over what was measured, in the scale of [-1, 1]

``forward`` and ``backward`` are network evaluations for one picture, together at most the number asked for: the mean of
four draws costs those of all four. ``seconds`` is for one picture, ``memory`` the peak of the process in MiB.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from .benchmark_cells import Arrays, Cell
from .benchmark_metrics import number
from .restoration_contenders import DEGRADATIONS, check_degradations, select
from .restoration_problem import FIGURES, degradation, figures, method_of, read_pictures, restore
from .task_options import TaskOptions, finite, option
from .task_run import Planned, Row, Task, item_seeds, over_seeds, split_by_seed

_MEANS = (*FIGURES, "lpips")


@dataclass(frozen=True)
class RestorationOptions(TaskOptions):
    """What a comparison of restorations measures; what is not here is in `TaskOptions`.

    Attributes:
        data: folder of pictures, of which the last `count` by name are taken; ``drawn`` makes them from formulas.
        side: of the square that is cut from the centre of every picture; 0 for whole pictures.
        degradations: of `restoration_contenders.DEGRADATIONS`.
        noise: of denoise, a standard deviation in 255ths of the range of a pixel.
        blur_noise: of the two blurs.
    """

    task: ClassVar[str] = "restoration"

    model: str = option("photo-prior", "a pixel or a Stable Diffusion pipeline: shipped, a folder, a name on the hub")
    data: str = option("drawn", "folder of pictures, such as the Kodak suite, or drawn: by formula")
    degradations: tuple[str, ...] = option(("all",), f"of {', '.join(DEGRADATIONS)}")
    side: int = option(128, "of the square cut from the centre of every picture; 0: whole pictures")
    noise: float = option(25.0, "standard deviation of the noise of denoise, in 255ths")
    blur_noise: float = option(2.55, "the same of the two blurs")
    nfe: tuple[int, ...] = option((25,), "network evaluations for one picture, forward and backward")
    count: int = option(6, "pictures")
    seeds: int = option(1, "independent repeats, for the spread")
    batch: int = option(6, "pictures at once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_degradations(self.degradations)
        if isinstance(self.side, bool) or not isinstance(self.side, int) or (self.side and self.side < 16):
            raise ValueError(f"side must be 0 or a whole number of at least 16, got {self.side!r}")
        finite("noise", self.noise, 0.1, 255)
        finite("blur_noise", self.blur_noise, 0, 255)


class RestorationTask(Task):
    """The comparison of restorations.

    Raises:
        ValueError, FileNotFoundError: a model, pictures or ways to restore that are not there or do not fit.
    """

    name = "restoration"
    columns = (
        *(f"{name}{spread}" for name in _MEANS for spread in ("", "_spread")),
        "forward", "backward", "seconds", "memory",
    )  # fmt: skip

    def __init__(self, options: RestorationOptions) -> None:
        from fewstep.pipelines.restoration import load_restoration

        from .restoration_deepinv import missing_deepinv

        self.options: RestorationOptions = options
        self.notes = []
        self.names, self.pictures = read_pictures(options.data, options.count, options.side or None)
        self.degradations = check_degradations(options.degradations)
        self.pipe: Any = load_restoration(options.model, dtype=options.dtype, device=options.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.restorers = select(options.samplers, self.pipe.space)
        absent = missing_deepinv()
        if absent and any(made.origin == "deepinv" for made in self.restorers):
            self.restorers = [made for made in self.restorers if made.origin != "deepinv"]
            self.notes.append(absent)
        if not self.restorers:
            raise ValueError("none of the ways to restore that were named can be had here")
        self.lpips, why = _lpips()
        if self.lpips is None:
            self.notes.append(f"LPIPS is left out: {why}")
        if len(self.pictures) < options.count:
            self.notes.append(f"{options.data} has no more than {len(self.pictures)} pictures")

    def plan(self) -> list[Planned]:
        options = self.options
        common = {
            "kind": "restoration",
            "model": _hash_of(self.pipe),
            "scheduler": {k: v for k, v in self.pipe.scheduler.config.items() if not k.startswith("_")},
            "pictures": _digest(self.pictures),
            "versions": _versions(),
            "seed": options.seed,
            "seeds": options.seeds,
            "dtype": str(self.pipe.unet.dtype),
            "device": self.pipe.device.type,
            "lpips": self.lpips is not None,
        }
        made = []
        for task in self.degradations:
            degraded = degradation(task, options.noise, options.blur_noise)
            for restorer in self.restorers:
                if task not in restorer.tasks:
                    continue
                method, fields = method_of(restorer, degraded, self.pipe)
                own = {"task": task, "noise": degraded.noise, "missing": degraded.missing, "method": method}
                own |= {"fields": dict(fields), "draws": restorer.draws, "origin": restorer.origin == "classical"}
                budgets = options.nfe if restorer.calls is None else (restorer.calls,)
                for nfe in budgets if restorer.calls_network else (0,):
                    items = len(self.pictures) * options.seeds
                    cell = Cell({**common, **own, "nfe": nfe}, items, options.batch)
                    row = {
                        "degradation": task,
                        "sampler": restorer.name,
                        "method": method,
                        "fields": ", ".join(f"{key} {value}" for key, value in fields.items()),
                        "draws": restorer.draws,
                        "origin": restorer.origin,
                        "nfe": nfe,
                        "samples": items,
                    }
                    made.append(Planned(cell, row, (restorer, degraded)))
        return made

    def compute(self, planned: Planned, items: range) -> Mapping[str, Any]:
        from .benchmark_problems import begin_memory, peak_memory

        restorer, degraded = planned.contender
        seeds = item_seeds(self.options, items)
        found: dict[str, list[np.ndarray]] = {}
        seconds = 0.0
        begin_memory(self.pipe.device)
        for some in _runs_of_one_size([self.pictures[i % len(self.pictures)] for i in items]):
            clean = torch.stack([self.pictures[items[k] % len(self.pictures)] for k in some])
            run = restore(self.pipe, restorer, degraded, clean, planned.cell.settings["nfe"], [seeds[k] for k in some])
            seconds += run.seconds
            values = {name: v.numpy() for name, v in figures(run.pictures, clean, self.lpips).items()}
            values |= {"residual": run.residual.numpy(), "forward": np.full(len(clean), float(run.forward))}
            values["backward"] = np.full(len(clean), float(run.backward))
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        arrays = {name: np.concatenate(value) for name, value in found.items()}
        return {**arrays, "seconds": seconds, "memory": peak_memory(self.pipe.device)}

    def merge(self, cell: Cell, arrays: Arrays) -> dict[str, Any]:
        row: dict[str, Any] = {}
        parts = split_by_seed(cell.items, cell.settings["seeds"])
        for name in _MEANS:
            values = [float(arrays[name][part].mean()) if name in arrays else None for part in parts]
            row[name], row[f"{name}_spread"] = over_seeds(values)
        return {
            **row,
            "forward": int(arrays["forward"].max()),
            "backward": int(arrays["backward"].max()),
            "seconds": number(float(arrays["seconds"].sum()) / cell.items, 4),
            "memory": number(float(np.nanmax(arrays["memory"])) if np.isfinite(arrays["memory"]).any() else np.nan, 5),
        }

    def settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "model": options.model,
            "space": self.pipe.space,
            "pictures": ", ".join(self.names),
            "side": options.side or "whole",
            "samples": len(self.pictures),
            "seeds": options.seeds,
            "first_seed": options.seed,
            "batch": options.batch,
            "noise": options.noise,
            "blur_noise": options.blur_noise,
            "missing": degradation("inpaint", 0, 0).missing,
            "device": self.pipe.device.type,
            "dtype": str(self.pipe.unet.dtype).removeprefix("torch."),
        }

    def markdown(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        from .restoration_output import markdown_table

        return markdown_table(rows)

    def lines(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
        from .restoration_output import verdicts

        return [verdict.sentence() for verdict in verdicts(rows, settings)]

    def plots(self, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> list[Path]:
        from .restoration_output import restoration_plots

        return restoration_plots(rows, folder)


def _runs_of_one_size(pictures: Sequence[torch.Tensor]) -> list[list[int]]:
    """Numbers of pictures that follow each other and have one size."""
    runs: list[list[int]] = []
    for k, picture in enumerate(pictures):
        if runs and pictures[runs[-1][0]].shape == picture.shape:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def _hash_of(pipe: Any) -> list[str]:
    from .features import hash_of_module

    return [hash_of_module(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _digest(pictures: Sequence[torch.Tensor]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{tuple(picture.shape)}".encode() + picture.numpy().tobytes())
    return digest.hexdigest()[:16]


@functools.cache
def _versions() -> dict[str, str]:
    """Versions that a restored picture depends on; of our own code the hash of what draws and measures it."""
    from importlib.metadata import version

    import fewstep.pipelines.restoration
    import fewstep.samplers

    from .benchmark_problems import hash_of_sources

    samplers = Path(str(fewstep.samplers.__file__)).parent
    pipelines = Path(str(fewstep.pipelines.restoration.__file__)).parent
    files = [*samplers.glob("core/*.py"), *samplers.glob("posterior/**/*.py")]
    files += [pipelines / f"{name}.py" for name in ("base", "pixel", "latent", "network", "schedule", "tiling")]
    files += [Path(__file__).with_name(f"restoration_{name}.py") for name in ("problem", "classical", "deepinv")]
    libraries = {name: version(name) for name in ("diffusers", "torch")}
    return {**libraries, "code": hash_of_sources([(f"{file.parent.name}/{file.name}", file) for file in files])}


def _lpips() -> tuple[Any, str]:
    """LPIPS of two pictures in [0, 1], or None and why."""
    from .fidelity import _measure, require_lpips

    try:
        require_lpips()
        return _measure("lpips", None), ""
    except (ImportError, OSError) as error:
        return None, str(error)
