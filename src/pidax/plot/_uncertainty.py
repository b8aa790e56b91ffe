"""Figures of a posterior: mean, spread, where the truth lies, and what was measured."""

from __future__ import annotations  # names that are imported for their types only

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._checks import as_float, require
from ._axes import COLOURS, require_drawable
from ._fields import axes_for, draw_panel, fields_by_name, panels_of_field

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..constraint import AbstractConstraint
    from ..pde import AbstractEquation, Grid
    from ..types import ScalarLike
    from ._fields import Panel

_MEAN, _TRUTH, _OUTSIDE = COLOURS[0], "0.15", COLOURS[1]
_DOTS = (60, 4.5), (300, 2.5), (np.inf, 1.2)  # up to so many, of this size
_FAR = 3.0  # standard deviations, the end of the scale of colours
_FAINT = 0.4  # opacity where the truth is inside its interval
_OUTLINE = 0.2  # of the largest weight of a footprint
_FINE = 8  # parts of a pixel, for an outline along its edges
_SEEN = 1e-3  # of the largest weight of a row: the rest is rounding


def posterior(
    equation: AbstractEquation,
    result: Any,
    *,
    truth: Any = None,
    observation: AbstractConstraint | None = None,
    level: ScalarLike = 0.9,
    cmap: str = "viridis",
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """A row of panels for each field: truth, mean, spread, and truth against samples.

        found = px.infer(equation, observation, key=key)
        px.plot.posterior(equation, found, truth=truth, observation=observation)

    The last panel shows how many standard deviations the truth is from the mean, and in
    full colour only where it is outside the central interval of `level`. Its title has
    the share of points inside, without those where all samples are equal. Points of one
    field are not independent: the share of one truth scatters about the level. See
    `metrics.coverage` for many.

    **Arguments:**

    - `result`: of `infer` or `refine`, in the stacked fields of the equation, with its
      weights if it has them.
    - `truth`: the true fields, by name or stacked.
    - `observation`: what was measured is marked on truth, mean and spread: points as
      dots, and lines, boxes and other footprints by their outline. Several by `&`.
    - `axes`: the Matplotlib axes to draw on, one for each panel; else a new figure,
      whose heading is the verdict of the result.

    **Returns:** the axes, row by row. A field in one dimension is a curve with its
    interval; its truth is dashed. Solutions in time are drawn as by `fields`. A field
    that is a number is printed in the heading.
    """
    level = as_float(level)
    require(
        None,
        0 < level < 1,
        f"level is between 0 and 1, got {level}. 0.9 is the 90% interval.",
    )
    samples, weights = _samples(equation, result)
    stats = _statistics(samples, weights, level)
    named = [fields_by_name(equation, part) for part in stats]
    true = None if truth is None else fields_by_name(equation, truth)
    marks = _marks(equation, observation)
    rows, numbers = [], []
    for name in equation.names:
        parts = _Statistics(*(part[name] for part in named))
        own = None if true is None else true[name]
        if parts.mean.ndim:
            rows += _rows(equation, name, parts, own, marks.get(name))
            continue
        said = f"{name} = {float(parts.mean):.3g} ± {float(parts.spread):.2g}"
        numbers.append(said if own is None else f"{said} (truth {float(own):.3g})")
    columns = 2 if true is None else 4
    drawn = axes_for(columns * len(rows), axes, across=columns)
    for row, four in zip(rows, _chunks(drawn, columns), strict=True):
        _draw_row(four, equation, row, level, cmap)
    if axes is None:
        head = ([str(result).split("\n")[0]] if hasattr(result, "method") else []) + (
            [", ".join(numbers)] if numbers else []
        )
        if head:
            text = "\n".join(textwrap.fill(line, 34 * columns) for line in head)
            drawn[0].figure.suptitle(text, size=9)
    return drawn


class _Statistics(NamedTuple):
    """Of the samples at each point, stacked or of one field."""

    mean: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _Row(NamedTuple):
    """The panels of one field, or of one row in time of a field."""

    of: _Statistics
    truth: np.ndarray | None
    panel: Panel
    marks: list[np.ndarray]


def _samples(
    equation: AbstractEquation, result: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    samples = np.asarray(getattr(result, "fields", result), np.float64)
    shape = equation.stacked_shape
    require(
        None,
        samples.ndim == len(shape) + 1
        and samples.shape[1:] == shape
        and len(samples) > 1,
        "a posterior is drawn from two samples or more of the stacked fields of "
        f"{type(equation).__name__}, shape (sample, {', '.join(map(str, shape))}), got "
        f"shape {samples.shape}. Pass the result of infer with this equation.",
    )
    require_drawable("samples", samples)
    weights = getattr(result, "weights", None)
    return samples, None if weights is None else np.asarray(weights, np.float64)


def _statistics(
    samples: np.ndarray, weights: np.ndarray | None, level: float
) -> _Statistics:
    mean = np.average(samples, axis=0, weights=weights)
    spread = np.sqrt(np.average((samples - mean) ** 2, axis=0, weights=weights))
    ends = [(1 - level) / 2, (1 + level) / 2]
    if weights is None:
        low, high = np.quantile(samples, ends, axis=0)
    else:
        how: Any = dict(method="inverted_cdf", weights=weights)
        low, high = np.quantile(samples, ends, axis=0, **how)
    return _Statistics(mean, spread, low, high)


def _marks(
    equation: AbstractEquation, observation: AbstractConstraint | None
) -> dict[str, list[np.ndarray]]:
    """For each field what was measured: masks of points, and a footprint of every
    linear function, 1 at its largest weight.
    """
    from ..constraint import Affine, All, Observation  # a room that is imported on use

    found: dict[str, list[np.ndarray]] = {}
    for part in [] if observation is None else All([observation]).parts:
        if isinstance(part, Observation):
            seen = np.asarray(part.mask)[None]
        elif isinstance(part, Affine):
            seen = np.abs(np.asarray(part.given_rows, np.float64))
        else:
            continue
        require(
            None,
            seen.shape[1:] == equation.stacked_shape,
            "the observation must be of the stacked fields of "
            f"{type(equation).__name__}, shape {equation.stacked_shape}, got shape "
            f"{seen.shape[1:]}. Pass the observation that was inferred from.",
        )
        for row in seen:
            for name, own in fields_by_name(equation, row / row.max()).items():
                if own.ndim and own.max() > _SEEN:
                    own = np.where(own > _SEEN, own, 0.0)
                    found.setdefault(name, []).append(
                        own > 0 if row.dtype == bool else own
                    )
    return found


def _rows(
    equation: AbstractEquation,
    name: str,
    parts: _Statistics,
    truth: np.ndarray | None,
    marks: list[np.ndarray] | None,
) -> list[_Row]:
    """A row of panels, or one for each of a few times."""
    split = lambda values: panels_of_field(equation, name, np.asarray(values))
    each = [split(values) for values in parts]
    own = None if truth is None else split(truth)
    prints = [split(mark) for mark in marks or []]
    rows = []
    for i, panel in enumerate(each[0]):
        shown = [panel] if own is None else [panel, own[i]]
        ends = [p.limits or (p.values.min(), p.values.max()) for p in shown]
        limits = (
            float(min(low for low, _ in ends)),
            float(max(high for _, high in ends)),
        )
        of = _Statistics(*(part[i].values for part in each))
        true = None if own is None else own[i].values
        here = [mark[i].values for mark in prints if mark[i].values.any()]
        rows.append(_Row(of, true, panel._replace(limits=limits), here))
    return rows


def _draw_row(
    axes: Sequence[Axes], equation: AbstractEquation, row: _Row, level: float, cmap: str
) -> None:
    of, truth, panel, marks = row
    name = panel.title
    draw = lambda ax, title, values, **how: draw_panel(
        ax, equation, panel._replace(title=title, values=values), **how
    )
    curve = of.mean.ndim == 1
    axes = list(axes)
    if truth is not None:
        draw(axes[0], f"{name}, truth", truth, cmap=cmap)
        _mark(axes[0], equation, panel, marks, truth)
        axes.pop(0)
    draw(axes[0], f"{name}, mean", of.mean, cmap=cmap)
    if curve:
        _band(axes[0], equation, of, truth, level)
    _mark(axes[0], equation, panel, marks, of.mean)
    panel = panel._replace(limits=(0.0, float(of.spread.max()) or 1.0))
    draw(axes[1], f"{name}, standard deviation", of.spread, cmap="magma")
    _mark(axes[1], equation, panel, marks, of.spread)
    if curve:
        axes[1].set_ylim(0.0, 1.1 * float(of.spread.max()) or 1.0)
    if truth is not None:
        _against(axes[2], equation, row, level, draw)


def _against(
    ax: Axes, equation: AbstractEquation, row: _Row, level: float, draw: Any
) -> None:
    """The truth in standard deviations from the mean, faint inside the interval."""
    of, truth = row.of, np.asarray(row.truth)
    size = np.abs(of.mean).max() or 1.0
    varies = of.spread > 1e-6 * size  # prescribed values differ by rounding
    outside = varies & ((truth < of.low) | (truth > of.high))
    off = np.where(varies, (truth - of.mean) / np.where(varies, of.spread, 1.0), 0.0)
    share = 1 - outside.sum() / max(int(varies.sum()), 1)
    title = f"{row.panel.title}, {share:.0%} inside the {level:.0%} intervals"
    if off.ndim == 1:
        draw(ax, title, np.where(varies, off, np.nan), cmap="RdBu_r")
        x = np.asarray(equation.grid.points[0])
        ax.axhline(0, color="0.6", lw=0.8, zorder=0)
        ax.plot(x[outside], off[outside], "o", ms=4, color=_OUTSIDE)
        ax.set_ylabel("(truth - mean) / spread", size=8)
        return
    draw(ax, title, off, cmap="RdBu_r", symmetric=True)
    image = ax.images[-1]
    faint = np.where(outside, 1.0, _FAINT)
    image.set_alpha(faint if row.panel.over_time else faint.T)  # up, across
    image.set_clim(-_FAR, _FAR)
    image.colorbar.set_label("(truth - mean) / spread", size=7)  # type: ignore[union-attr]
    if outside.any():
        x, y = _coordinates(equation, row.panel, off.shape)
        across = outside if row.panel.over_time else outside.T
        pixels = np.kron(np.pad(across, 1), np.ones((_FINE, _FINE)))
        line: Any = dict(colors="0.2", linewidths=0.8)
        ax.contour(_fine(x), _fine(y), pixels, [0.5], **line)


def _fine(c: np.ndarray) -> np.ndarray:
    """Coordinates within the pixels about each point, and one pixel beyond."""
    h = c[1] - c[0]
    padded = np.concatenate([[c[0] - h], c, [c[-1] + h]])
    return (padded[:, None] + h * ((np.arange(_FINE) + 0.5) / _FINE - 0.5)).ravel()


def _band(
    ax: Axes,
    equation: AbstractEquation,
    of: _Statistics,
    truth: np.ndarray | None,
    level: float,
) -> None:
    x = np.asarray(equation.grid.points[0])
    label = f"{level:.0%} interval"
    ax.fill_between(x, of.low, of.high, color=_MEAN, alpha=0.2, lw=0, label=label)
    if truth is not None:
        ax.plot(x, truth, "--", color=_TRUTH, lw=1.1, label="truth")
    ax.legend(frameon=False, fontsize=7)


def _mark(
    ax: Axes,
    equation: AbstractEquation,
    panel: Panel,
    marks: list[np.ndarray],
    values: np.ndarray,
) -> None:
    """A dot where a value is of one point, or of its neighbours; else an outline."""
    curve = values.ndim == 1
    coordinates = [np.asarray(equation.grid.points[0])]
    if not curve:
        coordinates = list(_coordinates(equation, panel, values.shape))
    whole = np.meshgrid(*coordinates, indexing="ij")
    dots = []
    for mark in marks:
        mark = mark.T if panel.over_time else mark
        if mark.dtype == bool:
            dots += list(zip(*(x[mark] for x in whole), strict=True))
        elif (mark > 0).sum() <= 2 ** len(whole):  # interpolated: the point itself
            dots.append([np.sum(mark * x) / np.sum(mark) for x in whole])
        elif curve:
            seen = coordinates[0][mark > 0]
            ax.axvspan(seen[0], seen[-1], color="0.85", alpha=0.5, zorder=0)
        else:
            for colour, width in (("white", 1.8), ("black", 0.7)):
                line: Any = dict(colors=colour, linewidths=width)
                ax.contour(*coordinates, mark.T / mark.max(), [_OUTLINE], **line)
    if not dots:
        return
    places = np.transpose(dots)
    if curve:
        places = [places[0], np.interp(places[0], coordinates[0], values)]
    size = next(ms for count, ms in _DOTS if len(dots) <= count)
    ax.plot(
        *places, "o", ms=size, mfc="white", mec="black", mew=0.18 * size, zorder=4,
        clip_on=False,
    )  # fmt: skip


def _coordinates(
    equation: AbstractEquation, panel: Panel, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates across and up."""
    grid: Grid = equation.grid
    x = np.asarray(grid.points[0])
    if not panel.over_time:
        return x, np.asarray(grid.points[1])
    times = np.asarray(getattr(equation, "times", ()))
    return x, times if times.shape == shape[:1] else np.arange(float(shape[0]))


def _chunks(some: list[Any], size: int) -> list[list[Any]]:
    return [some[i : i + size] for i in range(0, len(some), size)]
