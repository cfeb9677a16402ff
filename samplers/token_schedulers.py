"""Token methods as diffusers schedulers; with `schedulers.py` the only files that know diffusers' scheduler classes.

They keep the contract of `AmusedScheduler` (token pictures), and of `BlockRefinementScheduler` as `LLaDA2Pipeline` and
`DiffusionGemmaPipeline` use it: `step` is called once per network call, and what it returns is what the network must
see next, so that two-stage methods need no change of a pipeline.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import BlockRefinementScheduler, ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME, SchedulerMixin
from diffusers.utils import BaseOutput

from .core.registry import nearest
from .discrete import (
    Draws,
    MaskedProcess,
    Reading,
    Shaping,
    TokenGrid,
    TokenMethod,
    TokenPlan,
    TokenProcess,
    TokenState,
    UniformProcess,
    advance,
    noise_schedule,
    token_method,
)
from .discrete.ctmc import PREDICTIONS
from .discrete.first_hitting import FirstHitting
from .discrete.kernels import categorical
from .discrete.method import Call

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class TokenSchedulerOutput(BaseOutput):
    """What a step returns.

    Attributes:
        prev_sample: the tokens that the network must see next, in the shape of `sample`.
        transfer_index: where they differ from `sample`.
        editing_transfer_index: False everywhere; these methods do not edit.
        sampled_tokens: same as `prev_sample`.
        sampled_probs: the model's probability of each new token where one was drawn, else 1.
        pred_logits: the model's output as it was given.
        pred_original_sample: what is left drawn once from the model's law, for previews; made when asked for.
    """

    prev_sample: torch.Tensor
    transfer_index: torch.Tensor
    editing_transfer_index: torch.Tensor
    sampled_tokens: torch.Tensor
    sampled_probs: torch.Tensor
    pred_logits: torch.Tensor

    _predict: ClassVar[Any] = None

    @property
    def pred_original_sample(self) -> torch.Tensor:
        return self._predict()


def _is_whole(timestep: Any) -> bool:
    """Whether a timestep is a counter of calls; pipelines that do not count pass entries of `timesteps`."""
    if isinstance(timestep, torch.Tensor):
        return not timestep.is_floating_point()
    return isinstance(timestep, int)


class TokenScheduler(SchedulerMixin, ConfigMixin):
    """Base of the token schedulers: the run of a `TokenMethod`, one `step` a network call.

    The options that all of them take:

    Args:
        mask_token_id: number of the mask token; may be given to `step` instead. Not used by uniform noise.
        process: ``"masked"`` or ``"uniform"``.
        noise_schedule: ``"log_linear"``, ``"linear"``, ``"cosine"``, ``"geometric"``; None: what `masking_schedule`
            says, else log-linear for masks and linear for uniform noise.
        schedule_eps: eps of the log-linear schedule.
        t_start, t_end: where a run goes from and to; `t_end` None: 0, or 1e-3 for rates on masks.
        time_grid: ``"uniform"``, ``"cosine"``, ``"mask_ratio"``, ``"quadratic"`` (in sigma), ``"auto"``.
        final_fill: ``"sample"`` or ``"argmax"``, for methods that leave masks.
        prediction_type: ``"logits"``, ``"log_probs"``, ``"score"``, ``"loo_logits"``.
        temperature, top_p: shape the model's law, alike at every call.
        steps_are_model_calls: whether `num_inference_steps` counts network calls. Pipelines that pass a `block_length`
            to `set_timesteps` count them in any case.
        block_length: tokens of a block, read by block-wise pipelines.
        masking_schedule: the key of `AmusedScheduler`, ``"cosine"`` or ``"linear"``; the inpainting pipeline sets it.
    """

    config_name: Any = SCHEDULER_CONFIG_NAME
    config: Any
    order = 1
    init_noise_sigma = 1.0
    timesteps: torch.Tensor
    num_values: int | None = None  #: size of the vocabulary, which `add_noise` needs for uniform noise

    check_eos_finished = staticmethod(BlockRefinementScheduler.check_eos_finished)
    check_block_should_continue = BlockRefinementScheduler.check_block_should_continue

    def _method(self) -> TokenMethod:
        raise NotImplementedError

    def _build(self) -> None:
        config = self.config
        if config.process not in ("masked", "uniform"):
            found = nearest(str(config.process), ("masked", "uniform"))
            raise ValueError(f"process must be 'masked' or 'uniform', got {config.process!r}{found}")
        if config.prediction_type not in PREDICTIONS:
            found = nearest(str(config.prediction_type), PREDICTIONS)
            raise ValueError(
                f"unknown prediction_type {config.prediction_type!r}{found} Known are {', '.join(PREDICTIONS)}"
            )
        if config.final_fill not in ("sample", "argmax"):
            raise ValueError(f"final_fill must be 'sample' or 'argmax', got {config.final_fill!r}")
        self.method = self._method()
        self.method.check(self._process(0 if config.mask_token_id is None else config.mask_token_id))
        self._grid = TokenGrid(config.time_grid, config.t_start, config.t_end)
        self._shaping = Shaping(config.temperature, config.top_p)
        self._plan: TokenPlan | None = None
        self._counter = False
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0, dtype=torch.float64)
        self._restart()

    def _process(self, mask: int) -> TokenProcess:
        config = self.config
        masked = config.process == "masked"
        name = config.noise_schedule or (config.masking_schedule if masked else None)
        schedule = noise_schedule(name or ("log_linear" if masked else "linear"), config.schedule_eps)
        return MaskedProcess(schedule, mask=mask) if masked else UniformProcess(schedule)

    def _restart(self) -> None:
        self._index = 0
        self._started = False
        self._state: TokenState | None = None

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the options of another one's configuration, and some set by hand.

        Values that diffusers marks as another class's defaults, or that were given by position, are values of the model
        all the same, and travel.
        """
        if not isinstance(config, dict):
            return super().from_config(config, return_unused_kwargs, **kwargs)
        known = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items()}
        for key in kwargs:
            if key not in known and not key.startswith("_") and not return_unused_kwargs:
                raise ValueError(f"{cls.__name__} has no option {key!r}{nearest(key, known)}")
        implied = [k for k in config.get("_use_default_values", ()) if k in known and config.get(k) == known[k]]
        return super().from_config({**config, "_use_default_values": implied}, return_unused_kwargs, **kwargs)

    # -- the run -------------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int,
        temperature: float | Sequence[float] | None = None,
        device: str | torch.device | None = None,
        *,
        block_length: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Lay out the next run and forget everything of the last one.

        Args:
            num_inference_steps: number of steps; of network calls with `steps_are_model_calls` or a `block_length`.
            temperature: unused; the aMUSEd pipelines pass the temperature of confidence decoding here.
            device: where `timesteps` shall live.
            block_length: tokens of a block; given by pipelines that count network calls and go through several blocks.
            generator: of the hitting times of `FirstHittingScheduler`.
        """
        if block_length is not None and block_length < 1:
            raise ValueError(f"block_length must be at least 1, got {block_length!r}")
        mask = self.config.mask_token_id
        process = self._process(0 if mask is None else mask)
        if int(num_inference_steps) != num_inference_steps:
            raise ValueError(f"num_inference_steps must be a whole number, got {num_inference_steps!r}")
        number = int(num_inference_steps)
        self._counter = bool(self.config.steps_are_model_calls or block_length is not None)
        counted = {"calls": number} if self._counter else {"steps": number}
        if isinstance(self.method, FirstHitting):
            self._plan = self.method.plan(process, self._grid, generator=generator, **counted)
        else:
            self._plan = self.method.plan(process, self._grid, **counted)
        self.timesteps = torch.tensor([call.time for call in self._plan.calls], dtype=torch.float64).to(
            device=device, dtype=torch.float32 if str(device).startswith("mps") else torch.float64
        )
        self.num_inference_steps = number
        self._restart()

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The sample itself."""
        return sample

    @property
    def step_index(self) -> int | None:
        """Number of the next network call; None before the first."""
        return self._index if self._started else None

    @property
    def has_stored_state(self) -> bool:
        """Whether an earlier call's output is kept for the next one."""
        return self._state is not None and bool(self._state.past)

    def _locate(self, timestep: Any) -> int:
        """Number of the call at hand: from a counter (a whole number), or from where `timestep` lies in `timesteps`."""
        assert self._plan is not None
        value = float(timestep.reshape(-1)[0]) if isinstance(timestep, torch.Tensor) else float(timestep)
        times = [call.time for call in self._plan.calls]
        if self._counter and _is_whole(timestep):
            found = int(value)
            known = self._started and found == self._index and found > 0
        else:
            known = self._started and self._index < len(times) and abs(times[self._index] - value) < 1e-5
            gaps = [abs(t - value) for t in times]
            found = self._index if known else gaps.index(min(gaps))
            if gaps[found] > 1e-3:
                raise ValueError(f"the timestep {value:g} is not one of this run; use the scheduler's `timesteps`")
        if not known:
            self._restart()
        self._index, self._started = found, True
        return found

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        starting_mask_ratio: Any = None,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        mask_token_id: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str | None = None,
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: torch.Tensor | None = None,
    ) -> TokenSchedulerOutput | tuple[torch.Tensor]:
        """Take what the network said about `sample` and go on to where the next call is.

        Args:
            model_output: (B, L, V), or (B, V, H, W) for pictures; guidance applied, temperature not.
            timestep: an entry of `timesteps`, or a counter of calls where they are what is counted.
            sample: tokens that the network saw, (B, L) or (B, H, W) int64.
            generator: one, or one a sequence: then a sequence does not depend on its batch mates.
            return_dict: return a `TokenSchedulerOutput` instead of a tuple.
            mask_token_id: if the configuration has none.
            temperature, top_p, top_k: instead of the configuration's.
            prompt_mask: True at given positions, (L,) or (B, L).
            starting_mask_ratio, sampling_method, threshold, editing_threshold, minimal_topk: of confidence decoding;
                unused, but greedy sampling is refused.
        """
        if self._plan is None:
            raise ValueError("call set_timesteps before the first step")
        if sampling_method == "greedy":
            raise ValueError("these samplers draw from the model's law; sampling_method 'greedy' is not theirs")
        masked = self.config.process == "masked"
        mask = self.config.mask_token_id if mask_token_id is None else mask_token_id
        if masked and mask is None:
            raise ValueError(
                "a masked process needs a mask token: set mask_token_id on the scheduler, or give it to step"
            )
        output, shape = model_output, sample.shape
        if sample.ndim == 3 and model_output.ndim == 4:
            output = model_output.flatten(2).transpose(1, 2)
            sample = sample.flatten(1)
        i = self._locate(timestep)
        plan = dataclasses.replace(self._plan, process=self._process(int(mask)) if masked else self._plan.process)
        shaping = self._shaping
        if temperature is not None or top_p is not None or top_k is not None:
            given: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k or None}
            shaping = dataclasses.replace(shaping, **{k: v for k, v in given.items() if v is not None})
        reading = Reading(self.config.prediction_type, shaping, self.config.final_fill)
        editable = None if prompt_mask is None else ~prompt_mask.bool()
        draws = Draws(generator)
        if i >= len(plan.calls):  # a pipeline that goes on after the run: nothing is left but what it may have masked
            i, plan = 0, TokenPlan(plan.method, plan.process, (Call("fill", 0.0, 0.0, 0.0, 0.0),))
            if not masked:
                raise ValueError(f"the run has {len(self._plan.calls)} calls, and step was called once more")
            self._state = None
        else:
            self._index = i + 1
        new, self._state = advance(plan, i, sample, output, self._state, draws, reading, editable, shape[1:])
        changed = new != sample
        probs = torch.ones(sample.shape, dtype=torch.float32, device=sample.device)
        drawn = changed & (new != mask) if masked else changed
        if drawn.any():
            p = torch.softmax(output[drawn].float(), dim=-1)
            probs[drawn] = p.gather(-1, new[drawn][:, None])[:, 0]
        new, changed, probs = new.reshape(shape), changed.reshape(shape), probs.reshape(shape)
        if not return_dict:
            return (new,)
        result = TokenSchedulerOutput(new, changed, torch.zeros_like(changed), new, probs, model_output)
        call = plan.calls[i]

        def predict() -> torch.Tensor:
            tokens = sample.reshape(-1)
            rows = (new.reshape(-1) == mask) if masked else torch.ones_like(tokens, dtype=torch.bool)
            filled = new.reshape(-1).clone()
            if rows.any():
                p = plan.process.probabilities(
                    output.reshape(len(tokens), -1)[rows], tokens[rows], call.time, reading.prediction, shaping
                )
                u = Draws(torch.Generator().manual_seed(0)).uniform(1, len(p), p.device)[0]
                filled[rows] = categorical(p, u)
            return filled.reshape(shape)

        object.__setattr__(result, "_predict", predict)
        return result

    def add_noise(
        self, sample: torch.Tensor, timesteps: float | torch.Tensor, generator: Generators = None
    ) -> torch.Tensor:
        """Noise clean tokens to the level at which the call *after* the one at `timesteps` expects them.

        That is how aMUSEd's image-to-image pipeline asks for it. The last entry of `timesteps`, which that pipeline
        reaches at strength 1 by the index -1, means pure noise.
        """
        if self._plan is None:
            raise ValueError("call set_timesteps before add_noise")
        process, calls = self._plan.process, self._plan.calls
        if isinstance(process, MaskedProcess) and self.config.mask_token_id is None:
            raise ValueError("add_noise needs mask_token_id in the scheduler's configuration")
        value = float(torch.as_tensor(timesteps).reshape(-1)[0])
        gaps = [abs(call.time - value) for call in calls]
        at = int(value) if self._counter and _is_whole(timesteps) else gaps.index(min(gaps))
        t = calls[at + 1].time if at + 1 < len(calls) else 1.0
        ratio = 1.0 if t >= 1 else process.schedule.mask_ratio(t)
        flat = sample.flatten(1)
        u = Draws(generator).uniform(len(flat), 2 * flat.shape[1], sample.device)
        hit, fresh = u[:, : flat.shape[1]] < ratio, u[:, flat.shape[1] :]
        if isinstance(process, MaskedProcess):
            noise = torch.full_like(flat, self.config.mask_token_id)
        else:
            if not self.num_values:
                raise ValueError(
                    "set the scheduler's num_values before noising: uniform noise needs the vocabulary's size"
                )
            noise = (fresh * self.num_values).long()
        return torch.where(hit, noise, flat).reshape(sample.shape)

    def __len__(self) -> int:
        return len(self.timesteps)


