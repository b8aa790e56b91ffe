r"""A uniform grid: the points of a field, and its boundary conditions.

Along an axis of length $L$ with $n$ points,

    nodes, bounded     x_i = i h,        h = L/(n-1)    both ends are points
    cells, bounded     x_i = (i + 1/2) h,  h = L/n      the ends are faces of cells
    periodic           as above, with h = L/n           the last point is not the first

A field on the grid is an array of the grid's shape. On nodes, the points of a Dirichlet
side hold prescribed values and are not *unknowns*. On cells all points are unknowns,
and boundary conditions act through the faces.
"""

import abc
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced
from ..types import ElementwiseLike, Field, FieldLike, Scalar, Shape

AXES = "xyz"


class AbstractSide(eqx.Module):
    """The condition on one side (an end, an edge, a face) of a grid."""

    @property
    @abc.abstractmethod
    def data(self) -> ElementwiseLike:
        """The number or array that the condition prescribes on the side."""

    @abc.abstractmethod
    def homogeneous(self) -> "AbstractSide":
        """The same kind of condition with zero for its data."""


class Dirichlet(AbstractSide):
    r"""$u = g$ on the side, such as a wall at a temperature.

    `value` is $g$: a number, or an array over the points of the side.
    """

    value: ElementwiseLike = 0.0

    @property
    def data(self) -> ElementwiseLike:
        return self.value

    def homogeneous(self) -> "Dirichlet":
        return Dirichlet()


class Neumann(AbstractSide):
    r"""$\partial u / \partial n = g$ on the side, $n$ pointing out of the domain.

    `slope` is $g$: a number, or an array over the points of the side. In the flux form
    $\nabla\cdot(a\nabla u)$ the flux into the domain through the side is $a\, g$.
    """

    slope: ElementwiseLike = 0.0

    @property
    def data(self) -> ElementwiseLike:
        return self.slope

    def homogeneous(self) -> "Neumann":
        return Neumann()


class Periodic(AbstractSide):
    """The side is identified with the opposite one, which must be periodic too."""

    @property
    def data(self) -> ElementwiseLike:
        return 0.0

    def homogeneous(self) -> "Periodic":
        return self


# What may be written for the sides of a grid: one for all, or one or two for each axis.
Sides = AbstractSide | Sequence[AbstractSide | tuple[AbstractSide, AbstractSide]]


