r"""The first step of a solve in closed form: at large noise all data look Gaussian.

For Gaussian data the solution of the probability-flow ODE is known. With the scale of
the data alone, $N(0, \sigma_{data}^2)$, it is constant in the angle chart,
$y(\varphi) = y(T)$: the velocity $v$ is zero at $T$.
"""

import jax.numpy as jnp

from .._checks import require, show
from ..denoiser import Gaussian
from ..flow import ProbabilityFlow, check_state
from ..types import Sample, SampleLike, ScalarLike, typed


@typed
def analytic_first_step(
    flow: ProbabilityFlow,
    z: SampleLike,
    t: ScalarLike,
    *,
    data: Gaussian | None = None,
) -> Sample:
    r"""The state at time `t` of the solution from `z` for Gaussian data; without an
    evaluation.

    $$ x(t) = \alpha_t m + R\,(z - \alpha_T m), \qquad
       R = \Bigl(\frac{\alpha_t^2 C + \sigma_t^2}
       {\alpha_T^2 C + \sigma_T^2}\Bigr)^{1/2} $$

    Continue from there with `px.solve(flow, x, times=(t, t_min), ...)`; it saves the
    first evaluations of a solve with few. The error of the step is of the order of
    $\alpha_t\sigma_{data}/\sigma_t$ for other data. So `t` should be a time at which
    $\sigma_t$ is still well above $\alpha_t\sigma_{data}$, or above the distance of the
    modes if `data` has the mean and the covariance of the data.

    **Arguments:**

    - `z`: a draw of `process.prior`.
    - `t`: the end of the step.
    - `data`: a `Gaussian` with the mean $m$ and the covariance $C$ of the data; by
      default $m = 0$, $C = \sigma_{data}^2$.

    Wang & Vastola 2023, "The hidden linear structure in score-based models".
    """
    process = flow.process
    z = check_state(flow, jnp.asarray(z), "z")
    t = jnp.asarray(t, z.dtype)
    t = require(
        t,
        (t >= process.t_min) & (t <= process.t_max),
        f"t must lie between t_min={show(process.t_min)} and "
        f"t_max={show(process.t_max)}, got {show(t)}. Pass the end of the first step.",
    )
    if data is None:
        scale = jnp.asarray(process.sigma_data, z.dtype)
        data = Gaussian(jnp.zeros_like(z), scale**2)
    start = process.level(jnp.asarray(process.t_max, z.dtype))
    return data.transport(z, start, process.level(t))
