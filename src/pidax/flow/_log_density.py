r"""The likelihood of a sample under the flow (Song et al. 2021, eq. 39).

Along a trajectory the log-density changes by minus the divergence of the field, so

$$ \log p_t(x) = \log p_T(x_T) + \int_t^T \nabla\cdot f \, d\tau, $$

solved as one ODE with the trajectory, in the clock's coordinates; the change of
volume between the clock's state and `x` is added at both ends.
"""

from collections.abc import Callable
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import is_traced, require
from ..types import Condition, Key, Sample, SampleLike, Scalar, ScalarLike, typed
from ._engine import integrate, succeed
from ._flow import ProbabilityFlow
from ._options import Plan, SolveOptions, make_plan, rms_of_worst_leaf
from ._times import check_times
from ._trace import AbstractTrace, ExactTrace, Hutchinson, probe
from ._trajectory import check_state

EXACT_UP_TO = 128  # components; beyond, an exact trace costs more than 16 probes by far

Terminal = Callable[[Array, Array, Array], Array]


class LogDensity(eqx.Module):
    """A log-density in nats, with what it took to know it.

    - `value`: $\\log p_t(x)$;
    - `standard_error`: of the estimate over the random probes; 0 for an exact trace,
      NaN for a single probe, which cannot tell;
    - `z`: the state at `t_max`, the sample's latent;
    - `stats`, `result`: as of a `Path`. An evaluation here is one linearisation of
      the denoiser and `stats["jvps"]` its Jacobian-vector products altogether.
    """

    value: Scalar
    standard_error: Scalar
    z: Sample
    stats: dict[str, Any]
    result: diffrax.RESULTS


@typed
def log_density(
    flow: ProbabilityFlow,
    x0: SampleLike,
    *,
    t: ScalarLike | None = None,
    condition: Condition = None,
    trace: AbstractTrace | None = None,
    terminal: Terminal | None = None,
    key: Key | None = None,
    **options: Unpack[SolveOptions],
) -> LogDensity:
    r"""The log-density of the flow's samples at `x0`: one sample, in nats.

    It is the density at time `t`, by default `t_min`, where the data still carry the
    noise `sigma(t_min)`; `x0` is a state in the process's chart at that time.

    **Arguments:**

    - `trace`: `ExactTrace()` (default up to 128 components) or
      `Hutchinson(probes=16)` (default beyond; needs `key`).
    - `terminal`: the log-density at `t_max`, called as `terminal(z, sigma, alpha)`.
      Default: the prior $N(0, \sigma(T)^2 I)$, which is not quite the noised data:
      for data of mean $m$ it errs by about $\alpha\, m \cdot z / \sigma(T)^2$ nats.
      For an exact denoiser pass its `log_density`.
    - `options`: see `SolveOptions`.
    """
    x0 = check_state(flow, jnp.asarray(x0), "x0")
    if trace is None:
        trace = ExactTrace() if x0.size <= EXACT_UP_TO else Hutchinson()
    process = flow.process
    start = process.t_min if t is None else t
    times = jnp.stack([jnp.asarray(s, x0.dtype) for s in (start, process.t_max)])
    require(
        None,
        is_traced(start) or float(start) < process.t_max,
        "t is the time of x0 and must lie before "
        f"t_max={process.t_max}, got t={start}.",
    )
    times, _ = check_times(times, process, 1, x0.dtype)
    plan = make_plan(options, flow, times, rms_of_worst_leaf)
    return _compiled(flow, x0, times, condition, trace, terminal, key, plan)


@eqx.filter_jit
def _compiled(
    flow: ProbabilityFlow,
    x: Array,
    ts: Array,
    condition: Condition,
    trace: AbstractTrace,
    terminal: Terminal | None,
    key: Key | None,
    plan: Plan,
) -> LogDensity:
    directions = trace.directions(x.shape, x.dtype, key)

    def traced(fn, u):
        value, products = probe(fn, u, directions)
        return value, trace.combine(products)

    def field(tau, state, args):
        return flow.divergence(tau, state[0], args, traced)

    process, taus = flow.process, flow.clock.reading(flow.process, ts)
    magnification = flow.magnification(ts)
    estimates = jnp.zeros(trace.combine(jnp.zeros(len(directions))).shape, x.dtype)
    solution = integrate(
        field,
        flow,
        (x * magnification[0], estimates),
        (taus[0], taus[-1]),
        diffrax.SaveAt(t1=True),
        condition,
        plan,
    )
    assert solution.ys is not None
    z, gains = solution.ys[0][0] / magnification[1], solution.ys[1][0]
    if terminal is None:
        at_prior = process.prior_log_density(z)
    else:
        at_prior = terminal(z, *process.level(ts[1]))
    volume = x.size * jnp.log(magnification[0] / magnification[1])
    value = at_prior + volume + gains.mean()
    count = gains.size
    error = gains.std(ddof=1) / jnp.sqrt(count) if count > 1 else jnp.asarray(jnp.nan)
    error = jnp.zeros_like(value) if isinstance(trace, ExactTrace) else error
    finite = jnp.isfinite(value)
    (value, error, z), _ = succeed((value, error, z), solution, finite, plan)
    stats = dict(solution.stats)
    if stats["evaluations"] is not None:
        stats["jvps"] = stats["evaluations"] * len(directions)
    return LogDensity(value, error, z, stats, solution.result)
