r"""Burgers' equation: viscous, by Fourier series; inviscid, by Godunov's scheme.

    u_t + u u_x = ν u_xx,    û_t = -ν κ² û - (iκ/2) F[u²]

    u_t + (u²/2)_x = 0,      (u_i^{n+1} - u_i^n)/Δt + (F_{i+1/2} - F_{i-1/2})/h = 0

on an interval or a circle, with the flux of the exact solution of the Riemann problem
at each face (Godunov 1959),

    F(a, b) = max( max(a, 0)²/2, min(b, 0)²/2 ).
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require, require_positive, require_whole, show
from ..types import Field, Key, Scalar, ScalarLike, SpaceTime
from ._equation import Kind
from ._evolution import AbstractEvolution, Evolution
from ._fourier import (
    backward,
    check_periodic,
    multiply,
    odd_wavenumbers,
    squared_wavenumbers,
    two_thirds,
)
from ._grid import Dirichlet, Grid, Neumann, Periodic
from ._jumps import Jumps
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._semilinear import AbstractSemilinear

CIRCLE = Grid((128,), boundary=Periodic())
RING = Grid((64,), layout="cells", boundary=Periodic())
LINE = Grid((101,), boundary=((Dirichlet(), Neumann()),))


class Burgers(AbstractSemilinear):
    r"""$u_t + u\,u_x = \nu\, u_{xx}$, periodic in $x$.

    The product is in conservation form and dealiased (two-thirds rule), so that the
    mean is constant to rounding. The initial field is by default $u_0 = \sum_k e_k
    (\alpha_k \cos 2\pi kx + \beta_k \sin 2\pi kx)$ with normal $\alpha_k, \beta_k$ and
    $e_k = 49\sqrt2\,((2\pi k)^2 + 49)^{-5/4}$.

    The defaults are the data set of Li et al. (2021) on 128 points and 128 rows of
    time. With two steps a row their error in time is 1e-6 of the largest value, with
    one 2e-5 (`benchmarks/results/pde.json`).
    """

    grid: Grid
    viscosity: ScalarLike
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    initial: AbstractRandomField
    skip: ClassVar[int] = 0  # type: ignore[misc]
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = CIRCLE,
        viscosity: ScalarLike = 0.01,
        *,
        end: float = 1.0,
        rows: int = 128,
        substeps: int = 2,
        initial: Law | None = None,
    ):
        self.grid, self.viscosity = grid, viscosity
        self.end, self.rows, self.substeps = end, rows, substeps
        recipe = Matern(grid, alpha=2.5, tau=7.0)
        self.initial = as_law(grid, recipe if initial is None else initial)

    def __check_init__(self):
        require_positive(viscosity=self.viscosity, end=self.end)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps)
        check_periodic(self.grid, "Burgers")
        if self.grid.ndim != 1:
            raise ValueError(
                f"Burgers is an equation in one dimension, got {self.grid}. Use "
                "Grid((128,), boundary=Periodic())."
            )

    @property
    def eigenvalues(self) -> Array:
        power = jnp.asarray(squared_wavenumbers(self.grid), float)
        return -jnp.asarray(self.viscosity, float) * power

    def nonlinear(self, c: Array) -> Array:
        return convection(self.grid, c)


class Shock(NamedTuple):
    """The initial field, the value held at the left end, and the solution."""

    initial: Field
    left: Scalar
    solution: SpaceTime


class InviscidBurgers(AbstractEvolution[Shock]):
    r"""$u_t + (u^2/2)_x = 0$, prescribed at the left end, with outflow at the right.

    One step of Godunov's scheme a row: first order, monotone, conservative, and exact
    in the speed of shocks. The residual is that step's, in conservation form. The left
    end is a node with a prescribed value `left` from the first step on; beyond the
    right end the field continues with its last value (zero gradient).

    The step must not be longer than $h/\max|u|$ (Courant, Friedrichs and Lewy): data
    that violate it are an error, which states the largest step. By the maximum
    principle the initial data decide for all rows.

    The defaults are the data set of Utkarsh et al. (2025, PCFM): 101 points and 101
    rows, $u_0 = 1/(1 + e^{(x-p)/0.02})$ with $p$ uniform in $(0.2, 0.8)$, the left
    value uniform in $(0, 1)$. `initial` is another distribution of $u_0$.
    """

    grid: Grid
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    initial: AbstractRandomField
    Fields: ClassVar[type[Any]] = Shock
    given: ClassVar[tuple[str, ...]] = ("initial", "left")
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = LINE,
        *,
        end: float = 1.0,
        rows: int = 101,
        initial: Law | None = None,
    ):
        self.grid, self.end, self.rows = grid, end, rows
        self.initial = as_law(grid, Front(grid) if initial is None else initial)

    def __check_init__(self):
        require_positive(end=self.end)
        require_whole(least=2, rows=self.rows)
        sides = (Dirichlet, Neumann)
        got = self.grid.boundary[0]
        right_kind = all(isinstance(s, k) for s, k in zip(got, sides, strict=True))
        if self.grid.ndim != 1 or self.grid.layout != "nodes" or not right_kind:
            raise ValueError(
                "InviscidBurgers needs one axis of nodes, held at the left end and "
                f"free at the right, got {self.grid}. Use Grid((101,), "
                "boundary=((Dirichlet(), Neumann()),))."
            )

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        first, second = jax.random.split(key)
        u = self.initial.sample(key=first)
        return u, jax.random.uniform(second, (), u.dtype)

    def solve(self, *given: Array) -> Shock:
        """The solution, if the step is short enough for these data."""
        initial, left = self._checked(given)
        fastest = jnp.maximum(jnp.max(jnp.abs(initial)), jnp.abs(left))
        initial = _short(
            initial, fastest, self.grid, self.interval,
            "Take more rows: end / (rows - 1) is the step.",
        )  # fmt: skip
        return super().solve(initial, left)

    def advance(self, u: Field, *parameters: Array) -> Field:
        left = parameters[0]
        u = u.at[0].set(left)
        rate = self._transport(u)
        return u + self.interval * rate

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        return (self._transport(u.at[0].set(parameters[0])),)

    def residual(self, fields: Shock) -> Array:
        """The scheme's step in conservation form; zero at the left end and in row 0."""
        return super().residual(fields).at[:, 0].set(0)

    def parameters(self, solution: SpaceTime) -> tuple[Array, ...]:
        """The left value: the mean over the rows in which it holds."""
        return (jnp.mean(solution[1:, 0]),)

    def impose(
        self, solution: SpaceTime, initial: Field, *parameters: Array
    ) -> SpaceTime:
        held = solution.at[:, 0].set(parameters[0])
        return super().impose(held, initial)

    def _transport(self, u: Field) -> Field:
        """Minus the divergence of the flux; zero at the left node, which is held."""
        beyond = jnp.concatenate([u, u[-1:]])
        flux = godunov_flux(beyond[:-1], beyond[1:])
        inner = -(flux[1:] - flux[:-1]) / self.grid.spacing[0]
        return jnp.pad(inner, (1, 0))


