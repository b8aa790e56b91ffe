r"""Bayes' rule for Gaussians: the exact posterior given noisy linear observations.

With $x_0 = m + Fw$, $w \sim N(0, I)$, and $b = A x_0 + s\eta$, the singular value
decomposition $AF = U S V^T$ decouples the components of $V^T w$: each has the
variance $s^2 / (S^2 + s^2)$ and the mean $S\,(U^T(b - Am)) / (S^2 + s^2)$. Nothing is
inverted, so noise-free observations ($s = 0$) are as exact as any others.
"""

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, show
from ..types import ScalarLike, typed
from ._covariance import Covariance
from ._gaussian import Gaussian


@typed
def posterior(
    prior: Gaussian,
    operator: Float[Array | np.ndarray, "observation *event"]
    | lx.AbstractLinearOperator,
    observations: Float[Array | np.ndarray, " observation"],
    noise: ScalarLike,
) -> Gaussian:
    r"""The law of $x_0$ given $b = A x_0 + s\,\eta$, $\eta \sim N(0, I)$: a `Gaussian`.

    Like every denoiser it has a flow, samples and a density: the oracle against which
    inverse methods are tested. `operator` is an array whose last axes are the event's,
    or a Lineax operator on the event; `noise` is the standard deviation $s \ge 0$.
    Costs `O(size^3)` once.

    Where directions are neither observed exactly nor constrained by the prior the
    covariance has full rank; with `noise=0` it is singular, and the posterior's
    samples satisfy the observations to rounding.
    """
    observations = jnp.asarray(observations)
    rows = _rows(operator, prior, observations.shape[0])
    noise = jnp.asarray(noise, rows.dtype)
    noise = require(
        noise,
        noise >= 0,
        f"noise is a standard deviation and must not be negative, got {show(noise)}.",
    )
    factor = prior.covariance.factor(prior.shape)
    left, singular, right = jnp.linalg.svd(rows @ factor, full_matrices=True)
    columns = factor.shape[1]
    misfit = left.T @ (observations - rows @ prior.mean.ravel())
    # Pad to every direction of w: those beyond the observations keep their prior.
    singular = _fit(singular, columns)
    misfit = _fit(misfit[: min(misfit.size, columns)], columns)
    # Below rounding a direction is not observed at all, whatever the noise.
    floor = columns * jnp.finfo(rows.dtype).eps * singular.max()
    observed = singular > floor
    total = jnp.where(observed, singular**2 + noise**2, 1.0)
    mean_w = jnp.where(observed, singular / total, 0.0) * misfit
    std_w = jnp.where(observed, noise / jnp.sqrt(total), 1.0)
    mean = prior.mean + (factor @ (right.T @ mean_w)).reshape(prior.shape)
    new_factor = (factor @ right.T * std_w).reshape((*prior.shape, columns))
    return Gaussian(mean, Covariance.low_rank(new_factor))


def _rows(
    operator: Array | np.ndarray | lx.AbstractLinearOperator,
    prior: Gaussian,
    count: int,
) -> Float[Array, "observation size"]:
    if isinstance(operator, lx.AbstractLinearOperator):
        rows = operator.as_matrix()
    else:
        rows = jnp.asarray(operator)
    event = rows.shape[1:]
    if event != prior.shape and event != (prior.mean.size,):
        raise ValueError(
            f"operator must map an event of shape {prior.shape} to {count} "
            f"observations, so have the shape {(count, *prior.shape)}, got "
            f"{rows.shape}."
        )
    return rows.reshape(count, -1)


def _fit(values: Array, size: int) -> Array:
    return jnp.zeros(size, values.dtype).at[: values.size].set(values)
