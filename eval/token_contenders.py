"""The samplers of tokens that are compared: ours, the published ones, and diffusers' schedulers.

A comparison is at equal numbers of network calls. Ours are planned for exactly that many, the call that fills what a
method in rate form leaves included; diffusers' schedulers make one call a step.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.pipelines.swapping import DIFFUSERS
from fewstep.samplers.core.registry import nearest

#: What a mask model cannot do for it.
NEEDS_UNIFORM = (
    "diffusers DiscreteDDIMScheduler is for uniform noise, which replaces tokens by random ones: a masked model has "
    "never seen them and cannot tell them from text; measure it with --model oracle:chain:uniform"
)


@dataclass(frozen=True)
class TokenContender:
    """A sampler with its fields.

    Attributes:
        name: in tables and for ``--samplers``.
        method: name of a `TokenMethod`, ``"maskgit"``, or ``diffusers:CLASS``.
        fields: of the method, or options of diffusers' scheduler; JSON.
        origin: ``"own"``, this package's; ``"published"``, others' methods in its implementation; ``"diffusers"``.
        processes: ``"masked"``, ``"uniform"``.
        places: ``"text"``, ``"pictures"``: where it can be run.
        fewest: network calls that it needs at least.
    """

    name: str
    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "published"
    processes: tuple[str, ...] = ("masked", "uniform")
    places: tuple[str, ...] = ("text", "pictures")
    fewest: int = 1

    @property
    def family(self) -> str:
        """``fewstep`` or ``diffusers``: whose code it is."""
        return "diffusers" if self.origin == "diffusers" else "fewstep"


#: Samplers that choose where to draw by what was drawn: they prefer likely values, and their law does not tend to the
#: model's as calls are added. Their low perplexity is that of dull text.
BIASED = ("maskgit", "diffusers AmusedScheduler", "diffusers BlockRefinementScheduler")


def _all() -> tuple[TokenContender, ...]:
    masked, text = ("masked",), ("text",)
    rate = {"stage_probability": "rate"}
    return (
        TokenContender("token-adams-bashforth", "token-adams-bashforth", origin="own"),
        TokenContender("trapezoidal exact", "theta-trapezoidal", origin="own", processes=masked),
        TokenContender("trapezoidal rate", "theta-trapezoidal", rate, fewest=3),
        TokenContender("trapezoidal published", "theta-trapezoidal", {**rate, "conflict": "reject"}, fewest=3),
        TokenContender("rk2", "theta-rk2", fewest=3),
        TokenContender("tau-leaping", "tau-leaping", fewest=2),
        TokenContender("euler", "euler", fewest=2),
        TokenContender("tweedie", "tweedie"),
        TokenContender("tweedie spread", "tweedie", {"reveals": "spread"}, processes=masked),
        TokenContender("first-hitting", "first-hitting", processes=masked),
        TokenContender("maskgit", "maskgit", {"temperature": 4.5}, processes=masked, places=text),
        TokenContender("diffusers AmusedScheduler", f"{DIFFUSERS}AmusedScheduler", {}, "diffusers", masked),
        TokenContender(
            "diffusers BlockRefinementScheduler", f"{DIFFUSERS}BlockRefinementScheduler", {}, "diffusers", masked, text
        ),
        TokenContender(
            "diffusers DiscreteDDIMScheduler", f"{DIFFUSERS}DiscreteDDIMScheduler", {}, "diffusers", ("uniform",), text
        ),
    )


def contenders(process: str = "masked", place: str = "text") -> dict[str, TokenContender]:
    """All contenders for a process (``masked``, ``uniform``) and a place (``text``, ``pictures``), by name."""
    return {made.name: made for made in _all() if process in made.processes and place in made.places}


def select(words: Sequence[str], process: str = "masked", place: str = "text") -> list[TokenContender]:
    """The contenders that a list of words means, each once.

    A word is ``all``, ``fewstep``, ``diffusers``, ``own``, ``published``, a name, or a pattern of names (``trap*``).

    Raises:
        ValueError: a word that means nothing here, with the nearest name.
    """
    known = contenders(process, place)
    lower = {name.lower(): made for name, made in known.items()}
    everywhere = {made.name.lower(): made for made in _all()}
    chosen: dict[str, TokenContender] = {}
    for word in words:
        key = word.strip().lower()
        if key == "all":
            found = list(known.values())
        elif key in ("fewstep", "diffusers"):
            found = [made for made in known.values() if made.family == key]
        elif key in ("own", "published"):
            found = [made for made in known.values() if made.origin == key]
        elif key in lower:
            found = [lower[key]]
        elif any(letter in key for letter in "*?["):
            found = [made for name, made in lower.items() if fnmatch.fnmatch(name, key)]
            if not found:
                raise ValueError(f"no sampler's name fits {word!r}; they are {', '.join(known)}")
        elif key in everywhere:
            made = everywhere[key]
            if made.method.endswith("DiscreteDDIMScheduler"):
                raise ValueError(NEEDS_UNIFORM)
            raise ValueError(
                f"{made.name} is for {' and '.join(made.processes)} noise on {' and '.join(made.places)}; here it is "
                f"{process} noise on {place}"
            )
        else:
            raise ValueError(f"unknown sampler {word!r}{nearest(key, lower)} Known here are {', '.join(known)}")
        chosen |= {made.name: made for made in found}
    if not chosen:
        raise ValueError("name at least one sampler, or all")
    return list(chosen.values())
