r"""Matrix-free Gauss-Newton: least squares by products with the Jacobian.

To minimise $\tfrac12|F(y)|^2$, each step solves the linearised problem

$$ \min_\delta\ \tfrac12 |F(y) + J\delta|^2 + \tfrac\mu2 |\delta|^2 $$

by conjugate gradients for least squares (`CGLS`), which need only $Jv$ and $J^T w$: a
forward and a backward pass through `jax.linearize`.

A step that is too long is shortened, for one evaluation of $F$ a trial. If the
objective fell by less than predicted, the damping $\mu$ of the next step is raised
(Levenberg, Marquardt); otherwise it is lowered, down to zero.

`CGLS` (Hestenes & Stiefel 1952) applies conjugate gradients to the normal equations of
$\min_x \tfrac12|Ax - b|^2$. It keeps the residual $r = b - Ax$ and never forms $A^TA$.
Its rounding errors grow with the condition number of $A$, not with its square. So
float32 is enough if an observation is a thousand times as accurate as the prior. The
$k$-th step makes the objective smaller by exactly $\tfrac12 a_k |s_k|^2$, with $s =
A^Tr$ and $a$ the step's length. The possible further decrease is about the decrease of
the last few steps, so the stopping rule uses the objective.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, PyTree

from ..types import Count, Flag, Scalar

_LAST = 3  # steps of CGLS whose gain estimates the remaining gain
_SHORTER = 0.25  # the next trial of a step that was too long
_TRIALS = 4
_SUFFICIENT = 1e-4  # of the decrease predicted by the slope: Armijo's condition
_NEGLIGIBLE = 1e-3  # damping below it counts as none
_PATIENCE = 8  # steps in a row without a better point: failed
_SLOW = 3  # steps in a row that gained less than the tolerance: finished


class _State(eqx.Module):
    x: PyTree
    residual: PyTree
    direction: PyTree
    square: Scalar  # of the gradient
    gains: Array  # of the last steps, in the objective
    value: Scalar  # the objective
    step: Count


class CGLS(lx.AbstractLinearSolver):
    """A Lineax solver for least squares, started from zero, matrix-free.

    It stops when the last three steps together lowered the objective by less than
    `rtol` of it, when the gradient has fallen to rounding error, or after `max_steps`.
    Each step improves on the last, so an early stop still gives a descent direction. A
    step costs one product with the operator and one with its transpose; the start needs
    one more of the latter. Values are scaled by the largest entries of $b$ and of $A^T
    b$, so that no square overflows.

    It compiles three times faster than `lineax.LSMR`.
    """

    rtol: float
    max_steps: int

    def init(
        self, operator: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> lx.AbstractLinearOperator:
        return lx.linearise(operator)

    def compute(
        self, state: lx.AbstractLinearOperator, vector: PyTree, options: dict[str, Any]
    ) -> tuple[PyTree, lx.RESULTS, dict[str, Any]]:
        operator, back = state, state.transpose()
        size = _largest(vector)
        vector = _over(vector, size)
        slope = back.mv(vector)
        steep = _largest(slope)  # A / steep is the operator from here on
        gradient = _over(slope, steep)
        square = dot(gradient, gradient)
        enough = jnp.finfo(square.dtype).eps ** 2 * square

        def going(c: _State) -> Flag:
            recent = c.gains.sum() > self.rtol * c.value
            fresh = c.step < _LAST
            return (recent | fresh) & (c.square > enough) & (c.step < self.max_steps)

        def body(c: _State) -> _State:
            pushed = _over(operator.mv(c.direction), steep)
            length = c.square / dot(pushed, pushed)
            x = along(c.x, length, c.direction)
            residual = along(c.residual, -length, pushed)
            gradient = _over(back.mv(residual), steep)
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
        stats = {"num_steps": end.step, "flat": square == 0}  # no step could help
        return _over(end.x, steep / size), lx.RESULTS.successful, stats

    def transpose(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        return state.transpose(), {}

    def conj(
        self, state: lx.AbstractLinearOperator, options: dict[str, Any]
    ) -> tuple[lx.AbstractLinearOperator, dict[str, Any]]:
        return lx.conj(state), {}

    def assume_full_rank(self) -> bool:
        return False


class Progress(eqx.Module):
    """The state of a solve, and whether it is done."""

    damping: Scalar
    stuck: Count
    slow: Count
    finished: Flag
    network: Count
    jvp: Count
    vjp: Count


class DampedGaussNewton(optx.AbstractLeastSquaresSolver):
    """An Optimistix solver; pass `inference.GaussNewton` to `refine`.

    It is done when the predicted decrease of a step is less than `rtol` of $|F|^2/2$,
    or less than `atol`, or when three steps in a row gain less. `linear_solver` solves
    the linearised problems. The unknown is one array. A step of zero where the gradient
    is not zero is a failure, not convergence.
    """

    rtol: float
    atol: float
    norm: Callable[[PyTree], Scalar]
    linear_solver: CGLS

    def __init__(
        self,
        rtol: float = 1e-4,
        atol: float = 0.0,
        linear_solver: CGLS | None = None,
    ):
        self.rtol, self.atol, self.norm = rtol, atol, optx.two_norm
        default = CGLS(1e-6, 100)
        self.linear_solver = default if linear_solver is None else linear_solver

    def init(
        self,
        fn: Callable,
        y: Array,
        args: Any,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> Progress:
        none = jnp.zeros((), int)
        no = jnp.asarray(False)
        return Progress(jnp.zeros((), y.dtype), none, none, no, none, none, none)

    def step(
        self,
        fn: Callable,
        y: Array,
        args: Any,
        options: dict[str, Any],
        state: Progress,
        tags: frozenset[object],
    ) -> tuple[Array, Progress, Any]:
        rows, push, aux = jax.linearize(lambda y: fn(y, args), y, has_aux=True)
        augmented = lambda v: (push(v), jnp.sqrt(state.damping) * v)
        operator = lx.FunctionLinearOperator(augmented, jax.eval_shape(lambda: y))
        right = jax.tree.map(jnp.negative, (rows, jnp.zeros_like(y)))
        found = lx.linear_solve(operator, right, self.linear_solver, throw=False)
        step, iterations = found.value, found.stats["num_steps"]
        moved = push(step)
        cost, slope = _half_square(rows), dot(rows, moved)
        promised = -slope - _half_square(moved)
        # The stiffness along this step, and the effect of the damping.
        stiffness = 2 * _half_square(moved) / jnp.sum(step**2)
        whole = promised * (1 + state.damping / stiffness)
        finished = jnp.abs(whole) <= self.rtol * cost + self.atol
        # Less than rounding: no trial can improve on this.
        rounding = 8 * jnp.finfo(cost.dtype).eps * cost
        finished = finished | (jnp.abs(promised) <= rounding)
        # No step although the gradient is not zero: the products failed.
        finished = finished & (step.any() | found.stats["flat"])
        value = lambda y: _half_square(fn(y, args)[0])
        most = jnp.where(finished, 1, _TRIALS)  # no share of a rounding error is better
        most = jnp.where(slope < 0, most, 0)
        share, gained, trials = _shorten(value, y, step, cost, slope, most)
        better = share > 0
        stuck = jnp.where(better, 0, state.stuck + 1)
        little = better & (gained <= self.rtol * cost + self.atol)
        slow = jnp.where(little, state.slow + 1, jnp.where(better, 0, state.slow))
        new = Progress(
            damping=_damping(state.damping, share, stiffness),
            stuck=stuck,
            slow=slow,
            finished=finished | (slow >= _SLOW),
            network=state.network + 1 + trials,
            jvp=state.jvp + iterations + 1,
            vjp=state.vjp + iterations + 1,
        )
        return jnp.where(better, y + share * step, y), new, aux

    def terminate(
        self,
        fn: Callable,
        y: Array,
        args: Any,
        options: dict[str, Any],
        state: Progress,
        tags: frozenset[object],
    ) -> tuple[Flag, Any]:
        fine, lost = optx.RESULTS.successful, optx.RESULTS.nonlinear_divergence
        given_up = (state.stuck >= _PATIENCE) & ~state.finished
        return state.finished, optx.RESULTS.where(given_up, lost, fine)

    def postprocess(
        self,
        fn: Callable,
        y: Array,
        aux: Any,
        args: Any,
        options: dict[str, Any],
        state: Progress,
        tags: frozenset[object],
        result: optx.RESULTS,
    ) -> tuple[Array, Any, dict[str, Any]]:
        counts = {name: getattr(state, name) for name in ("network", "jvp", "vjp")}
        return y, aux, counts


def _shorten(
    value: Callable, y: Array, step: Array, cost: Scalar, slope: Scalar, most: Count
) -> tuple[Scalar, Scalar, Count]:
    """The share of the step to take (0 if none was better), its gain,
    and the trials.
    """

    def enough(share: Scalar, gained: Scalar) -> Flag:
        return gained >= -_SUFFICIENT * share * slope  # a NaN is not

    def again(carry: tuple[Scalar, Scalar, Count]) -> Flag:
        share, gained, trials = carry
        return ~enough(share, gained) & (trials < most)

    def body(carry: tuple[Scalar, Scalar, Count]) -> tuple[Scalar, Scalar, Count]:
        share, _, trials = carry
        share = jnp.where(trials == 0, 1.0, _SHORTER) * share
        return share, cost - value(y + share * step), trials + 1

    none = jnp.full_like(cost, -jnp.inf)
    start = (jnp.ones((), y.dtype), none, jnp.zeros((), int))
    share, gained, trials = jax.lax.while_loop(again, body, start)
    return jnp.where(enough(share, gained), share, 0.0), gained, trials


def _damping(damping: Scalar, share: Scalar, stiffness: Scalar) -> Scalar:
    lower = jnp.where(damping < _NEGLIGIBLE, 0.0, damping / 10)
    stiff = jnp.where(jnp.isfinite(stiffness), stiffness, 1.0)
    higher = jnp.maximum(4 * damping, jnp.where(share > 0, 0.1, 1.0) * stiff)
    return jnp.where(share == 1, lower, higher)


def _half_square(tree: PyTree) -> Scalar:
    return 0.5 * dot(tree, tree)


def dot(a: PyTree, b: PyTree) -> Scalar:
    """The inner product of two trees of arrays."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def along(x: PyTree, length: Scalar, direction: PyTree) -> PyTree:
    """`x + length * direction`."""
    return jax.tree.map(lambda x, d: x + length * d, x, direction)


def _over(tree: PyTree, size: Scalar) -> PyTree:
    return jax.tree.map(lambda leaf: leaf / size, tree)


def _largest(tree: PyTree) -> Scalar:
    """The largest absolute value; 1 if all are zero."""
    sizes = [jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]
    size = functools.reduce(jnp.maximum, sizes)
    return jnp.where(size > 0, size, jnp.ones_like(size))
