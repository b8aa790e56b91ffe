r"""The likelihood of a sample under the flow (Song et al. 2021, eq. 39).

Along a trajectory the rate of change of the log-density is minus the divergence of the
field, so

$$ \log p_t(x) = \log p_T(x_T) + \int_t^T \nabla\cdot f \, d\tau, $$

which is solved together with the trajectory, in the clock's variables. The change of
volume between the clock's state and `x` is added at both ends. The divergence needs the
trace of the denoiser's Jacobian, exactly or by random probes:
$\operatorname{tr} J = \sum_i e_i^T J e_i = E[v^T J v]$ for any $v$ with
$E[vv^T] = I$ (Hutchinson 1989). The Jacobian is linearised once and applied to every
direction, so one trace costs one evaluation and as many Jacobian-vector products as
there are directions.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, Literal, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_traced, require, require_whole
from ..types import Condition, Key, Sample, SampleLike, Scalar, ScalarLike, Shape, typed
from ._integrate import (
    Plan,
    SolveOptions,
    integrate,
    make_plan,
    rms_of_worst_leaf,
    succeed,
)
from ._probability_flow import ProbabilityFlow
from ._solve import check_state, check_times

EXACT_UP_TO = 128  # components; above it 16 probes are far cheaper than an exact trace

Terminal = Callable[[Array, Array, Array], Array]


class AbstractTrace(eqx.Module):
    """The method by which `log_density` computes the divergence of the flow."""

    @abc.abstractmethod
    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        """The directions in which the Jacobian is probed, one a row."""

    @abc.abstractmethod
    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        """Independent estimates of the trace, from `v . J v` for every direction."""


class ExactTrace(AbstractTrace):
    """All unit vectors: exact, for `size` Jacobian-vector products."""

    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        size = math.prod(shape)
        return jnp.eye(size, dtype=dtype).reshape((size, *shape))

    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        return products.sum(keepdims=True)


class Hutchinson(AbstractTrace):
    """Random probes, the same along the whole trajectory: unbiased for any number of
    probes.

    Rademacher probes have the smaller variance (the diagonal of the Jacobian adds
    none). The spread over the probes gives the standard error of the density.
    """

    probes: int = 16
    law: Literal["rademacher", "gaussian"] = "rademacher"

    def __check_init__(self):
        require_whole(probes=self.probes)
        require(
            None,
            self.law in ("rademacher", "gaussian"),
            f"law must be 'rademacher' or 'gaussian', got {self.law!r}.",
        )

    def directions(self, shape: Shape, dtype: jnp.dtype, key: Key | None) -> Array:
        if key is None:
            raise ValueError(
                "Hutchinson draws random probes (the default for large samples): pass "
                "key=jax.random.key(0), or trace=ExactTrace()."
            )
        if self.law == "rademacher":
            return jax.random.rademacher(key, (self.probes, *shape), dtype)
        return jax.random.normal(key, (self.probes, *shape), dtype)

    def combine(self, products: Float[Array, " probe"]) -> Float[Array, " estimate"]:
        return products


class _WithDivergence(eqx.Module):
    """The flow with its divergence, from one linearisation of the denoiser."""

    flow: ProbabilityFlow
    trace: AbstractTrace
    along: Array

    def __call__(
        self, tau: Scalar, state: tuple[Sample, Array], args: Condition
    ) -> tuple[Sample, Array]:
        def traced(fn: Callable[[Array], Array], u: Sample) -> tuple[Sample, Array]:
            value, linear = jax.linearize(fn, u)
            products = jax.vmap(lambda v: jnp.vdot(v, linear(v)))(self.along)
            return value, self.trace.combine(products)

        return self.flow.divergence(tau, state[0], args, traced)


class LogDensity(eqx.Module):
    r"""A log-density in nats, with its error and its cost.

    - `value`: $\log p_t(x)$;
    - `standard_error`: of the estimate over the random probes; 0 for an exact trace,
      NaN for a single probe;
    - `z`: the state at `t_max`, the latent of the sample;
    - `stats`, `result`: as in `Path`. One evaluation is one linearisation of the
      denoiser; `stats["jvps"]` is the total number of its Jacobian-vector products.
    """

    value: Scalar
    standard_error: Scalar
    z: Sample
    stats: dict[str, Any]
    result: diffrax.RESULTS

    def __repr__(self) -> str:
        known = isinstance(self.value, jax.Array | np.ndarray) and not is_traced(self)
        if not known:
            return eqx.tree_pformat(self)
        value, error = np.asarray(self.value), np.asarray(self.standard_error)
        if value.ndim:
            text = (
                f"log-densities of {value.size} samples: median {np.median(value):.6g}"
                f" nats, from {value.min():.6g} to {value.max():.6g}"
            )
        else:
            text = f"log-density {float(value):.6g} nats"
        if (error != 0).any():
            text += f", standard error {float(error.max()):.2g}"
        if self.stats["evaluations"] is not None:
            text += f", {int(np.max(self.stats['evaluations']))} evaluations"
        solved = np.asarray(diffrax.is_successful(self.result)).all()
        return text if solved else f"FAILED: {text}"


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
    r"""The log-density of the flow's samples at `x0`, in nats, for one sample.

    It is the density at time `t`, by default `t_min`, where the data still contain the
    noise `sigma(t_min)`. `x0` is a noised sample of the process at that time. Costs the
    evaluations of a solve, each with as many Jacobian-vector products as the trace has
    directions. Song et al. 2021, eq. 39.

    **Arguments:**

    - `trace`: `ExactTrace()` (default up to 128 components) or `Hutchinson(probes=16)`
      (default above; needs `key`).
    - `terminal`: the log-density at `t_max`, called as `terminal(z, sigma, alpha)`. The
      default is the prior $N(0, \sigma(T)^2 I)$, which is not exactly the density of
      the noised data: for data of mean $m$ the error is about $\alpha\, m \cdot z /
      \sigma(T)^2$ nats. For an exact denoiser pass its `log_density`.
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
        f"t_max={process.t_max}, got t={start}. Leave it out for t_min.",
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
    process, taus = flow.process, flow.clock.reading(flow.process, ts)
    magnification = flow.magnification(ts)
    estimates = jnp.zeros(trace.combine(jnp.zeros(len(directions))).shape, x.dtype)
    solution = integrate(
        _WithDivergence(flow, trace, directions),
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
