"""Figures of ODE solutions and comparisons: paths, errors, costs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..evaluate import Report
from ..types import typed
from ._axes import COLOURS, given_or_new, require_few
from ._samples import panels_of, sample_grid, samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEACHER, _STUDENT = COLOURS[:2]


@typed
def paths(
    ts: Float[Array | np.ndarray, " time"],
    xs: Float[Array | np.ndarray, "path time 2"],
    *,
    scale: Float[Array | np.ndarray, " time"],
    exact: Float[Array | np.ndarray, "path time 2"] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Paths of the ODE in the plane, from noise (grey dots) to data (blue dots).

    Each state is divided by `scale`, the size of the noised sample at its time
    (`process.scale(ts)`), which gives $y$, so that noise and data have one size.
    `exact` trajectories at the same times are drawn as crosses.
    """
    ax = given_or_new(ax)
    y = np.asarray(xs) / np.asarray(scale)[:, None]
    for path in y:
        ax.plot(*path.T, color=COLOURS[0], alpha=0.55, lw=1.0, zorder=1)
    ax.plot(*y[:, 0].T, "o", ms=3.5, color="0.55", label=f"noise, t = {ts[0]:g}")
    ax.plot(*y[:, -1].T, "o", ms=3.5, color=COLOURS[0], label=f"data, t = {ts[-1]:g}")
    if exact is not None:
        marks = (np.asarray(exact) / np.asarray(scale)[:, None])[:, 1:-1]
        ax.plot(*marks.reshape(-1, 2).T, "x", ms=4, color=COLOURS[1], label="exact")
    ax.set(aspect="equal", xlabel="$y_1$", ylabel="$y_2$")
    ax.legend(frameon=False, fontsize=8)
    return ax


