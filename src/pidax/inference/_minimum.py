r"""The minimum of a least-squares problem, and its derivative.

At a minimum $g(\epsilon, \theta) = 0$, with $g$ the gradient of the objective. So the
refined sample is a differentiable function of its arguments $\theta$,

$$ \frac{d\epsilon}{d\theta} = -\Bigl(\frac{\partial g}{\partial\epsilon}\Bigr)^{-1}
   \frac{\partial g}{\partial\theta}, $$

for any solver, with the accuracy of the minimum.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jaxtyping import Array, Float

from ..types import Count, Flag, Sample, Scalar
from ._gauss_newton import dot
from ._minimisers import AbstractMethod, AnySolver
from ._problem import Case, Point, Problem, Terms


class Minimum(eqx.Module):
    """The result of `minimise`: a latent, its sample, and how they were found.

    `fields` are in physical units, `x` in the model's coordinates, `latent` is the unit
    latent of `x`. `terms` are the terms of the objective: anchor, misfit, residual, and
    `history` their values by step. `converged`: it stopped by tolerance. `failed`: the
    solver failed, and this is the best point before. `spent`: evaluations, products
    with the Jacobian and with its transpose. `fields`, `x`, `latent` and `terms` are
    differentiable. `log_weight` is that of `weigh=True`, otherwise None.
    """

    fields: Any  # Stacked
    x: Sample
    latent: Sample
    terms: Terms
    history: Float[Array, "step 3"]
    steps: Count
    converged: Flag
    failed: Flag
    spent: Float[Array, "3"]
    log_weight: Scalar | None = None


@eqx.filter_custom_jvp
def minimum(problem: Problem, case: Case, method: AbstractMethod) -> Minimum:
    return descend(method, problem, case.start, case)


@minimum.def_jvp
def _implicit(primals: tuple, tangents: tuple) -> tuple[Minimum, Minimum]:
    """The tangent of a minimum, of its sample, and of the terms there."""
    found = minimum(*primals)
    y = found.latent
    moves = jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)
    moving, fixed = eqx.partition(primals, moves)

    def at(y: Sample, moving: Any) -> Point:
        problem, case, _ = eqx.combine(moving, fixed)
        return problem(y, case)[1]

    def gradient(y: Sample, moving: Any) -> Sample:
        return jax.grad(lambda y: at(y, moving).terms.sum())(y)

    hessian = lambda v: jax.jvp(lambda y: gradient(y, moving), (y,), (v,))[1]
    change = jax.jvp(lambda m: gradient(y, m), (moving,), (tangents,))[1]
    tol = float(jnp.finfo(y.dtype).eps) ** (2 / 3)
    symmetric = lx.positive_semidefinite_tag
    curvature = lx.FunctionLinearOperator(hessian, jax.eval_shape(lambda: y), symmetric)
    found_by = lx.CG(tol, 0.0, max_steps=10 * y.size)
    step = lx.linear_solve(curvature, -change, found_by, throw=False).value
    best = jax.jvp(at, (y, moving), (step, tangents))[1]
    rest: Any = [None] * 5  # counts have no tangent
    return found, Minimum(None, best.x, best.latent, best.terms, *rest)


class _Carry(eqx.Module):
    latent: Sample
    state: Any
    step: Count
    best: Point
    last: Terms
    history: Float[Array, "step 3"]
    finished: Flag
    fine: Flag


def descend(method: AbstractMethod, fn: Callable, start: Sample, args: Any) -> Minimum:
    """Minimise half the square of `fn(latent, args)`, which returns rows and a
    `Point`.

    Optimistix's `step` returns as `aux` the values at the point from which it
    *started*. Therefore the point of a value is always known, the best point is kept,
    and no result is worse than the start. If no objective was finite there is no best
    point: the solve has failed, and returns its start.
    """
    solver, rows_of = method.solver(), fn
    minimiser = not isinstance(solver, optx.AbstractLeastSquaresSolver)

    def halved(y: Sample, args: Any) -> tuple[Scalar, Point]:
        rows, point = rows_of(y, args)
        return 0.5 * dot(rows, rows), point

    fn = eqx.filter_closure_convert(halved if minimiser else fn, start, args)
    struct = jax.eval_shape(fn, start, args)
    # Optimistix and Optax compute by JAX's standard
    # promotion; a user's session may be strict.
    with jax.numpy_dtype_promotion("standard"):
        return _loop(method, solver, minimiser, fn, start, args, struct)


def _loop(
    method: AbstractMethod,
    solver: AnySolver,
    minimiser: bool,
    fn: Callable,
    start: Sample,
    args: Any,
    struct: Any,
) -> Minimum:
    tags = frozenset()
    values, aux = struct
    state = solver.init(fn, start, args, {}, values, aux, tags)
    moving, fixed = eqx.partition(state, eqx.is_array)

    def body(c: _Carry) -> _Carry:
        state = eqx.combine(c.state, fixed)
        latent, state, seen = solver.step(fn, c.latent, args, {}, state, tags)
        done, result = solver.terminate(fn, latent, args, {}, state, tags)
        fine = (result == optx.RESULTS.successful) & jnp.isfinite(latent).all()
        last, best = _seen(seen, c.last, c.best)
        history = c.history.at[c.step].set(last)
        moving = eqx.filter(state, eqx.is_array)
        return _Carry(latent, moving, c.step + 1, best, last, history, done, fine)

    def going(c: _Carry) -> Flag:
        return c.fine & ~c.finished & (c.step < method.steps)

    nowhere = jax.tree.map(lambda s: jnp.full(s.shape, jnp.inf, s.dtype), struct[1])
    history = jnp.zeros((method.steps + 1, 3), start.dtype)
    no, none = jnp.asarray(False), jnp.zeros((), int)
    first = _Carry(start, moving, none, nowhere, nowhere.terms, history, no, ~no)
    c = jax.lax.while_loop(going, body, first)
    lost = ~jnp.isfinite(c.best.terms).all()  # not one point with a finite objective
    at, fine = jnp.where(lost, start, c.latent), c.fine & ~lost
    if minimiser:
        # A gradient whose square overflows gives no step, which looks like convergence.
        slope, end = jax.grad(fn, has_aux=True)(at, args)
        fine = fine & jnp.isfinite(dot(slope, slope))
    else:
        end = fn(at, args)[1]
    last, best = _seen(end, c.last, c.best)
    best = jax.tree.map(lambda new, old: jnp.where(lost, new, old), end, best)
    later = jnp.arange(method.steps + 1) >= c.step
    spent = method.spent(eqx.combine(c.state, fixed), c.step)
    at_the_end = jnp.array([1.0, 0.0, float(minimiser)])
    return Minimum(
        fields=None,  # which the problem says
        x=best.x,
        latent=best.latent,
        terms=best.terms,
        history=jnp.where(later[:, None], last, c.history),
        steps=c.step,
        converged=c.finished & fine,
        failed=~fine,
        spent=jnp.stack([jnp.asarray(n, float) for n in spent]) + at_the_end,
    )


def _seen(point: Point, last: Terms, best: Point) -> tuple[Terms, Point]:
    """The last finite terms and the best point, including this one."""
    finite = jnp.isfinite(point.terms).all() & jnp.isfinite(point.latent).all()
    better = finite & (point.terms.sum() < best.terms.sum())
    keep = lambda new, old: jnp.where(better, new, old)
    return jnp.where(finite, point.terms, last), jax.tree.map(keep, point, best)
