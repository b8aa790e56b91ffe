"""What observations must be: some, not all, finite, and in the fields' units."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced, require, show
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Key, Shape

_FAR = 20.0  # standard deviations from the mean: values in other units


def check_units(mask: Array, values: Array, normaliser: AbstractNormaliser) -> None:
    """The values are such as the normaliser's fields have, within reason.

    Values that are far too small are not seen: fields may well be small at a few
    points.
    """
    if is_traced(mask, values):
        return
    far = np.asarray(normaliser.distance(values)) > _FAR
    seen = np.asarray(mask & (values != 0))  # zero is zero in all units
    axes = tuple(range(seen.ndim - 1))
    count, beyond = seen.sum(axes), (far & seen).sum(axes)
    for channel in np.flatnonzero(2 * beyond > count):
        example = values[..., channel][seen[..., channel]][0]
        raise ValueError(
            "observed values are expected in the physical units of the equation's "
            f"fields, got {beyond[channel]} of {count[channel]} values of channel "
            f"{channel} (the first is {example:.3g}) that are more than {_FAR:g} "
            "standard deviations from the normaliser's mean, or not positive where "
            "its fields are. Values of the model's coordinates must be restored, "
            "normaliser.restore(x); values of another "
            "system of units converted."
        )


def check_told(equation: AbstractEquation, mask: Array) -> None:
    """Some observed point is not one at which the sides prescribe the solution.

    Asked of equations whose fields are stacked by channel, on the grid itself.
    """
    grid = equation.grid
    shape = (*grid.shape, len(equation.names))
    if is_traced(mask) or mask.shape != shape:
        return
    prescribed = np.ones(grid.shape, bool)
    prescribed[grid.unknown] = False
    known = [prescribed & (name in equation.unknowns) for name in equation.names]
    seen = np.asarray(mask)
    if seen.any() and not (seen & ~np.stack(known, axis=-1)).any():
        raise ValueError(
            f"all {int(seen.sum())} observed points are on Dirichlet sides of {grid}, "
            f"where {type(equation).__name__} prescribes its solution: they tell "
            "nothing of a sample. Observe points inside, or put these values into the "
            "boundary of the grid."
        )


def as_pair(value: Any) -> tuple[Any, Any]:
    """(mask, values) of a field observed in part, or everywhere."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(
                "a field is observed as (mask, values) or as values alone, got "
                f"{len(value)} entries. Noise is noise=, by name if it differs."
            )
        return value
    return np.ones(np.shape(value), bool), value


def random_mask(name: str, shape: Shape, share: float, key: Key) -> Array:
    """Exactly `round(share * points)` of the points, without repetition."""
    size = int(np.prod(shape))
    count = round(share * size)
    if not 0 < count <= size:
        raise ValueError(
            f"share is the part of the points of {name} that is observed, expected at "
            f"least one and at most all of {size}, got {share} of them: {count}."
        )
    chosen = jax.random.choice(key, size, (count,), replace=False)
    return jnp.zeros(size, bool).at[chosen].set(True).reshape(shape)


def checked_noise(noise: Array) -> Array:
    """The noise, having checked that it is one."""
    return require(
        noise,
        ((noise >= 0) & jnp.isfinite(noise)).all(),
        "noise is a standard deviation, finite and not negative, got the least "
        f"{show(noise.min())}. 0 is a value that holds exactly.",
    )


def checked_values(mask: Array, values: Array, noise: Array) -> Array:
    """The values, having checked that they observe something, and leave something."""
    bad = ~jnp.isfinite(values)
    values = require(
        values,
        mask.any(),
        "the mask observes nothing: expected at least one entry that is true. Without "
        "observations, sample the student.",
    )
    values = require(
        values,
        ~(mask & (noise == 0)).all(),
        "the mask observes everything, exactly: nothing is left to generate. Leave a "
        "field unobserved, or say the noise of the values.",
    )
    return require(
        values,
        ~bad.any(),
        f"observed values must be finite, got NaN or infinity in {show(bad.sum())} of "
        f"{show(mask.sum())} entries where the mask is true. Values that are missing "
        "are not observed: mask=np.isfinite(values).",
    )


def channel_size(values: Array, mask: Array) -> Array:
    """Root mean square by channel, over the entries of the mask."""
    axes = tuple(range(values.ndim - 1))
    square = jnp.sum(jnp.where(mask, values**2, 0.0), axes)
    mean = square / jnp.maximum(mask.sum(axes), 1).astype(values.dtype)
    return jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
