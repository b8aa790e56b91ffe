r"""Randomised maximum likelihood: one minimisation for each sample.

Each sample starts from a draw of the prior, and is the minimum of the distance to this
draw and the misfit to observations with a draw of their own noise. If the prior, the
forward map and the residual are linear, the minima are independent samples of the
posterior. Otherwise they are approximate, also in the limit of many samples and of
exact minimisers. Kitanidis 1995; Oliver, He & Reynolds 1996, "Conditioning permeability
fields to pressure data". It is called *randomise, then optimise* as well; the method of
Bardsley et al. 2014 of this name has weights that make it exact.

Minima have importance weights $w$ (`weigh=True`). With them they are proposals of a
Markov chain, accepted with the probability

$$ \min(1, w'/w), $$

whose samples have equal weights, and the law of the posterior in the limit.
"""

from typing import Any

import equinox as eqx
import numpy as np

from ._minimisers import AbstractMethod, AnySolver

CHAINS = 4  # into which the minima are dealt


class RandomisedMaximumLikelihood(eqx.Module):
    """`refine` as a method of `infer`: approximate unless the problem is linear.

    Use it for linear problems, for which it is exact and cheap; for exact observations;
    and for a first look at problems with many informative values, which chains explore
    slowly.

    **Arguments:** as for `refine`. With `weigh` the samples have importance weights,
    with which means are means of the posterior. With `metropolis` the minima are
    proposals of four Markov chains, which repeat samples of large weight; the result
    has their acceptance and effective sample sizes. Both need noise in every value.
    """

    solver: AbstractMethod | AnySolver | None = None
    tightness: float = 1e-3
    antithetic: bool = eqx.field(static=True, default=False)
    batch_size: int = eqx.field(static=True, default=256)
    weigh: bool = eqx.field(static=True, default=False)
    metropolis: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.metropolis and self.antithetic:
            raise ValueError(
                "the proposals of a Metropolis chain are independent: expected "
                "antithetic=False with metropolis=True, got True. Leave one out."
            )

    @property
    def caution(self) -> str:
        """Why its samples are approximate; "" if the reason is the usual one."""
        return ""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `refine`."""
        names = ("solver", "tightness", "antithetic", "batch_size")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"weigh": self.weigh or self.metropolis}


def metropolis(
    log_weights: np.ndarray, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The indices that chains of independent proposals visit, and their acceptance.

    The weights are in order of the chains, `CHAINS` of equal length, one after the
    other; `uniform` are as many numbers between zero and one.
    """
    value = log_weights.reshape(CHAINS, -1)
    allowed = np.log(uniform).reshape(value.shape)
    place = np.arange(value.size).reshape(value.shape)
    at, taken = np.zeros(CHAINS, int), np.zeros(value.shape, bool)
    rows = np.arange(CHAINS)
    visited = np.zeros_like(place)
    for i in range(value.shape[1]):
        with np.errstate(invalid="ignore"):  # from minus infinity to minus infinity
            taken[:, i] = allowed[:, i] < value[:, i] - value[rows, at]
        at = np.where(taken[:, i], i, at)
        visited[:, i] = place[rows, at]
    return visited.ravel(), taken[:, 1:].mean(axis=1)
