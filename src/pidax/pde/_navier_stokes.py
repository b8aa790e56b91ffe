r"""The Navier-Stokes equations of a plane flow on a torus, as vorticity.

    ω_t + u·∇ω = ν Δω + f,    u = (ψ_y, -ψ_x),    -Δψ = ω = v_x - u_y

The transport is written with products of velocities (Basdevant 1983),

    u·∇ω = (∂_xx - ∂_yy)(u v) + ∂_xy (v² - u²),

which takes four transforms; other forms take five.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require_positive, require_whole
from ..types import Field2, FieldLike, ScalarLike, typed
from ._equation import Kind
from ._fourier import (
    backward,
    check_periodic,
    multiply,
    odd_wavenumbers,
    squared_wavenumbers,
    two_thirds,
    wavenumbers,
)
from ._grid import Grid, Periodic
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._semilinear import AbstractSemilinear

TORUS = Grid((64, 64), boundary=Periodic())


class NavierStokes(AbstractSemilinear):
    r"""$\omega_t + u\cdot\nabla\omega = \nu\Delta\omega + f$, periodic in both axes.

    Spectral, dealiased (two-thirds rule), ETDRK4 in time. `forcing` is
    $f$, a field; by default $0.1(\sin + \cos)(2\pi(x + y))$ with $x, y$ in units of
    the domain. The initial field is by default the Matern field with
    $\alpha = 2.5, \tau = 7$. Both are the data set of Li et al. (2021).
    With two steps in each tenth of time their error in time is 1e-6 of the largest
    value, with one 2e-5 (`benchmarks/results/pde.json`).

    The residual is the defect of the step between stored rows, which takes `substeps`
    steps to evaluate. If rows are close together `collocation` is an alternative. The
    velocity has mean zero. The mean of the vorticity, which must be zero on a torus,
    does not change.
    """

    grid: Grid
    viscosity: ScalarLike
    forcing: FieldLike
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    initial: AbstractRandomField
    skip: ClassVar[int] = 0  # type: ignore[misc]
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = TORUS,
        viscosity: ScalarLike = 1e-3,
        forcing: FieldLike | None = None,
        *,
        end: float = 1.0,
        rows: int = 11,
        substeps: int = 2,
        initial: Law | None = None,
    ):
        self.grid, self.viscosity = grid, viscosity
        self.forcing = _diagonal_waves(grid) if forcing is None else forcing
        self.end, self.rows, self.substeps = end, rows, substeps
        recipe = Matern(grid, alpha=2.5, tau=7.0)
        self.initial = as_law(grid, recipe if initial is None else initial)

    def __check_init__(self):
        require_positive(viscosity=self.viscosity, end=self.end)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps)
        check_periodic(self.grid, "NavierStokes")
        if self.grid.ndim != 2:
            raise ValueError(
                f"NavierStokes is written in vorticity, in two dimensions, got "
                f"{self.grid}. Use Grid((64, 64), boundary=Periodic())."
            )
        self.grid.check(forcing=self.forcing)

    @property
    def eigenvalues(self) -> Array:
        power = jnp.asarray(squared_wavenumbers(self.grid), float)
        return -jnp.asarray(self.viscosity, float) * power

    def nonlinear(self, c: Array) -> Array:
        forcing = jnp.fft.rfftn(jnp.asarray(self.forcing, c.real.dtype))
        return transport(self.grid, c) + forcing

    @typed
    def velocity(self, vorticity: Field2) -> tuple[Field2, Field2]:
        r"""The velocity $(u, v)$, without divergence, whose curl is the vorticity."""
        self.grid.check(vorticity=vorticity)
        return velocity_of(self.grid, jnp.fft.rfftn(vorticity))

    @typed
    def divergence(self, u: Field2, v: Field2) -> Field2:
        r"""$u_x + v_y$ of any velocity, by Fourier series."""
        return self._sum_of_slopes(u, v)

    @typed
    def curl(self, u: Field2, v: Field2) -> Field2:
        r"""$v_x - u_y$ of any velocity, by Fourier series."""
        return self._sum_of_slopes(v, -u)

    def _sum_of_slopes(self, first: Field2, second: Field2) -> Field2:
        """The x derivative of the first and the y derivative of the second."""
        kx, ky = (1j * k for k in odd_wavenumbers(self.grid))
        hats = jnp.fft.rfftn(first), jnp.fft.rfftn(second)
        return self._field(multiply(kx, hats[0]) + multiply(ky, hats[1]))


def transport(grid: Grid, c: Array) -> Array:
    r"""Coefficients of $-u\cdot\nabla\omega$, dealiased; `c` are those of $\omega$."""
    kept = two_thirds(grid)
    u, v = velocity_of(grid, c, kept)
    kx, ky = wavenumbers(grid)
    cross = multiply((kx**2 - ky**2) * kept, jnp.fft.rfftn(u * v))
    return cross + multiply(kx * ky * kept, jnp.fft.rfftn(v**2 - u**2))


def velocity_of(
    grid: Grid, c: Array, factor: np.ndarray | float = 1.0
) -> tuple[Field2, Field2]:
    """The velocity whose curl has these coefficients, times a factor for each mode."""
    kx, ky = odd_wavenumbers(grid)
    k2 = squared_wavenumbers(grid)
    inverse = factor / np.where(k2 == 0, np.inf, k2)
    u = backward(grid, multiply(1j * ky * inverse, c))
    return u, backward(grid, multiply(-1j * kx * inverse, c))


def _diagonal_waves(grid: Grid) -> np.ndarray:
    """The forcing of Li et al. (2021), in units of the domain."""
    if grid.ndim != 2:
        return np.zeros(grid.shape)
    turns = [
        (x - low) / length
        for x, (low, _), length in zip(
            np.meshgrid(*grid._points, indexing="ij"),
            grid.extent,
            grid.lengths,
            strict=True,
        )
    ]
    phase = 2 * np.pi * (turns[0] + turns[1])
    return 0.1 * (np.sin(phase) + np.cos(phase))
