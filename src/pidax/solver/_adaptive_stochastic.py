r"""Adaptive steps for the stochastic sampler, with the error of each sample.

For every $\tau \ge 0$ the equation

$$ du = \Bigl[\dot\alpha D + \dot\sigma\hat\epsilon
      + \tau^2 \sigma\lambda^-\hat\epsilon\Bigr] ds
      + \tau\sigma\sqrt{2\lambda^-}\, dW, \qquad
   \lambda^- = \frac{\dot\sigma}{\sigma} - \frac{\dot\alpha}{\alpha}, $$

run from noise to data in the time $s$ of a clock, has the same distribution at every
time as the noise process: $\tau = 0$ is the probability-flow ODE, $\tau = 1$ the
reverse SDE (Song et al. 2021). The noise does not depend on the state, so Heun's method
has strong order one. Its first stage is Euler's method, and half the difference of the
two slopes is the error estimate (Jolicoeur-Martineau et al. 2021, "Gotta go fast when
generating data with score-based models").
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .._checks import require, require_positive, show
from ..flow import Path, ProbabilityFlow, check_state, check_times
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Times,
    typed,
)

RTOL, ATOL = 0.05, 0.02
EXPONENT, SAFETY = 0.9, 0.9  # the paper's: h <- 0.9 h E^-0.9
FIRST_STEP = 0.01  # of the way
FINEST = 2.0**-20  # of the way: the Brownian path is resolved to that
MAX_STEPS = 4096


class OfFewSizes(diffrax.AbstractStepSizeController):
    """A controller whose steps are shortened to `unit` times powers of 2^(1/8).

    A Brownian path changes by the square root of a change of time. With free sizes a
    rounding error in a step would grow to 1e-8, 1e-4 and 1e-2 in the next ones, and the
    same key would give another sample in another program.
    """

    inner: diffrax.AbstractStepSizeController
    unit: Scalar

    def wrap(self, direction: Any) -> "OfFewSizes":
        return OfFewSizes(self.inner.wrap(direction), self.unit)

    def init(self, terms: Any, t0: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        end, state = self.inner.init(terms, t0, *args, **kwargs)
        return self._shortened(t0, end), state

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        keep, next_t0, next_t1, jumped, state, result = self.inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )
        next_t1 = self._shortened(next_t0, next_t1)
        return keep, next_t0, next_t1, jumped, state, result

    def _shortened(self, t0: Any, t1: Any) -> Any:
        places = jnp.floor(8 * jnp.log2((t1 - t0) / self.unit))
        return t0 + self.unit * jnp.exp2(places / 8)


@typed
def solve_stochastic(
    flow: ProbabilityFlow,
    z: SampleLike,
    *,
    key: Key,
    noise: ScalarLike = 1.0,
    rtol: ScalarLike = RTOL,
    atol: ScalarLike = ATOL,
    condition: Condition = None,
    denoise: bool = False,
    max_steps: int = MAX_STEPS,
) -> Path:
    r"""Follow the stochastic equation from noise to data with adaptive steps, for one
    sample.

    The error of a step is kept below `atol + rtol |u|`, in the root mean square over
    the components of this sample. Under `jax.vmap` every sample has its own steps.
    New noise corrects earlier errors, so loose tolerances are usual. Two evaluations a
    step, rejected steps included; `path.stats["evaluations"]` counts them. There are
    about 150 with the defaults; to halve the tolerances about doubles them.

    A rejected step is repeated on the same Brownian path (a `VirtualBrownianTree` of
    `key`); to draw the noise again, as the paper does, would prefer small noise. The
    tolerance is for the clock's state, and a pair of states sets its scale as in
    Diffrax's controller.

    **Arguments:**

    - `z`: a draw of `process.prior`.
    - `key`: of the Brownian path. The same key gives the same path for every tolerance,
      so that two solves can be compared.
    - `noise`: $\tau$; 0 is the ODE.
    - `rtol`, `atol`: the paper takes `rtol` from 0.01 to 0.1.
    - `condition`, `denoise`: as in `solve`.

    A process without signal at `t_max` (`RectifiedFlow`) has infinite noise there and
    is refused: give it a last time below 1.
    """
    process = flow.process
    x = check_state(flow, jnp.asarray(z), "z")
    require_positive(rtol=rtol, atol=atol)
    ends, _ = check_times(None, process, -1, x.dtype)
    alpha = process.level(ends[0])[1]
    x = require(
        x,
        (noise >= 0) & (alpha > 2 * jnp.finfo(x.dtype).eps),
        "the stochastic equation needs noise >= 0 and a signal (alpha > 0) at t_max, "
        f"got noise={show(noise)} and alpha={show(alpha)}. Make the process with a "
        "smaller t_max, or use solve, which follows the ODE.",
    )
    numbers = tuple(jnp.asarray(number, x.dtype) for number in (noise, rtol, atol))
    return _compiled(flow, x, ends, key, numbers, condition, denoise, max_steps)


@eqx.filter_jit
def _compiled(
    flow: ProbabilityFlow,
    x: Sample,
    ends: Times,
    key: Key,
    numbers: tuple[Scalar, ...],
    condition: Condition,
    denoise: bool,
    max_steps: int,
) -> Path:
    noise, rtol, atol = numbers
    start, end = flow.clock.reading(flow.process, ends)

    def noise_lost(tau: Scalar) -> tuple[Scalar, ...]:
        sigma, alpha, sigma_rate, alpha_rate = flow.level(tau)
        lost = sigma_rate / sigma - alpha_rate / alpha
        return sigma, alpha, sigma_rate, alpha_rate, lost

    def drift(tau: Any, u: Sample, condition: Condition) -> Sample:
        sigma, alpha, sigma_rate, alpha_rate, lost = noise_lost(tau)
        x0 = flow.denoiser(u, sigma, alpha, condition).astype(u.dtype)
        eps = (u - alpha * x0) / sigma
        return alpha_rate * x0 + (sigma_rate + noise**2 * sigma * lost) * eps

    event = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def spread(tau: Any, u: Sample, condition: Condition) -> lx.AbstractLinearOperator:
        sigma, *_, lost = noise_lost(tau)
        return noise * sigma * jnp.sqrt(2 * lost) * lx.IdentityLinearOperator(event)

    way = start - end
    brownian = diffrax.VirtualBrownianTree(end, start, FINEST * way, event, key)
    controller = diffrax.PIDController(
        rtol, atol, icoeff=EXPONENT, safety=SAFETY, error_order=1.0
    )
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(
            diffrax.ODETerm(drift), diffrax.ControlTerm(spread, brownian)
        ),
        diffrax.Heun(),
        start,
        end,
        -FIRST_STEP * way,
        x * flow.magnification(ends[0]),
        args=condition,
        stepsize_controller=OfFewSizes(controller, way),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    last = solution.ys[-1] / flow.magnification(ends[1])
    each = flow.denoiser.evaluations(condition)
    calls = 2 * each * solution.stats["num_steps"]
    if denoise:
        last = flow.denoiser(last, *flow.process.level(ends[1]), condition)
        calls = calls + each
    last = eqx.error_if(
        last,
        ~diffrax.is_successful(solution.result) | ~jnp.isfinite(last).all(),
        f"the stochastic solve did not reach its end within max_steps={max_steps} "
        "steps, or its states are not finite. Loosen rtol and atol, or look for NaN in "
        "the denoiser's answers.",
    )
    stats = {**solution.stats, "evaluations": calls}
    return Path(ends, jnp.stack([x, last]), last, stats, solution.result)
