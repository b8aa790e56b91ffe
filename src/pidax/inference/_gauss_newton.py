r"""Gauss-Newton without a Jacobian: least squares by products with it alone.

To minimise $\tfrac12|F(y)|^2$, each step solves the linearised problem

$$ \min_\delta\ \tfrac12 |F(y) + J\delta|^2 + \tfrac\mu2 |\delta|^2 $$

by conjugate gradients for least squares (`CGLS`), which ask for $Jv$ and $J^T w$ only:
a forward and a backward sweep through `jax.linearize`.

A step too long is shortened, at one evaluation of $F$ a trial; a linearisation that
promised too much raises the damping $\mu$ of the next one (Levenberg, Marquardt), one
that keeps its word lowers it to zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, PyTree

from ..types import Count, Flag, Scalar
from ._cgls import CGLS, dot

_SHORTER = 0.25  # the next trial of a step that was too long
_TRIALS = 4
_SUFFICIENT = 1e-4  # of the decrease that the slope promises: Armijo's condition
_NEGLIGIBLE = 1e-3  # damping below this is none
_PATIENCE = 8  # steps in a row without a better point: given up
_SLOW = 3  # steps in a row that gained less than the tolerance: finished


class Progress(eqx.Module):
    """What a solve has done so far, and whether it is done."""

    damping: Scalar
    stuck: Count
    slow: Count
    finished: Flag
    network: Count
    jvp: Count
    vjp: Count


class DampedGaussNewton(optx.AbstractLeastSquaresSolver):
    """An Optimistix solver; `inference.GaussNewton` is what `refine` is given.

    It has finished when a step promises less than `rtol` of $|F|^2/2$, or than `atol`,
    or three in a row gain less.
    `linear_solver` solves the linearised problems: a Lineax solver that takes operators
    which are not square, and says how many products it took. The unknown is one array.
    """

    rtol: float
    atol: float
    norm: Callable[[PyTree], Scalar]
    linear_solver: lx.AbstractLinearSolver

    def __init__(
        self,
        rtol: float = 1e-4,
        atol: float = 0.0,
        linear_solver: lx.AbstractLinearSolver | None = None,
    ):
        self.rtol, self.atol, self.norm = rtol, atol, optx.two_norm
        default = CGLS(1e-6, 100)
        self.linear_solver = default if linear_solver is None else linear_solver

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Progress:
        none = jnp.zeros((), int)
        no = jnp.asarray(False)
        return Progress(jnp.zeros((), y.dtype), none, none, no, none, none, none)

    def step(self, fn, y, args, options, state, tags) -> tuple[Array, Progress, Any]:
        rows, push, aux = jax.linearize(lambda y: fn(y, args), y, has_aux=True)
        step, iterations = self._solve(push, rows, y, state.damping)
        moved = push(step)
        cost, slope = _half_square(rows), dot(rows, moved)
        promised = -slope - _half_square(moved)
        # How stiff it is along this step; what the damping has kept it from promising.
        stiffness = 2 * _half_square(moved) / jnp.sum(step**2)
        whole = promised * (1 + state.damping / stiffness)
        finished = whole <= self.rtol * cost + self.atol
        # Less than rounding: no trial could tell, here is as good as it gets.
        finished = finished | (promised <= 8 * jnp.finfo(cost.dtype).eps * cost)
        value = lambda y: _half_square(fn(y, args)[0])
        most = jnp.where(finished, 1, _TRIALS)  # of what is rounding no share is better
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

    def _solve(self, push, rows, y, damping) -> tuple[Array, Count]:
        augmented = lambda v: (push(v), jnp.sqrt(damping) * v)
        operator = lx.FunctionLinearOperator(augmented, jax.eval_shape(lambda: y))
        right = jax.tree.map(jnp.negative, (rows, jnp.zeros_like(y)))
        found = lx.linear_solve(operator, right, self.linear_solver, throw=False)
        return found.value, found.stats["num_steps"]

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Flag, Any]:
        fine, lost = optx.RESULTS.successful, optx.RESULTS.nonlinear_divergence
        given_up = (state.stuck >= _PATIENCE) & ~state.finished
        return state.finished, optx.RESULTS.where(given_up, lost, fine)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        counts = {name: getattr(state, name) for name in ("network", "jvp", "vjp")}
        return y, aux, counts


def _shorten(value, y, step, cost, slope, most) -> tuple[Scalar, Scalar, Count]:
    """The share of the step to take, 0 if none was better; its gain; trials made."""

    def enough(share, gained):
        return gained >= -_SUFFICIENT * share * slope  # a NaN is not

    def again(carry):
        share, gained, trials = carry
        return ~enough(share, gained) & (trials < most)

    def body(carry):
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
