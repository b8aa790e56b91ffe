r"""The mean of a field is prescribed: mass, momentum, charge.

$$ \frac{\sum_i w_i x_i}{\sum_i w_i} = m $$

Its exact projection is to shift all values by one number, the nearest field in the norm
$\sum_i w_i x_i^2$ of the same weights.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from ..pde import AbstractEquation, AbstractEvolution, AbstractNormaliser
from ..types import Stacked, typed
from ._base import AbstractConstraint
from ._place import require_names


class Mean(AbstractConstraint):
    r"""The mean of one channel of the stacked fields, or of each, is `value`.

        Mean.of(darcy, solution=0.0)
        Mean.of(burgers, solution=0.3)      # of every row in time: mass is conserved
        Mean(0.1, channel=0)

    **Arguments:**

    - `value`: the mean, a number; or one for each row that is not averaged over.
    - `channel`: whose mean it is; None for each channel's own.
    - `normaliser`: the chart of the model, unless `&` joins it to one that has it.
    - `axes`: of the stacked array that are averaged over; by default all but channels.
    - `weights`: of the points along those axes; by default equal. A grid's own
      (`grid.weights`) make it the mean of the integral, as `Mean.of` does.
    """

    value: Float[Array, "..."]
    channel: int | None = eqx.field(static=True)
    normaliser: AbstractNormaliser | None
    axes: tuple[int, ...] | None = eqx.field(static=True)
    weights: Float[Array, "..."] | None

    @typed
    def __init__(
        self,
        value: Real[Array | np.ndarray | float | int, "..."],
        channel: int | None = 0,
        normaliser: AbstractNormaliser | None = None,
        *,
        axes: tuple[int, ...] | None = None,
        weights: Float[Array | np.ndarray, "..."] | None = None,
    ):
        self.value = jnp.asarray(value, float)
        self.channel, self.normaliser, self.axes = channel, normaliser, axes
        self.weights = None if weights is None else jnp.asarray(weights)
        if axes is not None and weights is not None and weights.ndim != len(axes):
            raise ValueError(
                f"weights are of the points along the axes {axes}, got an array of "
                f"shape {weights.shape}. One axis of it for each."
            )

    @classmethod
    def of(
        cls,
        equation: AbstractEquation,
        normaliser: AbstractNormaliser | None = None,
        **field: float | Array,
    ) -> "Mean":
        """The mean over space of one field of an equation, by the grid's weights.

        Of the solution of an evolution it is the mean of every row.
        """
        require_names(equation, field)
        if len(field) != 1:
            raise ValueError(
                f"a mean is of one field, got {len(field)}. Join several by &."
            )
        [(name, value)] = field.items()
        grid = equation.grid
        if not isinstance(equation, AbstractEvolution):
            channel, axes = equation.names.index(name), tuple(range(grid.ndim))
        elif name != equation.names[-1]:
            raise ValueError(
                f"of an evolution the mean of the solution is prescribed, got {name}. "
                "Its row 0 is the initial field."
            )
        elif grid.ndim == 1:
            channel, axes = 0, (1,)
        else:
            channel, axes = None, tuple(range(grid.ndim))
        return cls(value, channel, normaliser, axes=axes, weights=grid.weights)

    @property
    def shape(self) -> None:
        return None

    @property
    def subject(self) -> str:
        which = "every channel" if self.channel is None else f"channel {self.channel}"
        return f"the mean of {which}"

    @property
    def projects(self) -> bool:
        return True

    def residual_of(self, fields: Stacked) -> Array:
        part = self.part(fields)
        axes, w = self._weights(part)
        mean = jnp.sum(w * part, axes) / jnp.sum(w, axes)
        return mean - self.value.astype(part.dtype)

    def scale_of(self, fields: Stacked) -> Array:
        """The root mean square of the values: zero is a common mean to prescribe."""
        size = jnp.sqrt(jnp.mean(self.part(fields) ** 2))
        return jnp.where(size > 0, size, 1.0)

    def project_fields(self, fields: Stacked) -> Stacked:
        return self.shift(fields, jnp.ones(fields.shape, bool))

    def shift(self, fields: Stacked, free: Bool[Array, "*grid channel"]) -> Stacked:
        """The fields with one number added to all `free` values, the others kept."""
        part = self.part(fields)
        moves = self.part(free).astype(part.dtype)
        axes, w = self._weights(part)
        total, movable = jnp.sum(w, axes), jnp.sum(w * moves, axes)
        step = -self.residual_of(fields) * total / movable
        new = part + jnp.expand_dims(step, axes) * moves
        if self.channel is None:
            return new
        return fields.at[..., self.channel].set(new)

    def part(self, stacked: Array) -> Array:
        """What of a stacked array is averaged: a channel, or all of them."""
        return stacked if self.channel is None else stacked[..., self.channel]

    def _weights(self, part):
        """The averaged axes, and the weights shaped to be broadcast."""
        points = part.ndim - (self.channel is None)
        axes = tuple(range(points)) if self.axes is None else self.axes
        if self.weights is None:
            return axes, jnp.ones(part.shape, part.dtype)
        sizes = tuple(part.shape[axis] for axis in axes)
        if self.weights.shape != sizes:
            raise ValueError(
                f"the weights of a mean are of {self.weights.shape} points, got fields "
                f"with {sizes} along the averaged axes {axes}. Take those of the grid "
                "of the samples."
            )
        other = tuple(axis for axis in range(part.ndim) if axis not in axes)
        w = jnp.expand_dims(self.weights.astype(part.dtype), other)
        return axes, jnp.broadcast_to(w, part.shape)
