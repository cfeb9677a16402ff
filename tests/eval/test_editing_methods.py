"""Ways of editing cost what they say, on real pipelines; the edits and their verdicts are what they are meant to be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.eval.editing_contenders import PUBLISHED, of_authors, ours_at, select, swept
from fewstep.eval.editing_edits import Edit
from fewstep.eval.editing_garments import KINDS, DrawnEdits, PaintedEdits
from fewstep.eval.editing_methods import EditMethod, round_trip, run_method
from fewstep.eval.editing_output import editing_table, trip_sentence, verdicts

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

OURS = ours_at(8)
METHODS = {method.name: method for method in (*swept(), *of_authors())}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import tiny_models

    folder = tmp_path_factory.mktemp("tokens")
    torch.set_num_threads(1)
    made = {
        "flux": tiny_models.flux(folder / "flux"),
        "sd3": tiny_models.stable_diffusion_3(folder / "sd3"),
        "sd": tiny_models.stable_diffusion(folder / "sd"),
    }
    made["flux"].tokenizer_2.model_max_length = 16
    return made


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    y, x = np.mgrid[0:32, 0:32].astype(np.float32) / 31
    picture = np.stack([x, y, (x + y) / 2], axis=2)
    return [Edit(picture, "a red boot", "a blue boot", "colour"), Edit(1 - picture, "a bag", "a boot", "garment")]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_makes_the_calls_that_it_says(name: str, pipes: dict[str, Any], edits: list[Edit]) -> None:
    method = METHODS[name]
    for kind in ("flux", "sd3") if method.place == "flow" else ("sd",):
        doubled = kind != "flux"
        steps = method.steps_for(16, doubled)
        assert steps is not None
        expected = method.calls(steps, doubled)
        assert expected <= 16 < method.calls(steps + 1, doubled)
        run = run_method(pipes[kind], method, steps, edits)
        assert run.calls == expected
        assert len(run.images) == 2


def test_round_trips_are_those_of_the_library(pipes: dict[str, Any], edits: list[Edit]) -> None:
    from fewstep.pipelines import invert, reconstruct

    found = round_trip(pipes["flux"], METHODS["fireflow none"], 4, edits)
    inversion = invert(pipes["flux"], [edit.picture for edit in edits], ["a red boot", "a bag"], steps=4)
    assert found.reconstructions == reconstruct(pipes["flux"], inversion).psnr
    assert found.calls == 10


def test_skipping_leaves_at_least_what_a_solver_needs() -> None:
    assert EditMethod("a", "fireflow", skip=0.9).skipped(1) == 0
    assert EditMethod("a", "exact", skip=0.9).skipped(4) == 2
    assert EditMethod("a", "exact").steps_for(2, False) is None  # 2 there and 1 back are 3 calls
    assert EditMethod("a", "midpoint", guidance=2.0).steps_for(5, True) is None


def test_words_choose_methods() -> None:
    assert [method.name for method in select(["all"], swept())] == [method.name for method in swept()]
    assert {method.origin for method in select(["own"], swept())} == {"own"}
    assert all(method.steps for method in select(["authors"], swept()))
    assert select(["euler", "fireflow add_?"], swept())[0].name == "euler"
    with pytest.raises(ValueError, match="did you mean 'euler'"):
        select(["eulr"], swept())


def fashion(folder: Path, count: int = 400) -> Path:
    """Trousers and bags out of rectangles, of many sizes, as the .npz of Fashion-MNIST."""
    generator = np.random.default_rng(0)
    images, labels = np.zeros((count, 28, 28), np.uint8), np.zeros(count, np.int64)
    for image, k in zip(images, range(count), strict=True):
        shade = generator.integers(140, 230)
        top, side = generator.integers(0, 3), generator.integers(7, 10)
        if k % 2:
            labels[k] = 1
            image[top : top + 6, side : 28 - side] = shade
            image[top : 28 - top, side : side + 5] = shade
            image[top : 28 - top, 23 - side : 28 - side] = shade
        else:
            labels[k] = 8
            image[10 + top : 26, 2 + top : 26 - top] = shade
            image[3 : 12 + top, 8:10] = image[3 : 12 + top, 18:20] = image[3:5, 8:20] = shade
    path = folder / "fashion.npz"
    np.savez(path, x_train=images[:1], y_train=labels[:1], x_test=images, y_test=labels)
    return path


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[PaintedEdits, PaintedEdits]:
    path = fashion(tmp_path_factory.mktemp("fashion"))
    return PaintedEdits(path), PaintedEdits(path, tuning=True)


def test_edits_change_one_thing_and_are_numbered(painted: tuple[PaintedEdits, PaintedEdits]) -> None:
    test, _ = painted
    assert test.most >= 12
    found = test.edits(range(12))
    assert [edit.kind for edit in found] == [KINDS[i % 3] for i in range(12)]
    for i, edit in enumerate(found):
        again = test.edits(range(i, i + 1))[0]
        assert (again.source, again.target) == (edit.source, edit.target)
        assert (again.picture == edit.picture).all()
        assert edit.source != edit.target
        assert list(edit.wanted) == [edit.kind]
        assert set(edit.held) == set(KINDS) - {edit.kind}
        assert edit.picture.shape == (32, 32, 3)
        values = test.judge.answers(2 * torch.from_numpy(edit.picture).permute(2, 0, 1)[None] - 1)
        assert int(values[edit.kind]) != edit.wanted[edit.kind]
        corner = edit.region[0, 0] if edit.region is not None else None
        assert corner == (1 if edit.kind == "background" else 0)
    with pytest.raises(ValueError, match="edits here"):
        test.edits(range(test.most + 1))


def test_tuning_edits_are_other_pictures(painted: tuple[PaintedEdits, PaintedEdits]) -> None:
    test, tuning = painted
    mine = {edit.picture.tobytes() for edit in test.edits(range(test.most))}
    theirs = {edit.picture.tobytes() for edit in tuning.edits(range(tuning.most))}
    assert not mine & theirs
    assert test.fingerprint != tuning.fingerprint


def test_drawn_pictures_are_called_what_the_judge_sees_in_them() -> None:
    edits = DrawnEdits()
    found = edits.edits(range(1, 3))
    pictures = torch.stack([torch.from_numpy(edit.picture).permute(2, 0, 1) for edit in found])
    seen = edits.judge.answers(2 * pictures - 1)
    for k, edit in enumerate(found):
        assert edits.judge.labels["colour"][int(seen["colour"][k])] in edit.source
        assert edits.judge.labels["background"][int(seen["background"][k])] in edit.source
        assert edit.source != edit.target
        assert edit.region is not None
        assert 0.05 < edit.region.mean() < 0.95
    alone = edits.edits(range(2, 3))[0]
    assert (alone.picture == found[1].picture).all()
    assert alone.target == found[1].target


def row(sampler: str, nfe: int, reached: float, kept: float, **more: Any) -> dict[str, Any]:
    given = {"part": "edit", "sampler": sampler, "origin": "own" if sampler == OURS else "published", "nfe": nfe}
    given |= {"reached": reached, "kept": kept, "both": round(reached * kept, 4), "samples": 300, "steps": 4}
    shown = {"structure": 0.02, "psnr_outside": 22.0, "ssim_outside": 0.8, "reconstruction_psnr": None}
    return {**given, **shown, **more}


def test_a_row_beats_ours_only_by_both() -> None:
    rows = [row(OURS, 8, 0.9, 0.9), row("euler", 8, 0.95, 0.85), row("flowedit", 8, 0.85, 0.95)]
    (verdict,) = verdicts(rows)
    assert (verdict.above, verdict.beyond) == ((), ())
    assert "no other reaches more and keeps more" in verdict.sentence()
    (verdict,) = verdicts([*rows, row("exact", 8, 0.91, 0.92)])
    assert [found["sampler"] for found in verdict.above] == ["exact"]
    assert verdict.beyond == ()  # two standard errors of a share of 0.9 among 300 are 0.05
    assert "exact (91.0 %, 92.0 %) reaches more and keeps more, within the noise" in verdict.sentence()
    (verdict,) = verdicts([*rows, row("exact", 8, 0.99, 0.92)])
    assert [found["sampler"] for found in verdict.beyond] == ["exact"]
    noise = 2 * np.sqrt((0.81 * 0.19 + 0.9108 * 0.0892) / 300)
    assert verdict.noise == pytest.approx(noise)
    assert verdicts([row("euler", 8, 0.9, 0.9)]) == []


def test_the_claim_about_the_round_trip_is_read_off_the_rows() -> None:
    def trip(sampler: str, steps: int, error: float) -> dict[str, Any]:
        figures = {"reconstruction_psnr": 28.0, "latent_error": error, "samples": 100}
        return {
            "part": "round trip",
            "sampler": sampler,
            "origin": "published",
            "nfe": 2 * steps,
            "steps": steps,
        } | figures

    rows = [trip("fireflow", 8, 0.01), trip("euler", 32, 0.02), trip("euler", 64, 0.009)]
    assert "as well as Euler at 32 steps or better" in trip_sentence(rows)
    assert "does not reach Euler" in trip_sentence([trip("fireflow", 8, 0.03), *rows[1:]])
    assert trip_sentence(rows[1:]) == ""
    table = editing_table({"rows": [row(OURS, 8, 0.9, 0.9), row("euler", 8, 0.8, 0.9), *rows], "settings": {}})
    assert "| euler | 72.0 % (80.0 %, 90.0 %) |" in table
    assert "| euler | 64 | 128 | 28.00 dB | 0.9 % |" in table


def test_the_readme_shows_the_published_figures() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, figures in PUBLISHED.items():
        assert f"| {name} | {' | '.join(map(str, figures))} |" in readme


def test_settings_decide_the_cell() -> None:
    base = METHODS["fireflow none"]
    changes: dict[str, Any] = {"guidance": 3.0, "skip": 0.5, "warm": True, "strategy": "add_q", "inject": 2}
    for name, value in (changes | {"solver": "midpoint", "place": "epsilon", "fields": {"eta": 0.1}}).items():
        assert replace(base, **{name: value}).settings() != base.settings()


def test_methods_that_share_an_inversion_get_what_they_would_alone(pipes: dict[str, Any], edits: list[Edit]) -> None:
    together = [method for method in METHODS.values() if method.solver == "fireflow" and not method.warm]
    kept: dict[Any, Any] = {}
    for method in together[:4]:
        shared = run_method(pipes["flux"], method, 4, edits, kept=kept, together=together)
        alone = run_method(pipes["flux"], method, 4, edits)
        assert shared.calls == alone.calls
        assert shared.latent_errors == alone.latent_errors
        for one, other in zip(shared.images, alone.images, strict=True):
            assert (np.asarray(one) == np.asarray(other)).all()
    assert len(kept) == 1
