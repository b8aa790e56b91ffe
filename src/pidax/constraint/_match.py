"""Whether samples, normaliser and constraint belong together, asked by shape alone."""

import jax
import jax.numpy as jnp
import jaxtyping

from .._checks import is_traced
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Shape

_NONE = 1e-5  # of the largest slope: what is rounding is no slope


def check_samples(constraint, shape: Shape) -> None:
    """Samples of this shape are restored to the fields that the constraint judges."""
    normaliser = constraint.normaliser
    expected = constraint.shape
    if normaliser is not None and normaliser.shape is not None:
        expected = normaliser.shape
    if expected is not None and shape != expected:
        if normaliser is None:
            raise ValueError(
                f"{constraint.subject} speaks of fields in physical units, and samples "
                f"of the shape {shape} are in a model's coordinates: expected the "
                "normaliser between them, got none. Pass normaliser=, the one that the "
                "model was trained with, or join the constraint by & to a Residual "
                "that has it."
            )
        raise ValueError(
            f"expected samples of the shape {expected}, got samples of the shape "
            f"{shape}, which are not on the grid of {constraint.subject}. Make the "
            "model for that grid, or the constraint and its normaliser on the grid of "
            "the samples; fields can be moved from grid to grid only before training."
        )
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        jax.eval_shape(constraint.residual, x)
    except (ValueError, jaxtyping.TypeCheckError) as error:
        if normaliser is None:
            raise
        raise ValueError(
            f"samples of the shape {shape} are not such as {constraint.subject} can "
            f"judge: {error}"
        ) from error


def check_normaliser(
    normaliser: AbstractNormaliser, shape: Shape, subject: str
) -> None:
    """The normaliser restores to stacked fields of this shape."""
    coordinates = normaliser.shape
    x = jax.ShapeDtypeStruct(shape if coordinates is None else coordinates, jnp.float32)
    try:
        restored = jax.eval_shape(normaliser.restore, x).shape
    except (ValueError, jaxtyping.TypeCheckError) as error:
        raise ValueError(
            f"the normaliser does not fit {subject}, whose stacked fields have the "
            f"shape {shape}, channels last: {error} Fit it to this equation's own "
            "fields: Normaliser.fit(dataset[:])."
        ) from error
    if restored != shape:
        raise ValueError(
            f"the normaliser restores samples to fields of the shape {restored}, "
            f"expected {shape}, those of {subject}. Fit it to fields of this "
            "grid, or make the equation on the normaliser's grid."
        )


def check_held(equation: AbstractEquation, normaliser: AbstractNormaliser) -> None:
    """No coordinate that is moved for the unknown fields moves given ones as well.

    Asked of the chart's slopes, near its origin, in a random direction of the fields.
    """
    if normaliser.shape is None or is_traced(equation, normaliser):
        return  # by channels, each coordinate is of one field
    fields = lambda y: equation.unstack(normaliser.restore(y))
    y = 0.1 * jax.random.normal(jax.random.key(0), normaliser.shape)

    def slopes(function):
        leaves, pull = jax.vjp(lambda y: tuple(function(y)), y)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        pairs = zip(keys, leaves, strict=True)
        return pull(tuple(jax.random.normal(k, a.shape, a.dtype) for k, a in pairs))[0]

    given = slopes(fields) - slopes(lambda y: equation.stop_given(fields(y)))
    moved = slopes(lambda y: equation.stop_given(fields(normaliser.stop_given(y))))
    both = _nonzero(given) & _nonzero(moved)
    if not is_traced(both) and both.any():
        name = type(equation).__name__
        raise ValueError(
            f'adjust="unknowns" moves the fields that {name} solves for and holds '
            f"{', '.join(equation.given)}: expected a chart whose coordinates move "
            f"either, got one in which {int(both.sum())} of {both.size} move both. Fit "
            "it to what is given first, Whitened.fit(fields, "
            'given=equation.given_mask), or take adjust="all".'
        )


def _nonzero(slope):
    size = jnp.abs(slope)
    return size > _NONE * size.max()
