r"""What instruments measure, as rows: linear functions of one field on its grid.

$$ y_i = \int k_i(x)\, u_h(x)\, dx = \sum_j w_{ij} u_j $$

$u_h$ is the field between its points, interpolated linearly along each axis (and
extrapolated into the half cell at a wall of a grid of cells). The values at points, the
averages over boxes and along lines are exact for this field, so they are exact for
(multi)linear fields and of second order for smooth ones. Every function returns an
array `"row *grid"` in float64; `Affine.of` puts it into the stacked fields:

    wells = interpolated(grid, [[0.31, 0.44], [0.72, 0.18]])
    Affine.of(darcy, solution=(wells, heads), noise=0.01)
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float

from ..pde import AbstractEvolution, Grid
from ..types import FieldLike, typed

FieldRows = Float[np.ndarray, "row *grid"]
_AXES = "xyz"
_ROUNDING = 1e-6  # of an axis: coordinates in float32
# Exact for cubics: three factors, each linear along the line.
_GAUSS = np.array([-1.0, 1.0]) / np.sqrt(3.0)


@typed
def interpolated(grid: Grid, points: Any) -> FieldRows:
    """The field at points that need not be the grid's: `points` is `"point axis"`.

    Points of the grid have rows of the identity, so that `Affine` is an `Observation`.
    """
    points = _coordinates(grid, points, "points")
    return _products(_interpolation(grid, points))


@typed
def line_averages(grid: Grid, starts: Any, ends: Any) -> FieldRows:
    """The averages along straight lines, such as boreholes: from `starts` to `ends`,
    each `"line axis"`.
    """
    starts = _coordinates(grid, starts, "starts")
    ends = _coordinates(grid, ends, "ends")
    _same_number("a line has a start and an end", starts, ends)
    empty = (starts == ends).all(axis=1)
    if empty.any():
        raise ValueError(
            f"a line has two different ends, got line {empty.argmax()} from "
            f"{tuple(map(float, starts[empty][0]))} to the same point. Values at "
            "points: interpolated(grid, points)."
        )
    return np.stack(
        [_along(grid, *ends_of) for ends_of in zip(starts, ends, strict=True)]
    )


@typed
def box_averages(grid: Grid, low: Any, high: Any) -> FieldRows:
    """The averages over boxes with their sides along the axes: intervals, rectangles
    or cuboids between the corners `low` and `high`, each `"box axis"`.
    """
    low = _coordinates(grid, low, "low")
    high = _coordinates(grid, high, "high")
    _same_number("a box has a low and a high corner", low, high)
    flat = ~(low < high).all(axis=1)
    if flat.any():
        raise ValueError(
            "a box extends from its low to its high corner along every axis, got box "
            f"{flat.argmax()} from {tuple(map(float, low[flat][0]))} to "
            f"{tuple(map(float, high[flat][0]))}. Averages along lines: line_averages."
        )
    means = []
    for axis, ends in enumerate(zip(low.T, high.T, strict=True)):
        some = zip(*ends, strict=True)
        means.append(np.stack([_integral(grid, axis, a, b) / (b - a) for a, b in some]))
    return _products(means)


@typed
def disc_averages(grid: Grid, centres: Any, radius: Any) -> FieldRows:
    """The averages over discs in two dimensions, such as the footprint of a sensor.

    `centres` is `"disc axis"`, `radius` a number or one for each. By quadrature on
    rings: exact for linear fields.
    """
    if grid.ndim != 2:
        raise ValueError(
            f"discs are in two dimensions, got a grid of {grid.ndim}. Take intervals "
            "or cuboids: box_averages(grid, low, high)."
        )
    centres = _coordinates(grid, centres, "centres")
    radii = np.asarray(radius, np.float64)
    if radii.shape not in ((), (len(centres),)) or not (radii > 0).all():
        raise ValueError(
            f"radius is a positive number, or one for each of the {len(centres)} "
            f"centres, got {radius}."
        )
    radii = np.broadcast_to(radii, len(centres))
    for side in (-1, 1):  # the whole disc is in the domain
        _coordinates(grid, centres + side * radii[:, None], "discs")
    return np.stack(
        [_over_disc(grid, c, r) for c, r in zip(centres, radii, strict=True)]
    )


@typed
def integrals(grid: Grid, *densities: FieldLike) -> FieldRows:
    r"""$\int k_i u$ with the grid's weights, a row for each field $k_i$; without any,
    the one row $\int u$.

    A second-order quadrature, as `grid.integral`.
    """
    densities = densities or (np.ones(grid.shape),)
    grid.check(**{f"densities[{i}]": k for i, k in enumerate(densities)})
    weights = np.ones(())
    for axis in range(grid.ndim):
        weights = np.multiply.outer(weights, grid.widths(axis))
    return np.stack([np.asarray(k, np.float64) * weights for k in densities])


@typed
def fluxes(
    grid: Grid,
    axis: Literal["x", "y", "z"],
    at: Any,
    *,
    between: Sequence[Any] | None = None,
    coefficient: Any = 1.0,
) -> FieldRows:
    r"""The flow $-\int a\, \partial u/\partial n\, ds$ through a side or through
    sections, of the solution $u$.

        fluxes(grid, "x", "high")                            # out of the domain
        fluxes(grid, "x", [0.25, 0.5])                       # towards larger x
        fluxes(grid, "x", 0.5, between=[(0.2, 0.4)])         # a part of a section

    **Arguments:**

    - `at`: `"low"` or `"high"`, the side, with $n$ pointing out of the domain; or
      coordinates on the axis, one section each, with $n$ along the axis.
    - `between`: an interval of every other axis; by default all of it.
    - `coefficient`: $a$, a number or a field. It must be known, because rows are
      linear functions of the fields: $a\,\partial u/\partial n$ with an unknown $a$ is
      not. Pass a function as `forward=` to `infer` then.

    The slope is taken of the parabola through the three nearest points. The solver's
    own flux, with a mean of the coefficient between two points, differs in second
    order.
    """
    along = _AXES.index(axis)
    if along >= grid.ndim:
        raise ValueError(
            f"axis is one of {', '.join(_AXES[: grid.ndim])} of this grid, got "
            f"{axis!r}."
        )
    sign, position = _section(grid, along, at)
    other = [i for i in range(grid.ndim) if i != along]
    spans = [grid.extent[i] for i in other] if between is None else list(between)
    if np.shape(spans) not in ((len(other), 2), (0,)) or len(spans) != len(other):
        raise ValueError(
            f"between is an interval (low, high) for each of the {len(other)} other "
            f"axes, got {between}."
        )
    across = np.ones(())
    for i, (low, high) in zip(other, spans, strict=True):
        _inside(grid, i, np.array([low, high]), "between")
        if not low < high:
            raise ValueError(
                f"between is made of intervals with low < high, got {(low, high)}."
            )
        across = np.multiply.outer(across, _integral(grid, i, low, high))
    a = np.asarray(coefficient, np.float64)
    if a.ndim:
        grid.check(coefficient=a)
    a = np.moveaxis(np.broadcast_to(a, grid.shape), along, 0)
    there = np.tensordot(_matrix_along(grid, along, position), a, 1)
    slopes = _slopes(grid, along, position)
    flow = -sign * np.einsum("pi,p...->pi...", slopes, there * across)
    return np.moveaxis(flow, 1, along + 1)


@typed
def at_times(
    equation: AbstractEvolution, rows: FieldRows, times: Any
) -> Float[np.ndarray, "measurement time *grid"]:
    """Rows of the solution of an equation in time: each of `rows` at its own time.

    `times` is a number, or one for each row; interpolated linearly between the rows of
    time that are stored.
    """
    times = np.asarray(times, np.float64)
    equation.grid.check(rows=rows[0])
    if times.shape not in ((), (len(rows),)):
        raise ValueError(
            f"times is a number, or one for each of the {len(rows)} rows, got shape "
            f"{times.shape}. To measure all rows at several times, repeat the rows."
        )
    times = np.broadcast_to(times, len(rows))
    end, steps = float(equation.end), equation.rows - 1
    outside = ~((times >= 0) & (times <= end * (1 + _ROUNDING)))
    if outside.any():
        raise ValueError(
            f"times are expected in [0, {end:g}], got {times[outside][0]:g} (row "
            f"{outside.argmax()}). Time is in the units of the equation."
        )
    hats = _hats(times / end * steps, steps + 1, False)
    return np.einsum("rt,r...->rt...", hats, rows)


def _along(grid: Grid, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The average along one line, by pieces on which the field is a polynomial."""
    cuts = [np.array([0.0, 1.0])]
    for axis, (a, b) in enumerate(zip(start, end, strict=True)):
        if a != b:
            cuts.append((_kinks(grid, axis, min(a, b), max(a, b)) - a) / (b - a))
    t = np.unique(np.clip(np.concatenate(cuts), 0, 1))
    middle, half = (t[1:] + t[:-1]) / 2, np.diff(t) / 2
    nodes = (middle[:, None] + half[:, None] * _GAUSS).ravel()
    points = start + nodes[:, None] * (end - start)
    return _weighted(grid, points, np.repeat(half, len(_GAUSS)))