class PeriodicInviscidBurgers(AbstractEvolution[Evolution]):
    r"""$u_t + (u^2/2)_x = 0$ on a circle, with shocks that merge.

        PeriodicInviscidBurgers()       # 64 cells, 2 to 4 jumps, 41 rows up to t = 1/2

    Godunov's scheme with `substeps` steps a row: first order, monotone, conservative
    (the mean of $u$ is constant to rounding), of an error of order $h^{1/2}$ to $h$ in
    $L^1$. The residual is the defect of a row's steps. The exact solution of the same
    initial field is `lax_oleinik(initial, t)`.

    `initial` is by default `Jumps(grid)`: 2 to 4 jumps, values uniform in $(-1, 1)$.
    Shocks that have merged, and rarefactions that a shock has overtaken, leave nothing
    from which the initial field could be read: to infer it from late sensors has
    many answers. The values have both signs, and so the flux its sonic points.

    A step must not be longer than $h/\max|u|$; data that violate it are an error, which
    states the longest step.
    """

    grid: Grid
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    initial: AbstractRandomField
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = RING,
        *,
        end: float = 0.5,
        rows: int = 41,
        substeps: int = 1,
        initial: Law | None = None,
    ):
        self.grid, self.end, self.rows, self.substeps = grid, end, rows, substeps
        self.initial = as_law(grid, Jumps(grid) if initial is None else initial)

    def __check_init__(self):
        require_positive(end=self.end)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps)
        check_periodic(self.grid, "PeriodicInviscidBurgers")
        if self.grid.ndim != 1:
            raise ValueError(
                "PeriodicInviscidBurgers is an equation in one dimension, got "
                f'{self.grid}. Use Grid((64,), layout="cells", boundary=Periodic()).'
            )

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        return (self.initial.sample(key=key),)

    def solve(self, *given: Array) -> Evolution:
        """The solution, if the steps are short enough for these data."""
        (initial,) = self._checked(given)
        initial = _short(
            initial, jnp.max(jnp.abs(initial)), self.grid, self._step,
            "Take more substeps: end / (rows - 1) / substeps is the step.",
        )  # fmt: skip
        return super().solve(initial)

    @property
    def _step(self) -> float:
        return self.interval / self.substeps

    def advance(self, u: Field, *parameters: Array) -> Field:
        if self.substeps == 1:
            return u + self._step * self._transport(u)
        step = lambda _, u: u + self._step * self._transport(u)
        return jax.lax.fori_loop(0, self.substeps, step, u)

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        return (self._transport(u),)

    def _transport(self, u: Field) -> Field:
        """Minus the divergence of the flux."""
        above = godunov_flux(u, jnp.roll(u, -1))
        return (jnp.roll(above, 1) - above) / self.grid.spacing[0]


