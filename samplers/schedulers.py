"""Every registered method as a diffusers scheduler: the one file of the samplers that knows diffusers' classes.

`make_scheduler` turns a `Method` class into a `SchedulerMixin, ConfigMixin` class whose constructor takes diffusers'
grid and process options under diffusers' names, and the method's fields under theirs. The forward process is read from
the configuration that a scheduler is made from: a flow-matching configuration gives a flow process, an EDM one an EDM
process, anything else a variance-preserving one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME, KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput

from .core.grid import CLEAN, Grid, GridOptions, make_grid
from .core.method import Method, Plan, State, evaluate
from .core.process import EDM, Flow, Node, Process, VPDiscrete, betas_of_schedule
from .core.registry import methods, nearest
from .flow_schedulers import INVERSE_CLASSES, InverseScheduler, StagedScheduler

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
    "noise_levels": None,
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

_SPACINGS = ("linspace", "leading", "trailing")
_SIGMA_SPACINGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "logsnr",
}
_FLOW_KEYS = ("shift", "base_shift", "max_shift", "shift_terminal", "invert_sigmas", "stochastic_sampling")
#: Entries of schedulers with a forward process or a preconditioning of their own, and whose they are.
_OWN_PROCESS = {
    "stages": "Helios",
    "n_grid": "pi-Flow",
    "clip_denoised": "consistency models",
    "sampling_eps": "score SDEs",
    "scaler": "Wuerstchen",
    "alpha_cum_start": "VQ-Diffusion",
    "masking_schedule": "aMUSEd",
    "schedule_mode": "RFD",
    "block_length": "block refinement",
    "entropy_bound": "entropy-bound decoding",
    "corrector_steps": "discrete DDIM",
}
#: Entries that say nothing of the process, of classes that have no other (LTX's ancestral one, Karras VE, IPNDM).
_SILENT_KEYS = ("trained_betas", "eta", "s_noise")
_VP_KEYS = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
_EDM_KEYS = ("sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "rho")
_PROCESS_KEYS = ("num_train_timesteps", "prediction_type", "shift", *_VP_KEYS, *_EDM_KEYS)


def process_of_config(config: Mapping[str, Any]) -> str:
    """``"flow"``, ``"edm"`` or ``"vp"``: the forward process that a scheduler configuration belongs to.

    An explicit ``process`` entry decides; then a flow's prediction type or sigmas; then, where the configuration once
    was that of a scheduler of ours, what that one found; else the entries that only one family of diffusers' schedulers
    has. A configuration that says nothing is variance-preserving.

    Raises:
        ValueError: a scheduler of another kind (consistency model, score SDE, discrete data, ...).
    """
    stated = config.get("process", "auto")
    if stated != "auto":
        return stated
    for key, owner in _OWN_PROCESS.items():
        if key in config:
            raise ValueError(f"schedulers of {owner} (here known by {key!r}) have a process of their own")
    if "FlowMap" in str(config.get("_class_name", "")):
        raise ValueError("distilled flow maps are not flow-matching models")
    if config.get("snr_shift_scale", 1.0) != 1.0:
        raise ValueError("betas with a shifted signal-to-noise ratio (snr_shift_scale, CogVideoX) are not supported")
    if config.get("prediction_type") == "trigflow":
        raise ValueError("trigflow models (SCM, Sana-Sprint) have a process of their own, which is not supported")
    if config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas"):
        return "flow"
    if "_process" in config:
        return config["_process"]
    if "beta_schedule" in config or "beta_start" in config or config.get("trained_betas") is not None:
        return "vp"
    if "sigma_data" in config or "sigma_schedule" in config:
        if "solver_order" in config and "algorithm_type" not in config:
            raise ValueError("the cosine EDM schedule of Stable Audio tells its network atan(sigma): not supported")
        return "edm"
    if any(key in config for key in _FLOW_KEYS) or config.get("use_dynamic_shifting"):
        return "flow"
    silent = [key for key in _SILENT_KEYS if key in config]
    if silent:
        raise ValueError(
            f"this configuration does not say its forward process: it has {', '.join(silent)}, but neither betas (vp) "
            "nor shift (flow) nor sigma_data (edm); pass process='vp', 'flow' or 'edm' if you know it"
        )
    return "vp"


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
    """Dynamic thresholding: x0 (B, ...) clipped to [-s, s] and divided by s, s in [1, most] a quantile of each |x0|.

    Saharia et al. 2022, arXiv 2205.11487.
    """
    flat = x0.flatten(1).float()
    s = torch.quantile(flat.abs(), ratio, dim=1).clamp(min=1, max=most)[:, None]
    return (torch.maximum(torch.minimum(flat, s), -s) / s).to(x0.dtype).reshape(x0.shape)


def _noise_levels(option: Mapping[str, Any] | None, most: float | None) -> dict[int, list[tuple[float, float]]]:
    """Pairs of noise level and timestep (0 to `most`, if any), by number of calls, from the option `noise_levels`."""
    try:
        made = {int(n): [(float(s), float(t)) for s, t in pairs] for n, pairs in (option or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            "noise_levels must map a number of calls to as many pairs of a noise level and a timestep"
        ) from None
    for n, pairs in made.items():
        if n != len(pairs) or n < 1:
            raise ValueError(f"noise_levels has {len(pairs)} pairs of a noise level and a timestep for {n} calls")
        levels = [level for level, _ in pairs]
        falling = all(a > b for a, b in pairwise(levels)) and levels[-1] > 0 and math.isfinite(levels[0])
        if not falling:
            raise ValueError(f"noise_levels for {n} calls must fall and stay above 0")
        if not all(math.isfinite(t) and (most is None or 0 <= t <= most) for _, t in pairs):
            raise ValueError(f"noise_levels for {n} calls must come with timesteps that the model was trained with")
    return made


def _equal_steps(sigmas: Sequence[float]) -> bool:
    """Whether these are the sigmas that Flux-like pipelines pass when nobody asked for any: 1, ..., 1 / N."""
    count = len(sigmas)
    return all(math.isclose(s, 1 - k / count, abs_tol=1e-6) for k, s in enumerate(sigmas))


class FewstepScheduler(SchedulerMixin, ConfigMixin):
    """Base of every scheduler here: one `Method` behind the contract of diffusers' schedulers.

    The sample is ``alpha * x0 + sigma * eps`` (initial noise scale 1, no input scaling) but for EDM models, which take
    their own input scaling. All coefficients are floats made by `Method.plan` at the first step of a run, so a step
    reads no scalar from a tensor. A scheduler object holds the state of one run; copy it (or make one from its config)
    for runs that overlap.
    """

    config_name: Any = SCHEDULER_CONFIG_NAME
    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 (SchedulerMixin declares it so)
    order = 1
    method_class: ClassVar[type[Method]]
    #: Network calls that a run leaves out at its beginning, and `timesteps` with it.
    _left_out = 0
    #: Options, the value that is not supported, and what it stands for.
    _refused: ClassVar[tuple[tuple[str, Any, str], ...]] = (
        ("invert_sigmas", True, "flow models whose time runs backwards (Mochi)"),
        ("stochastic_sampling", True, "stochastic flow sampling"),
        ("timestep_type", "continuous", "continuous EDM timesteps on a discrete schedule"),
    )

    @property
    def config(self) -> Any:
        """The configuration, a frozen dictionary whose entries are attributes too; typed Any for their sake."""
        return super().config

    # -- construction -------------------------------------------------------------------------------------------

    def _build(self, kind: str | None = None) -> None:
        """Make method and process from the configuration, `kind` being the process where the entries do not say it."""
        config = self.config
        for key, bad, why in self._refused:
            if config[key] == bad:
                raise ValueError(f"{type(self).__name__} does not support {key}={bad!r}: {why}")
        if sum(bool(config[key]) for key in _SIGMA_SPACINGS) > 1:
            raise ValueError(f"at most one of {', '.join(_SIGMA_SPACINGS)} can be set")
        implied = set(config.get("_use_default_values", ()))
        kind = kind or process_of_config({k: v for k, v in config.items() if k not in implied})
        if kind not in ("vp", "flow", "edm"):
            raise ValueError(f"process must be auto, vp, flow or edm, got {kind!r}")
        # private entries travel through other classes' configurations, so the way back finds them
        settled = {"_process": kind, "_method": self.method_class.name, "_class_name": type(self).__name__}
        if "prediction_type" in implied:
            settled["prediction_type"] = "flow_prediction" if kind == "flow" else "epsilon"
        for item in dataclasses.fields(self.method_class):
            if item.metadata.get("table"):  # lists, as it is when it comes back from a file
                settled[item.name] = json.loads(json.dumps(config[item.name]))
        self.register_to_config(**settled)
        config = self.config
        if config.thresholding and kind != "vp":
            raise ValueError("dynamic thresholding is for variance-preserving pixel-space models")
        self.method: Method = self.method_class(
            **{f.name: config[f.name] for f in dataclasses.fields(self.method_class)}
        )
        self.process: Process = self._process(kind)
        self._options = self._grid_options(kind)
        self._levels = _noise_levels(config.noise_levels, None if kind == "edm" else config.num_train_timesteps)
        for name in ("alphas_cumprod", "alphas", "betas"):
            self.__dict__.pop(name, None)  # of an earlier build; only a variance-preserving process has them
        if isinstance(self.process, VPDiscrete):
            bar = torch.tensor(self.process.alphas_cumprod, dtype=torch.float64)
            alphas = torch.cat([bar[:1], bar[1:] / bar[:-1]])
            self.alphas_cumprod, self.alphas, self.betas = bar.float(), alphas.float(), (1 - alphas).float()
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(config.num_train_timesteps - 1, -1, -1)
        self.sigmas = torch.zeros(0)
        if isinstance(self.process, VPDiscrete):
            self.sigmas = ((1 - bar) / bar).sqrt().float()
        elif kind == "flow":  # training scripts draw from the whole shifted list
            whole = torch.linspace(1, 1 / config.num_train_timesteps, config.num_train_timesteps, dtype=torch.float64)
            if not self._options.dynamic_shift:
                whole = self.shift * whole / (1 + (self.shift - 1) * whole)
            self.sigmas, self.timesteps = whole.float(), (whole * config.num_train_timesteps).float()
        self._grid: Grid | None = None
        self._nodes: tuple[Node, ...] = ()
        self._restart()
        self._begin_index: int | None = None

    def _process(self, kind: str) -> Process:
        config = self.config
        prediction = config.prediction_type
        if kind == "flow":
            if config.invert_sigmas and prediction == "flow_prediction":
                prediction = "reversed_flow"
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
                "allowed are epsilon, sample and v_prediction; give process='flow' for a flow-matching model"
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
        if spacing not in _SPACINGS:
            raise ValueError(f"timestep_spacing must be linspace, leading or trailing, got {spacing!r}")
        if kind == "flow" and config.use_flow_sigmas:
            spacing = "trailing"
        for key, name in _SIGMA_SPACINGS.items():
            if config[key]:
                spacing = name
        if kind == "edm" and spacing in _SPACINGS:
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
            flow_end=1 / config.num_train_timesteps if config.use_flow_sigmas else 0.0,
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
        known = inspect.signature(cls.__init__).parameters
        for key in kwargs:
            if key not in known and not key.startswith("_") and not return_unused_kwargs:
                raise ValueError(f"{cls.__name__} has no option {key!r}{nearest(key, known)}")
        if "shift" in config and "num_train_timesteps" not in config:
            raise ValueError("a flow scheduler without training timesteps (MiniMax-H3) has a time of its own")
        kind = process_of_config({**config, **kwargs})
        source = dict(config)
        if source.pop("_process", None) is None:  # from a class of diffusers: its defaults are values of the model
            defaults = {**COMMON_OPTIONS, "prediction_type": "flow_prediction" if kind == "flow" else "epsilon"}
            source["_use_default_values"] = [
                key
                for key in source.get("_use_default_values", ())
                if key not in _PROCESS_KEYS or source[key] in (None, defaults[key])
            ]
        made: Any = super().from_config(cls._without_foreign_fields(source), return_unused_kwargs, **kwargs)
        scheduler = made[0] if return_unused_kwargs else made
        if scheduler.config["_process"] != kind:  # it shows in what the entries were, not in their values
            scheduler._build(kind)
        return made

    @classmethod
    def _without_foreign_fields(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Drop fields that another method left, and values that mean something only to another class."""
        source = methods().get(config.pop("_method", ""))
        if source is not None and source is not cls.method_class:
            config.pop("noise_levels", None)  # placed for the other method
            config.pop("_tuning", None)
            for item in dataclasses.fields(source):
                config.pop(item.name, None)
        if config.get("_class_name") != cls.__name__:  # UniPC's solver_type is another than ours
            for item in dataclasses.fields(cls.method_class):
                choices = item.metadata.get("choices")
                if choices is not None and config.get(item.name, choices[0]) not in choices:
                    del config[item.name]
        config["_use_default_values"] = [key for key in config.get("_use_default_values", ()) if key in config]
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
            sigmas: one's own list of sigmas (sigma / alpha for VP, sigma for flow and EDM); a final 0 may be left out.
            mu: dynamic shift of a flow model, needed with `use_dynamic_shifting`; a flow without it takes no notice, as
                Flux' pipelines always pass one.

        Raises:
            ValueError: steps below 1 or above the training timesteps, duplicates, lists of another length, mu missing.
        """
        flow = isinstance(self.process, Flow)
        told = None
        if timesteps is not None and sigmas is not None:
            if len(timesteps) != len(sigmas):
                raise ValueError(
                    f"{len(timesteps)} timesteps and {len(sigmas)} sigmas were given; the numbers must agree"
                )
            if not flow:
                raise ValueError("give timesteps or sigmas, not both")
            told = [float(t) for t in timesteps]
        if timesteps is not None and not flow and self._options.spacing not in _SPACINGS:
            raise ValueError(f"one's own timesteps cannot be combined with {self._options.spacing} sigmas")
        if sigmas is not None:
            sigmas = [float(s) for s in sigmas]
            sigmas = sigmas[:-1] if len(sigmas) > 1 and sigmas[-1] == 0 else sigmas
        if self._levels and timesteps is None and (sigmas is None or _equal_steps(sigmas)):
            grid = self._tuned_grid(num_inference_steps if sigmas is None else len(sigmas))
        else:
            grid = make_grid(
                self.process,
                num_inference_steps,
                self._options,
                timesteps=None if timesteps is None or sigmas is not None else [float(t) for t in timesteps],
                sigmas=sigmas,
                mu=mu if self._options.dynamic_shift or not flow else None,
            )
        if told is not None:
            nodes = [dataclasses.replace(n, timestep=t) for n, t in zip(grid.nodes, told, strict=False)]
            grid = Grid((*nodes, grid.nodes[-1]))
        grid, calls = self._travelled(grid)
        self._grid, self._nodes = grid, (*calls, grid.nodes[-1])
        times = [node.timestep for node in calls]
        whole = not flow and all(t == int(t) for t in times)
        self.timesteps = torch.tensor(times, dtype=torch.int64 if whole else torch.float32).to(device)
        levels = torch.tensor([self.process.sigma_of(n) for n in self._nodes], dtype=torch.float32)
        self.sigmas = 1 - levels if self.config.invert_sigmas else levels
        self.num_inference_steps = grid.calls
        self._begin_index = None
        self._restart()

    def _travelled(self, grid: Grid) -> tuple[Grid, tuple[Node, ...]]:
        """The grid in order of travel, and the noise level of every network call."""
        return grid, grid.nodes[:-1]

    def _tuned_grid(self, steps: int | None) -> Grid:
        """The grid of the option `noise_levels` for a number of calls."""
        if steps not in self._levels:
            known = ", ".join(str(n) for n in sorted(self._levels))
            raise ValueError(
                f"this scheduler has noise levels of its own for {known} network calls, not for {steps}; "
                "ask for one of these numbers, or give timesteps or sigmas"
            )
        nodes = [dataclasses.replace(self.process.at_sigma(s), timestep=t) for s, t in self._levels[steps]]
        return Grid((*nodes, CLEAN))

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
        if schedule_timesteps is None and isinstance(timestep, torch.Tensor) and timestep.numel() == 1:
            same = timestep.untyped_storage().data_ptr() == schedule.untyped_storage().data_ptr()
            if same and timestep.dtype == schedule.dtype:
                return int(timestep.storage_offset()) - int(schedule.storage_offset())
        value = float(timestep.reshape(-1)[0]) if isinstance(timestep, torch.Tensor) else float(timestep)
        distance = [abs(t - value) for t in schedule.tolist()]
        return distance.index(min(distance))

    def _init_step_index(self, timestep: float | torch.Tensor) -> None:
        self._step_index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index

    # -- one step ------------------------------------------------------------------------------------------------

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None) -> torch.Tensor:
        """Input of the network: the sample itself, for EDM models sample / sqrt(sigma^2 + sigma_data^2)."""
        if not isinstance(self.process, EDM) or self._grid is None:
            return sample
        index = self._locate(self.timesteps[0] if timestep is None else timestep)
        return sample * self.process.input_scale(self._nodes[index])

    def _locate(self, timestep: float | torch.Tensor) -> int:
        """Number of the network call at hand in `timesteps`; a run that has ended begins anew at `timestep`."""
        ended = self._plan is not None and self._step_index == self._start + len(self._plan.steps)
        if self._step_index is None or ended:
            self._restart()
            self._init_step_index(timestep)
        assert self._step_index is not None
        return self._step_index

    def _planned(self, start: int) -> Plan:
        """Coefficients of the run, made at its first step, from call `start` on."""
        if self._plan is None:
            assert self._grid is not None
            process = self.process
            if self.config.thresholding and isinstance(process, VPDiscrete):
                process = dataclasses.replace(process, prediction="sample")  # what is thresholded is x0
            first = start + self._left_out
            plan = self.method.plan(process, self._grid, first) if first else self.method.plan(process, self._grid)
            self._start, self._plan = start, plan
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
        if self._grid is None:
            raise ValueError("call set_timesteps before the first step")
        at = self._locate(timestep)
        plan = self._planned(at)
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
                self._x0(model_output, sample, at),
                self.config.dynamic_thresholding_ratio,
                self.config.sample_max_value,
            )
        working = self._received(sample)
        result, self._state = self.method.step(plan, at - self._start, working, prediction, self._state)
        result = self._returned(result, model_output.dtype)
        self._step_index = at + 1
        if not return_dict:
            return (result,)
        output = FewstepSchedulerOutput(prev_sample=result)
        object.__setattr__(output, "_predict", functools.partial(self._x0, model_output, sample, at))
        return output

    def _received(self, sample: torch.Tensor) -> torch.Tensor:
        """The sample that a pipeline hands in, in the precision to compute in."""
        return sample.to(torch.float32) if sample.dtype in (torch.float16, torch.bfloat16) else sample

    def _returned(self, result: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The next sample as the pipeline gets it."""
        return result if result.dtype == dtype else result.to(dtype)

    def _x0(self, model_output: torch.Tensor, sample: torch.Tensor, index: int) -> torch.Tensor:
        form = self.process.x0(self._nodes[index])
        return evaluate(form, sample.float(), model_output.float()).to(model_output.dtype)

    # -- noising -------------------------------------------------------------------------------------------------

    def _nodes_for(self, timesteps: torch.Tensor | float, count: int) -> list[Node]:
        """Noise level of every sample: of its timestep, or of where the run stands (inpainting, image to image)."""
        if self._grid is not None and self._begin_index is not None:
            index = self._begin_index if self._step_index is None else self._step_index
            return [self._nodes[index]] * count
        values = torch.as_tensor(timesteps).reshape(-1).tolist()
        known = {} if self._grid is None else dict(zip(self.timesteps.tolist(), self._nodes[:-1], strict=True))
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
            return sample - noise if self.process.backwards else noise - sample
        nodes = self._nodes_for(timesteps, len(sample))
        alpha = self._column([n.alpha for n in nodes], sample)
        return alpha * noise - self._column([n.sigma for n in nodes], sample) * sample


