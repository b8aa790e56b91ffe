"""Two equations on an interval, solved densely: what data and reports are tried on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pidax._checks import require
from pidax.pde import AbstractEquation, Grid


class Rod(AbstractEquation):
    """u'' = f, u = 0 at both ends, f of four random sines: linear."""

    class Fields(NamedTuple):
        """The source and the temperature."""

        source: Array
        solution: Array

    given = ("source",)
    kind = "linear"
    grid: Grid
    strength: float = 1.0

    def matrix(self, dtype):
        n, h = self.grid.shape[0], self.grid.spacing[0]
        inner = jnp.eye(n - 2, n, k=0) - 2 * jnp.eye(n - 2, n, k=1)
        inner = inner + jnp.eye(n - 2, n, k=2)
        ends = jnp.eye(n)
        rows = jnp.concatenate([ends[:1], inner / h**2, ends[-1:]])
        return rows.astype(dtype)

    def draw(self, *, key):
        x = self.grid.points[0]
        modes = jnp.arange(1.0, 5.0, dtype=x.dtype)
        weights = self.strength * jax.random.normal(key, (4,), x.dtype) / modes
        return (weights @ jnp.sin(jnp.pi * modes[:, None] * x),)

    def solve(self, source):
        right = source.at[jnp.array([0, -1])].set(0.0)
        return self.Fields(source, jnp.linalg.solve(self.matrix(source.dtype), right))

    def residual(self, fields):
        u = fields.solution
        inner = (self.matrix(u.dtype) @ u - fields.source)[1:-1]
        return jnp.pad(inner, 1)

    def scale(self, fields):
        return jnp.sqrt(jnp.mean(jnp.square(fields.source)))

    def boundary_error(self, fields):
        u = fields.solution
        return jnp.maximum(jnp.abs(u[0]), jnp.abs(u[-1]))


class Slab(AbstractEquation):
    """-(a u')' = 1, u = 0 at both ends, log a linear in x: bilinear; a > 0."""

    class Fields(NamedTuple):
        """The conductivity and the temperature."""

        coefficient: Array
        solution: Array

    given = ("coefficient",)
    kind = "bilinear"
    grid: Grid

    def flux(self, a, u):
        return (a[1:] + a[:-1]) / 2 * jnp.diff(u) / self.grid.spacing[0]

    def residual(self, fields):
        flow = jnp.diff(self.flux(fields.coefficient, fields.solution))
        return jnp.pad(-flow / self.grid.spacing[0] - 1, 1)

    def draw(self, *, key):
        slope = jax.random.normal(key)
        return (jnp.exp(slope * (self.grid.points[0] - 0.5)),)

    def solve(self, coefficient):
        a = require(
            coefficient,
            (coefficient > 0).all(),
            "the coefficient must be positive everywhere, got values that are not. "
            "Pass exp(g).",
        )
        u = jnp.zeros_like(a)
        affine = lambda inner: self.residual(
            self.Fields(a, jnp.pad(inner, 1).astype(a.dtype))
        )[1:-1]
        inner = jnp.linalg.solve(jax.jacfwd(affine)(u[1:-1]), -affine(u[1:-1]))
        return self.Fields(a, jnp.pad(inner, 1))

    def scale(self, fields):
        return jnp.ones((), fields.solution.dtype)
