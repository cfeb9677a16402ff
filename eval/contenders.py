"""The samplers that are compared: ours and diffusers' own, each with its fields and its price in network calls.

A comparison is at equal numbers of network calls, so every contender says how many steps it takes for a number of
calls. Most make one call a step. Those that cannot make every number take the nearest one below:

* Heun, 2 calls a step and one in the last: N steps are 2 N - 1 calls, so an odd number is met and an even one missed by
  one.
* PLMS of diffusers calls the network twice at its first step: N steps are N + 1 calls.

DEIS and SA-Solver of diffusers end at the lowest noise level of the process instead of clean data: 0.0292 for Stable
Diffusion's betas. They are run as they are, and their rows say so in the column ``note``: a part of their solver error
is that remaining noise.

What a run really called is counted by a hook on the network all the same.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.pipelines.swapping import DIFFUSERS
from fewstep.samplers.core.registry import nearest

#: Of DEIS and SA-Solver of diffusers.
ENDS_NOISY = "ends at the lowest noise level, not at clean data"


def one_call_a_step(nfe: int) -> int:
    """N steps are N calls."""
    return nfe


def heun_steps(nfe: int) -> int:
    """N steps are 2 N - 1 calls; the most steps that `nfe` calls pay for."""
    return (nfe + 1) // 2


def plms_steps(nfe: int) -> int:
    """N steps are N + 1 calls."""
    return max(nfe - 1, 1)


def no_noise(timestep: float) -> float:
    """tau of SA-Solver: 0 everywhere, the ODE."""
    return 0.0


@dataclass(frozen=True)
class Contender:
    """A sampler with its fields.

    Attributes:
        name: how it is called in tables and by ``--samplers``.
        sampler: what `fewstep.pipelines.set_sampler` takes.
        fields: fields of the method or options of diffusers' scheduler, JSON.
        processes: forward processes it is for, of ``vp``, ``flow`` and ``edm``.
        steps: steps for a number of network calls.
        hidden: options that are no JSON; `fields` and the name say what they do.
        only: the numbers of calls that it can make; empty for any.
        note: what a reader of its figures must know.
    """

    name: str
    sampler: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    processes: tuple[str, ...] = ("vp", "flow", "edm")
    steps: Callable[[int], int] = one_call_a_step
    hidden: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[int, ...] = ()
    note: str = ""

    def can_make(self, nfe: int) -> bool:
        """Whether it can be run with about so many network calls."""
        return not self.only or nfe in self.only

    @property
    def family(self) -> str:
        """``fewstep`` or ``diffusers``."""
        return "diffusers" if self.sampler.startswith(DIFFUSERS) else "fewstep"


def _ours() -> list[Contender]:
    exponential: dict[str, Any] = {"base": "exponential-adams", "order": 2}
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("exponential-adams 2", "exponential-adams", {"order": 2}),
        ("exponential-adams 3", "exponential-adams", {"order": 3, "variant": "published"}),
        ("exponential-adams 3 corrected", "exponential-adams", {"order": 3, "variant": "corrected"}),
        ("exponential-adams 2 eps", "exponential-adams", {"order": 2, "form": "eps"}),
        ("adams-bashforth 1", "adams-bashforth", {"order": 1}),
        ("adams-bashforth 2", "adams-bashforth", {"order": 2}),
        ("adams-bashforth 2 variable", "adams-bashforth", {"order": 2, "weights": "variable"}),
        ("adams-bashforth 3 variable", "adams-bashforth", {"order": 3, "weights": "variable"}),
        ("ghvb 1.5", "ghvb", {"momentum": 1.5}),
        ("ghvb 2.5", "ghvb", {"momentum": 2.5}),
        ("ghvb auto", "ghvb", {"momentum": "auto"}),
        ("heavy-ball 0.8", "heavy-ball", {**exponential, "damping": 0.8}),
        ("heavy-ball auto", "heavy-ball", {**exponential, "damping": "auto"}),
        ("nesterov 0.8", "nesterov", {"order": 2, "damping": 0.8}),
        ("lml", "lml", {}),
    ]
    return [Contender(name, sampler, fields) for name, sampler, fields in made]


def _diffusers() -> list[Contender]:
    both, vp, flow, edm = ("vp", "flow"), ("vp",), ("flow",), ("edm",)

    def made(name: str, cls: str, processes: tuple[str, ...], **more: Any) -> Contender:
        return Contender(f"diffusers {name}", DIFFUSERS + cls, more.pop("fields", {}), processes, **more)

    return [
        made("DDIM", "DDIMScheduler", vp),
        made("Euler", "EulerDiscreteScheduler", vp),
        made("Heun", "HeunDiscreteScheduler", vp, steps=heun_steps),
        made("DPM++ 2M", "DPMSolverMultistepScheduler", both, fields={"solver_order": 2}),
        made("DPM++ 3M", "DPMSolverMultistepScheduler", both, fields={"solver_order": 3}),
        made(
            "DPM-Solver 2S",
            "DPMSolverSinglestepScheduler",
            both,
            fields={"solver_order": 2, "algorithm_type": "dpmsolver++", "lower_order_final": True},
        ),
        made(
            "DPM-Solver 3S",
            "DPMSolverSinglestepScheduler",
            both,
            fields={"solver_order": 3, "algorithm_type": "dpmsolver++", "lower_order_final": True},
        ),
        made("UniPC 2", "UniPCMultistepScheduler", both, fields={"solver_order": 2}),
        made("UniPC 3", "UniPCMultistepScheduler", both, fields={"solver_order": 3}),
        made("DEIS", "DEISMultistepScheduler", both, note=ENDS_NOISY),
        made("PLMS", "PNDMScheduler", vp, fields={"skip_prk_steps": True}, steps=plms_steps),
        made("LMS", "LMSDiscreteScheduler", vp),
        made("SA-Solver tau 0", "SASolverScheduler", vp, hidden={"tau_func": no_noise}, note=ENDS_NOISY),
        made("FlowMatchEuler", "FlowMatchEulerDiscreteScheduler", flow),
        made("FlowMatchHeun", "FlowMatchHeunDiscreteScheduler", flow, steps=heun_steps),
        made("EDM Euler", "EDMEulerScheduler", edm),
        made("EDM DPM++ 2M", "EDMDPMSolverMultistepScheduler", edm, fields={"solver_order": 2}),
        made("EDM DPM++ 3M", "EDMDPMSolverMultistepScheduler", edm, fields={"solver_order": 3}),
    ]


def contenders(process: str = "vp") -> dict[str, Contender]:
    """All contenders for models of a forward process (``vp``, ``flow`` or ``edm``), by name."""
    if process not in ("vp", "flow", "edm"):
        raise ValueError(f"process must be vp, flow or edm, got {process!r}")
    return {made.name: made for made in [*_ours(), *_diffusers()] if process in made.processes}


def contender_of(word: str) -> Contender:
    """A contender from any name that `fewstep.pipelines.set_sampler` takes, with default fields, or from a recipe.

    Raises:
        ValueError: an unknown sampler; the nearest is given.
    """
    from fewstep.pipelines.recipes import is_recipe, read_recipe
    from fewstep.pipelines.swapping import check_sampler

    check_sampler(word)
    if not is_recipe(word):
        return Contender(word, word)
    recipe = read_recipe(word)
    fields = {item.name: getattr(recipe.method, item.name) for item in dataclasses.fields(recipe.method)}
    levels = dict(recipe.noise_levels or {})
    fields = json.loads(json.dumps({**fields, "noise_levels": levels or None}))  # the file's content, not its name
    name = "tuned" if recipe.method.name == "tuned" else f"{recipe.method.name} tuned"
    only = tuple(sorted(map(int, levels)))
    return Contender(f"{name} {Path(word).stem}", recipe.method.name, fields, (recipe.process,), only=only)


def select(words: Sequence[str], process: str = "vp") -> list[Contender]:
    """The contenders that a list of words means, in the order of the words, each once.

    A word is ``all``, a family (``fewstep``, ``diffusers``), a contender's name (``ghvb 2.5``), a pattern of names
    (``exponential-adams*``), any sampler name that the package knows, with its default fields (``dpm++ 2m``), or the
    path of a recipe of ``fewstep tune`` (``garments.json``).

    Raises:
        ValueError: a word that means nothing; the nearest name is given.
    """
    known = contenders(process)
    lower = {name.lower(): made for name, made in known.items()}
    chosen: dict[str, Contender] = {}
    for word in (text.strip() for text in words):
        key = word.lower()
        if key == "all":
            found = list(known.values())
        elif key in ("fewstep", "diffusers"):
            found = [made for made in known.values() if made.family == key]
        elif key in lower:
            found = [lower[key]]
        elif any(letter in key for letter in "*?["):
            found = [made for name, made in lower.items() if fnmatch.fnmatch(name, key)]
            if not found:
                raise ValueError(f"no sampler's name fits {word!r}; they are {', '.join(known)}")
        else:
            try:
                found = [contender_of(word)]
            except ValueError as error:
                raise ValueError(
                    f"unknown sampler {word!r}{nearest(word, known)} Known to the benchmark are {', '.join(known)}"
                ) from error
        chosen |= {made.name: made for made in found}
    if not chosen:
        raise ValueError("name at least one sampler, or all")
    return list(chosen.values())
