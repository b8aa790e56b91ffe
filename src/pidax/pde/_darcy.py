r"""Darcy's flow through a porous medium, $-\nabla\cdot(a \nabla u) = f$."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import ElementwiseLike, Field, FieldLike, Key, Scalar, typed
from ._boundary import Neumann
from ._conjugate import solve_diffusion
from ._diffusion import Diffusion, Laplacian
from ._elliptic import at_unknowns, boundary_error, source_size
from ._equation import AbstractEquation, Kind
from ._grid import Grid
from ._karhunen_loeve import ExponentialCovariance, KarhunenLoeve
from ._random_field import (
    AbstractRandomField,
    Law,
    Lognormal,
    Matern,
    Thresholded,
    as_law,
)


class DarcyFields(NamedTuple):
    """A permeability and the pressure it makes."""

    coefficient: Field
    solution: Field


class Darcy(AbstractEquation):
    r"""$-\nabla\cdot(a \nabla u) = f$: pressure in a porous medium.

        Darcy(Grid((64, 64)))               # two materials: a = 12 or 3, f = 1, u = 0
        Darcy.lognormal(Grid((64, 64)))     # smooth: a = exp of a Gaussian field
        Darcy.source_sink((64, 64))         # a well, a sink, impermeable walls

    `coefficient` is the law of $a > 0$ (or one field): unless said, 12 where
    `Matern(grid, alpha=2, tau=3)` is not negative and 3 elsewhere (Li et al. 2021).
    `source` is $f$, a number or a field. The data of the grid's sides are honoured;
    without a Dirichlet side $f$ and the slopes must balance, and $u$ has zero mean.

    Second order where $a$ is smooth: the flux form on nodes or cells, $a$ at faces the
    mean of its neighbours. Solved by preconditioned conjugate gradients, with the
    operator that is the residual. Bilinear: $a$ times $u$.
    """

    grid: Grid
    coefficient: AbstractRandomField
    source: ElementwiseLike | Array
    Fields: ClassVar[type] = DarcyFields
    given: ClassVar[tuple[str, ...]] = ("coefficient",)
    kind: ClassVar[Kind] = "bilinear"

    def __init__(
        self,
        grid: Grid,
        coefficient: Law | None = None,
        source: ElementwiseLike | Array = 1.0,
    ):
        law = Thresholded(Matern(grid)) if coefficient is None else coefficient
        self.grid = grid
        self.coefficient = as_law(grid, law)
        self.source = source
        if np.shape(source) != ():
            grid.check(source=source)  # type: ignore[arg-type]

    @classmethod
    def lognormal(
        cls, grid: Grid, alpha: float = 2.0, tau: float = 3.0, scale: float = 1.0
    ) -> "Darcy":
        r"""$a = e^g$ with $g$ the field `Matern(grid, alpha, tau, scale=scale)`."""
        return cls(grid, Lognormal(Matern(grid, alpha, tau, scale=scale)))

    @classmethod
    def source_sink(
        cls, shape: tuple[int, int] = (64, 64), modes: int = 64, length: float = 0.1
    ) -> "Darcy":
        r"""The set of Bastek et al. 2025 (PIDM), on cells: finite volumes.

        $f = 10$ on $[0, 1/8]^2$, $-10$ on $[7/8, 1]^2$ and zero elsewhere; no flux
        through the walls; $\int u = 0$; $a = e^g$, $g$ the leading `modes` of the
        covariance $e^{-|x-y|/\ell}$. To make it takes a few seconds, for the modes.
        """
        grid = Grid(shape, layout="cells", boundary=Neumann())
        x, y = np.meshgrid(*grid._points, indexing="ij")
        well = 10.0 * ((x < 1 / 8) & (y < 1 / 8))
        sink = 10.0 * ((x > 7 / 8) & (y > 7 / 8))
        law = KarhunenLoeve(grid, ExponentialCovariance(length), modes=modes)
        return cls(grid, Lognormal(law), source=well - sink)

    def draw(self, *, key: Key) -> tuple[Field]:
        return (self.coefficient.sample(key=key),)

    @typed
    def solve(self, coefficient: FieldLike) -> DarcyFields:
        self.grid.check(coefficient=coefficient)
        a = jnp.asarray(coefficient)
        u = solve_diffusion(self.grid, a, -self._source(a.dtype))
        return DarcyFields(a, u)

    def residual(self, fields: DarcyFields) -> Field:
        self.grid.check(**fields._asdict())
        u = jnp.asarray(fields.solution)
        operator = Diffusion(self.grid, fields.coefficient, check=False)
        return -operator(u) - at_unknowns(self.grid, self._source(u.dtype))

    def scale(self, fields: DarcyFields) -> Scalar:
        source = self._source(fields.solution.dtype)
        return source_size(Laplacian(self.grid), source)

    def boundary_error(self, fields: DarcyFields) -> Scalar:
        return boundary_error(self.grid, fields.solution)

    def _source(self, dtype) -> Field:
        return jnp.broadcast_to(jnp.asarray(self.source, dtype), self.grid.shape)
