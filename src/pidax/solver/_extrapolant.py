r"""One step of a multistep method, from its start to any time in it.

The target is a polynomial through the remembered nodes, and the state is its integral:
the end of the step and the interpolation inside it are one function of the end time.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax import AbstractPath
from jaxtyping import Array, Bool, Float, PyTree

from ..types import Flag, Scalar
from ._charts import (
    FEW,
    FEW_WEIGHTS,
    Chart,
    Level,
    Target,
    Variable,
    weighted_sum,
)
from ._weight_rules import AbstractRule, Nodes


class Extrapolant(eqx.Module):
    """A step before its end is chosen.

    `values` are the targets at the nodes `at`, and the place `origin` is the start of
    the step, with the state `u` there. `clean` is the denoised sample that belongs to
    `u` and to the target at the start. A slope has no chart. `active` is 1 or 0 and
    `index` a float, because Diffrax fills the memory of a dense solution with infinity.
    """

    u: PyTree
    clean: Array | None
    values: PyTree
    at: Float[Array, " node"]
    active: Float[Array, " node"]
    tau: Scalar
    noise: Any
    index: Scalar
    chart: Chart | None
    rule: AbstractRule
    target: Target = eqx.field(static=True)
    variable: Variable = eqx.field(static=True)
    origin: int = eqx.field(static=True)
    plain: bool = eqx.field(static=True)

    def _nodes(self, start: Level, end: Level, active: Bool[Array, " node"]) -> Nodes:
        kappa = 1 + self.noise**2
        if self.chart is None:
            points, mass = _slope_points(self.variable, start.tau, end.tau)
            first, last = start.tau, end.tau
            exponent = jnp.zeros_like(first)
        else:
            points, mass = self.chart.points(
                self.target, self.variable, start, end, kappa, self.plain
            )
            first = self.chart.read(self.variable, start)
            last = self.chart.read(self.variable, end)
            h = -jnp.log(self.chart.ratio(start, end))
            exponent = -h if self.target == "noise" else kappa * h
        span = last - first
        if self.variable == "index":
            span = jnp.ones_like(span)
        index = self.index.astype(int)
        return Nodes(self.at, active, points, mass, span, exponent, index, self.origin)

    def weights(
        self, tau: Scalar, active: Bool[Array, " node"]
    ) -> Float[Array, " node"]:
        """The rule's weights of the targets in the step to `tau`."""
        start, end = self._level(self.tau), self._level(tau)
        return self.rule.weights(self._nodes(start, end, active))

    def state(self, tau: Scalar, active: Bool[Array, " node"] | None = None) -> PyTree:
        """The state at `tau`, without noise of its own."""
        active = self.active > 0.5 if active is None else active
        start, end = self._level(self.tau), self._level(tau)
        weights = self.weights(tau, active)
        first, total = self._held(start, end)
        rest = jnp.arange(weights.size) != self.origin
        others = jnp.where(rest, weights, 0.0)
        own = -others.sum()
        if not self.rule.sums_to_one:
            own = own + (weights.sum() - 1)
        coefficients = others.at[self.origin].set(own)
        coefficients = jnp.where(coefficients == 0, 0.0, total * coefficients)
        moved = weighted_sum(coefficients, self.values)
        return jax.tree.map(jnp.add, first, moved)

    def _level(self, tau: Scalar) -> Level:
        if self.chart is None:
            return Level(tau, tau, tau)
        return self.chart.level(tau)

    def _held(self, start: Level, end: Level) -> tuple[PyTree, Scalar]:
        """The state if the target is held, and the measure of the step."""
        value = jax.tree.map(lambda v: v[self.origin], self.values)
        if self.chart is None:
            step = end.tau - start.tau
            move = lambda u, v: u + step.astype(v.dtype) * v
            return jax.tree.map(move, self.u, value), step
        assert self.clean is not None
        kappa = 1 + self.noise**2
        total = self.chart.total(self.target, start, end, kappa)
        first = self.chart.hold(
            self.target, self.u, value, self.clean, start, end, kappa
        )
        if self.rule.remembers and self.target == "noise":
            # What is remembered is not the noise of this state.
            own = (self.u - start.alpha * self.clean) / start.sigma
            first = first + total / kappa * (value - own)
        return first, total

    def estimate(self, end: PyTree, tau: Scalar) -> PyTree:
        """The state minus the one of an order less; of order one, minus no motion."""
        active = self.active > 0.5
        count = active.sum()
        places = jnp.arange(active.size)
        last = jnp.where(active, places, -1).max()
        fewer = active & (places != last)
        lower = self.state(tau, jnp.where(count > 1, fewer, active))
        scale = jnp.ones_like(tau)
        if self.chart is not None:
            start = self.chart.size(self._level(self.tau))
            scale = self.chart.size(self._level(tau)) / start
        still = jax.tree.map(lambda u: scale.astype(u.dtype) * u, self.u)
        less = jax.tree.map(lambda a, b: jnp.where(count > 1, a, b), lower, still)
        return jax.tree.map(jnp.subtract, end, less)


def _slope_points(variable: Variable, start: Scalar, end: Scalar) -> tuple[Any, Any]:
    x, w = (jnp.asarray(a, start.dtype) for a in (FEW, FEW_WEIGHTS))
    return (x if variable == "index" else start + (end - start) * x), w


class Inside(AbstractPath):
    """The state inside a step, by the same integral as its end.

    With noise it is a straight line: the process between two nodes is not known.
    """

    t0: Any
    t1: Any
    y0: PyTree
    y1: PyTree
    step: Extrapolant
    direction: Any

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree:
        del left
        if t1 is not None:
            first, last = self.evaluate(t0), self.evaluate(t1)
            return jax.tree.map(jnp.subtract, last, first)
        if self.step.plain:
            inner = self.step.state(t0 * self.direction)
        else:
            share = (t0 - self.t0) / (self.t1 - self.t0)
            line = lambda a, b: a + share.astype(a.dtype) * (b - a)
            inner = jax.tree.map(line, self.y0, self.y1)
        ended: Flag = t0 == self.t1
        return jax.tree.map(lambda a, b: jnp.where(ended, b, a), inner, self.y1)
