r"""The direct solver of constant coefficients: $(\Delta + s)\, u = f$.

In the eigenvectors of the Laplacian (`Transform`) the equation is a division,

$$ \hat u_k = \hat f_k / (\lambda_k + s), $$

wherever $\lambda_k + s$ is not zero. It is zero for the constant mode when $s = 0$ and
no side is Dirichlet: then $f$ must have zero mean, and so has the $u$ that is returned.
It is (nearly) zero at *resonance*, $s \approx -\lambda_k$, where a small source has a
large answer: that is refused, with the mode's name.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._checks import is_traced, require, show
from ..types import Elementwise, FieldLike, ScalarLike, typed
from ._grid import Grid
from ._transform import Transform


@typed
def solve_constant(grid: Grid, rhs: FieldLike, shift: ScalarLike = 0.0) -> Elementwise:
    r"""The unknowns $u$ of $(\Delta + s) u = f$ with zero data on all sides.

    Exact up to rounding, and linear in `rhs`, the unknowns of $f$ (`grid.restrict`). To
    use it with data on the sides, move what they contribute to the right-hand side. Two
    transforms: $O(n)$ a point.
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


def _resonance(shift, eigenvalue, mode):
    return (
        f"the equation is at resonance: its shift, {show(shift)}, cancels {eigenvalue} "
        f"of the grid's Laplacian{mode}. There is no solution then, or no only one. "
        "Change the wavenumber, the size of the domain or the number of points."
    )
