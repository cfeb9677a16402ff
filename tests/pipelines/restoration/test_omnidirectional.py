"""Panoramas around a pixel and a latent pipeline: turns of the input turn the output; counts, data, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewstep.pipelines.restoration.omnidirectional import OmnidirectionalWrapper
from fewstep.pipelines.restoration.spherical import side_of
from fewstep.samplers.posterior import TangentPlanes
from fewstep.samplers.posterior.operators import AveragePool, Jpeg, Mask

Make = Callable[..., Any]
H, W, POOL = 48, 96, AveragePool(4, (48, 96))
#: Rows of planes: how many each has.
ROWS = (3, 6, 6, 3)


def rows_seen(pipe: Any) -> list[int]:
    """A list whose entry is how many rows the U-Net has seen."""
    rows = [0]
    pipe.unet.register_forward_pre_hook(lambda module, given: rows.__setitem__(0, rows[0] + len(given[0])))
    return rows


def turned(planes: torch.Tensor, sixths: int) -> torch.Tensor:
    """Planes of a panorama that was turned to the east; rows of three know thirds of a turn alone."""
    parts = planes.split(ROWS)
    return torch.cat([part.roll(sixths if len(part) == 6 else sixths // 2, 0) for part in parts])


@pytest.fixture
def start() -> torch.Tensor:
    return torch.randn(18, 3, 24, 24, generator=torch.Generator().manual_seed(5))


def pair(wrapper: Any, pictures: Make, start: torch.Tensor, sixths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The result, turned; and the result for what was turned before, noise and all. No fresh noise."""
    x, more = pictures(1, H, W), {"num_inference_steps": 3, "renoise": 0.0, "method": "ddnm", "output_type": "raw"}
    columns = sixths * W // 6
    plain = wrapper(POOL.A(x), POOL, start=start, **more).images
    after = wrapper(POOL.A(x.roll(columns, -1)), POOL, start=turned(start, sixths), **more).images
    return plain.roll(columns, -1), after