@typed
def error_along_path(
    ts: Float[Array | np.ndarray, " time"],
    errors: Mapping[str, Float[Array | np.ndarray, " time"]],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Error of solutions against time, both logarithmic; data are on the right."""
    ax = given_or_new(ax)
    require_few(len(errors))
    for colour, (name, error) in zip(COLOURS, errors.items(), strict=False):
        ax.loglog(ts, np.maximum(np.asarray(error), 1e-17), color=colour, label=name)
    ax.invert_xaxis()
    ax.set(xlabel="time $t$", ylabel="RMS error / size of the state")
    ax.legend(frameon=False, fontsize=8)
    return ax


def work_precision(
    rows: Sequence[Mapping[str, Any]], *, by: str = "label", ax: "Axes | None" = None
) -> "Axes":
    """Error against denoiser evaluations: one line for each value of `rows[i][by]`.

    A row has `evaluations` and `rms`, which is None where the solve failed.
    """
    ax = given_or_new(ax)
    names = list(dict.fromkeys(row[by] for row in rows))
    require_few(len(names))
    for colour, marker, name in zip(COLOURS, "osD^vPX", names, strict=False):
        mine = [row for row in rows if row[by] == name and row["rms"] is not None]
        if not mine:
            continue  # it failed everywhere: there is nothing to draw
        calls, errors = zip(
            *sorted((row["evaluations"], row["rms"]) for row in mine), strict=True
        )
        ax.loglog(calls, errors, color=colour, marker=marker, ms=4, label=name)
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="denoiser evaluations", ylabel="RMS error per component")
    ax.grid(True, which="major", color="0.9", lw=0.6)
    ax.legend(frameon=False, fontsize=8)
    return ax


@typed
def trajectories(
    report: Report, *, count: int = 24, ax: "Axes | None" = None
) -> "Axes":
    r"""The teacher's trajectories drawn over the student's, from the same noise.

    Blue lines are the reference, orange ones under them the student, at the times of
    the report; each state is divided by the size of the noised sample at its time,
    $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$, so that noise and data have one
    size. Where the student is right only blue is visible. Of samples with more than two
    components the first two are drawn; the axes are labelled.


    `count` is how many are drawn, of those whose paths were kept
    (`compare(..., paths=)`).
    """
    _require_count(count)
    ax = given_or_new(ax)
    size = report.scale[:, None]
    teacher, student = (
        _plane(solution.paths[:count], report) / size
        for solution in (report.reference, report.student)
    )
    require(
        None,
        len(teacher) > 0,
        "no path was kept to be drawn, got a report made with paths=0. Compare again "
        "with paths=24 or so.",
    )
    for path in student:
        ax.plot(*path.T, color=_STUDENT, alpha=0.75, lw=2.2, zorder=1)
    for path in teacher:
        ax.plot(*path.T, color=_TEACHER, alpha=0.9, lw=0.9, zorder=2)
    start, end = report.times[0], report.times[-1]
    ax.plot(*teacher[:, 0].T, "o", ms=3, color="0.6", label=f"noise, t = {start:.4g}")
    ax.plot(*student[:, -1].T, "o", ms=5.5, mfc="none", mec=_STUDENT, zorder=3)
    ax.plot(*teacher[:, -1].T, "o", ms=3, color=_TEACHER, zorder=4)
    teacher_key = {"color": _TEACHER, "lw": 0.9, "marker": "o", "ms": 3}
    ax.plot([], [], label=f"teacher, to t = {end:.4g}", **teacher_key)
    student_key = {"color": _STUDENT, "lw": 2.2, "marker": "o", "ms": 5.5}
    ax.plot([], [], label="student", mfc="none", **student_key)
    of = _components(report)
    ax.set(aspect="equal", xlabel=f"$y_1${of}", ylabel=f"$y_2${of}")
    ax.legend(frameon=False, fontsize=8)
    return ax


@typed
def errors(report: Report, *, ax: "Axes | None" = None) -> "Axes":
    """The errors of student and solvers along the path, relative to the state's size.

    Root mean squares over the samples: of the student, with a band from its median to
    its 99th percentile; of the teacher's Euler and Heun steps on the student's grid,
    which show the error of the grid; and of the teacher's default solve. Data are on
    the right. Errors at `t_max` are zero and not drawn.
    """
    ax = given_or_new(ax)
    times = report.times[1:]
    curves = {}
    for name in ("adaptive", "student", "euler", "heun"):
        solution = report.solutions[name]
        error = report.relative(solution.along["rms"])[1:]
        curves[solution.label] = np.where(error > 0, error, np.nan)
    drawn = len(ax.lines)
    error_along_path(times, curves, ax=ax)
    ax.lines[drawn + 1].set(lw=2.2, zorder=3)
    along = report.student.along
    low, high = (report.relative(along[name])[1:] for name in ("median", "p99"))
    label = "student, median to 99th percentile"
    ax.fill_between(times, low, high, color=_STUDENT, alpha=0.15, lw=0, label=label)
    ax.grid(True, which="major", color="0.9", lw=0.6)
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom=bottom * (bottom / top) ** 0.45)  # room for the legend
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


@typed
def side_by_side(
    report: Report, *, count: int | None = None, cmap: str = "gray"
) -> "list[Axes]":
    """Samples of teacher and student from the same noise, in a new figure.

    Images and fields, (height, width, channel) with one or three channels: a row of
    the teacher's over a row of the student's, on one scale of values (`cmap` as for
    `sample_grid`). All others as points of the plane, by their first two components:
    clean samples if there are any, teacher, student, and a line from the teacher's to
    the student's sample for each `z`.

    `count` is how many: by default 10 images, or 1000 points.
    """
    if count is not None:
        _require_count(count)
    teacher, student = report.reference.end, report.student.end
    if teacher.ndim == 4 and teacher.shape[-1] in (1, 3):
        few = slice(0, 10 if count is None else count)
        both = np.concatenate([teacher[few], student[few]])
        return [sample_grid(both, rows=["teacher", "student"], cmap=cmap)]
    few = slice(0, 1000 if count is None else count)
    sets = {"teacher": teacher, "student": student}
    colours = [_TEACHER, _STUDENT]
    if report.floor is not None:
        sets = {report.floor.source: report.floor.samples, **sets}
        colours = ["0.35", *colours]
    sets = {label: _plane(some[few], report) for label, some in sets.items()}
    *panels, last = panels_of(len(sets) + 1)
    samples(sets, axes=panels)
    for ax, colour in zip(panels, colours, strict=True):
        ax.lines[0].set_color(colour)
    _draw_moves(last, sets["teacher"], sets["student"])
    last.set(xlim=panels[0].get_xlim(), ylim=panels[0].get_ylim(), aspect="equal")
    of = _components(report)
    if of:
        panels[0].set(xlabel=f"$x_1${of}", ylabel=f"$x_2${of}")
    return [*panels, last]


def _draw_moves(ax: "Axes", teacher: np.ndarray, student: np.ndarray) -> None:
    """A line from each of the teacher's samples to the student's of the same noise."""
    from matplotlib.collections import LineCollection

    few = slice(0, 200)  # more are a tangle
    lines = list(np.stack([teacher[few], student[few]], axis=1))
    ax.add_collection(LineCollection(lines, colors="0.25", linewidths=0.8, zorder=3))
    ax.plot(*teacher[few].T, "o", ms=2.4, mew=0, color=_TEACHER, alpha=0.8)
    ax.plot(*student[few].T, "o", ms=2.4, mew=0, color=_STUDENT, alpha=0.8)
    ax.set_title("teacher to student", size=9)
    ax.tick_params(labelsize=7)


def _plane(states: np.ndarray, report: Report) -> np.ndarray:
    """The first two components of every state, whatever the axes before the event."""
    event, size = report.z.shape[1:], report.z[0].size
    require(
        None,
        size >= 2,
        f"a plane takes samples of at least two components, got the shape {event}. "
        "Draw errors(report), or plot report.reference.paths against report.times.",
    )
    flat = states.reshape(*states.shape[: states.ndim - len(event)], size)
    return flat[..., :2]


def _components(report: Report) -> str:
    """What an axis must say of an event that has more components than a plane."""
    size = report.z[0].size
    return "" if size == 2 else f", of {size} components"


def _require_count(count: int) -> None:
    require(
        None,
        count >= 1,
        f"count must be at least 1, got count={count}. Leave it out for a few.",
    )
