"""Functions that all figures share. Matplotlib is imported on use."""

from typing import TYPE_CHECKING

import numpy as np

from .._checks import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Categorical colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


def given_or_new(
    ax: "Axes | None", figsize: tuple[float, float] = (5.0, 4.0)
) -> "Axes":
    """The axes that were passed, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def require_few(lines: int) -> None:
    """As many lines as there are colours, at most."""
    require(
        None,
        lines <= len(COLOURS),
        f"at most {len(COLOURS)} lines can be told apart, got {lines}. Draw several "
        "axes.",
    )


def require_drawable(name: str, values: np.ndarray) -> None:
    """At least one sample, and every entry finite."""
    bad = int((~np.isfinite(values)).sum())
    require(
        None,
        values.size > 0 and not bad,
        f"{name} must hold finite samples to be drawn, got shape {values.shape} with "
        f"{bad} NaN or infinite entries. Leave failed samples out, and say how many "
        "they were.",
    )


def require_limits(limits: tuple[float, float]) -> None:
    """An interval that is not empty."""
    require(
        None,
        limits[0] < limits[1],
        f"limits must be (low, high) with low < high, got limits={limits}. Leave them "
        "out to take them from the data.",
    )
