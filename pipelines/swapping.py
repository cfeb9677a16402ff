"""Put any sampler on a pipeline in one line, and read off a pipeline which one it has."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .quiet import quiet
from .recipes import is_recipe, read_recipe
from .token_pictures import TOKENS, check_token_sampler, draws_tokens, set_token_sampler, token_options, token_settings

if TYPE_CHECKING:
    from fewstep.samplers import Method

#: How the noise levels of a run can be placed, by name, and the scheduler options that ask for it.
GRIDS: Mapping[str, Mapping[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "logsnr": {"use_lu_lambdas": True},
}
_GRID_SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")

#: Prefix of a sampler that is one of diffusers' own classes.
DIFFUSERS = "diffusers:"


def grid_options(grid: str) -> dict[str, Any]:
    """Scheduler options that ask for a grid by name and switch the others off."""
    from fewstep.samplers.core.registry import nearest

    if grid not in GRIDS:
        raise ValueError(f"unknown grid {grid!r}{nearest(grid, GRIDS)} Known are {', '.join(GRIDS)}")
    return {**dict.fromkeys(_GRID_SWITCHES, False), **GRIDS[grid]}


def _method_and_grid(sampler: str | Method, fields: Mapping[str, Any]) -> tuple[Method, str | None, set[str]]:
    """The method, the grid that its name asks for, and the names of the fields that differ from the defaults."""
    from fewstep.samplers import Method, resolve

    if is_recipe(sampler):
        sampler = read_recipe(sampler).method  # type: ignore[arg-type]
    fields = {name: value for name, value in fields.items() if name != "noise_levels"}
    try:
        if isinstance(sampler, Method):
            # through `resolve` for its sentence about an unknown field
            values = {item.name: getattr(sampler, item.name) for item in dataclasses.fields(sampler)}
            method, spacing = resolve(sampler.name, **{**values, **fields}).method, None
        elif isinstance(sampler, str):
            resolved = resolve(sampler, **fields)
            method, spacing = resolved.method, resolved.spacing
        else:
            raise TypeError(f"a sampler is a name or a Method, got {type(sampler).__name__}")
    except TypeError as error:
        raise ValueError(str(error)) from error
    moved = {item.name for item in dataclasses.fields(method) if getattr(method, item.name) != item.default}
    return method, spacing, moved | set(fields)


def _diffusers_class(name: str) -> Any:
    import diffusers

    if name.endswith("Scheduler") and name in dir(diffusers):
        found = getattr(diffusers, name)
        if isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin):
            return found
    known = [word for word in dir(diffusers) if word.endswith("Scheduler")]
    near = [word for word in known if name and name.lower() in word.lower()]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    raise ValueError(
        f"diffusers has no scheduler {name!r}" + (f", did you mean {DIFFUSERS + near[0]!r}?" if near else "")
    )


def _check_options(cls: Any, options: Mapping[str, Any]) -> None:
    from fewstep.samplers.core.registry import nearest

    known = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]
    for name in options:
        if name not in known:
            raise ValueError(
                f"{cls.__name__} has no option {name!r}{nearest(name, known)} Its options are {', '.join(known)}"
            )


def _diffusers_options(
    cls: Any, config: Mapping[str, Any], grid: str | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Options for one of diffusers' schedulers, which shall keep the model's forward process."""
    from fewstep.samplers.schedulers import process_of_config

    known = inspect.signature(cls.__init__).parameters
    asked = {} if grid is None else grid_options(grid)
    _check_options(cls, {**{key: value for key, value in asked.items() if value is not False}, **fields})
    options = {key: value for key, value in asked.items() if key in known}
    kind = process_of_config(config)
    if kind == "flow" and "use_flow_sigmas" in known:
        options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        options["flow_shift"] = config.get("shift", config.get("flow_shift", 1.0))
    else:
        defaults = {k: p.default for k, p in known.items() if k not in ("self", "args", "kwargs")}
        own = process_of_config({**defaults, "_class_name": cls.__name__})
        if own != kind:
            words = {"flow": "flow-matching", "edm": "EDM", "vp": "variance-preserving"}
            raise ValueError(f"{cls.__name__} is for {words[own]} models, and this one is a {words[kind]} model")
    return {**options, **fields}


