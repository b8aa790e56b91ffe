r"""One solve of one sample: its history, its best point, what it cost.

Optimistix's `step` hands back what was found at the point it *began* from, as its
`aux`. So whatever the solver, the point that belongs to a value is known, the best of
them is kept, and nothing worse than the start is ever returned. Where no objective
was finite there is no best point: that solve has failed, and returns its start.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float

from ..types import Count, Flag, Sample, Scalar
from ._cgls import dot
from ._methods import AbstractMethod

Terms = Float[Array, "3"]  # of the objective: anchor, misfit, residual


class Point(eqx.Module):
    """A latent, its sample, and the terms of the objective there."""

    latent: Sample
    x: Sample
    terms: Terms


class Outcome(eqx.Module):
    """What a solve has found: the best point, how it got there, and at what cost."""

    best: Point
    history: Float[Array, "step 3"]
    steps: Count
    converged: Flag
    failed: Flag
    spent: Float[Array, "3"]


class _Carry(eqx.Module):
    latent: Sample
    state: Any
    step: Count
    best: Point
    last: Terms
    history: Float[Array, "step 3"]
    finished: Flag
    fine: Flag


def drive(method: AbstractMethod, fn: Callable, start: Sample, args: Any) -> Outcome:
    """Minimise half the square of `fn(latent, args)`, rows and a `Point` there."""
    solver = method.solver()
    if not isinstance(solver, optx.AbstractLeastSquaresSolver):
        rows_of = fn
        fn = lambda y, args: _halved(*rows_of(y, args))
    fn = eqx.filter_closure_convert(fn, start, args)
    struct = jax.eval_shape(fn, start, args)
    # The rows are traced by now. Optimistix and Optax compute by JAX's standard
    # promotion; a user's session may be strict.
    with jax.numpy_dtype_promotion("standard"):
        return _loop(method, solver, fn, start, args, struct)


def _loop(method, solver, fn, start, args, struct) -> Outcome:
    tags = frozenset()
    state = solver.init(fn, start, args, {}, *struct, tags)
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
    end = fn(jnp.where(lost, start, c.latent), args)[1]
    last, best = _seen(end, c.last, c.best)
    best = jax.tree.map(lambda new, old: jnp.where(lost, new, old), end, best)
    later = jnp.arange(method.steps + 1) >= c.step
    spent = method.spent(eqx.combine(c.state, fixed), c.step)
    one_more = jnp.array([1.0, 0.0, 0.0])  # the evaluation at the end
    return Outcome(
        best=best,
        history=jnp.where(later[:, None], last, c.history),
        steps=c.step,
        converged=c.finished & c.fine & ~lost,
        failed=~c.fine | lost,
        spent=jnp.stack([jnp.asarray(n, float) for n in spent]) + one_more,
    )


def _seen(point: Point, last: Terms, best: Point) -> tuple[Terms, Point]:
    """The last finite terms, and the best point, with this one seen."""
    finite = jnp.isfinite(point.terms).all() & jnp.isfinite(point.latent).all()
    better = finite & (point.terms.sum() < best.terms.sum())
    keep = lambda new, old: jnp.where(better, new, old)
    return jnp.where(finite, point.terms, last), jax.tree.map(keep, point, best)


def _halved(rows: Any, point: Point) -> tuple[Scalar, Point]:
    return 0.5 * dot(rows, rows), point
