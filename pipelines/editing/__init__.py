"""Inversion and editing of pictures with Flux, Stable Diffusion 3 and Stable Diffusion pipelines.

`invert` takes a picture to noise and records attention features on the way; `edit` samples from there with another
prompt and puts them back; `flow_edit` does without an inversion. FireFlow (Deng et al. 2025, arXiv 2412.07517) is the
default solver.
"""

from __future__ import annotations

from .feature_store import FeatureKey, FeatureMemory, FeatureStore
from .inversion import Inversion, invert
from .inversion_free import FlowEdit, flow_edit
from .pictures import Picture, read_picture
from .results import Edited
from .sampling import edit, reconstruct
from .saving import load_inversion
from .strategy import Injection

__all__ = [
    "Edited",
    "FeatureKey",
    "FeatureMemory",
    "FeatureStore",
    "FlowEdit",
    "Injection",
    "Inversion",
    "Picture",
    "edit",
    "flow_edit",
    "invert",
    "load_inversion",
    "read_picture",
    "reconstruct",
]
