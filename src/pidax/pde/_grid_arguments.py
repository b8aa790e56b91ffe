"""What may be written for a grid: one thing for all axes, or one for each."""

from collections.abc import Sequence
from operator import index

import numpy as np

from ._boundary import AbstractSide, Dirichlet, Neumann, Periodic

Sides = AbstractSide | Sequence[AbstractSide | tuple[AbstractSide, AbstractSide]]


def point_numbers(shape):
    """The numbers of points as Python's whole numbers."""
    try:
        return tuple(index(n) for n in ([shape] if np.ndim(shape) == 0 else shape))
    except TypeError:
        raise ValueError(
            f"shape must be whole numbers of points, one for each axis, got {shape!r}."
        ) from None


def intervals(extent, ndim):
    """One interval for each axis."""
    try:
        if all(np.ndim(x) == 0 for x in extent):
            extent = (extent,) * ndim
        pairs = tuple((float(low), float(high)) for low, high in extent)  # type: ignore[misc]
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


def side_pairs(boundary, ndim):
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
