"""Feature networks by name: what pictures are compared by."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: The spellings of `feature_network`.
NETWORKS = ("judge", "inception", "clip:NAME-or-FOLDER", "module:callable")

_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + _INCEPTION_FILE


class FeatureNetwork:
    """A function from pictures to features that can say what it is.

    Args:
        name: what `feature_network` was asked for.
        forward: (B, 3, H, W) float32 in [0, 1] on `device` -> (B, d).
        hash: of the weights, or of the source of a function without any.
        dim: d; 0 where only the first call can tell.
        resize: what becomes of pictures of another size, as a sentence.
        dtype: in which the network computes.
        device: where.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[Tensor], Tensor],
        *,
        hash: str,
        dim: int,
        resize: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.hash = hash
        self.dim = dim
        self.resize = resize
        self.dtype = str(dtype).removeprefix("torch.")
        self.device = device or torch.device("cpu")
        self._forward = forward

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, d) float32 of images (B, 3, H, W) float in [0, 1].

        Raises:
            ValueError: images of another shape or type, or a network that does not return one row a picture.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be float of shape (B, 3, H, W), in [0, 1], got {images.dtype} of {tuple(images.shape)}"
            )
        found = self._forward(images.to(self.device, torch.float32))
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"the network {self.name!r} must return features of shape ({len(images)}, d), and returned {what}"
            )
        self.dim = self.dim or found.shape[1]
        return found.float()

    def __repr__(self) -> str:
        return f"FeatureNetwork({self.name!r}, hash={self.hash!r}, dim={self.dim})"


def feature_network(name: str, *, weights: str | Path | None = None, device: Any = None) -> FeatureNetwork:
    """A feature network by name.

    Args:
        name: ``judge``, the shipped judge of garments (96 features, no download); ``inception``, the Inception of the
            FID (2048 features; from torchmetrics and torch-fidelity, or a TorchScript file); ``clip:`` and a folder or
            a name on the hub; or ``module:callable``, a function of (B, 3, H, W) in [0, 1], an `nn.Module`, or a class
            that makes one.
        weights: a file of weights, for ``inception`` alone.
        device: ``cpu``, ``cuda``, ...; by default the accelerator if there is one.

    Raises:
        ValueError: an unknown name or device, files that do not fit.
        FileNotFoundError, ImportError: weights or packages that are not here, and how to get them.
    """
    from fewstep.pipelines.loading import torch_device

    where = torch_device(device)
    if weights is not None and name != "inception":
        raise ValueError(f"weights are read for inception alone, not for {name!r}")
    if name == "judge":
        return judge_network(device=where)
    if name == "inception":
        return _inception(where, weights)
    if name.startswith("clip:"):
        return _clip(name, where)
    if ":" in name and not any(mark in name for mark in "/\\ "):
        return _importable(name, where)
    from fewstep.samplers.core.registry import nearest

    raise ValueError(
        f"unknown feature network {name!r}{nearest(name, ('judge', 'inception'))} Known are {', '.join(NETWORKS)}"
    )


def hash_of_module(module: nn.Module) -> str:
    """Sixteen hexadecimal digits that depend on the names, types, shapes and values of all weights and buffers."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def judge_network(folder: str | Path | None = None, device: torch.device | None = None) -> FeatureNetwork:
    """The features of a `Judge`: of the one in a folder, by default of the shipped one."""
    import fewstep.assets

    from .judge import Judge

    judge = Judge.from_pretrained(folder or Path(fewstep.assets.__file__).parent / "models" / "garments-judge")
    mark = hash_of_module(judge)
    judge.to(device)
    return FeatureNetwork(
        "judge",
        lambda images: judge.features(images * 2 - 1),
        hash=mark,
        dim=judge.num_features,
        resize=f"bilinear with antialiasing to {judge.size}x{judge.size} where the size is another",
        device=device,
    )


def _inception(device: torch.device, weights: str | Path | None) -> FeatureNetwork:
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of weights {str(weights)!r}")
        scripted = _torchscript(path)
        if scripted is not None:
            return _scripted(scripted, device)
        weights = str(path)
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ImportError(
            "inception needs the package torch-fidelity (pip install torch-fidelity, which wants a torchvision of the "
            "same release as torch); or say --weights FILE with a TorchScript Inception, such as "
            "inception-2015-12-05.pt; or use --network judge or clip:FOLDER"
        )
    if weights is None and not (Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE).is_file():
        check_reachable(_INCEPTION_URL, "inception", " and say --weights FILE,")
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the Inception network could not be made: {reason}") from error
    mark = hash_of_module(network)
    network.to(device)

    def forward(images: Tensor) -> Tensor:
        return network((images * 255).round().to(torch.uint8)).flatten(1)

    rule = "rounded to 8 bits, bilinear with antialiasing to 299x299 (torchmetrics)"
    return FeatureNetwork("inception", forward, hash=mark, dim=2048, resize=rule, device=device)


def _torchscript(path: Path) -> Any:
    """A TorchScript module, or None where the file is of another kind."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if not any("/code/" in name for name in archive.namelist()):
            return None
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{str(path)!r} cannot be read as TorchScript: {reason}") from error


