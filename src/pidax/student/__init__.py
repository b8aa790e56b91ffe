"""The trajectory x(z, t) as a network, and its derivative in time."""

from ._exact_student import ExactStudent as ExactStudent
from ._flow_map import FlowMap as FlowMap
from ._flow_map import lagrangian_residual as lagrangian_residual
from ._flow_map import through as through
from ._in_steps import InSteps as InSteps
from ._integral_student import IntegralStudent as IntegralStudent
from ._integral_student import integral_residual as integral_residual
from ._ode_residual import residual as residual
from ._sample import sample as sample
from ._sample import sample_keys as sample_keys
from ._stencil import Row as Row
from ._stencil import Stencil as Stencil
from ._stencil import make_stencil as make_stencil
from ._student import AbstractNetworkStudent as AbstractNetworkStudent
from ._student import AbstractStudent as AbstractStudent
from ._student import CleanCoefficients as CleanCoefficients
from ._student import Student as Student
from ._time_derivatives import AbstractDerivative as AbstractDerivative
from ._time_derivatives import Autodiff as Autodiff
from ._time_derivatives import Central as Central
from ._time_derivatives import CoupledAutomaticNumerical as CoupledAutomaticNumerical
from ._time_derivatives import SolverStep as SolverStep
from ._time_derivatives import Upwind as Upwind
from ._time_derivatives import two_nodes as two_nodes
