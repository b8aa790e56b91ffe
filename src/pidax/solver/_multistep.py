r"""Every multistep sampler as one Diffrax solver.

With a target $q$ (the denoised sample $D$, the noise $\epsilon$ or the velocity $v$ of
the angle) and a variable $s$, the last $p$ targets are interpolated by a polynomial in
$s$, which is integrated exactly:

$$ x_1 = \frac{\sigma_1}{\sigma_0} x_0 + \alpha_1\sum_j w_j D_j, \quad
   x_1 = \frac{\alpha_1}{\alpha_0} x_0 + \alpha_1\sum_j w_j \epsilon_j, \quad
   y_1 = y_0 + \sum_j w_j v_j, $$

with $w_j = \int \ell_j(s)\,e^{\lambda - \lambda_1} d\lambda$, $\int \ell_j\,dr$ and
$\int \ell_j\,d\varphi$. The corrector uses $D$ at the predicted state as one more node
and makes the step again from the same start. It needs no evaluation of its own: the
step that begins at the predicted state corrects it first.
"""

from typing import Any, ClassVar, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .._checks import is_traced, require, show, whole_number
from ..flow import ProbabilityFlow, field_of_flow, require_signal
from ..types import Count, Key, Scalar, Times
from ._charts import NEEDS_SIGNAL, Chart, Level, Target, Variable, chart_of
from ._extrapolant import Extrapolant, Inside
from ._weight_rules import AbstractRule, Interpolating, Momentum, Weights, orders_of


class History(eqx.Module):
    """What a multistep method remembers, the newest entry first.

    - `index`: the steps made so far; `held`: how many entries are valid;
    - `at`, `values`: the variable and the target at the last nodes;
    - `used`, `tau`, `u`, `clean`, `noise`, `added`: of the last step, with a corrector:
      its order, its start, the state, the denoised sample and the noise parameter
      there, and the noise that was added.
    """

    index: Count
    held: Count
    at: Float[Array, " place"]
    values: PyTree
    used: Count
    tau: Scalar
    u: PyTree
    clean: Array | None
    noise: Any
    added: PyTree


