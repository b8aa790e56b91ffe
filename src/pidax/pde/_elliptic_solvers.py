r"""The solvers of elliptic equations: one direct, one by conjugate gradients.

With constant coefficients, $(\Delta + s)\, u = f$ is a division in the eigenvectors of
the Laplacian (`Transform`),

$$ \hat u_k = \hat f_k / (\lambda_k + s), $$

wherever $\lambda_k + s$ is not zero. It is zero for the constant mode when $s = 0$ and
no side is Dirichlet: then $f$ must have zero mean, and so has the $u$ that is returned.
It is (nearly) zero at *resonance*, $s \approx -\lambda_k$, where a small source has a
large solution; this is refused, and the error names the mode.

$\nabla\cdot(a\nabla u) = f$ takes conjugate gradients, preconditioned by a transform.
With $w = \sqrt a\, u$ the operator is nearly one of constant coefficients,

$$ -a^{-1/2}\, \nabla\cdot\bigl(a \nabla (a^{-1/2} w)\bigr) = -\Delta w + q\, w,
   \qquad q = a^{-1/2} \Delta a^{1/2}, $$

so that $M = a^{1/2} (-\Delta)\, a^{1/2}$ is close to it where $a$ is smooth, and is
solved directly (Concus & Golub 1973). Where $a$ jumps $q$ is of size $1/h^2$. Therefore
$M$ uses $\tilde a$, which is $a$ with its logarithm smoothed over a spacing and a half.
Without the factors of $a$ many more iterations are needed if $a$ has a wide range. The
smoothing helps for rough random $a$ and for jumps like 12 to 3; for jumps like 1 to
1000 it costs iterations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from .._checks import is_traced, require, require_finite, show
from ..types import Elementwise, Field, FieldLike, Scalar, ScalarLike, typed
from ._diffusion import Diffusion, Laplacian, Mean
from ._grid import Grid, Neumann, Periodic
from ._transform import Transform

MAX_STEPS = 2000
SMOOTHING = 1.5  # the length over which a is smoothed, in spacings
Linear = Callable[[Array], Array]


@typed
def solve_constant(grid: Grid, rhs: FieldLike, shift: ScalarLike = 0.0) -> Elementwise:
    r"""The unknowns $u$ of $(\Delta + s) u = f$ with zero data on all sides.

    Exact up to rounding, and linear in `rhs`, the unknowns of $f$ (`grid.restrict`).
    Move the contribution of boundary data to the right-hand side first. Costs two
    transforms, $O(n)$ a point.
    """
    transform, rhs = Transform(grid), jnp.asarray(rhs)
    divisor = check_resonance(grid, shift, rhs.dtype)
    if is_singular(grid, shift):
        rhs = compatible(grid, rhs)
        # The mean of the answer is zero.
        divisor = divisor.at[(0,) * grid.ndim].set(jnp.inf)
    return transform.multiply(1 / divisor, rhs)


def is_singular(grid: Grid, shift: ScalarLike = 0.0) -> bool:
    """Whether constants solve the homogeneous equation: no side holds a value."""
    sides = Transform(grid).axes
    zero = not is_traced(shift) and float(shift) == 0
    return zero and all("D" not in axis.sides for axis in sides)


def compatible(grid: Grid, rhs: FieldLike) -> Elementwise:
    """`rhs` itself, after a check that its integral is zero up to rounding.

    The fluxes of the sides count as part of the right-hand side.
    """
    mean, size = grid.mean(rhs), jnp.sqrt(grid.mean(jnp.square(rhs)))
    tolerance = float(jnp.finfo(rhs.dtype).eps ** 0.5)
    total = mean * float(np.prod(grid.lengths))
    return require(
        rhs,
        jnp.abs(mean) <= tolerance * size,
        "without a side that holds a value, what flows in must flow out: the source "
        "and the fluxes through the sides must integrate to zero, and their integral "
        f"is {show(total)} (their mean {show(mean)}, their size {show(size)}). "
        "Subtract the mean from the source, or hold a value on one side.",
    )


def check_resonance(grid: Grid, shift: ScalarLike, dtype: DTypeLike) -> Elementwise:
    r"""$\lambda + s$ of every mode, none of which is near zero.

    Near means that half of the digits would be lost: $|\lambda + s|$ below
    $\sqrt{\epsilon}\,|s|$. The constant mode at $s = 0$ is no resonance.
    """
    transform = Transform(grid)
    eigenvalues = transform.eigenvalues
    near = float(jnp.finfo(dtype).eps ** 0.5)
    if is_traced(shift):
        shift = jnp.asarray(shift, dtype)
        divisor = jnp.asarray(eigenvalues, dtype) + shift
        ok = jnp.abs(divisor).min() > near * jnp.abs(shift)
        return require(divisor, ok, _resonance(shift, "an eigenvalue", ""))
    divisor = eigenvalues + float(shift)
    index = np.unravel_index(np.argmin(np.abs(divisor)), divisor.shape)
    if float(shift) != 0 and abs(divisor[index]) <= near * abs(float(shift)):
        number = f"the eigenvalue {eigenvalues[index]:.12g}"
        waves = transform.numbers(tuple(map(int, index)))
        mode = f", whose mode has {waves} half waves along the axes"
        raise ValueError(_resonance(shift, number, mode))
    return jnp.asarray(divisor, dtype)


def _resonance(shift: ScalarLike, eigenvalue: str, mode: str) -> str:
    return (
        f"the equation is at resonance: its shift, {show(shift)}, cancels {eigenvalue} "
        f"of the grid's Laplacian{mode}. There is no unique solution then. "
        "Change the wavenumber, the size of the domain or the number of points."
    )


@typed
def solve_diffusion(
    grid: Grid, coefficient: FieldLike, rhs: FieldLike, mean: Mean = "arithmetic"
) -> Field:
    r"""The field $u$ with $\nabla\cdot(a\nabla u) = f$, with the data of the sides.

    By conjugate gradients from Lineax on the matrix of `Diffusion(grid, a, mean)`, to a
    relative residual below $10^{-10}$ in float64 and about $10^{-4}$ in float32, where
    $1/h^2$ takes the other digits; a solve that does not converge raises. A derivative
    is one more solve, to the same accuracy, not a derivative of the iterations; it may
    raise too. Without a Dirichlet side $f$ and the fluxes through the sides must
    integrate to zero, and so does the solution. A step costs two transforms, $O(n)$ a
    point.
    """
    grid.check(coefficient=coefficient, source=rhs)
    a, rhs = jnp.asarray(coefficient), jnp.asarray(rhs)
    rhs = require_finite("the source", rhs, "Look where it was made.")
    operator, null = Diffusion(grid, a, mean), is_singular(grid)
    if null:
        rhs = grid.extend(compatible(grid, operator.load(rhs)))
        operator = operator.homogeneous()
    lifted = _lift(grid, a.dtype)
    load = grid.restrict(rhs - operator(lifted))
    fixed = jax.lax.stop_gradient(a)
    # Units in which both sides of the equations are of order one.
    values = np.abs(Transform(grid).eigenvalues)
    lowest = float(values[values > 0].min())
    stiffness = lowest * jnp.exp(jnp.mean(jnp.log(fixed)))
    limit = fixed.max() * sum(4 / h**2 for h in grid.spacing)
    # Where the lifted field is the solution the load is rounding, and is left as it is.
    noise = _rounding(a.dtype, limit, lifted) / _tolerance(a.dtype)
    size = jnp.maximum(_size(grid.restrict(rhs), load), noise)
    size = jax.lax.stop_gradient(size)
    # Half a control volume at a Neumann side of nodes: so the matrix is symmetric.
    part = grid.restrict(grid.weights / float(np.prod(grid.spacing))).astype(a.dtype)
    inverse = _preconditioner(grid, fixed, part, lowest, stiffness)

    def matrix(v: Array) -> Array:
        found = -part / stiffness * operator.mv(v)
        if null:  # constants, which would be mapped to zero, are mapped to themselves
            found = found + part * (jnp.sum(part * v) / jnp.sum(part))
        return found

    b = -part * load / size
    y = _linear_solve(matrix, inverse, b, limit / stiffness)
    u = y * (size / stiffness)
    return lifted + grid.pad(u - grid.mean(u) if null else u)


def _lift(grid: Grid, dtype: DTypeLike) -> Field:
    """The field of zero Laplacian with the data of the sides.

    A jump from the data to zero would be a load of size 1/h^2, and a residual small
    beside that is not small beside the source.
    """
    zero = jnp.zeros(grid.shape, dtype)
    plain = all(
        isinstance(side.data, int | float) and side.data == 0
        for pair in grid.boundary
        for side in pair
    )
    if plain or is_singular(grid):
        return zero
    return grid.extend(solve_constant(grid, Laplacian(grid).load(zero)))


def _size(source: Array, load: Array) -> Scalar:
    """What a residual should be small beside: the source, if there is one, or less."""
    source, load = (jnp.sqrt(jnp.mean(jnp.square(v))) for v in (source, load))
    size = jnp.where(source > 0, jnp.minimum(source, load), load)
    return jnp.where(size > 0, size, 1)


def _linear_solve(matrix: Linear, inverse: Linear, b: Array, limit: Scalar) -> Array:
    """`y` with `matrix(y) = b`, where `b` and all its derivatives have their own size.

    JAX calls the same solver for the derivatives, with right sides of any size, and an
    absolute tolerance would return zero for small ones. A number rides along, on which
    the matrix is the identity: one in the equation, where `b` is in its units already,
    and zero in derivatives of it, which are brought to their own.
    """

    def marked(v: Array) -> Array:
        return jnp.append(matrix(v[:-1].reshape(b.shape)), v[-1])

    def solve(_: Linear, right: Array) -> Array:
        inner, marker = right[:-1].reshape(b.shape), right[-1]
        own = jnp.max(jnp.abs(inner))
        size = jnp.where((marker == 0) & (own > 0), own, 1)
        y = _conjugate_gradients(matrix, inverse, inner / size)
        y = _accurate(y, inner / size - matrix(y), limit)
        return jnp.append(y * size, marker)

    right = jnp.append(b, jnp.ones((), b.dtype))
    found = jax.lax.custom_linear_solve(marked, right, solve, symmetric=True)
    return found[:-1].reshape(b.shape)


def _conjugate_gradients(matrix: Linear, inverse: Linear, b: Array) -> Array:
    """Lineax's, to a residual small beside one, as a whole and not entry by entry."""
    tags = (lx.symmetric_tag, lx.positive_semidefinite_tag)
    structure = jax.eval_shape(lambda b: b, b)  # its place among devices too
    operator = lx.FunctionLinearOperator(matrix, structure, tags)
    preconditioner = lx.FunctionLinearOperator(inverse, structure, tags)
    solver = lx.CG(
        rtol=0.0,
        atol=_tolerance(b.dtype),
        norm=lambda r: jnp.sqrt(jnp.mean(jnp.square(r))),
        # The recomputed residual stalls at rounding, above the tolerance in float32;
        # `_accurate` looks at the true residual, once.
        stabilise_every=None,
        max_steps=MAX_STEPS,
    )
    options = {"preconditioner": preconditioner}
    # Whether it arrived is for `_accurate` to say, in words that help.
    found = lx.linear_solve(operator, b, solver, options=options, throw=False)
    return found.value


