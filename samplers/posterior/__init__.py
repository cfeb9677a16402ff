"""Posterior samplers: pictures that explain a measurement, from a denoiser that knows pictures. One method a file."""

from .canvas import run_canvas, windows_cost
from .chain import STEP_SAMPLERS, ChainMethod, Corrected
from .daps import DAPS
from .ddnm import DDNM
from .ddnm_latent import LatentDDNM
from .ddnm_plus import DDNMPlus
from .ddrm import DDRM
from .diffpir import DiffPIR
from .dpir import DPIR
from .dps import DPS
from .draws import Draws
from .hir import reduced_problem, run_hir
from .latent import CoderCost, Counted
from .latent_dps import LatentDPS
from .method import Cost, Moved, PosteriorMethod, PosteriorPlan
from .moment_matching import MomentMatching
from .msr import run_msr
from .omnidirectional import run_omnidirectional
from .operators import LinearOperator, Operator, as_operator, load_operator
from .p2l import P2L
from .pigdm import PiGDM
from .prior import Estimate, Prior, Traced
from .problem import EIGHT_BIT_SIGMA, Problem
from .psld import PSLD
from .red_diff import REDDiff
from .registry import (
    posterior_alias,
    posterior_aliases,
    posterior_method,
    posterior_methods,
    register_posterior,
)
from .run import PosteriorResult, run_posterior
from .sphere import TangentPlanes
from .stsl import STSL
from .tiled_prior import WindowedDenoiser
from .travel import Move, climb, travel
from .windows import Windows, seam_ratio

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPIR",
    "DPS",
    "EIGHT_BIT_SIGMA",
    "P2L",
    "PSLD",
    "STEP_SAMPLERS",
    "STSL",
    "ChainMethod",
    "CoderCost",
    "Corrected",
    "Cost",
    "Counted",
    "DDNMPlus",
    "DiffPIR",
    "Draws",
    "Estimate",
    "LatentDDNM",
    "LatentDPS",
    "LinearOperator",
    "MomentMatching",
    "Move",
    "Moved",
    "Operator",
    "PiGDM",
    "PosteriorMethod",
    "PosteriorPlan",
    "PosteriorResult",
    "Prior",
    "Problem",
    "REDDiff",
    "TangentPlanes",
    "Traced",
    "WindowedDenoiser",
    "Windows",
    "as_operator",
    "climb",
    "load_operator",
    "posterior_alias",
    "posterior_aliases",
    "posterior_method",
    "posterior_methods",
    "reduced_problem",
    "register_posterior",
    "run_canvas",
    "run_hir",
    "run_msr",
    "run_omnidirectional",
    "run_posterior",
    "seam_ratio",
    "travel",
    "windows_cost",
]
