"""Fields on a grid, their residuals and their spectra, in the equation's own axes."""

from __future__ import annotations  # names that are imported for their types only

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._checks import require
from ._axes import COLOURS, given_or_new, require_drawable, require_few

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..pde import AbstractEquation, Grid, Report

_ROWS = 4  # of a solution in time and two or three dimensions, at most so many panels
_ACROSS = 4


class Panel(NamedTuple):
    """A curve, an image or an image of space and time, and what is said above it."""

    title: str
    values: np.ndarray
    over_time: bool = False
    limits: tuple[float, float] | None = None  # shared by the rows of one field


def fields(
    equation: AbstractEquation,
    fields: Any,
    *,
    cmap: str = "viridis",
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """The fields of one sample by name: curves, images, images of space and time.

    **Arguments:**

    - `fields`: of `equation`, one sample, by name or stacked, in physical units.
    - `axes`: the Matplotlib axes to draw on, one for each panel; else a new figure.

    A field in one dimension is a curve; in two an image with a colour bar; in three
    the slice in the middle of z. With a leading axis of time it is an image of space
    (across) and time (up), and in two or three dimensions a panel for each of a few
    times, on one scale (without the first row if an initial field is drawn beside). A
    field that is a number is printed above the figure.

    **Returns:** the axes, in the order of the fields.
    """
    named = fields_by_name(equation, fields)
    panels, numbers = [], []
    for name, values in named.items():
        if values.ndim == 0:
            numbers.append(f"{name} = {float(values):.4g}")
        else:
            panels += panels_of_field(equation, name, values)
    drawn = axes_for(len(panels), axes)
    for ax, panel in zip(drawn, panels, strict=True):
        draw_panel(ax, equation, panel, cmap=cmap)
    if numbers and axes is None:
        drawn[0].figure.suptitle(", ".join(numbers), size=9)
    return drawn


def residuals(
    equation: AbstractEquation,
    samples: Any,
    *,
    axes: "Sequence[Axes] | None" = None,
) -> "list[Axes]":
    """Maps of the residual of fields.

    `samples` are the fields of one sample, or of several by name. Each map has its own
    scale, symmetric about zero (white), because residuals of good and bad fields differ
    by orders of magnitude. The title has the relative residual.
    """
    sets = samples if isinstance(samples, Mapping) else {"residual": samples}
    panels = []
    for name, some in sets.items():
        values = equation.Fields(*fields_by_name(equation, some).values())
        found = np.asarray(equation.residual(values))
        relative = float(equation.relative_residual(values))
        parts = _panels_of_residual(equation, name, found)
        panels += [
            p._replace(title=f"{p.title}, relative {relative:.1e}") for p in parts
        ]
    drawn = axes_for(len(panels), axes)
    for ax, panel in zip(drawn, panels, strict=True):
        draw_panel(ax, equation, panel, cmap="RdBu_r", symmetric=True)
    return drawn


def spectra(
    report: Report,
    *,
    field: str | None = None,
    rows: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""The radial spectra of a report: energy of each shell against its wavenumber.

    The mean over the samples, with its bootstrap interval as a band; the reference is
    a dashed black line. Both axes are logarithmic, so the mean of the fields (shell 0)
    is left out, and so is a set of zeros.

    **Arguments:**

    - `field`: which unknown; by default the first.
    - `rows`: labels of rows; by default all that are not zero.
    """
    names = list(report.reference_spectra)
    name = field if field is not None else (names or [""])[0]
    require(
        None,
        name in names,
        f"field must be one of the report's spectra {names}, got {name!r}. Fields "
        "that are not on the grid have none.",
    )
    labels = list(report.rows) if rows is None else list(rows)
    bands = {label: report[label].spectra.get(name) for label in labels}
    shown = {k: b for k, b in bands.items() if b is not None and np.any(b.estimate > 0)}
    require_few(len(shown))
    ax = given_or_new(ax)
    k = np.asarray(report.wavenumbers)[1:]
    # A band of rounding errors, or one that reaches zero, would stretch the axis.
    truth = np.asarray(report.reference_spectra[name].estimate)[1:]
    least = 1e-2 * truth[truth > 0].min(initial=np.inf)
    for colour, (label, band) in zip(COLOURS, shown.items(), strict=False):
        energy, low, high = (np.asarray(part)[1:] for part in band)
        ax.loglog(k, np.where(energy > 0, energy, np.nan), color=colour, label=label)
        clipped = np.maximum(low, least), np.maximum(high, least)
        ax.fill_between(k, *clipped, color=colour, alpha=0.2, lw=0)
    ax.loglog(k, truth, "--", color="k", lw=1, label="reference")
    ax.set(xlabel="wavenumber $|k|$", ylabel=f"energy of {name} in the shell")
    ax.grid(True, which="major", color="0.9", lw=0.6)
    ax.legend(frameon=False, fontsize=8)
    return ax


def fields_by_name(equation: AbstractEquation, some: Any) -> dict[str, np.ndarray]:
    """One sample's fields by name, finite."""
    if not hasattr(some, "_fields"):
        some = equation.unstack(some)
    require(
        None,
        tuple(some._fields) == equation.names,
        f"fields must be the fields of {type(equation).__name__}, "
        f"{', '.join(equation.names)}, got {', '.join(some._fields)}.",
    )
    named = {name: np.asarray(getattr(some, name)) for name in equation.names}
    for name, values in named.items():
        require_drawable(name, values)
    return named


def panels_of_field(
    equation: AbstractEquation, name: str, values: np.ndarray
) -> list[Panel]:
    grid = equation.grid
    if values.shape == grid.shape:
        return [Panel(name, _plane(values))]
    require(
        None,
        values.shape[1:] == grid.shape,
        f"{name} must be one sample on the grid, shape {grid.shape}, perhaps with time "
        f"before it, got shape {values.shape}. Take one of a batch, and restrict what "
        "is not on the points of the grid.",
    )
    if grid.ndim == 1:
        return [Panel(name, values, True)]
    chosen = np.unique(np.linspace(0, len(values) - 1, _ROWS).round().astype(int))
    if _starts_from_given(equation):
        chosen = chosen[1:]
    times = _times(equation, len(values))
    when = lambda i: f"row {i}" if times is None else f"t = {times[i]:.3g}"
    shown = values[chosen]
    limits = float(shown.min()), float(shown.max())
    return [
        Panel(f"{name}, {when(i)}", _plane(values[i]), limits=limits) for i in chosen
    ]


def _panels_of_residual(
    equation: AbstractEquation, name: str, found: np.ndarray
) -> list[Panel]:
    """Panels for each of the fields whose residuals are the last axis, if several."""
    fields = equation.unknowns
    if len(fields) == 1 or found.shape[1:] != (*equation.grid.shape, len(fields)):
        return panels_of_field(equation, name, found)
    channels = zip(fields, np.moveaxis(found, -1, 0), strict=True)
    parts = [panels_of_field(equation, f"{name} of {f}", part) for f, part in channels]
    return [panel for some in parts for panel in some]


def _starts_from_given(equation: AbstractEquation) -> bool:
    """Whether row 0 of a solution in time is a given field, and drawn as such."""
    return equation.given[0].startswith("initial")


def _plane(values: np.ndarray) -> np.ndarray:
    """Of three dimensions the middle of the last."""
    return values[..., values.shape[2] // 2] if values.ndim == 3 else values


def _times(equation: AbstractEquation, rows: int) -> np.ndarray | None:
    times = np.asarray(getattr(equation, "times", ()))
    return times if times.shape == (rows,) else None


def axes_for(
    count: int, axes: "Sequence[Axes] | None", across: int = _ACROSS
) -> "list[Axes]":
    """As many axes as there are panels: those that were passed, or new ones."""
    if axes is not None:
        require(
            None,
            len(axes) == count,
            f"axes must hold one for each panel, {count} in all, got "
            f"{len(axes)}. Leave axes out for a new figure.",
        )
        return list(axes)
    import matplotlib.pyplot as plt

    across = min(count, across)
    lines = -(-count // across)
    size = (3.3 * across, 2.7 * lines + 0.1)
    made = plt.subplots(
        lines, across, figsize=size, squeeze=False, layout="constrained"
    )
    for ax in made[1].flat[count:]:
        ax.remove()
    return list(made[1].flat[:count])


def draw_panel(
    ax: "Axes",
    equation: AbstractEquation,
    panel: Panel,
    *,
    cmap: str,
    symmetric: bool = False,
) -> None:
    grid, values = equation.grid, panel.values
    ax.set_title(panel.title, size=9)
    ax.tick_params(labelsize=7)
    if values.ndim == 1:
        ax.plot(np.asarray(grid.points[0]), values, color=COLOURS[0], lw=1.3)
        ax.set(xlabel="x", xlim=grid.extent[0])
        ax.grid(True, color="0.92", lw=0.6)
        if symmetric:
            ax.axhline(0, color="0.6", lw=0.8, zorder=0)
        return
    limit = float(np.abs(values).max()) or 1.0
    low, high = (-limit, limit) if symmetric else panel.limits or (None, None)
    times = _times(equation, len(values)) if panel.over_time else None
    image = ax.imshow(
        values if panel.over_time else values.T,
        origin="lower",
        extent=(*_edges(grid, 0), *_upright(grid, panel, times)),
        aspect="auto" if panel.over_time else "equal",
        cmap=cmap,
        interpolation="nearest",
        vmin=low,
        vmax=high,
    )
    ax.set(xlabel="x", xlim=_limits(grid, 0))
    if panel.over_time:
        ax.set_ylabel("row of time" if times is None else "t")
    else:
        ax.set(ylabel="y", ylim=_limits(grid, 1))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.9)
    bar.ax.tick_params(labelsize=7)
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]
    bar.ax.yaxis.get_offset_text().set_fontsize(7)
    bar.update_normal(image)


def _edges(grid: Grid, axis: int) -> tuple[float, float]:
    """The ends of the cells about the first and the last point."""
    x, half = np.asarray(grid.points[axis]), grid.spacing[axis] / 2
    return float(x[0] - half), float(x[-1] + half)


def _limits(grid: Grid, axis: int) -> tuple[float, float]:
    """The domain; half a cell beyond the node of a wall is not in it."""
    return _edges(grid, axis) if grid.periodic[axis] else grid.extent[axis]


def _upright(grid: Grid, panel: Panel, times: np.ndarray | None) -> tuple[float, float]:
    """The same of the vertical axis, which is y, or time."""
    if not panel.over_time:
        return _edges(grid, 1)
    rows = len(panel.values)
    if times is None:
        return -0.5, rows - 0.5
    half = float(times[-1] - times[0]) / max(rows - 1, 1) / 2
    return float(times[0]) - half, float(times[-1]) + half
