"""What a sampling method is: frozen hyper-parameters, a plan of floats, and a step that only adds tensors.

A method extrapolates a *field* (x0, eps, or the slope of the probability-flow ODE) from its last few values. Every
one-call method of this package can be written as

    x' = alpha' x0 + sigma' eps + sum_{j >= 1} w_j (m_{n-j} - m_n),

one first-order step plus weighted differences of the field m, which is how `linear_steps` builds it: at a constant
field the step is exact whatever the weights, and no noise level needs a special case.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar

import torch

from .grid import Grid
from .process import Linear, Node, Process, ddim, field_of

#: What a run carries from one network call to the next: at most `Spec.history` tensors, newest first.
State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Reference:
    """The paper a method comes from."""

    key: str
    authors: str
    title: str
    year: int
    arxiv: str = ""
    venue: str = ""

    def bibtex(self) -> str:
        """A BibTeX entry."""
        fields = {"title": self.title, "author": self.authors, "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        if self.venue:
            fields["booktitle"] = self.venue
        kind = "inproceedings" if self.venue else "misc"
        return f"@{kind}{{{self.key},\n" + "".join(f"  {k} = {{{v}}},\n" for k, v in fields.items()) + "}"


@dataclass(frozen=True)
class Spec:
    """What a method promises; every promise is tested.

    Attributes:
        order: order of the global error, given accurate starting values, on a grid of the kind `order_needs`.
            0 means that the sample does not tend to the solution of the ODE as steps are added.
        order_from_start: order of the global error from the method's own one-call start.
        order_needs: ``"any"`` smooth grid, or ``"equal steps"`` in sigma / alpha (VP, EDM) or sigma (flow).
        calls: network calls a step, a step being an interval of the grid.
        extra_calls: network calls that a run makes beyond those.
        history: latent-sized tensors kept between steps.
        operations: most tensor operations of one step in float32, on a network that predicts what the method
            extrapolates (epsilon on VP, velocity on flow).
        stochastic: whether a step draws noise.
    """

    order: int
    order_from_start: int
    order_needs: str
    history: int
    operations: int
    calls: int = 1
    extra_calls: int = 0
    stochastic: bool = False


@dataclass(frozen=True)
class Stage:
    """One network call of a run.

    Attributes:
        node: noise level that the network is told.
        interval: number of the grid's interval that it belongs to, counted from the noisy end whichever way the run
            goes, so that an inversion and the sampling after it say the same.
        kind: ``"edge"`` or ``"mid"`` for where in the interval the call is made; other words where both legs call the
            network at the same nodes (``"node"``) or one leg makes a call that the other has not (``"start"``).
        base: the noise level of the last finished state, from which the sample at `node` was predicted with an
            earlier slope; `node` itself if it was not predicted.
    """

    node: Node
    interval: int
    kind: str
    base: Node

    @property
    def key(self) -> tuple[int, str]:
        """What says which call of one leg belongs to which of the other."""
        return self.interval, self.kind


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    choices: Sequence[Any] | None = None,
    words: Sequence[str] = (),
) -> Any:
    """A dataclass field with what the command line, the web page and the checks need to know about it.

    Args:
        default: the default value.
        help: one sentence for a user.
        low, high: allowed range of a number, `low` itself excluded if `open_low`.
        choices: allowed values, if they are a list.
        words: words allowed beside a number, e.g. ``("auto",)``.
    """
    meta = {"help": help, "low": low, "high": high, "open_low": open_low, "choices": choices, "words": tuple(words)}
    return dataclasses.field(default=default, metadata=meta)


def table(help: str) -> Any:
    """A dataclass field that holds numbers which a program found, not a person: the method checks it by itself."""
    meta = {"help": help, "low": None, "high": None, "open_low": False, "choices": None, "words": (), "table": True}
    return dataclasses.field(default=(), metadata=meta)


def _allowed(meta: Any) -> str:
    if meta["choices"] is not None:
        return "one of " + ", ".join(repr(choice) for choice in meta["choices"])
    low, high = meta["low"], meta["high"]
    if low is None and high is None:
        text = "a finite number"
    elif high is None:
        text = f"{'above' if meta['open_low'] else 'at least'} {low:g}"
    else:
        text = f"in {'(' if meta['open_low'] else '['}{low:g}, {high:g}]"
    return text + "".join(f" or {word!r}" for word in meta["words"])


def check_fields(method: Any) -> None:
    """Refuse a field value outside of what its `option` allows, with a sentence. Whole numbers stay whole."""
    for item in dataclasses.fields(method):
        value, meta = getattr(method, item.name), item.metadata
        if "help" not in meta or meta.get("table"):
            continue
        if (value is None and item.default is None) or value in meta["words"]:
            continue
        message = f"{item.name} must be {_allowed(meta)}, got {value!r}"
        if meta["choices"] is not None:
            if value not in meta["choices"] or isinstance(value, bool) != isinstance(item.default, bool):
                raise ValueError(message)
            continue
        if isinstance(item.default, bool):
            if not isinstance(value, bool):
                raise TypeError(f"{item.name} must be True or False, got {value!r}")
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(message) if not isinstance(value, str) else ValueError(message)
        value = float(value)
        low, high = meta["low"], meta["high"]
        if not math.isfinite(value) or (low is not None and (value < low or (meta["open_low"] and value == low))):
            raise ValueError(message)
        if high is not None and value > high:
            raise ValueError(message)
        if isinstance(item.default, int):
            if int(value) != value:
                raise ValueError(f"{item.name} must be a whole number, got {value!r}")
            value = int(value)
        object.__setattr__(method, item.name, value)  # NumPy's numbers and whole floats become plain ones


@dataclass(frozen=True)
class Plan:
    """All coefficients of one run, float64, made before the first network call.

    Attributes:
        method, process, grid: what the plan was made from.
        calls: the noise level of every network call, in order.
        steps: one object of coefficients a call; what it holds is the method's business.
        start: calls of a run on `grid` that this plan leaves out at the beginning.
    """

    method: Method
    process: Process
    grid: Grid
    calls: tuple[Node, ...]
    steps: tuple[Any, ...]
    start: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What every network call is, in order."""
        return self.method.stages(self.process, self.grid)[self.start :]


