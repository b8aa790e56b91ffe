r"""Single-step exponential Runge-Kutta methods: DPM-Solver and DPM-Solver++ 2S.

The target is asked at fractions of the step in $\lambda = \log(\alpha/\sigma)$, and the
polynomial through the answers is integrated exactly. With the measure $M$ of the step,
the mean $m$ of $x = (\lambda - \lambda_0)/h$ under it and $r_1 = 1/3$, $r_2 = 2/3$,

$$ x_1 = H(q_0) + \frac{M}{2 r}\,(q_r - q_0) \text{ of order 2}, \qquad
   x_1 = H(q_0) + \frac{M m}{r_2}\,(q_{r_2} - q_0) \text{ of order 3}, $$

where $H$ holds the target over the step. The lower order is embedded.
"""

from typing import Any, ClassVar, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import require, whole_number
from ..flow import ProbabilityFlow, field_of_flow, require_signal
from ..types import Condition, Count, Scalar, Times
from ._charts import Chart, Level, chart_of
from ._extrapolant import Extrapolant, Inside
from ._multistep import refuse_backsolve, unwrapped
from ._weight_rules import Interpolating

_MIDDLE, _FIRST, _SECOND = 1 / 2, 1 / 3, 2 / 3


class ExponentialRK(diffrax.AbstractAdaptiveSolver):
    r"""DPM-Solver-1, -2 and -3, of as many evaluations a step as the order.

    Lu et al. 2022, "DPM-Solver: a fast ODE solver for diffusion probabilistic model
    sampling in around 10 steps". With `target="data"` DPM-Solver++ 2S and 3S. Error
    control compares with the method of one order less: DPM-Solver-12 is
    `ExponentialRK(2)`, DPM-Solver-23 `ExponentialRK(3)`, with any tolerance and norm.

    For Runge-Kutta methods of other tableaus take `diffrax` solvers in
    `UnitSignalClock` ($\rho$RK of DEIS) or `UnitNoiseClock`.

    **Arguments:**

    - `order`: 1, 2 or 3.
    - `target`: `"noise"` or `"data"`.
    - `orders`: an order for each of the fixed steps, at most `order`: see
      `DPMSolverFast`.

    It needs a signal at both ends of the solve.
    """

    order_: int = eqx.field(static=True)
    target: Literal["noise", "data"] = eqx.field(static=True)
    orders: tuple[int, ...] | None = eqx.field(static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Any] = Inside

    def __init__(
        self,
        order: int = 2,
        target: Literal["noise", "data"] = "noise",
        *,
        orders: Any = None,
    ):
        self.order_ = whole_number("order", order)
        self.target = target
        self.orders = None if orders is None else tuple(int(p) for p in orders)

    def __check_init__(self):
        require(
            None,
            self.order_ <= 3,
            f"the orders are 1, 2 and 3, got order={self.order_}. For higher orders "
            "take Multistep, or a Runge-Kutta method in UnitSignalClock.",
        )
        require(
            None,
            self.target in ("noise", "data"),
            f"target is 'noise' or 'data', got {self.target!r}.",
        )
        require(
            None,
            self.orders is None or all(1 <= p <= self.order_ for p in self.orders),
            f"orders holds an order for each step, from 1 to {self.order_}, got "
            f"{self.orders}. Raise order=, or lower them.",
        )

    @property
    def steps(self) -> int | None:
        """The number of steps for which it has orders; None for any number."""
        return None if self.orders is None else len(self.orders)

    def order(self, terms: PyTree) -> int:
        return self.order_

    def func(self, terms: Any, t0: Any, y0: Array, args: Condition) -> Array:
        return terms.vf(t0, y0, args)

    def evaluations(self, steps: Count) -> Count:
        """The calls of the denoiser in so many steps."""
        if self.orders is None:
            return self.order_ * steps
        return jnp.asarray(np.cumsum([0, *self.orders]))[steps]

    def prepare(
        self, flow: ProbabilityFlow, times: Times, steps: int | None, adjoint: Any
    ) -> "ExponentialRK":
        """Refuses what cannot work, before compiling."""
        refuse_backsolve(self, adjoint)
        if self.order_ > 1:
            require_signal(flow.process, times, "ExponentialRK")
        adaptive = steps is None
        if adaptive and (self.orders is not None or self.order_ == 1):
            raise ValueError(
                "error control needs one order of at least 2 for all steps, got order="
                f"{self.order_}, orders={self.orders}. Pass steps=, or ExponentialRK(2)"
            )
        count = steps if self.orders is None else len(self.orders)
        if count is not None and steps != count:
            raise ValueError(
                f"this solver has orders for {count} steps, got {steps}. Pass "
                f"steps={count} or {count + 1} times: solver.steps says the number."
            )
        return self

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Condition) -> Count:
        return jnp.asarray(0)

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Condition,
        solver_state: Count,
        made_jump: Any,
    ) -> tuple[Array, Array, dict[str, Any], Count, diffrax.RESULTS]:
        del made_jump
        field, direction = unwrapped(terms)
        ask, flow = field_of_flow(field)
        chart = chart_of(flow, y0.dtype)
        start, end = chart.level(t0 * direction), chart.level(t1 * direction)

        def target(u: Array, at: Level) -> tuple[Array, Array]:
            clean = ask.denoised(u, at.sigma, at.alpha, args)
            return chart.of_target(self.target, u, clean, at), clean

        value, clean = target(y0, start)
        single = _Single(chart, self.target, y0, value, clean, start, end)

        def take(order: int) -> tuple[Array, Array, Array, Array]:
            return single.take(order, target)

        if self.orders is None:
            y1, lower, last, share = take(self.order_)
        else:
            table = jnp.asarray(self.orders)
            which = table[jnp.minimum(solver_state, table.size - 1)] - 1
            ways = [lambda p=p: take(p) for p in range(1, self.order_ + 1)]
            y1, lower, last, share = jax.lax.switch(which, ways)
        first = start.log_snr
        at = jnp.stack([first, first + share * (end.log_snr - first)])
        line = Extrapolant(
            y0,
            clean,
            jnp.stack([value, last]),
            at,
            jnp.stack([jnp.ones_like(share), (share > 0).astype(at.dtype)]),
            start.tau,
            jnp.zeros_like(share),
            jnp.zeros_like(share),
            chart,
            Interpolating(),
            self.target,
            "log_snr",
            0,
            True,
        )
        inside = dict(
            y0=y0, y1=y1, step=line, direction=jnp.asarray(direction, t0.dtype)
        )
        state = solver_state + 1
        return y1, y1 - lower, inside, state, diffrax.RESULTS.successful