class DiscreteThetaScheduler(TokenScheduler):
    """theta-trapezoidal and theta-RK-2: two network calls a step.

    Args:
        algorithm: ``"trapezoidal"`` or ``"rk2"``.
        theta: place of the second call, in (0, 1]; below 1 with exact intervals.
        stage_probability: ``"exact"`` intervals of the mask ratio, or ``"rate"`` as published; RK-2 has rates only.
        conflict: ``"any"``, ``"reject"`` (published) or ``"euler"``, in rate form.

    The other options are those of `TokenScheduler`. The published form is ``stage_probability="rate"``,
    ``conflict="reject"``.
    """

    order = 2

    @register_to_config
    def __init__(
        self,
        mask_token_id: int | None = None,
        algorithm: str = "trapezoidal",
        theta: float = 0.5,
        stage_probability: str = "exact",
        conflict: str = "any",
        process: str = "masked",
        noise_schedule: str | None = None,
        schedule_eps: float = 1e-3,
        t_start: float = 1.0,
        t_end: float | None = None,
        time_grid: str = "auto",
        final_fill: str = "sample",
        prediction_type: str = "logits",
        temperature: float = 1.0,
        top_p: float | None = None,
        steps_are_model_calls: bool = False,
        block_length: int = 32,
        masking_schedule: str | None = None,
    ) -> None:
        self._build()

    def _method(self) -> TokenMethod:
        c = self.config
        if c.algorithm not in ("trapezoidal", "rk2"):
            found = nearest(str(c.algorithm), ("trapezoidal", "rk2"))
            raise ValueError(f"algorithm must be 'trapezoidal' or 'rk2', got {c.algorithm!r}{found}")
        if c.algorithm == "rk2":
            return token_method("rk2", theta=c.theta, conflict=c.conflict)
        return token_method("trapezoidal", theta=c.theta, stage_probability=c.stage_probability, conflict=c.conflict)