class Grid(eqx.Module):
    """A uniform grid of points in one, two or three dimensions, with its sides.

        Grid((64, 64))                                  # unit square, nodes, u = 0
        Grid((64, 64), layout="cells", boundary=Neumann())
        Grid((128,), extent=(-1.0, 1.0), boundary=Periodic())
        Grid((33, 64), boundary=(Dirichlet(), Periodic()))          # by axis
        Grid((33, 33), boundary=((Dirichlet(1.0), Neumann()), Neumann()))   # by side

    `extent` is the interval of every axis, or one interval for each. `boundary` is one
    condition for all sides, or for each axis a condition or a pair (low, high).
    """

    shape: Shape = eqx.field(static=True)
    extent: tuple[tuple[float, float], ...] = eqx.field(static=True)
    layout: Literal["nodes", "cells"] = eqx.field(static=True)
    boundary: tuple[tuple[AbstractSide, AbstractSide], ...]

    def __init__(
        self,
        shape: Sequence[int] | int,
        extent: Sequence[float] | Sequence[Sequence[float]] = (0.0, 1.0),
        *,
        layout: Literal["nodes", "cells"] = "nodes",
        boundary: Sides = Dirichlet(),  # noqa: B008
    ):
        self.shape = _point_numbers(shape)
        self.extent = _intervals(extent, len(self.shape))
        self.layout = layout
        self.boundary = _side_pairs(boundary, len(self.shape))

    def __check_init__(self):
        if not 1 <= self.ndim <= 3:
            raise ValueError(
                f"a grid has one to three axes, got shape={self.shape}. A time axis is "
                "not an axis of the grid: fields of space and time lead with it."
            )
        if self.layout not in ("nodes", "cells"):
            raise ValueError(
                f"layout must be 'nodes' or 'cells', got {self.layout!r}. On nodes the "
                "ends of an axis are points; on cells they are faces."
            )
        for name, n, (low, high) in zip(AXES, self.shape, self.extent, strict=False):
            if n < 3:
                raise ValueError(
                    f"an axis needs at least three points, got {n} along {name}."
                )
            if not low < high < float("inf") or low == float("-inf"):
                raise ValueError(
                    f"the extent of {name} must be an interval (low, high) with "
                    f"low < high, got {(low, high)}."
                )
        for axis, pair in enumerate(self.boundary):
            self._check_sides(axis, pair)

    def _check_sides(self, axis: int, pair: tuple[AbstractSide, AbstractSide]) -> None:
        name = AXES[axis]
        if len({isinstance(side, Periodic) for side in pair}) == 2:
            raise ValueError(
                f"Periodic must hold on both sides of {name}, got {pair[0]} at the low "
                f"and {pair[1]} at the high end. Glue both, or none."
            )
        across = self.shape[:axis] + self.shape[axis + 1 :]
        for end, side in zip(("low", "high"), pair, strict=True):
            got = np.shape(side.data)
            if got not in ((), across):
                raise ValueError(
                    f"the data of the {end} side of {name} must be a number or an "
                    f"array over that side's points, shape {across}, got shape {got}."
                )
            if not is_traced(side.data) and not np.isfinite(side.data).all():
                raise ValueError(
                    f"the data of the {end} side of {name} must be finite, got NaN or "
                    f"infinite values: {side}."
                )

    @property
    def ndim(self) -> int:
        """The number of dimensions of space."""
        return len(self.shape)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """For each axis, whether its two ends are one."""
        return tuple(isinstance(low, Periodic) for low, _ in self.boundary)

    @property
    def lengths(self) -> tuple[float, ...]:
        """The length of the domain along each axis."""
        return tuple(high - low for low, high in self.extent)

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance $h$ of neighbouring points along each axis."""
        return tuple(
            length / (n if periodic or self.layout == "cells" else n - 1)
            for length, n, periodic in zip(
                self.lengths, self.shape, self.periodic, strict=True
            )
        )

    @property
    def points(self) -> tuple[Array, ...]:
        """The coordinates along each axis, one array an axis."""
        return tuple(jnp.asarray(x, float) for x in self._points)

    @property
    def _points(self) -> tuple[np.ndarray, ...]:
        half = 0.5 if self.layout == "cells" else 0.0
        axes = zip(self.shape, self.extent, self.spacing, strict=True)
        return tuple(low + h * (np.arange(n) + half) for n, (low, _), h in axes)

    @property
    def coordinates(self) -> tuple[Field, ...]:
        """The coordinates of every point: a field for each axis."""
        return tuple(
            jnp.asarray(x, float) for x in np.meshgrid(*self._points, indexing="ij")
        )

    @property
    def weights(self) -> Field:
        r"""The volume $w_i$ that belongs to each point: $\sum_i w_i u_i = \int u$.

        Half a cell at the ends of a bounded axis of nodes, a quarter in its corners.
        """
        total = np.ones(())
        for axis in range(self.ndim):
            total = np.multiply.outer(total, self.widths(axis))
        return jnp.asarray(total, float)

    def widths(self, axis: int) -> np.ndarray:
        """The size of each point's control volume along one axis, in float64."""
        w = np.full(self.shape[axis], self.spacing[axis])
        if self.layout == "nodes" and not self.periodic[axis]:
            w[[0, -1]] /= 2
        return w

    def integral(self, u: FieldLike) -> Scalar:
        r"""$\int u$, exact for what is linear between points."""
        return jnp.sum(self.weights.astype(u.dtype) * u)

    def mean(self, u: FieldLike) -> Scalar:
        r"""$\int u \,/ \int 1$."""
        return self.integral(u) / float(np.prod(self.lengths))

    def norm(self, u: FieldLike) -> Scalar:
        r"""$(\int u^2)^{1/2}$."""
        return jnp.sqrt(self.integral(jnp.square(u)))

    @property
    def unknown(self) -> tuple[slice, ...]:
        """The slices of a field in which its values are not prescribed."""
        if self.layout == "cells":
            return (slice(None),) * self.ndim
        return tuple(
            slice(
                1 if isinstance(low, Dirichlet) else 0,
                n - 1 if isinstance(high, Dirichlet) else n,
            )
            for n, (low, high) in zip(self.shape, self.boundary, strict=True)
        )

    @property
    def unknown_shape(self) -> Shape:
        """The shape of a field without its prescribed values."""
        return tuple(s.indices(n)[1] - s.indices(n)[0] for s, n in self._unknowns())

    def _unknowns(self) -> Iterator[tuple[slice, int]]:
        return zip(self.unknown, self.shape, strict=True)

    def restrict(self, u: FieldLike) -> Array:
        """The unknowns of a field."""
        return jnp.asarray(u)[self.unknown]

    def extend(self, inner: Array) -> Field:
        """The field with these unknowns and the prescribed values around them."""
        return self.impose(self.pad(inner))

    def pad(self, inner: Array) -> Field:
        """The field with these unknowns, and zero where values are prescribed."""
        pads = [(s.indices(n)[0], n - s.indices(n)[1]) for s, n in self._unknowns()]
        return jnp.pad(inner, pads)

    def impose(self, u: FieldLike) -> Field:
        """The field `u` with the values of Dirichlet sides put onto its nodes.

        In a corner of two such sides the value of the later axis stands.
        """
        u = jnp.asarray(u)
        if self.layout == "cells":
            return u
        for axis, pair in enumerate(self.boundary):
            for end, side in zip((0, -1), pair, strict=True):
                if isinstance(side, Dirichlet):
                    index = (slice(None),) * axis + (end,)
                    u = u.at[index].set(jnp.asarray(side.value, u.dtype))
        return u

    def homogeneous(self) -> "Grid":
        """The same grid with zero for the data of all its sides."""
        return self.with_boundary(
            tuple((a.homogeneous(), b.homogeneous()) for a, b in self.boundary)
        )

    def with_boundary(self, boundary: Sides) -> "Grid":
        """The same points with other conditions; what is periodic stays so."""
        grid = Grid(self.shape, self.extent, layout=self.layout, boundary=boundary)
        if grid.periodic != self.periodic:
            raise ValueError(
                "with_boundary keeps the points, and a periodic axis has other points "
                f"than a bounded one: the grid's axes are periodic={self.periodic}, "
                f"the new ones {grid.periodic}. Make a new Grid."
            )
        return grid

    def check(self, **fields: FieldLike) -> None:
        """Each named field has a value at every point of this grid."""
        for name, field in fields.items():
            if np.shape(field) != self.shape:
                raise ValueError(
                    f"{name} must have a value at each point of the grid, shape "
                    f"{self.shape}, got shape {np.shape(field)}. Use the grid that the "
                    "field was made on; for a batch, jax.vmap."
                )

    def __repr__(self) -> str:
        kinds = ["/".join(type(s).__name__ for s in pair) for pair in self.boundary]
        return (
            f"Grid({self.shape}, extent={self.extent}, {self.layout}, "
            f"{', '.join(kinds)})"
        )