class _Single(eqx.Module):
    """One step, from the target at its start."""

    chart: Chart
    target: Literal["noise", "data"] = eqx.field(static=True)
    u: Array
    value: Array
    clean: Array
    start: Level
    end: Level

    def _to(self, end: Level) -> tuple[Array, Scalar, Scalar]:
        """The state with the target held, the measure, and the mean of x under it."""
        one, chart = jnp.ones_like(end.tau), self.chart
        held = chart.hold(
            self.target, self.u, self.value, self.clean, self.start, end, one
        )
        total = chart.total(self.target, self.start, end, one)
        at, mass = chart.density(self.target, self.start, end, one)
        first = self.start.log_snr
        mean = mass @ ((at - first) / (end.log_snr - first))
        return held, total, mean

    def _inner(self, share: float) -> Level:
        first, last = self.start.log_snr, self.end.log_snr
        return self.chart.level_of_log_snr(first + share * (last - first))

    def take(self, order: int, target: Any) -> tuple[Array, Array, Array, Array]:
        """The end, the end of a lower order, and the last stage with its place."""
        held, total, mean = self._to(self.end)
        place = lambda share: jnp.asarray(share, total.dtype)
        if order == 1:
            return held, held, self.value, place(0.0)
        share = _MIDDLE if order == 2 else _FIRST
        inner = self._inner(share)
        first, _ = target(self._to(inner)[0], inner)
        slope = first - self.value
        second = held + total / (2 * share) * slope
        if order == 2:
            return second, held, first, place(share)
        later = self._inner(_SECOND)
        there, part, part_mean = self._to(later)
        state = there + part * part_mean * (_SECOND / _FIRST) * slope
        last, _ = target(state, later)
        third = held + total * mean / _SECOND * (last - self.value)
        return third, second, last, place(_SECOND)


def DPMSolverFast(evaluations: int) -> ExponentialRK:
    """DPM-Solver-fast: single steps of order 3, and lower ones at the end, that spend
    exactly these evaluations.

        solver = px.solver.DPMSolverFast(10)
        px.solve(flow, z, solver=solver, steps=solver.steps)

    Lu et al. 2022: the last steps have the orders 2 and 1, or 1, or 2, as the number of
    evaluations is 0, 1 or 2 modulo 3.
    """
    evaluations = whole_number("evaluations", evaluations)
    threes, rest = divmod(evaluations, 3)
    orders = [3] * (threes - 1) + [2, 1] if rest == 0 else [3] * threes + [rest]
    return ExponentialRK(3, "noise", orders=orders)
