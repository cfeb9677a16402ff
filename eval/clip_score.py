"""CLIP models from a folder or the hub, and the CLIP score of pictures and their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class PooledClip(nn.Module):
    """A `CLIPModel` whose features are tensors.

    Since transformers 5 `get_image_features` returns an output object, and torchmetrics 1.9 takes its norm.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    @torch.no_grad()
    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, d), after the projection, of any length."""
        return _pooled(self.model.get_image_features(pixel_values=pixel_values))

    @torch.no_grad()
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) -> (B, d), after the projection, of any length."""
        return _pooled(self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask))


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def load_clip(source: str | Path) -> tuple[PooledClip, Any]:
    """A CLIP model, in evaluation mode on the host, and its processor.

    Args:
        source: a folder that `save_pretrained` of a CLIPModel and a CLIPProcessor wrote, or a name on the hub
            (``openai/clip-vit-large-patch14``). What an earlier run fetched is used without asking the hub.

    Raises:
        ValueError: a folder that holds no CLIP model.
        FileNotFoundError: a model that is neither here nor on a hub that can be reached.
    """
    from fewstep.pipelines.quiet import quiet

    text = str(source)
    folder = Path(text).expanduser()
    local = folder.is_dir()
    if not local and (not text or text.count("/") > 1 or folder.exists() or text.startswith((".", "~", "/"))):
        raise FileNotFoundError(
            f"there is no folder {text!r} with a CLIP model; say a folder, or owner/name on the hub"
        )
    with quiet():
        from transformers import CLIPModel, CLIPProcessor

        def read(**options: Any) -> tuple[PooledClip, Any]:
            name = str(folder) if local else text
            model: Any = CLIPModel.from_pretrained(name, use_safetensors=True, **options)
            return PooledClip(model).eval(), CLIPProcessor.from_pretrained(name, **options)

        try:
            return read(local_files_only=True)
        except Exception as error:
            if local:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                raise ValueError(f"the folder {text!r} holds no CLIP model that can be read: {reason}") from error
        _check_hub(text)
        try:
            return read()
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"the CLIP model {text!r} could not be loaded: {reason}") from error


def _check_hub(name: str) -> None:
    """Raise a sentence, within seconds, where the hub cannot be reached or does not know the name."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=5)
    except Exception as error:  # a connection has many ways to fail
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileNotFoundError(
            f"the CLIP model {name!r} is not on this machine and cannot be fetched ({reason}). On a machine that is "
            f"connected, say `hf download {name} --local-dir FOLDER`, copy the folder here and say clip:FOLDER"
        ) from error


class ClipScore:
    """Mean CLIP score of pictures and prompts: 100 cos(image features, text features), not below 0.

    (Hessel et al., "CLIPScore", 2021, arXiv 2104.08718.) By torchmetrics, in constant memory.

    Args:
        source: see `load_clip`.
        device: ``cpu``, ``cuda``, ...; by default the accelerator if there is one.

    Attributes:
        cut: how many prompts were longer than the model reads.
    """

    def __init__(self, source: str | Path, device: Any = None) -> None:
        from torchmetrics.multimodal import CLIPScore

        from fewstep.pipelines.loading import torch_device

        from .features import hash_of_module

        self.source = str(source)
        self.device = torch_device(device)
        model, self._processor = load_clip(source)
        self.hash = hash_of_module(model)
        self.cut = 0
        self._longest = int(model.config.text_config.max_position_embeddings)
        pair: Any = lambda: (model, self._prepared)  # noqa: E731 - torchmetrics wants a function, or names it knows
        self._metric = CLIPScore(pair).to(self.device)

    def _prepared(self, **inputs: Any) -> Any:
        """The processor, that cuts a prompt before its end mark, whose feature is the prompt's."""
        if "text" in inputs:
            inputs |= {"truncation": True, "max_length": self._longest}
        return self._processor(**inputs)

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        """Add pictures (B, 3, H, W) float in [0, 1] and their B prompts. Prompts that are too long are cut."""
        if len(images) != len(prompts):
            raise ValueError(f"every picture needs its prompt, got {len(images)} pictures and {len(prompts)} prompts")
        if len(images):
            lengths = [len(ids) for ids in self._processor.tokenizer(list(prompts), verbose=False)["input_ids"]]
            self.cut += sum(length > self._longest for length in lengths)
            pictures = (images * 255).round().clamp(0, 255).to(self.device, torch.uint8)
            self._metric.update(list(pictures), list(prompts))

    @property
    def count(self) -> int:
        """Pictures seen."""
        return int(self._metric.n_samples)

    def compute(self) -> float:
        """The mean over all pictures, 0 to 100."""
        if not self.count:
            raise ValueError("there is no CLIP score of no pictures")
        return float(self._metric.compute())
