r"""The residual of an equation as a constraint."""

import jax.numpy as jnp
from jaxtyping import Array

from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Scalar, Stacked, typed
from ._base import AbstractConstraint

_LEAST = 1e-12  # of a scale: zero fields have no size to be relative to


class Residual(AbstractConstraint):
    r"""$R(x_0) = 0$: the clean sample solves the equation.

        Residual(darcy, normaliser)

    **Arguments:**

    - `equation`: whose `residual` it is, in its own discretisation.
    - `normaliser`: the chart of the model, between its samples and the fields.
    - `scaling`: `"relative"` divides the residual by the equation's own scale, sample
      by sample (the norm of the source, or of the terms); `"absolute"` leaves it in
      physical units; a number divides by that, the same for all samples.
    """

    equation: AbstractEquation
    normaliser: AbstractNormaliser
    scaling: str | float

    @typed
    def __init__(
        self,
        equation: AbstractEquation,
        normaliser: AbstractNormaliser | None = None,
        *,
        scaling: str | float = "relative",
    ):
        self.equation = equation
        self.normaliser = normaliser
        self.scaling = scaling

    @property
    def projects(self) -> bool:
        return False

    def residual_of(self, fields: Stacked) -> Array:
        return self.equation.residual(self.equation.unstack(fields))

    def scale_of(self, fields: Stacked) -> Scalar:
        if self.scaling == "absolute":
            return jnp.ones((), fields.dtype)
        if self.scaling == "relative":
            own = self.equation.scale(self.equation.unstack(fields))
            return jnp.maximum(own, _LEAST)
        return jnp.asarray(self.scaling, fields.dtype)

    def project_fields(self, fields: Stacked) -> Stacked:
        raise ValueError("no projection")
