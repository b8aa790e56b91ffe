r"""Functions of an axis, and the integrals against them: dense matrices.

Along an axis of length one, with coordinate $s$, the functions with $k < modes$ are

    fourier   1, sqrt 2 cos 2 pi k s, sqrt 2 sin 2 pi k s         the axis is a circle
    padded    the same on a circle longer by the padding, over which the field is zero
    cosine    1, sqrt 2 cos pi k s                                no slope at the ends
    sine      sqrt 2 sin pi (k + 1) s                             zero at the ends

orthonormal with respect to $\int u v\, ds$. Points of a circle are $s_i = i/n$; of
another axis, on nodes $s_i = i/(n-1)$ with the ends among them, on cells $s_i = (i +
1/2)/n$. Integrals are sums over the points (on nodes by the trapezoidal rule), which
is exact for what the points resolve.
"""

import functools
from typing import Literal, NamedTuple, get_args

import numpy as np

from ._base import require_counts

Basis = Literal["fourier", "padded", "cosine", "sine"]
Layout = Literal["nodes", "cells"]
# With a cosine and a sine of each frequency, which a complex number mixes.
WAVES = ("fourier", "padded")


class Axis(NamedTuple):
    """The functions of one axis, whatever its number of points."""

    basis: Basis
    modes: int
    layout: Layout
    padding: float

    @property
    def waves(self) -> bool:
        """Whether there are a cosine and a sine of each frequency."""
        return self.basis in WAVES

    @property
    def frequencies(self) -> np.ndarray:
        """In periods per axis, one for each of the `modes`."""
        k = np.arange(self.modes)
        match self.basis:
            case "fourier":
                return 1.0 * k
            case "padded":
                return k / (1 + self.padding)
            case "cosine":
                return k / 2
            case "sine":
                return (k + 1) / 2


class Matrices(NamedTuple):
    """`analysis.T @ u` are the coefficients of `u`, `synthesis @ c` is a field."""

    analysis: np.ndarray  # (points, functions), float64
    synthesis: np.ndarray  # (points, functions), float64


def make_axes(
    basis: Basis | tuple[Basis, ...],
    modes: int | tuple[int, ...],
    *,
    dims: int,
    layout: Layout,
    padding: float,
) -> tuple[Axis, ...]:
    """One description for each axis of the grid; what is one word is for all."""
    bases = (basis,) * dims if isinstance(basis, str) else tuple(basis)
    counts = (modes,) * dims if isinstance(modes, int) else tuple(modes)
    for name, given in (("basis", bases), ("modes", counts)):
        if len(given) != dims:
            raise ValueError(
                f"{name} must be one for all axes or one for each of the {dims}, got "
                f"{given}. Give a tuple of the length dims={dims}."
            )
    for one in bases:
        if one not in get_args(Basis):
            raise ValueError(
                f"basis must be one of {get_args(Basis)}, got {one!r}. Use 'fourier' "
                "for a periodic axis, 'padded' for any other, 'cosine' or 'sine' for "
                "fields without slope or without value at its ends."
            )
    for count in counts:
        require_counts(modes=count)
    if layout not in get_args(Layout):
        raise ValueError(
            f"layout must be one of {get_args(Layout)}, got {layout!r}. On nodes the "
            "ends of an axis are among its points, on cells half a step outside."
        )
    if not 0 < padding < np.inf:
        raise ValueError(
            f"padding must be positive and finite, got padding={padding}. It is the "
            "fraction of a padded axis that is added to it: 0.25 for a quarter."
        )
    return tuple(
        Axis(one, count, layout, float(padding))
        for one, count in zip(bases, counts, strict=True)
    )


@functools.lru_cache(maxsize=256)
def matrices(axis: Axis, points: int) -> Matrices:
    """The functions of an axis at its points, made once."""
    highest = axis.frequencies[-1]
    circle = axis.basis == "fourier"
    steps = points - 1 if axis.layout == "nodes" and not circle else points
    # Strictly: at half the points the sine vanishes, and twice the cosine is its norm.
    if 2 * highest >= steps:
        raise ValueError(
            f"modes={axis.modes} of the basis {axis.basis!r} need an axis of at least "
            f"{int(2 * highest) + 1 + points - steps} points, got {points}. Use fewer "
            "modes, or a finer grid."
        )
    places = positions(points, axis.layout, circle)
    turns = np.outer(places, axis.frequencies) % 1.0
    wave = {"cosine": (np.cos,), "sine": (np.sin,)}.get(axis.basis, (np.cos, np.sin))
    size = np.where(axis.frequencies == 0, 1.0, np.sqrt(2.0))
    synthesis = np.concatenate([size * f(2 * np.pi * turns) for f in wave], axis=1)
    weights = np.full(points, 1.0 / steps)
    if steps < points:
        weights[[0, -1]] /= 2
    length = 1 + axis.padding if axis.basis == "padded" else 1.0
    return Matrices(weights[:, None] / length * synthesis, synthesis)


def positions(points: int, layout: Layout, circle: bool) -> np.ndarray:
    """Where the points of an axis of length one are; on a circle, from 0 up to 1."""
    if circle:
        return np.arange(points) / points
    if layout == "cells":
        return (np.arange(points) + 0.5) / points
    return np.arange(points) / max(points - 1, 1)
