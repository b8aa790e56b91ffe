r"""EDM's stochastic sampler, which adds some noise before each step.

Noise is added to raise the noise level from $\sigma_i$ to
$\hat\sigma_i = (1 + \gamma_i)\, \sigma_i$. A step of Heun's method then leads to
$\sigma_{i+1}$ (Karras et al. 2022, Algorithm 2). New noise reduces earlier errors.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import as_float, check_interval, require, require_positive, show
from ..process import karras
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, TimesLike, typed
from ._probability_flow import ProbabilityFlow

_STEPS = 18
_MOST = 2**0.5 - 1  # of gamma: the variance is at most doubled


@typed
def sample_with_churn(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    key: Key,
    times: TimesLike | None = None,
    churn: ScalarLike = 0.0,
    interval: tuple[ScalarLike, ScalarLike] = (0.0, float("inf")),
    noise: ScalarLike = 1.0,
    condition: Condition = None,
) -> Sample:
    r"""One clean sample from the prior draw `z`, by Heun's method with added noise
    (churn).

    Costs two evaluations a step and one for the last step, 35 by default. `churn=0` is
    the deterministic sampler. The best values depend on the teacher; Table 5 of Karras
    et al. 2022 lists theirs.

    **Arguments:**

    - `times`: decreasing, from `t_max`. A final 0 is the step to the clean sample, by
      one evaluation. By default `karras(18, process, final_zero=True)`.
    - `churn`: $S_{churn}$. $\gamma_i = \min(S_{churn}/N, \sqrt 2 - 1)$ in each of the
      $N$ steps whose noise level is in `interval`, and zero in the others. The denoiser
      is called at up to $\sqrt 2$ times such a level.
    - `noise`: $S_{noise}$, the standard deviation of the added noise; a little more
      than 1 compensates for a denoiser that removes too much.

    A denoiser with a table of levels (`IDDPMCoefficients`) is called at the nearest
    level, as in EDM's sampler. A process with $\alpha \ne 1$ is sampled in its ratios
    $\sigma/\alpha$, which must be finite: a `RectifiedFlow` needs a first time below 1.
    """
    process = flow.process
    churn, noise = as_float(churn), as_float(noise)
    require_positive(noise=noise)
    require(
        None,
        churn >= 0,
        f"churn must not be negative, got churn={churn}. Pass 0 for the ODE.",
    )
    low, high = check_interval("interval", interval, least=0, most=float("inf"))
    if times is None:
        times = karras(_STEPS, process, final_zero=True)
    x = jnp.asarray(z)
    times = jnp.asarray(times, x.dtype)
    sigma, alpha = process.level(times)
    sigma = jnp.where(times == 0, 0, sigma)
    alpha = jnp.where(times == 0, 1, alpha)
    fits = (alpha > 0).all() & (jnp.diff(sigma / alpha) < 0).all()
    sigma = require(
        sigma,
        fits,
        "times must decrease in noise, from one at which there is a signal "
        f"(alpha > 0), got {show(times)}. Leave them out, or start below the "
        "time of pure noise.",
    )
    # A network with a table of levels (iDDPM) is called at these levels.
    nearest = getattr(flow.denoiser, "nearest_level", lambda level: level)
    levels = nearest(sigma / alpha)
    gamma = jnp.minimum(jnp.asarray(churn / (times.size - 1), x.dtype), _MOST)
    gammas = jnp.where((levels >= low) & (levels <= high), gamma, 0.0)[:-1]

    def denoised(x: Array, level: Array) -> Array:
        return flow.denoiser(x, level, 1.0, condition).astype(x.dtype)

    def step(x: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        level, after, gamma, key = now
        raised = nearest(level * (1 + gamma))
        # As a product: a difference of squares is contracted, and goes below zero.
        spread = noise * jnp.sqrt((raised - level) * (raised + level))
        x = x + spread * jax.random.normal(key, x.shape, x.dtype)
        slope = (x - denoised(x, raised)) / raised
        guess = x + (after - raised) * slope

        def heun() -> Array:
            other = (guess - denoised(guess, after)) / after
            return x + (after - raised) * (slope + other) / 2

        return jax.lax.cond(after > 0, heun, lambda: guess), None

    keys = jax.random.split(key, times.size - 1)
    rows = (levels[:-1], levels[1:], gammas, keys)
    x, _ = jax.lax.scan(step, x / alpha[0], rows)
    return x * alpha[-1]