def options_of(sampler: str) -> dict[str, dataclasses.Field[Any] | inspect.Parameter]:
    """What may be set on a sampler, by name: the fields of its method, or the options of a scheduler of diffusers.

    Raises:
        ValueError: an unknown sampler; the nearest is given.
    """
    from fewstep.samplers import resolve

    if is_recipe(sampler):
        sampler = read_recipe(sampler).method.name
    if sampler.startswith(TOKENS):
        return token_options(sampler)
    if sampler.startswith(DIFFUSERS):
        parameters = inspect.signature(_diffusers_class(sampler.removeprefix(DIFFUSERS)).__init__).parameters
        return {name: parameter for name, parameter in parameters.items() if name not in ("self", "args", "kwargs")}
    levels = inspect.Parameter("noise_levels", inspect.Parameter.KEYWORD_ONLY, default=None)
    return {**{item.name: item for item in dataclasses.fields(resolve(sampler).method)}, "noise_levels": levels}


def check_sampler(sampler: str | Method, grid: str | None = None, **fields: Any) -> None:
    """Refuse what `set_sampler` would refuse, without a pipeline.

    Raises:
        ValueError: an unknown sampler, field or grid (the nearest is given), a field out of range.
    """
    if isinstance(sampler, str) and sampler.startswith(TOKENS):
        return check_token_sampler(sampler, grid, **fields)
    if grid is not None:
        grid_options(grid)
    if isinstance(sampler, str) and sampler.startswith(DIFFUSERS):
        _check_options(_diffusers_class(sampler.removeprefix(DIFFUSERS)), fields)
    else:
        _, spacing, _ = _method_and_grid(sampler, fields)
        _own_levels(sampler, grid or spacing, fields)


