"""Figures of numbers that are asked of a posterior, against a reference."""

from __future__ import annotations  # names that are imported for their types only

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import require, whole_number
from ._axes import COLOURS, require_drawable
from ._fields import axes_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..types import WholeLike

_MARGIN = 1e-3  # of the weight at each end, beyond which there are no bins


def quantities(
    values: Mapping[str, Any],
    *,
    weights: Any = None,
    reference: Mapping[str, Any] | None = None,
    reference_weights: Any = None,
    truth: Mapping[str, Any] | None = None,
    bins: WholeLike = 30,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """A histogram for each quantity of interest, with the reference over it.

        flow = {"ln of the flow": np.log(flows)}
        px.plot.quantities(flow, weights=found.weights, reference=exact, truth=true)

    Bars are the samples, the dark outline is the reference, the dashed line the truth.
    Both histograms are densities over the same bins.

    **Arguments:**

    - `values`: by name, one number for each sample.
    - `weights`: of the samples, all equal by default; `reference_weights` of the draws
      of the reference.
    - `reference`: draws of a trusted posterior, by the same names; some may be missing.
    - `truth`: the true numbers, by name.
    - `axes`: the Matplotlib axes to draw on, one for each quantity; else a new figure.
    """
    bins = whole_number("bins", bins)
    require(
        None,
        len(values) > 0,
        "values maps names to numbers of samples, got none. Pass {'ln Q': numbers}.",
    )
    known, true = reference or {}, truth or {}
    for word, names in (("reference", known), ("truth", true)):
        extra = sorted(set(names) - set(values))
        require(
            None,
            not extra,
            f"{word} has the names {extra}, which values has not: expected some of "
            f"{sorted(values)}. Pass values of them, or leave them out.",
        )
    drawn = axes_for(len(values), axes, across=min(len(values), 3))
    for ax, (name, given) in zip(drawn, values.items(), strict=True):
        x, w = _numbers(name, given, weights, "weights")
        sets = [(x, w)]
        if name in known:
            sets.append(
                _numbers(name, known[name], reference_weights, "reference_weights")
            )
        edges = _edges(sets, bins)
        (heights, *others) = (
            np.histogram(x, edges, weights=w)[0] / np.diff(edges) for x, w in sets
        )
        ax.stairs(
            heights, edges, fill=True, color=COLOURS[0], alpha=0.5, label="samples"
        )
        for heights in others:
            ax.stairs(heights, edges, color="0.15", lw=1.5, label="reference")
        if name in true:
            at = float(np.asarray(true[name]))
            ax.axvline(at, color=COLOURS[1], ls="--", label="truth")
        ax.set(xlabel=name, ylabel="density")
    if known or true:
        drawn[0].legend(frameon=False)
    return drawn


def _numbers(
    name: str, given: Any, weights: Any, word: str
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers, and weights that add up to one."""
    x = np.asarray(given, float)
    require(
        None,
        x.ndim == 1,
        f"{name!r} must be one number for each sample, an array of one axis, got the "
        f"shape {x.shape}. Compute the quantity of each sample first.",
    )
    require_drawable(repr(name), x)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    require(
        None,
        w.shape == x.shape and (w >= 0).all() and w.sum() > 0,
        f"{word} are one number from zero for each of the {len(x)} samples of "
        f"{name!r}, got the shape {w.shape} with the sum {w.sum():.3g}. Leave them out "
        "for equal ones.",
    )
    return x, w / w.sum()


def _edges(sets: list[tuple[np.ndarray, np.ndarray]], bins: int) -> np.ndarray:
    """Of equal bins, between the outermost quantiles of the sets."""
    ends = []
    for x, w in sets:
        order = np.argsort(x)
        below = np.cumsum(w[order])
        first, last = np.searchsorted(below, (_MARGIN, 1 - _MARGIN))
        ends.append((x[order][first], x[order][min(last, len(x) - 1)]))
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    width = (high - low) or max(abs(low), 1.0)
    return np.linspace(low - 0.02 * width, high + 0.02 * width, bins + 1)