class Multistep(diffrax.AbstractAdaptiveSolver):
    r"""A multistep method for the probability-flow ODE, of one evaluation a step.

        solver = px.solver.Multistep(3, "noise", "log_snr")
        px.solve(flow, z, solver=solver, steps=px.uniform_log_snr(11, process))

    Every clock, process and denoiser can be used; the clock only sets the meaning of an
    integer `steps`. The first steps have the orders 1, 2, ..., so the observed order is
    2 where the first step is not small. With error control the estimate is the
    difference to the method of one order less, which costs nothing.

    **Arguments:**

    - `order`: the number of targets in a step, and its order (with a corrector the
      corrected step has one more).
    - `target`: `"data"` ($D$), `"noise"` ($\epsilon$), `"velocity"` ($dy/d\varphi$) or
      `"slope"`, the slope of the flow's own clock, which works for every Diffrax ODE.
    - `variable`: the polynomial's: `"log_snr"`, `"angle"`, `"noise_ratio"`
      ($\sigma/\alpha$), `"signal_ratio"`, `"time"` (the process's), `"clock"`, or
      `"index"`: the steps are counted as if they were of one length.
    - `corrector`: correct each step with the next evaluation (not the last one).
    - `noise`: $\tau \ge 0$ of the stochastic sampler, a number or one for each step; 0
      is the ODE, 1 has DDPM's noise. Needs `key` and fixed steps.
    - `interval`: the interval of $\sigma/\alpha$ in which noise is added.
    - `orders`: an order for each step, at most `order`; an array, so that another one
      compiles nothing.
    - `rule`: how weights are found, by default the exact integral; `Weights` takes them
      from an array.
    - `lower_order_final`: let the order be at most the number of steps left: always,
      never, or below this number of steps. Needs fixed steps.
    - `estimate`: estimate the error of each step; with fixed steps `px.solve` does not.

    Memory: `order` - 1 targets, `order` and two states with a corrector.
    """

    order_: int = eqx.field(static=True)
    target: Target = eqx.field(static=True)
    variable: Variable = eqx.field(static=True)
    corrector: bool = eqx.field(static=True)
    noise: Any
    interval: tuple[float, float]
    key: Key | None
    orders: Int[Array, " step"] | None
    rule: AbstractRule
    lower_order_final: bool | int = eqx.field(static=True)
    estimate: bool = eqx.field(static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Any] = Inside
    evaluations: ClassVar[tuple[int, int]] = (0, 1)

    def __init__(
        self,
        order: int,
        target: Target = "data",
        variable: Variable = "log_snr",
        corrector: bool = False,
        noise: Any = 0.0,
        *,
        key: Key | None = None,
        interval: tuple[float, float] = (0.0, float("inf")),
        orders: Any = None,
        rule: AbstractRule | None = None,
        lower_order_final: bool | int = False,
        estimate: bool = True,
    ):
        self.order_ = whole_number("order", order)
        self.target, self.variable = target, variable
        self.corrector = corrector
        self.noise = float(noise) if np.ndim(noise) == 0 else jnp.asarray(noise)
        self.interval, self.key = interval, key
        self.orders = None if orders is None else _whole(orders)
        self.rule = Interpolating() if rule is None else rule
        self.lower_order_final = lower_order_final
        self.estimate = estimate

    def __check_init__(self):
        for name, value, known in (
            ("target", self.target, get_args(Target)),
            ("variable", self.variable, get_args(Variable)),
        ):
            require(None, value in known, f"{name} is one of {known}, got {value!r}.")
        slope = self.target == "slope"
        if slope or self.variable == "clock":
            require(
                None,
                slope and self.variable in ("clock", "index"),
                "the target 'slope' goes with the variable 'clock' (or 'index'), and "
                f"'clock' with 'slope', got target={self.target!r}, "
                f"variable={self.variable!r}. For the angle take 'velocity', 'angle'.",
            )
        stochastic = not self.is_ode
        if stochastic:
            known = None if is_traced(self.noise) else np.min(np.asarray(self.noise))
            require(
                None,
                known is None or known >= 0,
                f"noise is tau >= 0, got noise={show(self.noise)}. Pass 0 for the ODE.",
            )
            require(
                None,
                self.target in ("data", "noise"),
                "noise is added to steps that hold the denoised sample or the noise, "
                f"got target={self.target!r}. Take target='data', or noise=0.",
            )
            require(
                None,
                self.key is not None,
                f"a stochastic sampler draws noise, got noise={show(self.noise)} and "
                "no key. Pass key=jax.random.key(0), one for each sample under vmap.",
            )
        if isinstance(self.rule, Momentum):
            require(
                None,
                self.order_ <= 4 and not self.corrector and self.variable == "index",
                "momentum has tabulated weights of the orders 1 to 4 for even steps, "
                f"without a corrector, got order={self.order_}, corrector="
                f"{self.corrector}, variable={self.variable!r}. Take order=4 and "
                "variable='index'.",
            )
        if isinstance(self.rule, Weights):
            places = self.rule.table.shape[1]
            require(
                None,
                places <= self.order_ and not self.corrector,
                "given weights are of at most `order` targets, without a corrector, "
                f"got {places} places for order={self.order_}, corrector="
                f"{self.corrector}. Raise the order, or leave out columns.",
            )
        if self.orders is not None and not is_traced(self.orders):
            known = np.asarray(self.orders)
            inside = known.ndim == 1 and ((known >= 1) & (known <= self.order_)).all()
            require(
                None,
                inside,
                "orders holds one order for each step, from 1 to the order "
                f"{self.order_} whose history is kept, got {known}. Raise order=, or "
                "lower them.",
            )

    @property
    def is_ode(self) -> bool:
        return isinstance(self.noise, float) and self.noise == 0

    def order(self, terms: PyTree) -> int:
        return self.order_

    def func(self, terms: Any, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    # --- before compiling ------------------------------------------------------------

    def prepare(
        self, flow: ProbabilityFlow, times: Times, steps: int | None, adjoint: Any
    ) -> "Multistep":
        """The solver for one solve: what cannot work is named, orders are completed.

        `steps` is the number of fixed steps, None for an adaptive solve.
        """
        refuse_backsolve(self, adjoint)
        polynomial = self.order_ > 1 or self.corrector
        if polynomial and self.variable in NEEDS_SIGNAL:
            who = f"the variable {self.variable!r}"
            require_signal(flow.process, times, who)
        if self.corrector and self.target == "noise":
            require_signal(flow.process, times, "a corrector of the noise")
        if not self.is_ode:
            require_downwards(times)
        if steps is None:
            self._check_adaptive()
            return self
        for name, array in (
            ("orders", self.orders),
            ("noise", None if isinstance(self.noise, float) else self.noise),
        ):
            if array is not None and np.shape(array)[0] != steps:
                raise ValueError(
                    f"{name} holds one entry for each of the {steps} steps, got "
                    f"{np.shape(array)[0]}. Solve with as many steps, or pass {steps}."
                )
        lowers = self.lower_order_final
        lower = lowers if isinstance(lowers, bool) else steps < lowers
        if steps < self.order_ and not lower and self.orders is None:
            raise ValueError(
                f"order {self.order_} needs at least as many steps, got {steps}, in "
                "which the order never rises so high. Take more steps, a lower order, "
                "or lower_order_final=True, which also ends with low orders."
            )
        orders = self.orders
        if lower:
            left = steps - np.arange(steps)
            asked = self.order_ if orders is None else orders
            orders = (jnp if is_traced(asked) else np).minimum(asked, left)
        return Multistep(
            self.order_,
            self.target,
            self.variable,
            self.corrector,
            self.noise,
            key=self.key,
            interval=self.interval,
            orders=orders,
            rule=self.rule,
            estimate=False,
        )

    def _check_adaptive(self) -> None:
        reason = None
        if not self.is_ode:
            reason = "noise"
        elif self.order_ == 1:
            reason = "order 1, which has no estimate of its error"
        elif not self.rule.sums_to_one or self.rule.remembers:
            reason = f"the rule {type(self.rule).__name__}, made for given steps"
        elif self.orders is not None or self.lower_order_final:
            reason = "orders for each step"
        if reason is not None:
            raise ValueError(
                f"{type(self).__name__} takes fixed steps here, got error control with "
                f"{reason}. Pass steps=, a number of steps or their times."
            )

    def weights_on(
        self, flow: ProbabilityFlow, times: Times
    ) -> Float[Array, "step place"]:
        """The weights of the targets in each step between these times, newest first.

        `Weights(solver.weights_on(flow, times))` is a rule that takes the same steps
        there. Learned weights (S4S) start from them.
        """
        self.check_tabulated()
        steps = times.shape[0] - 1
        orders = self.prepare(flow, times, steps, None).orders
        chart = chart_of(flow, times.dtype)
        readings = jax.vmap(lambda t: flow.clock.reading(flow.process, t))(times)
        places = jnp.arange(self.order_)
        none = jnp.zeros((), times.dtype)

        def row(index: Count) -> Array:
            order = jnp.minimum(orders_of(orders, index, self.order_), index + 1)
            nodes = readings[jnp.maximum(index - places, 0)]
            read = lambda tau: chart.read(self.variable, chart.level(tau))
            at = jax.vmap(read)(nodes)
            if self.variable == "index":
                at = -places.astype(times.dtype)
            active = (places < order).astype(times.dtype)
            step = Extrapolant(
                none, none, jnp.zeros_like(at), at, active, readings[index], none,
                index.astype(times.dtype), chart, self.rule, self.target,
                self.variable, 0, True,
            )  # fmt: skip
            return step.weights(readings[index + 1], active > 0.5)

        return jax.vmap(row)(jnp.arange(steps))

    def check_tabulated(self) -> None:
        """Refuses a solver whose steps are not the weights of a table alone."""
        weighs = not self.corrector and self.is_ode and self.target != "slope"
        if not weighs or self.rule.remembers:
            raise ValueError(
                "a table holds weights of the targets themselves: expected a solver of "
                "the data, the noise or the velocity without corrector, noise or "
                f"momentum, got target={self.target!r}, corrector={self.corrector}, "
                f"noise={show(self.noise)}, rule={type(self.rule).__name__}. Take "
                "Multistep(3, 'noise', 'log_snr')."
            )

    # --- the steps -------------------------------------------------------------------

    @property
    def _places(self) -> int:
        if self.corrector:
            return self.order_
        return max(self.order_ - 1, int(self.rule.remembers))

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> History:
        del terms, t1, args
        t0 = jnp.asarray(t0)
        zeros = lambda u: jnp.zeros((self._places, *u.shape), u.dtype)
        none = jnp.asarray(0)
        keeps = self.corrector
        like = jax.tree.map(jnp.zeros_like, y0)
        return History(
            none,
            none,
            jnp.zeros(self._places, t0.dtype),
            jax.tree.map(zeros, y0),
            none,
            jnp.zeros_like(t0),
            like if keeps else None,
            like if keeps and self.target != "slope" else None,
            jnp.zeros_like(t0),
            like if keeps and not self.is_ode else None,
        )

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: History,
        made_jump: Any,
    ) -> tuple[PyTree, PyTree, dict[str, Any], History, diffrax.RESULTS]:
        past = solver_state
        field, direction = unwrapped(terms)
        tau0, tau1 = t0 * direction, t1 * direction
        held = jnp.where(made_jump, 0, past.held)
        chart, clean, here = None, None, Level(tau0, tau0, tau0)
        if self.target == "slope":
            value, reading = field(tau0, y0, args), tau0
        else:
            ask, flow = field_of_flow(field)
            chart = chart_of(flow, y0.dtype)
            here = chart.level(tau0)
            clean = ask.denoised(y0, here.sigma, here.alpha, args)
            value = chart.of_target(self.target, y0, clean, here)
            reading = chart.read(self.variable, here)
        if self.rule.remembers and self._places:
            value = self.rule.remember(value, past.values[0], held == 0)
        if self.corrector:
            y0, clean = self._correct(
                chart, past, held, value, reading, y0, clean, here
            )
        noise = self._noise(past.index, here)
        order = jnp.minimum(orders_of(self.orders, past.index, self.order_), held + 1)
        at, values = _pushed(reading, value, past.at, past.values)
        if self.variable == "index":
            counted = -jnp.arange(at.size)
            at = counted.astype(at.dtype)
        size = self.order_
        one = Extrapolant(
            y0,
            clean,
            jax.tree.map(lambda v: v[:size], values),
            at[:size],
            (jnp.arange(size) < order).astype(at.dtype),
            tau0,
            noise,
            past.index.astype(at.dtype),
            chart,
            self.rule,
            self.target,
            self.variable,
            0,
            self.is_ode,
        )
        y1 = one.state(tau1)
        added, error = None, None
        if self.is_ode:
            error = one.estimate(y1, tau1) if self.estimate else None
        else:
            assert chart is not None
            added = self._draw(chart, past.index, here, chart.level(tau1), noise, y1)
            y1 = y1 + added
        keeps = self.corrector
        places = self._places
        state = History(
            past.index + 1,
            jnp.minimum(held + 1, places),
            at[:places] if self.variable != "index" else past.at,
            jax.tree.map(lambda v: v[:places], values),
            order,
            tau0,
            y0 if keeps else None,
            clean if keeps else None,
            noise,
            added if keeps else None,
        )
        inside = dict(
            y0=y0, y1=y1, step=one, direction=jnp.asarray(direction, t0.dtype)
        )
        return y1, error, inside, state, diffrax.RESULTS.successful

    def _correct(
        self,
        chart: Chart | None,
        past: History,
        held: Count,
        value: PyTree,
        reading: Scalar,
        predicted: PyTree,
        clean: Array | None,
        here: Level,
    ) -> tuple[PyTree, Array | None]:
        """The state at the start, by the last step with the new target as a node."""
        at, values = _pushed(reading, value, past.at, past.values)
        if self.variable == "index":
            counted = 1 - jnp.arange(at.size)
            at = counted.astype(at.dtype)
        again = Extrapolant(
            past.u,
            past.clean,
            values,
            at,
            (jnp.arange(at.size) < past.used + 1).astype(at.dtype),
            past.tau,
            past.noise,
            (past.index - 1).astype(at.dtype),
            chart,
            self.rule,
            self.target,
            self.variable,
            1,
            self.is_ode,
        )
        first = held == 0
        # Before the first step there is none to make again: any other start will do.
        away = jnp.where(first, here.tau + 1, past.tau)
        if chart is not None:
            away = jnp.where(first, _elsewhere(chart, here), past.tau)
        again = eqx.tree_at(lambda e: e.tau, again, away)
        corrected = again.state(here.tau)
        if past.added is not None:
            corrected = jax.tree.map(jnp.add, corrected, past.added)
        keep = lambda a, b: jnp.where(first, a, b)
        corrected = jax.tree.map(keep, predicted, corrected)
        if clean is None or self.target != "noise":
            return corrected, clean
        # The denoised sample that the same noise implies at the corrected state.
        alpha = jnp.where(here.alpha > 0, here.alpha, 1.0)
        return corrected, clean + jnp.where(first, 0.0, (corrected - predicted) / alpha)

    def _noise(self, index: Count, here: Level) -> Scalar:
        if self.is_ode:
            return jnp.zeros_like(here.tau)
        every = jnp.atleast_1d(jnp.asarray(self.noise, here.tau.dtype))
        tau = every[jnp.minimum(index, every.size - 1)]
        low, high = self.interval
        ratio = here.sigma / here.alpha
        return jnp.where((ratio >= low) & (ratio <= high), tau, 0.0)

    def _draw(
        self,
        chart: Chart,
        index: Count,
        start: Level,
        end: Level,
        noise: Scalar,
        like: Array,
    ) -> Array:
        assert self.key is not None
        key = jax.random.fold_in(self.key, index)
        drawn = jax.random.normal(key, like.shape, like.dtype)
        return spread(chart, self.target, start, end, noise) * drawn


