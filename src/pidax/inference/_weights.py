r"""Importance weights of randomised minima.

With $g$ the misfit and residual in units of their noise, and $J = g'$, the minimum
$\epsilon$ of $|\epsilon - \epsilon_0|^2/2 + |g - \eta|^2/2$ has

$$ \epsilon_0 = \epsilon + J^T(g - \eta). $$

So the density of the pair $(\epsilon, \eta)$ is known where the minimum is found:
$N(\epsilon_0)\, N(\eta)\, |\det H|$ with the Hessian $H$ of the objective. It is
compared with the posterior of $\epsilon$ times a law of $\eta$ that is near it,

$$ p(\epsilon \mid y)\; \frac{h(\eta)\, \min(|\det H|, \det N)\, F}{Z(\epsilon)}, \qquad
   N = I + J^T J, \quad b = \epsilon + J^T g, $$

with $h$ the Gaussian law whose form is that of $N(\epsilon_0)\,N(\eta)$, $F$ one where
the minimiser finds $\epsilon$ from $\epsilon_0$, and zero elsewhere (a problem may have
several minima), and $Z$ such that it is a density. The weight is

$$ \ln w = -\tfrac12(|\epsilon|^2 + |g|^2) + \tfrac12 b^T N^{-1} b + \tfrac12\ln\det N
   - \max(\ln\det H, \ln\det N) + \ln\frac{\det N}{Z}. $$

$Z$ is not known, but $\det N / Z$ has an unbiased estimate: the number of draws of
$\eta$ from $h$, until one is accepted with the probability
$\min(1, \det H / \det N)\,F$. A weighted mean is then a mean of the posterior, in the
limit of many samples. For a linear problem all weights are equal.

Oliver, He & Reynolds 1996 give the density; Ba, de Wiljes, Oliver & Reich 2022,
"Randomized maximum likelihood based posterior sampling", weights for several minima.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..types import Flag, Key, Scalar
from ._minimisers import AbstractMethod
from ._minimum import Minimum, descend
from ._problem import Case, Problem

_TRIES = 64  # draws of the noise at most
_SAME = 0.3  # standard deviations between two results that are one minimum


def weighed(
    problem: Problem,
    case: Case,
    found: Minimum,
    method: AbstractMethod,
    key: Key,
) -> Minimum:
    """The minimum with its logarithmic weight, up to a constant."""
    constant = lambda leaf: jax.lax.stop_gradient(leaf) if _real(leaf) else leaf
    problem, case = jax.tree.map(constant, (problem, case))
    latent = constant(found.latent)
    shape, dtype = latent.shape, latent.dtype
    plain = problem.case(latent, case.condition)

    def told(flat: Array) -> Array:
        rows = problem(flat.reshape(shape), plain)[0]
        return jnp.concatenate([r.ravel() for n, r in rows.items() if n != "anchor"])

    def bent(case: Case) -> Scalar:
        """The determinant of the Hessian at the minimum, in units of that of N."""
        objective = lambda flat: problem(flat.reshape(shape), case)[1].terms.sum()
        sign, log_det = jnp.linalg.slogdet(jax.hessian(objective)(e))
        return jnp.maximum(sign, 0.0) * jnp.exp(log_det - log_normal)

    e = latent.ravel()
    g, jacobian = told(e), jax.jacfwd(told)(e)
    normal = jnp.eye(e.size, dtype=dtype) + jacobian.T @ jacobian
    b = e + jacobian.T @ g
    factor = jnp.linalg.cholesky(normal)
    log_normal = 2 * jnp.sum(jnp.log(jnp.diag(factor)))
    white = jax.scipy.linalg.solve_triangular(factor, b, lower=True)
    size = jnp.sum(e**2) + jnp.sum(g**2) - jnp.sum(white**2)
    own = bent(case)
    value = -0.5 * (size + log_normal) - jnp.log(jnp.maximum(own, 1.0))
    value = value + problem.log_determinant(problem.restore(found.x))
    fine = (own > 0) & ~found.failed & jnp.isfinite(value)

    def again(key: Key) -> tuple[Flag, Array]:
        """Whether another problem with this minimum is drawn, and leads to it."""
        keys = jax.random.split(key, 3)
        draw = jax.random.normal(keys[0], g.shape, dtype)
        off = b - jacobian.T @ draw - jax.random.normal(keys[1], e.shape, dtype)
        noise = draw + jacobian @ jax.scipy.linalg.cho_solve((factor, True), off)
        start = (b - jacobian.T @ noise).reshape(shape)
        at = Case(start, start, None, case.condition, _by_name(problem, plain, noise))
        other = descend(method, problem, start, at)
        apart = factor.T @ (other.latent.ravel() - e)
        same = ~other.failed & (jnp.linalg.norm(apart) < _SAME)
        return same & (jax.random.uniform(keys[2], (), dtype) < bent(at)), other.spent

    def going(carry: Any) -> Flag:
        return fine & ~carry[1] & (carry[0] < _TRIES)

    def trial(carry: Any) -> Any:
        count, _, spent = carry
        done, cost = again(jax.random.fold_in(own_key, count))
        return count + 1, done, spent + cost

    own_key = jax.random.fold_in(key, len(problem.linear) + 1)
    none = jnp.zeros((), int), jnp.asarray(False), found.spent
    tries, _, spent = jax.lax.while_loop(going, trial, none)
    value = value + jnp.log(jnp.maximum(tries, 1).astype(dtype))
    value = jnp.where(fine, value, -jnp.inf)
    return dataclasses.replace(found, log_weight=value, spent=spent)


def _by_name(problem: Problem, plain: Case, noise: Array) -> dict[str, Array]:
    """The noise of all rows but the anchor, as `Case.shift` has it."""
    rows = jax.eval_shape(lambda e: problem(e, plain)[0], plain.start)
    shift, at = {}, 0
    for name, row in rows.items():
        if name != "anchor":
            shift[name] = noise[at : at + row.size].reshape(row.shape)
            at += row.size
    return shift


def _real(leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf)
