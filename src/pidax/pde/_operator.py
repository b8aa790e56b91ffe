r"""Operators: functions of fields, and linear maps for Lineax.

On a grid with boundary data an operator is affine in the field,

$$ A(u) = A_0\, u_{unknown} + b, $$

with $b$ from the boundary data. Called with a field it returns $A(u)$; on nodes the
values of `u` at Dirichlet sides are replaced by the prescribed ones. As a
`lineax.AbstractLinearOperator` it is $A_0$, from unknowns to unknowns, with zero data.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from equinox import AbstractVar
from jaxtyping import Array, PyTree

from ..types import FieldLike
from ._grid import Grid


class AbstractOperator(lx.AbstractLinearOperator):
    r"""An operator on a grid, linear up to the data of the sides.

    `operator(u)` takes a field (or a tuple of them) at full shape and is typed. The
    rest is Lineax's: `operator.mv`, `operator.T`, `lineax.linear_solve(operator, ...)`
    act on arrays of `grid.unknown_shape`, with zero data at the sides. To solve
    $A(u) = f$,

        inner = lineax.linear_solve(operator, operator.load(f), lineax.CG(...)).value
        u = grid.extend(inner)

    For Lineax the dtype is the session's, unless the operator has arrays.
    """

    grid: AbstractVar[Grid]

    @abc.abstractmethod
    def __call__(self, u: Any) -> Any:
        """The operator with the data of the grid's sides."""

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the vectors, for Lineax."""
        return jnp.result_type(float)

    @property
    def symmetric(self) -> bool:
        """Whether the matrix on the unknowns is symmetric."""
        return False

    @property
    def sign(self) -> int:
        """1: positive semidefinite, -1: negative semidefinite, 0: not said to be."""
        return 0

    @property
    def tridiagonal(self) -> bool:
        """Whether the matrix on the unknowns is tridiagonal."""
        return False

    def homogeneous(self) -> "AbstractOperator":
        """The same operator with zero for the data of all sides: linear."""
        return eqx.tree_at(lambda op: op.grid, self, self.grid.homogeneous())

    def load(self, f: FieldLike) -> Array:
        """The right side for the unknowns: `f` less what the sides' data contribute."""
        f = jnp.asarray(f)
        zero = self.grid.extend(jnp.zeros(self.grid.unknown_shape, f.dtype))
        return self.grid.restrict(f - self(zero))

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """The linear part, on the unknowns."""
        plain = self.homogeneous()
        return self.grid.restrict(plain(self.grid.pad(vector)))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The shape and dtype of what `mv` takes."""
        return jax.ShapeDtypeStruct(self.grid.unknown_shape, self.dtype)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The shape and dtype of what `mv` returns."""
        return jax.ShapeDtypeStruct(self.grid.unknown_shape, self.dtype)

    def as_matrix(self) -> Array:
        """The linear part as a dense matrix, rows and columns flattened."""
        return _function(self).as_matrix()

    def transpose(self) -> lx.AbstractLinearOperator:
        """The exact transpose of the linear part, by JAX."""
        return self if self.symmetric else _function(self).transpose()


def _function(operator: AbstractOperator) -> lx.FunctionLinearOperator:
    """The linear part for Lineax to transpose and to materialise."""
    return lx.FunctionLinearOperator(operator.mv, operator.in_structure())


@lx.is_symmetric.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return operator.symmetric


@lx.is_positive_semidefinite.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return operator.sign > 0


@lx.is_negative_semidefinite.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return operator.sign < 0


@lx.is_tridiagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return operator.tridiagonal


@lx.is_diagonal.register(AbstractOperator)
@lx.is_lower_triangular.register(AbstractOperator)
@lx.is_upper_triangular.register(AbstractOperator)
@lx.has_unit_diagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return False


@lx.linearise.register(AbstractOperator)
@lx.conj.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return operator.homogeneous()


@lx.materialise.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    if operator.tridiagonal:
        return lx.TridiagonalLinearOperator(*lx.tridiagonal(operator))
    return lx.materialise(_function(operator))


@lx.diagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    return jnp.diagonal(operator.as_matrix())


@lx.tridiagonal.register(AbstractOperator)
def _(operator: AbstractOperator) -> Any:
    # Columns three apart do not meet in a row: three products tell all entries.
    n = operator.in_size()
    column = jnp.arange(n)
    products = jnp.stack(
        [operator.mv(jnp.asarray(column % 3 == c, operator.dtype)) for c in range(3)]
    )
    entry = lambda shift: products[(column + shift) % 3, column]
    return entry(0), entry(-1)[1:], entry(1)[:-1]