def _constructor(method: type[Method], **defaults: Any) -> Callable[..., None]:
    """An ``__init__`` whose signature lists the common options and the method's fields: diffusers reads it."""
    fields = {f.name: f.default for f in dataclasses.fields(method)} | defaults
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


def make_scheduler(
    method: type[Method], module: str, *, name: str = "", kinds: tuple[type, ...] = (), **defaults: Any
) -> type[FewstepScheduler]:
    """The diffusers scheduler class of a method, `<MethodName>Scheduler`, exported from `module`.

    diffusers writes `module` and the class name into a saved pipeline's index, so both are public names.

    Args:
        method: a method class.
        module: where the class is found.
        name: another class name.
        kinds: classes that come before `FewstepScheduler` and change what it does.
        defaults: other default values of the method's fields.
    """
    name = name or f"{method.__name__}Scheduler"
    backwards = InverseScheduler in kinds
    doc = (
        f"{method.__name__}, from data to noise, as a diffusers scheduler.\n\n{inspect.getdoc(InverseScheduler)}\n\n"
        if backwards
        else f"{method.__name__} as a diffusers scheduler.\n\n"
    )
    doc += (
        f"{inspect.getdoc(method)}\n\n"
        "The process and grid options are those of diffusers' schedulers; use\n"
        f"``{name}.from_config(pipe.scheduler.config, ...)`` to take them from a pipeline."
    )
    return type(
        name,
        (*kinds, FewstepScheduler),
        {"__init__": _constructor(method, **defaults), "method_class": method, "__module__": module, "__doc__": doc},
    )


_MODULE = __name__.rpartition(".")[0]

#: Scheduler classes of all registered methods by class name: made once, under the import lock, whoever asks first.
SCHEDULERS: dict[str, type[FewstepScheduler]] = {
    f"{method.__name__}Scheduler": make_scheduler(method, _MODULE, kinds=() if method.replans else (StagedScheduler,))
    for method in methods().values()
}

#: Scheduler classes that run from data to noise, by class name.
INVERSE_SCHEDULERS: dict[str, type[FewstepScheduler]] = {
    name: make_scheduler(method, _MODULE, name=name, kinds=(InverseScheduler, StagedScheduler), **defaults)
    for name, (method, defaults) in INVERSE_CLASSES.items()
}

# diffusers tells the entries that belong to a foreign scheduler from mistakes by looking its class up in its own
# namespace, and has no other registry: without this, every swap back to a class of diffusers would warn of our fields.
for _name, _class in {**SCHEDULERS, **INVERSE_SCHEDULERS}.items():
    setattr(diffusers, _name, _class)

__all__ = [
    "COMMON_OPTIONS",
    "INVERSE_SCHEDULERS",
    "SCHEDULERS",
    "FewstepScheduler",
    "FewstepSchedulerOutput",
    "make_scheduler",
]
