"""What a sampler is measured on: a pipeline or an exact denoiser, behind the same few methods.

A `Problem` takes numbered samples from noise to data. Sample i has its noise from seed + i and its prompt from its
number, so it is the same sample whatever the batch, the process or the device it is made on.

**The same ODE from the same noise.** Sample i starts as eps_i ~ N(0, I) at the first noise level of the sampler's grid,
as pipelines have it: x = eps for a variance-preserving or flow process, and x = sqrt(sigma_max^2 + 1) eps for EDM. The
schedulers of diffusers that count in sigma (Euler, Heun, LMS) would start at x_bar = sigma eps, which is smaller by a
factor sigma / sqrt(1 + sigma^2); their noise is scaled so that they start at the same point as the others. The
reference starts with the same eps at the highest noise level of the process (t = 999) and ends at clean data. A
pipeline that draws its noise itself draws that of sample i with the generator seed + i, and is scaled alike. A grid
that begins lower (``leading``) or ends above clean data solves its own part of the way only; the difference belongs to
its error.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fewstep.pipelines.swapping import DIFFUSERS, GRIDS, follows_guidance, set_sampler
from fewstep.samplers import noise

from .contenders import Contender
from .features import hash_of_module


@dataclass(frozen=True)
class Sampled:
    """What one run gave and cost.

    Attributes:
        latents: (n, ...) on the host.
        calls: of the network for each sample, counted by a hook; with guidance both predictions are one call, whether
            the pipeline makes them in one batch or one after the other.
        seconds: of the whole run, without decoding.
        step_microseconds: mean time of one step of the scheduler, on the host.
        memory: peak memory in MiB, of the accelerator if there is one, else of this process.
    """

    latents: torch.Tensor
    calls: float
    seconds: float
    step_microseconds: float
    memory: float


class Problem(ABC):
    """A model, its prompts and its noise.

    Attributes:
        name: as asked for on the command line.
        process: ``vp``, ``flow`` or ``edm``.
        scheduler: that of the model; every contender takes process and grid from its configuration.
        device: where the network runs.
        fingerprint: JSON that tells this problem from every other.
    """

    name: str
    process: str
    scheduler: Any
    device: torch.device
    fingerprint: Mapping[str, Any]

    @abstractmethod
    def run(self, contender: Contender, grid: str | None, guidance: float, steps: int, items: range) -> Sampled:
        """Take the samples `items` from noise to data."""

    def judged(self, latents: torch.Tensor, items: range) -> dict[str, torch.Tensor]:
        """What the pictures of these latents show: ``features`` (n, F), and ``QUESTION_right`` (n,); may be empty."""
        return {}

    def judging(self) -> dict[str, Any]:
        """JSON that tells what `judged` and `pictures` depend on beyond the fingerprint."""
        return {}

    def make_scheduler(self, contender: Contender, grid: str | None, guidance: float) -> Any:
        """The contender's scheduler on this model, at a named grid or (None) at its default."""
        holder = SimpleNamespace(scheduler=self.scheduler)
        options = {**contender.fields, **contender.hidden}
        if grid in ("karras", "exponential") and contender.sampler.startswith(f"{DIFFUSERS}EDM"):
            grid, options = None, {**options, "sigma_schedule": grid}  # their name for it
        set_sampler(holder, contender.sampler, grid, **options)
        scheduler = holder.scheduler
        if follows_guidance(scheduler):
            scheduler.method = dataclasses.replace(scheduler.method, guidance_scale=guidance)
        return scheduler

    def noise_levels(self, contender: Contender, grid: str | None, steps: int) -> tuple[float, ...] | None:
        """Timesteps and sigmas of a run, to tell grids apart; None where they depend on the run.

        Raises:
            ValueError: the contender has no such grid, or not with so few or many steps.
        """
        scheduler = self.make_scheduler(contender, grid, 1.0)
        if scheduler.config.get("use_dynamic_shifting"):
            return None
        try:
            scheduler.set_timesteps(steps)
        except (ArithmeticError, AssertionError, LookupError, TypeError, RuntimeError) as error:
            raise ValueError(f"{contender.name} cannot take {steps} steps on the grid {grid}: {error}") from error
        sigmas = getattr(scheduler, "sigmas", None)
        levels = [*scheduler.timesteps.tolist(), *([] if sigmas is None else torch.as_tensor(sigmas).tolist())]
        return tuple(round(float(level), 6) for level in levels)

    def grids(self, contender: Contender, steps: int, names: Sequence[str] = tuple(GRIDS)) -> dict[str, str | None]:
        """The distinct grids of a contender at a number of steps: name -> what `make_scheduler` takes.

        The first is the default one, under the name of the named grid that it equals, or as ``own``; a tuned sampler
        has the one that it was tuned with.
        """
        if contender.fields.get("noise_levels"):
            return {"tuned": None}
        try:
            default = self.noise_levels(contender, None, steps)
        except ValueError:  # the run will say why
            default = None
        found: dict[str, str | None] = {}
        levels: dict[Any, str] = {}
        # of an EDM model the spacings of timesteps are Karras' one, which shall have its own name
        for name in sorted(names, key=lambda name: name != "karras") if self.process == "edm" else names:
            try:
                these = self.noise_levels(contender, name, steps)
            except ValueError:
                continue
            if these is None or these not in levels:
                levels[name if these is None else these] = name
                found[name] = name
        own = levels.get(default) if default is not None else None
        if own is None and default is not None:  # the default may be a named grid that was not asked for
            own = next((name for name in GRIDS if self._same(contender, name, steps, default)), None)
        own = own or "own"
        return {own: found.get(own, None if own == "own" else own), **found}

    def _same(self, contender: Contender, name: str, steps: int, levels: tuple[float, ...]) -> bool:
        try:
            return self.noise_levels(contender, name, steps) == levels
        except ValueError:
            return False


