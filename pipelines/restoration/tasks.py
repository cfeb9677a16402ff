"""What can be restored: tasks by name, their operators, their usual methods, and how a clean picture is degraded.

Importing this file needs no torch, so that a command line may list the tasks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fewstep.samplers.posterior.draws import Generators
    from fewstep.samplers.posterior.operators import Operator

LUMAS = ("rec601", "mean")
#: Side of a blur kernel that nobody chose: Gaussian, and synthetic motion.
_KERNEL_SIZES = {"gaussian-deblur": 61, "motion-deblur": 31}


@dataclass(frozen=True)
class Task:
    """One kind of degradation that is undone.

    Attributes:
        name: as the command line knows it.
        summary: what comes back, in half a sentence.
        words: other names of it.
        factor: how many times larger than the measurement a side of the picture is.
        options: options of `task_operator` that it listens to.
    """

    name: str
    summary: str
    words: tuple[str, ...] = ()
    factor: int = 1
    options: tuple[str, ...] = ()

    def clean_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the picture whose measurement has this height and width."""
        return self.factor * height, self.factor * width


def _enlarging(factor: int) -> Task:
    words = (f"x{factor}", f"sr-{factor}", f"{factor}x", f"upscale{factor}")
    return Task(f"sr{factor}", f"a picture {factor} times as wide and as high", words, factor, ("kernel",))


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        _enlarging(2),
        _enlarging(4),
        _enlarging(8),
        Task("inpaint", "what is missing, filled in", ("inpainting", "fill"), options=("mask",)),
        Task(
            "gaussian-deblur",
            "a picture in focus",
            ("deblur", "gaussian", "gaussian-blur"),
            options=("blur_sigma", "kernel_size"),
        ),
        Task(
            "motion-deblur",
            "a picture without camera shake",
            ("motion", "motion-blur"),
            options=("kernel_size", "kernel_file", "kernel_seed"),
        ),
        Task(
            "colorize",
            "colours for a grey picture",
            ("colorise", "colourise", "colourize", "colour"),
            options=("luma",),
        ),
        Task("denoise", "a picture without noise", ("denoising",)),
        Task("custom", "what an operator of one's own took away", (), options=("operator",)),
    )
}


def find_task(name: str | Task) -> Task:
    """A task by its name or another name of it.

    Raises:
        ValueError: unknown name; the nearest is suggested.
    """
    if isinstance(name, Task):
        return name
    key = "-".join(str(name).strip().lower().replace("_", "-").split())
    found = next((task for task in TASKS.values() if key == task.name or key in task.words), None)
    if found is not None:
        return found
    near = difflib.get_close_matches(key, [word for task in TASKS.values() for word in (task.name, *task.words)], n=1)
    hint = f", did you mean {find_task(near[0]).name!r}?" if near else "."
    raise ValueError(f"unknown task {name!r}{hint} Known are {', '.join(TASKS)}")


def task_operator(
    name: str | Task,
    size: tuple[int, int],
    *,
    kernel: str = "bicubic",
    mask: Any = None,
    blur_sigma: float = 3.0,
    kernel_size: int | None = None,
    kernel_file: str | Path | None = None,
    kernel_seed: int = 0,
    luma: str = "rec601",
    operator: str | None = None,
) -> Operator:
    """The operator A of a task, for pictures of this size; options that a task does not listen to are left aside.

    Args:
        name: of the task.
        size: (H, W) of the clean picture.
        kernel: sr2, sr4, sr8: ``bicubic``, ``lanczos`` or ``area`` (means of blocks), antialiased.
        mask: inpaint: (H, W), (1, H, W) or (B, 1, H, W), 1 = known, 0 = missing.
        blur_sigma: gaussian-deblur: of the Gaussian, in pixels. Its border is mirrored, and its spectrum exact.
        kernel_size: side of the kernel in pixels, odd; by default 61 (Gaussian) and 31 (motion).
        kernel_file: motion-deblur: a grey picture or a .npy array of the kernel; see `kernels.read_kernel`.
        kernel_seed: motion-deblur without a file: seed of a synthetic camera shake.
        luma: colorize: weights of red, green and blue, ``rec601`` (0.299, 0.587, 0.114) or ``mean``.
        operator: custom: ``module:function``, called with `size` as (H, W) if it takes a parameter of that name; what
            it returns has ``A`` (and ``A_adjoint``, if linear) for pictures in [-1, 1].

    Raises:
        ValueError, FileNotFoundError, TypeError: an unknown task, an option that is missing or out of range.
    """
    import torch

    from fewstep.samplers.posterior import operators

    task = find_task(name)
    height, width = size
    if task.factor > 1:
        if kernel == "area" and height % task.factor == 0 and width % task.factor == 0:
            return operators.AveragePool(task.factor, size)
        return operators.Resample(size, task.factor, kernel)
    if task.name == "inpaint":
        if mask is None:
            raise ValueError("inpaint needs a mask that says what is missing")
        return operators.Mask(torch.as_tensor(mask))
    if task.name == "gaussian-deblur":
        return operators.GaussianBlur(size, blur_sigma, kernel_size or _KERNEL_SIZES[task.name])
    if task.name == "motion-deblur":
        if kernel_file is not None:
            from .kernels import read_kernel

            return operators.MirrorBlur(read_kernel(kernel_file), size)
        return operators.MirrorBlur(operators.motion_kernel(kernel_size or _KERNEL_SIZES[task.name], kernel_seed), size)
    if task.name == "colorize":
        from fewstep.samplers.core.registry import nearest

        if luma not in LUMAS:
            raise ValueError(f"unknown luma {luma!r}{nearest(str(luma), LUMAS)} Known are {', '.join(LUMAS)}")
        return operators.Grey() if luma == "rec601" else operators.Grey.mean()
    if task.name == "denoise":
        return operators.Identity()
    if operator is None:
        raise ValueError("custom needs an operator of yours, named module:function")
    return operators.load_operator(operator, **_size_wanted(operator, size))


