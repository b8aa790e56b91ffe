"""From coordinates of points to the points of a grid."""

import numpy as np

from ..pde import AbstractEquation, AbstractEvolution
from ._place import field_shapes

_CLOSE = 1e-3  # of the spacing: what rounding and printed coordinates may differ by


def at_nodes(
    equation: AbstractEquation, name: str, points, values, nearest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The mask and values of a field observed at points, each at a node of its own."""
    shape = field_shapes(equation)[name]
    axes = _axes(equation, shape)
    points, values = np.asarray(points, np.float64), np.asarray(values)
    if not axes or points.shape[1] != len(axes):
        labels = ", ".join(axis[0] for axis in axes) or "none: it is one number"
        raise ValueError(
            f"the points of {name} have the coordinates ({labels}), got points of "
            f"shape {points.shape}. One row for each point, one column an axis."
        )
    index = tuple(_indices(axis, points[:, i], nearest) for i, axis in enumerate(axes))
    _check_distinct(index, shape, points)
    mask, field = np.zeros(shape, bool), np.zeros(shape)
    mask[index], field[index] = True, values
    return mask, field


def _axes(equation, shape):
    """(label, interval, points, spacing, periodic) of each axis of a field."""
    grid = equation.grid
    labels = zip("xyz", grid.extent, grid._points, grid.spacing, grid.periodic)  # noqa: B905
    axes = list(labels) if shape else []
    if isinstance(equation, AbstractEvolution) and len(shape) > grid.ndim:
        rows = np.linspace(0.0, equation.end, equation.rows)
        axes = [("time", (0.0, equation.end), rows, equation.interval, False), *axes]
    return axes


def _indices(axis, x, nearest):
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
            "nearest=True to move each point to the nearest one, or an Affine "
            "constraint whose rows interpolate."
        )
    return index.astype(int) % n


def _check_distinct(index, shape, points):
    """No two points are the same node."""
    flat = np.ravel_multi_index(index, shape)
    _, first, counts = np.unique(flat, return_index=True, return_counts=True)
    if (counts > 1).any():
        again = first[counts > 1][0]
        raise ValueError(
            f"two or more points are one point of the grid, near "
            f"{tuple(map(float, points[again]))}: each point has one value. Average "
            "them, and divide their noise by the root of their number."
        )
