r"""Whether chains can be believed: split R-hat and effective sample sizes.

For $m$ chains of $n$ draws, with $W$ the mean variance within chains and $B/n$ the
variance of their means,

$$ \hat R = \sqrt{\frac{(n-1)/n \cdot W + B/n}{W}}, \qquad
   \mathrm{ESS} = \frac{mn}{1 + 2\sum_{t \ge 1} \rho_t}, $$

where each chain is split into halves, which shows a drift, and draws are replaced by
normal scores of their ranks, which shows differences of scale and bears heavy tails.
The autocorrelations $\rho_t$ of all chains together are summed until the sum of two
neighbours is negative, after these sums have been made to decrease (Geyer 1992). The
*bulk* size is of the ranked draws, the *tail* size is the smaller one of the indicators
of the 5% and the 95% quantile. Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021,
"Rank-normalization, folding, and localization: an improved R-hat".

An autoregressive chain, $x_{t+1} = \rho x_t + \sqrt{1 - \rho^2}\,\eta_t$, has
$\mathrm{ESS} = n(1-\rho)/(1+\rho)$.
"""

import functools
from statistics import NormalDist

import numpy as np
from jaxtyping import Array, Float, Int

from ..types import typed

Chains = Float[Array | np.ndarray, "chain draw *quantity"]
Numbers = Float[np.ndarray, "*quantity"]


@typed
def r_hat(chains: Chains, *, ranked: bool = True) -> Numbers:
    r"""Split $\hat R$ of each quantity: 1 if the chains agree; below 1.01 is usual.

    With `ranked` it is the larger one of the values of the draws' ranks and of the
    ranks of their distances from the median. It is NaN for a quantity that is constant.
    """
    halves = _split(chains)
    if not ranked:
        return np.asarray(_r_hat(halves))
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    worst = np.maximum(_r_hat(_scores(halves)), _r_hat(_scores(folded)))
    return np.asarray(worst)


@typed
def bulk_ess(chains: Chains) -> Numbers:
    """The effective number of draws for means and medians of each quantity."""
    return np.asarray(_ess(_scores(_split(chains))))


@typed
def tail_ess(chains: Chains) -> Numbers:
    """The effective number of draws for the 5% and 95% quantiles of each quantity."""
    halves = _split(chains)
    low, high = np.quantile(halves, [0.05, 0.95], axis=(0, 1))
    sizes = [_ess((halves <= end).astype(float)) for end in (low, high)]
    return np.asarray(np.fmin(*sizes))


@typed
def effective_samples(chains: Chains) -> Numbers:
    """The effective number of draws for the mean of each quantity, without ranks."""
    return np.asarray(_ess(_split(chains)))


@typed
def genealogical_ess(
    samples: Float[Array | np.ndarray, "sample *quantity"],
    ancestors: Int[Array | np.ndarray, " sample"],
) -> Numbers:
    r"""The effective number of particles for the mean of each quantity.

    Particles that descend from the same first particle are not independent. With $S_a$
    the sum of $\phi - \bar\phi$ over the descendants of the first particle $a$, the
    variance of the mean is estimated by $\sum_a S_a^2/N^2$ (Lee & Whiteley 2018,
    "Variance estimation in the particle filter").
    """
    values = np.asarray(samples, np.float64)
    values = values - values.mean(axis=0)
    names, index = np.unique(np.asarray(ancestors), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = len(values) * (values**2).sum(axis=0) / (sums**2).sum(axis=0)
    return np.asarray(np.minimum(size, len(values)))


def _split(chains: Chains) -> np.ndarray:
    """The halves of all chains as chains, in double precision."""
    draws = np.asarray(chains, np.float64)
    if draws.shape[0] < 2 or draws.shape[1] < 4:
        raise ValueError(
            "a diagnostic compares chains: expected at least two of at least four "
            f"draws, (chain, draw, ...), got shape {draws.shape}. Run several chains "
            "from different starts."
        )
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _scores(draws: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks among all draws, quantity by quantity."""
    rows = draws.reshape(draws.shape[0] * draws.shape[1], -1).T
    count = rows.shape[1]
    order, index = np.argsort(rows, axis=1), np.arange(count)
    ordered = np.take_along_axis(rows, order, axis=1)
    differ = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(rows), 1), bool)
    # Equal draws share a mean rank: of the first and the last of them.
    first = np.where(np.concatenate([edge, differ], axis=1), index, 0)
    last = np.where(np.concatenate([differ, edge], axis=1), index, count)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    twice = np.maximum.accumulate(first, axis=1) + last
    scores = np.empty(rows.shape)
    np.put_along_axis(scores, order, _normal_quantiles(count)[twice], axis=1)
    return scores.T.reshape(draws.shape)


@functools.lru_cache(maxsize=8)
def _normal_quantiles(count: int) -> np.ndarray:
    """Of the ranks 1, 1.5, 2, ..., count (Blom's scores)."""
    at = (np.arange(2, 2 * count + 1) / 2 - 0.375) / (count + 0.25)
    return np.array([NormalDist().inv_cdf(p) for p in at])


def _r_hat(draws: np.ndarray) -> np.ndarray:
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(axis=0)
    between = draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            _constant(draws), np.nan, np.sqrt((n - 1) / n + between / within)
        )


def _ess(draws: np.ndarray) -> np.ndarray:
    """Of all chains together; NaN for a quantity that is constant."""
    m, n = draws.shape[:2]
    centred = draws - draws.mean(axis=1, keepdims=True)
    # The autocovariance of each chain, divided by n at every lag.
    spectrum = np.abs(np.fft.rfft(centred, 2 * n, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :n].mean(axis=0) / n
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = 1 - (within - covariance * n / (n - 1)) / total
        rho[0] = 1.0
        pairs = rho[: n // 2 * 2].reshape(n // 2, 2, *rho.shape[1:]).sum(axis=1)
        going = np.logical_and.accumulate(pairs > 0)
        pairs = np.where(going, np.minimum.accumulate(pairs), 0.0)
        time = np.maximum(-1 + 2 * pairs.sum(axis=0), 1 / np.log10(m * n))
        return np.where(_constant(draws), np.nan, m * n / time)


def _constant(draws: np.ndarray) -> np.ndarray:
    return np.ptp(draws, axis=(0, 1)) == 0