class DiscreteAdamsBashforthScheduler(TokenScheduler):
    """Adams-Bashforth for tokens: one network call a step, second order in law, steady under strong dependence.

    Args:
        lag: calls to look back, or ``"auto"``.
        max_lag: longest lag of ``"auto"``.
        tolerance: clamped mass above which ``"auto"`` lengthens the lag.
        reveals: ``"spread"``, ``"balanced"`` or ``"independent"``.

    The other options are those of `TokenScheduler`; the method is `TokenAdamsBashforth`.
    """

    @register_to_config
    def __init__(
        self,
        mask_token_id: int | None = None,
        lag: int | str = "auto",
        max_lag: int = 4,
        tolerance: float = 0.01,
        reveals: str = "spread",
        process: str = "masked",
        noise_schedule: str | None = None,
        schedule_eps: float = 1e-3,
        t_start: float = 1.0,
        t_end: float | None = None,
        time_grid: str = "auto",
        final_fill: str = "sample",
        prediction_type: str = "logits",
        temperature: float = 1.0,
        top_p: float | None = None,
        steps_are_model_calls: bool = False,
        block_length: int = 32,
        masking_schedule: str | None = None,
    ) -> None:
        self._build()

    def _method(self) -> TokenMethod:
        c = self.config
        return token_method("adams", lag=c.lag, max_lag=c.max_lag, tolerance=c.tolerance, reveals=c.reveals)


