"""Sets of samples: points of the plane side by side, images in rows and columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..types import typed
from ._axes import COLOURS, given_or_new, require_drawable, require_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 4  # panels in a row, unless asked otherwise
_MANY = 5000  # points from which on a file of vectors holds them as pixels
_GAP = 0.05  # between samples, in widths of one
_LETTER = 0.17  # inches that a line of labels takes
_BAR = 0.15  # inches that the colour bar is thick


class _Layout(NamedTuple):
    """Where samples lie, in widths of one; the vertical axis points down."""

    columns: int
    lines: int
    height: float  # of a sample
    tile: float  # inches that a sample's width takes
    box: float  # inches that the axes are high
    labelled: bool

    @property
    def head(self) -> float:
        """Room above a sample for its label."""
        return _LETTER / self.tile if self.labelled else 0.0

    @property
    def pitch(self) -> tuple[float, float]:
        """From one sample to the next, across and down."""
        return 1 + _GAP, self.head + self.height + _GAP

    @property
    def size(self) -> tuple[float, float]:
        """Of all samples together."""
        return self.columns * self.pitch[0] - _GAP, self.lines * self.pitch[1] - _GAP

    def corner(self, index: int) -> tuple[float, float]:
        """The left and the top of a sample."""
        line, column = divmod(index, self.columns)
        return column * self.pitch[0], line * self.pitch[1] + self.head


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


@typed
def sample_grid(
    samples: Float[Array | np.ndarray, "sample height width channel"],
    *,
    columns: int | None = None,
    limits: tuple[float | int, float | int] | None = None,
    cmap: str = "gray",
    labels: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Images, or fields on a grid, in rows and columns; all on one scale of values.

    **Arguments:**

    - `samples`: one channel, drawn with `cmap` and a colour bar, or three, drawn as
      red, green and blue. The first row of a sample is at the top.
    - `columns`: default: as many as make the grid nearly square, or as `rows` imply.
    - `limits`: the values drawn as the darkest and the brightest. Values outside
      are clipped, which the colour bar or the text below states. Default: the least and
      the greatest value of all samples.
    - `cmap`: for one channel. `"gray"` is for images; for a field of one sign take
      `"viridis"`, for one of both signs `"RdBu_r"` with `limits=(-a, a)`.
    - `labels`: a text above each sample. `rows`: a text left of each row.
    """
    values = np.asarray(samples, float)
    count, height, width, channels = values.shape
    require(
        None,
        channels in (1, 3),
        "sample_grid expects 1 channel (a colour map) or 3 (red, green, blue), got "
        f"shape {values.shape}. Draw one channel at a time with samples[..., :1].",
    )
    require_drawable("samples", values)
    columns = _columns(count, columns, rows, height / width)
    lines = -(-count // columns)
    _require_labels("labels", labels, count, "sample")
    _require_labels("rows", rows, lines, "row")
    shape = (columns, lines, height / width)
    bar = 5 * _BAR if channels == 1 else 0.0  # with its numbers
    if ax is None:
        most = min(7 / columns, 9 / (lines * height / width))
        tile = min(max(most, 0.45), 1.3 if count > 1 else 2.0)
        across, down = (tile * s for s in _Layout(*shape, tile, 0, bool(labels)).size)
        layout = _Layout(*shape, tile, down + 0.1, bool(labels))
        names = 0.3 + 0.07 * max(map(len, rows)) if rows else 0.0
        ax = given_or_new(None, (across + names + bar + 0.1, down + 0.3))
    else:
        box, figure = ax.get_window_extent(), ax.get_figure(root=True)
        dpi = 100.0 if figure is None else figure.dpi
        tile = max(box.width / dpi - bar, 0.5) / columns
        layout = _Layout(*shape, tile, box.height / dpi, bool(labels))
    _draw(ax, values, layout, _limits(values, limits), cmap)
    _write(ax, layout, labels, rows)
    return ax


def _draw(
    ax: "Axes",
    values: np.ndarray,
    layout: _Layout,
    limits: tuple[float, float],
    cmap: str,
) -> None:
    """The samples, the scale of their values, and nothing else."""
    (low, high), grey = limits, values.shape[-1] == 1
    below, above = (values < low).mean(), (values > high).mean()
    image = None
    for index, value in enumerate(values):
        left, top = layout.corner(index)
        extent = (left, left + 1, top + layout.height, top)
        if grey:
            image = ax.imshow(
                value[..., 0], cmap=cmap, vmin=low, vmax=high, extent=extent
            )
        else:
            ax.imshow(np.clip((value - low) / (high - low), 0, 1), extent=extent)
    ax.set(xlim=(0, layout.size[0]), ylim=(layout.size[1], 0), aspect="equal")
    ax.spines[:].set_visible(False)
    if image is not None:
        ends = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
        extend = ends[int(below > 0), int(above > 0)]
        across, down = (layout.tile * size for size in layout.size)
        image.axes.figure.colorbar(
            image,
            ax=ax,
            extend=extend,
            ticks=np.linspace(low, high, 5),
            format="%.3g",
            fraction=_BAR / across,
            pad=0.5 * _BAR / across,
            aspect=down / _BAR,
            shrink=min(down / layout.box, 1.0),  # as high as the samples
        ).ax.tick_params(labelsize=8)
        ax.set_anchor("E")  # beside the bar
    else:
        clipped = f", {below + above:.2g} of all values clipped"
        text = f"black is {low:.3g}, white is {high:.3g}"
        ax.set_xlabel(text + (clipped if below + above else ""), size=8)


def _write(
    ax: "Axes",
    layout: _Layout,
    labels: Sequence[str] | None,
    rows: Sequence[str] | None,
) -> None:
    ax.set(xticks=[], yticks=[])
    for index, label in enumerate(labels or ()):
        left, top = layout.corner(index)
        ax.text(left + 0.5, top - 0.02, label, ha="center", va="bottom", size=8)
    if rows:
        tops = [layout.corner(n * layout.columns)[1] for n in range(layout.lines)]
        ax.set_yticks([top + layout.height / 2 for top in tops], rows)
        ax.tick_params("y", length=0, labelsize=8)


def _columns(
    count: int, columns: int | None, rows: Sequence[str] | None, aspect: float
) -> int:
    if columns is None:
        square = np.sqrt(count * aspect)
        columns = int(np.ceil(count / len(rows) if rows else square))
        return min(max(columns, 1), count)
    require(
        None,
        columns >= 1,
        f"columns must be at least 1, got columns={columns}. Leave it out for a grid "
        "that is nearly square.",
    )
    return min(columns, count)


def _limits(
    values: np.ndarray, limits: tuple[float, float] | None
) -> tuple[float, float]:
    if limits is not None:
        require_limits(limits)
        return limits
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _require_labels(
    name: str, labels: Sequence[str] | None, count: int, each: str
) -> None:
    require(
        None,
        labels is None or len(labels) == count,
        f"{name} must hold a text for each {each}, {count} in all, got "
        f"{0 if labels is None else len(labels)}. Use '' where there is none.",
    )
