"""Classical restoration, which needs no network: bicubic, biharmonic, total variation, Wiener, and greyscale as it is.

All take and give pictures (B, C, H, W) in [0, 1]. Noise is a standard deviation in the same scale, in which one step
of a byte is 1 / 255. Total variation, biharmonic filling and the Wiener filter are scikit-image's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.posterior.operators import gaussian_kernel


@dataclass(frozen=True)
class Weight:
    """A weight that was tuned at one noise.

    Attributes:
        value: the best by luma PSNR on Kodak photographs 1 to 18; `photo_prior_measure` says how it was found.
        noise: of that measurement, in the scale of [0, 1].
        power: of the noise that the weight follows.
    """

    value: float
    noise: float
    power: float = 1.0

    def at(self, noise: float) -> float:
        """The weight for another noise."""
        return self.value * (max(noise, 1e-3) / self.noise) ** self.power


#: Task and method -> weight. That of Wiener is the balance.
WEIGHTS: dict[tuple[str, str], Weight] = {
    ("denoise", "total variation"): Weight(0.06, 25 / 255),
    ("denoise", "wiener"): Weight(0.15, 25 / 255, 2.0),
    ("gaussian-deblur", "total variation"): Weight(3e-4, 2.55 / 255, 2.0),
    ("gaussian-deblur", "wiener"): Weight(6e-3, 2.55 / 255, 2.0),
    ("motion-deblur", "total variation"): Weight(1e-3, 2.55 / 255, 2.0),
    ("motion-deblur", "wiener"): Weight(3e-2, 2.55 / 255, 2.0),
}


def restore_classically(
    method: str, task: str, y: Tensor, operator: Any, noise: float, size: tuple[int, int], weight: float | None = None
) -> Tensor:
    """What a classical method makes of a measurement.

    Args:
        method: ``bicubic``, ``bicubic projected``, ``biharmonic``, ``total variation``, ``wiener`` or ``grey``.
        task: of `restoration_contenders.DEGRADATIONS`.
        y: in the scale of [0, 1].
        operator: A.
        noise: standard deviation in the scale of [0, 1].
        size: (H, W) of the result.
        weight: of total variation and Wiener; by default that of `WEIGHTS`.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: a method that is not for this task.
    """
    if method in ("total variation", "wiener"):
        weight = WEIGHTS[task, method].at(noise) if weight is None else weight
        blur = None if task == "denoise" else operator
        if method == "wiener":
            return wiener(y, blur, weight)
        return total_variation(y, weight) if blur is None else total_variation_deblurred(y, blur, weight)
    if method == "bicubic":
        return bicubic(y, size)
    if method == "bicubic projected":
        return operator.project(bicubic(y, size), y)
    if method == "biharmonic":
        return biharmonic(y, operator.A(torch.ones(len(y), 1, *size)))
    if method == "grey":
        return y.expand(-1, 3, -1, -1)
    raise ValueError(f"there is no classical method {method!r}")


def _scikit_image() -> Any:
    try:
        import skimage.restoration
    except ImportError:
        raise ImportError(
            "the classical baselines need scikit-image, which is not installed: pip install 'fewstep[eval]'"
        ) from None
    return skimage.restoration


def _each(function: Callable[[np.ndarray], np.ndarray], pictures: Tensor) -> Tensor:
    """Apply a function of one picture (H, W, C) in float64 to every picture."""
    arrays = pictures.double().permute(0, 2, 3, 1).numpy()
    made = np.stack([function(array) for array in arrays])
    return torch.from_numpy(made).permute(0, 3, 1, 2).to(pictures.dtype)


def bicubic(y: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge by the cubic of Keys with a = -1/2, the one of Pillow and MATLAB."""
    # torch takes a = -3/4 unless it is to antialias, which when enlarging changes nothing else
    return torch.nn.functional.interpolate(y, size=size, mode="bicubic", antialias=True, align_corners=False)


def biharmonic(y: Tensor, known: Tensor) -> Tensor:
    """Fill missing pixels with the solution of the biharmonic equation (Damelin, Hoang, 2018; scikit-image).

    Args:
        y: pictures; what stands in missing pixels does not matter.
        known: (H, W), (1, H, W) or (B, 1, H, W), 1 where the pixel is known.
    """
    missing = (known.reshape(-1, *known.shape[-2:]) == 0).numpy()
    restoration = _scikit_image()
    rows = []
    for k, picture in enumerate(y.double().permute(0, 2, 3, 1).numpy()):
        rows.append(restoration.inpaint_biharmonic(picture, missing[k % len(missing)], channel_axis=-1))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).to(y.dtype)


def total_variation(y: Tensor, weight: float, steps: int = 200) -> Tensor:
    """argmin_x TV(x) weight + |x - y|^2 / 2, each channel by itself (Chambolle, 2004; scikit-image).

    Args:
        y: noisy pictures.
        weight: more is smoother, above 0.
        steps: most iterations.
    """
    restoration = _scikit_image()
    return _each(
        lambda a: restoration.denoise_tv_chambolle(a, weight=weight, eps=1e-5, max_num_iter=steps, channel_axis=-1), y
    )


def total_variation_deblurred(
    y: Tensor, operator: Any, weight: float, *, penalty: float = 0.05, steps: int = 30
) -> Tensor:
    """argmin_x TV(x) weight + |A x - y|^2 / 2 by ADMM: scikit-image's TV, and the exact proximal map of A.

    x = prox_A(z - u),  z = TV(x + u, weight / penalty),  u += x - z   (Boyd et al., 2011).

    Args:
        y: measurement, as large as the picture.
        operator: blur, of `fewstep.samplers.posterior.operators`.
        weight: of the total variation, above 0.
        penalty: of the splitting; changes how fast it converges, not what to.
        steps: iterations.
    """
    z, u = y, torch.zeros_like(y)
    for _ in range(steps):
        x = operator.prox_l2(z - u, y, 1 / penalty)
        z = total_variation(x + u, weight / penalty, 20)
        u = u + x - z
    return z


def wiener(y: Tensor, operator: Any, balance: float) -> Tensor:
    """Wiener filter of a blur with a mirrored border and of noise: x^ = s y^ / (s^2 + balance |l|^2).

    l is the transfer function of the Laplacian, which stands for the spectrum of noise over that of photographs
    (Orieux, Giovannelli, Rodet, 2010, the filter of scikit-image). The picture is mirrored at its borders, as in the
    blur.

    Args:
        y: measurement.
        operator: blur with `kernel` (or Gaussian sigma) that keeps the size; None for none.
        balance: of smoothness against the data, above 0.
    """
    restoration = _scikit_image()
    kernel = np.ones((1, 1)) if operator is None else kernel_of(operator)
    height, width = y.shape[-2:]

    def restored(picture: np.ndarray) -> np.ndarray:
        rows = []
        for channel in np.moveaxis(picture, -1, 0):
            canvas = np.pad(channel, [(0, height), (0, width)], mode="symmetric")  # one period of the mirrored picture
            rows.append(restoration.wiener(canvas, kernel, balance, clip=False)[:height, :width])
        return np.stack(rows, -1)

    return _each(restored, y)


def kernel_of(operator: Any) -> np.ndarray:
    """The kernel of a blur, (h, w), sum 1."""
    if hasattr(operator, "kernel") and isinstance(operator.kernel, Tensor):
        return operator.kernel.numpy()
    line = gaussian_kernel(operator.sigma, operator.kernel_size // 2).numpy()
    return np.outer(line, line)
