"""pidax: physics-informed distillation of diffusion models in JAX."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import _floor as _floor
from . import denoiser as denoiser
from . import distill as distill
from . import evaluate as evaluate
from . import flow as flow
from . import metrics as metrics
from . import nn as nn
from . import plot as plot
from . import process as process
from . import store as store
from . import student as student
from . import train as train
from . import types as types
from .denoiser import AbstractDenoiser as AbstractDenoiser
from .denoiser import AbstractExactDenoiser as AbstractExactDenoiser
from .denoiser import Circle as Circle
from .denoiser import Gaussian as Gaussian
from .denoiser import GaussianMixture as GaussianMixture
from .denoiser import Guided as Guided
from .denoiser import Preconditioned as Preconditioned
from .denoiser import from_function as from_function
from .denoiser import from_noise as from_noise
from .denoiser import from_score as from_score
from .denoiser import from_velocity as from_velocity
from .distill import PID as PID
from .distill import PIDDM as PIDDM
from .distill import AbstractObjective as AbstractObjective
from .distill import DenoisingScoreMatching as DenoisingScoreMatching
from .distill import FlowMatching as FlowMatching
from .distill import KnowledgeDistillation as KnowledgeDistillation
from .evaluate import compare as compare
from .flow import ProbabilityFlow as ProbabilityFlow
from .flow import encode as encode
from .flow import log_density as log_density
from .flow import sample_with_churn as sample_with_churn
from .flow import solve as solve
from .flow import solve_batch as solve_batch
from .flow import where_it_moves as where_it_moves
from .process import EDM as EDM
from .process import VE as VE
from .process import VP as VP
from .process import AbstractProcess as AbstractProcess
from .process import RectifiedFlow as RectifiedFlow
from .process import SubVP as SubVP
from .process import karras as karras
from .process import uniform_angle as uniform_angle
from .process import uniform_log_snr as uniform_log_snr
from .process import uniform_time as uniform_time
from .store import load as load
from .store import save as save
from .student import ExactStudent as ExactStudent
from .student import FlowMap as FlowMap
from .student import IntegralStudent as IntegralStudent
from .student import Student as Student
from .student import sample as sample
from .train import NonFiniteError as NonFiniteError
from .train import Result as Result
from .train import StopTraining as StopTraining
from .train import fit as fit
from .train import restore as restore
from .train import warmup_cosine as warmup_cosine

__version__ = _version("pidax")

# Imported on first use, because many programs do not need them.
_ROOMS = ("constraint", "convert", "inference", "pde", "solver")
_NAMES = {
    "Observation": "constraint",
    "Residual": "constraint",
    "infer": "inference",
    "optimise_grid": "solver",
    "refine": "inference",
}

if _TYPE_CHECKING:
    from . import constraint as constraint
    from . import convert as convert
    from . import inference as inference
    from . import pde as pde
    from . import solver as solver
    from .constraint import Observation as Observation
    from .constraint import Residual as Residual
    from .inference import infer as infer
    from .inference import refine as refine
    from .solver import optimise_grid as optimise_grid


def __getattr__(name: str) -> _Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_NAMES})
