r"""Randomised maximum likelihood: one minimisation for each sample.

Each sample starts from a draw of the prior, and is the minimum of the distance to this
draw and the misfit to observations with a draw of their own noise. If the prior, the
forward map and the residual are linear, the minima are independent samples of the
posterior. Otherwise they are approximate, also in the limit of many samples and of
exact minimisers. Kitanidis 1995; Oliver, He & Reynolds 1996, "Conditioning permeability
fields to pressure data". It is called *randomise, then optimise* as well; the method of
Bardsley et al. 2014 of this name has weights that make it exact.
"""

from typing import Any

import equinox as eqx

from ._minimisers import AbstractMethod, AnySolver


class RandomisedMaximumLikelihood(eqx.Module):
    """`refine` as a method of `infer`: approximate unless the problem is linear.

    Use it for linear problems, for which it is exact and cheap; for exact observations;
    and for a first look at problems with many informative values, which chains explore
    slowly.

    **Arguments:** as for `refine`. With `weigh` the samples have importance weights,
    with which means are means of the posterior as far as the minimum is unique.
    """

    solver: AbstractMethod | AnySolver | None = None
    tightness: float = 1e-3
    antithetic: bool = eqx.field(static=True, default=False)
    batch_size: int = eqx.field(static=True, default=256)
    weigh: bool = eqx.field(static=True, default=False)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `refine`."""
        names = ("solver", "tightness", "antithetic", "batch_size", "weigh")
        return {name: getattr(self, name) for name in names}
