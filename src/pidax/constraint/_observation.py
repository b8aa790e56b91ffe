r"""What is known of the fields at some points, exactly or with noise.

$$ b_i = x_i + s_i \eta_i \quad\text{where } M_i, \qquad \eta_i \sim N(0, 1) $$

Forward and inverse problems and reconstructions differ in the mask $M$ only. Where
$s_i = 0$ the value holds exactly, and projection is to overwrite it.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from ..pde import AbstractEquation, AbstractNormaliser, Grid
from ..types import Key, Scalar, ScalarLike, Shape, Stacked, typed
from ._base import AbstractConstraint
from ._match import check_normaliser
from ._nodes import at_nodes
from ._observed import (
    as_pair,
    channel_size,
    check_told,
    check_units,
    checked_noise,
    checked_values,
    random_mask,
)
from ._place import by_name, field_shapes, place, require_names, stacked_names

Noise: TypeAlias = Real[Array | np.ndarray | float | int, "..."]


class Observation(AbstractConstraint):
    r"""Values of the fields where `mask` is true, with noise of standard deviation.

        Observation.of(darcy, coefficient=a)               # forward: a is known
        Observation.of(darcy, solution=u)                  # inverse: u is known
        Observation.of(darcy, solution=(mask, u), noise=1e-3)
        Observation.of(burgers, initial=u0)                # row 0 of the solution
        Observation.at_points(darcy, points, values, name="solution")
        Observation.at_random(darcy, truth, 0.03, key=key) # to try a method with

    All in the equation's physical units. Its `cost` is the mean over the observed
    entries of $(x_i - b_i)^2$ in units of the noise, and where there is none of the
    root mean square of the channel's observed values.

    **Arguments:**

    - `mask`: true where the stacked fields are observed, `"*grid channel"`.
    - `values`: what was observed, of the same shape; what stands where nothing was
      observed is not looked at, and may be NaN.
    - `noise`: the standard deviation, a number or one for each entry; 0 is exact.
    - `normaliser`: the chart of the model, where this is not joined by `&` to a
      constraint that has it.
    - `grid`: whose points these are, which `of`, `at_points` and `at_random` know; it
      is compared with that of what this is joined to. Of its sides only the kind is
      kept.
    """

    mask: Bool[Array, "*grid channel"]
    values: Float[Array, "*grid channel"]
    noise: Float[Array, "*grid channel"]
    normaliser: AbstractNormaliser | None
    grid: Grid | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        mask: Bool[Array | np.ndarray, "*grid channel"],
        values: Float[Array | np.ndarray, "*grid channel"],
        noise: Noise = 0.0,
        normaliser: AbstractNormaliser | None = None,
        grid: Grid | None = None,
    ):
        mask, values = jnp.asarray(mask), jnp.asarray(values)
        noise = jnp.asarray(noise, values.dtype)
        if noise.shape not in ((), mask.shape):
            raise ValueError(
                f"noise is one standard deviation, or one for each entry, shape "
                f"{mask.shape}, got shape {noise.shape}."
            )
        # What was not observed must not reach a gradient: a NaN times 0 is a NaN.
        noise = jnp.where(mask, jnp.broadcast_to(noise, mask.shape), 0.0)
        values = jnp.where(mask, values, 0.0)
        self.noise = checked_noise(noise)
        self.values = checked_values(mask, values, noise)
        self.mask = mask
        self.normaliser = normaliser
        self.grid = None if grid is None else grid.homogeneous()
        if normaliser is not None:
            check_normaliser(normaliser, mask.shape, self.subject)
            check_units(mask, self.values, normaliser)

    @classmethod
    def of(
        cls,
        equation: AbstractEquation,
        normaliser: AbstractNormaliser | None = None,
        *,
        noise: Noise | Mapping[str, Noise] = 0.0,
        **fields: Any,
    ) -> "Observation":
        """Fields of an equation by name, each `(mask, values)` or `values` everywhere.

        `noise` is for all of them, or a dictionary with that of each in its own units.
        """
        require_names(equation, fields)
        pairs = {n: as_pair(v) for n, v in fields.items()}
        placed = place(equation, pairs, noise)
        check_told(equation, placed.mask)
        return cls(*placed, normaliser, equation.grid)

    @classmethod
    def at_points(
        cls,
        equation: AbstractEquation,
        points: Float[Array | np.ndarray, "point axis"],
        values: Float[Array | np.ndarray, " point"],
        *,
        name: str,
        noise: Noise = 0.0,
        normaliser: AbstractNormaliser | None = None,
        nearest: bool = False,
    ) -> "Observation":
        """A field observed at points of space, given by their coordinates.

        Of the solution of an evolution each point is (time, x, ...). Points must be
        the grid's, to a thousandth of its spacing; `nearest=True` moves each to the
        nearest one, an error of half a spacing at most. `Affine` with rows that
        interpolate has no such error.
        """
        require_names(equation, [name])
        pair = at_nodes(equation, name, points, values, nearest)
        return cls.of(equation, normaliser, noise=noise, **{name: pair})

    @classmethod
    def at_random(
        cls,
        equation: AbstractEquation,
        fields: Any,
        share: float | Mapping[str, float],
        *,
        key: Key,
        names: tuple[str, ...] | None = None,
        noise: Noise | Mapping[str, Noise] = 0.0,
        normaliser: AbstractNormaliser | None = None,
    ) -> "Observation":
        """Observations of true `fields` at random points, with noise drawn for them.

        Of each field in `names` (unless said all that are stacked) exactly
        `round(share * points)` of all points of its grid, without repetition; `share`
        may be a dictionary by name. An array of noise is of one field's shape.
        """
        names = stacked_names(equation) if names is None else names
        require_names(equation, names)
        shapes, pairs = field_shapes(equation), {}
        for i, name in enumerate(names):
            first, second = jax.random.split(jax.random.fold_in(key, i))
            mask = random_mask(name, shapes[name], by_name(share, name), first)
            size = jnp.asarray(by_name(noise, name), float)
            error = size * jax.random.normal(second, mask.shape)
            pairs[name] = (mask, jnp.asarray(getattr(fields, name), float) + error)
        return cls.of(equation, normaliser, noise=noise, **pairs)

    @property
    def shape(self) -> Shape:
        return self.mask.shape

    @property
    def subject(self) -> str:
        where = "" if self.grid is None else f" on {self.grid}"
        return f"the observation of fields of shape {self.mask.shape}{where}"

    @property
    def exact(self) -> Bool[Array, "*grid channel"]:
        """Where a value holds exactly."""
        return self.mask & (self.noise == 0)

    @property
    def noisy(self) -> Bool[Array, "*grid channel"]:
        """Where a value is known up to its noise."""
        return self.mask & (self.noise > 0)

    @property
    def projects(self) -> bool:
        return True

    def residual_of(self, fields: Stacked) -> Array:
        self._check_fields(fields)
        return jnp.where(self.mask, fields - self.values.astype(fields.dtype), 0.0)

    def scale_of(self, fields: Stacked) -> Array:
        self._check_fields(fields)
        own = channel_size(self.values.astype(fields.dtype), self.mask)
        # Observed zeros have no size: that of the field they are observed of.
        theirs = channel_size(fields, jnp.ones_like(self.mask))
        own = jnp.where(own > 0, own, jnp.where(theirs > 0, theirs, 1.0))
        noise = self.noise.astype(fields.dtype)
        return jnp.where(noise > 0, noise, own)

    def cost_of(self, fields: Stacked) -> Scalar:
        """The mean square over the observed entries, in units of the scale."""
        square = jnp.square(self.relative_of(fields))
        return jnp.sum(square) / jnp.maximum(jnp.sum(self.mask), 1).astype(square.dtype)

    def overwrite(self, fields: Stacked) -> Stacked:
        """The fields with every value put in that is known exactly."""
        self._check_fields(fields)
        return jnp.where(self.exact, self.values.astype(fields.dtype), fields)

    def project_fields(self, fields: Stacked) -> Stacked:
        """`overwrite`: noisy values are a matter of likelihood, not of projection."""
        return self.overwrite(fields)

    def perturb(self, *, key: Key, sign: ScalarLike = 1.0) -> "Observation":
        """The same with a draw of its own noise added to the values.

        To minimise against it, from a prior draw, is to sample the posterior
        (randomise, then optimise): exactly so for linear Gaussian problems. `sign`
        multiplies the draw: -1 for the other one of an antithetic pair.
        """
        draw = jax.random.normal(key, self.values.shape, self.values.dtype)
        draw = jnp.asarray(sign, draw.dtype) * draw
        moved = self.values + self.noise * draw
        return eqx.tree_at(lambda o: o.values, self, moved)

    def _check_fields(self, fields):
        if fields.shape != self.mask.shape:
            raise ValueError(
                f"this observation is of stacked fields of shape {self.mask.shape}, "
                f"got fields of shape {fields.shape}. It must be of the grid of the "
                "samples; for a batch, jax.vmap."
            )
