r"""Elliptic equations: Poisson's, Helmholtz's, and Darcy's flow in a porous medium.

Δu = f,        Δu + k² u = f,        -∇·(a ∇u) = f
"""

from math import isfinite
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._checks import is_traced, require, require_finite, show
from ..types import ElementwiseLike, Field, FieldLike, Key, Scalar, ScalarLike, typed
from ._channels import Channels
from ._determinant import log_determinant
from ._diffusion import AbstractDiffusion, Diffusion, Laplacian, Mean, check_mean
from ._elliptic_solvers import check_resonance, solve_constant, solve_diffusion
from ._equation import (
    AbstractEquation,
    FieldsT,
    GaussianLaw,
    Kind,
    gaussian_law,
    rms,
)
from ._grid import Dirichlet, Grid, Neumann
from ._karhunen_loeve import ExponentialCovariance, KarhunenLoeve
from ._random_field import (
    AbstractRandomField,
    Law,
    Lognormal,
    Matern,
    Thresholded,
    as_law,
)
from ._vector_calculus import Fluxes, Gradient, along


class AbstractElliptic(AbstractEquation[FieldsT]):
    """An equation whose `solution` is a field with values held on the sides."""

    def boundary_error(self, fields: FieldsT) -> Scalar:
        """The largest distance from the prescribed values, on nodes.

        On cells, and on Neumann sides, the conditions are part of the residual.
        """
        u = jnp.asarray(fields.solution)  # type: ignore[attr-defined]
        return jnp.max(jnp.abs(self.grid.impose(u) - u))


class PoissonFields(NamedTuple):
    """A source and its solution."""

    source: Field
    solution: Field


class Poisson(AbstractElliptic[PoissonFields]):
    r"""$\Delta u = f$: steady heat, electric and gravitational potentials.

    `source` is the distribution of $f$ (or one field, or a number), by default
    `Matern(grid, alpha=2, tau=3)`. Boundary data of the grid are used. Without a
    Dirichlet side $f$ and the slopes must balance, and $u$ has zero mean.

    Second order, 3 points an axis. Solved directly by sine and cosine transforms.
    Linear: the fields are jointly Gaussian if $f$ is (`law`).
    """

    grid: Grid
    source: AbstractRandomField
    Fields: ClassVar[type[Any]] = PoissonFields
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
        self.check_fields(fields)
        self.grid.check(**fields._asdict())
        right = _at_unknowns(self.grid, fields.source)
        return Laplacian(self.grid)(fields.solution) - right

    def scale(self, fields: PoissonFields) -> Scalar:
        return _source_size(Laplacian(self.grid), fields.source)

    def law(self) -> GaussianLaw:
        """The exact Gaussian law of both fields: mean and low-rank factor."""
        return gaussian_law(self, self.source)


class HelmholtzFields(NamedTuple):
    """A source and its solution."""

    source: Field
    solution: Field


class Helmholtz(AbstractElliptic[HelmholtzFields]):
    r"""$\Delta u + k^2 u = f$: waves of one frequency.

    `wavenumber` is $k$. The equation is refused at resonance, where $k^2$ is (nearly)
    an eigenvalue of $-\Delta$ on the grid. `source` is the distribution of $f$ (or one
    field, or a number), by default `Matern(grid, alpha=2, tau=3)`.

    Second order: the phase error is $(kh)^2/24$ a radian, so use at least ten points a
    wave. Solved directly by transforms. Linear: the fields are jointly Gaussian if
    $f$ is (`law`).
    """

    grid: Grid
    source: AbstractRandomField
    wavenumber: ScalarLike
    Fields: ClassVar[type[Any]] = HelmholtzFields
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
        self.check_fields(fields)
        self.grid.check(**fields._asdict())
        u = jnp.asarray(fields.solution)
        k = jnp.asarray(self.wavenumber, u.dtype)
        right = _at_unknowns(self.grid, fields.source - k**2 * u)
        return Laplacian(self.grid)(u) - right

    def scale(self, fields: HelmholtzFields) -> Scalar:
        return _source_size(Laplacian(self.grid), fields.source)

    def law(self) -> GaussianLaw:
        """The exact Gaussian law of both fields: mean and low-rank factor."""
        return gaussian_law(self, self.source)


class DarcyFields(NamedTuple):
    """A permeability and its pressure."""

    coefficient: Field
    solution: Field


