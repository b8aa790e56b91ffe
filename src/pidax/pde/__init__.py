"""Physics: grids, operators, random fields, equations with their own solvers.

This room knows nothing of diffusion models: a physicist can use it alone.
"""

from ._advection import Advection as Advection
from ._boundary import AbstractSide as AbstractSide
from ._boundary import Dirichlet as Dirichlet
from ._boundary import Neumann as Neumann
from ._boundary import Periodic as Periodic
from ._burgers import Burgers as Burgers
from ._conjugate import solve_diffusion as solve_diffusion
from ._constant import solve_constant as solve_constant
from ._curl import Curl as Curl
from ._darcy import Darcy as Darcy
from ._darcy import DarcyFields as DarcyFields
from ._derivative import Derivative as Derivative
from ._diffusion import Diffusion as Diffusion
from ._diffusion import Laplacian as Laplacian
from ._equation import AbstractEquation as AbstractEquation
from ._etdrk4 import ETDRK4 as ETDRK4
from ._etdrk4 import SemilinearTerm as SemilinearTerm
from ._evolution import AbstractEvolution as AbstractEvolution
from ._evolution import Evolution as Evolution
from ._faces import face_points as face_points
from ._faces import face_weights as face_weights
from ._flux import Divergence as Divergence
from ._flux import Gradient as Gradient
from ._grid import Grid as Grid
from ._heat import Heat as Heat
from ._heat import RandomHeat as RandomHeat
from ._heat import SineWave as SineWave
from ._helmholtz import Helmholtz as Helmholtz
from ._helmholtz import HelmholtzFields as HelmholtzFields
from ._inviscid_burgers import Front as Front
from ._inviscid_burgers import InviscidBurgers as InviscidBurgers
from ._karhunen_loeve import ExponentialCovariance as ExponentialCovariance
from ._karhunen_loeve import GaussianCovariance as GaussianCovariance
from ._karhunen_loeve import KarhunenLoeve as KarhunenLoeve
from ._law import GaussianLaw as GaussianLaw
from ._law import gaussian_law as gaussian_law
from ._navier_stokes import NavierStokes as NavierStokes
from ._operator import AbstractOperator as AbstractOperator
from ._poisson import Poisson as Poisson
from ._poisson import PoissonFields as PoissonFields
from ._random_field import AbstractGaussianField as AbstractGaussianField
from ._random_field import AbstractRandomField as AbstractRandomField
from ._random_field import Fixed as Fixed
from ._random_field import Lognormal as Lognormal
from ._random_field import Matern as Matern
from ._random_field import Thresholded as Thresholded
from ._semilinear import AbstractSemilinear as AbstractSemilinear
from ._spectral import dealias as dealias
from ._spectral import wavenumbers as wavenumbers
from ._time import TimeDerivative as TimeDerivative
from ._transform import Transform as Transform
from ._transform import laplacian_eigenvalues as laplacian_eigenvalues
