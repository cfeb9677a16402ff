"""The comparison of STSL with and without its second-order term: errors of differences, counts, table, a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import sem

from fewstep.eval.stsl_ablation import Restored, cell, main, operator_of, paired, stsl_table, verdict


def restored(seed: int, shift: float = 0.0) -> Restored:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    return Restored(20 + values[0] + shift, values[1] / 10, 120, 100, 1.0)


def test_the_error_of_a_difference_is_that_of_paired_samples() -> None:
    first, second = restored(0).psnr, restored(1).psnr
    found = paired(first, second)
    assert found[0] == pytest.approx(float(second.mean() - first.mean()))
    assert found[1] == pytest.approx(float(sem((second - first).numpy())))


def test_what_is_measured() -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert operator_of("sr4", (32, 32)).A(x).shape == (1, 3, 8, 8)
    kept = (operator_of("inpaint", (32, 32)).A(x + 1) != 0).float().mean()
    assert abs(float(kept) - 0.6) < 4 * (0.6 * 0.4 / 32**2) ** 0.5
    assert operator_of("gaussian-deblur", (32, 32)).A(x).var() < x.var()


def test_the_table_says_which_rows_differ_by_more_than_two_errors() -> None:
    rows = [
        cell("paper", "sr4", (restored(0), restored(0, shift))) | {"psnr_difference_error": 0.1}
        for shift in (0.0, 0.5, -0.5)
    ]
    assert "raises the PSNR in 1 of 3 rows and lowers it in 1" in verdict(rows)
    assert "lowered in paper, sr4 (-0.50 dB)" in verdict(rows)
    lines = stsl_table({"rows": rows}).splitlines()
    assert lines[3].startswith("| paper | sr4 |")
    assert "+0.500 ± 0.100" in lines[3]
    assert "120 + 100" in lines[3]


def test_a_small_run_counts_both_halves_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "rows.json"
    words = ["--count", "2", "--steps", "1", "--presets", "default", "--tasks", "inpaint", "--json", str(path)]
    assert main(words) == 0
    report = json.loads(path.read_text())
    (row,) = report["rows"]
    assert report["settings"]["complete"]
    assert report["command"].endswith(str(path))
    # one level: two inner steps and a last call; with the term inner steps call, and differentiate, twice
    assert (row["forward_first"], row["backward_first"]) == (3, 2)
    assert (row["forward_second"], row["backward_second"]) == (5, 4)
    assert row["psnr_difference"] == pytest.approx(row["psnr_second"] - row["psnr_first"])
    assert "inpaint" in capsys.readouterr().out
    for wrong in (["--count", "1"], ["--tasks", "sr5"], ["--presets", "papr"]):
        with pytest.raises(SystemExit):
            main(wrong)