def start_scale(scheduler: Any, process: str, steps: int) -> float:
    """What standard normal noise must be multiplied by, before a pipeline does so with `init_noise_sigma`.

    1, but for variance-preserving schedulers that count in sigma: sqrt(1 + sigma_0^2) / init_noise_sigma.
    """
    if process != "vp":
        return 1.0
    made = copy.deepcopy(scheduler)
    made.set_timesteps(steps)
    scale = float(made.init_noise_sigma)
    return 1.0 if scale == 1.0 else math.hypot(1.0, float(made.sigmas[0])) / scale


def _scaled(prepare: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """A pipeline's `prepare_latents` with the noise that it draws multiplied by a factor."""
    if factor == 1.0:
        return prepare

    @functools.wraps(prepare)
    def scaled(*args: Any, **kwargs: Any) -> Any:
        made = prepare(*args, **kwargs)
        return made * factor if isinstance(made, torch.Tensor) else (made[0] * factor, *made[1:])

    return scaled


class Stopwatch:
    """Counts the calls of networks and the time in a scheduler's step while `watching`.

    Attributes:
        calls: guided predictions: forward passes between one step of the scheduler and the next are one, for the two
            of classifier-free guidance may come one after the other.
        forwards: forward passes of the networks.
        steps: steps of the scheduler.
        step_seconds: time in them.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.forwards = 0
        self._fresh = True
        self.steps = 0
        self.step_seconds = 0.0

    def called(self, *_: Any) -> None:
        self.forwards += 1
        self.calls += self._fresh
        self._fresh = False

    def timed(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)  # pipelines look at the parameters of `step`
        def timed_step(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return step(*args, **kwargs)
            finally:
                self.step_seconds += time.perf_counter() - begin
                self.steps += 1
                self._fresh = True

        return timed_step

    @contextmanager
    def watching(self, networks: Sequence[torch.nn.Module], scheduler: Any) -> Iterator[None]:
        """Watch these networks and this scheduler object."""
        handles = [network.register_forward_hook(self.called) for network in networks]
        scheduler.step = self.timed(scheduler.step)
        try:
            yield
        finally:
            del scheduler.step
            for handle in handles:
                handle.remove()

    @property
    def step_microseconds(self) -> float:
        return 1e6 * self.step_seconds / max(self.steps, 1)


def begin_memory(device: torch.device) -> None:
    """Forget the peak memory of what ran before, where the system can."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set starts anew


def peak_memory(device: torch.device) -> float:
    """Peak memory in MiB since `begin_memory`: of the accelerator, else the resident set of this process; or NaN."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return math.nan


@functools.cache
def code_hash() -> str:
    """Hash of the sources that a sample depends on: samplers, pipelines, and how problems are run."""
    import fewstep.pipelines
    import fewstep.samplers

    folders = [Path(str(module.__file__)).parent for module in (fewstep.pipelines, fewstep.samplers)]
    files = [
        (f"{folder.name}/{f.relative_to(folder).as_posix()}", f) for folder in folders for f in folder.rglob("*.py")
    ]
    return hash_of_sources([*files, *((f.name, f) for f in _beside("benchmark_problems", "benchmark_oracles"))])


@functools.cache
def measure_hash(*modules: str) -> str:
    """Hash of the sources of modules beside this one, which make figures of samples."""
    return hash_of_sources([(file.name, file) for file in _beside(*modules)])


def _beside(*modules: str) -> list[Path]:
    return [Path(__file__).with_name(f"{module}.py") for module in modules]


def hash_of_sources(files: Sequence[tuple[str, Path]]) -> str:
    """Comments, docstrings and layout do not count, so that a better sentence does not cost a measurement."""
    digest = hashlib.sha256()
    for name, file in sorted(files):
        digest.update(f"{name}\0{_meaning(file.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()[:16]


def _meaning(source: str) -> str:
    """A source without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def versions() -> dict[str, str]:
    """Versions that a sample depends on; of our own code the hash, for a version lasts through many changes."""
    return {**{name: version(name) for name in ("fewstep", "diffusers", "torch")}, "code": code_hash()}


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(config), default=str, sort_keys=True).replace("Infinity", '"inf"'))


