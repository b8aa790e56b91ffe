"""A comparison drawn: student and teacher from the same noise."""

from typing import TYPE_CHECKING

import numpy as np

from .._checks import require
from ..evaluate import Report
from ..types import typed
from ._axes import COLOURS, given_or_new
from ._figures import error_along_path
from ._grid import sample_grid
from ._planar import panels_of, samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEACHER, _STUDENT = COLOURS[:2]


@typed
def trajectories(
    report: Report, *, count: int = 24, ax: "Axes | None" = None
) -> "Axes":
    r"""The teacher's trajectories over the student's, from the same noise.

    Blue lines are the reference, orange ones under them the student, at the times of
    the report; each state is divided by the size of the noised sample at its time,
    $y = x/\sqrt{(\alpha\sigma_{data})^2 + \sigma^2}$, so that the noise does not dwarf
    the data. Where the student is right only blue shows. Events of more than two
    components are drawn by their first two, and the axes say so.

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
    which show what the grid alone costs; and of the teacher's default solve. Data are
    on the right. At `t_max`, where all begin, nothing is drawn.
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
    clean samples if there are any, teacher, student, and the way from the teacher's
    sample to the student's for each `z`.

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
