"""Inversion: from a picture to the noise that it would be sampled from, and back, perhaps under another prompt.

An `Inverter` is a pair of methods, one for either direction; `invert` and `regenerate` drive them over the same edges.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .continuous import OBELM, AdamsBashforth, FireFlow, Midpoint, RFInversion, UniInv
from .continuous.fireflow import warm_start
from .core.grid import Grid
from .core.method import Method, Stage, State
from .core.process import EDM, Process, slope_coordinate
from .core.registry import nearest
from .core.run import Denoiser, Result, run

OnCall = Callable[[int, Stage], None]
Callback = Callable[[int, torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Inverter:
    """How to invert, and how to sample afterwards.

    Attributes:
        name: a name of `INVERTERS`.
        forward: the method from data to noise.
        backward: the method from noise to data.
        needs_pair: the way back begins with the last two states of the way forth.
        needs_target: either way is pulled towards a given end point: noise on the way forth, the picture on the way
            back.
        can_start_warm: the way back may begin with the last slope of the way forth.
    """

    name: str
    forward: Method
    backward: Method
    needs_pair: bool = False
    needs_target: bool = False
    can_start_warm: bool = False


def _rf_inversion(gamma: float = 0.5, eta: float = 0.9, start: float = 0.0, stop: float = 0.25) -> Inverter:
    """`gamma` and `eta` are the pulls of the two ways, [start, stop) the window of eta as shares of the steps."""
    backward = RFInversion(strength=eta, start=start, stop=stop)
    return Inverter("rf-inversion", RFInversion(strength=gamma), backward, needs_target=True)


def _euler() -> Inverter:
    return Inverter("euler", AdamsBashforth(order=1), AdamsBashforth(order=1))


#: What makes an inverter, by name. The fields of ``rf-inversion`` are gamma, eta, start and stop; others have none.
INVERTERS: dict[str, Callable[..., Inverter]] = {
    "fireflow": lambda: Inverter("fireflow", FireFlow(), FireFlow(), can_start_warm=True),
    "midpoint": lambda: Inverter("midpoint", Midpoint(), Midpoint(), can_start_warm=True),
    "euler": _euler,
    "uni-inv": lambda: Inverter("uni-inv", UniInv(), AdamsBashforth(order=1)),
    "rf-inversion": _rf_inversion,
    "exact": lambda: Inverter("exact", OBELM(), OBELM(), needs_pair=True),
}
#: Other names: RF-Solver computes the midpoint rule, DDIM is Euler in the coordinates of an epsilon model.
_OTHER_NAMES = {"rf-solver": "midpoint", "ddim": "euler", "o-belm": "exact"}
_RF_FIELDS = ("gamma", "eta", "start", "stop")


def inverter(name: str, **fields: float) -> Inverter:
    """An inverter by name: fireflow, midpoint (rf-solver), euler (ddim), uni-inv, rf-inversion or exact (o-belm).

    Raises:
        ValueError: unknown name or field (the nearest is suggested), a field out of range.
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    key = _OTHER_NAMES.get(key, key)
    if key not in INVERTERS:
        known = [*INVERTERS, *_OTHER_NAMES]
        raise ValueError(f"unknown inverter {name!r}{nearest(key, known)} Known are {', '.join(known)}")
    allowed = _RF_FIELDS if key == "rf-inversion" else ()
    for field in fields:
        if field not in allowed:
            raise ValueError(
                f"{key} has no field {field!r}{nearest(field, allowed)} Its fields are {', '.join(allowed) or 'none'}"
            )
    return INVERTERS[key](**fields)


@dataclass(frozen=True)
class Inversion:
    """What an inversion found.

    Attributes:
        sample: the sample at the noisiest edge of the grid, (B, ...), float32 or float64.
        source: what was inverted, (B, ...).
        kept: what the way back may begin with. Exact inversion: the state one edge before `sample`. FireFlow and
            midpoint: the last slope. Others: nothing.
        calls: network calls made.
    """

    sample: torch.Tensor
    source: torch.Tensor
    kept: State = ()
    calls: int = 0


def invert(
    denoiser: Denoiser,
    inverter: Inverter,
    process: Process,
    grid: Grid,
    x0: torch.Tensor,
    *,
    target: torch.Tensor | None = None,
    callback: Callback | None = None,
    on_call: OnCall | None = None,
) -> Inversion:
    """Take clean data to noise along the probability-flow ODE.

    Args:
        denoiser: the network under the prompt that describes the data, without guidance.
        inverter: which methods to use.
        process: the forward process, which also says what the network predicts.
        grid: the noise levels as one would sample on them, from noise to data; it is travelled backwards.
        x0: (B, ...) at ``grid.nodes[-1]``; half precision is carried in float32.
        target: for rf-inversion, the noise to be pulled to, of the shape of `x0`.
        callback: as in `run`.
        on_call: called as ``on_call(i, stage)`` just before each network call.

    Raises:
        ValueError: a target missing or of another shape, a process that cannot be inverted from this grid's end, exact
            inversion over a single interval.
    """
    edges = grid.reversed() if grid.descending else grid
    check_clean_end(process, edges)
    if inverter.needs_pair:
        check_intervals(inverter, edges.calls)
        check_undoable(process, edges)
    x0 = _working(x0)
    state = _target(inverter, target, x0, "noise") if inverter.needs_target else ()
    made = run(denoiser, inverter.forward, process, edges, x0, callback, state=state, on_call=on_call)
    kept = made.state if inverter.needs_pair or inverter.can_start_warm else ()
    return Inversion(made.sample, x0, kept, made.calls)


