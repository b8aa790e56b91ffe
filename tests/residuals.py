"""A residual's two sides and a student's states, for many draws and rows at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax.student import Row, Stencil, residual

ANGLE, TIME = px.flow.AngleClock(), px.flow.TimeClock()


@eqx.filter_jit
def sides(student, flow, derivative, stencil, z, condition=None, inside=None) -> Any:
    """What the student's motion implies and what the teacher says: (draw, row, ...)."""
    unit = z / flow.process.sigma(jnp.asarray(flow.process.t_max, z.dtype))

    def one(unit: Any, row: Row) -> Any:
        return residual(student, flow, derivative, row, unit, condition, inside=inside)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(unit, stencil.rows)


@eqx.filter_jit
def states(student, z, times, condition=None) -> Any:
    """The student's states: (draw, time, ...)."""
    of = lambda z, t: student(z, t, condition)
    return jax.vmap(jax.vmap(of, (None, 0)), (0, None))(z, times)


def joined(*stencils: Stencil) -> Stencil:
    """Their rows, one after the other: one compilation for all."""
    return jax.tree.map(lambda *a: jnp.asarray(np.concatenate(a)), *stencils)


def prior(process, count=4, size=3) -> jax.Array:
    return process.prior(jax.random.key(3), (count, size))


def difference(v, t) -> np.ndarray:
    """The quotient of neighbours of (draw, time, ...): eq. 10 of Tee et al. 2024."""
    v, t = np.asarray(v), np.asarray(t)
    return (v[:, :-1] - v[:, 1:]) / (t[:-1] - t[1:])[:, None]
