r"""The Kuramoto-Sivashinsky equation: chaos in one dimension.

    u_t + u u_x + u_xx + u_xxxx = 0,    û_t = (κ² - κ⁴) û - (iκ/2) F[u²]

Waves with $0 < κ < 1$ grow, the product passes their energy on, and shorter waves lose
it. On a long circle the solution forgets where it started and never settles.
"""

from typing import ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array

from .._checks import require_positive, require_whole
from ._burgers import convection
from ._equation import Kind
from ._fourier import check_periodic, squared_wavenumbers
from ._grid import Grid, Periodic
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._semilinear import AbstractSemilinear

LONG_CIRCLE = Grid((64,), extent=(0.0, 64.0), boundary=Periodic())


class KuramotoSivashinsky(AbstractSemilinear):
    r"""$u_t + u\,u_x + u_{xx} + u_{xxxx} = 0$, periodic in $x$: rows of its attractor.

    The slope of a flame front or of a falling film. Without units: with coefficients
    $\nu_2, \nu_4$ of the two derivatives the unit of length is $\sqrt{\nu_4/\nu_2}$ and
    that of time $\nu_4/\nu_2^2$. The mean of $u$ is conserved, by default zero; its
    energy is not. Fourier series, dealiased (two-thirds rule), ETDRK4 in time.

    The default is a circle of length 64 on 64 points, where about seven waves interact,
    and 32 rows one unit of time apart. A row 0 is a state of the attractor: a small
    Gaussian field, the law `initial`, after `skip` rows that are thrown away. The field
    is not Gaussian: its increments are skewed as in a turbulent flow, $u_x$ by about
    $-0.8$ (`px.metrics.increment_skewness`).

    The residual is the defect of the step between rows. Rows of zero residual are a
    solution of the scheme; a solution of the differential equation they follow for some
    tens of units of time only, as chaos multiplies any error.

    Kuramoto (1978), Prog. Theor. Phys. Suppl. 64; Sivashinsky (1977), Acta
    Astronautica 4; Edson, Bunder, Mattner & Roberts (2019), ANZIAM J. 61.
    """

    grid: Grid
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    skip: int = eqx.field(static=True)
    initial: AbstractRandomField
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = LONG_CIRCLE,
        *,
        end: float = 31.0,
        rows: int = 32,
        substeps: int = 4,
        skip: int = 100,
        initial: Law | None = None,
    ):
        self.grid, self.end, self.rows = grid, end, rows
        self.substeps, self.skip = substeps, skip
        recipe = Matern(grid, alpha=2.0, tau=1.0, scale=0.5)
        self.initial = as_law(grid, recipe if initial is None else initial)

    def __check_init__(self):
        require_positive(end=self.end)
        require_whole(least=2, rows=self.rows)
        require_whole(substeps=self.substeps)
        require_whole(least=0, skip=self.skip)
        check_periodic(self.grid, "KuramotoSivashinsky")
        if self.grid.ndim != 1:
            raise ValueError(
                f"KuramotoSivashinsky is an equation in one dimension, got {self.grid}."
                " Use Grid((64,), extent=(0.0, 64.0), boundary=Periodic()); in more "
                "dimensions px.pde.Stepper with a stepper of exponax."
            )

    @property
    def eigenvalues(self) -> np.ndarray:
        power = squared_wavenumbers(self.grid)
        return power - power**2

    def nonlinear(self, c: Array) -> Array:
        return convection(self.grid, c)
