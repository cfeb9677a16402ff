"""Tasks: the operators are those that other libraries have under the same name, and the measurement is A(2 x - 1)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from fewstep.pipelines.restoration.kernels import read_kernel
from fewstep.pipelines.restoration.tasks import TASKS, degrade, find_task, task_defaults, task_operator
from fewstep.samplers.posterior import posterior_method
from fewstep.samplers.posterior.problem import EIGHT_BIT_SIGMA


@pytest.fixture
def clean() -> torch.Tensor:
    """(1, 3, 24, 40) in [0, 1]."""
    return torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))


def array(x: torch.Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    ("kernel", "filter_"),
    [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS), ("area", Image.Resampling.BOX)],
)
def test_super_resolution_is_pillows_resize(clean: torch.Tensor, factor: int, kernel: str, filter_: int) -> None:
    operator = task_operator(f"sr{factor}", (24, 40), kernel=kernel)
    found = (degrade(f"sr{factor}", clean, operator) + 1) / 2
    planes = [Image.fromarray(plane.numpy()) for plane in clean[0]]
    expected = np.stack([np.asarray(plane.resize((40 // factor, 24 // factor), filter_)) for plane in planes])
    assert np.abs(found[0].numpy() - expected).max() < 2e-6
    assert TASKS[f"sr{factor}"].clean_size(*found.shape[-2:]) == (24, 40)


def test_area_takes_sides_that_no_block_divides() -> None:
    assert task_operator("sr4", (25, 41), kernel="area").A(torch.ones(1, 3, 25, 41)).shape == (1, 3, 7, 11)


def test_gaussian_blur_is_scipys_with_a_mirrored_border(clean: torch.Tensor) -> None:
    operator = task_operator("gaussian-deblur", (24, 40), blur_sigma=1.5, kernel_size=13)
    found = array((degrade("gaussian-deblur", clean, operator) + 1) / 2)
    expected = gaussian_filter(array(clean), (1.5, 1.5, 0), mode="reflect", radius=(6, 6, 0))
    assert np.abs(found - expected).max() < 1e-5


def test_a_kernel_from_a_file_blurs_as_scipy_does(clean: torch.Tensor, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "kernel.png")
    np.save(tmp_path / "kernel.npy", values)
    kernel = values / values.sum()
    for name in ("kernel.png", "kernel.npy"):
        operator = task_operator("motion-deblur", (24, 40), kernel_file=tmp_path / name)
        found = array((degrade("motion-deblur", clean, operator) + 1) / 2)
        expected = np.stack([convolve(array(clean)[..., c], kernel, mode="reflect") for c in range(3)], axis=2)
        assert np.abs(found - expected).max() < 1e-5


def test_an_even_kernel_keeps_its_centre(tmp_path: Path) -> None:
    values = np.zeros((4, 6))
    values[2, 3] = 7
    np.save(tmp_path / "even.npy", values)
    kernel = read_kernel(tmp_path / "even.npy")
    assert kernel.shape == (5, 7)
    assert kernel[2, 3] == 1


def test_colours_become_luma_or_their_mean(clean: torch.Tensor) -> None:
    x = array(clean)
    luma = degrade("colorize", clean, task_operator("colorize", (24, 40)))[0, 0]
    assert np.abs((luma.numpy() + 1) / 2 - x @ [0.299, 0.587, 0.114]).max() < 1e-6
    mean = degrade("colorize", clean, task_operator("colorize", (24, 40), luma="mean"))[0, 0]
    assert np.abs((mean.numpy() + 1) / 2 - x.mean(2)).max() < 1e-6


def test_missing_pixels_are_zero_and_carry_no_noise(clean: torch.Tensor) -> None:
    known = torch.rand(24, 40, generator=torch.Generator().manual_seed(1)) > 0.5
    operator = task_operator("inpaint", (24, 40), mask=known)
    y = degrade("inpaint", clean, operator, 0.3, torch.Generator().manual_seed(2))
    assert (y[..., ~known] == 0).all()
    numbers = int(3 * known.sum())
    noise = (y - (2 * clean - 1))[..., known]
    assert abs(float(noise.std()) / 0.3 - 1) < 5 / (2 * numbers) ** 0.5  # five standard errors


def test_noise_has_the_size_that_was_asked_for_and_follows_its_generator(clean: torch.Tensor) -> None:
    operator = task_operator("denoise", (24, 40))
    first, again = (degrade("denoise", clean, operator, 0.2, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    noise = first - (2 * clean - 1)
    assert abs(float(noise.std()) / 0.2 - 1) < 5 / (2 * noise.numel()) ** 0.5
    with pytest.raises(ValueError, match="noise must be"):
        degrade("denoise", clean, operator, -1.0)


def test_custom_operators_are_called_with_the_size_if_they_want_it(
    clean: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_operators.py").write_text(
        "class Half:\n"
        "    def __init__(self, size=None): self.seen = size\n"
        "    def A(self, x): return x / 2\n"
        "    def A_adjoint(self, y): return y / 2\n"
        "def plain(): return Half()\n"
        "def sized(size): return Half(size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert task_operator("custom", (24, 40), operator="my_operators:sized").inner.seen == (24, 40)  # type: ignore[attr-defined]
    operator = task_operator("custom", (24, 40), operator="my_operators:plain")
    assert torch.equal(degrade("custom", clean, operator), (2 * clean - 1) / 2)
    with pytest.raises(ValueError, match="has no 'none'"):
        task_operator("custom", (24, 40), operator="my_operators:none")
    with pytest.raises(ValueError, match="module:function"):
        task_operator("custom", (24, 40))


def test_names_are_found_and_unknown_ones_get_the_nearest() -> None:
    assert find_task("Inpainting").name == "inpaint"
    assert find_task("gaussian_deblur").name == "gaussian-deblur"
    assert find_task("colourise") is TASKS["colorize"]
    with pytest.raises(ValueError, match="unknown task 'denois', did you mean 'denoise'"):
        find_task("denois")
    with pytest.raises(ValueError, match="unknown luma 'rec60', did you mean 'rec601'"):
        task_operator("colorize", (8, 8), luma="rec60")
    with pytest.raises(ValueError, match="unknown resampling kernel"):
        task_operator("sr2", (8, 8), kernel="cubic")
    with pytest.raises(ValueError, match="needs a mask"):
        task_operator("inpaint", (8, 8))


@pytest.mark.parametrize("space", ["pixel", "latent"])
@pytest.mark.parametrize("sigma", [0.0, EIGHT_BIT_SIGMA, 0.1])
@pytest.mark.parametrize("task", TASKS)
def test_every_default_is_a_method_of_its_space_that_can_do_the_task(task: str, sigma: float, space: str) -> None:
    name, fields, steps = task_defaults(task, sigma, space)
    method = posterior_method(name, **fields)
    assert method.space == space
    assert steps >= 1
    if method.needs == "spectrum":
        operator = task_operator(task, (8, 8), mask=torch.ones(8, 8))
        y = degrade(task, torch.rand(1, 3, 8, 8), operator)
        assert operator.spectrum(y) is not None  # type: ignore[attr-defined]
    if task != "denoise":
        assert task_defaults(task, EIGHT_BIT_SIGMA, space) == task_defaults(task, 0.0, space)


def test_pictures_are_turned_for_models_of_close_ups_alone() -> None:
    assert task_defaults("sr2")[1]["turns"] is True
    assert "turns" not in task_defaults("sr2", local=False)[1]
    assert task_defaults("sr2", local=False)[2] == task_defaults("sr2")[2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.png", None, "there is no kernel"),
        ("none.npy", None, "there is no kernel"),
        ("text.npy", b"no array", "cannot be read|can be read"),
        ("text.png", b"no picture", "not a picture"),
        ("black.npy", np.zeros((3, 3)), "holds no blur kernel"),
        ("flat.npy", np.ones(3), "holds no blur kernel"),
        ("nan.npy", np.full((3, 3), np.nan), "holds no blur kernel"),
    ],
)
def test_files_that_hold_no_kernel_are_refused(
    tmp_path: Path, name: str, content: bytes | np.ndarray | None, sentence: str
) -> None:
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        read_kernel(tmp_path / name)


def test_listing_the_tasks_needs_no_torch() -> None:
    import subprocess

    code = "import sys; from fewstep.pipelines.restoration.tasks import TASKS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