class DiscreteTauLeapingScheduler(TokenScheduler):
    """The first-order baselines: one network call a step.

    Args:
        method: ``"tweedie"``, ``"tau"`` or ``"euler"``.
        conflict: ``"any"``, ``"reject"`` or ``"euler"``, for tau-leaping.
        reveals: ``"independent"``, ``"balanced"`` or ``"spread"``, for Tweedie.

    The other options are those of `TokenScheduler`.
    """

    @register_to_config
    def __init__(
        self,
        mask_token_id: int | None = None,
        method: str = "tweedie",
        conflict: str = "any",
        reveals: str = "independent",
        process: str = "masked",
        noise_schedule: str | None = None,
        schedule_eps: float = 1e-3,
        t_start: float = 1.0,
        t_end: float | None = None,
        time_grid: str = "auto",
        final_fill: str = "sample",
        prediction_type: str = "logits",
        temperature: float = 1.0,
        top_p: float | None = None,
        steps_are_model_calls: bool = False,
        block_length: int = 32,
        masking_schedule: str | None = None,
    ) -> None:
        self._build()

    def _method(self) -> TokenMethod:
        known = ("tweedie", "tau", "euler")
        if self.config.method not in known:
            found = nearest(str(self.config.method), known)
            raise ValueError(f"method must be one of {', '.join(known)}, got {self.config.method!r}{found}")
        if self.config.method != "tweedie" and self.config.reveals != "independent":
            raise ValueError(f"reveals {self.config.reveals!r} is for 'tweedie'; {self.config.method!r} has its own")
        own = {"tau": {"conflict": self.config.conflict}, "tweedie": {"reveals": self.config.reveals}}
        fields = own.get(self.config.method, {})
        return token_method(self.config.method, **fields)


