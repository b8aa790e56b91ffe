r"""The residual of an equation as a constraint.

$$ R(x_0) = \mathcal{R}\bigl(\mathrm{unstack}(\mathrm{restore}(x_0))\bigr), \qquad
   \text{cost} = \operatorname{mean} |R|^2 / s^2 $$
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import is_traced, require_positive
from ..pde import AbstractEquation, AbstractNormaliser, Grid
from ..types import Scalar, ScalarLike, Shape, Stacked, typed
from ._constraint import AbstractConstraint, Coordinates

_LEAST = 1e-12  # of a scale: zero fields have no size
_NONE = 1e-5  # of the largest slope: smaller ones are rounding
_WORDS = ("relative", "absolute")
_ADJUST = ("all", "unknowns")


class Residual(AbstractConstraint):
    """$R(x_0) = 0$: the clean sample solves the equation.

        Residual(darcy, normaliser)

    With the default scaling its `cost` is the square of `equation.relative_residual`.
    There is no exact projection.

    **Arguments:**

    - `equation`: the equation, whose `residual` is used in its own discretisation.
    - `normaliser`: the coordinates of the model, between its samples and the fields.
    - `scaling`: `"relative"` divides the residual by the scale of the equation, sample
      by sample (the norm of the source, or of the terms); `"absolute"` leaves it in
      physical units; a number divides by this number for all samples.
    - `adjust`: the fields that a gradient may change: `"all"`, or `"unknowns"` for the
      fields that the equation solves for, while the given fields do not change. A model
      then learns to solve for the fields that it draws, and cannot prefer fields that
      are easy to solve for. No coordinate may then change both: use coordinates by
      channel (`Normaliser`, a `Spectral` basis), or with the given fields first
      (`Whitened.fit(given=equation.given_mask)`). Weights of the network that are
      shared between both still change both; `nn.blockwise` shares none.
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
        scaling: str | ScalarLike = "relative",
        adjust: str = "all",
    ):
        self.equation = equation
        self.normaliser = normaliser
        self.scaling = scaling if isinstance(scaling, str) else float(scaling)
        self.adjust = adjust

    def __check_init__(self):
        name = type(self.equation).__name__
        if self.normaliser is None:
            raise ValueError(
                f"the residual of {name} needs fields in physical units, and a model's "
                "samples are in coordinates: expected the normaliser between them, got "
                "none. Pass the normaliser that the model was trained with, "
                f"Residual({name.lower()}, Normaliser.fit(dataset[:])); if it sees "
                "physical units, Normaliser of means 0 and standard deviations 1."
            )
        size = self.scaling
        known = size in _WORDS if isinstance(size, str) else 0 < size < float("inf")
        if not known:
            raise ValueError(
                'scaling must be "relative", "absolute" or a positive finite number, '
                f"the size of the residual in its own units, got {size!r}."
            )
        if self.adjust not in _ADJUST:
            raise ValueError(f"adjust must be one of {_ADJUST}, got {self.adjust!r}.")
        self.check_normaliser(self.normaliser)
        if self.adjust == "unknowns":
            _check_held(self.equation, self.normaliser)

    @property
    def shape(self) -> Shape:
        return self.equation.stacked_shape

    @property
    def grid(self) -> Grid:
        return self.equation.grid

    @property
    def subject(self) -> str:
        return f"the residual of {type(self.equation).__name__} on {self.equation.grid}"

    def restore(self, x: Coordinates) -> Stacked:
        held = self.adjust == "unknowns" and self.normaliser is not None
        x = self.normaliser.stop_given(x) if held else x  # type: ignore[union-attr]
        return super().restore(x)

    def residual_of(self, fields: Stacked) -> Array:
        named = self.equation.unstack(fields)
        if self.adjust == "unknowns":
            named = self.equation.stop_given(named)
        return self.equation.residual(named)

    def solution_error_of(self, fields: Stacked) -> Stacked:
        """$u - S(a)$: the unknown fields minus the solver's for the same given fields,
        and zero for the given fields.

        It costs a solution of the equation. Unlike the residual, its derivative by $u$
        is the identity, so that a Gaussian law of it prefers no given fields.
        """
        return fields - self._solution(fields)

    def solution_scale_of(self, fields: Stacked) -> Array:
        """The root mean square of the solver's fields, for each channel."""
        solved = self._solution(fields)
        axes = tuple(range(solved.ndim - 1))
        size = jnp.sqrt(jnp.mean(jnp.square(solved), axes))
        return jnp.maximum(jax.lax.stop_gradient(size), _LEAST)

    def log_determinant_of(self, fields: Stacked) -> Scalar:
        r"""$\ln|\det\partial R/\partial u|$ of the equation, up to a constant."""
        named = self.equation.unstack(fields)
        if self.adjust == "unknowns":
            named = self.equation.stop_given(named)
        return self.equation.log_determinant(named)

    def _solution(self, fields: Stacked) -> Stacked:
        equation = self.equation
        named = equation.unstack(fields)
        if self.adjust == "unknowns":
            named = equation.stop_given(named)
        given = (getattr(named, name) for name in equation.given)
        return equation.stack(equation.solve(*given))

    def scale_of(self, fields: Stacked) -> Scalar:
        if self.scaling == "absolute":
            return jnp.ones((), fields.dtype)
        if self.scaling == "relative":
            own = self.equation.scale(self.equation.unstack(fields))
            return jnp.maximum(own, _LEAST)
        return jnp.asarray(self.scaling, fields.dtype)