def _own_levels(sampler: Any, grid: str | None, fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Noise levels that come with a sampler: those of a recipe, or the field of that name."""
    levels = fields.get("noise_levels", read_recipe(sampler).noise_levels if is_recipe(sampler) else None)
    if levels and grid is not None:
        raise ValueError(f"the sampler has noise levels of its own, so it takes no grid; leave {grid!r} away")
    return levels


def set_sampler(pipe: Any, sampler: str | Method, grid: str | None = None, **fields: Any) -> Any:
    """Put a sampler on a pipeline of any class, keeping the model's forward process, and return the pipeline.

    Args:
        pipe: a diffusers pipeline with a scheduler.
        sampler: a name that `fewstep.samplers.resolve` knows (``ghvb``, ``dpm++ 2m karras``, ``ddim``, ...), a `Method`
            object, ``diffusers:`` and the name of a scheduler class of diffusers, the path of a recipe
            (``.json``, see `tune_pipeline`), which brings noise levels of its own, or for a model that draws tokens
            ``tokens:`` and the name of a solver of discrete diffusion (``tokens:adams``).
        grid: ``linspace``, ``leading``, ``trailing``, ``karras``, ``exponential``, ``beta`` or ``logsnr``; by
            default the one that the sampler's name asks for, else the one that the pipeline has.
        **fields: fields of the method, or options of the scheduler of diffusers. A field ``guidance_scale`` that is not
            given here follows the guidance of each run of `generate`.

    Raises:
        ValueError: an unknown sampler, field or grid, a field out of range, or a model that the sampler is not for.
    """
    from fewstep.samplers import methods, scheduler_class
    from fewstep.samplers.schedulers import process_of_config

    current = getattr(pipe, "scheduler", None)
    if current is None:
        raise ValueError(f"{type(pipe).__name__} has no scheduler to replace")
    if draws_tokens(pipe) or str(sampler).startswith(TOKENS):
        return set_token_sampler(pipe, str(sampler), grid, **fields)
    config = dict(current.config)
    # fields of the method that was there before belong to it, also where the new method has one of the same name
    previous = methods().get(str(config.get("_method")))
    own = {item.name for item in dataclasses.fields(previous)} if previous is not None else set()
    config = {key: value for key, value in config.items() if key not in own}
    if isinstance(sampler, str) and sampler.startswith(DIFFUSERS):
        cls = _diffusers_class(sampler.removeprefix(DIFFUSERS))
        options = _diffusers_options(cls, config, grid, fields)
        config = {key: value for key, value in config.items() if key not in ("_method", "process")}
    else:
        method, spacing, moved = _method_and_grid(sampler, fields)
        cls = scheduler_class(method)
        grid = grid if grid is not None else spacing
        options = {name: getattr(method, name) for name in moved}
        options |= grid_options(grid) if grid is not None else {}
        options["noise_levels"] = _own_levels(sampler, grid, fields)
        if is_recipe(sampler):
            made, found = read_recipe(str(sampler)).process, process_of_config(config)
            if made != found:
                raise ValueError(
                    f"the recipe {str(sampler)!r} was made for a {made} model, and this one is a {found} model"
                )
    if "_use_default_values" in config:
        config["_use_default_values"] = [key for key in config["_use_default_values"] if key in config]
    with quiet():
        try:
            scheduler = cls.from_config(config, **options)
        except (AssertionError, NotImplementedError, TypeError) as error:
            raise ValueError(f"{cls.__name__} does not fit this model: {error or type(error).__name__}") from error
    if is_recipe(sampler):
        _fit(scheduler, str(sampler))
    pipe.scheduler = scheduler
    return pipe


def _fit(scheduler: Any, path: str) -> None:
    """Refuse a recipe whose first noise level is not the model's, and keep what it says of how it was tuned."""
    recipe = read_recipe(path)
    steps = len(scheduler.sigmas) or int(scheduler.config.num_train_timesteps)
    if recipe.process == "vp" and recipe.noise_levels:
        most = scheduler.process.at(steps - 1).ratio
        first = max(pairs[0][0] for pairs in recipe.noise_levels.values())
        if first > most * 1.01 or first < most / 2:
            raise ValueError(
                f"the recipe {path!r} begins at noise level {first:.3g} and this model at {most:.3g}: "
                "it was made for another noise schedule"
            )
    scheduler.register_to_config(_tuning=dict(recipe.tuning))


def sampler_settings(scheduler: Any) -> dict[str, Any]:
    """What `set_sampler` needs to put this scheduler on a pipeline again: sampler, fields, grid.

    `fields` are all fields of a method but a `guidance_scale` that follows the run, and of a scheduler of diffusers the
    options that are not its defaults. `grid` is None for a place of the noise levels that has no name here.
    """
    if tokens := token_settings(scheduler):
        return tokens
    config = scheduler.config
    implied = set(config.get("_use_default_values", ()))
    method = getattr(scheduler, "method", None)
    if method is not None:
        names = [item.name for item in dataclasses.fields(method)]
        fields = {n: config[n] for n in names if not (n == "guidance_scale" and n in implied)}
        sampler = method.name
        if config.get("noise_levels"):
            fields["noise_levels"] = config["noise_levels"]
    else:
        from fewstep.samplers.schedulers import COMMON_OPTIONS

        sampler = DIFFUSERS + type(scheduler).__name__
        fields = {
            name: config[name]
            for name, parameter in inspect.signature(type(scheduler).__init__).parameters.items()
            if name in config and name not in COMMON_OPTIONS and config[name] != parameter.default
        }
        if "timestep_spacing" not in inspect.signature(type(scheduler).__init__).parameters:
            config = {}
    on = [name for name, options in GRIDS.items() if any(v is True and config.get(k) for k, v in options.items())]
    grid = None if fields.get("noise_levels") else on[0] if on else config.get("timestep_spacing")
    return {"sampler": sampler, "fields": fields, "grid": grid}


def follows_guidance(scheduler: Any) -> bool:
    """Whether the scheduler's method has a `guidance_scale` that nobody set, so that it takes that of each run."""
    config = scheduler.config
    return (
        "guidance_scale" in config and "guidance_scale" in config.get("_use_default_values", ()) and "_method" in config
    )