def _point_numbers(shape: Any) -> Shape:
    """The numbers of points as Python's whole numbers."""
    try:
        return tuple(index(n) for n in ([shape] if np.ndim(shape) == 0 else shape))
    except TypeError:
        raise ValueError(
            f"shape must be whole numbers of points, one for each axis, got {shape!r}."
        ) from None


def _intervals(extent: Sequence[Any], ndim: int) -> tuple[tuple[float, float], ...]:
    """One interval for each axis."""
    try:
        if all(np.ndim(x) == 0 for x in extent):
            extent = (extent,) * ndim
        pairs = tuple((float(low), float(high)) for low, high in extent)
    except (TypeError, ValueError):
        raise ValueError(
            "extent must be an interval (low, high), or one for each axis, got "
            f"{extent!r}. Write extent=(0.0, 1.0); the numbers of points of all axes "
            "come first, in one tuple: Grid((64, 64))."
        ) from None
    if len(pairs) != ndim:
        raise ValueError(
            f"extent must be one interval or one for each of {ndim} axes, got "
            f"{len(pairs)}."
        )
    return pairs


def _side_pairs(
    boundary: Sides, ndim: int
) -> tuple[tuple[AbstractSide, AbstractSide], ...]:
    """A pair of conditions for each axis."""
    if isinstance(boundary, AbstractSide):
        boundary = (boundary,) * ndim
    try:
        pairs = tuple(
            (side, side) if isinstance(side, AbstractSide) else tuple(side)
            for side in boundary
        )
    except TypeError:
        raise ValueError(
            "boundary must be made of Dirichlet(...), Neumann(...) and Periodic(), got "
            f"{boundary!r}. Mind the parentheses: Periodic()."
        ) from None
    if len(pairs) != ndim or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"boundary must be one condition, or for each of {ndim} axes a condition "
            f"or a pair (low, high); got {boundary}."
        )
    for side in (side for pair in pairs for side in pair):
        if not isinstance(side, Dirichlet | Neumann | Periodic):
            raise ValueError(
                f"a side is Dirichlet(...), Neumann(...) or Periodic(), got {side!r}."
            )
    return tuple((pair[0], pair[1]) for pair in pairs)