def _short(
    initial: Field, fastest: Scalar, grid: Grid, step: float, cure: str
) -> Field:
    """The initial field, if the step obeys Courant, Friedrichs and Lewy."""
    h = grid.spacing[0]
    longest = h / fastest
    return require(
        initial,
        step <= longest * (1 + 1e-5),  # rounding of h and the step
        f"the step of Godunov's scheme must be at most h / max|u| = {show(longest)} "
        f"(CFL), got {step:.6g} between rows; h = {h:.6g}. {cure} Or a coarser grid.",
    )


class Front(AbstractRandomField):
    r"""$1/(1 + e^{(x-p)/w})$ with $p$ uniform in `places`: a step of width $w$."""

    grid: Grid
    width: float = 0.02
    places: tuple[float, float] = (0.2, 0.8)

    def sample(self, *, key: Key) -> Field:
        x = self.grid.coordinates[0]
        low, high = self.places
        place = jax.random.uniform(key, (), x.dtype, low, high)
        return jax.nn.sigmoid((place - x) / self.width)


def convection(grid: Grid, c: Array) -> Array:
    """The coefficients of $-u u_x$, conserving and dealiased; `c` are those of $u$."""
    kept = two_thirds(grid)
    u = backward(grid, multiply(kept, c))
    slope = 1j * odd_wavenumbers(grid)[0] * kept
    return multiply(-0.5 * slope, jnp.fft.rfft(u**2))


def godunov_flux(left: Array, right: Array) -> Array:
    r"""The flux $u^2/2$ at a face of the Riemann problem with these two states."""
    from_left, from_right = jnp.maximum(left, 0), jnp.minimum(right, 0)
    return jnp.maximum(jnp.square(from_left), jnp.square(from_right)) / 2
