r"""The two ends of a guided step: the denoiser, and what clean samples are compared
with.

The denoiser is the posterior mean $D(u, r) = E[x_0 \mid x_0 + r\epsilon = u]$
(Tweedie's formula), and its Jacobian is the posterior covariance divided by $r^2$. So
$J = \partial D/\partial u$ is symmetric, and $J^T g$ is one backward pass.

A clean sample has rows: its misfit in units of the noise, and the residual in units of
its scale times the slack, as in `Problem`. Strengths of methods refer to rows in units
of the *coordinates*: they are divided by the root mean square of the norms of the rows
of $\partial(\text{rows})/\partial x$, at the mean of the data. So one strength means
the same for values in pascals and for residuals in newtons.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...flow import ProbabilityFlow
from ...types import Condition, Sample, Scalar, Shape, Stacked
from .._prior import SolvedFlow
from .._problem import Problem

_PROBES = 64
_TIGHT = 1e-3  # of the data's standard deviation
_NONE = 1e-6  # of the largest: rows that no coordinate changes

Rows = dict[str, Array]


class Spent(NamedTuple):
    """Evaluations of the denoiser, products with its Jacobian and with the transpose,
    and evaluations of the rows or products with their Jacobian.
    """

    network: Array | int = 0
    jvp: Array | int = 0
    vjp: Array | int = 0
    rows: Array | int = 0

    def plus(self, other: "Spent") -> "Spent":
        """Both of them."""
        return Spent(*(a + b for a, b in zip(self, other, strict=True)))


class Target(eqx.Module):
    """The denoiser and the rows of its clean samples, for one sample.

    `units` are the sizes of the rows by name, and `counts` the numbers of rows that a
    coordinate changes.
    """

    problem: Problem
    condition: Condition
    units: dict[str, Scalar]
    counts: dict[str, Scalar]

    @property
    def flow(self) -> ProbabilityFlow:
        """The flow of the teacher."""
        prior = self.problem.student
        assert isinstance(prior, SolvedFlow)
        return prior.flow

    @property
    def size(self) -> Scalar:
        """The standard deviation of one entry of the data."""
        return jnp.asarray(self.flow.process.sigma_data, float)

    @property
    def shape(self) -> Shape:
        """The shape of a state."""
        shape = self.problem.shape
        assert shape is not None
        return shape

    def clean(self, u: Sample, level: Scalar) -> Sample:
        """The denoiser's clean sample of a state."""
        return self.flow.denoised(u, level, jnp.ones_like(level), self.condition)

    def tweedie(
        self, u: Sample, level: Scalar
    ) -> tuple[Sample, Callable[[Sample], Sample]]:
        """The clean sample, and products with the transpose of its Jacobian."""
        clean, back = jax.vjp(lambda u: self.clean(u, level), u)
        return clean, lambda g: back(g)[0]

    def linear(
        self, u: Sample, level: Scalar, forward: bool
    ) -> tuple[Sample, Callable[[Sample], Sample], Callable[[Sample], Sample]]:
        """The clean sample, and products with its Jacobian (if `forward`) and with the
        transpose.
        """
        if not forward:
            clean, back = self.tweedie(u, level)
            return clean, lambda v: v, back
        clean, push = jax.linearize(lambda u: self.clean(u, level), u)
        back = jax.linear_transpose(push, u)
        return clean, push, lambda g: back(g)[0]

    def misfit(
        self, x: Sample
    ) -> tuple[Array, Callable[[Sample], Array], Callable[[Array], Sample]]:
        """The rows of the misfit, and products with their Jacobian and the
        transpose.
        """
        of = lambda x: self.rows(x)["misfit"]
        row, push = jax.linearize(of, x)
        back = jax.linear_transpose(push, x)
        return row, push, lambda w: back(w)[0]

    def noisy(self) -> Array:
        """1 for each row of the misfit that has noise or no value, 0 for exact
        values.
        """
        problem, found = self.problem, []
        if (seen := problem.observation) is not None:
            found.append(~seen.exact.ravel())
        found += [part.noise > 0 for part in problem.linear]
        return jnp.concatenate(found).astype(float)

    def fields(self, x: Sample) -> Stacked:
        """The fields of a clean sample, before the forward map."""
        return self.problem.own_fields(x)

    def rows(self, x: Sample) -> Rows:
        """Misfit and residual of a clean sample, each flat, in units of their noise and
        scale.
        """
        told = self.problem.told(self.problem.restore(x))
        return {name: row.ravel().astype(x.dtype) for name, row in told.items()}

    def tight(self, x: Sample) -> Rows:
        """The rows, with exact values in units of a thousandth of their channel's
        standard deviation.
        """
        rows = self.rows(x)
        if "misfit" in rows:
            factor = jnp.where(self.noisy() > 0, 1.0, 1 / _TIGHT).astype(x.dtype)
            rows["misfit"] = factor * rows["misfit"]
        return rows

    def violations_of(self, fields: Stacked) -> Rows:
        """The rows of fields before the forward map, in units of the coordinates."""
        told = self.problem.told(self.problem.through(fields)[0])
        return {name: row.ravel() / self.units[name] for name, row in told.items()}

    def log_likelihood(self, x: Sample) -> Scalar:
        """Minus half the squares of the rows, with the determinant if asked for."""
        value = self.problem.log_likelihood_of(self.problem.restore(x))
        return value.astype(x.dtype)

    def uphill(self, x: Sample, strengths: dict[str, Scalar]) -> Sample:
        r"""$\sum_n w_n \sqrt{m_n}\, \nabla |g_n|$ of the rows $g_n$ in units of the
        coordinates, $m_n$ their number: the gradient of distances.

        It moves each observed number by $w$, and is zero where the rows are zero.
        """
        rows, back = jax.vjp(self.rows, x)

        def pull(name: str, row: Array) -> Array:
            size = jnp.linalg.norm(row)
            size = jnp.where(size > 0, size, 1.0) * self.units[name]
            return strengths[name] * jnp.sqrt(self.counts[name]) * row / size

        return back({name: pull(name, row) for name, row in rows.items()})[0]

    def downhill(self, x: Sample) -> Sample:
        r"""$-\nabla \tfrac12 \sum_n |g_n|^2$ of the rows in units of the
        coordinates.
        """
        rows, back = jax.vjp(self.rows, x)
        pulled = {name: -row / self.units[name] ** 2 for name, row in rows.items()}
        return back(pulled)[0]

    def alike(self, strength: Scalar) -> dict[str, Scalar]:
        """One strength for all rows."""
        return dict.fromkeys(self.units, strength)