def _over_disc(grid: Grid, centre: np.ndarray, radius: float) -> np.ndarray:
    """The average over one disc: Gauss points in r^2, equal angles."""
    rings = 4 + int(np.ceil(2 * radius / min(grid.spacing)))
    square, w = np.polynomial.legendre.leggauss(rings)
    r = radius * np.sqrt((square + 1) / 2)
    angle = 2 * np.pi * (np.arange(4 * rings) + 0.5) / (4 * rings)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = centre + (r[:, None, None] * circle).reshape(-1, 2)
    return _weighted(grid, points, np.repeat(w / 2, 4 * rings) / (4 * rings))


def _weighted(grid: Grid, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum over points of a weight times the interpolated field."""
    first, *more = _interpolation(grid, points)
    letters = "ijk"[: grid.ndim]
    terms = ",".join(f"p{letter}" for letter in letters)
    first = weights[:, None] * first
    return np.einsum(f"{terms}->{letters}", first, *more, optimize=True)


def _products(axes: list[np.ndarray]) -> FieldRows:
    """Rows that are products of one function an axis, each "row point"."""
    letters = "ijk"[: len(axes)]
    terms = ",".join(f"p{letter}" for letter in letters)
    return np.einsum(f"{terms}->p{letters}", *axes)


def _interpolation(grid: Grid, points: np.ndarray) -> list[np.ndarray]:
    """For each axis the weights of its points, "point n"."""
    return [_matrix_along(grid, axis, x) for axis, x in enumerate(points.T)]


def _matrix_along(grid: Grid, axis: int, x: np.ndarray) -> np.ndarray:
    steps = (x - _first(grid, axis)) / grid.spacing[axis]
    return _hats(steps, grid.shape[axis], grid.periodic[axis])


def _hats(steps: np.ndarray, n: int, periodic: bool) -> np.ndarray:
    """Linear interpolation at distances from point 0, in spacings: "point n"."""
    nearest = np.rint(steps)  # rounding must not spread a value over two points
    steps = np.where(np.abs(steps - nearest) < _ROUNDING, nearest, steps)
    left = np.floor(steps).astype(int)
    left = left if periodic else np.clip(left, 0, n - 2)
    part, rows = steps - left, np.arange(len(steps))
    weights = np.zeros((len(steps), n))
    weights[rows, left % n] = 1 - part
    weights[rows, (left + 1) % n] = part
    return weights


def _integral(grid: Grid, axis: int, low: float, high: float) -> np.ndarray:
    """The integral of the interpolated field along one axis."""
    edges = np.concatenate([[low], _kinks(grid, axis, low, high), [high]])
    middle = (edges[1:] + edges[:-1]) / 2  # exact: linear between edges
    return np.diff(edges) @ _matrix_along(grid, axis, middle)


def _kinks(grid: Grid, axis: int, low: float, high: float) -> np.ndarray:
    """The points of the grid between two coordinates, with their periodic copies."""
    first, h = _first(grid, axis), grid.spacing[axis]
    inner = np.arange(np.ceil((low - first) / h), np.floor((high - first) / h) + 1)
    return np.clip(first + h * inner, low, high)


def _first(grid: Grid, axis: int) -> float:
    """The coordinate of the first point, in float64."""
    half = 0.5 if grid.layout == "cells" else 0.0
    return grid.extent[axis][0] + half * grid.spacing[axis]


def _slopes(grid: Grid, axis: int, x: np.ndarray) -> np.ndarray:
    """The slope of the parabola through the three points nearest to each x."""
    n, h, periodic = grid.shape[axis], grid.spacing[axis], grid.periodic[axis]
    steps = (x - _first(grid, axis)) / h
    middle = np.rint(steps).astype(int)
    middle = middle if periodic else np.clip(middle, 1, n - 2)
    s, rows, slopes = steps - middle, np.arange(len(x)), np.zeros((len(x), n))
    for offset, weight in ((-1, s - 0.5), (0, -2 * s), (1, s + 0.5)):
        slopes[rows, (middle + offset) % n] = weight / h
    return slopes


def _section(grid: Grid, axis: int, at: Any) -> tuple[float, np.ndarray]:
    """The sign of the normal, and the coordinates of the sections."""
    if isinstance(at, str):
        if at not in ("low", "high") or grid.periodic[axis]:
            raise ValueError(
                f'at is "low" or "high", a side of a bounded axis, or coordinates of '
                f"sections, got {at!r} on {grid}."
            )
        low, high = grid.extent[axis]
        return (-1.0, np.array([low])) if at == "low" else (1.0, np.array([high]))
    position = np.atleast_1d(np.asarray(at, np.float64))
    if position.ndim > 1:
        raise ValueError(
            f"sections are coordinates on one axis, got an array of shape "
            f"{position.shape}."
        )
    _inside(grid, axis, position, "at")
    return 1.0, position


def _coordinates(grid: Grid, given: Any, name: str) -> np.ndarray:
    """Coordinates as an array "row axis", inside the domain."""
    points = np.asarray(given, np.float64)
    if points.ndim != 2 or points.shape[1] != grid.ndim or not len(points):
        raise ValueError(
            f"{name} have the coordinates ({', '.join(_AXES[: grid.ndim])}), expected "
            f"an array of shape (number, {grid.ndim}), got shape {points.shape}. One "
            "row for each, one column an axis."
        )
    for axis, x in enumerate(points.T):
        _inside(grid, axis, x, name)
    return points


def _inside(grid: Grid, axis: int, x: np.ndarray, name: str) -> None:
    """Check that coordinates are in the domain; a periodic axis has no outside."""
    low, high = grid.extent[axis]
    slack = np.inf if grid.periodic[axis] else _ROUNDING * (high - low)
    outside = ~((x >= low - slack) & (x <= high + slack) & np.isfinite(x))
    if outside.any():
        raise ValueError(
            f"{name} must be inside the grid, whose extent is {grid.extent}: expected "
            f"{_AXES[axis]} in [{low:g}, {high:g}], got {x[outside][0]:g} (number "
            f"{outside.argmax()}). Coordinates are in the grid's own units of length."
        )


def _same_number(what: str, first: Array | np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{what}: expected arrays of one shape, got {first.shape} and "
            f"{second.shape}."
        )
