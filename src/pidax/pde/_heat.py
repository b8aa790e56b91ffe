r"""The heat equation, solved exactly in time by sines and cosines.

    u_t = ν Δu,        u(t) = T⁻¹ exp(-ν|κ|² t) T u_0

Each coefficient in the eigenvectors of the Laplacian decays at its own rate, so a step
of any length is exact.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_interval, require_positive, require_whole
from ..types import Field, Key, Scalar, ScalarLike, Shape, SpaceTime, Stacked
from ._equation import GaussianLaw, Kind, gaussian_law
from ._evolution import AbstractEvolution, Evolution
from ._grid import Dirichlet, Grid, Neumann, Periodic
from ._random_field import AbstractRandomField, Law, Matern, as_law
from ._transform import Transform

RING = Grid((64,), boundary=Periodic())
LONG_RING = Grid((100,), extent=(0.0, 2 * np.pi), boundary=Periodic())


class Heat(AbstractEvolution[Evolution]):
    r"""$u_t = \nu\Delta u$ in one to three dimensions, with one diffusivity $\nu$.

    Sides may be periodic, or `Dirichlet()` or `Neumann()` with zero for their data.
    `initial` is the distribution of the initial field (or one field). If it is
    Gaussian, so is the whole solution, all rows and points together, and `law` is its
    mean and factor.

    Linear: means of solutions are solutions. Exact in time; in space exact for the
    trigonometric polynomial through the points. One transform and its inverse a row.
    """

    grid: Grid
    diffusivity: ScalarLike
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    initial: AbstractRandomField
    kind: ClassVar[Kind] = "linear"

    def __init__(
        self,
        grid: Grid = RING,
        diffusivity: ScalarLike = 0.01,
        *,
        end: float = 1.0,
        rows: int = 64,
        initial: Law | None = None,
    ):
        self.grid, self.diffusivity = grid, diffusivity
        self.end, self.rows = end, rows
        self.initial = as_law(grid, _matern(grid) if initial is None else initial)

    def __check_init__(self):
        require_positive(diffusivity=self.diffusivity, end=self.end)
        require_whole(least=2, rows=self.rows)
        _require_zero_sides(self.grid)

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        return (self.grid.impose(self.initial.sample(key=key)),)

    def advance(self, u: Field, *parameters: Array) -> Field:
        return _diffuse(self.grid, u, self.diffusivity, self.interval)

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        return (_diffusion(self.grid, u, self.diffusivity),)

    def impose(
        self, solution: SpaceTime, initial: Field, *parameters: Array
    ) -> SpaceTime:
        return jax.vmap(self.grid.impose)(solution).at[0].set(initial)

    def law(self) -> GaussianLaw:
        """The exact Gaussian law of the stacked solution: mean and low-rank factor.

        A column for each mode of the initial field's law: take one with few modes.
        """
        return gaussian_law(self, self.initial)


class Diffusing(NamedTuple):
    """The initial field, the diffusivity of this sample, and the solution."""

    initial: Field
    diffusivity: Scalar
    solution: SpaceTime


class RandomHeat(AbstractEvolution[Diffusing]):
    r"""$u_t = \nu\Delta u$ with a random diffusivity for each sample.

    $\nu$ is uniform in the interval `diffusivity`, and a given field like the initial
    field. It is a second, constant channel of the stacked array; `unstack` takes its
    mean. So the residual is not linear in all fields together.

    The defaults are the data set of Cheng et al. (2025, ECI sampling),
    $u = \sin(x + \phi)\, e^{-\nu t}$ with $\phi$ uniform in $(0, \pi)$ and $\nu$ in
    $(1, 5)$, on 100 points of $[0, 2\pi)$ and 100 rows up to $t = 1$. Their solution
    is channel 0.
    """

    grid: Grid
    diffusivity: tuple[float, float]
    end: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    initial: AbstractRandomField
    Fields: ClassVar[type[Any]] = Diffusing
    given: ClassVar[tuple[str, ...]] = ("initial", "diffusivity")
    kind: ClassVar[Kind] = "nonlinear"

    def __init__(
        self,
        grid: Grid = LONG_RING,
        diffusivity: tuple[float, float] = (1.0, 5.0),
        *,
        end: float = 1.0,
        rows: int = 100,
        initial: Law | None = None,
    ):
        self.grid, self.diffusivity = grid, diffusivity
        self.end, self.rows = end, rows
        self.initial = as_law(grid, SineWave(grid) if initial is None else initial)

    def __check_init__(self):
        require_positive(end=self.end)
        require_whole(least=2, rows=self.rows)
        _require_zero_sides(self.grid)
        cure = "For one number, Heat."
        check_interval("diffusivity", self.diffusivity, positive=True, cure=cure)

    def draw(self, *, key: Key) -> tuple[Array, ...]:
        first, second = jax.random.split(key)
        low, high = self.diffusivity
        u = self.grid.impose(self.initial.sample(key=first))
        return u, jax.random.uniform(second, (), u.dtype, low, high)

    def advance(self, u: Field, *parameters: Array) -> Field:
        return _diffuse(self.grid, u, parameters[0], self.interval)

    def terms(self, u: Field, *parameters: Array) -> tuple[Field, ...]:
        return (_diffusion(self.grid, u, parameters[0]),)

    def impose(
        self, solution: SpaceTime, initial: Field, *parameters: Array
    ) -> SpaceTime:
        return jax.vmap(self.grid.impose)(solution).at[0].set(initial)

    @property
    def stacked_shape(self) -> Shape:
        *points, channels = super().stacked_shape
        return (*points, channels + 1)

    def stack(self, fields: Diffusing) -> Stacked:
        image = super().stack(fields)
        constant = jnp.broadcast_to(fields.diffusivity, (*image.shape[:-1], 1))
        return jnp.concatenate([image, constant.astype(image.dtype)], axis=-1)

    def unstack(self, array: Stacked) -> Diffusing:
        solution = self.unstack_solution(array)
        return Diffusing(solution[0], jnp.mean(array[..., -1]), solution)


class SineWave(AbstractRandomField):
    r"""$\sin(2\pi x/L + \phi)$ along the first axis, $\phi$ uniform in $(0, \pi)$."""

    grid: Grid

    def sample(self, *, key: Key) -> Field:
        x = self.grid.coordinates[0] - self.grid.extent[0][0]
        phase = jax.random.uniform(key, (), x.dtype, 0.0, np.pi)
        return jnp.sin(2 * np.pi / self.grid.lengths[0] * x + phase)


def _diffuse(grid: Grid, u: Field, diffusivity: ScalarLike, time: float) -> Field:
    """The field after some time, exactly."""
    transform = Transform(grid)
    power = jnp.asarray(time * transform.squared_frequencies, u.dtype)
    decay = jnp.exp(-jnp.asarray(diffusivity, u.dtype) * power)
    return grid.extend(transform.multiply(decay, grid.restrict(u)))


def _diffusion(grid: Grid, u: Field, diffusivity: ScalarLike) -> Field:
    r"""$\nu\Delta u$, the Laplacian of the trigonometric polynomial."""
    transform = Transform(grid)
    power = jnp.asarray(transform.squared_frequencies, u.dtype)
    rate = -jnp.asarray(diffusivity, u.dtype) * power
    return grid.extend(transform.multiply(rate, grid.restrict(u)))


def _matern(grid: Grid) -> Matern:
    """The default law: with zeros at the sides if one of them is held at zero."""
    held = any(isinstance(side, Dirichlet) for pair in grid.boundary for side in pair)
    return Matern(grid, sides=Dirichlet() if held else Neumann())


def _require_zero_sides(grid: Grid) -> None:
    for side in (side for pair in grid.boundary for side in pair):
        if np.any(np.asarray(side.data) != 0):
            raise ValueError(
                f"the heat equation is solved with zero for the data of its sides, got "
                f"{side}. Subtract a steady solution, and use grid.homogeneous()."
            )