class FunctionResidual(AbstractConstraint):
    """A function of stacked fields that should be zero; made by `from_residual`."""

    function: Callable[[Stacked], Array]
    event: Shape = eqx.field(static=True)
    normaliser: AbstractNormaliser | None
    scale: Scalar

    def __check_init__(self):
        fields = jax.ShapeDtypeStruct(self.event, jnp.float32)
        out = jax.eval_shape(self.function, fields)
        if not isinstance(out, jax.ShapeDtypeStruct):
            raise ValueError(
                "a residual is one array, zero where nothing is wrong, got "
                f"{type(out).__name__}. Join several by jnp.concatenate."
            )
        if self.normaliser is not None:
            self.check_normaliser(self.normaliser)

    @property
    def shape(self) -> Shape:
        return self.event

    def residual_of(self, fields: Stacked) -> Array:
        return self.function(fields)

    def scale_of(self, fields: Stacked) -> Scalar:
        return self.scale.astype(fields.dtype)


@typed
def from_residual(
    function: Callable,
    shape: Shape,
    normaliser: AbstractNormaliser | None = None,
    *,
    scale: ScalarLike = 1.0,
) -> FunctionResidual:
    """$f(x) = 0$ for stacked fields $x$: any function as a constraint.

        mass = lambda fields: fields[..., 0].sum() - 1.0
        px.refine(student, constraint=from_residual(mass, (32, 32, 2), normaliser), ...)

    **Arguments:**

    - `function`: of one sample's stacked fields, `"*grid channel"` in physical units;
      returns the residual, an array.
    - `shape`: of the stacked fields.
    - `normaliser`: the coordinates of the model, unless `&` joins the constraint to one
      that has them.
    - `scale`: the size of a residual that counts as one, in its own units.
    """
    require_positive(scale=scale)
    size = jnp.asarray(scale, float)
    return FunctionResidual(
        function=function, event=shape, normaliser=normaliser, scale=size
    )


def _check_held(equation: AbstractEquation, normaliser: AbstractNormaliser) -> None:
    """Check that no coordinate of the unknown fields changes given fields as well.

    It looks at derivatives of the coordinates, near their origin, in a random
    direction.
    """
    if normaliser.shape is None or is_traced(equation, normaliser):
        return  # by channels, each coordinate is of one field
    fields = lambda y: equation.unstack(normaliser.restore(y))
    y = 0.1 * jax.random.normal(jax.random.key(0), normaliser.shape)

    def slopes(function: Callable) -> Array:
        leaves, pull = jax.vjp(lambda y: tuple(function(y)), y)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        pairs = zip(keys, leaves, strict=True)
        return pull(tuple(jax.random.normal(k, a.shape, a.dtype) for k, a in pairs))[0]

    given = slopes(fields) - slopes(lambda y: equation.stop_given(fields(y)))
    moved = slopes(lambda y: equation.stop_given(fields(normaliser.stop_given(y))))
    some = lambda slope: jnp.abs(slope) > _NONE * jnp.abs(slope).max()
    both = some(given) & some(moved)
    if not is_traced(both) and both.any():
        name = type(equation).__name__
        raise ValueError(
            f'adjust="unknowns" moves the fields that {name} solves for and holds '
            f"{', '.join(equation.given)}: expected coordinates that move one or the "
            f"other, got {int(both.sum())} of {both.size} that move both. Fit them "
            "with the given fields first, Whitened.fit(fields, "
            'given=equation.given_mask), or use adjust="all".'
        )
