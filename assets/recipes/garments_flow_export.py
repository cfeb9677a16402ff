"""Export and measurement of `garments-flow`: plain diffusers folders in float16, and what the judge finds in them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from fewstep.eval.judge import Judge, parameter_count

from .garments import measure_pictures, prompts, write_sheet
from .garments_flow_networks import WORDS, new_networks, with_guidance
from .garments_flow_training import read_cache
from .garments_statistics import gathered
from .training import average_of, console

NAME = "garments-flow"
SIZE = 32
"""Side of a picture in pixels."""


def load_autoencoder(out: Path) -> Any:
    """The autoencoder of `garments`, as it is."""
    from diffusers import AutoencoderKL

    folder = out / "garments" / "vae"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no autoencoder in {folder}; make it first with fewstep.assets.recipes.garments."
        )
    return AutoencoderKL.from_pretrained(folder, local_files_only=True)


def new_pipeline(networks: nn.ModuleDict, clip: Any, t5: Any, autoencoder: Any, cache: dict[str, Tensor]) -> Any:
    """FluxPipeline from its parts; the autoencoder keeps its weights and learns where its latents lie."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    autoencoder.register_to_config(
        shift_factor=round(float(cache["shift"]), 6), scaling_factor=round(float(cache["scale"]), 6)
    )
    pipeline: Any = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        vae=autoencoder,
        text_encoder=networks["text_encoder"],
        tokenizer=clip,
        text_encoder_2=networks["text_encoder_2"],
        tokenizer_2=t5,
        transformer=networks["transformer"],
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export(work: Path, out: Path, autoencoder: Any, seed: int) -> Path:
    """Write `out/garments-flow` in float16, leaving the card; with guidance distilled if that stage has been run."""
    networks, clip, t5 = new_networks(seed)
    networks = average_of(networks, "denoiser", work)
    if (work / "guidance.pt").is_file():
        networks["transformer"] = average_of(with_guidance(networks["transformer"]), "guidance", work)
    pipeline = new_pipeline(networks, clip, t5, autoencoder, read_cache(work))
    fresh = work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    for file in fresh.rglob("*.json"):
        _clean_json(file)
    folder = out / NAME
    for file in sorted(fresh.rglob("*")):
        if file.is_file():
            target = folder / file.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    shutil.rmtree(fresh)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    console.print(f"wrote {NAME}: {size / 1e6:.2f} MB")
    return folder


