r"""Observations of fields at some points, exact or with noise.

$$ b_i = x_i + s_i \eta_i \quad\text{where } M_i, \qquad \eta_i \sim N(0, 1) $$

Forward and inverse problems and reconstructions differ in the mask $M$ only. Where
$s_i = 0$ the value is exact, and the projection writes it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import is_traced, require, show
from ..pde import AbstractEquation, AbstractEvolution, AbstractNormaliser, Grid
from ..types import ElementwiseLike, Key, Scalar, ScalarLike, Shape, Stacked, typed
from ._constraint import AbstractConstraint, Mask, Pinned

FAR = 20.0  # standard deviations from the mean: values in other units
_CLOSE = 1e-3  # of the spacing: rounding of printed coordinates


class Observation(AbstractConstraint):
    """Values of the fields where `mask` is true, with noise of a standard deviation.

        Observation.of(darcy, coefficient=a)               # forward: a is known
        Observation.of(darcy, solution=u)                  # inverse: u is known
        Observation.of(darcy, solution=(mask, u), noise=1e-3)
        Observation.of(burgers, initial=u0)                # row 0 of the solution
        Observation.at_points(darcy, points, values, name="solution")
        Observation.at_random(darcy, truth, 0.03, key=key) # to test a method

    All values are in the physical units of the equation. The `cost` is the mean over
    the observed entries of $(x_i - b_i)^2$ in units of the noise, or, for exact values,
    of the root mean square of the observed values of the channel.

    **Arguments:**

    - `mask`: true where the stacked fields are observed, `"*grid channel"`.
    - `values`: the observed values, of the same shape. Other entries are ignored, and
      may be NaN.
    - `noise`: the standard deviation, a number or one for each entry; 0 is exact.
    - `normaliser`: the coordinates of the model, unless `&` joins the observation to a
      constraint that has them.
    - `grid`: the grid of the points, which `of`, `at_points` and `at_random` know. It
      must equal the grid of constraints that are joined. Only the kinds of its boundary
      conditions are kept.
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
        noise: ElementwiseLike = 0.0,
        normaliser: AbstractNormaliser | None = None,
        grid: Grid | None = None,
    ):
        # NumPy computes at once what JAX would compile, one small program each.
        of = jnp if is_traced(mask, values, noise) else np
        mask, values = of.asarray(mask), of.asarray(values, jnp.result_type(values))
        noise = of.asarray(noise, values.dtype)
        if noise.shape not in ((), mask.shape):
            raise ValueError(
                f"noise is one standard deviation, or one for each entry, shape "
                f"{mask.shape}, got shape {noise.shape}."
            )
        # Values that were not observed must not reach a gradient: NaN times 0 is NaN.
        zero = of.zeros((), values.dtype)
        noise = of.where(mask, of.broadcast_to(noise, mask.shape), zero)
        values = of.where(mask, values, zero)
        noise = require(
            noise,
            ((noise >= 0) & of.isfinite(noise)).all(),
            "noise is a standard deviation, finite and not negative, got the least "
            f"{show(noise.min())}. 0 is a value that holds exactly.",
        )
        bad = ~of.isfinite(values)
        for fine, message in (
            (
                mask.any(),
                "the mask observes nothing: expected at least one entry that is true. "
                "Without observations, sample the student.",
            ),
            (
                ~(mask & (noise == 0)).all(),
                "the mask observes everything, exactly: nothing is left to generate. "
                "Leave a field unobserved, or say the noise of the values.",
            ),
            (
                ~bad.any(),
                f"observed values must be finite, got NaN or infinity in "
                f"{show(bad.sum())} of {show(mask.sum())} entries where the mask is "
                "true. Values that are missing are not observed: "
                "mask=np.isfinite(values).",
            ),
        ):
            values = require(values, fine, message)
        self.mask, self.values = jnp.asarray(mask), jnp.asarray(values)
        self.noise = jnp.asarray(noise)
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
        noise: ElementwiseLike | Mapping[str, ElementwiseLike] = 0.0,
        **fields: Any,
    ) -> "Observation":
        """Fields of an equation by name, each `(mask, values)`, or `values`
        everywhere.

        `noise` is a number for all fields, or a dictionary with a value for each in its
        own units.
        """
        mask, values, deviation = _place(equation, fields, noise)
        _check_told(equation, mask)
        return cls(mask, values, deviation, normaliser, equation.grid)

    @classmethod
    def at_points(
        cls,
        equation: AbstractEquation,
        points: Float[Array | np.ndarray, "point axis"],
        values: Float[Array | np.ndarray, " point"],
        *,
        name: str,
        noise: ElementwiseLike = 0.0,
        normaliser: AbstractNormaliser | None = None,
        nearest: bool = False,
    ) -> "Observation":
        """A field observed at points of space, by their coordinates.

        For the solution of an equation in time each point is (time, x, ...). Points
        must be points of the grid, to a thousandth of its spacing. `nearest=True` moves
        each point to the nearest one, an error of at most half a spacing. `Affine.of`
        with rows from `interpolated` avoids this error.
        """
        require_names(equation, [name])
        pair = _at_nodes(equation, name, points, values, nearest)
        return cls.of(equation, normaliser, noise=noise, **{name: pair})

    @classmethod
    def at_random(
        cls,
        equation: AbstractEquation,
        fields: Any,
        share: ScalarLike | Mapping[str, ScalarLike],
        *,
        key: Key,
        names: tuple[str, ...] | None = None,
        noise: ElementwiseLike | Mapping[str, ElementwiseLike] = 0.0,
        normaliser: AbstractNormaliser | None = None,
    ) -> "Observation":
        """Observations of true `fields` at random points, with random noise.

        For each field in `names` (by default all that are stacked) exactly `round(share
        * points)` points of its grid, without repetition. `share` may be a dictionary
        by name. An array of noise has the shape of one field.
        """
        if names is None:  # of an evolution, its solution
            evolution = isinstance(equation, AbstractEvolution)
            names = equation.unknowns if evolution else equation.names
        require_names(equation, names)
        shapes, pairs = field_shapes(equation), {}
        for i, name in enumerate(names):
            first, second = jax.random.split(jax.random.fold_in(key, i))
            size, part = int(np.prod(shapes[name])), _by_name(share, name)
            count = round(float(part) * size)
            if not 0 < count <= size:
                raise ValueError(
                    f"share is the part of the points of {name} that is observed, "
                    f"expected at least one and at most all of {size}, got {part} of "
                    f"them: {count}."
                )
            deviation = jnp.asarray(_by_name(noise, name), float)
            truth = jnp.asarray(getattr(fields, name), float)
            pairs[name] = _drawn(truth, deviation, count, first, second)
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
        """Where a value is exact."""
        return self.mask & (self.noise == 0)

    @property
    def noisy(self) -> Bool[Array, "*grid channel"]:
        """Where a value has noise."""
        return self.mask & (self.noise > 0)

    @property
    def projects(self) -> bool:
        return True

    @property
    def pinned(self) -> Pinned:
        return Pinned(self.exact, self.values)

    def check_normaliser(self, normaliser: AbstractNormaliser) -> None:
        """Check that it restores to these fields, and that the values are plausible in
        its units.

        Values that are far too small are not noticed, because fields may be small at a
        few points.
        """
        super().check_normaliser(normaliser)
        mask, values = self.mask, self.values
        if is_traced(mask, values):
            return
        far = np.asarray(normaliser.distance(values)) > FAR
        seen = np.asarray(mask & (values != 0))  # zero is zero in all units
        axes = tuple(range(seen.ndim - 1))
        count, beyond = seen.sum(axes), (far & seen).sum(axes)
        for channel in np.flatnonzero(2 * beyond > count):
            example = values[..., channel][seen[..., channel]][0]
            raise ValueError(
                "observed values are expected in the physical units of the equation's "
                f"fields, got {beyond[channel]} of {count[channel]} values of channel "
                f"{channel} (the first is {example:.3g}) that are more than {FAR:g} "
                "standard deviations from the normaliser's mean, or not positive where "
                "its fields are. Values of the model's coordinates must be restored, "
                "normaliser.restore(x); values of another system of units converted."
            )

    def residual_of(self, fields: Stacked) -> Array:
        self._check_fields(fields)
        return jnp.where(self.mask, fields - self.values.astype(fields.dtype), 0.0)

    def scale_of(self, fields: Stacked) -> Array:
        self._check_fields(fields)
        own = _channel_size(self.values.astype(fields.dtype), self.mask)
        # Observed zeros have no size: use the size of the field.
        theirs = _channel_size(fields, jnp.ones_like(self.mask))
        own = jnp.where(own > 0, own, jnp.where(theirs > 0, theirs, 1.0))
        noise = self.noise.astype(fields.dtype)
        return jnp.where(noise > 0, noise, own)

    def cost_of(self, fields: Stacked) -> Scalar:
        """The mean square over the observed entries, in units of the scale."""
        square = jnp.square(self.relative_of(fields))
        return jnp.sum(square) / jnp.maximum(jnp.sum(self.mask), 1).astype(square.dtype)

    def project_fields(self, fields: Stacked, free: Mask | None = None) -> Stacked:
        """The fields with all exact values written over them.

        Noisy values belong to the likelihood and are not projected.
        """
        self._check_fields(fields)
        where = self.exact if free is None else self.exact & free
        return jnp.where(where, self.values.astype(fields.dtype), fields)

    def perturb(self, *, key: Key, sign: ScalarLike = 1.0) -> "Observation":
        """The same observation with a draw of its own noise added to the values.

        Minimising against it, from a prior draw, is randomised maximum likelihood: a
        sample of the posterior for linear Gaussian problems, approximate for others.
        `sign` multiplies the draw: -1 for the second of an antithetic pair.
        """
        draw = jax.random.normal(key, self.values.shape, self.values.dtype)
        draw = jnp.asarray(sign, draw.dtype) * draw
        moved = self.values + self.noise * draw
        return eqx.tree_at(lambda o: o.values, self, moved)

    def _check_fields(self, fields: Stacked) -> None:
        if fields.shape != self.mask.shape:
            raise ValueError(
                f"this observation is of stacked fields of shape {self.mask.shape}, "
                f"got fields of shape {fields.shape}. It must be of the grid of the "
                "samples; for a batch, jax.vmap."
            )


