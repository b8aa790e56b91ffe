r"""Jensen's gap: the residual of a posterior mean differs from the mean residual.

$$ \mathrm{gap}(x) = E[R(x_0) \mid x] - R(E[x_0 \mid x]) $$

A denoiser returns a mean of clean samples. If each of them has zero residual, the
residual of the mean is minus the gap. It is not zero for a perfect model, and forcing
it to zero makes the model worse. For affine $R$ (Poisson, Helmholtz, heat) the gap is
zero. For quadratic $R$ it is a covariance,

$$ \mathrm{gap} = \tfrac12 E\bigl[D^2R[\delta, \delta] \,\big|\, x\bigr],
   \qquad \delta = x_0 - E[x_0 \mid x], $$

which is $-\nabla\cdot\mathrm{Cov}(a, \nabla u)$ for Darcy's flow, $\tfrac12 \partial_x
\mathrm{Var}(u)$ for Burgers' equation, and $E|\delta|^2$ on a circle. A residual
of clean samples, as in PIDDM, has no gap.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..denoiser import AbstractDenoiser, WeightedSamples, clean_posterior
from ..types import Key, Sample, SampleLike, Scalar, ScalarLike, WholeLike, typed
from ._constraint import AbstractConstraint

ResidualOf = AbstractConstraint | Callable[[Sample], Array]


class JensenGap(NamedTuple):
    """Both sides of Jensen's inequality, and their difference."""

    gap: Float[Array, "*residual"]
    mean_residual: Float[Array, "*residual"]
    """E[R(x0) | x]: zero if every sample solves the equation."""
    residual_of_mean: Float[Array, "*residual"]
    """R(E[x0 | x]): what is seen if the denoiser's answer is judged."""
    effective: Scalar
    """How many samples the posterior's are worth; one is none."""


@typed
def jensen_gap(
    residual: ResidualOf,
    denoiser: AbstractDenoiser,
    x: SampleLike,
    sigma: ScalarLike,
    alpha: ScalarLike = 1.0,
    *,
    key: Key | None = None,
    samples: WholeLike = 1024,
) -> JensenGap:
    """$E[R(x_0) | x] - R(E[x_0 | x])$ if the distribution of $x_0$ given $x$ is known.

    `residual` is a constraint, or any function of one clean sample. `denoiser` is an
    exact one; [`clean_posterior`][pidax.denoiser.clean_posterior] lists them, and
    explains `key` and `samples`. Takes one noised sample `x`; use `jax.vmap` for a
    batch.
    """
    law = clean_posterior(denoiser, x, sigma, alpha, key=key, samples=samples)
    return gap_of(residual, law)


def gap_of(residual: ResidualOf, law: WeightedSamples) -> JensenGap:
    """The gap under a distribution of clean samples, from weighted samples of it."""
    apply = _function(residual)
    mean_residual = law.expect(jax.vmap(apply)(law.values))
    residual_of_mean = apply(law.mean)
    gap = mean_residual - residual_of_mean
    return JensenGap(gap, mean_residual, residual_of_mean, law.effective)


def covariance_term(
    residual: ResidualOf, law: WeightedSamples
) -> Float[Array, "*residual"]:
    r"""$\tfrac12 E[R(m + \delta) - 2R(m) + R(m - \delta)]$ around the mean $m$.

    For a residual that is quadratic in the sample (bilinear included) it is $\tfrac12
    E\,D^2R[\delta, \delta]$ and equals the gap. Otherwise it is the part of the gap
    that is even in $\delta$. Costs two residuals a sample.
    """
    apply, mean = _function(residual), law.mean

    def even(delta: Sample) -> Array:
        return 0.5 * (apply(mean + delta) + apply(mean - delta)) - apply(mean)

    return law.expect(jax.vmap(even)(law.values - mean))


def _function(residual: ResidualOf) -> Callable[[Sample], Array]:
    if isinstance(residual, AbstractConstraint):
        return residual.residual
    return lambda x: jnp.asarray(residual(x))
