"""What editing asks of a model, and which adapter a pipeline gets.

Every adapter speaks rectified flow: states are ``x = (1 - sigma) x0 + sigma eps``, the prediction is dx/dsigma. Flow
models are that already; a variance-preserving one becomes it by a change of variables (`models_sd`), so that solvers,
masks and injection are written once.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fewstep.samplers import Flow, Grid

from .injection import Block

#: The process of all states here; its `timestep` is 1000 sigma, which adapters divide out again.
PROCESS = Flow()


@dataclass(frozen=True, eq=False)
class Condition:
    """Embedded prompts.

    Attributes:
        cond: what the denoiser is told, by name of its argument; for a batch of prompts.
        uncond: the same for the empty prompt, of models whose guidance takes two calls; None without guidance.
        guidance: the guidance scale.
    """

    cond: dict[str, torch.Tensor]
    uncond: dict[str, torch.Tensor] | None
    guidance: float

    def fingerprint(self) -> dict[str, list[float]]:
        """Eight projections of every embedding. Numbers and no hash: devices round embeddings differently."""
        found = {}
        for name, values in self.cond.items():
            flat = values.detach().cpu().double().reshape(-1)
            steps = torch.arange(len(flat), dtype=torch.float64)
            found[name] = [float((flat * torch.cos((k + 1) * 0.7 * steps)).mean()) for k in range(8)]
            found[name].append(float(flat.square().mean().sqrt()))
        return found

    def agrees(self, fingerprint: dict[str, list[float]], tolerance: float = 0.02) -> bool:
        """Whether these are the embeddings that a fingerprint was taken of, to rounding in half precision."""
        mine = self.fingerprint()
        if mine.keys() != fingerprint.keys():
            return False
        for name, values in mine.items():
            other = fingerprint[name]
            count = max(1, self.cond[name].numel())
            allowed = tolerance * max(values[-1], other[-1])
            if abs(values[-1] - other[-1]) > allowed:
                return False
            apart = max(abs(a - b) for a, b in zip(values[:-1], other[:-1], strict=True))
            if apart > allowed / count**0.5:
                return False
        return True


class EditModel(ABC):
    """A pipeline's networks as editing needs them. Nothing of the pipeline is changed.

    Attributes:
        pipe: a clone of the pipeline for this run; its networks are the caller's.
        edit_guidance: guidance of an edit when nobody says otherwise.
        distilled: whether the model was distilled to a few steps, and is inverted poorly by every method.
        smallest: part of the model's own area from which a picture is taken in its own size.
    """

    edit_guidance: float = 2.0
    distilled: bool = False
    smallest: ClassVar[float] = 0.25
    denoiser_name: ClassVar[str] = "transformer"

    def __init__(self, pipe: Any) -> None:
        from ..generation import own_run

        self.pipe = own_run(pipe)
        self.denoiser: Any = getattr(pipe, self.denoiser_name)

    # what differs between the classes

    @abstractmethod
    def pack(self, planes: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) in the layout that the denoiser takes."""

    @abstractmethod
    def unpack(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Undo `pack`; `size` is (width, height) of the picture."""

    @abstractmethod
    def condition(self, prompts: Sequence[str], guidance: float) -> Condition:
        """Embed prompts."""

    @abstractmethod
    def velocity(
        self, x: torch.Tensor, sigma: float, told: dict[str, torch.Tensor], size: tuple[int, int], guidance: float
    ) -> torch.Tensor:
        """One call of the denoiser: dx/dsigma at `x`."""

    @abstractmethod
    def grid(self, steps: int, x: torch.Tensor) -> Grid:
        """The model's own noise levels for `steps` intervals, from noise to data; `x` are the latents."""

    @abstractmethod
    def blocks(self) -> list[Block]:
        """Attention modules that features can be taken from."""

    # what does not

    @property
    def stride(self) -> int:
        """What width and height must be multiples of."""
        from ..generation import stride_of

        return stride_of(self.pipe)

    @property
    def area(self) -> float:
        """Pixels that the model was made for: the denoiser's.

        Where it names none, the pipeline's default, or the autoencoder's where that is smaller.
        """
        factor = int(self.pipe.vae_scale_factor)
        side = _longest(self.denoiser.config.get("sample_size"))
        if side:
            return float((side * factor) ** 2)
        pixels = factor * (_longest(getattr(self.pipe, "default_sample_size", None)) or 128)
        return float(min(pixels, _longest(self.pipe.vae.config.get("sample_size")) or pixels) ** 2)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """Numbers of the denoiser."""
        return self.denoiser.dtype

    def image_tokens(self, x: torch.Tensor) -> int:
        """Tokens of the picture at the end of a joint sequence."""
        return x.shape[1]

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the latents of a picture."""
        factor = int(self.pipe.vae_scale_factor)
        return size[0] // factor, size[1] // factor

    @property
    def _scale(self) -> tuple[float, float]:
        """(shift, scale) of the autoencoder's latents: z -> (z - shift) scale."""
        config = self.pipe.vae.config
        return float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> latents, float32: the mode of the posterior, so that it repeats."""
        vae = self.pipe.vae
        values = (2 * pixels - 1).to(self.device, vae.dtype)
        shift, scale = self._scale
        coded = vae.encode(values)
        planes = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents  # AutoencoderTiny's
        return self.pack((planes.float() - shift) * scale)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents -> pictures (B, 3, H, W) in [0, 1], float32, on the host.

        Raises:
            FloatingPointError: the latents or the pictures hold values that are no finite numbers.
        """
        vae = self.pipe.vae
        shift, scale = self._scale
        planes = self.unpack(latents, size) / scale + shift
        pixels = vae.decode(planes.to(self.device, vae.dtype), return_dict=False)[0].float().cpu()
        for what, values in (("latents", latents), ("pictures", pixels)):
            if not bool(torch.isfinite(values).all()):
                number = str(self.dtype).removeprefix("torch.")
                hint = "" if number == "float32" else f"; {number} may be too small for this model, try float32"
                raise FloatingPointError(
                    f"the {what} came out as values that are not finite numbers, so no picture was made: the solver "
                    f"diverged or the weights are damaged{hint}"
                )
        return (pixels / 2 + 0.5).clamp(0, 1)

    def fingerprint(self) -> str:
        """Two hashes: of the configurations, and of some of the weights of the denoiser and the autoencoder.

        Weights enter rounded to bfloat16. A model loaded in another number format may have been rounded twice and then
        counts as another one. Where weights wait elsewhere (sequential offloading) the second is ``offloaded``.
        """
        digest, weights = hashlib.sha256(), hashlib.sha256()
        away = False
        for module in (self.denoiser, self.pipe.vae):
            settings = {key: value for key, value in dict(module.config).items() if not key.startswith("_")}
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
            for name, values in module.named_parameters():
                digest.update(f"{name}{tuple(values.shape)}".encode())
                if values.is_meta:
                    away = True
                    continue
                some = values.detach().reshape(-1)[:8].to("cpu", torch.bfloat16)
                weights.update(some.view(torch.int16).numpy().tobytes())
        return f"{digest.hexdigest()[:24]}:{'offloaded' if away else weights.hexdigest()[:24]}"

    def is_that_of(self, fingerprint: str) -> bool:
        """Whether a fingerprint is of this model; offloaded weights cannot be compared and pass."""
        mine, theirs = self.fingerprint().split(":"), fingerprint.split(":")
        return mine[0] == theirs[0] and (mine[-1] == theirs[-1] or "offloaded" in (mine[-1], theirs[-1]))

    def free(self) -> None:
        """Let offloaded networks go back to where they wait."""
        self.pipe.maybe_free_model_hooks()


def _longest(side: Any) -> int:
    """A size that may be a number, a pair or missing (0)."""
    return int(max(side) if isinstance(side, list | tuple) else side or 0)


def _denoiser_class(pipe: Any) -> str:
    module = getattr(pipe, "transformer", None)
    module = module if module is not None else getattr(pipe, "unet", None)
    return type(getattr(module, "_orig_mod", module)).__name__


def edit_model(pipe: Any) -> EditModel:
    """The adapter of a pipeline.

    Raises:
        TypeError: no pipeline.
        ValueError: a class that cannot be edited with, or a denoiser that something else has taken hold of.
    """
    from ..guidance import guidance_of

    if not hasattr(pipe, "scheduler") or not hasattr(pipe, "vae"):
        raise TypeError(f"editing needs a pipeline, as load() returns it, got {type(pipe).__name__}")
    from .models_flux import FluxEditModel
    from .models_sd import StableDiffusionEditModel
    from .models_sd3 import StableDiffusion3EditModel

    known: dict[str, type[EditModel]] = {
        "FluxTransformer2DModel": FluxEditModel,
        "SD3Transformer2DModel": StableDiffusion3EditModel,
        "UNet2DConditionModel": StableDiffusionEditModel,
    }
    cls = known.get(_denoiser_class(pipe))
    if cls is None:
        raise ValueError(
            f"{type(pipe).__name__} cannot be edited with; allowed are Flux, Stable Diffusion 3 and Stable Diffusion "
            "pipelines"
        )
    module = getattr(pipe, cls.denoiser_name)
    from fewstep.samplers.cache.hook import hook_of

    if hook_of(module) is not None:
        raise ValueError("an AB-Cache is on this pipeline, and editing needs every call; take it off (remove_ab_cache)")
    if getattr(module, "is_cache_enabled", False):
        raise ValueError(
            "a cache is on this pipeline, and editing needs every call; call disable_cache() on its network"
        )
    if guidance_of(pipe) is not None:
        raise ValueError("editing has a guidance of its own; take the guidance mode off (set_guidance(pipe, 'cfg'))")
    return cls(pipe)
