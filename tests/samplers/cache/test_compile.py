"""The cache with torch.compile: right values, and graphs that do not multiply with the steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_pipelines as cases
import torch

from fewstep.samplers import apply_ab_cache, remove_ab_cache

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"order": 2, "interval": 3, "warmup_steps": 3, "tail_steps": 2}


def regional_then_hook(pipe: Any, compile: dict[str, Any]) -> None:
    pipe.transformer.compile_repeated_blocks(fullgraph=True, **compile)
    apply_ab_cache(pipe, **SETTINGS)


def hook_then_regional(pipe: Any, compile: dict[str, Any]) -> None:
    apply_ab_cache(pipe, **SETTINGS)
    pipe.transformer.compile_repeated_blocks(fullgraph=True, **compile)


def forward_then_hook(pipe: Any, compile: dict[str, Any]) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, fullgraph=True, **compile)
    apply_ab_cache(pipe, **SETTINGS)


def wrapper_then_hook(pipe: Any, compile: dict[str, Any]) -> None:
    pipe.transformer = torch.compile(pipe.transformer, **compile)
    apply_ab_cache(pipe, **SETTINGS)


def hook_then_module(pipe: Any, compile: dict[str, Any]) -> None:
    apply_ab_cache(pipe, **SETTINGS)
    pipe.transformer.compile(**compile)


def hook_then_wrapper(pipe: Any, compile: dict[str, Any]) -> None:
    apply_ab_cache(pipe, **SETTINGS)
    pipe.transformer = torch.compile(pipe.transformer, **compile)


@pytest.mark.parametrize(
    "combine",
    [
        regional_then_hook,
        hook_then_regional,
        forward_then_hook,
        wrapper_then_hook,
        hook_then_module,
        hook_then_wrapper,
    ],
)
def test_compiled_and_cached_is_cached(combine: Callable[..., None], tmp_path: Path) -> None:
    torch._dynamo.reset()
    case = cases.flux(tmp_path)
    case.pipe.set_progress_bar_config(disable=True)
    case.call |= {"num_inference_steps": 12, "output_type": "latent"}
    plain, _ = case.run()
    apply_ab_cache(case.pipe, **SETTINGS)
    expected, _ = case.run()
    remove_ab_cache(case.pipe)
    graphs: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(1)
        return graph.forward

    combine(case.pipe, {"backend": backend})
    found, _ = case.run()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-4
    first = len(graphs)
    assert 1 <= first <= 6, first
    case.call |= {"num_inference_steps": 20}
    case.run()
    assert len(graphs) == first
    torch._dynamo.reset()


@pytest.mark.parametrize("order", ["hook first", "hook last", "wrapper"])
def test_removal_from_a_compiled_module(order: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    case = cases.flux(tmp_path)
    case.pipe.set_progress_bar_config(disable=True)
    plain, _ = case.run()
    combine = {"hook first": hook_then_module, "hook last": forward_then_hook, "wrapper": wrapper_then_hook}[order]
    case.call |= {"num_inference_steps": 8}
    combine(case.pipe, {"backend": "eager"})
    case.run()
    remove_ab_cache(case.pipe)
    case.call |= {"num_inference_steps": cases.STEPS}
    np.testing.assert_allclose(case.run()[0], plain, atol=1e-6)
    torch._dynamo.reset()
