"""Load a text-to-image pipeline by name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .quiet import quiet
from .swapping import check_sampler, set_sampler
from .token_pictures import draws_tokens

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from fewstep.samplers import Method

#: What `load` and the command line put on a model when nobody says otherwise: DPM-Solver++ 2M, the most accurate family
#: at moderate guidance.
DEFAULT_SAMPLER = "exponential-adams"

#: Schedulers of distilled models: the model was trained for its own, and `load` leaves it unless a sampler is named.
_DISTILLED = re.compile(r"LCM|TCD|SCM|CMStochastic|Wuerstchen")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def _assets() -> Path:
    import fewstep.assets

    return Path(fewstep.assets.__file__).parent / "models"


def _json_of(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _writes_text(folder: Path) -> bool:
    """Whether a folder holds a text pipeline, or a masked language model of transformers."""
    index = folder / "model_index.json"
    if index.is_file():
        return _json_of(index).get("_class_name") == "MaskedTextPipeline"
    return any(
        str(name).endswith("ForMaskedLM") for name in _json_of(folder / "config.json").get("architectures") or ()
    )


def shipped_models() -> dict[str, Path]:
    """The models of pictures that come with the package: name -> folder, which holds a ``model_index.json``."""
    folders = [index.parent for index in sorted(_assets().glob("*/model_index.json"))]
    return {folder.name: folder for folder in folders if not _writes_text(folder)}


def shipped_texts() -> dict[str, Path]:
    """The models of masked text that come with the package: name -> folder."""
    return {folder.name: folder for folder in sorted(_assets().glob("*")) if folder.is_dir() and _writes_text(folder)}


def find_model(model: str | Path, kind: str = "pictures") -> str:
    """Where a model is: the folder of a shipped model, a folder of one's own, or a name on the hub ("owner/name").

    Args:
        model: name or folder.
        kind: ``"pictures"`` or ``"text"``, what it shall make.

    Raises:
        FileNotFoundError: neither of the three, with the nearest shipped name.
        ValueError: a folder that holds no such model.
    """
    text = str(model)
    writes = kind == "text"
    shipped, others = shipped_models(), shipped_texts()
    if writes:
        shipped, others = others, shipped
    if text in shipped:
        return str(shipped[text])
    folder = Path(text).expanduser()
    if text in others and not folder.is_dir():
        raise ValueError(
            f"{text!r} makes pictures; use load, or `fewstep generate`"
            if writes
            else f"{text!r} writes texts; use load_text, or `fewstep text`"
        )
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            if not writes:
                raise ValueError(f"the folder {text!r} holds no model_index.json, so it is not a diffusers pipeline")
            if not (folder / "config.json").is_file():
                raise ValueError(
                    f"the folder {text!r} holds neither model_index.json nor config.json, so it is no text model"
                )
        elif not writes and _writes_text(folder):
            raise ValueError(f"the folder {text!r} holds a text model; use load_text, or `fewstep text`")
        return str(folder)
    if folder.exists():
        raise ValueError(f"{text!r} is a file; a model is a folder with a model_index.json, or a name on the hub")
    if isinstance(model, str) and _HUB_ID.fullmatch(text) and not folder.parent.is_dir():
        return text
    near = difflib.get_close_matches(text, list(shipped), n=1, cutoff=0.5)
    raise FileNotFoundError(
        f"no model {text!r}: it is neither shipped with fewstep ({', '.join(shipped) or 'none is'}), nor a folder "
        f"here, nor a name on the hub (owner/name)" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def torch_device(device: str | torch.device | None) -> torch.device:
    """A device that this machine has; None or ``"auto"`` is the accelerator if there is one, else the processor.

    Raises:
        ValueError: an unknown device, or one that is not there.
    """
    import torch

    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None or device == "auto":
        return best or torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {str(device)!r}; use auto, cpu, cuda, cuda:1 or mps") from None
    if found.type == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if best is not None and found.type == best.type else 0
    if (found.index or 0) >= count:
        has = f"{best.type} ({torch.accelerator.device_count()})" if best is not None else "cpu only"
        raise ValueError(f"this machine has no device {str(device)!r}; it has {has}")
    return found


def torch_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """float32, float16 or bfloat16; None is float32 on the processor, and on an accelerator the half that it has.

    Raises:
        ValueError: another number format.
    """
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    found = known.get(dtype) if isinstance(dtype, str) else dtype
    if found not in known.values():
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {str(dtype)!r}")
    return found  # type: ignore[return-value]


def load_model(
    model: str | Path = "garments", *, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> DiffusionPipeline:
    """A pipeline with the scheduler that it came with; arguments and errors as in `load`."""
    where = torch_device(device)
    source = find_model(model)
    own = source in {str(folder) for folder in shipped_models().values()}
    number = torch_dtype("float32" if own and dtype is None else dtype, where)
    with quiet():
        from diffusers import DiffusionPipeline

        import fewstep.samplers as samplers

        samplers.FewstepScheduler  # noqa: B018 - diffusers finds our schedulers in saved pipelines once this is loaded
        try:
            pipe = DiffusionPipeline.from_pretrained(
                source, dtype=number, use_safetensors=True, local_files_only=Path(source).is_dir()
            )
        except Exception as error:  # whatever is wrong with the files of a model, the user needs the one sentence
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"the model {str(model)!r} could not be loaded: {reason}") from error
        pipe.to(where)
    return pipe


def load(
    model: str | Path = "garments",
    sampler: str | Method | None = None,
    *,
    grid: str | None = None,
    guidance: str | None = None,
    interval: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    **fields: Any,
) -> DiffusionPipeline:
    """A pipeline with a sampler on it.

    Args:
        model: name of a shipped model (`shipped_models`), a folder, or a name on the hub. Weights are read from
            safetensors alone, and no code of a model is ever run.
        sampler: see `set_sampler`; None is `DEFAULT_SAMPLER`, but for models distilled for a scheduler of their own
            (LCM, TCD, ...) and those that draw tokens, which keep it unless `grid` or fields are given.
        grid: see `set_sampler`.
        guidance: ``cfg`` or ``cfg-zero``, see `set_guidance`; the scale is an argument of each run.
        interval: noise levels with guidance, see `set_guidance`; None is all.
        dtype: ``float32``, ``float16`` or ``bfloat16``; by default float32 on the processor and for shipped models,
            else bfloat16 where the accelerator has it, or float16.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the accelerator if there is one.
        **fields: fields of the sampler's method (``momentum=2.5``), or options of a scheduler of diffusers.

    Raises:
        FileNotFoundError: no such model; the nearest shipped name is given.
        ValueError: a folder without a (readable) pipeline; an unknown sampler, field, grid, guidance, dtype or device.
    """
    from .guidance import check_guidance, set_guidance

    find_model(model)
    check_guidance("cfg" if guidance is None else guidance, interval)
    check_sampler(sampler or DEFAULT_SAMPLER, grid, **fields)  # a typing error should not cost a large model's loading
    pipe = load_model(model, dtype=dtype, device=device)
    if guidance is not None or interval is not None:
        set_guidance(pipe, guidance or "cfg", interval)
    if sampler is None and grid is None and not fields and keeps_scheduler(pipe):
        return pipe
    return set_sampler(pipe, sampler or DEFAULT_SAMPLER, grid, **fields)


def keeps_scheduler(pipe: Any) -> bool:
    """Whether the model was distilled for the scheduler that it came with, or draws tokens with it, so that
    `DEFAULT_SAMPLER` is not for it."""
    return bool(_DISTILLED.search(type(getattr(pipe, "scheduler", None)).__name__)) or draws_tokens(pipe)


def model_name(pipe: Any) -> str:
    """Name under which `load` finds the model of a pipeline again: a shipped name, else where it came from."""
    source = str(getattr(pipe, "name_or_path", "") or getattr(pipe.config, "_name_or_path", ""))
    for name, folder in shipped_models().items():
        if source in (name, str(folder)):
            return name
    return source