@dataclass(frozen=True)
class Method(ABC):
    """A sampling method: its fields are its hyper-parameters.

    Subclasses declare `name`, `summary`, `formula` and `references`, and give `spec`, `plan_steps` and `step`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    references: ClassVar[tuple[Reference, ...]]
    #: Whether a run that begins at a later call is a run of its own on the rest of the grid.
    replans: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """Order, history and cost of the method with these fields."""

    @abstractmethod
    def plan_steps(self, process: Process, grid: Grid) -> tuple[Any, ...]:
        """Coefficients of every step."""

    @abstractmethod
    def advance(self, step: Any, x: torch.Tensor, prediction: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """One step with the coefficients `step`, tensors being float32 or float64."""

    def stages(self, process: Process, grid: Grid) -> tuple[Stage, ...]:
        """Every network call of a run on `grid`: here one at the beginning of each interval."""
        return tuple(Stage(node, grid.from_noise(k), "edge", node) for k, node in enumerate(grid.nodes[:-1]))

    def plan(self, process: Process, grid: Grid, start: int = 0) -> Plan:
        """Compute every coefficient of a run once, in float64; the run begins at network call `start`."""
        if self.replans:
            grid, start = grid.tail(start), 0
        calls = tuple(stage.node for stage in self.stages(process, grid))
        if not 0 <= start < len(calls):
            raise ValueError(f"a run over {len(calls)} calls can start at 0 .. {len(calls) - 1}, not at {start}")
        return Plan(self, process, grid, calls[start:], self.plan_steps(process, grid)[start:], start)

    def step(
        self, plan: Plan, i: int, x: torch.Tensor, prediction: torch.Tensor, state: State = ()
    ) -> tuple[torch.Tensor, State]:
        """Take what network call `i` predicted at `x` and go on to where call `i + 1` (or the end) is.

        Args:
            plan: of this method.
            i: number of the call, from 0.
            x: sample, any shape, any floating dtype, any device; never changed in place.
            prediction: output of the network for `x`, same shape; it may be kept as it is for later steps, so a
                network that writes into one buffer at every call must hand out copies.
            state: what the previous step returned; empty for the first.

        Returns:
            The next sample in the dtype of `x`, and the state to pass on. Half-precision input is computed and kept
            in float32.
        """
        dtype = x.dtype
        result, state = self.advance(plan.steps[i], _working(x), _working(prediction), state)
        return (result if result.dtype == dtype else result.to(dtype)), state


def _working(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def evaluate(form: Linear, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Value of a linear form with as few tensor operations as it needs; may be one of the inputs itself."""
    a, b = form.of_sample, form.of_output
    if b == 1.0:
        return prediction if a == 0.0 else torch.add(prediction, x, alpha=a)
    if a == 1.0:
        return x if b == 0.0 else torch.add(x, prediction, alpha=b)
    if b == 0.0:
        return x * a
    return prediction * b if a == 0.0 else (x * a).add_(prediction, alpha=b)


