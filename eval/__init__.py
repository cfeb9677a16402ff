"""Evaluation: distances between sets of pictures, precision and recall, fidelity of pairs, the shipped judge.

A name is loaded when it is first asked for, so that a program may import this package for nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip_score import ClipScore as ClipScore
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate as evaluate
    from .features import FeatureNetwork as FeatureNetwork
    from .features import feature_network as feature_network
    from .fidelity import pair_fidelity as pair_fidelity
    from .frechet import frechet_distance as frechet_distance
    from .frechet import frechet_of_moments as frechet_of_moments
    from .frechet import square_root as square_root
    from .judge import Judge as Judge
    from .kernel import clip_mmd as clip_mmd
    from .kernel import kernel_distance as kernel_distance
    from .manifold import precision_recall as precision_recall
    from .pictures import open_pictures as open_pictures
    from .solver_errors import SolverError as SolverError
    from .solver_errors import solver_error as solver_error
    from .statistics import Statistics as Statistics

#: Public name -> the file that holds it.
_HOMES = {
    "ClipScore": "clip_score",
    "Evaluation": "evaluation",
    "FeatureNetwork": "features",
    "Judge": "judge",
    "SolverError": "solver_errors",
    "Statistics": "statistics",
    "clip_mmd": "kernel",
    "evaluate": "evaluation",
    "feature_network": "features",
    "frechet_distance": "frechet",
    "frechet_of_moments": "frechet",
    "kernel_distance": "kernel",
    "open_pictures": "pictures",
    "pair_fidelity": "fidelity",
    "precision_recall": "manifold",
    "solver_error": "solver_errors",
    "square_root": "frechet",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
