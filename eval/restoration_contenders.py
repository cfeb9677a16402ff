"""The ways to restore a picture that are compared: posterior methods, the default of every task, classical ones.

A comparison is at equal numbers of network evaluations for one picture: forward and backward ones count alike, and the
mean of several draws costs all of theirs. A method is given as many noise levels as fit. One yardstick has more of
them, and is no rival.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewstep.samplers.core.registry import nearest

#: Degradations of the benchmark, by their task.
DEGRADATIONS = ("sr2", "sr4", "inpaint", "gaussian-deblur", "motion-deblur", "colorize", "denoise")
#: Those whose measurement has noise.
NOISY = ("gaussian-deblur", "motion-deblur", "denoise")
EXACT = tuple(name for name in DEGRADATIONS if name not in NOISY)
BLURS = ("gaussian-deblur", "motion-deblur")

#: The contender that takes the default method of each task.
DEFAULT = "default"


@dataclass(frozen=True)
class Restorer:
    """A way to restore.

    Attributes:
        name: in tables and for ``--samplers``.
        method: of `posterior_methods`, of `restoration_classical`, of deepinv, or ``"default"``.
        fields: of the method; JSON.
        origin: ``"own"``, this package's; ``"published"``, others' methods in its implementation; ``"deepinv"``, that
            package's own; ``"classical"``, no network.
        tasks: degradations that it is for.
        space: ``"pixel"``, ``"latent"`` or ``"any"`` model.
        draws: pictures whose mean is the result.
        calls: evaluations that it takes whatever is asked for: a yardstick, which is no rival. None: as asked for.
    """

    name: str
    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "published"
    tasks: tuple[str, ...] = DEGRADATIONS
    space: str = "pixel"
    draws: int = 1
    calls: int | None = None

    @property
    def calls_network(self) -> bool:
        return self.origin != "classical"


def _pixel() -> tuple[Restorer, ...]:
    network = {"kept_noise": "network"}
    travel = {"travel_length": 10, "travel_repeats": 3}
    return (
        Restorer("ddnm-2m", "ddnm-2m", origin="own", tasks=EXACT),
        Restorer("ddnm-2m x4", "ddnm-2m", origin="own", tasks=EXACT, draws=4),
        Restorer("diffpir-2m", "diffpir-2m", origin="own", tasks=NOISY),
        Restorer("diffpir-2m x4", "diffpir-2m", origin="own", tasks=NOISY, draws=4),
        Restorer("diffpir network", "diffpir", {"zeta": 0.25, **network}, origin="own"),
        Restorer("dpir", "dpir"),
        Restorer("ddnm", "ddnm", tasks=EXACT),
        Restorer("ddnm fresh", "ddnm", {"renoise": 1.0}, origin="own", tasks=EXACT),
        Restorer("ddnm 100", "ddnm", tasks=EXACT, calls=100),
        Restorer("ddnm travel", "ddnm", travel, tasks=EXACT),
        Restorer("ddnm-plus", "ddnm-plus", tasks=("gaussian-deblur", "denoise")),
        Restorer("diffpir", "diffpir"),
        Restorer("ddrm", "ddrm", tasks=tuple(name for name in DEGRADATIONS if name != "motion-deblur")),
        Restorer("dps", "dps"),
        Restorer("pigdm", "pigdm"),
        Restorer("moment-matching", "moment-matching"),
        Restorer("red-diff", "red-diff"),
        Restorer("daps", "daps"),
    )


def _latent() -> tuple[Restorer, ...]:
    return tuple(Restorer(name, name, space="latent") for name in ("stsl", "ddnm-latent", "p2l", "psld", "latent-dps"))


def _classical() -> tuple[Restorer, ...]:
    def made(name: str, *tasks: str) -> Restorer:
        return Restorer(name, name, origin="classical", tasks=tasks, space="any")

    return (
        made("bicubic", "sr2", "sr4"),
        made("bicubic projected", "sr2", "sr4"),
        made("biharmonic", "inpaint"),
        made("total variation", *NOISY),
        made("wiener", *NOISY),
        made("grey", "colorize"),
    )


def _deepinv() -> tuple[Restorer, ...]:
    return tuple(Restorer(f"deepinv {name}", name, origin="deepinv") for name in ("DPS", "DiffPIR", "DDRM"))


def restorers(space: str = "pixel") -> dict[str, Restorer]:
    """All of them for a pixel or a latent model, by name; the default first."""
    chosen = _pixel() if space == "pixel" else _latent()
    more = _deepinv() if space == "pixel" else ()
    every = (Restorer(DEFAULT, DEFAULT, origin="own", space="any"), *chosen, *_classical(), *more)
    return {made.name: made for made in every}


def select(words: Sequence[str], space: str = "pixel") -> list[Restorer]:
    """The restorers that a list of words means, each once.

    A word is ``all``, ``own``, ``published``, ``classical``, ``deepinv``, a name, or a pattern of names (``ddnm*``).

    Raises:
        ValueError: a word that means nothing here, with the nearest name.
    """
    known = restorers(space)
    chosen: dict[str, Restorer] = {}
    for word in words:
        key = word.strip().lower()
        lower = {name.lower(): made for name, made in known.items()}
        if key == "all":
            found = list(known.values())
        elif key in ("own", "published", "classical", "deepinv"):
            found = [made for made in known.values() if made.origin == key]
        elif key in lower:
            found = [lower[key]]
        else:
            found = [made for name, made in lower.items() if fnmatch.fnmatch(name, key)]
            if not found:
                raise ValueError(
                    f"unknown way to restore {word!r}{nearest(key, lower)} Known for {space} models are "
                    f"{'; '.join(known)}; and all, own, published, classical, deepinv"
                )
        chosen |= {made.name: made for made in found}
    return list(chosen.values())


def check_degradations(names: Sequence[str]) -> tuple[str, ...]:
    """Names of degradations, each once, in the usual order.

    Raises:
        ValueError: an unknown one, or none.
    """
    if names and set(names) <= {"all"}:
        return DEGRADATIONS
    for name in names:
        if name not in DEGRADATIONS:
            raise ValueError(
                f"unknown degradation {name!r}{nearest(name, DEGRADATIONS)} Known are {', '.join(DEGRADATIONS)}"
            )
    if not names:
        raise ValueError(f"name at least one degradation of {', '.join(DEGRADATIONS)}")
    return tuple(name for name in DEGRADATIONS if name in names)
