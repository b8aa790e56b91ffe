"""Where the fields of an equation are in the array that a model sees."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced, require, show
from ..pde import AbstractEquation, AbstractEvolution
from ..types import Shape


class Placed(NamedTuple):
    """What is observed of a stacked array, with the noise of it."""

    mask: Array
    values: Array
    noise: Array


def field_shapes(equation: AbstractEquation) -> dict[str, Shape]:
    """The shape of each field by name, without solving for any."""
    image = jax.ShapeDtypeStruct(equation.stacked_shape, jnp.result_type(float))
    fields = jax.eval_shape(equation.unstack, image)
    return {name: getattr(fields, name).shape for name in equation.names}


def stacked_names(equation: AbstractEquation) -> tuple[str, ...]:
    """The fields that make up the stacked array: of an evolution, its solution."""
    evolution = isinstance(equation, AbstractEvolution)
    return equation.names[-1:] if evolution else equation.names


def require_names(equation: AbstractEquation, names: Any) -> None:
    """Each is the name of a field."""
    wrong = [name for name in names if name not in equation.names]
    if wrong:
        raise ValueError(
            f"{type(equation).__name__} has the fields {', '.join(equation.names)}, "
            f"got {', '.join(map(str, wrong))}."
        )


def by_name(given: Any, name: str, default: float = 0.0) -> Any:
    """The entry of a field where each may have its own, or the one for all."""
    return given.get(name, default) if isinstance(given, Mapping) else given


def place(equation: AbstractEquation, fields: dict, noise: Any) -> Placed:
    """The stacked mask, values and noise of fields given as (mask, values)."""
    require_names(equation, fields)
    require_names(equation, noise if isinstance(noise, Mapping) else ())
    shapes = field_shapes(equation)
    zeros = jnp.zeros(equation.stacked_shape)
    mask, values, spread = zeros > 0, zeros, zeros
    for name, (seen, value) in fields.items():
        _check_shapes(name, seen, value, shapes[name])
        _check_mask(name, seen, value)
        new = _place_one(equation, shapes, name, seen, value, by_name(noise, name))
        values = _agreeing(name, new, mask, values)
        values = jnp.where(new.mask, new.values, values)
        spread = jnp.where(new.mask, new.noise, spread)
        mask = mask | new.mask
    return Placed(mask, values, spread)


def _place_one(equation, shapes, name, mask, values, noise):
    mask = jnp.asarray(mask, bool)
    ones, noise = jnp.ones(mask.shape), jnp.asarray(noise, float)
    put = lambda a: _put(equation, shapes, name, jnp.where(mask, a, 0.0))
    return Placed(put(ones) > 0, put(jnp.asarray(values, float)), put(noise * ones))


def _put(equation, shapes, name, array):
    """A field in the stacked array, with zero for everything else."""
    zeros = {other: jnp.zeros(shape) for other, shape in shapes.items()}
    fields = equation.Fields(**{**zeros, name: array})
    last = equation.names[-1]
    if isinstance(equation, AbstractEvolution) and name != last:
        *given, u = fields  # what is given is seen where the solution starts from it
        fields = fields._replace(**{last: equation.impose(u, *given)})
    return equation.stack(fields)


def _check_shapes(name, mask, values, shape):
    got = (np.shape(mask), np.shape(values))
    if got != (shape, shape):
        raise ValueError(
            f"the observations of {name} are a mask and values of the field's shape "
            f"{shape}, got a mask of shape {got[0]} and values of shape {got[1]}. They "
            "must be on the equation's grid; points by their coordinates: "
            "Observation.at_points."
        )


def _check_mask(name, mask, values):
    """The mask is one, and not the values that stand after it."""
    kind, other = jnp.asarray(mask).dtype, jnp.asarray(values).dtype
    truth = lambda dtype: jnp.issubdtype(dtype, jnp.bool_)
    fine = truth(kind) or jnp.issubdtype(kind, jnp.integer)
    if fine and not is_traced(mask):
        fine = bool(np.isin(np.asarray(mask), (0, 1)).all())
    if not fine or truth(other):
        raise ValueError(
            f"the observations of {name} are (mask, values), in this order: expected "
            "a mask of booleans, or of 0 and 1 as integers, and then numbers, got "
            f"{kind} and then {other}. Pass {name}=(mask, values); a mask of other "
            "numbers as mask > 0."
        )


def _agreeing(name, new, mask, values):
    """The earlier values, having checked that no point has two."""
    twice = new.mask & mask
    return require(
        values,
        jnp.where(twice, new.values == values, True).all(),
        f"{show(twice.sum())} points are observed twice, the second time as {name}, "
        "with other values. Observe each point once; the initial field is row 0 of the "
        "solution.",
    )
