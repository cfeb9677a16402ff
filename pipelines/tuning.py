"""Tune a sampler for a pipeline: fit noise levels and weights to its trajectories, and prove it on others."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_atomically
from .generation import check_request, own_run, pipeline_arguments, usual_guidance
from .loading import model_name, shipped_models
from .swapping import GRIDS, grid_options

if TYPE_CHECKING:
    import torch

    from fewstep.samplers import Method

#: Noise levels of the converged runs.
TRAJECTORY = 121
#: Methods, at order 2, whose results on the named grids a fitted sampler is compared with.
RIVALS = ("exponential-adams", "adams-bashforth")


class PipelineRunner:
    """Runs of one pipeline from the same noise and prompts, with any method on any noise levels, to latents.

    Args:
        pipe: a text-to-image pipeline; it is left as it is.
        prompts: one a picture; all of them go through the network together.
        guidance: guidance scale, None for the pipeline's own.
        seeds: one a picture.
    """

    def __init__(self, pipe: Any, prompts: Sequence[str], guidance: float | None, seeds: Sequence[int]) -> None:
        from fewstep.samplers.cache.pipeline import denoisers_of

        from .memo import NetworkMemo

        self.pipe = own_run(pipe)
        self.config = pipe.scheduler.config
        self.prompts, self.seeds, self.guidance = list(prompts), list(seeds), guidance
        self.arguments = pipeline_arguments(pipe, guidance, None, None)[0]
        self.memo = NetworkMemo(list(denoisers_of(pipe).values()))

    @property
    def calls(self) -> int:
        """Network calls of the whole batch so far; runs that begin alike share those of their beginning."""
        return self.memo.calls

    def scheduler(self, method: Method, **options: Any) -> Any:
        """A scheduler for this pipeline, the method's own."""
        from fewstep.samplers import scheduler_class

        fields = {item.name: getattr(method, item.name) for item in dataclasses.fields(method)}
        return scheduler_class(method).from_config(self.config, **fields, **options)

    def __call__(self, method: Any, levels: Sequence[float], timesteps: Sequence[float] | None = None) -> torch.Tensor:
        from fewstep.samplers import AdamsBashforth

        host = self.scheduler(AdamsBashforth(order=1))
        told = [host.process.at_sigma(s).timestep for s in levels] if timesteps is None else timesteps
        pairs = [list(pair) for pair in zip(levels, told, strict=True)]
        host = self.scheduler(AdamsBashforth(order=1), noise_levels={str(len(pairs)): pairs})
        host.method = method
        return self.latents(host, len(pairs))

    def latents(self, scheduler: Any, steps: int) -> torch.Tensor:
        """Final latents (B, ...) of a run with a scheduler on its own grid."""
        import torch

        from fewstep.samplers import generators

        self.pipe.scheduler = scheduler
        with torch.no_grad(), self.memo.installed():
            result = self.pipe(
                self.prompts,
                num_inference_steps=steps,
                generator=generators(self.seeds),
                output_type="latent",
                **self.arguments,
            )
        return result.images


def usual_prompts(pipe: Any, count: int) -> list[str]:
    """Prompts to tune a shipped model with: captions that it was taught, in random order, none of them twice.

    At most `count`; there are 500.

    Raises:
        ValueError: a model that is not shipped; its prompts are for its user to choose.
    """
    if model_name(pipe) not in shipped_models():
        raise ValueError("tuning needs prompts of the kind that the model will be used with: give some, one a line")
    from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, caption

    captions = [
        caption(garment, colour, background)
        for garment, colour, background in itertools.product(
            range(len(GARMENTS)), range(len(COLOURS)), range(len(BACKGROUNDS))
        )
    ]
    random.Random(0).shuffle(captions)
    return captions[:count]


def _rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


@dataclass(frozen=True)
class Recipe:
    """A tuned sampler: a scheduler configuration, and how it came to be.

    Attributes:
        config: of the scheduler; entries beginning with an underscore say how it was tuned.
        rows: what was measured on held-out noise and prompts: one flat object a sampler, grid and number of calls.
    """

    config: dict[str, Any]
    rows: list[dict[str, Any]]

    def save(self, path: str | Path) -> None:
        """Write the configuration as JSON, whole or not at all; `load` and ``from_pretrained`` read it."""
        write_atomically(path, (json.dumps(self.config, indent=1) + "\n").encode())


