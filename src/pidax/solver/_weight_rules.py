r"""Rules for the weights of the remembered targets in a step.

A step is `lead * u + M * sum_j w_j q_j`, with the measure $M$ of the whole step, the
targets $q_j$ at nodes $s_j$, and weights of sum one. The exact rule integrates the
interpolating polynomial,

$$ w_j = \int \ell_j(s)\, d\mu(s) \Big/ \int d\mu(s). $$

The published samplers that are not exact differ from it by one coefficient each.
"""

import abc
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._checks import require, require_positive
from ..types import Count, Scalar


class Nodes(eqx.Module):
    r"""What a rule sees of one step.

    - `at`: the variable at the nodes, of which those that are `active` count; the place
      `origin` is the start of the step;
    - `points`, `mass`: quadrature of the step in the variable, of sum one;
    - `span`: the variable at the end minus that at the start;
    - `exponent`: $\kappa h$ for the data and $-h$ for the noise, with
      $h = \lambda_1 - \lambda_0$; `index`: the number of the step.
    """

    at: Float[Array, " node"]
    active: Bool[Array, " node"]
    points: Float[Array, " point"]
    mass: Float[Array, " point"]
    span: Scalar
    exponent: Scalar
    index: Count
    origin: int = eqx.field(static=True)


class AbstractRule(eqx.Module):
    """How the weights of one step are found.

    `sums_to_one` is false if the weights need not; `remembers` is true if what is
    remembered is not the target itself.
    """

    sums_to_one: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    @abc.abstractmethod
    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        """The weights of the nodes; zero where a node is not active."""

    def remember(self, value: Array, before: Array, fresh: Bool[Array, ""]) -> Array:
        """What enters the history; `before` is its newest entry, if not `fresh`."""
        return value


class Interpolating(AbstractRule):
    """The exact integral of the interpolating polynomial. Every order is attained."""

    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        at, active = nodes.at, nodes.active
        # Lagrange's basis; a place that is not active has no factor.
        apart = at[:, None] - at[None, :]
        counts = active[None, :] & ~jnp.eye(at.size, dtype=bool)
        safe = jnp.where(counts & active[:, None], apart, 1.0)
        factors = (nodes.points[:, None, None] - at[None, None, :]) / safe
        basis = jnp.where(counts, factors, 1.0).prod(axis=-1)
        return jnp.where(active, nodes.mass @ basis, 0.0)


class HalfSlope(AbstractRule):
    r"""The exact rule, but one half for the slope of a straight line: $M B/(2x)$.

    With two nodes, at the start and at $x = (\lambda_j - \lambda_0)/h$, the exact
    coefficient of $(q_j - q_0)/x$ is replaced by half a function $B(h)$: $M$ itself for
    `bh2`, as in DPM-Solver and UniPC, or its leading term for `bh1`. The order is the
    same. With three nodes and more $B$ cancels.
    """

    kind: Literal["bh1", "bh2"] = eqx.field(static=True, default="bh2")

    def __check_init__(self):
        require(
            None,
            self.kind in ("bh1", "bh2"),
            f"kind is 'bh1' or 'bh2', the functions B(h) of UniPC, got {self.kind!r}. "
            "Take 'bh2' for few steps with guidance.",
        )

    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        exact = Interpolating().weights(nodes)
        x = (nodes.at - nodes.at[nodes.origin]) / nodes.span
        other = nodes.active & (jnp.arange(x.size) != nodes.origin)
        half = 0.5 / jnp.where(other, x, 1.0)
        if self.kind == "bh1":
            half = half * (nodes.exponent / -jnp.expm1(-nodes.exponent))
        half = jnp.where(other, half, 0.0)
        line = half.at[nodes.origin].set(1 - half.sum())
        return jnp.where(nodes.active.sum() == 2, line, exact)


class HalfCurvature(AbstractRule):
    """The exact rule with half of the quadratic term of a parabola.

    The published code of DPM-Solver++ 3M and of k-diffusion's stochastic 3M: a factor
    two is missing, and the method is of second order. `line` is the rule of two nodes.
    """

    line: AbstractRule = Interpolating()

    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        exact = self.line.weights(nodes)
        start = nodes.at[nodes.origin]
        x, active = (nodes.at - start) / nodes.span, nodes.active
        square = nodes.mass @ ((nodes.points - start) / nodes.span) ** 2
        counts = active[None, :] & ~jnp.eye(x.size, dtype=bool) & active[:, None]
        apart = jnp.where(counts, x[:, None] - x[None, :], 1.0).prod(axis=1)
        less = exact - jnp.where(active, 0.5 * square / apart, 0.0)
        return jnp.where(active.sum() == 3, less, exact)


class Weights(AbstractRule):
    r"""Weights that are given: an array `[step, place]`, the newest target first.

    $x_1 = lead\,x_0 + M\sum_j w_{ij} q_j$ in step $i$; the last row serves all later
    steps. Weights of sum one are consistent; learned ones (S4S) need not be.
    """

    table: Float[Array, "step place"] = eqx.field(converter=jnp.asarray)
    sums_to_one: ClassVar[bool] = False

    def __check_init__(self):
        require(
            None,
            self.table.ndim == 2,
            "the weights are an array with a row for each step and a column for each "
            f"place, got the shape {self.table.shape}. Pass weights[None] for one row.",
        )

    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        row = self.table[jnp.minimum(nodes.index, len(self.table) - 1)]
        places = jnp.zeros(nodes.at.size, row.dtype).at[: row.size].set(row)
        return jnp.where(nodes.active, places, 0.0).astype(nodes.at.dtype)


class Momentum(AbstractRule):
    r"""Generalised heavy ball (Wizadwongsa et al. 2023): the history holds an average.

    $V_i = (1 - b) V_{i-1} + b\,q_i$, and the weights of $V$ are the ones of Adams and
    Bashforth for even steps, corrected for the lag of $V$. $b = 1$ is iPNDM. Of order
    at most four; it starts with $V_0 = q_0$.
    """

    momentum: float
    remembers: ClassVar[bool] = True

    def __check_init__(self):
        require_positive(momentum=self.momentum)
        require(
            None,
            self.momentum <= 1,
            "momentum is the share of the new target, above 0 and at most 1, got "
            f"{self.momentum}. Pass 1 for none of the past.",
        )

    def remember(self, value: Array, before: Array, fresh: Bool[Array, ""]) -> Array:
        blend = (1 - self.momentum) * before + self.momentum * value
        return jnp.where(fresh, value, blend)

    def weights(self, nodes: Nodes) -> Float[Array, " node"]:
        b = self.momentum
        rows = [
            [b],
            [(2 + b) / 2, -(2 - b) / 2],
            [(18 + 5 * b) / 12, (-24 + 8 * b) / 12, (6 - b) / 12],
            [
                (46 + 9 * b) / 24,
                (-78 + 19 * b) / 24,
                (42 - 5 * b) / 24,
                (-10 + b) / 24,
            ],
        ]
        size = nodes.at.size
        padded = [row[:size] + [0.0] * (size - len(row)) for row in rows[:size]]
        table = jnp.asarray(padded, nodes.at.dtype) / b
        return table[nodes.active.sum() - 1]


def orders_of(steps: Int[Array, " step"] | None, index: Count, most: int) -> Count:
    """The order of step `index`, at most `most`."""
    if steps is None:
        return jnp.asarray(most)
    asked = jnp.asarray(steps)[jnp.minimum(index, len(steps) - 1)]
    return jnp.clip(asked, 1, most)
