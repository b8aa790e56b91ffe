"""Solutions of the ODE: their paths, their errors, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from ..types import typed
from ._axes import COLOURS, given_or_new, require_few

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    (`process.scale(ts)`), which shows $y$: the noise does not dwarf the data. `exact`
    trajectories at the same times are drawn as crosses.
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