def tune_pipeline(
    pipe: Any,
    calls: Sequence[int],
    *,
    prompts: Sequence[str] | None = None,
    guidance: float | None = None,
    count: int = 64,
    seed: int = 1_000_000,
    method: Method | None = None,
    rounds: int = 4,
    trajectory: int = TRAJECTORY,
    report: Callable[[str], None] | None = None,
    keep: Callable[[Recipe], None] | None = None,
) -> Recipe:
    """Fit a sampler to a pipeline for some numbers of network calls, and measure it on noise and prompts held out.

    The prompts are dealt out in turn: the even ones are tuned on, the odd ones held out, so no prompt is on both sides
    unless the list repeats it.

    Args:
        pipe: a text-to-image pipeline; left as it is.
        calls: numbers of network calls, such as (5, 8, 20).
        prompts: at least two; by default those of a shipped model.
        guidance: guidance scale that the sampler shall be used with; by default `usual_guidance`.
        count: pictures tuned on, and as many held out. They go through the network in one batch.
        seed: of the first picture.
        method: place the noise levels for this method; by default weights are fitted too (`fewstep.samplers.Tuned`).
        rounds: of refinement.
        trajectory: noise levels of the converged runs.
        report: told one line now and then.
        keep: given the recipe as far as it goes after each number of calls, the least first: such as ``Recipe.save``
            to a file, so that a run that is stopped loses one number at most.

    Raises:
        ValueError: no prompts, too few pictures, more calls than half of the trajectory has.
    """
    from fewstep.samplers import Tuned
    from fewstep.samplers.tuning import local_errors, record, tune

    guidance = usual_guidance(pipe) if guidance is None else guidance
    if count < 2:
        raise ValueError(f"tuning needs at least 2 pictures, got {count}")
    check_request(pipe, 1, guidance, seed, 2 * count, None)
    wanted = sorted({int(n) for n in calls})
    if not wanted or wanted[0] < 1 or wanted[-1] > trajectory // 2:
        raise ValueError(f"the numbers of calls must lie between 1 and {trajectory // 2}, got {list(calls)}")
    texts = list(prompts) if prompts is not None else usual_prompts(pipe, 2 * count)
    if len(texts) < 2:
        raise ValueError("tuning needs at least two prompts: some to tune on and some to hold out")
    seen, held = texts[0::2], texts[1::2]
    learn = PipelineRunner(pipe, [seen[i % len(seen)] for i in range(count)], guidance, range(seed, seed + count))
    prove = PipelineRunner(
        pipe, [held[i % len(held)] for i in range(count)], guidance, range(seed + count, seed + 2 * count)
    )
    first, last, process = _range(learn)
    if not 0 < last < first < float("inf"):
        raise ValueError("tuning needs a first noise level that is not pure noise (no zero terminal SNR)")
    path = record(learn, process, first, last, trajectory)
    truth = record(prove, process, first, last, trajectory).end
    costs = local_errors(path)
    levels: dict[str, Any] = {}
    tables: list[Any] = []
    gains: list[Any] = []
    rows: list[dict[str, Any]] = []
    spent: dict[str, int] = {}

    def so_far() -> Recipe:
        scheduler = learn.scheduler(method or Tuned(tuple(tables), tuple(gains)), noise_levels=levels)
        about = _tuning(pipe, guidance, count, path, spent, rows)
        return Recipe({**json.loads(scheduler.to_json_string()), "_tuning": about}, list(rows))

    for n in wanted:
        before = learn.calls
        found = tune(learn, process, path, n, method=method, errors=costs, rounds=rounds, report=report)
        levels[str(n)] = [list(pair) for pair in zip(found.levels, found.timesteps, strict=True)]
        chosen = method or Tuned((found.table,), (found.gains,))
        if method is None:
            tables.append(found.table)
            gains.append(found.gains)
        spent[str(n)] = learn.calls - before
        error = _rmse(prove(chosen, found.levels, found.timesteps), truth)
        rows.append({"sampler": chosen.name, "grid": "tuned", "guidance": guidance, "nfe": n, "rmse": error})
        rows += _rivals(prove, truth, n, guidance, [method] if method is not None else list(map(_rival, RIVALS)))
        if keep is not None:
            keep(so_far())
    return so_far()


def _range(runner: PipelineRunner) -> tuple[float, float, Any]:
    """First and last noise level of a converged run, and the process."""
    from fewstep.samplers import EDM, AdamsBashforth, Flow

    process = runner.scheduler(AdamsBashforth(order=1)).process
    if isinstance(process, EDM):
        return process.sigma_max, process.sigma_min, process
    if isinstance(process, Flow):
        return 1.0, 1e-3, process
    steps = runner.config.get("num_train_timesteps", 1000)
    return process.at(steps - 1).ratio, process.at(0).ratio, process


def _rival(name: str) -> Method:
    from fewstep.samplers import resolve

    return resolve(name, order=2).method


def _rivals(
    runner: PipelineRunner, truth: torch.Tensor, n: int, guidance: float | None, methods: Sequence[Method]
) -> list[dict[str, Any]]:
    """What untuned methods reach on every named grid."""
    rows = []
    for method in methods:
        for grid in GRIDS:
            try:
                end = runner.latents(runner.scheduler(method, **grid_options(grid)), n)
            except (ValueError, ImportError):  # a grid that this process has not at so many calls, or that needs scipy
                continue
            error = _rmse(end, truth)
            rows.append({"sampler": method.name, "grid": grid, "guidance": guidance, "nfe": n, "rmse": error})
    return rows


def _tuning(
    pipe: Any, guidance: float | None, count: int, path: Any, spent: dict[str, int], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    from importlib.metadata import version

    best: dict[str, Any] = {}
    for row in rows:
        key = "tuned" if row["grid"] == "tuned" else "best_named"
        entry = best.setdefault(str(row["nfe"]), {})
        if key not in entry or row["rmse"] < entry[key]["rmse"]:
            entry[key] = {"sampler": row["sampler"], "grid": row["grid"], "rmse": float(f"{row['rmse']:.4g}")}
    return {
        "model": model_name(pipe),
        "guidance": guidance,
        "pictures": count,
        "network_calls": {"trajectory": 2 * len(path.levels), **spent},
        "held_out": best,
        "fewstep": version("fewstep"),
    }
