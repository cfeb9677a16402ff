"""A small judge of garment pictures: which garment, in which colour, on which background, and features for an FID.

It answers "did the model draw what was asked for?" without a download, and its penultimate features serve wherever a
feature network for Fréchet or kernel distances is wanted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class _Residual(nn.Module):
    """x + conv(conv(x)), each convolution with batch normalisation: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Judge(nn.Module):
    """A residual network with one linear head per question.

    Args:
        labels: the questions and their answers, for example `{"garment": ["t-shirt", ...], "colour": [...]}`.
        widths: channels after each halving of the resolution; the first works at half the size of the input.
        num_features: length F of the penultimate features.
        size: side of the square picture the network looks at, in pixels. Other sizes are resized to it.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[str]],
        widths: Sequence[int] = (32, 64, 128),
        num_features: int = 96,
        size: int = 32,
    ) -> None:
        super().__init__()
        if not labels or not all(labels.values()):
            raise ValueError("labels must name at least one question, each with at least one answer.")
        if not widths or min(widths) < 1 or num_features < 1:
            raise ValueError(f"widths and num_features must be positive, got {list(widths)} and {num_features}.")
        if size < 2 ** len(widths):
            raise ValueError(f"size must be at least {2 ** len(widths)} for {len(widths)} widths, got {size}.")
        self.labels: dict[str, list[str]] = {question: list(answers) for question, answers in labels.items()}
        self.widths = list(widths)
        self.num_features = num_features
        self.size = size
        body: list[nn.Module] = []
        previous = 3
        for width in self.widths:
            # A stride in the first convolution of each level keeps the network off the full resolution.
            body += [nn.Conv2d(previous, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            body += [_Residual(width)]
            previous = width
        self.body = nn.Sequential(*body)
        # The mean says what is there, the maximum finds the small thing that tells a shirt from a pullover.
        self.neck = nn.Linear(2 * previous, num_features)
        self.heads = nn.ModuleDict({q: nn.Linear(num_features, len(a)) for q, a in self.labels.items()})

    def features(self, pictures: Tensor) -> Tensor:
        """Penultimate features.

        Args:
            pictures: (B, 3, H, W) float in [-1, 1]; resized (bilinear, antialiased) when it is not size x size.

        Returns:
            (B, F), not normalised, in the dtype of the weights.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"pictures must have shape (B, 3, H, W), got {tuple(pictures.shape)}.")
        if not pictures.is_floating_point():
            raise ValueError(f"pictures must be float in [-1, 1], got {pictures.dtype}; use x / 127.5 - 1 for bytes.")
        if pictures.shape[-2:] != (self.size, self.size):
            pictures = F.interpolate(
                pictures.float(), (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        maps = self.body(pictures.to(self.neck.weight.dtype))
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
        return self.neck(pooled)

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Answers from features: (B, F) -> question -> (B, number of answers)."""
        return {question: head(F.relu(features)) for question, head in self.heads.items()}

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits of every question: (B, 3, H, W) in [-1, 1] -> question -> (B, number of answers)."""
        return self.logits(self.features(pictures))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` (float16) to `folder`, which is made if it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "_class_name": "Judge",
            "labels": self.labels,
            "num_features": self.num_features,
            "size": self.size,
            "widths": self.widths,
        }
        weights = {
            key: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
            for key, value in self.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Judge:
        """Read a judge that `save_pretrained` wrote. It comes back in float32 and in evaluation mode."""
        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no judge: {name} is missing.")
        try:
            config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
            arguments = {key: config[key] for key in ("labels", "widths", "num_features", "size")}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG_NAME} is not the configuration of a judge: {error}.") from error
        judge = cls(**arguments)
        try:
            weights = load_file(folder / WEIGHTS_NAME)
            judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{folder / WEIGHTS_NAME} does not hold the weights of this judge: {error}") from error
        return judge.eval()

    @torch.no_grad()
    def answers(self, pictures: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        """The likeliest answer to every question: (B, 3, H, W) in [-1, 1] -> question -> (B,) int64 on the CPU."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        found: dict[str, list[Tensor]] = {question: [] for question in self.labels}
        for start in range(0, len(pictures), batch_size):
            chunk = pictures[start : start + batch_size].to(self.neck.weight.device)
            for question, logits in self(chunk).items():
                found[question].append(logits.argmax(1).cpu())
        empty = torch.zeros(0, dtype=torch.int64)
        return {question: torch.cat(parts) if parts else empty for question, parts in found.items()}


def parameter_count(module: nn.Module) -> int:
    """Number of numbers in a module's parameters."""
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
