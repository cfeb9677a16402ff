"""Load a model of masked text by name: one that ships, a folder, or a name on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import find_model, shipped_texts, torch_device, torch_dtype
from .quiet import quiet

if TYPE_CHECKING:
    import torch

    from .text_pipeline import MaskedTextPipeline

#: Model of `load_text` when none is named.
DEFAULT_TEXT_MODEL = "verses"

#: Libraries whose classes an index may name.
_LIBRARIES = ("transformers", "diffusers", "fewstep.samplers")


def load_text(
    model: str | Path = DEFAULT_TEXT_MODEL,
    solver: str | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> MaskedTextPipeline:
    """A text pipeline with a solver on it.

    Args:
        model: name of a model that ships (`shipped_texts`), a folder, or a name on the hub: a saved
            `MaskedTextPipeline`, or a masked language model of transformers with its tokenizer.
        solver: see `token_scheduler`; None is the scheduler that the model came with, else ``adams``.
        dtype: ``float32``, ``float16`` or ``bfloat16``; by default float32 on the processor and for shipped models,
            else bfloat16 where the accelerator has it, or float16.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the accelerator if there is one.
        **options: of the solver, ``theta=0.4``; without `solver`, of the one that the model came with.

    Raises:
        FileNotFoundError: no such model; the nearest shipped name is given.
        ValueError: a folder without a (readable) model; an unknown solver, option, dtype or device.
    """
    where = torch_device(device)
    source = find_model(model, "text")
    own = source in {str(folder) for folder in shipped_texts().values()}
    number = torch_dtype("float32" if own and dtype is None else dtype, where)

    from .text_pipeline import MaskedTextPipeline
    from .text_solvers import set_solver, solver_in, solver_settings, token_scheduler

    if solver is not None or (options and Path(source).is_dir()):
        # a typing error should not cost a large model's loading
        token_scheduler(solver or solver_in(source), **options)
    with quiet():
        try:
            pipe = MaskedTextPipeline.from_pretrained(source, dtype=number)
        except Exception as error:  # whatever is wrong with the files of a model, the user needs the one sentence
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"the model {str(model)!r} could not be loaded: {reason}") from error
    pipe.to(where)
    pipe.set_progress_bar_config(disable=True)
    if solver is not None:
        set_solver(pipe, solver, **options)
    elif options:
        came = solver_settings(pipe.scheduler)
        set_solver(pipe, came["solver"], **came["fields"] | options)
    return pipe


def from_pretrained(cls: Any, load: Callable[..., Any], source: Any, **kwargs: Any) -> Any:
    """`MaskedTextPipeline.from_pretrained`; `load` is that of diffusers."""
    import fewstep.samplers as samplers

    samplers.TokenScheduler  # noqa: B018 - diffusers finds our schedulers in saved pipelines once this is loaded
    if kwargs.pop("use_safetensors", True) is False or kwargs.pop("trust_remote_code", False):
        raise ValueError("weights are read from safetensors alone, and no code of a model is run")
    if kwargs.get("custom_pipeline") is not None:
        raise ValueError("the text pipeline takes no custom_pipeline: no code of a model is run")
    kwargs.setdefault("local_files_only", Path(str(source)).is_dir())
    index = _index_of(source, kwargs)
    if index is None:
        return _plain(cls, source, **kwargs)
    kind = index.get("_class_name")
    if kind != "MaskedTextPipeline":
        raise ValueError(f"{str(source)!r} is a {kind}, not a MaskedTextPipeline")
    for name, value in index.items():
        if isinstance(value, list) and value[0] is not None and value[0] not in _LIBRARIES and name not in kwargs:
            raise ValueError(
                f"the {name} of {str(source)!r} is a {value[1]} of {value[0]}, which is not loaded by name: no code of "
                f"a model is run. Make it yourself, and give it as {name}=..."
            )
    return load(source, use_safetensors=True, **kwargs)


def _index_of(source: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The model_index.json of a folder or a repository, None where there is none."""
    folder = Path(str(source)).expanduser()
    if folder.is_dir():
        file = folder / "model_index.json"
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"the model_index.json of {str(source)!r} is damaged")
        return found
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    known = {key: kwargs[key] for key in ("cache_dir", "token", "revision", "local_files_only") if key in kwargs}
    try:
        found = json.loads(Path(hf_hub_download(str(source), "model_index.json", **known)).read_text(encoding="utf-8"))
    except EntryNotFoundError:  # also where there is no connection, and the cache holds a model of transformers
        return None
    return found if isinstance(found, dict) else None


def _plain(cls: Any, source: Any, **kwargs: Any) -> Any:
    """A masked language model of transformers with its tokenizer and the default solver."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from .text_solvers import DEFAULT_SOLVER, token_scheduler

    own = {key: kwargs.pop(key) for key in ("model", "tokenizer", "scheduler", "condition", "window") if key in kwargs}
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
    shared = {key: kwargs[key] for key in ("cache_dir", "token", "revision", "local_files_only") if key in kwargs}
    unused = sorted(set(kwargs) - set(shared))
    if unused:
        raise ValueError(f"{str(source)!r} is a model of transformers, and {', '.join(unused)} is not for those")
    path = str(Path(source).expanduser()) if Path(str(source)).expanduser().is_dir() else str(source)
    if "tokenizer" not in own:  # before the model, which may be large
        try:
            own["tokenizer"] = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **shared)
        except (OSError, ValueError, KeyError) as error:
            if not Path(path).is_dir():
                raise
            first = str(error).strip().split("\n")[0].rstrip(":")
            raise ValueError(f"{str(source)!r} has no tokenizer that can be read ({first})") from error
    if "model" not in own:
        model, info = AutoModelForMaskedLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **shared
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"the weights of {str(source)!r} lack {missing[0]} and {len(missing) - 1} more, so it is not a trained "
                "masked language model"
                if len(missing) > 1
                else f"the weights of {str(source)!r} lack {missing[0]}, so it is not a trained masked language model"
            )
        own["model"] = model.eval()
    own.setdefault("scheduler", token_scheduler(DEFAULT_SOLVER))
    pipe = cls(**own)
    pipe.register_to_config(_name_or_path=path)
    return pipe