def field_shapes(equation: AbstractEquation) -> dict[str, Shape]:
    """The shape of each field by name, without solving."""
    image = jax.ShapeDtypeStruct(equation.stacked_shape, jnp.result_type(float))
    fields = jax.eval_shape(equation.unstack, image)
    return {name: getattr(fields, name).shape for name in equation.names}


def require_names(equation: AbstractEquation, names: Any) -> None:
    """Check that each is the name of a field."""
    wrong = [name for name in names if name not in equation.names]
    if wrong:
        raise ValueError(
            f"{type(equation).__name__} has the fields {', '.join(equation.names)}, "
            f"got {', '.join(map(str, wrong))}."
        )


def _by_name(given: Any, name: str, default: float = 0.0) -> Any:
    """The value for a field, if each has its own, or the one for all."""
    return given.get(name, default) if isinstance(given, Mapping) else given


def _place(
    equation: AbstractEquation, fields: Mapping[str, Any], noise: Any
) -> tuple[Array, Array, Array]:
    """The stacked mask, values and noise of fields: (mask, values), or values."""
    require_names(equation, fields)
    require_names(equation, noise if isinstance(noise, Mapping) else ())
    shapes, placed = field_shapes(equation), {}
    for name, given in fields.items():
        seen, value = _pair(name, given, shapes[name])
        deviation = jnp.asarray(_by_name(noise, name), float)
        placed[name] = jnp.asarray(seen, bool), jnp.asarray(value, float), deviation
    mask, values, spread, twice = _stacked(equation, placed)
    for name, count in twice.items():
        values = require(
            values,
            count == 0,
            f"{show(count)} points are observed twice, the second time as {name}, "
            "with other values. Observe each point once; the initial field is row 0 of "
            "the solution.",
        )
    return mask, values, spread


