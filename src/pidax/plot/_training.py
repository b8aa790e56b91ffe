"""Curves of training: the terms of a loss against the step."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import ArrayLike

from .._checks import require
from ._axes import COLOURS, given_or_new, require_few

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Terms by name, "step" among them, or the file of JSON lines that holds them.
History: TypeAlias = Mapping[str, ArrayLike] | str | os.PathLike[str]

_LONG = 200  # points from which on a curve is smoothed unless asked otherwise


def loss_curves(
    histories: Any,
    *,
    term: str = "loss",
    smooth: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """One term of each history against the step, for example the loss of several runs.

    **Arguments:**

    - `histories`: one history, or several in a mapping by label. A history is what
      `fit` returned; a mapping with `"step"` and the named terms as 1-D arrays of one
      length; the directory of a run; or the path of a file of JSON lines such as
      `{"step": 100, "loss": 0.3}`. Lines without the term and an
      unfinished last line are passed over. Of a step that occurs twice, as in a run
      that was resumed, the last counts.
    - `term`: which one to draw.
    - `smooth`: the width, in points, of a centred moving average drawn over the light
      raw curve. Default: a fiftieth of a curve of 200 points or more, else none; 1 is
      none.

    The vertical axis is logarithmic if every value is positive. Values that are not
    finite are gaps in the curve.
    """
    histories = _by_label(histories, term)
    require_few(len(histories))
    curves = {label: _curve(label, h, term) for label, h in histories.items()}
    ax = given_or_new(ax)
    for colour, (label, (step, value)) in zip(COLOURS, curves.items(), strict=False):
        width = _width(len(step), smooth)
        if width == 1:
            ax.plot(step, value, color=colour, lw=1.3, label=label)
        else:
            ax.plot(step, value, color=colour, lw=0.6, alpha=0.25, zorder=1)
            smoothed = moving_average(value, width)
            ax.plot(step, smoothed, color=colour, lw=1.5, label=label)
    values = np.concatenate([value for _, value in curves.values()] or [np.ones(0)])
    values = values[np.isfinite(values)]
    if values.size and (values > 0).all():
        ax.set_yscale("log")
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set(xlabel="step", ylabel=term)
    ax.grid(True, which="major", color="0.9", lw=0.6)
    ax.legend(frameon=False, fontsize=8)
    return ax


def _by_label(given: Any, term: str) -> Mapping[str, Any]:
    """Histories by label, of one history by the name of the term."""
    one = not isinstance(given, Mapping) or "step" in given
    return {term: given} if one else given


def moving_average(value: np.ndarray, width: int) -> np.ndarray:
    """The mean of the finite values in a window about each that the ends cut off."""
    finite = np.isfinite(value)
    window = np.ones(width)
    total = np.convolve(np.where(finite, value, 0.0), window, mode="same")
    count = np.convolve(finite.astype(float), window, mode="same")
    return np.where(finite, total / np.maximum(count, 1), np.nan)


def _width(points: int, smooth: int | None) -> int:
    """An odd number of points, and no more than there are."""
    if smooth is None:
        smooth = points // 50 if points >= _LONG else 1
    require(
        None,
        smooth >= 1,
        f"smooth must be a number of points, at least 1, got smooth={smooth}. Pass "
        "smooth=1 for the raw curve alone.",
    )
    width = max(1, min(smooth, points))
    return width if width % 2 else width - 1


def _curve(label: str, history: History, term: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps in order and the term's value at each."""
    lines: Any = getattr(history, "history", None)
    if lines is not None:  # what fit returns; lines may lack the term
        there = np.isfinite(np.asarray(lines.get(term, np.ones(0)), float))
        history = {n: v[there] for n, v in lines.items()} if there.any() else lines
    if not isinstance(history, Mapping):
        history = _read(history, term)
    missing = [name for name in ("step", term) if name not in history]
    require(
        None,
        not missing,
        f'a history must have "step" and the term "{term}", but {label!r} lacks '
        f"{missing}. It has {sorted(history)}: pass one of these as term=.",
    )
    step, value = np.asarray(history["step"]), np.asarray(history[term], float)
    require(
        None,
        step.ndim == value.ndim == 1 and step.size == value.size > 0,
        'a history has 1-D arrays of one length, at least 1, got "step" of shape '
        f'{step.shape} and "{term}" of shape {value.shape} in {label!r}. Log every '
        "term at every logged step.",
    )
    # The last of equal steps: the first in reverse, which is what unique keeps.
    step, last = np.unique(step[::-1], return_index=True)
    return step, value[::-1][last]


def _read(path: str | os.PathLike[str], term: str) -> Mapping[str, Any]:
    """The columns of a file of JSON lines, of those lines that have the term."""
    rows = []
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            elif line.strip() and line.endswith("\n"):  # not one being written
                raise ValueError(
                    f"a history file has a JSON object in each line, got {line[:60]!r} "
                    f"as line {number} of {path}. Remove what is not JSON."
                )
    names = {name for row in rows for name in row}
    rows = [row for row in rows if "step" in row and row.get(term) is not None]
    return {name: [row.get(name) for row in rows] for name in names}
