"""The ways of editing that are compared, by name: ours, the published strategies, the rivals, the authors' settings."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from fewstep.samplers.core.registry import nearest

from .editing_methods import FLOW_EDIT, EditMethod

#: The settings that are recommended for models with classifier-free guidance, and from how many calls on.
OURS = {0: "fireflow warm unguided", 12: "fireflow warm"}


def ours_at(calls: int) -> str:
    """The recommended setting for so many network calls."""
    return OURS[max(least for least in OURS if least <= calls)]


#: Guidance of every method that inverts, chosen on the tuning edits.
GUIDANCE = 2.5


def swept() -> tuple[EditMethod, ...]:
    """Compared at equal numbers of calls, at the guidance that was chosen on the tuning edits."""
    free, pull = {"source_guidance": 1.0}, {"gamma": 0.5, "eta": 0.9}
    put_back = {
        "none": ("none", 0),
        "replace_v 1": ("replace_v", 1),
        "replace_v 2": ("replace_v", 2),
        "add_q": ("add_q", 1),
        "add_q replace_v": ("add_q replace_v", 1),
        "add_k replace_v": ("add_k replace_v", 1),
    }
    strategies = tuple(
        EditMethod(f"fireflow {name}", "fireflow", strategy=strategy, inject=steps, guidance=GUIDANCE)
        for name, (strategy, steps) in put_back.items()
    )
    return (
        EditMethod("fireflow warm", "fireflow", "own", warm=True, guidance=GUIDANCE),
        EditMethod("fireflow warm unguided", "fireflow", "own", warm=True, guidance=1.0),
        *strategies,
        EditMethod("rf-solver", "midpoint", guidance=GUIDANCE),
        EditMethod("euler", "euler", guidance=GUIDANCE),
        EditMethod("uni-inv", "uni-inv", guidance=GUIDANCE),
        EditMethod("flowedit", FLOW_EDIT, guidance=3.0, skip=4 / 28, fields=free),
        EditMethod("rf-inversion", "rf-inversion", guidance=GUIDANCE, fields=pull),
        EditMethod("exact", "exact", guidance=GUIDANCE),
        EditMethod("rf-solver unguided", "midpoint", guidance=1.0),
        EditMethod("euler unguided", "euler", guidance=1.0),
        EditMethod("uni-inv unguided", "uni-inv", guidance=1.0),
        EditMethod("exact unguided", "exact", guidance=1.0),
        EditMethod("ddim", "euler", place="epsilon", guidance=GUIDANCE),
        EditMethod("ddim exact", "exact", place="epsilon", guidance=GUIDANCE),
    )


def of_authors() -> tuple[EditMethod, ...]:
    """At the steps and settings of the published tables, for models whose guidance is an input (Flux)."""
    pull = {"gamma": 0.5, "eta": 0.9, "start": 0.0, "stop": 0.25}
    free = {"source_guidance": 1.5}
    return (
        EditMethod("fireflow 8 steps", "fireflow", strategy="replace_v", inject=1, steps=8),
        EditMethod("fireflow 15 steps", "fireflow", strategy="replace_v", inject=2, steps=15),
        EditMethod("rf-solver 15 steps", "midpoint", strategy="replace_v", inject=2, steps=15),
        EditMethod("rf-inversion 28 steps", "rf-inversion", guidance=3.5, fields=pull, steps=28),
        EditMethod("flowedit 28 steps", FLOW_EDIT, guidance=5.5, skip=4 / 28, fields=free, steps=28),
    )


def select(words: Sequence[str], default: Sequence[EditMethod]) -> list[EditMethod]:
    """The methods that a list of words means, each once.

    A word is ``all`` (those of `default`), ``authors``, ``own``, ``published``, a name or a pattern.

    Raises:
        ValueError: a word that means nothing here, with the nearest name.
    """
    known = {method.name: method for method in (*swept(), *of_authors())}
    chosen: dict[str, EditMethod] = {}
    for word in words:
        key = word.strip().lower()
        if key == "all":
            found = list(default)
        elif key == "authors":
            found = list(of_authors())
        elif key in ("own", "published"):
            found = [method for method in default if method.origin == key]
        else:
            found = [method for name, method in known.items() if fnmatch.fnmatchcase(name, key)]
        if not found:
            raise ValueError(f"unknown way of editing {word!r}{nearest(key, known)} Known are {', '.join(known)}")
        chosen |= {method.name: method for method in found}
    return list(chosen.values())


#: Figures of PIE-Bench that were published on FLUX.1-dev, by method: structure distance (1e-3), PSNR and SSIM (%)
#: outside of the edited region, CLIP similarity of the whole picture and of the edited region, network calls.
#: Deng et al. 2024 (arXiv 2412.07517); FlowEdit as run by others.
PUBLISHED: dict[str, tuple[float, float, float, float, float, int]] = {
    "fireflow 8 steps": (27.1, 23.03, 82.49, 26.02, 22.81, 18),
    "fireflow 15 steps": (28.3, 23.28, 82.82, 25.98, 22.94, 32),
    "rf-solver 15 steps": (31.1, 22.90, 81.90, 26.00, 22.88, 60),
    "rf-inversion 28 steps": (40.6, 20.82, 71.92, 25.20, 22.11, 56),
    "flowedit 28 steps": (28.99, 21.72, 83.87, 25.88, 22.71, 48),
}
