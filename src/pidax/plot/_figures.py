"""Figures from results. Matplotlib is imported when a figure is asked for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from .._checks import require
from ..types import typed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Categorical colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


@typed
def trajectories(
    ts: Float[Array | np.ndarray, " time"],
    xs: Float[Array | np.ndarray, "path time 2"],
    *,
    scale: Float[Array | np.ndarray, " time"],
    exact: Float[Array | np.ndarray, "path time 2"] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Paths of the ODE in the plane, from noise (grey dots) to data (blue dots).

    Each state is divided by `scale`, the size of the noised sample at its time
    (`process.scale(ts)`), which shows $y$: the noise does not dwarf the data. `exact`
    trajectories at the same times are drawn as crosses.
    """
    ax = _axes(ax)
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
    ax = _axes(ax)
    _require_few(len(errors))
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
    ax = _axes(ax)
    names = list(dict.fromkeys(row[by] for row in rows))
    _require_few(len(names))
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


def _require_few(lines: int) -> None:
    require(
        None,
        lines <= len(COLOURS),
        f"at most {len(COLOURS)} lines can be told apart, got {lines}. Draw several "
        "axes.",
    )


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 4), layout="constrained")[1]
