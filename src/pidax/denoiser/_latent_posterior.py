r"""The law of a clean sample given a noised one, for data that a function makes.

With $x_0 = G(\xi)$, $\xi \sim N(0, I)$ (the modes of a coefficient, and a solver), the
latent given $x = \alpha x_0 + \sigma\epsilon$ has

$$ -\log p(\xi \mid x) = \tfrac12 |\xi|^2
   + \frac{|x - \alpha G(\xi)|^2}{2\sigma^2} + \text{const}. $$

Gauss and Newton find its maximum, $H = I + \alpha^2 J^T J/\sigma^2$ is its curvature
there, $N(\xi_*, H^{-1})$ proposes samples, and weights correct what is not Gaussian.
Linear $G$ needs no correction; nor does a smooth one at small noise, where a finite
set of samples says nothing at all.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..types import Key, Sample, SampleLike, ScalarLike, typed
from ._base import as_arrays
from ._clean_posterior import WeightedSamples

_FRACTIONS = (1.0, 0.5, 0.2, 0.05, 0.0)  # of a Newton step: the best is taken


@typed
def latent_posterior(
    make: Callable[..., Sample],
    latents: int,
    x: SampleLike,
    sigma: ScalarLike,
    alpha: ScalarLike = 1.0,
    *,
    key: Key,
    samples: int = 512,
    iterations: int = 10,
) -> WeightedSamples:
    r"""Weighted samples of $x_0 = G(\xi)$ given $\alpha x_0 + \sigma\epsilon = x$.

    `make` is $G$, from `latents` standard normal numbers to one sample. The weighted
    mean is a denoiser of the true law, not of a data set's; how many samples it is
    worth is `.effective`, and near one it is worth nothing: the posterior is then far
    from Gaussian (jumps, several maxima), or $\xi$ has too many directions.

    Costs `samples + iterations * (latents + 5)` calls of $G$, most of them at once.
    """
    x, sigma, alpha = as_arrays(x, sigma, alpha)
    signal = lambda xi: alpha * make(xi).ravel() / sigma
    target = x.ravel() / sigma

    def energy(xi):
        return 0.5 * (jnp.sum((target - signal(xi)) ** 2) + jnp.sum(xi**2))

    def curvature(xi):
        jacobian = jax.jacfwd(signal)(xi)
        return jacobian, jacobian.T @ jacobian + jnp.eye(latents, dtype=x.dtype)

    def newton(xi, _):
        jacobian, hessian = curvature(xi)
        slope = jacobian.T @ (target - signal(xi)) - xi
        step = jnp.linalg.solve(hessian, slope)
        tried = xi + jnp.asarray(_FRACTIONS, x.dtype)[:, None] * step
        best = jnp.argmin(jax.vmap(energy)(tried))
        return tried[best], None

    start = jnp.zeros(latents, x.dtype)
    mode, _ = jax.lax.scan(newton, start, length=iterations)
    root = jnp.linalg.cholesky(curvature(mode)[1])
    half = jax.random.normal(key, (max(1, -(-samples // 2)), latents), x.dtype)
    z = jnp.concatenate([half, -half])
    xi = mode + jax.scipy.linalg.solve_triangular(root.T, z.T, lower=False).T
    values = jax.vmap(make)(xi)
    distance = jnp.sum((target - alpha * values.reshape(len(z), -1) / sigma) ** 2, 1)
    log_weights = 0.5 * (jnp.sum(z**2, 1) - distance - jnp.sum(xi**2, 1))
    return WeightedSamples(values, jax.nn.softmax(log_weights))
