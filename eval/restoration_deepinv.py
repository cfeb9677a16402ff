"""deepinv's own DPS, DiffPIR and DDRM (BSD-3-Clause) as rivals, where that package is installed.

It takes any denoiser and any physics in the scale of [0, 1]: here the network of the pipeline, and the operator of the
comparison. Its pictures are made by its code alone. Written for deepinv 0.5, which imports torchvision.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.samplers.posterior.operators import LinearOperator, unit_measurement

if TYPE_CHECKING:
    from .restoration_problem import Restored


def missing_deepinv() -> str | None:
    """Why deepinv's methods cannot be had, or None."""
    missing = [name for name in ("deepinv", "torchvision") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"deepinv's DPS, DiffPIR and DDRM are left out: {' and '.join(missing)} {verb} not installed"


class UnitDenoiser(nn.Module):
    """E[x | x + sigma n] for pictures in [0, 1], from a network for pictures in [-1, 1]: what deepinv calls a denoiser.

    Args:
        unet: of a pixel pipeline; its sides are multiples of 8.
        process: `VPDiscrete` that says what it predicts.

    Attributes:
        forward_calls: evaluations so far.
    """

    def __init__(self, unet: Any, process: Any) -> None:
        super().__init__()
        self.unet, self.process, self.forward_calls = unet, process, 0

    def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
        """Args:
        x: (B, 3, H, W), a picture in [0, 1] and noise.
        sigma: standard deviation of the noise in the same scale, one for all.
        """
        level = 2 * float(torch.as_tensor(sigma).flatten()[0])
        if level <= 0:
            return x
        self.forward_calls += 1
        table = self.process.alphas_cumprod
        node = self.process.at_sigma(min(level, (1 / table[-1] - 1) ** 0.5 if table[-1] > 0 else 1e4))
        sample = node.alpha * (2 * x - 1)
        said = self.unet(sample.to(self.unet.dtype), node.timestep).sample[:, : x.shape[1]].to(x.dtype)
        found = self.process.x0(node)
        return (found.of_sample * sample + found.of_output * said + 1) / 2


def unit_physics(operator: LinearOperator, size: tuple[int, int, int], sigma: float) -> Any:
    """An operator of ours as deepinv's `LinearPhysics`, with Gaussian noise of `sigma` in the scale of [0, 1]."""
    import deepinv

    physics = deepinv.physics.LinearPhysics(
        A=operator.A, A_adjoint=operator.A_adjoint, img_size=size, noise_model=deepinv.physics.GaussianNoise(sigma)
    )
    physics.prox_l2 = lambda z, y, gamma, **_: operator.prox_l2(z, y, float(gamma))
    physics.A_dagger = lambda y, **_: operator.A_dagger(y)
    return physics


def restore_with_deepinv(
    pipe: Any, name: str, operators: Sequence[Any], y: Tensor, sigma: float, calls: int, seeds: Sequence[int]
) -> Restored:
    """What deepinv's sampler makes of a measurement in [-1, 1], one picture after the other.

    Args:
        pipe: pixel restoration pipeline.
        name: ``DPS``, ``DiffPIR`` or ``DDRM``.
        operators: A of every picture, linear.
        y: in the scale of [-1, 1].
        sigma: of its noise, in the same scale.
        calls: evaluations for one picture; DPS spends half of them backwards.
        seeds: one a picture.

    Raises:
        ValueError: DDRM, whose physics must be one of deepinv's with a singular value decomposition, for another one.
    """
    import deepinv
    import numpy as np

    from fewstep.pipelines.restoration.schedule import process_of

    from .restoration_problem import Restored, misfit

    shape = operators[0].picture_shape(y)
    denoiser = UnitDenoiser(pipe.unet, process_of(pipe.scheduler))
    begin, pictures, off = time.perf_counter(), [], []
    for k, (seed, operator) in enumerate(zip(seeds, operators, strict=True)):
        torch.manual_seed(seed)
        measured = y[k : k + 1]
        unit = unit_measurement(operator, measured, torch.zeros(1, *shape))
        fidelity, noise = deepinv.optim.data_fidelity.L2(), max(sigma / 2, 1e-3)
        if name == "DDRM":
            physics = _decomposable(operator, shape, noise)
            found = deepinv.sampling.DDRM(denoiser, sigmas=np.linspace(1, 0, calls + 1))(unit, physics)
        elif name == "DiffPIR":
            physics = unit_physics(operator, shape, noise)
            start = operator.A_dagger(unit, 0.03)
            found = deepinv.sampling.DiffPIR(denoiser, fidelity, sigma=noise, max_iter=calls)(
                unit, physics, x_init=start
            )
        else:
            physics = unit_physics(operator, shape, noise)
            sampler = deepinv.sampling.DPS(  # n times have n - 1 steps
                denoiser, num_steps=calls // 2 + 1, dtype=torch.float32, rng=torch.Generator().manual_seed(seed)
            )
            found = sampler(unit, physics, x_init=(1, *shape))
        pictures.append(found.detach().float().cpu().clamp(0, 1))
        off.append(misfit(operator, measured, pictures[-1]))
    seconds = time.perf_counter() - begin
    forward = -(-denoiser.forward_calls // len(seeds))
    backward = forward if name == "DPS" else 0
    return Restored(torch.cat(pictures), torch.cat(off), forward, backward, seconds)


def _decomposable(operator: Any, shape: tuple[int, int, int], sigma: float) -> Any:
    import deepinv

    from fewstep.samplers.posterior.operators import Identity, Mask

    noise = deepinv.physics.GaussianNoise(sigma)
    if isinstance(operator, Identity):
        return deepinv.physics.Denoising(noise)
    if isinstance(operator, Mask):
        known = operator.mask.like(torch.zeros(1))[0]
        return deepinv.physics.Inpainting(shape, mask=known.expand(shape), noise_model=noise)
    raise ValueError(f"deepinv's DDRM needs a decomposition of its own, and {operator.name} is not of that package")
