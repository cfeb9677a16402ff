"""The loop that all recipes share: it resumes, averages, follows its rate, and splits parameters as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fewstep.assets.recipes import training


def test_learning_rate_warms_up_holds_and_decays_to_a_hundredth() -> None:
    fit = training.Fit(steps=1000, batch=1, rate=1.0, hold=0.5, warmup=100)
    assert training.learning_rate(fit, 0, 0.0) == pytest.approx(0.01)
    assert training.learning_rate(fit, 300, 0.3) == pytest.approx(1.0)
    assert training.learning_rate(fit, 750, 0.75) == pytest.approx(0.505)
    assert training.learning_rate(fit, 999, 1.0) == pytest.approx(0.01)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("matrix_rate", [None, 0.02])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix_rate: float | None
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    fit = training.Fit(steps=8, batch=4, rate=0.05, hold=0.2, warmup=2, matrix_rate=matrix_rate)

    def fitted(folder: str, stop: int | None) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))

        def loss(step: int, generator: torch.Generator) -> torch.Tensor:
            if step == stop:
                raise Interrupted
            x = torch.randn(fit.batch, 3, generator=generator)
            return (model(x) - x.sum(1, keepdim=True)).square().mean()

        (tmp_path / folder).mkdir(exist_ok=True)
        return training.train("judge", model, loss, fit, tmp_path / folder, seed=0)

    whole = fitted("whole", None)
    with pytest.raises(Interrupted):
        fitted("broken", 5)
    resumed = fitted("broken", None)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value)


def test_a_failed_checkpoint_leaves_the_previous_one(tmp_path: Path) -> None:
    file = tmp_path / "judge.pt"
    training.write_checkpoint(file, {"step": 3})
    with pytest.raises(Exception, match="pickle"):
        training.write_checkpoint(file, {"step": (x for x in range(3))})
    assert training.read_checkpoint(file, "judge") == {"step": 3}


def test_average_follows_parameters_and_buffers() -> None:
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model.running_mean = torch.tensor([1.0, 2.0])
    model.weight.data.fill_(3.0)
    model.num_batches_tracked = torch.tensor(7)
    training.update_average(average, model, 0.75)
    assert average.running_mean is not None
    assert average.num_batches_tracked is not None
    torch.testing.assert_close(average.running_mean, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(average.weight.data, torch.tensor([1.5, 1.5]))
    assert int(average.num_batches_tracked) == 7


def regression(seed: int = 0) -> tuple[nn.Module, Any]:
    """A linear problem with an exact solution, (model, loss)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    wanted = torch.tensor([[2.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 3, 0], [1, 0, 0, 1]])

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(16, 4, generator=generator)
        return (model(x) - x @ wanted.T).square().mean()

    return model, loss


@pytest.mark.parametrize("choice", [{}, {"matrix_rate": 0.2}, {"bfloat16": True}], ids=["adamw", "muon", "autocast"])
def test_a_linear_problem_is_solved(tmp_path: Path, choice: dict[str, Any]) -> None:
    model, loss = regression()
    fit = training.Fit(steps=400, batch=16, rate=0.1, hold=0.2, warmup=5, ema=0.9, weight_decay=0.0, **choice)
    average = training.train("fit", model, loss, fit, tmp_path, seed=0)
    assert not average.training
    for parameter in average.parameters():
        assert parameter.dtype == torch.float32
        wanted = torch.tensor([[2.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 3, 0], [1, 0, 0, 1]])
        torch.testing.assert_close(parameter, wanted, atol=0.03, rtol=0)


def test_muon_takes_hidden_matrices_only() -> None:
    from fewstep.assets.recipes.verses_model import new_judge_model

    model = new_judge_model(width=32, layers=1, inner=48, heads=2)
    chosen = {id(p) for p in training.hidden_matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    attention = {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"}
    assert names == attention | {f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    fit = training.Fit(steps=1, batch=1, rate=1e-3, hold=0.5, matrix_rate=1e-3)
    optimizers = training.new_optimizers(model, fit)
    held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))


def test_a_finished_run_goes_on_when_its_budget_grows(tmp_path: Path) -> None:
    kept = []
    for steps in (3, 3, 5):
        model, loss = regression()
        training.train("fit", model, loss, training.Fit(steps, 16, 0.1, 0.5), tmp_path, seed=0)
        kept.append(training.read_checkpoint(tmp_path / "fit.pt", "fit")["step"])
    assert kept == [3, 3, 5]


def test_what_is_watched_is_the_average_and_stays_in_the_checkpoint(tmp_path: Path) -> None:
    model, loss = regression()
    seen = []

    def watch(average: nn.Module) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        assert average is not model
        seen.append(float(next(average.parameters()).norm()))
        return {"norm": seen[-1]}

    fit = training.Fit(steps=6, batch=16, rate=0.1, hold=0.5)
    average = training.train("fit", model, loss, fit, tmp_path, seed=0, watch=watch, watch_minutes=0.0)
    history = training.read_checkpoint(tmp_path / "fit.pt", "fit")["history"]
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert [entry["norm"] for entry in history] == seen
    assert seen[-1] == float(next(average.parameters()).norm())


def test_another_optimiser_is_refused_in_a_sentence(tmp_path: Path) -> None:
    fit = training.Fit(steps=2, batch=16, rate=0.1, hold=0.5)
    model, loss = regression()
    training.train("fit", model, loss, fit, tmp_path, seed=0)
    with pytest.raises(ValueError, match="was written with another optimiser"):
        training.train("fit", model, loss, replace(fit, matrix_rate=0.1), tmp_path, seed=0)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model, loss = regression()
    training.train("fit", model, loss, training.Fit(2, 16, 0.1, 0.5), tmp_path, seed=0)

    def broken(step: int, generator: torch.Generator) -> torch.Tensor:
        return loss(step, generator) * float("nan")

    with pytest.raises(RuntimeError, match="no longer finite at step 3"):
        training.train("fit", model, broken, training.Fit(4, 16, 0.1, 0.5), tmp_path, seed=0)
    assert training.read_checkpoint(tmp_path / "fit.pt", "fit")["step"] == 2


def test_a_missing_checkpoint_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no judge\.pt in .*; run --stage judge first"):
        training.average_of(nn.Linear(1, 1), "judge", tmp_path)
