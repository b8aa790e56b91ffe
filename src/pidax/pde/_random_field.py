r"""Gaussian random fields on a grid: a mean, modes, and a standard deviation for each.

$$ u = m + \sum_k \xi_k \sqrt{q_k}\, \varphi_k, \qquad \xi_k \sim N(0, 1), $$

with $\varphi_k$ orthonormal in $\int u v$. `Matern` has the eigenvectors of the
Laplacian for its modes, so that a draw is one transform; `KarhunenLoeve` has the modes
of any covariance. Distributions that are not Gaussian are functions of a Gaussian
field: `Lognormal`, `Thresholded`.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float

from .._checks import is_traced, require_positive
from ..types import ElementwiseLike, Field, FieldLike, Key
from ._grid import AbstractSide, Grid, Neumann, Periodic
from ._transform import Transform


class AbstractRandomField(eqx.Module):
    """The distribution of a random field on a grid. A subclass implements `sample`.

    `piecewise` says that a draw is constant up to jumps, such as two materials. An
    equation then takes means between cells that are exact for layers.
    """

    grid: AbstractVar[Grid]
    piecewise: ClassVar[bool] = False

    @abc.abstractmethod
    def sample(self, *, key: Key) -> Field:
        """One draw; `jax.vmap` over keys for more."""


Law = AbstractRandomField | FieldLike | float  # what an equation takes for one


class AbstractGaussianField(AbstractRandomField):
    """A Gaussian field, by its mean and a factor $F$ of its covariance $F F^T$."""

    @abc.abstractmethod
    def mean(self) -> Field:
        """The mean at every point."""

    @abc.abstractmethod
    def factor(self) -> Float[Array, "*grid rank"]:
        """One column for each mode: its standard deviation times its values."""

    def covariance(self) -> Array:
        """The covariance of every two points, shape `grid.shape + grid.shape`."""
        factor = self.factor()
        return jnp.tensordot(factor, factor, axes=((-1,), (-1,)))

    def variance(self) -> Field:
        """The variance at every point."""
        return jnp.sum(jnp.square(self.factor()), axis=-1)


class Matern(AbstractGaussianField):
    r"""A Gaussian field with covariance operator
    $\sigma^2\, \tau^{2\alpha - d} (-\Delta + \tau^2)^{-\alpha}$.

    Larger `alpha` makes it smoother (differentiable $\alpha - d/2$ times in the mean
    square). `tau` is the inverse of the correlation length.
    The power of $\tau$ makes the variance of short waves independent of $\tau$; in two
    dimensions the deviations are $\tau^{\alpha-1} (|\kappa|^2 + \tau^2)^{-\alpha/2}$,
    as in Li et al. 2021 (Fourier neural operators), whose fields these are:
    `Matern(grid, alpha=2, tau=3)` for Darcy's, `alpha=2.5, tau=7` for vorticity's and
    (on a periodic interval) Burgers' equation.

    `sides` is the condition on every side that is not periodic: with `Neumann()` the
    field is free there, with `Dirichlet()` it is zero; the conditions of `grid` are not
    used. **Sides change the variance.** A Neumann side reflects the field: without
    `margin` the variance of `Matern(grid)` on the unit square ($\tau = 3$) is 3.7 times
    its value in the centre at the middle of a side, and 8.6 times in a corner. The
    recipes of published data sets are so.

    `margin` is the cure: the field is drawn on a domain that is longer by this length
    at both ends of every axis that is not periodic, and cropped. With `constant=True`
    its covariance is then nearly the covariance on the whole space,

    $$ C(r) = \frac{\sigma^2\,\Gamma(\nu)}{(4\pi)^{d/2}\,\Gamma(\alpha)}\;
       \frac{2^{1-\nu}}{\Gamma(\nu)}\, (\tau r)^\nu K_\nu(\tau r), \qquad
       \nu = \alpha - d/2, $$

    up to terms like $C(2\,\text{margin})$: 1% for a margin of $3/\tau$ in two
    dimensions with $\alpha = 2$. `Matern.of_length` takes the length of correlation,
    the standard deviation and $\nu$ in place of $\alpha$, $\tau$ and $\sigma$.

    `modes` keeps only this number of modes, with the largest variance, which makes the
    factor smaller. Without `constant` the constant mode is left out, and every draw has
    zero mean. A draw costs one transform.
    """

    grid: Grid
    alpha: float = 2.0
    tau: float = 3.0
    sides: AbstractSide = Neumann()
    scale: float = 1.0
    modes: int | None = eqx.field(static=True, default=None)
    constant: bool = eqx.field(static=True, default=False)
    margin: float = eqx.field(static=True, default=0.0)

    @classmethod
    def of_length(
        cls,
        grid: Grid,
        length: float,
        std: float = 1.0,
        smoothness: float = 1.5,
        *,
        margin: float | None = None,
        modes: int | None = None,
    ) -> "Matern":
        r"""The field of a correlation length, a standard deviation and a smoothness.

        $$ C(r) = s^2\, \frac{2^{1-\nu}}{\Gamma(\nu)}
           \Bigl(\frac{\sqrt{2\nu}\, r}{\ell}\Bigr)^\nu
           K_\nu\Bigl(\frac{\sqrt{2\nu}\, r}{\ell}\Bigr) $$

        with $\ell$ `length`, $s$ `std`, $\nu$ `smoothness`: $s^2 e^{-r/\ell}$ for
        $\nu = 1/2$, differentiable once for $\nu > 1$. On the whole domain up to 1%, by
        a `margin` of 2.5 lengths unless another is given; waves that are shorter than
        two spacings are missing, so take $\ell$ several spacings long.
        """
        require_positive(length=length, std=std, smoothness=smoothness)
        d = grid.ndim
        alpha, tau = smoothness + d / 2, math.sqrt(2 * smoothness) / length
        log = (
            math.lgamma(smoothness) - math.lgamma(alpha) - d / 2 * math.log(4 * math.pi)
        )
        return cls(
            grid,
            alpha,
            tau,
            scale=std * math.exp(-log / 2),
            modes=modes,
            constant=True,
            margin=2.5 * length if margin is None else margin,
        )

    def __check_init__(self):
        require_positive(alpha=self.alpha, tau=self.tau, scale=self.scale)
        if not 0 <= self.margin < math.inf:
            raise ValueError(
                "margin must be a length, 0 or more, got "
                f"{self.margin}. A few correlation lengths are enough."
            )
        if not isinstance(self.grid, Grid):
            raise ValueError(
                f"a field lives on a px.pde.Grid, got {self.grid!r}. Write "
                "px.pde.Grid((64, 64)), with the extent and sides that it has."
            )
        if isinstance(self.sides, Periodic):
            raise ValueError(
                "sides says what holds where the grid is not periodic: Neumann() or "
                "Dirichlet(), got Periodic(). Periodic axes come from the grid: "
                "Grid(shape, boundary=Periodic())."
            )
        size = math.prod(self.law_grid.unknown_shape)
        if self.modes is not None and not 1 <= self.modes <= size:
            raise ValueError(
                f"modes must be between 1 and {size}, the number of modes on "
                f"{self.grid}, got {self.modes}."
            )

    @property
    def law_grid(self) -> Grid:
        """The points of `grid` and of its margin, with the boundary conditions of this
        distribution.
        """
        side, grid = self.sides.homogeneous(), self.grid
        boundary = tuple(Periodic() if p else side for p in grid.periodic)
        if self.margin == 0:
            return grid.with_boundary(boundary)
        axes = zip(self._beyond, grid.spacing, grid.extent, strict=True)
        extent = [(low - k * h, high + k * h) for k, h, (low, high) in axes]
        shape = [n + 2 * k for n, k in zip(grid.shape, self._beyond, strict=True)]
        return Grid(shape, extent, layout=grid.layout, boundary=boundary)

    @property
    def _beyond(self) -> tuple[int, ...]:
        """How many points the margin has at each end of each axis."""
        axes = zip(self.grid.periodic, self.grid.spacing, strict=True)
        return tuple(0 if p else math.ceil(self.margin / h - 1e-9) for p, h in axes)

    def _field(self, coefficients: Array) -> Field:
        """The field of these coefficients, without its margin."""
        field = self.law_grid.extend(Transform(self.law_grid).inverse(coefficients))
        axes = zip(self._beyond, self.grid.shape, strict=True)
        return field[tuple(slice(k, k + n) for k, n in axes)]

    @property
    def deviations(self) -> np.ndarray:
        r"""$\sqrt{q_k}$ of every mode, in the shape of the transform's coefficients."""
        power = Transform(self.law_grid).squared_frequencies
        # In logarithms, so that no power of a large tau overflows.
        log = (self.alpha - self.grid.ndim / 2) * np.log(self.tau)
        log = log - self.alpha / 2 * np.log(power + self.tau**2)
        deviations = self.scale * np.exp(log)
        if not self.constant:
            deviations[power == 0] = 0.0
        if self.modes is not None:
            order = np.argsort(-deviations, axis=None, kind="stable")
            deviations.flat[order[self.modes :]] = 0.0
        return deviations

    def sample(self, *, key: Key) -> Field:
        deviations = jnp.asarray(self.deviations, float)
        xi = jax.random.normal(key, deviations.shape)
        return self._field(deviations * xi)

    def mean(self) -> Field:
        return jnp.zeros(self.grid.shape)

    def factor(self) -> Float[Array, "*grid rank"]:
        deviations = self.deviations.ravel()
        order = np.argsort(-deviations, kind="stable")
        order = order[deviations[order] > 0]
        shape = self.law_grid.unknown_shape
        columns = np.zeros((len(order), deviations.size))
        columns[np.arange(len(order)), order] = deviations[order]
        columns = jnp.asarray(columns.reshape(-1, *shape), float)
        return jax.vmap(self._field, out_axes=-1)(columns)