@eqx.filter_jit
def units(bare: Target, level: Scalar) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """The units of the rows, at the mean of the data, which is the denoiser's answer
    to nothing but noise; and the numbers of rows.
    """
    zero = jnp.zeros(bare.shape)
    middle = bare.clean(zero, level.astype(zero.dtype))
    probes = jax.random.normal(jax.random.key(0), (_PROBES, *bare.shape), zero.dtype)
    _, push = jax.linearize(bare.rows, middle)
    pushed = jax.lax.map(push, probes, batch_size=8)
    sizes, counts = {}, {}
    for name, row in pushed.items():
        square = jnp.mean(row**2, axis=0)
        changed = square > _NONE**2 * square.max()
        count = jnp.maximum(changed.sum(), 1).astype(zero.dtype)
        total = jnp.sum(square)
        sizes[name] = jnp.where(total > 0, jnp.sqrt(total / count), 1.0)
        counts[name] = count
    return sizes, counts


def aim(
    problem: Problem, condition: Condition, level: Scalar, run: Callable | None = None
) -> Target:
    """The target of a problem; `run` calls a compiled function."""
    bare = Target(problem, condition, {}, {})
    found = units(bare, level) if run is None else run(units, bare, level)
    return Target(problem, condition, *jax.tree.map(jnp.asarray, found))
