"""The benchmark of caches, on a tiny random model: what the rows say, against runs made by hand."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.eval.cache_benchmark import main, measure_caches, median_psnr, split_caches
from fewstep.samplers import ab_cache, generators

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

PROMPTS = ["a boot", "a bag", "a hat"]


def rows_of(pipe: Any, **more: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"steps": 12, "guidance": [3.0], "count": 3, "prompts": PROMPTS, "repeats": 1}
    return measure_caches(pipe, **{**settings, "hosts": ["ddim"], **more})


def test_rows_are_those_of_runs_made_by_hand(tmp_path: Path) -> None:
    import tiny_models

    from fewstep.pipelines import set_sampler

    pipe = tiny_models.stable_diffusion(tmp_path)
    names = ["none", "ab:2,2", "ab:order=2,interval=3,warmup=3", "taylorseer", "fewer-steps"]
    rows = rows_of(pipe, caches=names, batch=2)
    cells = [(row["cache"], row["real_calls"], row["skipped"]) for row in rows]
    assert cells == [
        ("none", 12, 0),
        ("ab:2,2", 10, 2),
        ("ab:order=2,interval=3,warmup=3", 8, 4),
        ("taylorseer", None, None),
        ("fewer-steps", 10, 0),
        ("fewer-steps", 8, 0),
    ]
    assert rows[3]["note"] == "not supported: UNet2DConditionModel has no CacheMixin"
    assert rows[3]["psnr"] is rows[3]["seconds"] is None
    assert rows[0]["psnr"] is None
    assert rows[0]["note"] == "the same pictures"
    assert rows[0]["speedup"] == 1.0
    set_sampler(pipe, "ddim").set_progress_bar_config(disable=True)

    def by_hand(steps: int) -> torch.Tensor:
        return pipe(
            PROMPTS,
            num_inference_steps=steps,
            guidance_scale=3.0,
            generator=generators([0, 1, 2]),
            output_type="pt",
        ).images

    full = by_hand(12)
    with ab_cache(pipe, interval=2):
        assert rows[1]["psnr"] == pytest.approx(median_psnr(by_hand(12), full), abs=0.1)
    assert rows[5]["psnr"] == pytest.approx(median_psnr(by_hand(8), full), abs=0.1)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import tiny_models

    return tiny_models.flux(tmp_path_factory.mktemp("flux"))


def test_a_cache_of_diffusers_is_measured_where_it_fits(flux: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(flux, caches=["taylorseer", "firstblock", "magcache"], hosts=["euler"], batch=2)
    measured = [row for row in rows if row["cache"] != "fewer-steps"]
    assert [row["cache"] for row in measured] == ["none", "taylorseer", "firstblock", "magcache"]
    assert all(row["seconds"] is not None for row in rows)
    assert not flux.transformer.is_cache_enabled
    # calls 0 .. 4 and 9 .. 11 are ours, too; of the others TaylorSeer makes every third, from the second on
    assert measured[1]["real_calls"] == 8 + 1
    assert measured[1]["skipped"] == 3
    assert measured[2]["real_calls"] <= 12
    assert 1 <= measured[3]["real_calls"] <= 12
    fewer = [row["real_calls"] for row in rows if row["cache"] == "fewer-steps"]
    assert 9 in fewer  # the rival of every cache
    assert capsys.readouterr().out == ""  # MagCache prints what it was calibrated to


def test_magcache_is_calibrated_to_how_the_blocks_grow(flux: Any) -> None:
    from fewstep.eval.cache_built_in import magcache_ratios
    from fewstep.pipelines import set_sampler

    set_sampler(flux, "euler").set_progress_bar_config(disable=True)
    residuals, kept = [], {}
    first, last = flux.transformer.transformer_blocks[0], flux.transformer.single_transformer_blocks[-1]
    handles = [
        first.register_forward_pre_hook(lambda _, args, more: kept.update(x=more["hidden_states"]), with_kwargs=True),
        last.register_forward_hook(lambda _, args, made: residuals.append(made[1] - kept["x"])),
    ]

    def run() -> None:
        flux(["a boot"], num_inference_steps=6, guidance_scale=3.0, generator=generators([0]), output_type="latent")

    run()
    for handle in handles:
        handle.remove()
    norms = [made.norm(dim=-1) for made in residuals]
    expected = [1.0, *[float((b / a).mean()) for a, b in itertools.pairwise(norms)]]
    assert magcache_ratios(flux, 6, run) == pytest.approx(expected, rel=1e-4)
    assert not flux.transformer.is_cache_enabled


def test_samplers_with_two_calls_a_step_are_compared_at_equal_calls(tmp_path: Path) -> None:
    import tiny_models

    from fewstep.eval.contenders import contenders

    pipe = tiny_models.stable_diffusion(tmp_path)
    rows = rows_of(pipe, caches=["none"], hosts=[contenders()["diffusers Heun"], contenders()["diffusers PLMS"]])
    assert [(row["sampler"], row["steps"], row["real_calls"]) for row in rows] == [
        ("diffusers Heun", 6, 11),
        ("diffusers PLMS", 11, 12),
    ]


def test_psnr_is_that_of_its_definition() -> None:
    reference = torch.zeros(3, 3, 2, 2)
    off = torch.tensor([0.1, 0.01, 0.001]).reshape(3, 1, 1, 1).expand_as(reference)
    assert median_psnr(off, reference) == pytest.approx(40)
    assert median_psnr(reference, reference) == math.inf


def test_lists_of_caches_are_split_where_a_name_begins() -> None:
    text = "none, ab:2,3,taylorseer,ab:order=2,interval=3,warmup=2,ab,fewer-steps"
    expected = ["none", "ab:2,3", "taylorseer", "ab:order=2,interval=3,warmup=2", "ab", "fewer-steps"]
    assert split_caches(text) == expected
    for name in expected:
        assert split_caches(name) == [name]
    with pytest.raises(ValueError, match="unknown cache 'taylorsear', did you mean 'taylorseer'"):
        split_caches("none,taylorsear")
    with pytest.raises(ValueError, match="the cache setting interval cannot be '9x'"):
        split_caches("ab:2,9x")
    with pytest.raises(ValueError, match="no setting 'odrer'"):
        split_caches("ab:odrer=2")


def test_bad_numbers_are_sentences_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="count, repeats, batch and steps must be at least 1, got 0, 3, 24, 30"):
        measure_caches("garments", count=0)
    with pytest.raises(ValueError, match="prompts must be as many as count, 3, got 1"):
        measure_caches("garments", count=3, prompts=["a boot"])
    file = tmp_path / "rows.json"
    for words in (["--caches", "teacache"], ["--guidance", "much"], ["--model", "garmets"]):
        with pytest.raises(SystemExit):
            main([*words, "--json", str(file)])
    assert "did you mean 'garments'" in capsys.readouterr().err
    assert not file.exists()


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    words = ["--steps", "9", "--guidance", "1", "--count", "2", "--caches", "ab:2,4", "--hosts", "ddim"]
    assert main([*words, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["command"].startswith("python -m fewstep.eval.cache_benchmark --steps 9")
    assert [row["cache"] for row in report["rows"]] == ["none", "ab:2,4", "fewer-steps"]
    assert report["rows"][1]["garment_accuracy"] is not None
