"""Every registered method as a diffusers scheduler: the one file of the samplers that knows diffusers' classes.

`make_scheduler` turns a `Method` class into a `SchedulerMixin, ConfigMixin` class whose constructor takes diffusers' grid
and process options under diffusers' names, and the method's fields under theirs. The forward process is read from the
configuration that a scheduler is made from: a flow-matching configuration gives a flow process, an EDM one an EDM
process, anything else a variance-preserving one.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput

from .core.grid import Grid, GridOptions, make_grid
from .core.method import Method, Plan, State, evaluate
from .core.process import EDM, Flow, Node, Process, VPDiscrete, betas_of_schedule
from .core.registry import methods

#: Options of diffusers' schedulers that say the forward process and the grid, with diffusers' common defaults.
COMMON_OPTIONS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "process": "auto",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -math.inf,
    "sigma_min": None,
    "sigma_max": None,
    "rho": 7.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "variance_type": None,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "timestep_type": "discrete",
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
}

_FLOW_KEYS = ("shift", "base_shift", "max_shift", "shift_terminal", "invert_sigmas", "stochastic_sampling")
_VP_KEYS = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
_PROCESS_KEYS = ("num_train_timesteps", *_VP_KEYS, "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho")


def process_of_config(config: Mapping[str, Any]) -> str:
    """``"flow"``, ``"edm"`` or ``"vp"``: the forward process that a scheduler configuration belongs to.

    An explicit ``process`` entry decides; else what only one family of diffusers' schedulers has.
    """
    stated = config.get("process", "auto")
    if stated != "auto":
        return stated
    if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return "flow"
    if any(key in config for key in _VP_KEYS):
        return "vp"
    if "sigma_data" in config or "sigma_schedule" in config:
        return "edm"
    return "flow" if any(key in config for key in _FLOW_KEYS) or config.get("use_dynamic_shifting") else "vp"


@dataclass
class FewstepSchedulerOutput(BaseOutput):
    """What a step returns.

    Attributes:
        prev_sample: the next sample, same shape and dtype as the network's output.
        pred_original_sample: clean data as predicted at this step from the network's output alone, computed when asked.
    """

    prev_sample: torch.Tensor

    _predict: ClassVar[Any] = None

    @property
    def pred_original_sample(self) -> torch.Tensor:
        return self._predict()


def _thresholded(x0: torch.Tensor, ratio: float, most: float) -> torch.Tensor:
    """Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487): clip x0 to its own quantile s in [1, most], divide by s."""
    flat = x0.flatten(1).float()
    s = torch.quantile(flat.abs(), ratio, dim=1).clamp(min=1, max=most)[:, None]
    return (torch.maximum(torch.minimum(flat, s), -s) / s).to(x0.dtype).reshape(x0.shape)


class FewstepScheduler(SchedulerMixin, ConfigMixin):
    """Base of every scheduler here: one `Method` behind the contract of diffusers' schedulers.

    The sample is ``alpha * x0 + sigma * eps`` (initial noise scale 1, no input scaling) but for EDM models, which take
    their own input scaling. All coefficients are floats made by `Method.plan` at the first step of a run, so a step reads
    no scalar from a tensor. A scheduler object holds the state of one run; copy it (or make one from its config) for
    runs that overlap.
    """

    _compatibles: ClassVar[list[str]] = [e.name for e in KarrasDiffusionSchedulers]
    order = 1
    method_class: ClassVar[type[Method]]

    # -- construction -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config = self.config
        for key, bad, why in (
            ("invert_sigmas", True, "flow models whose time runs backwards (Mochi)"),
            ("stochastic_sampling", True, "stochastic flow sampling"),
            ("timestep_type", "continuous", "continuous EDM timesteps on a discrete schedule"),
        ):
            if config.get(key) == bad:
                raise ValueError(f"{type(self).__name__} does not support {key}={bad!r}: {why}")
        if sum(bool(config.get(k)) for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")) > 1:
            raise ValueError("at most one of use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas can be set")
        implied = set(config.get("_use_default_values", ()))
        kind = process_of_config({k: v for k, v in config.items() if k not in implied or k == "process"})
        if kind not in ("vp", "flow", "edm"):
            raise ValueError(f"process must be auto, vp, flow or edm, got {kind!r}")
        settled = {"process": kind, "_method": self.method_class.name}
        if kind == "flow" and "prediction_type" in implied:
            settled["prediction_type"] = "flow_prediction"
        self.register_to_config(**settled)
        config = self.config
        if config.thresholding and kind != "vp":
            raise ValueError("dynamic thresholding is for variance-preserving pixel-space models")
        self.method: Method = self.method_class(
            **{f.name: config[f.name] for f in dataclasses.fields(self.method_class)}
        )
        self.process: Process = self._process(kind)
        self._options = self._grid_options(kind)
        if isinstance(self.process, VPDiscrete):
            bar = torch.tensor(self.process.alphas_cumprod, dtype=torch.float64)
            self.alphas_cumprod = bar.to(torch.float32)
            self.betas = 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]]).to(torch.float32)
            self.alphas = 1 - self.betas
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(config.num_train_timesteps - 1, -1, -1)
        self.sigmas = torch.zeros(0)
        self._grid: Grid | None = None
        self._restart()
        self._begin_index: int | None = None

    def _process(self, kind: str) -> Process:
        config = self.config
        prediction = config.prediction_type
        if kind == "flow":
            return Flow(prediction, float(config.num_train_timesteps))
        if kind == "edm":
            if prediction not in ("epsilon", "v_prediction"):
                raise ValueError(f"an EDM model has prediction_type epsilon or v_prediction, got {prediction!r}")
            return EDM(
                config.sigma_min or 0.002,
                config.sigma_max or 80.0,
                config.sigma_data,
                "edm" if prediction == "epsilon" else "edm_v",
            )
        if prediction not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(
                f"prediction_type={prediction!r} does not belong to a variance-preserving process; "
                "allowed are epsilon, sample and v_prediction (flow models: flow_prediction)"
            )
        betas = betas_of_schedule(
            config.beta_schedule,
            config.num_train_timesteps,
            config.beta_start,
            config.beta_end,
            config.trained_betas,
        )
        return VPDiscrete.from_betas(betas, prediction, config.rescale_betas_zero_snr)

    def _grid_options(self, kind: str) -> GridOptions:
        config = self.config
        spacing = config.timestep_spacing
        if spacing not in ("linspace", "leading", "trailing"):
            raise ValueError(f"timestep_spacing must be linspace, leading or trailing, got {spacing!r}")
        if kind == "flow" and config.use_flow_sigmas:
            spacing = "trailing"
        for key, name in (
            ("use_karras_sigmas", "karras"),
            ("use_exponential_sigmas", "exponential"),
            ("use_beta_sigmas", "beta"),
            ("use_lu_lambdas", "logsnr"),
        ):
            if config.get(key):
                spacing = name
        if kind == "edm" and spacing in ("linspace", "leading", "trailing"):
            spacing = config.sigma_schedule
        flow_shift = config.flow_shift if config.use_flow_sigmas or config.flow_shift != 1.0 else config.shift
        return GridOptions(
            spacing=spacing,
            steps_offset=config.steps_offset,
            final_sigma=config.final_sigmas_type,
            sigma_min=config.sigma_min if kind == "vp" else None,
            sigma_max=config.sigma_max if kind == "vp" else None,
            rho=config.rho,
            lambda_min=config.lambda_min_clipped if config.lambda_min_clipped is not None else -math.inf,
            shift=flow_shift,
            dynamic_shift=bool(config.use_dynamic_shifting) and kind == "flow",
            shift_type=config.time_shift_type,
            shift_terminal=config.shift_terminal,
            training_steps=config.num_train_timesteps,
        )

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the forward process and the grid of another one's configuration, and fields set by hand.

        The process is that of `config`: flow for a flow-matching scheduler, EDM for an EDM scheduler, else
        variance-preserving, with the noise schedule of the source even where that was the source's default. Fields of
        another method are left behind.
        """
        if not isinstance(config, dict):
            return super().from_config(config, return_unused_kwargs, **kwargs)
        if config.get("prediction_type") == "trigflow":
            raise ValueError("trigflow models (SCM, Sana-Sprint) have a process of their own, which is not supported")
        kind = process_of_config({**config, **kwargs})
        source = cls._without_foreign_fields(dict(config))
        implied = set(source.get("_use_default_values", ()))
        source["_use_default_values"] = [
            k for k in implied if not (k in _PROCESS_KEYS and source[k] != COMMON_OPTIONS[k] and source[k] is not None)
        ]
        if not source["_use_default_values"]:
            del source["_use_default_values"]
        result = super().from_config(source, return_unused_kwargs, **kwargs)
        scheduler = result[0] if return_unused_kwargs else result
        if scheduler.config.process != kind:  # settled without making it look like a choice of the caller's
            scheduler.register_to_config(process=kind)
            if kind == "flow" and "prediction_type" not in {**source, **kwargs}:
                scheduler.register_to_config(prediction_type="flow_prediction")
            scheduler._build()
        return result

    @classmethod
    def _without_foreign_fields(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Drop fields that another method left, and values that mean something only to another class."""
        own = {f.name: f for f in dataclasses.fields(cls.method_class)}
        source = config.pop("_method", None)
        left = methods().get(source) if isinstance(source, str) else None
        if left is not None and left is not cls.method_class:
            for item in dataclasses.fields(left):
                config.pop(item.name, None)
        elif source is None:
            for name, item in own.items():
                choices = item.metadata.get("choices")
                if name in config and choices is not None and config[name] not in choices:
                    del config[name]
        config["_use_default_values"] = [k for k in config.get("_use_default_values", ()) if k in config]
        return config

    # -- what pipelines read --------------------------------------------------------------------------------------

    @property
    def init_noise_sigma(self) -> float:
        """Scale of the initial noise: 1, for EDM sqrt(sigma_max^2 + 1)."""
        if isinstance(self.process, EDM):
            return math.hypot(self.process.sigma_max, 1.0)
        return 1.0

    @property
    def step_index(self) -> int | None:
        """Number of the next network call in `timesteps`; None before the first step of a run."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where a run starts in `timesteps`, set by pipelines that start in the middle."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start the run at `timesteps[begin_index]` (image to image)."""
        self._begin_index = begin_index

    @property
    def shift(self) -> float:
        """Static shift of a flow process."""
        return self._options.shift

    def set_shift(self, shift: float) -> None:
        """Change the static shift of a flow process from the next `set_timesteps` on."""
        self._options = dataclasses.replace(self._options, shift=shift)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # -- grid ----------------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
        sigmas: Sequence[float] | torch.Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Place the noise levels of the next run and forget everything of the last one.

        Args:
            num_inference_steps: number of network calls; may be left out when a list is given.
            device: where `timesteps` shall live. `sigmas` stay on the host.
            timesteps: one's own list of timesteps, strictly decreasing.
            sigmas: one's own list of sigmas (sigma / alpha for VP, sigma for flow and EDM) without the final one.
            mu: dynamic shift of a flow model (`use_dynamic_shifting`).

        Raises:
            ValueError: steps below 1 or above the training timesteps, duplicates, lists of another length.
        """
        flow = isinstance(self.process, Flow)
        if timesteps is not None and sigmas is not None:
            if len(timesteps) != len(sigmas):
                raise ValueError(
                    f"{len(timesteps)} timesteps and {len(sigmas)} sigmas were given; the numbers must agree"
                )
            if not flow:
                raise ValueError("give timesteps or sigmas, not both")
        if timesteps is not None and not flow and self._options.spacing not in ("linspace", "leading", "trailing"):
            raise ValueError(f"one's own timesteps cannot be combined with {self._options.spacing} sigmas")
        self._grid = make_grid(
            self.process,
            num_inference_steps,
            self._options,
            timesteps=None if timesteps is None or sigmas is not None else [float(t) for t in timesteps],
            sigmas=None if sigmas is None else [float(s) for s in sigmas],
            mu=mu,
        )
        told = list(self._grid.timesteps) if timesteps is None or sigmas is None else [float(t) for t in timesteps]
        whole = not flow and all(t == int(t) for t in told)
        self.timesteps = torch.tensor(told, dtype=torch.int64 if whole else torch.float32).to(device)
        self.sigmas = torch.tensor([self.process.sigma_of(n) for n in self._grid.nodes], dtype=torch.float32)
        self.num_inference_steps = len(told)
        self._begin_index = None
        self._restart()

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._start = 0
        self._plan: Plan | None = None
        self._state: State = ()

    def index_for_timestep(self, timestep: float | torch.Tensor, schedule_timesteps: torch.Tensor | None = None) -> int:
        """Position of a timestep in `timesteps` (the nearest one, should rounding have moved it).

        A timestep taken from `timesteps` itself is recognised by where it lies in memory, without reading its value.
        """
        schedule = self.timesteps if schedule_timesteps is None else schedule_timesteps
        if isinstance(timestep, torch.Tensor):
            same = timestep.numel() == 1 and timestep.dtype == schedule.dtype
            if same and timestep.untyped_storage().data_ptr() == schedule.untyped_storage().data_ptr():
                return timestep.storage_offset() - schedule.storage_offset()
            timestep = float(timestep.reshape(-1)[0])
        distance = [abs(float(t) - timestep) for t in schedule.tolist()]
        return distance.index(min(distance))

    def _init_step_index(self, timestep: float | torch.Tensor) -> None:
        self._step_index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index

    # -- one step ------------------------------------------------------------------------------------------------

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None) -> torch.Tensor:
        """Input of the network: the sample itself, for EDM models sample / sqrt(sigma^2 + sigma_data^2)."""
        if not isinstance(self.process, EDM) or self._grid is None:
            return sample
        if self._step_index is None:
            self._init_step_index(timestep if timestep is not None else self.timesteps[0])
        assert self._step_index is not None
        return sample * self.process.input_scale(self._grid.nodes[self._step_index])

    def _prepare(self, timestep: float | torch.Tensor) -> Plan:
        if self._grid is None:
            raise ValueError("call set_timesteps before the first step")
        if self._plan is not None and self._step_index == self._start + len(self._plan.steps):
            self._restart()  # a run that has ended begins anew, as after set_timesteps
        if self._step_index is None:
            self._init_step_index(timestep)
        if self._plan is None:
            assert self._step_index is not None
            self._start = self._step_index
            process = (
                dataclasses.replace(self.process, prediction="sample") if self.config.thresholding else self.process
            )  # type: ignore[type-var]
            self._plan = self.method.plan(process, self._grid.tail(self._start))
        return self._plan

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> FewstepSchedulerOutput | tuple[torch.Tensor]:
        """Go from the noise level of `timestep` to the next.

        Args:
            model_output: what the network said, guidance applied, (B, ...).
            timestep: where; read at the first step of a run only.
            sample: the sample that the network saw, (B, ...).
            generator: unused, the methods are deterministic; taken for the sake of pipelines that pass it.
            return_dict: return a `FewstepSchedulerOutput` instead of a tuple.

        Returns:
            The next sample in the dtype of `model_output`.
        """
        plan = self._prepare(timestep)
        assert self._step_index is not None
        i = self._step_index - self._start
        if model_output.ndim > 1 and model_output.shape[1] == 2 * sample.shape[1] and self.config.variance_type:
            model_output = model_output.chunk(2, dim=1)[0]  # the other half is a learned variance
        if model_output.shape != sample.shape:
            raise ValueError(
                f"the network's output has the shape {tuple(model_output.shape)}, the sample {tuple(sample.shape)}; "
                "they must be equal"
            )
        prediction = model_output
        if self.config.thresholding:
            prediction = _thresholded(
                self._x0(model_output, sample, self._step_index),
                self.config.dynamic_thresholding_ratio,
                self.config.sample_max_value,
            )
        working = sample.to(torch.float32) if sample.dtype in (torch.float16, torch.bfloat16) else sample
        result, self._state = self.method.step(plan, i, working, prediction, self._state)
        if result.dtype != model_output.dtype:
            result = result.to(model_output.dtype)
        at = self._step_index
        self._step_index += 1
        if not return_dict:
            return (result,)
        output = FewstepSchedulerOutput(prev_sample=result)
        object.__setattr__(output, "_predict", lambda: self._x0(model_output, sample, at))
        return output

    def _x0(self, model_output: torch.Tensor, sample: torch.Tensor, index: int) -> torch.Tensor:
        assert self._grid is not None
        form = self.process.x0(self._grid.nodes[index])
        return evaluate(form, sample.float(), model_output.float()).to(model_output.dtype)

    # -- noising -------------------------------------------------------------------------------------------------

    def _nodes_for(self, timesteps: torch.Tensor | float, count: int) -> list[Node]:
        """Noise level of every sample: of its timestep, or of where the run stands (inpainting, image to image)."""
        if self._grid is not None and self._begin_index is not None:
            index = self._begin_index if self._step_index is None else self._step_index
            return [self._grid.nodes[index]] * count
        values = torch.as_tensor(timesteps).reshape(-1).tolist()
        known = {} if self._grid is None else dict(zip(self.timesteps.tolist(), self._grid.nodes[:-1], strict=True))
        nodes = [known[v] if v in known else self.process.at(float(v)) for v in values]
        return nodes * count if len(nodes) == 1 else nodes

    def _column(self, values: list[float], like: torch.Tensor) -> torch.Tensor:
        column = torch.tensor(values, dtype=torch.float32).to(device=like.device, dtype=like.dtype)
        return column.reshape(-1, *([1] * (like.ndim - 1)))

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor | float
    ) -> torch.Tensor:
        """alpha * x0 + sigma * eps at the noise level of each timestep; (B, ...), one timestep or B of them."""
        nodes = self._nodes_for(timesteps, len(original_samples))
        alpha = self._column([n.alpha for n in nodes], original_samples)
        return alpha * original_samples + self._column([n.sigma for n in nodes], original_samples) * noise

    def scale_noise(
        self, sample: torch.Tensor, timestep: float | torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same under the name that flow-matching pipelines use, with their order of arguments."""
        if noise is None:
            raise ValueError("scale_noise needs the noise to mix in")
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Training target of v-prediction, alpha * eps - sigma * x0; of a flow, eps - x0."""
        if isinstance(self.process, Flow):
            return noise - sample
        nodes = self._nodes_for(timesteps, len(sample))
        alpha = self._column([n.alpha for n in nodes], sample)
        return alpha * noise - self._column([n.sigma for n in nodes], sample) * sample


def _constructor(method: type[Method]) -> Callable[..., None]:
    """An ``__init__`` whose signature lists the common options and the method's fields: diffusers reads it."""
    fields = {f.name: f.default for f in dataclasses.fields(method)}
    clash = fields.keys() & COMMON_OPTIONS.keys()
    if clash:
        raise ValueError(f"fields of {method.name} have the name of a scheduler option: {', '.join(sorted(clash))}")
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)] + [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for key, default in {**COMMON_OPTIONS, **fields}.items()
    ]
    signature = inspect.Signature(parameters)

    def __init__(self: FewstepScheduler, *args: Any, **kwargs: Any) -> None:
        signature.bind(self, *args, **kwargs)
        self._build()

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = "Process and grid options under diffusers' names, then the fields of the method."
    return register_to_config(__init__)


def make_scheduler(method: type[Method], module: str) -> type[FewstepScheduler]:
    """The diffusers scheduler class of a method, `<MethodName>Scheduler`, exported from `module`.

    diffusers writes `module` and the class name into a saved pipeline's index, so both are public names.
    """
    name = f"{method.__name__}Scheduler"
    doc = (
        f"{method.__name__} as a diffusers scheduler.\n\n{inspect.getdoc(method)}\n\n"
        "The process and grid options are those of diffusers' schedulers; use\n"
        f"``{name}.from_config(pipe.scheduler.config, ...)`` to take them from a pipeline."
    )
    return type(
        name,
        (FewstepScheduler,),
        {"__init__": _constructor(method), "method_class": method, "__module__": module, "__doc__": doc},
    )


def make_schedulers(module: str) -> dict[str, type[FewstepScheduler]]:
    """Scheduler classes of all registered methods by class name."""
    made = [make_scheduler(method, module) for method in methods().values()]
    return {cls.__name__: cls for cls in made}


__all__ = ["COMMON_OPTIONS", "FewstepScheduler", "FewstepSchedulerOutput", "make_scheduler", "make_schedulers"]
