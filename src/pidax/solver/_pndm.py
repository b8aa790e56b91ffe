r"""PNDM: four noises with the weights of even steps, after a Runge-Kutta start.

$$ x_1 = \frac{\alpha_1}{\alpha_0}x_0 + \alpha_1 (r_1 - r_0)\,\bar\epsilon, \qquad
   \bar\epsilon = \tfrac{1}{24}(55\epsilon_0 - 59\epsilon_{-1}
       + 37\epsilon_{-2} - 9\epsilon_{-3}). $$

In the first three steps $\bar\epsilon$ is the mean of four stages, as in the classical
Runge-Kutta method, each reached by the same formula.
"""

from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import require
from ..flow import ProbabilityFlow, field_of_flow, require_signal
from ..types import Condition, Count, Times
from ._charts import Chart, Level, chart_of, weighted_sum
from ._extrapolant import Extrapolant, Inside
from ._multistep import refuse_backsolve, unwrapped
from ._weight_rules import Interpolating

_ADAMS = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
_RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
_START = 3  # steps


class _Past(NamedTuple):
    made: Count
    values: Array


class PNDM(diffrax.AbstractSolver):
    """PNDM with its start: Liu et al. 2022, "Pseudo numerical methods for diffusion
    models on manifolds" (F-PNDM).

    Four evaluations in each of the first three steps, one in each later step. The
    middle of a step is taken in the process's time. `IPNDM` starts with lower orders
    instead, and is usually better for equal evaluations. Fixed steps; it needs a signal
    at both ends.
    """

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Any] = Inside

    def order(self, terms: PyTree) -> int:
        return 2

    def func(self, terms: Any, t0: Any, y0: Array, args: Condition) -> Array:
        return terms.vf(t0, y0, args)

    def evaluations(self, steps: Count) -> Count:
        """The calls of the denoiser in so many steps."""
        return steps + 3 * jnp.minimum(steps, _START)

    def prepare(
        self, flow: ProbabilityFlow, times: Times, steps: int | None, adjoint: Any
    ) -> "PNDM":
        """Refuses what cannot work, before compiling."""
        refuse_backsolve(self, adjoint)
        require_signal(flow.process, times, "PNDM")
        require(
            None,
            steps is not None,
            "PNDM takes fixed steps, got error control. Pass steps=.",
        )
        return self

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Condition) -> _Past:
        return _Past(jnp.asarray(0), jnp.zeros((_START, *y0.shape), y0.dtype))

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Condition,
        solver_state: _Past,
        made_jump: Any,
    ) -> tuple[Array, None, dict[str, Any], _Past, diffrax.RESULTS]:
        past = solver_state
        field, direction = unwrapped(terms)
        ask, flow = field_of_flow(field)
        chart = chart_of(flow, y0.dtype)
        start, end = chart.level(t0 * direction), chart.level(t1 * direction)

        def noise(u: Array, at: Level) -> Array:
            clean = ask.denoised(u, at.sigma, at.alpha, args)
            return chart.of_target("noise", u, clean, at)

        first = noise(y0, start)
        values = jnp.concatenate([first[None], past.values])

        def runge_kutta() -> Array:
            middle = _middle(chart, start, end)
            second = noise(_transfer(chart, y0, first, start, middle), middle)
            third = noise(_transfer(chart, y0, second, start, middle), middle)
            last = noise(_transfer(chart, y0, third, start, end), end)
            stages = jnp.stack([first, second, third, last])
            return weighted_sum(jnp.asarray(_RUNGE_KUTTA, y0.dtype), stages)

        def adams() -> Array:
            return weighted_sum(jnp.asarray(_ADAMS, y0.dtype), values)

        index = jnp.where(made_jump, 0, past.made)
        mean = jax.lax.cond(index < _START, runge_kutta, adams)
        y1 = _transfer(chart, y0, mean, start, end)
        zero = jnp.zeros_like(start.tau)
        held = Extrapolant(
            y0,
            (y0 - start.sigma * mean) / start.alpha,
            mean[None],
            zero[None],
            jnp.ones_like(zero)[None],
            start.tau,
            zero,
            zero,
            chart,
            Interpolating(),
            "noise",
            "index",
            0,
            True,
        )
        inside = dict(
            y0=y0, y1=y1, step=held, direction=jnp.asarray(direction, t0.dtype)
        )
        state = _Past(index + 1, values[:_START])
        return y1, None, inside, state, diffrax.RESULTS.successful


def _middle(chart: Chart, start: Level, end: Level) -> Level:
    """The level in the middle of the step by the process's time."""
    time = (chart.read("time", start) + chart.read("time", end)) / 2
    return chart.level(chart.clock.reading(chart.process, time))


def _transfer(chart: Chart, u: Array, value: Array, start: Level, end: Level) -> Array:
    """The state at `end` if the noise keeps this value."""
    clean = (u - start.sigma * value) / start.alpha
    return chart.hold("noise", u, value, clean, start, end, jnp.ones_like(end.tau))
