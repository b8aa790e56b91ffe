r"""The Cahn-Hilliard equation: a mixture that separates into two phases.

    φ_t = Δμ,    μ = φ³ - φ - w² Δφ,    E = ∫ (φ² - 1)²/4 + w² |∇φ|²/2

The flow goes down the energy E and keeps the mass ∫φ. With Fourier series on the points
of the grid, and the cube taken point by point, both hold for the discrete equation too:
it is the gradient flow of the sum over points that approximates E.

The linear part that is solved exactly has the slope 2 of $φ^3 - φ$ in the pure phases
$φ = ±1$ (Eyre 1998), so that the rest is small except in interfaces:

    λ = -(2κ² + w² κ⁴),        N(φ) = Δ(φ³ - 3φ)
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_interval, require_positive, require_whole
from ..types import Field, FieldLike, Key, Scalar, ScalarLike
from ._equation import Kind
from ._fourier import (
    check_periodic,
    multiply,
    spectral_laplacian,
    squared_wavenumbers,
)
from ._grid import Grid, Periodic
from ._random_field import AbstractRandomField, Law, as_law
from ._semilinear import AbstractSemilinear

UNIT_CELLS = Grid((32, 32), extent=(0.0, 32.0), boundary=Periodic())


class CahnHilliard(AbstractSemilinear):
    r"""$\phi_t = \Delta(\phi^3 - \phi - w^2\Delta\phi)$, periodic: late states.

    $\phi$ is the difference of two concentrations, $\pm 1$ in the pure phases. `width`
    is $w$, the thickness of an interface, $\phi = \tanh(x/\sqrt2 w)$, in units of
    length; times are in units in which the mobility is one. The mass $\int\phi$ is
    conserved to rounding, and the `energy` decreases. In one dimension to three, by
    Fourier series with the cube point by point (no dealiasing, with which the energy of
    the points need not decrease), ETDRK4 in time.

    By default $w = 1$ on 32 x 32 points, one unit of length apart. A sample is a
    mixture of uniform mean in $(-0.3, 0.3)$ with noise of 0.05 (`Quench`), separated
    until $T = 400$: `skip` = 99 rows of 4 units of time are thrown away, and the two
    rows at 396 and 400 are stored. The cube is explicit: from fields beyond about 2.5
    a step of the default length may diverge, and so may the residual of such fields;
    take more `substeps` where a model makes them.

    Cahn & Hilliard (1958), J. Chem. Phys. 28; Eyre (1998), MRS Proc. 529.
    """

    grid: Grid
    width: ScalarLike
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    skip: int = eqx.field(static=True)
    initial: AbstractRandomField
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = UNIT_CELLS,
        width: ScalarLike = 1.0,
        *,
        end: float = 4.0,
        rows: int = 2,
        substeps: int = 8,
        skip: int = 99,
        initial: Law | None = None,
    ):
        self.grid, self.width, self.end, self.rows = grid, width, end, rows
        self.substeps, self.skip = substeps, skip
        self.initial = as_law(grid, Quench(grid) if initial is None else initial)

    def __check_init__(self):
        require_positive(end=self.end, width=self.width)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps)
        require_whole(least=0, skip=self.skip)
        check_periodic(self.grid, "CahnHilliard")

    @property
    def eigenvalues(self) -> Array:
        power = jnp.asarray(squared_wavenumbers(self.grid), float)
        return -power * (2 + jnp.asarray(self.width, float) ** 2 * power)

    def nonlinear(self, c: Array) -> Array:
        phi = self._field(c)
        power = squared_wavenumbers(self.grid)
        return multiply(-power, jnp.fft.rfftn(phi**3 - 3 * phi))

    def potential(self, phi: FieldLike) -> Field:
        r"""$\mu = \phi^3 - \phi - w^2\Delta\phi$: constant in equilibrium."""
        phi = jnp.asarray(phi)
        w2 = jnp.asarray(self.width, phi.dtype) ** 2
        return phi**3 - phi - w2 * spectral_laplacian(self.grid, phi)

    def energy(self, phi: FieldLike) -> Scalar:
        r"""$E = \int \tfrac14(\phi^2 - 1)^2 + \tfrac12 w^2|\nabla\phi|^2$."""
        phi = jnp.asarray(phi)
        w2 = jnp.asarray(self.width, phi.dtype) ** 2
        bend = -phi * spectral_laplacian(self.grid, phi)  # its integral is |grad phi|^2
        return self.grid.integral((phi**2 - 1) ** 2 / 4 + w2 * bend / 2)


class Quench(AbstractRandomField):
    r"""$\phi = m + s\,\xi$: a mixture of random mean with white noise.

    $m$ is uniform in `means` and $s$ is `noise`. The noise $\xi$ is normal at every
    point, less its mean: $m$ is the mean of $\phi$.
    """

    grid: Grid
    means: tuple[float, float] = (-0.3, 0.3)
    noise: float = 0.05

    def __check_init__(self):
        require_positive(noise=self.noise)
        check_interval("means", self.means)

    def sample(self, *, key: Key) -> Field:
        first, second = jax.random.split(key)
        xi = jax.random.normal(first, self.grid.shape)
        low, high = self.means
        mean = jax.random.uniform(second, (), xi.dtype, low, high)
        return mean + self.noise * (xi - jnp.mean(xi))
