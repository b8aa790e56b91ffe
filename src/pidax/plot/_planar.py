"""Sets of points of the plane, side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..types import typed
from ._axes import COLOURS, require_drawable, require_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 4  # panels in a row, unless asked otherwise
_MANY = 5000  # points from which on a file of vectors holds them as pixels


@typed
def samples(
    sets: Mapping[str, Float[Array | np.ndarray, "_ 2"]],
    *,
    columns: int | None = None,
    limits: tuple[float | int, float | int] | None = None,
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """Sets of samples in the plane: one panel each, all with the same limits.

    **Arguments:**

    - `sets`: by label, for example data, teacher and student.
    - `columns`: panels in a row. Default: at most 4.
    - `limits`: of both components. Default: what holds all samples of all sets. A
      panel says how many of its samples lie outside.
    - `axes`: the Matplotlib axes to draw on, one for each set; `columns` is then not
      used.

    **Returns:** the axes, in the order of the sets.
    """
    points = {label: np.asarray(some, float) for label, some in sets.items()}
    _require_planar(points)
    if axes is None:
        panels = panels_of(len(points), columns)
    else:
        panels = list(axes)
        require(
            None,
            len(panels) == len(points),
            f"axes must hold one for each set, {len(points)} in all, got "
            f"{len(panels)}. Leave axes out for a new figure.",
        )
    if limits is not None:
        require_limits(limits)
    window = np.array([limits, limits]) if limits else _window(points)
    for ax, (label, some) in zip(panels, points.items(), strict=True):
        _panel(ax, label, some, window)
    return panels


def _panel(ax: "Axes", label: str, points: np.ndarray, window: np.ndarray) -> None:
    count = len(points)
    ax.plot(
        *points.T,
        "o",
        ms=float(np.clip(60 / np.sqrt(count), 1.2, 4)),
        mew=0,
        alpha=float(np.clip(15 / np.sqrt(count), 0.15, 0.7)),
        color=COLOURS[0],
        rasterized=count >= _MANY,
    )
    ax.set(xlim=window[0], ylim=window[1], aspect="equal")
    ax.set_title(label, size=9)
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.tick_params(labelsize=7)
    inside = (points >= window[:, 0]) & (points <= window[:, 1])
    outside = count - int(inside.all(axis=1).sum())
    if outside:
        text, corner = f"{outside} of {count} outside", ax.transAxes
        ax.text(0.97, 0.03, text, ha="right", va="bottom", size=7, transform=corner)


def panels_of(count: int, columns: int | None = None) -> "list[Axes]":
    """New axes in rows; those left over in the last row are not drawn."""
    columns = min(count, _ACROSS if columns is None else columns)
    require(
        None,
        columns >= 1,
        f"columns must be at least 1, got columns={columns}. Leave it out for up to "
        f"{_ACROSS}.",
    )
    import matplotlib.pyplot as plt

    lines = -(-count // columns)
    grid = plt.subplots(
        lines,
        columns,
        figsize=(2.2 * columns + 0.3, 2.5 * lines + 0.1),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )[1]
    for ax in grid.flat[count:]:
        ax.remove()
    for ax in grid.flat[max(count - columns, 0) : count]:
        ax.tick_params(labelbottom=True)  # also above a panel that is not there
    return list(grid.flat[:count])


def _window(points: Mapping[str, np.ndarray]) -> np.ndarray:
    """Component by component, the least and the greatest value, and a margin."""
    pool = np.concatenate(list(points.values()))
    low, high = pool.min(axis=0), pool.max(axis=0)
    margin = 0.04 * (high - low).max() or 0.5
    return np.stack([low - margin, high + margin], axis=1)


def _require_planar(points: Mapping[str, np.ndarray]) -> None:
    require(
        None,
        len(points) > 0,
        "samples expects at least one set by its label, got none. Pass "
        '{"data": points}.',
    )
    for label, some in points.items():
        require(
            None,
            some.ndim == 2 and some.shape[1] == 2,
            f"a set of samples in the plane has shape (samples, 2), got {some.shape} "
            f"for {label!r}. Draw two components at a time.",
        )
        require_drawable(repr(label), some)
