"""Figures of an edited picture beside the one that it was made of, with the conventions of PIE-Bench.

PSNR and SSIM outside of the edited region are those of two pictures in which that region is black in both, over the
whole picture (Ju et al. 2023, arXiv 2310.01506, whose tables are compared with): the smaller the rest, the higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .judge import Judge

#: (B, 3, H, W) in [0, 1] -> (B, N, D), the features of N places of every picture.
Places = Callable[[Tensor], Tensor]
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def self_similarity(features: Tensor) -> Tensor:
    """Cosines between all places of a picture: (B, N, D) -> (B, N, N)."""
    unit = features / features.norm(dim=2, keepdim=True).clamp_min(1e-8)
    return unit @ unit.transpose(1, 2)


def structure_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of two self-similarities, (B, N, D) each -> (B,).

    It sees which places of a picture are alike, not what they look like (Tumanyan et al. 2022, arXiv 2201.00424).
    """
    return (self_similarity(first) - self_similarity(second)).square().mean((1, 2))


def judge_places(judge: Judge) -> Places:
    """Features of the judge before its last halving: of 32x32 pictures 8x8 places of 64 numbers each."""
    before = judge.body[: 4 * max(1, len(judge.widths) - 1)]

    @torch.no_grad()
    def places(pictures: Tensor) -> Tensor:
        maps = before((2 * pictures - 1).to(judge.neck.weight.dtype))
        return maps.flatten(2).transpose(1, 2)

    return places


def dino_places(folder: str | Path, device: Any = None) -> Places:
    """Keys of the last attention of a vision transformer, its class token included, at 224 pixels of the shorter side.

    Args:
        folder: a `ViTModel` of transformers, such as facebook/dino-vitb8, the one of the published tables.
        device: where it computes.

    Raises:
        FileNotFoundError, ValueError: no such folder, or one without such a model.
    """
    from fewstep.pipelines.loading import torch_device
    from fewstep.pipelines.quiet import quiet

    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} with the weights of DINO")
    where = torch_device(device)
    with quiet():
        from transformers import ViTModel

        try:
            model: Any = ViTModel.from_pretrained(
                path, add_pooling_layer=False, local_files_only=True, use_safetensors=True
            )
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(
                f"the folder {str(folder)!r} holds no vision transformer that can be read: {reason}"
            ) from error
    model = model.eval().to(where)
    keys = [module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in ("key", "k_proj")]
    if not keys:
        raise ValueError(f"the vision transformer in {str(folder)!r} has no keys of its own to compare")
    mean, deviation = (torch.tensor(values, device=where)[:, None, None] for values in (_MEAN, _DEVIATION))
    patch = int(model.config.patch_size)

    @torch.no_grad()
    def places(pictures: Tensor) -> Tensor:
        scale = 224 / min(pictures.shape[2:])
        size = [max(1, round(side * scale / patch)) * patch for side in pictures.shape[2:]]
        scaled = torch.nn.functional.interpolate(
            pictures.to(where), size, mode="bilinear", antialias=True, align_corners=False
        )
        seen: list[Tensor] = []
        hook = keys[-1].register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            model(pixel_values=(scaled - mean) / deviation, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return seen[0].flatten(2).float().cpu()

    return places


def outside(pictures: Tensor, originals: Tensor, regions: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """PSNR in dB and SSIM outside of the regions, an entry a picture; NaN where there is no region or nothing else."""
    found = {"psnr_outside": np.full(len(pictures), np.nan), "ssim_outside": np.full(len(pictures), np.nan)}
    rows = [row for row, region in enumerate(regions) if region is not None and (1 - region).any()]
    if not rows:
        return found
    rest = torch.stack([torch.from_numpy(1 - np.asarray(regions[row], dtype=np.float32)) for row in rows])[:, None]
    first, second = pictures[rows] * rest, originals[rows] * rest
    error = (first.double() - second.double()).square().mean((1, 2, 3))
    found["psnr_outside"][rows] = (-10 * error.log10()).numpy()
    if min(first.shape[-2:]) >= 11:
        from torchmetrics.functional.image import structural_similarity_index_measure

        alike: Any = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
        found["ssim_outside"][rows] = alike.numpy()
    return found


class ClipSimilarity:
    """100 times the cosine between a picture and its prompt, not below 0, picture by picture.

    Args:
        source: see `load_clip`; the published tables use openai/clip-vit-large-patch14.
        device: where it computes.
    """

    def __init__(self, source: str | Path, device: Any = None) -> None:
        from fewstep.pipelines.loading import torch_device

        from .clip_score import load_clip
        from .features import hash_of_module

        self._device = torch_device(device)
        self._model, self._processor = load_clip(source)
        self.hash = hash_of_module(self._model)
        self._model.to(self._device)

    @torch.no_grad()
    def of(self, pictures: Tensor, prompts: Sequence[str]) -> np.ndarray:
        """(B, 3, H, W) in [0, 1] and B prompts, cut to what the model reads -> (B,)."""
        longest = int(self._model.config.text_config.max_position_embeddings)
        images = list((pictures * 255).round().clamp(0, 255).to(torch.uint8))
        seen = self._processor(images=images, return_tensors="pt").to(self._device)
        read = self._processor(
            text=list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        first = self._model.get_image_features(seen["pixel_values"])
        second = self._model.get_text_features(read["input_ids"], read["attention_mask"])
        cosines = torch.nn.functional.cosine_similarity(first.double(), second.double())
        return 100 * cosines.clamp(min=0).cpu().numpy()


def judged(judge: Judge, pictures: Tensor, originals: Tensor, edits: Sequence[Any]) -> dict[str, np.ndarray]:
    """What the judge finds: whether the target is ``reached``, and whether all that was to stay is ``kept`` as it was.

    Args:
        judge: of the questions in the edits.
        pictures, originals: (B, 3, H, W) in [0, 1].
        edits: what was asked for.
    """
    now, before = judge.answers(2 * pictures - 1), judge.answers(2 * originals - 1)
    reached = [all(int(now[q][row]) == answer for q, answer in edit.wanted.items()) for row, edit in enumerate(edits)]
    kept = [all(bool(now[q][row] == before[q][row]) for q in edit.held) for row, edit in enumerate(edits)]
    found = {"reached": np.array(reached, dtype=float), "kept": np.array(kept, dtype=float)}
    return found | {"both": found["reached"] * found["kept"]}