class FirstHittingScheduler(TokenScheduler):
    """First-hitting sampling: with as many network calls as masks, one token each, the model's law exactly.

    With fewer calls every call reveals its even share. Masks only; the options are those of `TokenScheduler`.
    """

    @register_to_config
    def __init__(
        self,
        mask_token_id: int | None = None,
        process: str = "masked",
        noise_schedule: str | None = None,
        schedule_eps: float = 1e-3,
        t_start: float = 1.0,
        t_end: float | None = None,
        time_grid: str = "auto",
        final_fill: str = "sample",
        prediction_type: str = "logits",
        temperature: float = 1.0,
        top_p: float | None = None,
        steps_are_model_calls: bool = False,
        block_length: int = 32,
        masking_schedule: str | None = None,
    ) -> None:
        self._build()

    def _method(self) -> TokenMethod:
        return FirstHitting()


#: Token scheduler classes by name.
TOKEN_SCHEDULERS: dict[str, type[TokenScheduler]] = {
    cls.__name__: cls
    for cls in (
        DiscreteAdamsBashforthScheduler,
        DiscreteTauLeapingScheduler,
        DiscreteThetaScheduler,
        FirstHittingScheduler,
    )
}

for _name, _class in TOKEN_SCHEDULERS.items():
    _class.__module__ = __name__.rpartition(".")[0]  # written into saved pipelines: the public place
    setattr(diffusers, _name, _class)  # so that a swap back to a class of diffusers does not warn of our fields
    _class._compatibles = [*TOKEN_SCHEDULERS]  # nor a swap among ours

__all__ = [*TOKEN_SCHEDULERS, "TOKEN_SCHEDULERS", "TokenScheduler", "TokenSchedulerOutput"]
