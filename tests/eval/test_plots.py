"""Plots: which lines there are, how they are drawn, and that the same rows give the same files."""

from __future__ import annotations

import pytest
from PIL import Image

from fewstep.eval.contenders import contenders
from fewstep.eval.plots import lines_of, quality_figure, quality_plots, styles


def row(sampler, nfe, rmse, **more):
    family = "diffusers" if sampler.startswith("diffusers") else "fewstep"
    given = {"default": True, "best": True, "guidance": 3.0, "calls": nfe, "fid": None, "grid": "karras"}
    return {"sampler": sampler, "family": family, "nfe": nfe, "rmse": rmse, **given, **more}


ROWS = [
    row("ghvb 2.5", 8, 0.07),
    row("ghvb 2.5", 5, 0.2),
    row("ghvb 2.5", 8, 0.5, best=False),
    row("diffusers Heun", 8, 0.3, calls=7),
    row("diffusers Heun", 5, 0.9),
    row("diffusers DEIS", 5, None),
    row("diffusers DEIS", 8, 0.05),
    row("ghvb 2.5", 8, 0.09, guidance=7.5),
]


def test_lines_are_by_counted_calls_and_sorted_by_where_they_end():
    lines = lines_of(ROWS, "rmse", 3.0)
    assert lines == [
        ("diffusers DEIS", "diffusers", [8], [0.05]),
        ("ghvb 2.5", "fewstep", [5, 8], [0.2, 0.07]),
        ("diffusers Heun", "diffusers", [5, 7], [0.9, 0.3]),
    ]


def test_ours_are_solid_and_theirs_dashed_on_logarithmic_axes_with_a_legend_in_order():
    figure = quality_figure(ROWS, "rmse")
    first, second = figure.axes
    assert (first.get_xscale(), first.get_yscale()) == ("log", "log")
    drawn = {line.get_label(): line.get_linestyle() for line in first.get_lines()}
    assert drawn == {"diffusers DEIS": "--", "ghvb 2.5": "-", "diffusers Heun": "--"}
    assert [text.get_text() for text in first.get_legend().get_texts()] == list(drawn)
    colours = [axes.get_lines()[0 if axes is second else 1].get_color() for axes in (first, second)]
    assert colours[0] == colours[1]  # a sampler looks the same in every panel


def test_every_sampler_of_the_comparison_has_a_look_of_its_own():
    names = list(contenders("vp"))
    looks = {(style["color"], style["marker"]) for style in styles(names).values()}
    assert len(looks) == len(names)


def test_files_are_pictures_and_the_same_each_time(tmp_path):
    files = quality_plots(ROWS, tmp_path / "a")
    again = quality_plots(ROWS, tmp_path / "b")
    assert [file.name for file in files] == ["quality-rmse.png", "quality-rmse.svg"]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    with Image.open(files[0]) as picture:
        assert picture.width > 800
    assert "<svg" in files[1].read_text()


@pytest.mark.parametrize("rows", [[], [row("ghvb 2.5", 5, None)], [row("ghvb 2.5", 5, 0.0)]])
def test_nothing_to_draw_is_no_file(rows, tmp_path):
    assert quality_plots(rows, tmp_path) == []
