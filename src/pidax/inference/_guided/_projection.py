r"""The nearest clean sample that satisfies hard conditions.

In closed form, on the fields: exact values are written, and linear conditions are
projected by their pseudo-inverse. Otherwise by Gauss-Newton in the coordinates of the
model: with the violations $h(x)$ and their Jacobian $J$,

$$ x \leftarrow x - J^T (J J^T)^{-1} h(x), $$

the nearest point at which the linearised conditions hold. The proximal step

$$ \min_x\ \tfrac12 |h(x)|^2 + \tfrac{w^2}2 |x - c|^2 $$

is a compromise with a centre $c$. Both solve least-squares problems by `CGLS`, which
needs products $Jv$ and $J^T w$ only and finds the solution of least norm, so no
Jacobian is formed and conditions may repeat each other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx

from ...constraint import AbstractConstraint, All
from ...types import Count, Sample, Scalar, Stacked
from .._gauss_newton import CGLS
from .._problem import Problem
from ._target import Rows, Target

NEWTON = 10  # projections at the end, at most
_SHORTER = 0.25
_GAIN = 1e-7  # of the objective, below which conjugate gradients stop


def conditions(problem: Problem) -> AbstractConstraint | None:
    """All that samples should satisfy, as one constraint of fields."""
    parts = (problem.constraint, problem.observation, *problem.linear)
    some = [part for part in parts if part is not None]
    return All(some) if some else None


def violations(target: Target, x: Sample) -> Rows:
    """The rows of a clean sample in units of the coordinates."""
    return {name: row / target.units[name] for name, row in target.rows(x).items()}


def worst(rows: Rows) -> Scalar:
    """The largest violation."""
    return jnp.max(jnp.stack([jnp.abs(row).max() for row in rows.values()]))


def in_closed_form(target: Target, x: Sample) -> Sample:
    """The nearest fields that satisfy the conditions, in coordinates."""
    problem, hard = target.problem, conditions(target.problem)
    if hard is None:
        return x
    fields: Stacked = hard.project_fields(problem.own_fields(x))
    chart = problem.normaliser
    return (fields if chart is None else chart.normalise(fields)).astype(x.dtype)


def gauss_newton(
    told: Callable[[Sample], Rows], x: Sample, products: int
) -> tuple[Sample, Count]:
    """One step to where the linearised conditions hold; and the products with the
    Jacobian or its transpose.
    """
    rows, push = jax.linearize(told, x)
    struct = jax.eval_shape(lambda: x)
    operator = lx.FunctionLinearOperator(push, struct)
    right = jax.tree.map(jnp.negative, rows)
    found = lx.linear_solve(operator, right, CGLS(_GAIN, products), throw=False)
    return x + found.value, 2 * found.stats["num_steps"] + 2


def proximal(
    told: Callable[[Sample], Rows],
    x: Sample,
    centre: Sample,
    weight: Scalar,
    products: int,
) -> tuple[Sample, Count]:
    """One step of Gauss-Newton to the proximal point."""
    rows, push = jax.linearize(told, x)
    both = lambda v: (push(v), weight * v)
    operator = lx.FunctionLinearOperator(both, jax.eval_shape(lambda: x))
    right = (jax.tree.map(jnp.negative, rows), weight * (centre - x))
    found = lx.linear_solve(operator, right, CGLS(_GAIN, products), throw=False)
    return x + found.value, 2 * found.stats["num_steps"] + 2


def onto(
    told: Callable[[Sample], Rows], x: Sample, products: int
) -> tuple[Sample, Count]:
    """Gauss-Newton until the conditions hold to rounding, or no step helps.

    A step that makes the worst violation larger is shortened.
    """
    eps = 10 * jnp.finfo(x.dtype).eps

    def going(carry: tuple) -> jax.Array:
        _, left, _, number, _ = carry
        return (left > eps) & (number < NEWTON)

    def body(carry: tuple) -> tuple:
        x, left, share, number, count = carry
        moved, more = gauss_newton(told, x, products)
        moved = x + share * (moved - x)
        after = worst(told(moved))
        better = after < left
        share = jnp.where(better, 1.0, _SHORTER * share)
        keep = lambda new, old: jnp.where(better, new, old)
        return keep(moved, x), keep(after, left), share, number + 1, count + more + 1

    none = jnp.zeros((), int)
    start = (x, worst(told(x)), jnp.ones((), x.dtype), none, none)
    x, _, _, _, count = jax.lax.while_loop(going, body, start)
    return x, count
