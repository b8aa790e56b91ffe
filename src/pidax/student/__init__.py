"""The whole trajectory x(z, t) as one network, and its derivative in time."""

from ._base import AbstractStudent as AbstractStudent
from ._derivatives import AbstractDerivative as AbstractDerivative
from ._derivatives import Central as Central
from ._derivatives import CoupledAutomaticNumerical as CoupledAutomaticNumerical
from ._derivatives import Exact as Exact
from ._derivatives import Upwind as Upwind
from ._derivatives import two_nodes as two_nodes
from ._exact import ExactStudent as ExactStudent
from ._match import check_classes as check_classes
from ._match import check_grid as check_grid
from ._match import check_output as check_output
from ._match import check_same_process as check_same_process
from ._match import check_same_shape as check_same_shape
from ._match import known_shape as known_shape
from ._residual import residual as residual
from ._solver_step import SolverStep as SolverStep
from ._stencil import Stencil as Stencil
from ._stencil import make_stencil as make_stencil
from ._student import Student as Student