def regenerate(
    denoiser: Denoiser,
    inverter: Inverter,
    process: Process,
    grid: Grid,
    inversion: Inversion,
    *,
    warm: bool = False,
    target: torch.Tensor | None = None,
    callback: Callback | None = None,
    on_call: OnCall | None = None,
) -> Result:
    """Sample from the noise of an inversion: a reconstruction under the same denoiser, an edit under another.

    Args:
        denoiser: the network under the prompt to sample with.
        inverter, process, grid: those of the inversion.
        inversion: what `invert` returned.
        warm: begin with the last slope of the inversion instead of a network call (FireFlow and midpoint).
        target: for rf-inversion, the point to be pulled to; the inverted picture by default.
        callback, on_call: as in `invert`. Their i counts the calls really made.

    Returns:
        The sample at the clean end, and the network calls of this way alone.
    """
    edges = grid if grid.descending else grid.reversed()
    x = _working(inversion.sample)
    if warm and not inverter.can_start_warm:
        able = ", ".join(name for name, make in INVERTERS.items() if make().can_start_warm)
        raise ValueError(f"{inverter.name} cannot start warm; those that can are {able}")
    check_intervals(inverter, edges.calls)
    state: State = ()
    first = 0
    if inverter.needs_pair or warm:
        if not inversion.kept or inversion.kept[0].shape != x.shape:
            what = "the state before the last" if inverter.needs_pair else "its last slope"
            raise ValueError(f"{inverter.name} goes on from {what}, which this inversion does not hold; invert again")
        kept = _working(inversion.kept[0])
        first = 1
        x, state = (kept, (x,)) if inverter.needs_pair else (warm_start(process, edges, x, kept), (kept,))
    if inverter.needs_target:
        state = _target(inverter, inversion.source if target is None else target, x, "picture")
    return run(denoiser, inverter.backward, process, edges, x, callback, first=first, state=state, on_call=on_call)


def _working(x: torch.Tensor) -> torch.Tensor:
    if not x.is_floating_point():
        raise TypeError(f"a sample must be a tensor of floating-point numbers, got {x.dtype}")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _target(inverter: Inverter, target: torch.Tensor | None, x: torch.Tensor, what: str) -> State:
    if target is None:
        raise ValueError(
            f"{inverter.name} is pulled towards a {what}: pass it as target, of the shape {tuple(x.shape)}"
        )
    if target.shape != x.shape:
        raise ValueError(f"the target has the shape {tuple(target.shape)}, the sample {tuple(x.shape)}")
    return (target.to(x),)


def check_clean_end(process: Process, edges: Grid) -> None:
    """A network is called at the first edge: there must be something for it to say."""
    if edges.nodes[0].sigma > 0:
        return
    if isinstance(process, EDM):
        raise ValueError(
            "an EDM network is told the logarithm of sigma and cannot be called on clean data: "
            "end the grid at the smallest noise level (final_sigmas_type='sigma_min')"
        )
    if process.prediction == "sample":
        raise ValueError(
            "a network that predicts the clean sample says nothing about the noise in clean data: "
            "end the grid at the smallest noise level (final_sigmas_type='sigma_min')"
        )


def check_intervals(inverter: Inverter, count: int) -> None:
    """A way back that begins with two states needs a third: with one interval it would never call the network."""
    if inverter.needs_pair and count < 2:
        raise ValueError(
            f"{inverter.name} inversion needs at least 2 intervals: of {count} it keeps both ends, so that no prompt "
            "could change anything; take more steps, or skip fewer"
        )


def check_undoable(process: Process, edges: Grid) -> None:
    if not all(math.isfinite(slope_coordinate(process, node)[1]) for node in edges.nodes):
        raise ValueError(
            "exact inversion cannot reach pure noise of a variance-preserving process, where no signal is left "
            "(zero terminal SNR): begin the grid below it"
        )


def fields_of(inverter: Inverter) -> dict[str, float]:
    """The fields that make the same inverter again: ``inverter(made.name, **fields_of(made))``."""
    if not isinstance(inverter.forward, RFInversion) or not isinstance(inverter.backward, RFInversion):
        return {}
    window = dataclasses.asdict(inverter.backward)
    return {"gamma": inverter.forward.strength, "eta": window.pop("strength"), **window}
