"""Smooth fields with closed derivatives, and grids whose sides hold their data.

A field is a product of one function of each axis: exp(k x) on a bounded axis and
exp(sin(2 pi x) / 2) on a periodic one. Everything is in NumPy, in float64.
"""

from typing import Any

import numpy as np

from pidax.pde import Dirichlet, Grid, Neumann, Periodic

RATES = (1.0, -0.8, 0.6)
KINDS = {
    "D": (Dirichlet, Dirichlet),
    "N": (Neumann, Neumann),
    "P": (Periodic, Periodic),
    "DN": (Dirichlet, Neumann),
    "ND": (Neumann, Dirichlet),
}


def factor(axis: int, periodic: bool, x, power: int):
    """The factor of one axis, differentiated `power` times, at `x`."""
    if not periodic:
        return RATES[axis] ** power * np.exp(RATES[axis] * x)
    s, c = np.sin(2 * np.pi * x), np.cos(2 * np.pi * x)
    rates = (1.0, np.pi * c, np.pi**2 * (c**2 - 2 * s))
    return rates[power] * np.exp(s / 2)


def field(kinds, xs, powers=None):
    """The field at the coordinates `xs`, differentiated `powers` times along each."""
    powers = powers or (0,) * len(kinds)
    found = 1.0
    for axis, (kind, x, power) in enumerate(zip(kinds, xs, powers, strict=True)):
        found = found * factor(axis, kind == "P", np.asarray(x, float), power)
    return found


def unit(axis: int, ndim: int, power: int = 1) -> tuple[int, ...]:
    """`power` derivatives along one axis and none along the others."""
    return tuple(power * (i == axis) for i in range(ndim))


def grid_of(kinds, shape, layout: Any, data=field) -> Grid:
    """A grid of the unit cube whose sides hold values and slopes of the field."""
    ndim = len(shape)
    bare = tuple((Neumann(), Neumann()) if k != "P" else Periodic() for k in kinds)
    points = [np.asarray(x) for x in Grid(shape, layout=layout, boundary=bare)._points]
    boundary = []
    for axis, kind in enumerate(kinds):
        pair = []
        for end, side in zip((0.0, 1.0), KINDS[kind], strict=True):
            xs = [np.array([end]) if i == axis else x for i, x in enumerate(points)]
            xs = np.meshgrid(*xs, indexing="ij")
            if side is Dirichlet:
                pair.append(Dirichlet(data(kinds, xs).squeeze(axis)))
            elif side is Neumann:
                slope = data(kinds, xs, unit(axis, ndim)).squeeze(axis)
                pair.append(Neumann(slope if end else -slope))
            else:
                pair.append(Periodic())
        boundary.append(tuple(pair))
    return Grid(shape, layout=layout, boundary=tuple(boundary))


def order(errors) -> float:
    """The observed order from the errors on a grid and one twice as fine."""
    coarse, fine = errors
    return float(np.log2(coarse / fine))


def shape_of(kinds, intervals: int, layout: Any) -> tuple[int, ...]:
    """The numbers of points at which every axis has this many intervals."""
    return tuple(intervals + (layout == "nodes" and k != "P") for k in kinds)
