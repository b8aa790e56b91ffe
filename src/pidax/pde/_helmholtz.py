r"""The Helmholtz equation, $\Delta u + k^2 u = f$."""

from math import isfinite
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from .._checks import is_traced, require, require_finite, show
from ..types import Field, FieldLike, Key, Scalar, ScalarLike, typed
from ._constant import check_resonance, solve_constant
from ._diffusion import Laplacian
from ._elliptic import at_unknowns, boundary_error, source_size
from ._equation import AbstractEquation, Kind
from ._grid import Grid
from ._law import GaussianLaw, gaussian_law
from ._random_field import AbstractRandomField, Law, Matern, as_law


class HelmholtzFields(NamedTuple):
    """A source and the standing wave it makes."""

    source: Field
    solution: Field


class Helmholtz(AbstractEquation):
    r"""$\Delta u + k^2 u = f$: waves of one frequency.

    `wavenumber` is $k$. Where $k^2$ is (nearly) an eigenvalue of $-\Delta$ on the grid
    the domain resonates, and the equation is refused. `source` is the law of $f$ (or
    one field, or a number): unless said `Matern(grid, alpha=2, tau=3)`.

    Second order: $(kh)^2/24$ of phase is lost a radian, so take at least ten points a
    wave. Solved directly by transforms. Linear: the fields are jointly Gaussian if
    $f$ is (`law`).
    """

    grid: Grid
    source: AbstractRandomField
    wavenumber: ScalarLike
    Fields: ClassVar[type] = HelmholtzFields
    given: ClassVar[tuple[str, ...]] = ("source",)
    kind: ClassVar[Kind] = "linear"

    def __init__(
        self, grid: Grid, wavenumber: ScalarLike = 1.0, source: Law | None = None
    ):
        self.grid = grid
        self.wavenumber = wavenumber
        self.source = as_law(grid, Matern(grid) if source is None else source)
        require(
            wavenumber,
            jnp.isfinite(wavenumber) if is_traced(wavenumber) else isfinite(wavenumber),
            f"wavenumber must be a finite number, got {show(wavenumber)}.",
        )
        check_resonance(grid, wavenumber**2, jnp.zeros(()).dtype)

    def draw(self, *, key: Key) -> tuple[Field]:
        return (self.source.sample(key=key),)

    @typed
    def solve(self, source: FieldLike) -> HelmholtzFields:
        self.grid.check(source=source)
        source = require_finite(
            "source", jnp.asarray(source), "Look where it was made."
        )
        load = Laplacian(self.grid).load(source)
        inner = solve_constant(self.grid, load, self.wavenumber**2)
        return HelmholtzFields(source, self.grid.extend(inner))

    def residual(self, fields: HelmholtzFields) -> Field:
        self.grid.check(**fields._asdict())
        u = jnp.asarray(fields.solution)
        k = jnp.asarray(self.wavenumber, u.dtype)
        right = at_unknowns(self.grid, fields.source - k**2 * u)
        return Laplacian(self.grid)(u) - right

    def scale(self, fields: HelmholtzFields) -> Scalar:
        return source_size(Laplacian(self.grid), fields.source)

    def boundary_error(self, fields: HelmholtzFields) -> Scalar:
        return boundary_error(self.grid, fields.solution)

    def law(self) -> GaussianLaw:
        """The exact Gaussian law of both fields: mean and low-rank factor."""
        return gaussian_law(self, self.source)
