"""Pictures made of tokens: an aMUSEd pipeline with the captions and the judge of garments, and any token sampler."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.swapping import DIFFUSERS
from fewstep.samplers import generators

from .benchmark_problems import Stopwatch, garments_questions
from .features import hash_of_module
from .token_contenders import TokenContender


@dataclass(frozen=True)
class TokenRun:
    """What one run gave and cost.

    Attributes:
        tokens: (n, H, W) int64 on the host.
        calls: of the network, counted by a hook; with guidance the two predictions of a call are one batch.
        seconds: of the pipeline without its decoder.
        step_microseconds: mean time of one step of the scheduler.
    """

    tokens: Tensor
    calls: int
    seconds: float
    step_microseconds: float


def scheduler_of(contender: TokenContender, config: Mapping[str, Any]) -> Any:
    """A contender as a scheduler for a model: process and mask of the scheduler that the model came with.

    `num_inference_steps` of ours then counts network calls.
    """
    import diffusers

    from fewstep.samplers import token_schedulers as ours

    if contender.method.startswith(DIFFUSERS):
        cls = getattr(diffusers, contender.method.removeprefix(DIFFUSERS))
        return cls.from_config(config, **contender.fields)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "token-adams-bashforth": (ours.DiscreteAdamsBashforthScheduler, {}),
        "theta-trapezoidal": (ours.DiscreteThetaScheduler, {"algorithm": "trapezoidal"}),
        "theta-rk2": (ours.DiscreteThetaScheduler, {"algorithm": "rk2"}),
        "tau-leaping": (ours.DiscreteTauLeapingScheduler, {"method": "tau"}),
        "tweedie": (ours.DiscreteTauLeapingScheduler, {"method": "tweedie"}),
        "euler": (ours.DiscreteTauLeapingScheduler, {"method": "euler"}),
        "first-hitting": (ours.FirstHittingScheduler, {}),
    }
    if contender.method not in kinds:
        raise ValueError(f"{contender.name} is no scheduler, and pictures are drawn by pipelines")
    cls, given = kinds[contender.method]
    return cls.from_config(dict(config), steps_are_model_calls=True, **given, **contender.fields)


class TokenProblem:
    """An `AmusedPipeline` that draws garments; picture i takes caption i, from the start again.

    Args:
        pipe: the pipeline.
        name: of the model in reports.

    Raises:
        ValueError: a pipeline of another kind.
    """

    def __init__(self, pipe: Any, name: str = "") -> None:
        from diffusers import AmusedPipeline

        kind = type(pipe)
        if not issubclass(kind, AmusedPipeline):
            raise ValueError(f"{name or 'the model'} is a {kind.__name__}; tokens are measured on an AmusedPipeline")
        self.pipe: Any = copy.copy(pipe)
        self.name = name
        self.pipe.set_progress_bar_config(disable=True)
        self.device = torch.device(pipe.device)
        self.prompts, self.judge, self.answers = garments_questions()
        networks = (pipe.transformer, pipe.vqvae, pipe.text_encoder)
        self.fingerprint: dict[str, Any] = {
            "weights": [hash_of_module(network) for network in networks],
            "judge": hash_of_module(self.judge),
            "prompts": hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:16],
            "scheduler": {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")},
            "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
            "device": self.device.type,
        }

    @classmethod
    def from_pretrained(cls, model: str, device: Any = None, dtype: Any = None) -> TokenProblem:
        """A shipped model, a folder, or a name on the hub.

        Raises:
            FileNotFoundError, ValueError: no such model, or none made of tokens.
        """
        from diffusers import DiffusionPipeline

        from fewstep.pipelines.loading import find_model
        from fewstep.pipelines.quiet import quiet

        folder = find_model(model)
        with quiet():
            pipe: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype or torch.float32)
        return cls(pipe.to(device or "cpu"), model)

    @torch.no_grad()
    def run(self, contender: TokenContender, guidance: float, calls: int, items: range, seeds: list[int]) -> TokenRun:
        """Draw some pictures in so many network calls."""
        if calls < contender.fewest:
            raise ValueError(f"{contender.name} needs at least {contender.fewest} network calls, got {calls}")
        pipe = copy.copy(self.pipe)
        pipe.scheduler = scheduler = scheduler_of(contender, self.pipe.scheduler.config)
        alone = contender.origin == "diffusers"  # its draws need one generator for the batch
        watch = Stopwatch()
        begin = time.perf_counter()
        with watch.watching([pipe.transformer], scheduler):
            tokens = pipe(
                [self.prompts[i % len(self.prompts)] for i in items],
                num_inference_steps=calls,
                guidance_scale=guidance,
                generator=generators(seeds[:1])[0] if alone else generators(seeds),
                output_type="latent",
            ).images.cpu()
        seconds = time.perf_counter() - begin
        return TokenRun(tokens, watch.forwards, seconds, watch.step_microseconds)

    @torch.no_grad()
    def pictures(self, tokens: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1] as a file of bytes holds them."""
        vqvae = self.pipe.vqvae
        shape = (*tokens.shape, vqvae.config.latent_channels)
        decoded = vqvae.decode(tokens.to(self.device), force_not_quantize=True, shape=shape).sample
        return (decoded.float().cpu().clip(0, 1) * 255).round() / 127.5 - 1

    @torch.no_grad()
    def judged(self, pictures: Tensor, items: range) -> dict[str, Tensor]:
        """Features (n, F) of the judge, and for every question whether its answer is right, (n,)."""
        features = self.judge.features(pictures)
        found = {"features": features.float()}
        for question, logits in self.judge.logits(features).items():
            if question in self.answers:
                right = self.answers[question]
                wanted = torch.tensor([right[i % len(right)] for i in items])
                found[f"{question}_right"] = (logits.argmax(1) == wanted).float()
        return found