class Fixed(AbstractGaussianField):
    """Not random: every draw is the same field (or number)."""

    grid: Grid
    value: ElementwiseLike

    def __check_init__(self):
        if np.shape(self.value) != ():
            self.grid.check(value=self.value)  # type: ignore[arg-type]
        if not is_traced(self.value) and not np.isfinite(self.value).all():
            raise ValueError(
                "a fixed field must be finite, got NaN or infinite values. Look where "
                "it was made."
            )

    def sample(self, *, key: Key) -> Field:
        return self.mean()

    def mean(self) -> Field:
        return jnp.broadcast_to(jnp.asarray(self.value, float), self.grid.shape)

    def factor(self) -> Float[Array, "*grid rank"]:
        return jnp.zeros((*self.grid.shape, 0))


class Lognormal(AbstractRandomField):
    r"""$e^g$ of a Gaussian field $g$: positive, smooth where $g$ is."""

    gaussian: AbstractGaussianField

    def __init__(self, gaussian: AbstractGaussianField):
        self.gaussian = gaussian

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.gaussian.grid

    def sample(self, *, key: Key) -> Field:
        return jnp.exp(self.gaussian.sample(key=key))

    def mean(self) -> Field:
        r"""$E\, e^g = e^{m + v/2}$ at every point."""
        return jnp.exp(self.gaussian.mean() + self.gaussian.variance() / 2)


class Thresholded(AbstractRandomField):
    """`high` where a Gaussian field is not negative, `low` elsewhere: two materials."""

    gaussian: AbstractGaussianField
    high: float
    low: float
    piecewise: ClassVar[bool] = True

    def __init__(
        self, gaussian: AbstractGaussianField, high: float = 12.0, low: float = 3.0
    ):
        self.gaussian, self.high, self.low = gaussian, high, low

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.gaussian.grid

    def sample(self, *, key: Key) -> Field:
        g = self.gaussian.sample(key=key)
        return jnp.where(g >= 0, jnp.asarray(self.high, float), self.low)


def as_law(grid: Grid, law: Law) -> AbstractRandomField:
    """A distribution on this grid; a number or a field becomes `Fixed`."""
    if not isinstance(law, AbstractRandomField):
        return Fixed(grid, law)
    pairs = zip(law.grid._points, grid._points, strict=False)
    same = law.grid.shape == grid.shape and all(
        np.allclose(x, y, rtol=0.0, atol=1e-6 * h)
        for (x, y), h in zip(pairs, grid.spacing, strict=True)
    )
    if not same:
        raise ValueError(
            f"the law draws fields on {law.grid}, the equation is on {grid}. Make both "
            "on the same points."
        )
    return law
