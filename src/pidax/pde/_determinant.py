r"""The logarithm of the determinant of an operator on a grid.

A Gaussian law of a residual $R(a, u)$ gives, when $u$ is left out, the law of $a$
divided by $|\det\partial R/\partial u|$. So this determinant is needed where the
operator of an equation depends on its given fields.

Small matrices are factorised. For a large one, symmetric and definite,

$$ \ln\det A = \operatorname{tr}\ln A
   \approx \frac Nm \sum_{i=1}^m q_i^T (\ln A)\, q_i, \qquad
   q^T (\ln A)\, q \approx \sum_k w_k \ln\theta_k, $$

with orthonormal random probes $q_i$, and $\theta_k$, $w_k$ the nodes and weights of
Gauss' quadrature, the eigenvalues of Lanczos' tridiagonal matrix and the squares of the
first entries of its eigenvectors. With as many probes and steps as rows it is exact.
Its derivative is $\frac Nm\sum_i (A^{-1}q_i)^T \,dA\, q_i$. Ubaru, Chen & Saad 2017,
"Fast estimation of tr(f(A)) via stochastic Lanczos quadrature".

For $A = -\nabla\cdot(a\nabla)$ it estimates only the difference from the determinant of
$M = a^{1/2}(-\Delta)\,a^{1/2}$, which is known. For smooth $a$ the matrix
$M^{-1/2} A M^{-1/2}$ is close to the identity.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import whole_number
from ..types import Key, Scalar, WholeLike, typed
from ._diffusion import AbstractDiffusion, Laplacian
from ._transform import Transform

LARGEST = 1024  # rows of a matrix that is factorised


@typed
def log_determinant(
    operator: lx.AbstractLinearOperator,
    *,
    probes: WholeLike = 16,
    steps: WholeLike = 32,
    dense: WholeLike = LARGEST,
    key: Key | None = None,
) -> Scalar:
    r"""$\ln|\det A|$ of a linear operator of Lineax, such as `px.pde.Diffusion`.

        log_determinant(Diffusion(grid, a))     # of its matrix on the unknowns

    Of a `Diffusion` or `Laplacian` without Dirichlet side, whose determinant is zero,
    it is the logarithm of the product of the other eigenvalues. It is NaN if a matrix
    that is called definite is not.

    **Arguments:**

    - `operator`: square. With more than `dense` rows it must be symmetric and definite.
    - `probes`, `steps`: of the estimate for operators with more than `dense` rows. They
      cost `probes * steps` products with the operator.
    - `key`: of the random probes; by default the same in every call, so that the
      estimate is a function of the operator.

    It is differentiable; a derivative of an estimate costs a solution by conjugate
    gradients for each probe. Up to `dense` rows the cost is a Cholesky (or LU)
    factorisation.
    """
    rows = operator.in_size()
    if operator.in_size() != operator.out_size():
        raise ValueError(
            f"a determinant is of a square operator, got {operator.out_size()} rows "
            f"and {operator.in_size()} columns. Use operator.T @ operator, whose "
            "determinant is the square."
        )
    probes = min(whole_number("probes", probes), rows)
    steps = min(whole_number("steps", steps), rows)
    small = rows <= whole_number("dense", dense, least=0)
    key = jax.random.key(0) if key is None else key
    if isinstance(operator, AbstractDiffusion):
        return _of_diffusion(operator, small, probes, steps, key)
    if lx.is_diagonal(operator):
        return jnp.sum(jnp.log(jnp.abs(lx.diagonal(operator))))
    sign = 1 if lx.is_positive_semidefinite(operator) else -1
    definite = sign > 0 or lx.is_negative_semidefinite(operator)
    if small:
        matrix = operator.as_matrix()
        return _cholesky(sign * matrix) if definite else jnp.linalg.slogdet(matrix)[1]
    if not definite:
        raise ValueError(
            "the determinant of a large operator is estimated if it is symmetric and "
            f"definite: expected one that is tagged so, or at most {dense} rows, got "
            f"{rows}. Tag it (lineax.positive_semidefinite_tag) if it is, or pass "
            f"dense={rows} to factorise it."
        )
    positive = operator if sign > 0 else -operator
    return _trace_of_log(positive, _orthonormal(positive, probes, key), steps)


def _of_diffusion(
    operator: AbstractDiffusion, small: bool, probes: int, steps: int, key: Key
) -> Scalar:
    """Of the matrix, made symmetric by the weights of the points."""
    grid, dtype = operator.grid, operator.dtype
    volume = float(np.prod(grid.spacing))
    part = (grid.restrict(grid.weights) / volume).astype(dtype)
    eigenvalues = -Transform(grid).eigenvalues
    null = operator.nullspace is not None
    lowest = float(eigenvalues[eigenvalues > 1e-9 * eigenvalues.max()].min())
    # The coefficient around each point.
    ratio = lx.diagonal(operator) / lx.diagonal(Laplacian(grid)).astype(dtype)
    stiffness = lowest * jnp.exp(jnp.mean(jnp.log(ratio)))

    def matrix(v: Array) -> Array:
        found = -part * operator.mv(v)
        if null:  # constants, which would be mapped to zero
            found = found + stiffness * part * (jnp.sum(part * v) / jnp.sum(part))
        return found

    spare = jnp.log(stiffness) if null else 0.0
    structure = operator.in_structure()
    if small:
        dense = lx.FunctionLinearOperator(matrix, structure).as_matrix()
        return _cholesky(dense) - jnp.sum(jnp.log(part)) - spare
    # Near D L D, with D^2 the ratio and L the negative Laplacian.
    scale = jnp.sqrt(part) * jnp.sqrt(ratio.reshape(part.shape))
    transform = Transform(grid)
    known = np.maximum(eigenvalues, lowest)

    def half(v: Array) -> Array:
        inner = transform.multiply(known**-0.5, v / jnp.sqrt(part))
        return jnp.sqrt(part) * inner

    def near(v: Array) -> Array:
        return half(matrix(half(v) / scale) / scale)

    tags = (lx.symmetric_tag, lx.positive_semidefinite_tag)
    near_identity = lx.FunctionLinearOperator(near, structure, tags)
    rest = _trace_of_log(near_identity, _orthonormal(near_identity, probes, key), steps)
    return rest + jnp.sum(jnp.log(ratio)) + float(np.log(known).sum()) - spare


def _cholesky(matrix: Float[Array, "n n"]) -> Scalar:
    """The logarithm of the determinant; NaN if the matrix is not positive definite."""
    factor = jnp.linalg.cholesky(matrix)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))


def _orthonormal(
    operator: lx.AbstractLinearOperator, probes: int, key: Key
) -> Float[Array, "probe n"]:
    """Random orthonormal rows, as long as a vector of the operator."""
    [structure] = jax.tree.leaves(operator.in_structure())
    size = (operator.in_size(), probes)
    return jnp.linalg.qr(jax.random.normal(key, size, structure.dtype))[0].T


@eqx.filter_custom_jvp
def _trace_of_log(
    operator: lx.AbstractLinearOperator, probes: Float[Array, "probe n"], steps: int
) -> Scalar:
    structure = operator.in_structure()
    mv = lambda v: operator.mv(v.reshape(structure.shape)).ravel()
    alpha, beta = jax.vmap(lambda q: _lanczos(mv, q, steps))(probes)
    between = jax.vmap(lambda b: jnp.diag(b, 1))(beta[:, :-1])
    tridiagonal = jax.vmap(jnp.diag)(alpha) + between + jnp.swapaxes(between, 1, 2)
    nodes, vectors = jnp.linalg.eigh(tridiagonal)
    weights = vectors[:, 0, :] ** 2
    return probes.shape[1] / probes.shape[0] * jnp.sum(weights * jnp.log(nodes))


@_trace_of_log.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Scalar, Scalar]:
    operator, probes, _ = primals
    moves = jax.tree.map(lambda t: t is not None, tangents, is_leaf=lambda t: t is None)
    moving, fixed = eqx.partition(operator, moves[0])
    structure = operator.in_structure()
    [leaf] = jax.tree.leaves(structure)
    tol = float(jnp.finfo(leaf.dtype).eps) ** 0.75
    solver = lx.CG(rtol=tol, atol=0.0, max_steps=10 * leaf.size)

    def one(q: Array) -> Scalar:
        q = q.reshape(structure.shape)
        back = lx.linear_solve(operator, q, solver, throw=False).value
        image = lambda moving: eqx.combine(moving, fixed).mv(q)
        return jnp.sum(back * jax.jvp(image, (moving,), (tangents[0],))[1])

    total = jnp.sum(jax.vmap(one)(probes))
    return _trace_of_log(*primals), probes.shape[1] / probes.shape[0] * total


def _lanczos(mv: Any, first: Array, steps: int) -> tuple[Array, Array]:
    """Diagonal and off-diagonal of the tridiagonal matrix, all vectors made orthogonal.

    When the vectors span an invariant space the rest is the identity, which nothing
    couples to.
    """
    tiny = 1e3 * float(jnp.finfo(first.dtype).eps)
    basis = jnp.zeros((steps, first.size), first.dtype)

    def step(i: Any, carry: Any) -> Any:
        basis, vector, alpha, beta, going = carry
        basis = basis.at[i].set(vector)
        image = mv(vector)
        diagonal = jnp.sum(vector * image)
        for _ in range(2):  # once leaves rounding behind
            image = image - basis.T @ (basis @ image)
        length = jnp.linalg.norm(image)
        alpha = alpha.at[i].set(jnp.where(going, diagonal, 1.0))
        going = going & (length > tiny * jnp.abs(diagonal))
        beta = beta.at[i].set(jnp.where(going, length, 0.0))
        following = jnp.where(going, image / jnp.where(going, length, 1.0), 0.0)
        return basis, following, alpha, beta, going

    none = jnp.zeros(steps, first.dtype)
    start = basis, first, none, none, jnp.asarray(True)
    _, _, alpha, beta, _ = jax.lax.fori_loop(0, steps, step, start)
    return alpha, beta
