"""Tangent planes of panoramas: geometry against spherical harmonics, and restoration by planes that agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep.samplers import GridOptions, generators, make_grid
from fewstep.samplers.core import oracle
from fewstep.samplers.posterior import posterior_method
from fewstep.samplers.posterior.omnidirectional import run_omnidirectional
from fewstep.samplers.posterior.operators import AveragePool, Jpeg, Resample
from fewstep.samplers.posterior.sphere import TangentPlanes, _sampled, wrapped
from problems import PROCESSES

H, W, SIDE = 48, 96, 24


def directions(size=(H, W)):
    """Unit vectors (x, y, z) of the pixels, z to the north pole."""
    p = (0.5 - (np.arange(size[0]) + 0.5) / size[0]) * math.pi
    q = (np.arange(size[1]) + 0.5) / size[1] * 2 * math.pi - math.pi
    p, q = np.meshgrid(p, q, indexing="ij")
    return np.cos(p) * np.cos(q), np.cos(p) * np.sin(q), np.sin(p)


def harmonics(size=(H, W)) -> torch.Tensor:
    """Real spherical harmonics of degree 1 to 3 as polynomials of the direction, one a channel."""
    x, y, z = directions(size)
    parts = [x, y, z, x * y, y * z, x * x - y * y, 1.5 * z * z - 0.5, x * (5 * z * z - 1) / 2, x * y * z]
    return torch.from_numpy(np.stack(parts))[None] / 2


def test_harmonics_survive_the_way_to_the_planes_and_back():
    truth = harmonics()
    planes = TangentPlanes((H, W), SIDE)
    back = planes.panorama(planes.planes(truth))
    assert (back - truth).abs().max() < 1e-2
    assert (back - truth).square().mean().sqrt() < 2e-3


def test_interpolation_gives_quadratics_exactly():
    """Keys' kernel is of third order; that of torch's grid_sample is not."""
    generator = torch.Generator().manual_seed(0)
    r, c = torch.meshgrid(torch.arange(12.0).double(), torch.arange(15.0).double(), indexing="ij")
    places = 2 + torch.rand(40, 3, 2, generator=generator, dtype=torch.float64) * torch.tensor([6.9, 9.9])
    of = lambda r, c: 1 - 0.3 * r + 0.7 * c + 0.05 * r * r - 0.02 * c * c + 0.1 * r * c  # noqa: E731
    found = _sampled(of(r, c)[None, None], places)
    torch.testing.assert_close(found[0, 0], of(places[..., 0], places[..., 1]), rtol=1e-12, atol=1e-12)


def test_a_plane_sees_directions_as_the_gnomonic_projection_says():
    truth, side = torch.from_numpy(np.stack(directions((256, 512))))[None], 9
    planes = TangentPlanes((256, 512), side)
    seen = planes.planes(truth)
    tangent = math.tan(math.radians(75) / 2)
    line = ((np.arange(side) + 0.5) * 2 / side - 1) * tangent
    for (p, q), plane in zip(planes.centres, seen, strict=True):
        ahead = np.array([math.cos(p) * math.cos(q), math.cos(p) * math.sin(q), math.sin(p)])
        east = np.array([-math.sin(q), math.cos(q), 0.0])
        north = np.cross(ahead, east)
        rays = ahead + line[None, :, None] * east - line[:, None, None] * north
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        np.testing.assert_allclose(plane.movedim(0, -1).numpy(), rays, atol=1e-3)


@pytest.mark.parametrize("fov", [70.0, 75.0, 90.0])
def test_planes_cover_the_sphere_and_constants_stay(fov):
    planes = TangentPlanes((H, W), SIDE, fov)
    assert planes.coverage() == 1.0
    ones = torch.ones(1, 2, H, W, dtype=torch.float64)
    torch.testing.assert_close(planes.panorama(planes.planes(ones)), ones)


def test_a_turn_by_a_sixth_moves_the_middle_planes_onto_each_other():
    truth = torch.randn(1, 1, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planes = TangentPlanes((H, W), SIDE)
    seen, turned = planes.planes(truth), planes.planes(truth.roll(W // 6, -1))
    for first in (3, 9):
        torch.testing.assert_close(turned[first : first + 6], seen[first : first + 6].roll(1, 0))
    back = planes.panorama(seen)
    third = planes.panorama(planes.planes(truth.roll(W // 3, -1))).roll(-(W // 3), -1)
    torch.testing.assert_close(third, back)  # every row of planes is its own after a third of a turn


def test_beyond_the_borders_lie_the_other_side_and_the_other_half_of_the_pole():
    truth = harmonics()
    around = wrapped(truth, 3)
    larger = torch.from_numpy(np.stack(directions())[:, :, :])[None]
    assert torch.equal(around[..., 3:-3, :3], truth[..., -3:])
    steps = wrapped(larger, 3).diff(dim=-2).abs().amax((0, 1, 3))
    assert steps.max() <= 1.01 * larger.diff(dim=-2).abs().max()  # no step over the poles


def smooth(count: int = 1) -> torch.Tensor:
    return harmonics()[:, :3].repeat(count, 1, 1, 1).contiguous()


def solve(operator, y, steps=8, **options):
    process = PROCESSES["vp"]()
    prior = oracle.gaussian(process, torch.zeros(3 * SIDE * SIDE).double(), 0.4)
    grid = make_grid(process, steps, GridOptions(spacing="logsnr"))
    options.setdefault("generator", generators(range(len(y))))
    return run_omnidirectional(prior, process, grid, operator, y, size=(H, W), side=SIDE, **options)


@pytest.mark.parametrize("operator", [AveragePool(4, (H, W)), Resample((H, W), 2)], ids=["pool", "bicubic"])
def test_panoramas_meet_their_data_and_close_at_the_back(operator):
    truth = smooth(2)
    y = operator.A(truth)
    result = solve(operator, y, batch=4)
    assert (y - operator.A(result.sample)).norm() / y.norm() < 1e-4
    assert result.trace.shape == (8, 2)
    assert result.forward == 16
    steps = torch.cat([result.sample, result.sample[..., :1]], -1).diff(dim=-1).abs().mean((0, 1, 2))
    blocks = steps[3::4] if isinstance(operator, AveragePool) else steps
    assert steps[-1] <= blocks[:-1].mean()
    assert not torch.equal(result.sample[0], result.sample[1])
    alone = solve(operator, y[1:], generator=generators([1]), batch=18)
    torch.testing.assert_close(alone.sample[0], result.sample[1], rtol=1e-6, atol=1e-7)


def test_without_interaction_planes_are_independent_and_with_it_they_agree():
    operator = AveragePool(4, (H, W))
    y = operator.A(smooth())
    off = [float(solve(operator, y, gamma_latent=g, gamma_post=0.0).trace[-1]) for g in (0.0, 0.5, 1.0)]
    assert off[0] > 2 * off[1] > 2 * off[2]
    first, second = (solve(operator, value, gamma_latent=0.0, gamma_post=0.0, gamma_erp=g).sample
                     for value, g in ((y, 1.0), (y, 0.0)))  # fmt: skip
    assert torch.equal(first, second)  # data that nothing looks at


def test_a_latent_prior_is_decoded_and_encoded():
    operator = AveragePool(4, (H, W))
    y = operator.A(smooth())
    pixel = solve(operator, y)
    latent = solve(operator, y, decode=lambda z: z * 1.0, encode=lambda x: x * 1.0)
    assert torch.equal(pixel.sample, latent.sample)


def test_noise_in_the_measurement_is_no_signal():
    """Below the noise of y the panorama is not drawn to y: the misfit is about that noise, and nothing without it."""
    operator, noise = AveragePool(4, (H, W)), torch.Generator().manual_seed(9)
    y = operator.A(smooth())
    y = y + 0.2 * torch.randn(y.shape, generator=noise, dtype=y.dtype)
    exact, noisy = solve(operator, y), solve(operator, y, sigma_y=0.2)
    tiny = solve(operator, y, sigma_y=1e-6)
    assert exact.residual < 1e-6 < 0.05 < noisy.residual
    torch.testing.assert_close(tiny.sample, exact.sample, rtol=0, atol=1e-4)


def test_told_noise_brings_the_panorama_nearer_where_the_prior_is_right():
    """A white prior of deviation 0.4 about the true planes, blocks of 16 pixels, noise of 0.2 in their means.

    A mean of 16 pixels has the prior variance 0.01, which noise of 0.04 tells little of: the posterior shrinks the
    measured deviations to 0.01 / (0.01 + 0.04) of what they are, and its draws are off by 0.09 where y is off by 0.2.
    (About zero the same prior shrinks the truth itself, and then it is no nearer to be told.)
    """
    operator, noise, truth = AveragePool(4, (H, W)), torch.Generator().manual_seed(9), smooth()
    y = operator.A(truth)
    y = y + 0.2 * torch.randn(y.shape, generator=noise, dtype=y.dtype)
    process, centre = PROCESSES["vp"](), TangentPlanes((H, W), SIDE).planes(truth)
    white = oracle.gaussian(process, torch.zeros(3 * SIDE * SIDE).double(), 0.4)

    def prior(x, timestep):  # of eps: that of a sample less the mean
        return white(x - process.at(timestep).alpha * centre, timestep)

    def off(sigma_y):
        made = run_omnidirectional(
            prior, process, make_grid(process, 8, GridOptions(spacing="logsnr")), operator, y, size=(H, W), side=SIDE,
            batch=18, sigma_y=sigma_y, generator=generators([0]),
        )  # fmt: skip
        return (operator.A(made.sample) - operator.A(truth)).square().mean().sqrt(), (made.sample - truth).norm()

    (told, whole), (exact, projected) = off(0.2), off(0.0)
    assert exact == pytest.approx(0.2, rel=0.1)  # the noise of y: four standard errors of 864 numbers
    assert told < (0.09 + 0.2) / 2
    assert whole < projected


def test_planes_of_ones_own_and_a_callback():
    operator, seen = AveragePool(4, (H, W)), []
    y = operator.A(smooth(2))
    start = torch.randn(36, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    walk = posterior_method("ddnm", renoise=0.0)
    made = solve(operator, y, start=start, method=walk, callback=lambda i, moved: seen.append((i, len(moved.x))))
    assert seen == [(i, 18) for i in range(16)]
    alone = solve(operator, y[1:], start=start[18:], method=walk)
    assert torch.equal(alone.sample[0], made.sample[1])
    with pytest.raises(ValueError, match="2 panoramas have 36"):
        solve(operator, y, start=start[:18])


def test_what_panoramas_refuse():
    operator = AveragePool(4, (H, W))
    y = operator.A(smooth())
    for options, says in (
        ({"gamma_erp": 1.5}, "gamma_erp must be 0 to 1"),
        ({"decode": lambda z: z}, "both a decoder and an encoder"),
        ({"fov": 60}, "70 to 120"),
        ({"batch": 0}, "at least one plane"),
        ({"generator": generators(range(3))}, "3 generators"),
        ({"method": posterior_method("psld")}, "data of its own"),
        ({"method": posterior_method("dps")}, "data of its own"),
        ({"method": posterior_method("daps")}, "data of its own"),
    ):
        with pytest.raises(ValueError, match=says):
            solve(operator, y, **options)
    with pytest.raises(ValueError, match="finite"):
        solve(operator, y * math.nan)
    with pytest.raises(TypeError, match="linear"):
        solve(Jpeg(50), smooth())
