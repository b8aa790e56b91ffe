r"""Viscous Burgers' equation on a circle, by Fourier series.

u_t + u u_x = ν u_xx,        û_t = -ν κ² û - (iκ/2) F[u²]
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import require_positive
from ..types import Key, ScalarLike
from ._boundary import Periodic
from ._equation import Kind
from ._evolution import require_steps
from ._grid import Grid
from ._modes import times, to_modes
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._semilinear import AbstractSemilinear
from ._spectral import (
    check_periodic,
    odd_wavenumbers,
    squared_wavenumbers,
    two_thirds,
)

CIRCLE = Grid((128,), boundary=Periodic())


class Burgers(AbstractSemilinear):
    r"""$u_t + u\,u_x = \nu\, u_{xx}$, periodic in $x$: waves steepen and dissolve.

    The product is in conservation form and without aliases (two-thirds rule), so that
    the mean is kept to rounding. The initial field is by default
    $u_0 = \sum_k e_k (\alpha_k \cos 2\pi kx + \beta_k \sin 2\pi kx)$ with normal
    $\alpha_k, \beta_k$ and $e_k = 49\sqrt2\,((2\pi k)^2 + 49)^{-5/4}$.

    The defaults are the set of Li et al. (2021) on 128 points and 128 rows of time.
    With two steps a row their error in time is 1e-6 of the largest value, with one 2e-5
    (`benchmarks/results/pde_accuracy.json`).
    """

    grid: Grid
    viscosity: ScalarLike
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    initial: AbstractRandomField
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
        require_positive(viscosity=self.viscosity, end=self.end)  # type: ignore
        require_steps(rows=self.rows, substeps=self.substeps)
        check_periodic(self.grid, "Burgers")
        if self.grid.ndim != 1:
            raise ValueError(
                f"Burgers is an equation in one dimension, got {self.grid}. Use "
                "Grid((128,), boundary=Periodic())."
            )

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        return (self.initial.sample(key=key),)

    @property
    def eigenvalues(self) -> Array:
        power = jnp.asarray(squared_wavenumbers(self.grid), float)
        return -jnp.asarray(self.viscosity, float) * power

    def nonlinear(self, c: Array) -> Array:
        kept = two_thirds(self.grid)
        u = self._field(times(jnp.asarray(kept, c.real.dtype), c))
        slope = 1j * odd_wavenumbers(self.grid)[0] * kept
        return jnp.asarray(-0.5 * slope, c.dtype) * to_modes(u**2)
