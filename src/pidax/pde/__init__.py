"""Physics: grids, operators, random fields, equations with their own solvers.

This room knows nothing of diffusion models: a physicist can use it alone.
"""

from ._boundary import AbstractSide as AbstractSide
from ._boundary import Dirichlet as Dirichlet
from ._boundary import Neumann as Neumann
from ._boundary import Periodic as Periodic
from ._equation import AbstractEquation as AbstractEquation
from ._grid import Grid as Grid
