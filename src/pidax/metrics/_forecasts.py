r"""Scores of forecasts: an ensemble of samples against what came true.

A score of one number would be smallest for a forecast that is too certain. The scores
here are *proper*: in the mean over many cases the law from which the truths are drawn
has the best score. They are *fair* as well: with $K$ samples the score has the mean
that infinitely many samples would have, so that ensembles of different sizes can be
compared. Samples are the first axis, cases and points all others. Average over cases;
bootstrap cases, not points (`metrics.bootstrap`).

Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and estimation";
Ferro 2014, "Fair scores for ensemble forecasts".
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._checks import as_float, require
from ..types import Key, Scalar, ScalarLike, typed

Forecast = Float[Array | np.ndarray, "sample *case"]
Truth = Float[Array | np.ndarray, "*case"]
_KOLMOGOROV = 1.358  # the 95% quantile of sqrt(n) sup|F_n - F|


@typed
def crps(samples: Forecast, truth: Truth) -> Float[Array, "*case"]:
    r"""The fair continuous ranked probability score of each case.

    $$ \frac1K\sum_i |x_i - y| - \frac{1}{2K(K-1)}\sum_{i,j} |x_i - x_j|, $$

    in the unit of the truth; 0 is the best. Of $N(m, s^2)$ and the truth $y$ its mean
    is $s\,[z(2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi]$, $z = (y - m)/s$. Cost: a sort.
    """
    count = _several(samples)
    samples, truth = jnp.asarray(samples), jnp.asarray(truth, samples.dtype)
    ranked = jnp.sort(samples, axis=0)
    # Of sorted numbers, the sum over pairs of |x_i - x_j| is one of 2(2i - K + 1) x_i.
    weights = 2 * (2 * np.arange(count) - count + 1)
    weights = jnp.asarray(weights.reshape(-1, *(1,) * truth.ndim), samples.dtype)
    pairs = jnp.sum(weights * ranked, axis=0)
    return jnp.mean(jnp.abs(samples - truth), axis=0) - pairs / (
        2 * count * (count - 1)
    )


@typed
def energy_score(
    samples: Float[Array | np.ndarray, "sample *event"],
    truth: Float[Array | np.ndarray, "*event"],
) -> Scalar:
    r"""The fair energy score of one case: `crps` with norms of whole events.

    $$ \frac1K\sum_i |x_i - y| - \frac{1}{2K(K-1)}\sum_{i,j} |x_i - x_j|. $$

    It sees dependence between points, though weakly. Divide fields of different units
    by their standard deviations first. `jax.vmap` for several cases. Cost: $K^2$
    distances.
    """
    count = _several(samples)
    flat = jnp.asarray(samples).reshape(count, -1)
    apart = jax.vmap(lambda x: _norms(flat - x).sum())(flat)
    near = _norms(flat - jnp.asarray(truth, flat.dtype).ravel()).mean()
    return near - apart.sum() / (2 * count * (count - 1))


@typed
def brier(
    events: Bool[Array | np.ndarray, "sample *case"],
    truth: Bool[Array | np.ndarray, "*case"],
) -> Float[Array, "*case"]:
    r"""The fair Brier score of an event: $(p - y)^2 - p(1-p)/(K-1)$, $p$ the share of
    samples in which it happens.

    Of a probability $p$ and an event of probability $q$ its mean is $q(1-q) + (p-q)^2$.
    """
    count = _several(events)
    p = jnp.mean(jnp.asarray(events, float), axis=0)
    y = jnp.asarray(truth, p.dtype)
    return (p - y) ** 2 - p * (1 - p) / (count - 1)


class Coverage(NamedTuple):
    """How many truths are inside their central intervals.

    `share` of `cases`, and the two ends of the interval of shares that a true
    probability could have had (Wilson). `level` is what was asked for; `agrees` says
    whether it lies between the ends.
    """

    level: float
    share: float
    low: float
    high: float
    cases: int

    @property
    def agrees(self) -> bool:
        return self.low <= self.level <= self.high

    def __str__(self) -> str:
        words = "agree" if self.agrees else "do not agree"
        return (
            f"{self.share:.1%} of {self.cases} truths in the {self.level:.0%} "
            f"intervals (95%: {self.low:.1%} to {self.high:.1%}): they {words}"
        )


@typed
def coverage(
    samples: Float[Array | np.ndarray, "sample case"],
    truth: Float[Array | np.ndarray, " case"],
    *,
    level: ScalarLike = 0.9,
    confidence: ScalarLike = 0.95,
) -> Coverage:
    r"""The share of truths inside the central interval of their samples.

    A truth is inside if its rank among the $K$ samples is in the middle. If it is drawn
    from the same law, every one of the $K+1$ ranks is equally likely, so that intervals
    between order statistics hold exactly $j/(K+1)$: the interval of the largest such
    share of at most `level` is used, and the rest of the level by chance. So the
    expected share is `level`, for any $K$.

    Cases are independent truths. Points of one field are not: take functionals of each
    field, or one point. The interval of the share is Wilson's.
    """
    level, confidence = as_float(level), as_float(confidence)
    require(
        None,
        0 < level < 1 and 0 < confidence < 1,
        f"level and confidence lie between 0 and 1, got {level} and {confidence}. "
        "0.9 and 0.95 are usual.",
    )
    samples, truth = np.asarray(samples), np.asarray(truth)
    count = _several(samples)
    below = (samples < truth).sum(axis=0)
    equal = (samples == truth).sum(axis=0)
    rank = below + equal / 2
    # The middle `level` of K + 1 ranks; the two at its ends count in part.
    tail = (1 - level) / 2 * (count + 1)
    inside = np.clip(np.minimum(rank + 1 - tail, count + 1 - tail - rank), 0, 1)
    share, cases = float(inside.mean()), int(inside.size)
    low, high = wilson(share * cases, cases, confidence)
    return Coverage(level, share, low, high, cases)


def wilson(inside: float, cases: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""The interval of a probability from `inside` of `cases` (Wilson 1927).

    $$ \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}. $$
    """
    from statistics import NormalDist

    if not (cases >= 1 and 0 <= inside <= cases and 0 < confidence < 1):
        raise ValueError(
            "expected a number of cases, how many of them are inside, and a confidence "
            f"between 0 and 1, got {inside} of {cases} at {confidence}."
        )
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), inside / cases
    middle = p + z**2 / (2 * cases)
    half = z * math.sqrt(p * (1 - p) / cases + z**2 / (4 * cases**2))
    below = 1 + z**2 / cases
    low = 0.0 if inside == 0 else (middle - half) / below
    return low, 1.0 if inside == cases else (middle + half) / below