def _scripted(network: Any, device: torch.device) -> FeatureNetwork:
    """The Inception that NVIDIA and clean-fid share takes bytes of any size and resizes them itself."""
    mark = hash_of_module(network)
    network.to(device)
    names = {argument.name for argument in network.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in names else {}

    def forward(images: Tensor) -> Tensor:
        return network((images * 255).round().clamp(0, 255), **options).flatten(1)

    rule = "rounded to 8 bits, then as the TorchScript network does it"
    return FeatureNetwork("inception", forward, hash=mark, dim=0, resize=rule, device=device)


def check_reachable(url: str, what: str, use: str = "") -> None:
    """Raise a sentence, within seconds, where a file cannot be fetched: a download would only say so after minutes.

    Args:
        url: of the file.
        what: whose weights it holds.
        use: what may be done with the file instead of putting it into the cache.
    """
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=5):
            return
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {what} are not on this machine and cannot be fetched ({error}). On a machine that is "
            f"connected, fetch {url}{use + ' or' if use else ' and'} put it into {torch.hub.get_dir()}/checkpoints here"
        ) from error


def _clip(name: str, device: torch.device) -> FeatureNetwork:
    from .clip_score import load_clip

    model, processor = load_clip(name.removeprefix("clip:"))
    mark = hash_of_module(model)
    model.to(device)

    def forward(images: Tensor) -> Tensor:
        bytes_ = [image for image in (images * 255).round().to(torch.uint8).cpu()]
        values = processor(images=bytes_, return_tensors="pt")["pixel_values"]
        return model.get_image_features(values.to(device))

    size = processor.image_processor.crop_size if processor.image_processor.do_center_crop else None
    side = f", then the centre {size['height']}x{size['width']}" if size else ""
    rule = f"rounded to 8 bits, then by the model's own processor (bicubic, shorter side{side})"
    return FeatureNetwork(name, forward, hash=mark, dim=model.config.projection_dim, resize=rule, device=device)


def _importable(name: str, device: torch.device) -> FeatureNetwork:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    added = here not in sys.path
    if added:  # a file beside the pictures should be found as it is by python -m
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(f"the module of the feature network {name!r} cannot be imported: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        from fewstep.samplers.core.registry import nearest

        near = nearest(attribute, [word for word in dir(found) if not word.startswith("_")])
        raise ValueError(f"the module {module_name!r} has no {attribute!r}{near}") from error
    if isinstance(found, type):
        found = found()
    if not callable(found):
        raise ValueError(f"{name!r} is {type(found).__name__}, which cannot be called")
    if isinstance(found, nn.Module):
        found = found.eval()
        mark = hash_of_module(found)
        found.to(device)
    else:
        try:
            source = inspect.getsource(found)
        except (OSError, TypeError):
            source = name
        mark = hashlib.sha256(source.encode()).hexdigest()[:16]
    rule = "none: the network gets the pictures as they are"
    dim = getattr(found, "num_features", 0)
    return FeatureNetwork(name, found, hash=mark, dim=dim if isinstance(dim, int) else 0, resize=rule, device=device)