class Darcy(AbstractElliptic[DarcyFields]):
    r"""$-\nabla\cdot(a \nabla u) = f$: pressure in a porous medium.

        Darcy(Grid((64, 64)))               # two materials: a = 12 or 3, f = 1, u = 0
        Darcy.lognormal(Grid((64, 64)))     # smooth: a = exp of a Gaussian field
        Darcy.source_sink((64, 64))         # a well, a sink, impermeable walls
        Darcy.channels((32, 32))            # from side to side through channels

    `coefficient` is the distribution of $a > 0$ (or one field), by default 12 where
    `Matern(grid, alpha=2, tau=3)` is not negative and 3 elsewhere (Li et al. 2021).
    `source` is $f$, a number or a field. Boundary data of the grid are used. Without a
    Dirichlet side $f$ and the slopes must balance, and $u$ has zero mean.

    Second order where $a$ is smooth: the flux form on nodes or cells. `mean` says what
    $a$ is at the face between two points, in the solver, in the residual and in the
    determinant: "harmonic" by default for a law of two materials, whose flow through
    layers is then exact, else "arithmetic". For materials of 100 to 1 on $16^2$ cells
    arithmetic means err by more than a tenth in the flow. The data set of Li et al.
    has them: `Darcy(grid, mean="arithmetic")`. Solved by preconditioned conjugate
    gradients. Bilinear in $a$ and $u$ with arithmetic means; harmonic ones are not
    linear in $a$.
    """

    grid: Grid
    coefficient: AbstractRandomField
    source: ElementwiseLike
    mean: Mean = eqx.field(static=True)
    Fields: ClassVar[type[Any]] = DarcyFields
    given: ClassVar[tuple[str, ...]] = ("coefficient",)

    def __init__(
        self,
        grid: Grid,
        coefficient: Law | None = None,
        source: ElementwiseLike = 1.0,
        *,
        mean: Mean | None = None,
    ):
        law = Thresholded(Matern(grid)) if coefficient is None else coefficient
        self.grid = grid
        self.coefficient = as_law(grid, law)
        self.source = source
        jumps = self.coefficient.piecewise
        self.mean = ("harmonic" if jumps else "arithmetic") if mean is None else mean
        check_mean(self.mean)
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
        r"""The data set of Bastek et al. 2025 (PIDM): finite volumes on cells.

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

    @classmethod
    def channels(cls, shape: tuple[int, int] = (32, 32), **law: Any) -> "Darcy":
        r"""Flow from the left side to the right one through winding channels.

        On cells of the unit square: $u = 1$ at $x = 0$, $u = 0$ at $x = 1$, no flow
        through the other sides and no source; harmonic means. $a$ has the law
        `Channels`, which takes the other arguments: 300 in one to three channels and 3
        beside them. What is asked of a sample is its `flow(fields)`, which
        is the same through every section, and whether the channels connect the two
        sides (`px.metrics.connects`). Measured heads alone tell little of either.
        """
        sides = ((Dirichlet(1.0), Dirichlet(0.0)), Neumann())
        grid = Grid(shape, layout="cells", boundary=sides)
        return cls(grid, Channels(grid, **law), source=0.0)

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """By the mean at faces."""
        return "bilinear" if self.mean == "arithmetic" else "nonlinear"

    def draw(self, *, key: Key) -> tuple[Field]:
        return (self.coefficient.sample(key=key),)

    @typed
    def solve(self, coefficient: FieldLike) -> DarcyFields:
        self.grid.check(coefficient=coefficient)
        a = jnp.asarray(coefficient)
        u = solve_diffusion(self.grid, a, -self._source(a.dtype), self.mean)
        return DarcyFields(a, u)

    def residual(self, fields: DarcyFields) -> Field:
        self.check_fields(fields)
        self.grid.check(**fields._asdict())
        u = jnp.asarray(fields.solution)
        right = _at_unknowns(self.grid, self._source(u.dtype))
        return -self._operator(fields)(u) - right

    def scale(self, fields: DarcyFields) -> Scalar:
        source = self._source(fields.solution.dtype)
        return _source_size(Laplacian(self.grid), source)

    def flux(self, fields: DarcyFields) -> Fluxes:
        r"""$-a\nabla u$ across every face: an array for each axis, as `Gradient`'s."""
        self.check_fields(fields)
        faces = self._operator(fields).faces
        gradient = Gradient(self.grid)(jnp.asarray(fields.solution))
        return tuple(-a * slope for a, slope in zip(faces, gradient, strict=True))

    def flow(self, fields: DarcyFields, axis: int = 0) -> Float[Array, " section"]:
        r"""What flows through every section across one axis, in its direction.

        $Q = \int -a\, u_x\, dy$ at the faces along $x$, the first and the last of
        which are the sides. Without a source, and with other sides that are closed, it
        is the same through all sections; on nodes through all but the first and last,
        where the slope is that of a parabola through three points.
        """
        across = [i for i in range(self.grid.ndim) if i != axis]
        total = self.flux(fields)[axis]
        for i in across:
            widths = along(self.grid.widths(i), i, self.grid.ndim, total.dtype)
            total = total * widths
        return jnp.sum(total, axis=tuple(across))

    def log_determinant(self, fields: DarcyFields) -> Scalar:
        r"""Of $\nabla\cdot(a\nabla)$ on the unknowns, `pde.log_determinant`."""
        self.check_fields(fields)
        return log_determinant(self._operator(fields))

    def _operator(self, fields: DarcyFields) -> Diffusion:
        """Of any coefficient, also one that a model made."""
        return Diffusion(self.grid, fields.coefficient, self.mean, check=False)

    def _source(self, dtype: DTypeLike) -> Field:
        return jnp.broadcast_to(jnp.asarray(self.source, dtype), self.grid.shape)


def _at_unknowns(grid: Grid, field: FieldLike) -> Field:
    """The field where equations hold, zero where values are prescribed."""
    return grid.pad(grid.restrict(field))


def _source_size(operator: AbstractDiffusion, source: FieldLike) -> Scalar:
    """The norm of the source or, if it is zero, of the contribution of the boundary
    data.

    The relative residual of a zero field is then one, and the relative residual of a
    field scaled to zero does not vanish.
    """
    grid, source = operator.grid, jnp.asarray(source)
    norm = rms(_at_unknowns(grid, source))
    data = rms(grid.pad(operator.load(jnp.zeros_like(source))))
    return jnp.where(norm > 0, norm, data)
