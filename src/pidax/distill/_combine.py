r"""Gradients of several losses as one step.

Their sum follows the largest, and where two of them point against each other a step
that lowers one raises the other. A combination that looks at the gradients themselves
can choose a direction along which all losses fall.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class AbstractCombination(eqx.Module):
    """One gradient made of several."""

    @abc.abstractmethod
    def __call__(self, gradients: PyTree) -> PyTree:
        """The step's gradient; each leaf of `gradients` has the loss as first axis."""


class ConFIG(AbstractCombination):
    r"""The direction that makes the same angle with every gradient: conflict-free.

    With unit gradients $\hat g_i$ and their Gram matrix $G$,

    $$ v = \sum_i w_i \hat g_i, \quad G w = 1, \qquad
       g = \Bigl(\sum_i g_i \cdot \hat v\Bigr) \hat v. $$

    Liu, Chu & Thuerey 2025, "ConFIG: towards conflict-free training of physics informed
    neural networks". Weights of the losses scale the step and do not turn it. Each loss
    costs a backward pass of its own. Where gradients are exactly opposed, no direction
    helps both, and the step is zero.
    """

    def __call__(self, gradients: PyTree) -> PyTree:
        dtype = jnp.result_type(float)
        flat = [g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)]
        gram = sum(jnp.asarray(g @ g.T, dtype) for g in flat)
        norms = jnp.sqrt(jnp.diagonal(gram))
        inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1.0), 0.0)
        cosines = gram * jnp.outer(inverse, inverse)
        # A loss without gradient asks for nothing: its row is that of the identity.
        silent = (norms == 0).astype(dtype)
        asked = 1 - silent
        w = _solve(cosines + jnp.diag(silent), asked)
        w = w * inverse  # now the weights of the gradients themselves
        length = jnp.sqrt(jnp.maximum(w @ gram @ w, 0.0))
        along = (gram @ w).sum()  # sum_i g_i . v
        opposed = length <= 1e-6 * jnp.abs(w * norms).max()
        factor = jnp.where(opposed, 0.0, along / jnp.where(opposed, 1.0, length) ** 2)
        weights = factor * w
        one = lambda g: jnp.tensordot(weights.astype(g.dtype), g, axes=1)
        return jax.tree.map(one, gradients)


def _solve(matrix, right):
    """By least squares, as parallel gradients make the matrix singular."""
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > 1e-5 * values.max()
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ right))
