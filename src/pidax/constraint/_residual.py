r"""The residual of an equation as a constraint.

$$ R(x_0) = \mathcal{R}\bigl(\mathrm{unstack}(\mathrm{restore}(x_0))\bigr), \qquad
   \text{cost} = \operatorname{mean} |R|^2 / s^2 $$
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..pde import AbstractEquation, AbstractNormaliser, Grid
from ..types import Sample, Scalar, Shape, Stacked, typed
from ._base import AbstractConstraint
from ._match import check_held, check_normaliser

_LEAST = 1e-12  # of a scale: zero fields have no size to be relative to
_WORDS = ("relative", "absolute")
_ADJUST = ("all", "unknowns")


class Residual(AbstractConstraint):
    r"""$R(x_0) = 0$: the clean sample solves the equation.

        Residual(darcy, normaliser)

    Its `cost` is then the square of `equation.relative_residual`. There is no exact
    projection: what lies nearest is not known in closed form.

    **Arguments:**

    - `equation`: whose `residual` it is, in its own discretisation.
    - `normaliser`: the chart of the model, between its samples and the fields.
    - `scaling`: `"relative"` divides the residual by the equation's own scale, sample
      by sample (the norm of the source, or of the terms); `"absolute"` leaves it in
      physical units; a number divides by that, the same for all samples.
    - `adjust`: which fields a gradient moves: `"all"`, or `"unknowns"` for those that
      the equation solves for, while the given ones are held. A model then learns to
      solve for what it draws; it cannot draw what is easy to solve for. This takes a
      chart in which no coordinate moves both: by channels (`Normaliser`, a `Spectral`
      basis), or of what is given first (`Whitened.fit(given=equation.given_mask)`).
      What is held are coordinates: weights that a network shares between the two move
      both all the same (`nn.blockwise` shares none).
    """

    equation: AbstractEquation
    normaliser: AbstractNormaliser | None
    scaling: str | float = eqx.field(static=True)
    adjust: str = eqx.field(static=True)

    @typed
    def __init__(
        self,
        equation: AbstractEquation,
        normaliser: AbstractNormaliser | None = None,
        *,
        scaling: str | float | int = "relative",
        adjust: str = "all",
    ):
        name = type(equation).__name__
        if normaliser is None:
            raise ValueError(
                f"the residual of {name} is one of fields in physical units, and a "
                "model's samples are in its own coordinates: expected the normaliser "
                "between them, got none. Pass the one the model was trained with, "
                f"Residual({name.lower()}, Normaliser.fit(dataset[:])); if it sees "
                "physical units, Normaliser of means 0 and standard deviations 1."
            )
        _check_scaling(scaling)
        if adjust not in _ADJUST:
            raise ValueError(f"adjust must be one of {_ADJUST}, got {adjust!r}.")
        self.equation = equation
        self.normaliser = normaliser
        self.scaling = scaling
        self.adjust = adjust
        check_normaliser(normaliser, equation.stacked_shape, self.subject)
        if adjust == "unknowns":
            check_held(equation, normaliser)

    @property
    def shape(self) -> Shape:
        return self.equation.stacked_shape

    @property
    def grid(self) -> Grid:
        """Of the equation."""
        return self.equation.grid

    @property
    def subject(self) -> str:
        return f"the residual of {type(self.equation).__name__} on {self.equation.grid}"

    @property
    def projects(self) -> bool:
        return False

    def restore(self, x: Sample) -> Stacked:
        held = self.adjust == "unknowns" and self.normaliser is not None
        x = self.normaliser.stop_given(x) if held else x  # type: ignore[union-attr]
        return super().restore(x)

    def residual_of(self, fields: Stacked) -> Array:
        named = self.equation.unstack(fields)
        if self.adjust == "unknowns":
            named = self.equation.stop_given(named)
        return self.equation.residual(named)

    def scale_of(self, fields: Stacked) -> Scalar:
        if self.scaling == "absolute":
            return jnp.ones((), fields.dtype)
        if self.scaling == "relative":
            own = self.equation.scale(self.equation.unstack(fields))
            return jnp.maximum(own, _LEAST)
        return jnp.asarray(self.scaling, fields.dtype)

    def project_fields(self, fields: Stacked) -> Stacked:
        raise ValueError(
            f"{self.subject} has no exact projection. Minimise its cost (px.refine), "
            "or solve for the unknown fields: equation.resolve(fields)."
        )


def _check_scaling(scaling):
    fine = scaling in _WORDS if isinstance(scaling, str) else 0 < scaling < float("inf")
    if not fine:
        raise ValueError(
            'scaling must be "relative", "absolute" or a positive finite number, the '
            f"size of the residual in its own units, got {scaling!r}."
        )