class RankHistogram(NamedTuple):
    """How often the truth has each rank among its samples.

    `counts` in bins of `expected` cases each if truth and samples are of one law: flat
    then. A hump is too much spread, a bowl too little, a slope a bias. `chi_squared` is
    $\\sum (c - e)^2/e$, whose mean is `degrees` for one law.
    """

    counts: Int[np.ndarray, " bin"]
    expected: float
    chi_squared: float
    degrees: int


@typed
def rank_histogram(
    samples: Float[Array | np.ndarray, "sample case"],
    truth: Float[Array | np.ndarray, " case"],
    *,
    key: Key,
    bins: int | None = None,
) -> RankHistogram:
    """The ranks of truths among their samples, from 0 to the number of samples.

    Equal numbers are ordered by chance. `bins` must divide the number of samples plus
    one; by default it is the number of ranks. Talts et al. 2018, "Validating Bayesian
    inference algorithms with simulation-based calibration".
    """
    samples, truth = np.asarray(samples), np.asarray(truth)
    count = _several(samples)
    bins = count + 1 if bins is None else bins
    if bins < 2 or (count + 1) % bins:
        raise ValueError(
            f"bins of equal width divide the {count + 1} ranks among {count} samples, "
            f"got bins={bins}. Leave out samples, so that their number plus one is a "
            "multiple of the bins."
        )
    below, equal = (samples < truth).sum(axis=0), (samples == truth).sum(axis=0)
    uniform = np.asarray(jax.random.uniform(key, truth.shape))
    ranks = below + np.floor(uniform * (equal + 1)).astype(int)
    counts = np.bincount(ranks * bins // (count + 1), minlength=bins)
    expected = truth.size / bins
    chi = float(((counts - expected) ** 2 / expected).sum())
    return RankHistogram(counts, expected, chi, bins - 1)


class Tarp(NamedTuple):
    """The expected coverage of regions of every level, from random points.

    `share` of the truths is inside regions of the `level`, for levels from 0 to 1. For
    the right posterior both are equal. `distance` is the largest difference (Kolmogorov
    and Smirnov), and `bound` the one that `cases` independent truths exceed in 5% of
    tests; `agrees` says whether it is smaller. A share below the level at high levels
    and above it at low ones is too little spread.
    """

    level: Float[np.ndarray, " rank"]
    share: Float[np.ndarray, " rank"]
    distance: float
    bound: float
    cases: int

    @property
    def agrees(self) -> bool:
        return self.distance <= self.bound

    def __str__(self) -> str:
        words = "agree" if self.agrees else "do not agree"
        return (
            f"coverage and level differ by {self.distance:.3f} at most over "
            f"{self.cases} truths (5% of tests: {self.bound:.3f}): they {words}"
        )


@typed
def tarp(
    samples: Float[Array | np.ndarray, "sample case *event"],
    truth: Float[Array | np.ndarray, "case *event"],
    *,
    key: Key,
    references: Float[Array | np.ndarray, "case *event"] | None = None,
) -> Tarp:
    r"""Coverage of whole events, tested with a random point in each case.

    The ball about a reference point $r$ that reaches to the truth $y$ holds the share
    $f$ of the samples. If truth and samples are of one law, $f$ is uniform, whatever
    the point: so the ball of a given share of samples has this share of the truths.
    `coverage` and `rank_histogram` are of one number of each case; these are of all
    entries at once.

    **Arguments:**

    - `samples`, `truth`: independent cases, with events of any shape. Divide fields of
      different units by their standard deviations first.
    - `references`: one point for each case, which must not depend on its truth; by
      default the truth of another case, drawn at random, which has the size and the
      smoothness of an event. Points that depend on the case's observation find more:
      samples of the prior, which ignore the observation, pass with all others.

    Equal distances are ordered by chance. Cost: one distance for each sample. Lemos et
    al. 2023, "Sampling-based accuracy testing of posterior estimators for general
    inference".
    """
    samples, truth = np.asarray(samples), np.asarray(truth)
    count, cases = _several(samples), len(truth)
    require(
        None,
        cases >= 2,
        f"a test of coverage needs many cases, expected at least two, got {cases}. "
        "Draw truths from the prior, and infer each.",
    )
    first, second = jax.random.split(key)
    if references is None:
        others = np.asarray(jax.random.randint(first, (cases,), 1, cases))
        references = truth[(np.arange(cases) + others) % cases]
    flat = lambda x: np.asarray(x).reshape(*x.shape[: x.ndim - truth.ndim + 1], -1)
    from_point = lambda x: np.linalg.norm(
        flat(x) - flat(np.asarray(references)), axis=-1
    )
    reached, each = from_point(truth), from_point(samples)
    below, equal = (each < reached).sum(axis=0), (each == reached).sum(axis=0)
    uniform = np.asarray(jax.random.uniform(second, (cases,)))
    ranks = below + np.floor(uniform * (equal + 1)).astype(int)
    share = np.cumsum(np.bincount(ranks, minlength=count + 1)) / cases
    share = np.concatenate([[0.0], share])
    level = np.arange(count + 2) / (count + 1)
    distance = float(np.abs(share - level).max())
    return Tarp(level, share, distance, _KOLMOGOROV / math.sqrt(cases), cases)


@typed
def spread_skill_ratio(samples: Forecast, truth: Truth) -> Scalar:
    r"""The spread of the samples over the error of their mean, over all cases:

    $$ \Bigl(\frac{K+1}{K}\;
       \frac{\operatorname{mean} s^2}{\operatorname{mean} (\bar x - y)^2}\Bigr)^{1/2},
    $$

    with the unbiased variances $s^2$. 1 for samples of the right law, for any number
    $K$ of them; below 1 too little spread. It sees the size of the spread alone, not
    its place: see `rank_histogram`. Fortin et al. 2014, "Why should ensemble spread
    match the RMSE of the ensemble mean?".
    """
    count = _several(samples)
    samples = jnp.asarray(samples)
    error = jnp.mean(samples, axis=0) - jnp.asarray(truth, samples.dtype)
    spread = jnp.mean(jnp.var(samples, axis=0, ddof=1))
    return jnp.sqrt((count + 1) / count * spread / jnp.mean(error**2))


def _norms(rows: Array) -> Array:
    """The length of each row; its derivative at zero is taken to be zero."""
    square = jnp.sum(jnp.square(rows), axis=1)
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def _several(samples: Array | np.ndarray) -> int:
    count = samples.shape[0]
    if count < 2:
        raise ValueError(
            f"a fair score needs two samples or more of each case, got {count}. The "
            "spread of one sample is not known."
        )
    return count
