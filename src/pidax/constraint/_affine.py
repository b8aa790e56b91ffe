r"""Linear conditions that hold exactly, and the nearest fields that satisfy them.

$$ A x = b, \qquad \operatorname{proj}(x) = x - A^+ (A x - b) $$

with $A^+$ the pseudo-inverse: the correction is the shortest, orthogonal to all that
$A$ does not see. Rows may depend on each other, as long as their values agree.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import require, show
from ..pde import AbstractNormaliser
from ..types import Shape, Stacked, typed
from ._base import AbstractConstraint


class Affine(AbstractConstraint):
    r"""$A x = b$ for stacked fields $x$: fluxes, totals, sensors between points.

    `operator` is an array `"observation *grid channel"`, or a Lineax operator on the
    stacked fields; `values` are $b$. The projection is the nearest by least squares
    over entries, channels in their own units.

    Costs a singular value decomposition of `rows x size` once, when it is made (in the
    precision of the rows), and two products of that size for each projection.
    """

    rows: Float[Array, "observation size"]
    values: Float[Array, " observation"]
    inverse: Any
    event: Shape = eqx.field(static=True)
    normaliser: AbstractNormaliser | None

    @typed
    def __init__(
        self,
        operator: Float[Array | np.ndarray, "observation *grid channel"]
        | lx.AbstractLinearOperator,
        values: Float[Array | np.ndarray, " observation"],
        normaliser: AbstractNormaliser | None = None,
    ):
        rows, self.event = _matrix(operator)
        b = jnp.asarray(values, rows.dtype)
        if rows.shape[0] != b.shape[0]:
            raise ValueError(
                f"the operator makes {rows.shape[0]} observations, got {b.shape[0]} "
                "values. One value for each row."
            )
        finite = jnp.isfinite(rows).all() & jnp.isfinite(b).all()
        b = require(b, finite, "rows and values of Affine must be finite, got others.")
        self.rows = rows
        self.inverse = lx.SVD().init(lx.MatrixLinearOperator(rows), {})
        self.values = self._consistent(b)
        self.normaliser = normaliser

    @property
    def shape(self) -> Shape:
        return self.event

    @property
    def subject(self) -> str:
        return f"{self.rows.shape[0]} linear conditions on fields of shape {self.event}"

    @property
    def projects(self) -> bool:
        return True

    def residual_of(self, fields: Stacked) -> Float[Array, " observation"]:
        if fields.shape != self.event:
            raise ValueError(
                f"these rows act on stacked fields of shape {self.event}, got fields "
                f"of shape {fields.shape}. For a batch, jax.vmap."
            )
        misfit = self.rows @ fields.ravel().astype(self.rows.dtype) - self.values
        return misfit.astype(fields.dtype)

    def scale_of(self, fields: Stacked) -> Float[Array, " observation"]:
        r"""$|A_i|\,|x|$: how large a row's value can be for fields of this size."""
        x = fields.ravel().astype(self.rows.dtype)
        size = jnp.linalg.norm(self.rows, axis=1) * jnp.linalg.norm(x)
        return jnp.where(size > 0, size, 1.0).astype(fields.dtype)

    def project_fields(self, fields: Stacked) -> Stacked:
        misfit = self.residual_of(fields).astype(self.rows.dtype)
        return fields - self._pseudo(misfit).reshape(self.event).astype(fields.dtype)

    def _pseudo(self, b):
        """The shortest solution of A x = b."""
        operator = lx.MatrixLinearOperator(self.rows)
        return lx.linear_solve(operator, b, lx.SVD(), state=self.inverse).value

    def _consistent(self, b):
        """The values, having checked that some field has them all."""
        off = jnp.abs(self.rows @ self._pseudo(b) - b).max()
        size = jnp.abs(b).max() * b.size
        allowed = 100 * jnp.finfo(b.dtype).eps * jnp.where(size > 0, size, 1.0)
        return require(
            b,
            off <= allowed,
            f"no fields satisfy all conditions: rows depend on each other and their "
            f"values differ by {show(off)}. Leave out the rows that repeat others, or "
            "treat the values as noisy: Observation with noise.",
        )


def _matrix(operator):
    """The rows as a matrix, and the shape of what they act on."""
    if not isinstance(operator, lx.AbstractLinearOperator):
        rows = jnp.asarray(operator)
        return rows.reshape(rows.shape[0], -1), rows.shape[1:]
    structure = operator.in_structure()
    event = getattr(structure, "shape", None)
    if event is None or len(event) < 2:
        raise ValueError(
            'the operator must act on one stacked array, "*grid channel", got '
            f"{structure}. For operators of one field, say which channel it is: "
            "lineax.FunctionLinearOperator(lambda x: operator.mv(x[..., 0]), "
            "jax.ShapeDtypeStruct(shape, dtype))."
        )
    return operator.as_matrix(), tuple(event)