@eqx.filter_jit
def _stacked(
    equation: AbstractEquation, placed: dict[str, tuple[Array, Array, Array]]
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Mask, values, noise, and the number of points of each field that were known
    twice.
    """
    zeros = {name: jnp.zeros(s) for name, s in field_shapes(equation).items()}

    def put(name: str, array: Array) -> Stacked:
        """A field in the stacked array, with zero for everything else."""
        fields = equation.Fields(**{**zeros, name: array})
        if isinstance(equation, AbstractEvolution) and name in equation.given:
            # They are seen where the solution starts from them.
            initial, parameters, u = equation.split(fields)
            u = equation.impose(u, initial, *parameters)
            fields = equation.join(initial, parameters, u)
        return equation.stack(fields)

    values = spread = jnp.zeros(equation.stacked_shape)
    mask, twice = values > 0, {}
    for name, (seen, value, deviation) in placed.items():
        new = put(name, jnp.where(seen, 1.0, 0.0)) > 0
        value = put(name, jnp.where(seen, value, 0.0))
        twice[name] = (new & mask & (value != values)).sum()
        values = jnp.where(new, value, values)
        spread = jnp.where(new, put(name, jnp.where(seen, deviation, 0.0)), spread)
        mask = mask | new
    return mask, values, spread, twice


@eqx.filter_jit
def _drawn(
    truth: Array, deviation: Array, count: int, first: Key, second: Key
) -> tuple[Array, Array]:
    """A mask of `count` points, without repetition, and values with their noise."""
    chosen = jax.random.choice(first, truth.size, (count,), replace=False)
    mask = jnp.zeros(truth.size, bool).at[chosen].set(True).reshape(truth.shape)
    return mask, truth + deviation * jax.random.normal(second, truth.shape)


def _pair(name: str, given: Any, shape: Shape) -> tuple[Any, Any]:
    """The mask and the values of a field, checked."""
    if not isinstance(given, tuple):
        given = np.ones(np.shape(given), bool), given
    if len(given) != 2:
        raise ValueError(
            "a field is observed as (mask, values) or as values alone, got "
            f"{len(given)} entries. Noise is noise=, by name if it differs."
        )
    mask, values = given
    got = (np.shape(mask), np.shape(values))
    if got != (shape, shape):
        raise ValueError(
            f"the observations of {name} are a mask and values of the field's shape "
            f"{shape}, got a mask of shape {got[0]} and values of shape {got[1]}. They "
            "must be on the equation's grid; points by their coordinates: "
            "Observation.at_points."
        )
    kind, other = jnp.asarray(mask).dtype, jnp.asarray(values).dtype
    truth = lambda dtype: jnp.issubdtype(dtype, jnp.bool_)
    fine = truth(kind) or jnp.issubdtype(kind, jnp.integer)
    if fine and not is_traced(mask):
        fine = bool(np.isin(np.asarray(mask), (0, 1)).all())
    if not fine or truth(other):
        raise ValueError(
            f"the observations of {name} are (mask, values), in this order: expected "
            "a mask of booleans, or of 0 and 1 as integers, and then numbers, got "
            f"{kind} and then {other}. Pass {name}=(mask, values); a mask of other "
            "numbers as mask > 0."
        )
    return mask, values


def _check_told(equation: AbstractEquation, mask: Array) -> None:
    """Check that some observed point is not one where the solution is prescribed
    anyway.

    For equations whose fields are stacked by channel, on the grid itself.
    """
    grid = equation.grid
    shape = (*grid.shape, len(equation.names))
    if is_traced(mask) or mask.shape != shape:
        return
    prescribed = np.ones(grid.shape, bool)
    prescribed[grid.unknown] = False
    known = [prescribed & (name in equation.unknowns) for name in equation.names]
    seen = np.asarray(mask)
    if seen.any() and not (seen & ~np.stack(known, axis=-1)).any():
        raise ValueError(
            f"all {int(seen.sum())} observed points are on Dirichlet sides of {grid}, "
            f"where {type(equation).__name__} prescribes its solution: they tell "
            "nothing of a sample. Observe points inside, or put these values into the "
            "boundary of the grid."
        )


class _Axis(NamedTuple):
    """One axis of a field: its interval, and its points."""

    label: str
    interval: tuple[float, float]
    nodes: np.ndarray
    spacing: float
    periodic: bool


def _at_nodes(
    equation: AbstractEquation,
    name: str,
    points: Array | np.ndarray,
    values: Array | np.ndarray,
    nearest: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The mask and values of a field observed at points, each at its own node."""
    shape, grid = field_shapes(equation)[name], equation.grid
    own = zip("xyz", grid.extent, grid._points, grid.spacing, grid.periodic)  # noqa: B905
    axes = [_Axis(*axis) for axis in own] if shape else []
    if isinstance(equation, AbstractEvolution) and len(shape) > grid.ndim:
        rows = np.linspace(0.0, equation.end, equation.rows)
        interval = 0.0, equation.end
        axes = [_Axis("time", interval, rows, equation.interval, False), *axes]
    points, values = np.asarray(points, np.float64), np.asarray(values)
    if not axes or points.shape[1] != len(axes):
        labels = ", ".join(axis.label for axis in axes) or "none: it is one number"
        raise ValueError(
            f"the points of {name} have the coordinates ({labels}), got points of "
            f"shape {points.shape}. One row for each point, one column an axis."
        )
    index = tuple(_indices(axis, points[:, i], nearest) for i, axis in enumerate(axes))
    flat = np.ravel_multi_index(index, shape)
    _, first, counts = np.unique(flat, return_index=True, return_counts=True)
    if (counts > 1).any():
        again = first[counts > 1][0]
        raise ValueError(
            f"two or more points are one point of the grid, near "
            f"{tuple(map(float, points[again]))}: each point has one value. Average "
            "them, and divide their noise by the root of their number."
        )
    mask, field = np.zeros(shape, bool), np.zeros(shape)
    mask[index], field[index] = True, values
    return mask, field


def _indices(axis: _Axis, x: np.ndarray, nearest: bool) -> np.ndarray:
    """The index of the node at each coordinate along one axis."""
    label, (low, high), nodes, h, periodic = axis
    n = len(nodes)
    slack = _CLOSE * h
    outside = ~((x >= low - slack) & (x <= high + slack))  # and what is NaN
    if not periodic and outside.any():
        worst = np.flatnonzero(outside)[0]
        raise ValueError(
            f"{outside.sum()} of {x.size} points are outside the domain: expected "
            f"{label} in [{low:g}, {high:g}], got {label} = {x[worst]:g} (point "
            f"{worst}). Coordinates are in the grid's own units of length."
        )
    steps = (x - nodes[0]) / h
    index = np.rint(steps)
    index = index if periodic else np.clip(index, 0, n - 1)
    off = np.abs(steps - index)
    if off.max() > _CLOSE and not nearest:
        worst = off.argmax()
        raise ValueError(
            f"points must be the grid's: {label} = {x[worst]:g} (point {worst}) is "
            f"{off[worst]:.2g} spacings from the nearest, {nodes[0]:g} + {h:g} i. Pass "
            "nearest=True to move each point to the nearest one, or Affine.of with "
            "rows of constraint.interpolated."
        )
    return index.astype(int) % n


def _channel_size(values: Array, mask: Array) -> Array:
    """Root mean square by channel, over the entries of the mask."""
    axes = tuple(range(values.ndim - 1))
    square = jnp.sum(jnp.where(mask, values**2, 0.0), axes)
    mean = square / jnp.maximum(mask.sum(axes), 1).astype(values.dtype)
    return jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
