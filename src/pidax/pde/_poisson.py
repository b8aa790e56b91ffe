r"""Poisson's equation, $\Delta u = f$."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from .._checks import require_finite
from ..types import Field, FieldLike, Key, Scalar, typed
from ._constant import solve_constant
from ._diffusion import Laplacian
from ._elliptic import at_unknowns, boundary_error, source_size
from ._equation import AbstractEquation, Kind
from ._grid import Grid
from ._law import GaussianLaw, gaussian_law
from ._random_field import AbstractRandomField, Law, Matern, as_law


class PoissonFields(NamedTuple):
    """A source and the solution it makes."""

    source: Field
    solution: Field


class Poisson(AbstractEquation):
    r"""$\Delta u = f$: steady heat, electric and gravitational potentials.

    `source` is the law of $f$ (or one field, or a number): unless said
    `Matern(grid, alpha=2, tau=3)`. The data of the grid's sides are honoured; without
    a Dirichlet side $f$ and the slopes must balance, and $u$ has zero mean.

    Second order, 3 points an axis. Solved directly by sine and cosine transforms.
    Linear: the fields are jointly Gaussian if $f$ is (`law`).
    """

    grid: Grid
    source: AbstractRandomField
    Fields: ClassVar[type] = PoissonFields
    given: ClassVar[tuple[str, ...]] = ("source",)
    kind: ClassVar[Kind] = "linear"

    def __init__(self, grid: Grid, source: Law | None = None):
        self.grid = grid
        self.source = as_law(grid, Matern(grid) if source is None else source)

    def draw(self, *, key: Key) -> tuple[Field]:
        return (self.source.sample(key=key),)

    @typed
    def solve(self, source: FieldLike) -> PoissonFields:
        self.grid.check(source=source)
        source = require_finite(
            "source", jnp.asarray(source), "Look where it was made."
        )
        load = Laplacian(self.grid).load(source)
        inner = solve_constant(self.grid, load)
        return PoissonFields(source, self.grid.extend(inner))

    def residual(self, fields: PoissonFields) -> Field:
        self.grid.check(**fields._asdict())
        right = at_unknowns(self.grid, fields.source)
        return Laplacian(self.grid)(fields.solution) - right

    def scale(self, fields: PoissonFields) -> Scalar:
        return source_size(Laplacian(self.grid), fields.source)

    def boundary_error(self, fields: PoissonFields) -> Scalar:
        return boundary_error(self.grid, fields.solution)

    def law(self) -> GaussianLaw:
        """The exact Gaussian law of both fields: mean and low-rank factor."""
        return gaussian_law(self, self.source)