def spread(
    chart: Chart, target: Target, start: Level, end: Level, noise: Scalar
) -> Scalar:
    r"""The standard deviation of the noise that a step adds.

    $\sigma_1\sqrt{1 - e^{-2\tau^2 h}}$ with the denoised sample held, and
    $\tau\sigma_1\sqrt{e^{2h} - 1}$ with the noise held.
    """
    h = -jnp.log(chart.ratio(start, end))
    if target == "noise":
        return noise * end.sigma * jnp.sqrt(jnp.expm1(2 * h))
    # Of zero the root has no derivative.
    part = -jnp.expm1(-2 * noise**2 * h)
    safe = jnp.where(part > 0, part, 1.0)
    return end.sigma * jnp.where(part > 0, jnp.sqrt(safe), 0.0)


def unwrapped(terms: Any) -> tuple[Any, Any]:
    """The vector field of a term, and the sign of its time.

    For decreasing times Diffrax steps -t, with a wrapper of the term. Its `vf` restores
    the sign of the time, and only `contr` has the sign of the step. Everything here
    therefore uses true times, `t * direction`, in which slopes have their usual sign.
    """
    inner = getattr(terms, "term", terms)
    return inner.vector_field, getattr(terms, "direction", 1)


def refuse_backsolve(solver: Any, adjoint: Any) -> None:
    """`BacksolveAdjoint` solves another equation backwards, without the history."""
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise ValueError(
            f"{type(solver).__name__} steps the flow's denoiser with a history or with "
            "noise, and BacksolveAdjoint solves another equation backwards, got "
            "adjoint=BacksolveAdjoint. Take diffrax.RecursiveCheckpointAdjoint() (the "
            "default), whose derivative is the sampler's own."
        )


def require_downwards(times: Times) -> None:
    """Noise is added on the way from noise to data only."""
    if is_traced(times):
        return
    first, last = np.asarray(times)[[0, -1]]
    if last > first:
        raise ValueError(
            "a stochastic sampler goes from noise to data, got times from "
            f"{first} to {last}. Encode with noise=0."
        )


def _elsewhere(chart: Chart, here: Level) -> Scalar:
    """A reading of the clock that is another one and has a level."""
    half = chart.process.time_of_angle(0.5 * chart.angle(here))
    return chart.clock.reading(chart.process, half)


def _pushed(
    reading: Scalar, value: PyTree, at: Array, values: PyTree
) -> tuple[Array, PyTree]:
    join = lambda new, old: jnp.concatenate([new[None], old])
    return join(jnp.asarray(reading, at.dtype), at), jax.tree.map(join, value, values)


def _whole(orders: Any) -> Array:
    given = jnp.asarray(orders)
    require(
        None,
        jnp.issubdtype(given.dtype, jnp.integer),
        f"orders are whole numbers, one for each step, got the dtype {given.dtype}. "
        "Round them.",
    )
    return given