def combine(
    form: Linear,
    x: torch.Tensor,
    prediction: torch.Tensor,
    terms: Iterable[tuple[float, torch.Tensor]],
) -> torch.Tensor:
    """Value of a linear form plus weighted tensors, one addition each; nothing but the fresh sum is written to."""
    result = evaluate(form, x, prediction)
    for weight, term in terms:
        if weight != 0.0:
            shared = result is x or result is prediction
            result = torch.add(result, term, alpha=weight) if shared else result.add_(term, alpha=weight)
    return result


@dataclass(frozen=True)
class Stored:
    """A field in the units in which it is cheapest to keep: ``field = scale * form``, one operation at most."""

    form: Linear
    scale: float

    @classmethod
    def of(cls, field: Linear) -> Stored:
        if field.of_output == 0.0:
            return cls(Linear(1.0, 0.0), field.of_sample)
        return cls(Linear(field.of_sample / field.of_output, 1.0), field.of_output)


@dataclass(frozen=True)
class LinearStep:
    """x' = base(x, p) + sum_j history[j] * kept[j]; then keep ``store(x, p)`` in front, at most `keep` in all."""

    base: Linear
    history: tuple[float, ...]
    store: Linear | None
    keep: int


#: Given the number of a step, the weights w_1, w_2, ... on m_{n-1} - m_n, m_{n-2} - m_n, ... in units of the sample.
Differences = Callable[[int], Sequence[float]]


def linear_steps(process: Process, grid: Grid, kind: str, keep: int, weights: Differences) -> tuple[LinearStep, ...]:
    """Plan of a linear multistep method that extrapolates the field `kind` from at most `keep` earlier values."""
    nodes = grid.nodes
    kept = [Stored.of(field_of(process, kind, node)) for node in nodes[:-1]]
    steps = []
    for n, (node, to) in enumerate(pairwise(nodes)):
        w = list(weights(n))
        base = ddim(process, node, to)
        if w:
            base = base + (-math.fsum(w)) * field_of(process, kind, node)
        history = tuple(w[j] * kept[n - 1 - j].scale for j in range(len(w)))
        steps.append(LinearStep(base, history, kept[n].form if keep and n < len(nodes) - 2 else None, keep))
    return tuple(steps)


def advance_linear(
    step: LinearStep, x: torch.Tensor, prediction: torch.Tensor, state: State
) -> tuple[torch.Tensor, State]:
    """Take a `LinearStep`: `order` + 1 additions and at most one more for what is kept."""
    result = combine(step.base, x, prediction, zip(step.history, state, strict=False))
    if step.store is None:
        return result, ()
    return result, (evaluate(step.store, x, prediction), *state[: step.keep - 1])


def transport(process: Process, node: Node, to: Node, kind: str) -> tuple[float, float]:
    """(a, c) such that a step with a constant field m is ``x' = a x + c m``; kind as in `field_of`.

    Infinite where the field cannot carry the step from pure noise; such a step is taken by `ddim`.
    """
    if kind == "x0":
        a = to.sigma / node.sigma
        return a, to.alpha - a * node.alpha
    if kind == "slope" and process.slope_mix:
        mix = process.slope_mix
        scale, scale_to = node.alpha + mix * node.sigma, to.alpha + mix * to.sigma
        return scale_to / scale, to.sigma - scale_to / scale * node.sigma
    if node.alpha == 0:
        return math.inf, math.inf
    a = to.alpha / node.alpha
    return a, to.sigma - a * node.sigma
