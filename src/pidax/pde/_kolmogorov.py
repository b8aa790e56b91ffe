r"""Kolmogorov's flow: a plane flow stirred by a shear wave, as vorticity.

    ω_t + u·∇ω = Δω/Re - κ cos κy,    u = (ψ_y, -ψ_x),    -Δψ = ω

The force on the velocity is $(\sin κy, 0)$. The laminar flow $ω = -(Re/κ) cos κy$
is a solution for every Re, and unstable for large ones.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require_positive, require_whole
from ..types import Field2, ScalarLike, typed
from ._equation import Kind
from ._fourier import check_periodic, squared_wavenumbers
from ._grid import Grid, Periodic
from ._navier_stokes import transport, velocity_of
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._semilinear import AbstractSemilinear

TORUS = Grid((32, 32), extent=(0.0, 2 * np.pi), boundary=Periodic())


class Kolmogorov(AbstractSemilinear):
    r"""$\omega_t + u\cdot\nabla\omega = \Delta\omega/\mathrm{Re} - \kappa\cos\kappa y$.

    Periodic in both axes, $\kappa = 2\pi k/L_y$ with `wave` $k$ the number of waves of
    the force. The unit of time is such that the amplitude of the force is one; a side
    of the grid is by default $2\pi$ long. Spectral, dealiased (two-thirds rule), ETDRK4
    in time.
    The mean of the vorticity, zero, is conserved; energy and enstrophy are supplied by
    the force and lost to viscosity.

    By default 32 x 32 points, Re = 20, $k = 2$, four rows half a unit of time apart.
    Row 0 is a state of the statistically steady flow: a Gaussian field, the law
    `initial`, after `skip` rows that are thrown away. The states forget each other in
    some 15 units of time. `velocity(vorticity)` returns $u$.

    The residual is the defect of the step between rows. It is not the divergence of a
    velocity, which vanishes for every vorticity.

    Meshalkin & Sinai (1961), J. Appl. Math. Mech. 25; Chandler & Kerswell (2013), J.
    Fluid Mech. 722.
    """

    grid: Grid
    reynolds: ScalarLike
    wave: int = eqx.field(static=True)
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    skip: int = eqx.field(static=True)
    initial: AbstractRandomField
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = TORUS,
        reynolds: ScalarLike = 20.0,
        wave: int = 2,
        *,
        end: float = 1.5,
        rows: int = 4,
        substeps: int = 16,
        skip: int = 80,
        initial: Law | None = None,
    ):
        self.grid, self.reynolds, self.wave = grid, reynolds, wave
        self.end, self.rows = end, rows
        self.substeps, self.skip = substeps, skip
        recipe = Matern(grid, alpha=2.5, tau=2.0, scale=3.0)
        self.initial = as_law(grid, recipe if initial is None else initial)

    def __check_init__(self):
        require_positive(reynolds=self.reynolds, end=self.end)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps, wave=self.wave)
        require_whole(least=0, skip=self.skip)
        check_periodic(self.grid, "Kolmogorov")
        if self.grid.ndim != 2:
            raise ValueError(
                f"Kolmogorov is written in vorticity, in two dimensions, got "
                f"{self.grid}. Use Grid((32, 32), extent=(0.0, 2 * np.pi), "
                "boundary=Periodic())."
            )
        if 3 * self.wave >= self.grid.shape[1]:
            raise ValueError(
                f"the force must be a wave that is kept, 3 * wave < points: expected "
                f"wave < {self.grid.shape[1] / 3:.3g} on {self.grid}, got "
                f"wave={self.wave}. Take at least {3 * self.wave + 1} points along y."
            )

    @property
    def eigenvalues(self) -> Array:
        power = jnp.asarray(squared_wavenumbers(self.grid), float)
        return -power / jnp.asarray(self.reynolds, float)

    def nonlinear(self, c: Array) -> Array:
        return transport(self.grid, c) + jnp.fft.rfftn(
            jnp.asarray(self._force, c.real.dtype)
        )

    @property
    def _force(self) -> np.ndarray:
        r"""$-\kappa\cos\kappa y$."""
        kappa = 2 * np.pi * self.wave / self.grid.lengths[1]
        y = self.grid._points[1] - self.grid.extent[1][0]
        return np.broadcast_to(-kappa * np.cos(kappa * y), self.grid.shape)

    @property
    def laminar(self) -> Field2:
        r"""$-(\mathrm{Re}/\kappa)\cos\kappa y$, a steady solution."""
        kappa = 2 * np.pi * self.wave / self.grid.lengths[1]
        return jnp.asarray(self._force, float) * (self.reynolds / kappa**2)

    @typed
    def velocity(self, vorticity: Field2) -> tuple[Field2, Field2]:
        r"""The velocity $(u, v)$, without divergence, whose curl is the vorticity."""
        self.grid.check(vorticity=vorticity)
        return velocity_of(self.grid, jnp.fft.rfftn(vorticity))
