r"""Conjugate gradients for least squares: $\min_x \tfrac12|Ax - b|^2$ by $Av$, $A^Tw$.

Hestenes & Stiefel 1952: the conjugate gradients of the normal equations, in the form
that keeps the residual $r = b - Ax$ and never forms $A^TA$. Its rounding errors grow
with the condition number of $A$ and not with the square of it, so that float32 is
enough where an observation is a thousand times as sure as the prior.

The $k$-th step makes the objective smaller by exactly $\tfrac12 a_k |s_k|^2$, with
$s = A^Tr$ and $a$ the step's length, and what is left to gain is about what the last
few steps gained: so it stops by the objective, which is what the caller minimises.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from ..types import Count, Scalar

_LAST = 3  # steps whose gain stands for what is left to gain


class _State(eqx.Module):
    x: PyTree
    residual: PyTree
    direction: PyTree
    square: Scalar  # of the gradient
    gains: Array  # of the last steps, in the objective
    value: Scalar  # the objective
    step: Count


class CGLS(lx.AbstractLinearSolver):
    """A Lineax solver of least squares, from zero, without a matrix.

    It stops when the last three steps have together made the objective smaller by less
    than `rtol` of it, or when the gradient has fallen to rounding, or after
    `max_steps`. Stopped early it is still a descent: each step improves on the last.
    A step is one product with the operator and one with its transpose; one more of the
    latter is needed at the start.

    Beside `lineax.LSMR`, of which it is the elder, it compiles three times as fast.
    """

    rtol: float
    max_steps: int

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]):
        return lx.linearise(operator)

    def compute(self, state, vector, options):
        operator, back = state, state.transpose()
        gradient = back.mv(vector)
        square = dot(gradient, gradient)
        enough = jnp.finfo(square.dtype).eps ** 2 * square

        def going(c: _State):
            recent = c.gains.sum() > self.rtol * c.value
            fresh = c.step < _LAST
            return (recent | fresh) & (c.square > enough) & (c.step < self.max_steps)

        def body(c: _State) -> _State:
            pushed = operator.mv(c.direction)
            length = c.square / dot(pushed, pushed)
            x = along(c.x, length, c.direction)
            residual = along(c.residual, -length, pushed)
            gradient = back.mv(residual)
            square = dot(gradient, gradient)
            direction = along(gradient, square / c.square, c.direction)
            gain = 0.5 * length * c.square
            gains = jnp.roll(c.gains, 1).at[0].set(gain)
            value = 0.5 * dot(residual, residual)
            return _State(x, residual, direction, square, gains, value, c.step + 1)

        zero = jax.tree.map(jnp.zeros_like, gradient)
        gains = jnp.zeros(_LAST, square.dtype)
        value = 0.5 * dot(vector, vector)
        none = jnp.zeros((), int)
        start = _State(zero, vector, gradient, square, gains, value, none)
        end = jax.lax.while_loop(going, body, start)
        return end.x, lx.RESULTS.successful, {"num_steps": end.step}

    def transpose(self, state, options):
        return state.transpose(), {}

    def conj(self, state, options):
        return lx.conj(state), {}

    def assume_full_rank(self):
        return False


def dot(a: PyTree, b: PyTree) -> Scalar:
    """The inner product of two trees of arrays."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def along(x: PyTree, length: Scalar, direction: PyTree) -> PyTree:
    """`x + length * direction`."""
    return jax.tree.map(lambda x, d: x + length * d, x, direction)