class ModelProblem(Problem):
    """A text-to-image pipeline of diffusers with a list of prompts; sample i takes prompt i, from the start again.

    The real pipeline is called. Where it takes embeddings and latents as Stable Diffusion does, each distinct prompt is
    encoded once.

    Args:
        pipe: the pipeline; its scheduler says the process.
        prompts: at least one.
        seed: of sample 0.
        name: of the model in reports.
        judge: a `fewstep.eval.judge.Judge` of what the pictures show.
        answers: for each question of the judge, the right answer of every prompt.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str],
        seed: int = 0,
        name: str = "",
        judge: Any = None,
        answers: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        from fewstep.samplers.schedulers import process_of_config

        if not prompts:
            raise ValueError("a model is measured on at least one prompt")
        self.pipe = copy.copy(pipe)
        self.pipe.set_progress_bar_config(disable=True)
        self.name = name
        self.scheduler = pipe.scheduler
        self.process = process_of_config(dict(pipe.scheduler.config))
        self.device = torch.device(pipe.device)
        self.prompts, self.seed = list(prompts), int(seed)
        self.judge, self.answers = judge, dict(answers or {})
        self.networks = [m for part in ("unet", "transformer", "transformer_2") if (m := getattr(pipe, part, None))]
        if not self.networks:
            raise ValueError(f"{type(pipe).__name__} has no unet or transformer to call")
        known = inspect.signature(type(pipe).__call__).parameters
        if "prompt" not in known:
            raise ValueError(f"{type(pipe).__name__} takes no prompt, so it does not make pictures from text")
        self._by_embeddings = {"prompt_embeds", "negative_prompt_embeds", "latents"} <= known.keys() and not (
            {"pooled_prompt_embeds", "prompt_attention_mask", "prompt_embeds_mask"} & known.keys()
        )
        true = known.get("true_cfg_scale")
        self._guidance = "true_cfg_scale" if true is not None and true.default > 1 else "guidance_scale"
        self._embedded: dict[str, torch.Tensor] = {}
        self._decoded: tuple[torch.Tensor, torch.Tensor] | None = None
        encoders = [
            m for part in ("text_encoder", "text_encoder_2", "text_encoder_3") if (m := getattr(pipe, part, None))
        ]
        self.fingerprint = {
            "pipeline": type(pipe).__name__,
            "weights": [hash_of_module(module) for module in (*self.networks, *encoders)],
            "scheduler": _jsonable(pipe.scheduler.config),
            "prompts": hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:16],
            "seed": self.seed,
            "dtype": str(pipe.dtype).removeprefix("torch."),
            "device": self.device.type,
            "versions": versions(),
        }

    def _embeddings(self, texts: Sequence[str]) -> torch.Tensor:
        """(len(texts), L, D), each distinct text encoded once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._embedded]
        if missing:
            made = self.pipe.encode_prompt(missing, self.device, 1, False)[0]
            self._embedded |= dict(zip(missing, made, strict=True))
        return torch.stack([self._embedded[text] for text in texts])

    def prompts_of(self, items: range) -> list[str]:
        """The prompts of these samples."""
        return [self.prompts[i % len(self.prompts)] for i in items]

    @torch.no_grad()
    def run(self, contender: Contender, grid: str | None, guidance: float, steps: int, items: range) -> Sampled:
        pipe = copy.copy(self.pipe)
        pipe.scheduler = scheduler = self.make_scheduler(contender, grid, guidance)
        texts, seeds = self.prompts_of(items), [self.seed + i for i in items]
        arguments: dict[str, Any] = {self._guidance: float(guidance), "num_inference_steps": steps}
        if self._by_embeddings:
            channels, side = self.networks[0].config.in_channels, self.networks[0].config.sample_size
            height, width = (side, side) if isinstance(side, int) else side
            start = noise((channels, height, width), seeds, device=self.device, dtype=pipe.dtype)
            arguments["latents"] = start * start_scale(scheduler, self.process, steps)
            arguments["prompt_embeds"] = self._embeddings(texts)
            arguments["negative_prompt_embeds"] = self._embeddings([""]).expand(len(texts), -1, -1)
        else:
            arguments |= {"prompt": texts, "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
            if hasattr(pipe, "prepare_latents"):
                pipe.prepare_latents = _scaled(pipe.prepare_latents, start_scale(scheduler, self.process, steps))
        watch = Stopwatch()
        begin_memory(self.device)
        begin = time.perf_counter()
        with watch.watching(self.networks, scheduler):
            latents = pipe(output_type="latent", **arguments).images
            latents = latents.float().cpu()
        seconds = time.perf_counter() - begin
        return Sampled(latents, watch.calls, seconds, watch.step_microseconds, peak_memory(self.device))

    def judging(self) -> dict[str, Any]:
        from .benchmark_metrics import statistics_path

        data = statistics_path()
        return {
            "vae": hash_of_module(self.pipe.vae),
            "judge": None if self.judge is None else hash_of_module(self.judge),
            "statistics": hashlib.sha256(data.read_bytes()).hexdigest()[:16] if data.is_file() else None,
        }

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (n, 3, H, W) in [-1, 1] as a file of bytes holds them.

        A value that is no number and -inf come out black, +inf white.
        """
        if self._decoded is not None and self._decoded[0] is latents:
            return self._decoded[1]
        vae = self.pipe.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scaled = latents.to(self.device, vae.dtype) / vae.config.scaling_factor + shift
        pictures = vae.decode(scaled, return_dict=False)[0].float().cpu()
        pictures = (pictures.nan_to_num(nan=-1.0).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
        self._decoded = (latents, pictures)  # to judge and to save them
        return pictures

    @torch.no_grad()
    def judged(self, latents: torch.Tensor, items: range) -> dict[str, torch.Tensor]:
        if self.judge is None:
            return {}
        features = self.judge.features(self.pictures(latents))
        found = {"features": features.float()}
        for question, logits in self.judge.logits(features).items():
            if question in self.answers:
                right = self.answers[question]
                wanted = torch.tensor([right[i % len(right)] for i in items])
                found[f"{question}_right"] = (logits.argmax(1) == wanted).float()
        return found


def garments_questions() -> tuple[list[str], Any, dict[str, list[int]]]:
    """Captions of every garment, colour and background in turn, the shipped judge, and its right answers.

    The 500 captions come in an order in which the first 10, 50 and 100 are balanced as well.
    """
    import fewstep.assets
    from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, caption

    from .judge import Judge

    labels = [(i % 10, (i + i // 10) % 10, (i + i // 10 + i // 100) % 5) for i in range(500)]
    garments, colours, backgrounds = list(GARMENTS), list(COLOURS), list(BACKGROUNDS)
    judge = Judge.from_pretrained(Path(fewstep.assets.__file__).parent / "models" / "garments-judge")
    asked = {"garment": (garments, 0), "colour": (colours, 1), "background": (backgrounds, 2)}
    answers = {
        question: [judge.labels[question].index(words[label[which]]) for label in labels]
        for question, (words, which) in asked.items()
        if question in judge.labels
    }
    return [caption(garment, colour, background) for garment, colour, background in labels], judge, answers


def garments_problem(seed: int = 0, device: str | None = None, dtype: str | None = None) -> ModelProblem:
    """The shipped model with every garment, colour and background it knows in turn, and its judge."""
    from fewstep.pipelines.loading import load_model

    prompts, judge, answers = garments_questions()
    return ModelProblem(load_model("garments", device=device, dtype=dtype), prompts, seed, "garments", judge, answers)


def problem_of(
    model: str,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
) -> Problem:
    """The problem that a name means: a shipped model, a pipeline's folder or name, or ``oracle:NAME``.

    Raises:
        ValueError: another model than `garments` without prompts; an unknown oracle.
        FileNotFoundError: no such model.
    """
    if model.startswith("oracle:"):
        from .benchmark_oracles import oracle_problem

        return oracle_problem(model, seed)
    if model == "garments" and prompts is None:
        return garments_problem(seed, device, dtype)
    from fewstep.pipelines.loading import find_model, load_model

    find_model(model)
    if prompts is None:
        raise ValueError(f"the model {model!r} brings no prompts of its own; give a file of prompts, one a line")
    return ModelProblem(load_model(model, device=device, dtype=dtype), prompts, seed, model)
