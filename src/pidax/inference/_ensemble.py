r"""Ensemble smoother with multiple data assimilation.

An ensemble of latents is moved `steps` times, each time by a linear regression of the
latent on the observed quantities,

$$ \epsilon_i \leftarrow \epsilon_i - C_{\epsilon g}\,(C_{gg} + \alpha I)^{-1}
   (g_i + \sqrt\alpha\,\eta_i), \qquad \alpha = \text{steps}, $$

with $g$ the misfit in units of the noise and $C$ the covariances of the ensemble. The
inverse inflations add up to one, so for a linear problem and a large ensemble the
result is a sample of the posterior. For a nonlinear one it is an approximation that
does not improve with more members: use it where an evaluation is expensive, and compare
it with chains where they can be paid. Emerick & Reynolds 2013, "Ensemble smoother with
multiple data assimilation".
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import whole_number
from .._progress import advance, progress_bar
from ..types import Batch, Condition, Key
from ._cost import Clock
from ._problem import Problem
from ._sampler import (
    APPROXIMATE,
    COMPARE,
    AbstractSampler,
    Draws,
    at_start,
    prior_latents,
)


class Ensemble(AbstractSampler):
    """As many members as samples, moved `steps` times: ES-MDA.

    The members are correlated through the covariances, which they estimate together:
    take several hundred of them, and more than the observations tell independent
    numbers. A member for which the forward map fails is left out of the covariances and
    not moved; it is not returned if it fails at the end.

    **Cost:** `samples * (steps + 1)` evaluations.
    """

    steps: int = 8

    def __check_init__(self):
        whole_number("steps", self.steps)

    @property
    def caution(self) -> str:
        return APPROXIMATE

    @property
    def advice(self) -> str:
        return COMPARE

    def draw(
        self,
        problem: Problem,
        condition: Condition,
        samples: int,
        *,
        key: Key,
        clock: Clock,
        progress: bool,
    ) -> Draws:
        if samples < 3:
            raise ValueError(
                "an ensemble estimates covariances: expected at least 3 samples, got "
                f"{samples}. Take several hundred."
            )
        if problem.determinant:
            raise ValueError(
                "an ensemble moves by least squares alone: expected no determinant, "
                'got determinant=True. Use PCN() or SMC(), or slack_on="solution".'
            )
        shape = problem.shape
        assert shape is not None
        first, second = jax.random.split(key)
        latent, failed = prior_latents(first, samples, shape), 0
        fine, value = np.ones(samples, bool), np.zeros(samples)
        with progress_bar(self.steps + 1, "infer", "step", progress) as bar:
            for i in range(self.steps + 1):
                inflation = jnp.asarray(float(self.steps))
                own = jax.random.fold_in(second, i)
                last = jnp.asarray(i == self.steps)
                found = clock.run(
                    _assimilate, problem, condition, latent, own, inflation, last
                )
                latent, value, fine = found
                failed += int((~fine).sum())
                at_start(latent, np.where(fine, value, -np.inf), "")
                advance(bar, 1)
        return Draws(
            latent=np.asarray(latent)[fine],
            log_likelihood=value[fine],
            evaluations=samples * (self.steps + 1),
            failed=failed,
        )


@eqx.filter_jit
def _assimilate(
    problem: Problem,
    condition: Condition,
    latents: Batch,
    key: Key,
    inflation: Array,
    last: Bool[Array, ""],
) -> tuple[Batch, Float[Array, " member"], Bool[Array, " member"]]:
    """One step; at the end the likelihoods only."""

    def one(latent: Array) -> tuple[Array, Array]:
        rows, point = problem(latent, problem.case(latent, condition))
        told = [row.ravel() for name, row in rows.items() if name != "anchor"]
        return jnp.concatenate(told), -(point.terms[1] + point.terms[2])

    rows, value = jax.vmap(one)(latents)
    fine = jnp.isfinite(rows).all(axis=1) & jnp.isfinite(value)
    moved = _regress(latents, jnp.where(fine[:, None], rows, 0.0), fine, key, inflation)
    still = last | ~fine
    still = still.reshape(-1, *(1,) * (latents.ndim - 1))
    return jnp.where(still, latents, moved), value, fine


def _regress(
    latents: Batch,
    rows: Float[Array, "member row"],
    fine: Bool[Array, " member"],
    key: Key,
    inflation: Array,
) -> Batch:
    """The members moved, by their regression on the rows."""
    dtype = rows.dtype
    flat = latents.reshape(latents.shape[0], -1).astype(dtype)
    use = fine.astype(dtype)[:, None]
    count = jnp.maximum(use.sum(), 2.0)
    apart = lambda a: use * (a - (use * a).sum(axis=0) / count) / jnp.sqrt(count - 1)
    x, g = apart(flat), apart(rows)
    inflation = inflation.astype(dtype)
    off = rows + jnp.sqrt(inflation) * jax.random.normal(key, rows.shape, dtype)
    # The smaller one of two systems: of the members, or of the rows.
    if g.shape[1] < g.shape[0]:
        inner = g.T @ g + inflation * jnp.eye(g.shape[1], dtype=dtype)
        gain = jax.scipy.linalg.solve(inner, g.T @ x, assume_a="pos")
        moved = flat - off @ gain
    else:
        inner = g @ g.T + inflation * jnp.eye(g.shape[0], dtype=dtype)
        weights = jax.scipy.linalg.solve(inner, g @ off.T, assume_a="pos")
        moved = flat - (x.T @ weights).T
    return moved.reshape(latents.shape).astype(latents.dtype)
