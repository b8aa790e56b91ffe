r"""Linear conditions that hold exactly, and the nearest fields that satisfy them.

$$ A x = b, \qquad \operatorname{proj}(x) = x - A^+ (A x - b) $$

with $A^+$ the pseudo-inverse: the correction has the least norm, and is orthogonal to
the null space of $A$. Rows may be linearly dependent if their values agree. The mean of
a field is such a row,

$$ \frac{\sum_i w_i x_i}{\sum_i w_i} = m, $$

whose projection shifts all values by one number: the nearest field in the norm
$\sum_i w_i x_i^2$ of the same weights.
"""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, require, show
from ..pde import AbstractEquation, AbstractEvolution, AbstractNormaliser, Grid
from ..types import (
    ElementwiseLike,
    Key,
    ScalarLike,
    Shape,
    Stacked,
    WholeLike,
    typed,
)
from ._constraint import AbstractConstraint, Mask
from ._observation import FAR, field_shapes, require_names

_ALIKE = 1e-4  # of the size of a row: weights below are rounding


class Mean(AbstractConstraint):
    """The mean of one channel of the stacked fields, or of each channel, is `value`.

        Mean.of(darcy, solution=0.0)
        Mean.of(burgers, solution=0.3)      # of every row in time: mass is conserved
        Mean(0.1, channel=0)

    **Arguments:**

    - `value`: the mean, a number; or one for each row that is not averaged over.
    - `channel`: the channel; None for every channel.
    - `normaliser`: the coordinates of the model, unless `&` joins the constraint to one
      that has them.
    - `axes`: the axes of the stacked array that are averaged over; by default all but
      the channels.
    - `weights`: of the points along those axes; by default equal. With `grid.weights`
      it is the mean of the integral, as in `Mean.of`.
    """

    value: Float[Array, "..."]
    channel: int | None = eqx.field(static=True)
    normaliser: AbstractNormaliser | None
    axes: tuple[int, ...] | None = eqx.field(static=True)
    weights: Float[Array, "..."] | None

    @typed
    def __init__(
        self,
        value: ElementwiseLike,
        channel: WholeLike | None = 0,
        normaliser: AbstractNormaliser | None = None,
        *,
        axes: tuple[int, ...] | None = None,
        weights: Float[Array | np.ndarray, "..."] | None = None,
    ):
        self.value = jnp.asarray(value, float)
        self.channel = None if channel is None else operator.index(channel)
        self.normaliser, self.axes = normaliser, axes
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
        **field: ElementwiseLike,
    ) -> "Mean":
        """The mean over space of one field of an equation, with the grid's weights.

        For the solution of an equation in time, the mean of every row.
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
        elif name in equation.given:
            raise ValueError(
                f"of an evolution the mean of the solution is prescribed, got {name}. "
                "Its row 0 is the initial field."
            )
        elif grid.ndim == 1:
            channel, axes = equation.unknowns.index(name), (1,)
        elif len(equation.unknowns) > 1:
            raise ValueError(
                f"the mean of a solution in time in {grid.ndim} dimensions is of every "
                f"channel: expected one unknown field, got {equation.unknowns}. Write "
                "the mean of one of them as a residual: px.constraint.from_residual."
            )
        else:
            channel, axes = None, tuple(range(grid.ndim))
        return cls(value, channel, normaliser, axes=axes, weights=grid.weights)

    @property
    def subject(self) -> str:
        which = "every channel" if self.channel is None else f"channel {self.channel}"
        return f"the mean of {which}"

    @property
    def projects(self) -> bool:
        return True

    @property
    def channels(self) -> tuple[int, ...] | None:
        return None if self.channel is None else (self.channel,)

    def residual_of(self, fields: Stacked) -> Array:
        part = self._part(fields)
        axes, w = self._weights(part)
        mean = jnp.sum(w * part, axes) / jnp.sum(w, axes)
        return mean - self.value.astype(part.dtype)

    def scale_of(self, fields: Stacked) -> Array:
        """The root mean square of the values, because zero is a common mean to
        prescribe.
        """
        size = jnp.sqrt(jnp.mean(self._part(fields) ** 2))
        return jnp.where(size > 0, size, 1.0)

    def project_fields(self, fields: Stacked, free: Mask | None = None) -> Stacked:
        """The fields with one number added to all free values; the other
        values stay.
        """
        part = self._part(fields)
        free = jnp.ones(fields.shape, bool) if free is None else free
        moves = self._part(free).astype(part.dtype)
        axes, w = self._weights(part)
        total, movable = jnp.sum(w, axes), jnp.sum(w * moves, axes)
        step = -self.residual_of(fields) * total / movable
        new = part + jnp.expand_dims(step, axes) * moves
        if self.channel is None:
            return new
        return fields.at[..., self.channel].set(new)

    def check_free(self, free: Mask) -> None:
        left = self._part(free)
        axes, _ = self._weights(jnp.ones(left.shape))
        some = left.any(axes).all()
        if not is_traced(some) and not some:
            raise ValueError(
                f"{self.subject} is prescribed where every value is known exactly: "
                "nothing is left to shift. Leave out the one or the other."
            )

    def _part(self, stacked: Array) -> Array:
        """The averaged part of a stacked array: one channel, or all."""
        return stacked if self.channel is None else stacked[..., self.channel]

    def _weights(self, part: Array) -> tuple[tuple[int, ...], Array]:
        """The averaged axes, and the weights in a shape for broadcasting."""
        points = part.ndim - (self.channel is None)
        axes = tuple(range(points)) if self.axes is None else self.axes
        if self.weights is None:
            return axes, jnp.ones(part.shape, part.dtype)
        sizes = tuple(part.shape[axis] for axis in axes)
        if self.weights.shape != sizes:
            raise ValueError(
                f"the weights of a mean are of {self.weights.shape} points, got fields "
                f"with {sizes} along the averaged axes {axes}. Use the weights of "
                "the samples' grid."
            )
        other = tuple(axis for axis in range(part.ndim) if axis not in axes)
        w = jnp.expand_dims(self.weights.astype(part.dtype), other)
        return axes, jnp.broadcast_to(w, part.shape)


class Affine(AbstractConstraint):
    r"""$A x = b$ for stacked fields $x$: fluxes, totals, sensors between points.

        Affine(rows, values)                # holds exactly
        Affine(rows, values, noise=0.01)    # measured: A x = b + noise
        Affine(rows, values, covariance=C)  # with noise that is correlated
        Affine.of(darcy, solution=(interpolated(grid, points), values), noise=0.01)

    **Arguments:**

    - `operator`: an array `"observation *grid channel"`, or a Lineax operator on the
      stacked fields.
    - `values`: $b$, one for each row.
    - `normaliser`: the coordinates of the model, unless `&` joins the constraint to one
      that has them.
    - `noise`: the standard deviation of the values, a number or one for each row; 0 is
      exact. Rows of the identity with noise are the same as an `Observation`.
    - `covariance`: of the noise, `"observation observation"`, in place of `noise`.
      With its Cholesky factor, $C = L L^\top$, rows and values are multiplied by
      $L^{-1}$, after which their noise is independent and of size 1.
    - `grid`: the grid of the fields, which `of` knows. It must equal the grid of
      constraints that are joined.

    The projection is the nearest by least squares over all entries, with channels in
    their own units. It satisfies the exact rows. Values with noise belong to the
    likelihood and are not projected.

    Costs a singular value decomposition of `rows x size` once, when it is made (in the
    precision of the rows), and two products of this size for each projection.
    """

    rows: Float[Array, "observation size"]
    values: Float[Array, " observation"]
    noise: Float[Array, " observation"]
    inverse: Any
    factor: Float[Array, "observation observation"] | None
    event: Shape = eqx.field(static=True)
    normaliser: AbstractNormaliser | None
    grid: Grid | None = eqx.field(static=True)

    @typed
    def __init__(
        self,
        operator: Float[Array | np.ndarray, "observation *grid channel"]
        | lx.AbstractLinearOperator,
        values: Float[Array | np.ndarray, " observation"],
        normaliser: AbstractNormaliser | None = None,
        *,
        noise: ElementwiseLike = 0.0,
        covariance: Float[Array | np.ndarray, "..."] | None = None,
        grid: Grid | None = None,
    ):
        rows, self.event = _matrix(operator)
        b = jnp.asarray(values, rows.dtype)
        if rows.shape[0] != b.shape[0]:
            raise ValueError(
                f"the operator makes {rows.shape[0]} observations, got {b.shape[0]} "
                "values. One value for each row."
            )
        finite = jnp.isfinite(rows).all() & jnp.isfinite(b).all()
        b = require(b, finite, "rows and values of Affine must be finite, got others.")
        deviation = jnp.asarray(noise, rows.dtype)
        if deviation.shape not in ((), b.shape):
            raise ValueError(
                "noise is one standard deviation, or one for each of the "
                f"{b.shape[0]} values, got shape {deviation.shape}. Noise of values "
                "that depend on each other is covariance=."
            )
        deviation = require(
            deviation,
            ((deviation >= 0) & jnp.isfinite(deviation)).all(),
            "noise is a standard deviation, finite and not negative, got the least "
            f"{show(deviation.min())}. 0 is a value that holds exactly.",
        )
        self.factor = None
        if covariance is not None:
            if is_traced(deviation) or bool((deviation != 0).any()):
                raise ValueError(
                    "expected noise or covariance, got both. Independent noise beside "
                    "correlated noise is part of the covariance: add its squares to "
                    "the diagonal."
                )
            inverse, self.factor = _whitening(covariance, b)
            rows, b = inverse @ rows, inverse @ b
            deviation = jnp.ones((), rows.dtype)
        self.rows, self.noise = rows, jnp.broadcast_to(deviation, b.shape)
        self.inverse = lx.SVD().init(lx.MatrixLinearOperator(self._exact_rows), {})
        self.values = self._consistent(b)
        self.normaliser = normaliser
        self.grid = None if grid is None else grid.homogeneous()

    def __check_init__(self):
        if self.normaliser is not None:
            self.check_normaliser(self.normaliser)

    @classmethod
    def of(
        cls,
        equation: AbstractEquation,
        normaliser: AbstractNormaliser | None = None,
        *,
        noise: ElementwiseLike = 0.0,
        covariance: Float[Array | np.ndarray, "..."] | None = None,
        **field: Any,
    ) -> "Affine":
        """Linear functions of one field of an equation: `name=(rows, values)`.

        `rows` is `"observation *field"`, an array of the field's shape for each value:
        `interpolated`, `line_averages`, `box_averages`, `disc_averages`, `integrals`
        or `fluxes` on the grid, and `at_times` of them for a solution in time.
        """
        require_names(equation, field)
        if len(field) != 1:
            raise ValueError(
                f"these rows are of one field, got {len(field)}. Join several by &."
            )
        [(name, pair)] = field.items()
        shape = field_shapes(equation)[name]
        got = np.shape(pair[0]) if isinstance(pair, tuple) and len(pair) == 2 else None
        if got is None or got[1:] != shape or len(got) != len(shape) + 1:
            what = "something else" if got is None else f"rows of shape {got}"
            raise ValueError(
                f"{name} is observed as (rows, values) with rows of shape (number, "
                f"{', '.join(map(str, shape))}), got {what}. Rows on the grid are "
                "made by constraint.interpolated and its like; of a solution in time, "
                "by at_times."
            )
        rows, values = (jnp.asarray(part, float) for part in pair)
        return cls(
            _stacked_rows(equation, name, rows),
            values,
            normaliser,
            noise=noise,
            covariance=covariance,
            grid=equation.grid,
        )

    @property
    def given_rows(self) -> Float[Array, "observation *grid channel"]:
        """The rows as they were passed, before they were multiplied for a
        covariance.
        """
        rows = self.rows if self.factor is None else self.factor @ self.rows
        return rows.reshape(-1, *self.event)

    @property
    def shape(self) -> Shape:
        return self.event

    @property
    def subject(self) -> str:
        return f"{self.rows.shape[0]} linear conditions on fields of shape {self.event}"

    @property
    def projects(self) -> bool:
        return True

    def check_normaliser(self, normaliser: AbstractNormaliser) -> None:
        """Check that it restores to these fields, and that averages are plausible in
        its units, as `Observation` does.

        A row of weights of one sign is a weighted mean times their sum. Of other rows,
        such as fluxes, nothing is known.
        """
        super().check_normaliser(normaliser)
        if is_traced(self.rows, self.values):
            return
        rows, values = np.asarray(self.given_rows), np.asarray(self.values)
        values = values if self.factor is None else np.asarray(self.factor) @ values
        axes = tuple(range(1, rows.ndim))
        total = rows.sum(axes)
        size = np.abs(rows).sum(axes)
        # A whitened row is known to rounding, which may have the other sign.
        alike = (np.abs(total) > (1 - _ALIKE) * size) & (values != 0)
        if not alike.any():
            return
        rows = np.abs(rows[alike])
        means = values[alike] / total[alike]
        held = rows > _ALIKE * rows.max(axes, keepdims=True)
        filled = np.broadcast_to(means.reshape(-1, *(1,) * len(axes)), rows.shape)
        distance = np.asarray(normaliser.distance(jnp.asarray(filled)))
        nearest = np.where(held, distance, np.inf).min(axes)
        beyond = nearest > FAR
        if 2 * beyond.sum() > len(means):
            raise ValueError(
                "averages are expected in the physical units of the equation's fields, "
                f"got {beyond.sum()} of {len(means)} (the first is "
                f"{means[beyond][0]:.3g}) that are more than {FAR:g} standard "
                "deviations from the normaliser's mean, or not positive where its "
                "fields are. Convert values of the model's coordinates, or of another "
                "system of units."
            )

    def residual_of(self, fields: Stacked) -> Float[Array, " observation"]:
        if fields.shape != self.event:
            raise ValueError(
                f"these rows act on stacked fields of shape {self.event}, got fields "
                f"of shape {fields.shape}. For a batch, jax.vmap."
            )
        misfit = self.rows @ fields.ravel().astype(self.rows.dtype) - self.values
        return misfit.astype(fields.dtype)

    def scale_of(self, fields: Stacked) -> Float[Array, " observation"]:
        r"""The noise, and $|A_i|\,|x|$ for exact values: the largest possible value of
        a row for fields of this size.
        """
        x = fields.ravel().astype(self.rows.dtype)
        size = jnp.linalg.norm(self.rows, axis=1) * jnp.linalg.norm(x)
        size = jnp.where(size > 0, size, 1.0)
        return jnp.where(self.noise > 0, self.noise, size).astype(fields.dtype)

    def project_fields(self, fields: Stacked, free: Mask | None = None) -> Stacked:
        misfit = self.residual_of(fields).astype(self.rows.dtype)
        misfit = jnp.where(self.noise > 0, 0.0, misfit)
        if free is None:
            step = self._pseudo(misfit)
        else:
            rows = jnp.where(free.ravel(), self._exact_rows, 0.0)
            operator = lx.MatrixLinearOperator(rows)
            step = lx.linear_solve(operator, misfit, lx.SVD()).value
            step = jnp.where(free.ravel(), step, 0.0)  # exactly, and not to rounding
            off = jnp.abs(rows @ step - misfit).max()
            step = require(
                step,
                off <= self._rounding(misfit),
                f"{self.subject} do not hold for any values of the free entries: the "
                "values that are known exactly contradict them. Leave out the one or "
                "the other, or treat the values as noisy: noise=.",
            )
        return fields - step.reshape(self.event).astype(fields.dtype)

    def perturb(self, *, key: Key, sign: ScalarLike = 1.0) -> "Affine":
        """The same rows with a draw of their own noise added to the values.

        `sign` multiplies the draw: -1 for the second of an antithetic pair.
        """
        draw = jax.random.normal(key, self.values.shape, self.values.dtype)
        draw = jnp.asarray(sign, draw.dtype) * draw
        return eqx.tree_at(lambda a: a.values, self, self.values + self.noise * draw)

    @property
    def _exact_rows(self) -> Array:
        """The rows, with zeros in place of those whose values have noise."""
        return jnp.where(self.noise[:, None] > 0, 0.0, self.rows)

    def _pseudo(self, b: Array) -> Array:
        """The solution of A x = b with the least norm."""
        operator = lx.MatrixLinearOperator(self._exact_rows)
        return lx.linear_solve(operator, b, lx.SVD(), state=self.inverse).value

    def _rounding(self, b: Array) -> Array:
        """The largest distance to b that rounding explains."""
        size = jnp.abs(b).max() * b.size
        return 100 * jnp.finfo(b.dtype).eps * jnp.where(size > 0, size, 1.0)

    def _consistent(self, b: Array) -> Array:
        """The values, after checking that some field has all of the exact ones."""
        exact = jnp.where(self.noise > 0, 0.0, b)
        off = jnp.abs(self._exact_rows @ self._pseudo(exact) - exact).max()
        return require(
            b,
            off <= self._rounding(exact),
            f"no fields satisfy all conditions: rows depend on each other and their "
            f"values differ by {show(off)}. Leave out the rows that repeat others, or "
            "treat the values as noisy: noise=.",
        )


@eqx.filter_jit
def _stacked_rows(equation: AbstractEquation, name: str, rows: Array) -> Array:
    """Rows on one field as rows on the stacked fields: the transpose of `unstack`."""
    zeros = jnp.zeros(equation.stacked_shape, rows.dtype)
    _, back = jax.vjp(lambda x: getattr(equation.unstack(x), name), zeros)
    return jax.vmap(lambda row: back(row)[0])(rows)


def _whitening(covariance: Array | np.ndarray, b: Array) -> tuple[Array, Array]:
    """The inverse of the Cholesky factor of a covariance, and the factor."""
    count = b.shape[0]
    of = jnp if is_traced(covariance) else np
    c = of.asarray(covariance, b.dtype if of is jnp else np.float64)
    if c.shape != (count, count):
        raise ValueError(
            f"the covariance of {count} values has shape {(count, count)}, got "
            f"{c.shape}. Noise that is independent is noise=."
        )
    c = require(
        c,
        of.isfinite(c).all(),
        "the covariance must be finite, got NaN or infinite entries.",
    )
    rounding = count * jnp.finfo(jnp.result_type(covariance)).eps
    skew = of.abs(c - c.T).max()
    c = require(
        c,
        skew <= rounding * of.abs(c).max(),
        f"the covariance must be symmetric, got entries that differ by {show(skew)} "
        "from their mirror images. Symmetrise it: (C + C.T) / 2.",
    )
    eigenvalues = of.linalg.eigvalsh(c)
    least = eigenvalues[0]
    c = require(
        c,
        least > count * of.finfo(c.dtype).eps * of.abs(eigenvalues[-1]),
        "the covariance must be positive definite, got the least eigenvalue "
        f"{show(least)}. Add the independent noise of each value to the diagonal; "
        "values that are functions of others are left out.",
    )
    factor = of.linalg.cholesky(c)
    inverse = of.linalg.inv(factor)
    return jnp.asarray(inverse, b.dtype), jnp.asarray(factor, b.dtype)


def _matrix(
    operator: Array | np.ndarray | lx.AbstractLinearOperator,
) -> tuple[Array, Shape]:
    """The rows as a matrix, and the shape of its argument."""
    if not isinstance(operator, lx.AbstractLinearOperator):
        rows = jnp.asarray(operator)
        return rows.reshape(rows.shape[0], -1), rows.shape[1:]
    structure = operator.in_structure()
    event = getattr(structure, "shape", None)
    if event is None or len(event) < 2:
        raise ValueError(
            'the operator must act on one stacked array, "*grid channel", got '
            f"{structure}. For operators of one field, say which channel it is: "
            "lineax.FunctionLinearOperator(lambda x: operator.mv(x[..., 0]), "
            "jax.ShapeDtypeStruct(shape, dtype))."
        )
    return eqx.filter_jit(lambda a: a.as_matrix())(operator), tuple(event)