def _clean_json(file: Path) -> None:
    """Drop what says where a file was made, let the text encoders load in float32 as the other networks do, and name
    the fast tokenizer as older versions of transformers know it too."""
    text = file.read_text(encoding="utf-8").replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
    content = json.loads(text)
    content.pop("_name_or_path", None)
    if file.parent.name.startswith("text_encoder") and "dtype" in content:
        content["dtype"] = "float32"
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(
    pipeline: Any,
    texts: list[str],
    steps: int,
    guidance: float = 1.0,
    true_cfg: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Pictures of the texts, (B, 3, 32, 32) in [-1, 1]; each has a seed of its own, so batches do not matter.

    Args:
        pipeline: a FluxPipeline.
        texts: prompts.
        steps: Euler steps; one call each, or two with true guidance.
        guidance: scale that a distilled transformer reads.
        true_cfg: scale of true classifier-free guidance against the empty prompt; 1 is off.
        seed: of the noise.
        options: further arguments of the pipeline's call.
    """
    drawn = []
    options = {"max_sequence_length": WORDS, **options}
    for start in range(0, len(texts), 100):
        chunk = texts[start : start + 100]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(chunk))]
        images = pipeline(
            chunk,
            negative_prompt=[""] * len(chunk) if true_cfg > 1 else None,
            true_cfg_scale=true_cfg,
            guidance_scale=guidance,
            num_inference_steps=steps,
            height=SIZE,
            width=SIZE,
            generator=generators,
            output_type="pt",
            **options,
        ).images
        drawn.append(images.float().cpu() * 2 - 1)
    return torch.cat(drawn)


class Watch:
    """Watches a training run: how often the judge finds what the caption asked for, in a few quick pictures."""

    def __init__(self, out: Path, cache: dict[str, Tensor], seed: int, count: int = 200, steps: int = 10) -> None:
        _, self.clip, self.t5 = new_networks(seed)
        self.autoencoder = load_autoencoder(out)
        self.judge = Judge.from_pretrained(out / "garments-judge")
        self.cache = cache
        self.count, self.steps = count, steps

    def __call__(self, networks: nn.ModuleDict) -> dict[str, float]:
        pipeline = new_pipeline(networks, self.clip, self.t5, self.autoencoder, self.cache)
        texts, labels = prompts(self.count)
        found = measure_pictures(self.judge, draw(pipeline, texts, self.steps), labels)
        return {question: found[question] for question in ("garment", "colour", "background")}


def distance(pictures: Tensor, out: Path) -> float | None:
    """Fréchet distance to the training pictures in the features of the judge, if their statistics are there."""
    from fewstep.eval import Statistics, frechet_distance
    from fewstep.eval.features import judge_network

    file = out.absolute().parent / "statistics" / "garments.npz"
    if not file.is_file():
        return None
    network = judge_network(out / "garments-judge")
    return float(frechet_distance(gathered(iter(pictures.split(250)), network), Statistics.load(file)))


def measure(out: Path, steps: int, count: int, seed: int, sheet: Path | None) -> dict[str, Any]:
    """Judge the exported folder at several guidance scales, at equal calls."""
    import diffusers
    import transformers

    if not (out / NAME / "model_index.json").is_file():
        raise FileNotFoundError(f"There is no {NAME} in {out}; run --stage export first.")
    pipeline = diffusers.FluxPipeline.from_pretrained(out / NAME, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    judge = Judge.from_pretrained(out / "garments-judge")
    texts, labels = prompts(count)
    embeds = bool(pipeline.transformer.config.guidance_embeds)
    scales = (1.0, 2.0, 3.0, 5.0) if embeds else (1.0,)
    runs: list[dict[str, Any]] = [{"guidance": scale, "true_cfg": 1.0} for scale in scales]
    runs += [{"guidance": 1.0, "true_cfg": scale} for scale in (3.0, 5.0)]
    rows, sheet_pictures = [], None
    with Progress(console=console) as progress:
        task = progress.add_task("drawing", total=len(runs) + 1)
        for run in runs:
            calls = 2 if run["true_cfg"] > 1 else 1
            began = time.perf_counter()
            pictures = draw(pipeline, texts, max(1, steps // calls), seed=seed, **run)
            seconds = time.perf_counter() - began
            found = measure_pictures(judge, pictures, labels)
            speed = count / seconds
            rows.append({**run, "fid": distance(pictures, out), "pictures per second": speed, "found": found})
            progress.advance(task)
            best = max(rows, key=lambda row: row["found"]["garment"])
            if best is rows[-1]:
                sheet_pictures = pictures
        # What the pipeline does when nobody tells it how long captions are.
        few = min(count, 100)
        chosen = {key: best[key] for key in ("guidance", "true_cfg")}
        padded = draw(pipeline, texts[:few], max(1, steps // 2), seed=seed, max_sequence_length=512, **chosen)
        progress.advance(task)
    if sheet is not None and sheet_pictures is not None:
        write_sheet(sheet_pictures[:100], 10, sheet)
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "text_encoder_2", "transformer")}
    return {
        "pictures": count,
        "calls": steps,
        "seed": seed,
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": {name: parameter_count(part) for name, part in parts.items()},
        "megabytes": sum(f.stat().st_size for f in (out / NAME).rglob("*") if f.is_file()) / 1e6,
        "guidance distilled": embeds,
        "runs": rows,
        "best": chosen,
        "asked for and found": best["found"],
        "with words padded to 512": {
            "pictures": few,
            **{q: measure_pictures(judge, padded, labels[:few])[q] for q in ("garment", "colour", "background")},
        },
    }
