"""Degrading and restoring pictures: the seeds, the noise, the figures, the counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fewstep.eval.restoration_contenders import DEFAULT, DEGRADATIONS, Restorer, check_degradations, restorers, select
from fewstep.eval.restoration_deepinv import UnitDenoiser, missing_deepinv
from fewstep.eval.restoration_problem import (
    Degradation,
    degradation,
    drawn_pictures,
    figures,
    luma,
    method_of,
    misfit,
    psnr,
    read_pictures,
    restore,
    steps_within,
)
from fewstep.samplers.core import oracle
from fewstep.samplers.posterior import posterior_method, posterior_methods
from problems import PROCESSES


@pytest.fixture(scope="module")
def clean():
    return torch.stack(drawn_pictures(3, 32))


@pytest.fixture(scope="module")
def pipe():
    from diffusers import DDPMScheduler, UNet2DModel

    from fewstep.pipelines import PixelRestorationPipeline

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32, block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, add_attention=False,
    )  # fmt: skip
    made = PixelRestorationPipeline(unet.eval(), DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    made.set_progress_bar_config(disable=True)
    return made


def test_pictures_by_formula_are_repeatable_and_differ():
    one, two = drawn_pictures(2, 16), drawn_pictures(3, 16)
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], one[1])
    assert all(float(p.min()) >= 0 and float(p.max()) <= 1 and p.shape == (3, 16, 16) for p in two)


@pytest.mark.parametrize("task", DEGRADATIONS)
def test_a_degraded_picture_is_a_function_of_picture_and_seed(clean, task):
    what = degradation(task, 25.0, 2.55)
    _, together = what.measured(clean, [4, 5, 6])
    operator, alone = what.measured(clean[1:2], [5])
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=0)
    assert operator.A(2 * clean[1:2] - 1).shape == alone.shape


def test_noise_and_missing_pixels_are_as_told():
    """Half of 128 x 128 pixels within four standard errors; the deviation of 3 x 128 x 128 numbers likewise."""
    clean = torch.full((1, 3, 128, 128), 0.5)
    operator, y = Degradation("inpaint").measured(clean, [0])
    known = operator.A(torch.ones_like(clean))
    assert abs(float(known.mean()) - 0.5) < 4 * 0.5 / 128
    assert torch.equal(known[:, 0], known[:, 2])
    _, y = degradation("denoise", 25.0, 2.55).measured(clean, [0])
    count = 3 * 128 * 128
    assert abs(float(y.std()) - 50 / 255) < 4 * (50 / 255) / (2 * count) ** 0.5


def test_figures_are_those_of_torchmetrics(clean):
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found = figures(noisy, clean)
    for k in range(len(clean)):
        pair = noisy[k : k + 1].double(), clean[k : k + 1].double()
        torch.testing.assert_close(found["psnr"][k], peak_signal_noise_ratio(*pair, data_range=1.0))
        torch.testing.assert_close(found["ssim"][k], structural_similarity_index_measure(*pair, data_range=1.0))
        grey = [(0.299 * p[:, 0] + 0.587 * p[:, 1] + 0.114 * p[:, 2])[:, None] for p in pair]
        torch.testing.assert_close(
            found["psnr_luma"][k], peak_signal_noise_ratio(*grey, data_range=1.0), rtol=1e-5, atol=0
        )
    assert float(psnr(luma(clean), luma(clean)).min()) > 150


def test_the_true_picture_has_the_residual_of_the_noise(clean):
    what = Degradation("denoise", 10.0)
    operator, y = what.measured(clean, [0, 1, 2])
    off = misfit(operator, y, clean)
    count = clean[0].numel()
    assert float((off - what.sigma).abs().max()) < 4 * what.sigma / (2 * count) ** 0.5


@pytest.mark.parametrize(
    ("name", "fields", "steps"),
    [("ddnm", {}, 12), ("dps", {}, 6), ("moment-matching", {"iterations": 2}, 3), ("daps", {}, 3),
     ("ddnm", {"travel_length": 2, "travel_repeats": 2}, 6)],
)  # fmt: skip
def test_as_many_noise_levels_as_fit_are_taken(pipe, name, fields, steps):
    """12 evaluations: one a level; one and one back; one and three back; five a level, and one at the last, whose
    noise is below ratio_min; levels and most of them again (6 levels: jumps of 2 at places 0 and 2, 6 + 4 = 10;
    7 levels: 7 + 6 = 13)."""
    operator = Degradation("sr2").operator((32, 32), [0])
    found = steps_within(pipe, operator, (32, 32), 12, method=posterior_method(name, **fields))
    plan = pipe.plan(operator, method=posterior_method(name, **fields), num_inference_steps=found)
    more = pipe.plan(operator, method=posterior_method(name, **fields), num_inference_steps=found + 1)
    assert plan.forward + plan.backward <= 12 < more.forward + more.backward
    assert found == steps


@pytest.mark.parametrize("task", ["sr2", "inpaint", "denoise"])
@pytest.mark.parametrize("draws", [1, 2])
def test_calls_are_those_at_the_network_and_all_draws_are_paid(pipe, clean, task, draws):
    rows = [0]
    hook = pipe.unet.register_forward_pre_hook(lambda module, given: rows.__setitem__(0, rows[0] + len(given[0])))
    what = degradation(task, 25.0, 2.55)
    made = Restorer("x", "diffpir", draws=draws)
    try:
        found = restore(pipe, made, what, clean, 6, [0, 1, 2])
        assert rows[0] / 3 == found.forward == 6
        alone = restore(pipe, made, what, clean[2:], 6, [2])
    finally:
        hook.remove()
    assert found.backward == 0
    assert found.pictures.shape == clean.shape
    torch.testing.assert_close(found.pictures[2:], alone.pictures, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.residual[2:], alone.residual, atol=1e-4, rtol=0)


def test_backward_evaluations_count_too(pipe, clean):
    found = restore(pipe, Restorer("x", "dps"), degradation("sr2", 0, 0), clean[:1], 6, [0])
    assert (found.forward, found.backward) == (3, 3)


def test_a_budget_below_one_level_is_a_sentence(pipe, clean):
    with pytest.raises(ValueError, match="x needs more than 2 network evaluations"):
        restore(pipe, Restorer("x", "moment-matching"), degradation("sr2", 0, 0), clean[:1], 2, [0])


def test_classical_ways_call_no_network(clean):
    pytest.importorskip("skimage")
    for made in restorers().values():
        if made.origin != "classical":
            continue
        for task in made.tasks:
            found = restore(None, made, degradation(task, 25.0, 2.55), clean[:1], 0, [0])
            assert (found.forward, found.backward) == (0, 0)
            assert found.pictures.shape == clean[:1].shape


def test_contenders_are_methods_that_exist():
    for made in restorers().values():
        if made.origin in ("own", "published") and made.method != DEFAULT:
            assert posterior_method(made.method, **made.fields).space == "pixel"
    for made in restorers("latent").values():
        if made.space == "latent":
            assert posterior_methods()[made.method].space == "latent"
    for task in DEGRADATIONS:
        for space in ("pixel", "latent"):
            pipe = SimpleNamespace(space=space, frame=SimpleNamespace(convolutional=True))
            name, fields = method_of(restorers(space)[DEFAULT], degradation(task, 25.0, 2.55), pipe)
            assert posterior_method(name, **fields).space == space


def test_names_and_groups():
    found = [made.name for made in select(("ddnm*",))]
    assert found == ["ddnm-2m", "ddnm-2m x4", "ddnm", "ddnm fresh", "ddnm 100", "ddnm travel", "ddnm-plus"]
    assert {made.origin for made in select(("classical", "own"))} == {"classical", "own"}
    with pytest.raises(ValueError, match="did you mean 'diffpir'"):
        select(("difpir",))
    assert check_degradations(("all",)) == DEGRADATIONS
    assert check_degradations(("denoise", "sr2")) == ("sr2", "denoise")
    with pytest.raises(ValueError, match="did you mean 'colorize'"):
        check_degradations(("colourize",))


def test_pictures_are_cut_at_their_centre(tmp_path):
    from PIL import Image

    whole = (torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    for name in "abc":
        Image.fromarray(whole).save(tmp_path / f"{name}.png")
    names, pictures = read_pictures(tmp_path, 2, 32)
    assert names == ["b.png", "c.png"]
    torch.testing.assert_close(pictures[0], torch.from_numpy(whole[4:36, 9:41]).permute(2, 0, 1) / 255)
    assert read_pictures(tmp_path, 1, None)[1][0].shape == (3, 40, 48)
    with pytest.raises(ValueError, match="is 50x40 pixels"):
        read_pictures(tmp_path, 2, 48)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_pictures(tmp_path / "none", 2, 48)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        read_pictures(tmp_path / "empty", 2, 48)


def test_the_denoiser_that_deepinv_is_given_is_the_mean_of_a_gaussian():
    """In [0, 1]: data N(m, d^2), noise s: (d^2 x + s^2 m) / (d^2 + s^2)."""
    process = PROCESSES["vp"]()
    mean, deviation, s = 0.3, 0.2, 0.1
    network = oracle.gaussian(process, torch.full((12,), 2 * mean - 1, dtype=torch.float64), 2 * deviation)
    unet = SimpleNamespace(dtype=torch.float64)
    denoiser = UnitDenoiser(lambda x, t: SimpleNamespace(sample=network(x, t)), process)
    denoiser.unet.dtype = unet.dtype
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    expected = (deviation**2 * x + s**2 * mean) / (deviation**2 + s**2)
    torch.testing.assert_close(denoiser(x, s), expected, atol=1e-6, rtol=0)
    assert denoiser.forward_calls == 1


def test_what_is_missing_for_deepinv_is_said():
    said = missing_deepinv()
    assert said is None or "not installed" in said