def _size_wanted(operator: str, size: tuple[int, int]) -> dict[str, Any]:
    """{"size": (H, W)} if the function that makes an operator takes it."""
    import importlib
    import inspect

    module, _, function = operator.partition(":")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    except Exception:  # `load_operator` says what is wrong with it
        return {}
    return {"size": size} if "size" in parameters else {}


#: What restores a picture best with the prior that ships, by luma PSNR: fields of dpir, calls. (Colours, by the PSNR of
#: theirs, are better drawn: a grey picture without noise is nothing that the network has seen.)
_ESTIMATES: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "sr2": ({"strongest": 0.4}, 8),
    "sr4": ({"strongest": 1.6}, 8),
    "sr8": ({"strongest": 0.8}, 16),
    "inpaint": ({"strongest": 1.0, "weakest": 0.015, "relaxation": 1.6}, 24),
    "gaussian-deblur": ({"strongest": 0.4, "prior_weight": 0.16}, 8),
    "motion-deblur": ({"strongest": 0.4, "prior_weight": 0.25}, 8),
    "denoise": ({}, 8),
}


def task_defaults(
    name: str | Task, noise_sigma: float = 0.0, space: str = "pixel", several: bool = False, local: bool = True
) -> tuple[str, Mapping[str, Any], int]:
    """What restores best when nobody chooses: (posterior method, its fields, steps).

    One picture is an estimate near the mean of all that it may have been, by `dpir`, which is the same for every seed;
    several, and colours, are draws, which differ where the data leave it open.

    Args:
        name: of the task.
        noise_sigma: standard deviation of the noise in [-1, 1]; that of 8 bits counts as none here.
        space: ``"pixel"``, or ``"latent"`` for a prior with an autoencoder.
        several: whether several pictures are asked for.
        local: whether the model knows close-ups, which have no way up, as a network of convolutions alone does; the
            pictures of another one are not turned.

    Raises:
        ValueError: unknown task or space.
    """
    task = find_task(name)
    if space not in ("pixel", "latent"):
        raise ValueError(f"a prior is of 'pixel' or 'latent' space, got {space!r}")
    if space == "latent":
        return "stsl", {}, 50
    from fewstep.samplers.posterior.problem import EIGHT_BIT_SIGMA

    if task.name == "custom":
        return "dps", {}, 100
    noisy = noise_sigma > EIGHT_BIT_SIGMA * (1 + 1e-6)
    if task.name == "colorize":
        return ("ddnm-plus", {}, 25) if noisy else ("ddnm", {"renoise": 1.0}, 25)
    if not several:
        fields, steps = _ESTIMATES[task.name]
        return "dpir", {**fields, "turns": True} if local and steps > 1 else fields, steps
    if task.name == "motion-deblur":  # whose singular values are not known
        return "red-diff", {}, 100
    return "ddnm-plus" if noisy or task.name in ("gaussian-deblur", "denoise") else "ddnm", {}, 25


def degrade(
    task: str | Task,
    clean01: torch.Tensor,
    operator: Operator | Any,
    noise_sigma: float = 0.0,
    generator: Generators = None,
) -> torch.Tensor:
    """The measurement of a clean picture: A(2 x - 1) + noise_sigma n, in the scale of [-1, 1].

    Args:
        task: its name; of inpaint the missing pixels stay 0, without noise.
        clean01: (B, 3, H, W) in [0, 1].
        operator: A.
        noise_sigma: standard deviation in [-1, 1]: twice that in [0, 1].
        generator: of the noise: one a picture, one for all, or none.

    Raises:
        ValueError: noise that is negative or no finite number, a picture that the operator does not take.
    """
    from fewstep.samplers.posterior.draws import Draws
    from fewstep.samplers.posterior.operators import as_operator

    if not (math.isfinite(noise_sigma) and noise_sigma >= 0):
        raise ValueError(f"the noise must be a finite number of at least 0, got {noise_sigma!r}")
    made = as_operator(operator)
    measurement = made.A(2 * clean01 - 1)
    if noise_sigma == 0:
        return measurement
    noise = noise_sigma * Draws(generator).normal(measurement)
    return measurement + (made.A(noise) if find_task(task).name == "inpaint" else noise)