def _tolerance(dtype: DTypeLike) -> float:
    """1e-11 in float64, 1e-5 in float32: a few digits above rounding."""
    return float(jnp.finfo(dtype).eps) ** 0.7


def _rounding(dtype: DTypeLike, limit: Scalar, y: Array) -> Scalar:
    """What rounding leaves of a matrix of eigenvalues up to `limit`, times `y`."""
    return 10 * float(jnp.finfo(dtype).eps) * limit * jnp.sqrt(jnp.mean(jnp.square(y)))


def _accurate(y: Array, residual: Array, limit: Scalar) -> Array:
    """`y`, after a check of its residual against what its rounding can explain."""
    norm = jnp.sqrt(jnp.mean(jnp.square(residual)))
    ok = norm <= 8 * _tolerance(y.dtype) + _rounding(y.dtype, limit, y)
    return require(
        y,
        ok,
        f"conjugate gradients did not solve div(a grad u) = f in {MAX_STEPS} steps: "
        "the residual is larger than the tolerance, or not a number. The coefficient "
        "must be positive and not range over too many orders of magnitude, and the "
        "source finite; in float32 solve in float64 instead (equation.resolve, "
        "jax.enable_x64).",
    )


def _preconditioner(
    grid: Grid, a: Field, part: Array, lowest: float, stiffness: Scalar
) -> Linear:
    """The inverse of M, in the units of the matrix."""
    transform = Transform(grid)
    eigenvalues = np.maximum(-transform.eigenvalues, lowest)
    root = grid.restrict(jnp.exp(_smooth(grid, jnp.log(a)) / 2))
    # Lineax takes a curvature that is small beside the preconditioned residual for a
    # breakdown: too early in float32. A factor, without effect otherwise, keeps it off.
    symbol = np.prod(grid.unknown_shape) / eigenvalues

    def inverse(r: Array) -> Array:
        return stiffness * transform.multiply(symbol, r / (part * root)) / root

    return inverse


def _smooth(grid: Grid, field: Field) -> Array:
    """A field smoothed over `SMOOTHING` spacings, as heat would in a closed box."""
    closed = grid.with_boundary(
        tuple(Periodic() if p else Neumann() for p in grid.periodic)
    )
    transform = Transform(closed)
    axes = zip(transform.modes, grid.spacing, strict=True)
    exponents = [np.square(m.frequencies * SMOOTHING * h) for m, h in axes]
    symbol = np.ones(())
    for exponent in exponents:
        symbol = np.multiply.outer(symbol, np.exp(-exponent))
    return transform.multiply(symbol, field)
