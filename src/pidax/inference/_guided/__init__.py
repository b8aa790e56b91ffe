"""Guided samplers: the steps of a teacher's sampler, bent towards observations and
equations.
"""

from ._cocogen import CoCoGen as CoCoGen
from ._contract import AbstractGuided as AbstractGuided
from ._d_flow import DFlow as DFlow
from ._daps import DAPS as DAPS
from ._diffusion_pde import DiffusionPDE as DiffusionPDE
from ._dps import DPS as DPS
from ._eci import ECI as ECI
from ._ensemble_guidance import EnsembleGuidance as EnsembleGuidance
from ._flow_chef import FlowChef as FlowChef
from ._levels import Now as Now
from ._levels import constant as constant
from ._levels import with_noise as with_noise
from ._pcfm import PCFM as PCFM
from ._pigdm import PiGDM as PiGDM
from ._population import AbstractParticles as AbstractParticles
from ._proflow import ProFlow as ProFlow
from ._red_diff import REDDiff as REDDiff
from ._target import Spent as Spent
from ._target import Target as Target
from ._twisted import Twisted as Twisted