def test_a_third_of_a_turn_of_the_input_is_one_of_the_output(pixel: Any, pictures: Make, start: torch.Tensor) -> None:
    """Everywhere and with all that planes tell one another: the left edge is a place like any other."""
    before, after = pair(OmnidirectionalWrapper(pixel), pictures, start, 2)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_a_sixth_of_a_turn_where_no_polar_plane_looks(pixel: Any, pictures: Make, start: torch.Tensor) -> None:
    """Six planes go round each middle row, three round the poles, which see down to 30 degrees of latitude."""
    before, after = pair(OmnidirectionalWrapper(pixel, gamma_latent=0.0), pictures, start, 1)
    band = slice(H // 2 - 8, H // 2 + 8)  # blocks of the operator, less than 30 degrees
    torch.testing.assert_close(after[..., band, :], before[..., band, :], rtol=0, atol=1e-4)
    assert not torch.allclose(after[..., :8, :], before[..., :8, :], atol=1e-2)


def test_the_edge_where_a_panorama_closes_shows_no_more_than_other_columns(pixel: Any, start: torch.Tensor) -> None:
    """Of a panorama that is the same at all longitudes: the step over the edge is that of a third of a turn away."""
    y = torch.linspace(-0.5, 0.5, H // 4)[None, None, :, None].expand(1, 3, -1, W // 4).contiguous()
    more = {"num_inference_steps": 3, "renoise": 0.0, "method": "ddnm", "output_type": "raw"}
    same = torch.cat([start[first : first + 1].expand(count, -1, -1, -1) for first, count in zip((0, 3, 9, 15), ROWS)])  # noqa: B905
    made = OmnidirectionalWrapper(pixel)(y, POOL, start=same, **more).images
    torch.testing.assert_close(made.roll(W // 3, -1), made, rtol=0, atol=1e-4)
    steps = (made - made.roll(1, -1)).abs().mean((0, 1, 2))
    assert steps[0] == pytest.approx(float(steps[W // 3]), abs=1e-4)


@pytest.mark.parametrize("attention", [False, True])
def test_calls_are_those_of_the_plan_and_the_data_are_met(
    make_pixel: Make, pictures: Make, seeded: Make, attention: bool
) -> None:
    """With attention the network is held to windows of 16 x 16 in planes of 24 x 24."""
    pipe = make_pixel(attention=attention)
    wrapper, rows, x = OmnidirectionalWrapper(pipe, batch=5), rows_seen(pipe), pictures(1, H, W)
    out = wrapper(POOL.A(x), POOL, num_inference_steps=2, num_samples=2, generator=seeded(0, 1), output_type="raw")
    plan = wrapper.plan(POOL, num_inference_steps=2, num_samples=2)
    windows = 4 if attention else 1
    assert out.forward == plan.forward == rows[0] // 2 == 2 * 18 * windows
    assert (plan.windows, plan.moves, out.settings["side"]) == (18 * windows, 4, 24)
    assert out.images.shape == (2, 3, H, W)
    assert out.residual.max() < 1e-5
    assert out.trace.shape == (2, 2)
    assert not torch.allclose(out.images[0], out.images[1], atol=1e-2)
    alone = wrapper(POOL.A(x), POOL, num_inference_steps=2, generator=seeded(1), output_type="raw")
    torch.testing.assert_close(alone.images[0], out.images[1], rtol=0, atol=1e-5)


def test_noise_in_the_measurement_lets_go_of_it(pixel: Any, pictures: Make, seeded: Make) -> None:
    x, wrapper = pictures(1, H, W), OmnidirectionalWrapper(pixel)
    off = []
    for sigma in (0.0, 1e-5, 0.3):
        out = wrapper(POOL.A(x), POOL, sigma, num_inference_steps=2, generator=seeded(0), output_type="raw")
        off.append((out.images, float(out.residual)))
    torch.testing.assert_close(off[1][0], off[0][0], rtol=0, atol=1e-3)
    assert off[2][1] > 10 * off[0][1]


def test_a_latent_pipeline_with_a_prompt(latent: Any, pictures: Make, seeded: Make) -> None:
    wrapper, rows = OmnidirectionalWrapper(latent, batch=18), rows_seen(latent)
    x, more = pictures(1, H, W), {"num_inference_steps": 2, "prompt": "a view", "guidance_scale": 2.0}
    out = wrapper(POOL.A(x), POOL, generator=seeded(0), output_type="pt", **more)
    plain = wrapper.plan(POOL, num_inference_steps=2)
    assert out.forward == wrapper.plan(POOL, **more).forward == rows[0] == 2 * plain.forward
    assert out.images.shape == (1, 3, H, W)
    assert 0 <= float(out.images.min()) <= float(out.images.max()) <= 1
    assert out.settings["guidance_scale"] == 2.0


def test_callbacks_see_planes_and_may_stop_the_run(pixel: Any, pictures: Make, seeded: Make) -> None:
    wrapper, seen = OmnidirectionalWrapper(pixel), []

    def told(given: Any, i: int, t: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert given is wrapper
        seen.append((i, tuple(tensors["latents"].shape)))
        wrapper.interrupt = i == 3
        return tensors

    x, more = pictures(2, H, W), {"num_inference_steps": 3, "output_type": "raw"}
    out = wrapper(POOL.A(x), POOL, generator=seeded(0, 1), callback_on_step_end=told, **more)
    assert seen == [(i, (18, 3, 24, 24)) for i in range(4)]
    assert out.settings["interrupted"]
    assert out.images.shape == (2, 3, H, W)
    whole = wrapper(POOL.A(x), POOL, generator=seeded(0, 1), **more)
    torch.testing.assert_close(out.images[0], whole.images[0])
    assert not whole.settings["interrupted"]
    assert torch.isfinite(out.images).all()


def test_planes_are_as_fine_as_the_equator(make_pixel: Make) -> None:
    """A plane's pixel at its centre spans the angle of a panorama's pixel, or less."""
    for width in (96, 512, 2048):
        side = side_of(make_pixel().frame, width, 75.0, None)
        planes = TangentPlanes((width // 2, width), side)
        pitch = 2 * planes.extent / side
        assert pitch <= 2 * torch.pi / width < 2 * planes.extent / (side - 2)
    assert side_of(make_pixel(attention=True).frame, 24, 75.0, None) == 16


def test_what_cannot_be_is_a_sentence(pixel: Any, latent: Any, pictures: Make, seeded: Make) -> None:
    x = pictures(1, H, W)
    for make, says in (
        (lambda: OmnidirectionalWrapper(pixel, fov=60), "70 to 120"),
        (lambda: OmnidirectionalWrapper(pixel, gamma_erp=1.5), "gamma_erp must be 0 to 1"),
        (lambda: OmnidirectionalWrapper(pixel, batch=0), "batch must be a whole number"),
        (lambda: OmnidirectionalWrapper(pixel, side=25), "divisible by 2"),
        (lambda: OmnidirectionalWrapper(pixel)(POOL.A(x), POOL, method="dps"), "data of its own"),
        (lambda: OmnidirectionalWrapper(latent)(POOL.A(x), POOL, method="stsl"), "data of its own"),
        (lambda: OmnidirectionalWrapper(pixel)(x[..., :95], Mask(torch.ones(H, 95))), "even number of columns"),
        (lambda: OmnidirectionalWrapper(pixel)(POOL.A(x), POOL, start=x), "18"),
        (lambda: OmnidirectionalWrapper(pixel)(POOL.A(x), POOL, generator=seeded(0, 1)), "2 generators"),
        (lambda: OmnidirectionalWrapper(pixel)(POOL.A(x) * torch.nan, POOL), "not finite"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    with pytest.raises(TypeError, match="linear operator"):
        OmnidirectionalWrapper(pixel)(x, Jpeg(50))
    with pytest.raises(TypeError, match="load_restoration"):
        OmnidirectionalWrapper(pixel.unet)
