"""What can be known before anything is compiled: expected, got, do this."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced, require, require_finite
from ..constraint import AbstractConstraint, All, Observation
from ..student import AbstractStudent
from ..types import Batch, BatchLike, Key, Shape

_ANCHORS = ("draw", "norm", None)


class Parts(NamedTuple):
    """What is observed and what else must hold; and the shape of a sample, if known."""

    observation: Observation | None
    constraint: AbstractConstraint | None
    shape: Shape | None


def check_parts(student: Any, observation: Any, constraint: Any) -> Parts:
    """They are a student, an observation and a constraint, of fields of one shape."""
    if is_traced((student, observation, constraint)):
        raise ValueError(
            "refine compiles, times and checks its own runs: expected to be called "
            "from Python, got traced arguments. Call it outside jax.jit, vmap and grad."
        )
    joined = _joined(observation, constraint)
    if joined.normaliser is None:
        raise ValueError(
            "observations are in physical units and samples in the model's "
            "coordinates: expected a normaliser between them, got none. Pass "
            "normaliser= to the observation, the one the model was trained with."
        )
    chart = joined.normaliser.shape
    known = (s for s in (student.shape, chart, joined.shape) if s is not None)
    shape = next(known, None)
    if shape is not None:
        joined.check(shape)
    seen = [part for part in joined.parts if isinstance(part, Observation)]
    rest = [part for part in joined.parts if not isinstance(part, Observation)]
    if len(seen) > 1:
        raise ValueError(
            f"expected one observation, got {len(seen)}, some of them inside the "
            "constraint. Put what is observed into one: its mask and noise say what."
        )
    judge = rest[0] if len(rest) == 1 else All(rest) if rest else None
    return Parts(seen[0] if seen else None, judge, shape)


def _joined(observation: Any, constraint: Any) -> All:
    """Both, checked against each other, with one normaliser."""
    parts = [part for part in (constraint, observation) if part is not None]
    if not parts:
        raise ValueError(
            "expected an observation, a constraint, or both, got neither: there is "
            "nothing to refine towards. Sample the student: student.sample(z)."
        )
    return All(parts)


def check_numbers(anchor: Any, **positive: Any) -> None:
    """The anchor is one of three, and each named number is positive."""
    if anchor not in _ANCHORS:
        raise ValueError(
            f"anchor must be 'draw' (posterior samples), 'norm' (MAP) or None, got "
            f"{anchor!r}."
        )
    for name, number in positive.items():
        require(
            None,
            0 < number < float("inf"),
            f"{name} must be positive and finite, got {name}={number}.",
        )


def draw_latents(
    student: AbstractStudent,
    z: BatchLike | None,
    samples: int,
    shape: Shape | None,
    key: Key,
    antithetic: bool,
) -> Batch:
    """The unit latents: of the given draws of the prior, or new ones, one a sample."""
    if antithetic and (z is not None or samples % 2):
        raise ValueError(
            "antithetic draws are made in pairs: expected an even number of samples "
            f"and no z, got samples={samples}, z {'none' if z is None else 'given'}. "
            "Leave antithetic out for draws of your own."
        )
    if z is not None:
        z = require_finite("z", jnp.asarray(z), "Check how it was made.")
        if shape is not None and z.shape[1:] != shape:
            raise ValueError(
                f"z must be draws of the prior, (sample, ...) with samples of shape "
                f"{shape}, got {z.shape}. Draw them with process.prior(key, (count, "
                "...)), or leave z out."
            )
        process = student.process
        return z / process.sigma(jnp.asarray(process.t_max, z.dtype))
    if shape is None:
        raise ValueError(
            "the shape of one sample is not known, got None from student and "
            "constraint. Pass z=, or shape= to Student."
        )
    draw = lambda key: jax.random.normal(key, shape)
    if not antithetic:
        return jax.vmap(draw)(sample_keys(key, samples, 0))
    half = jax.vmap(draw)(sample_keys(key, samples // 2, 0))
    return jnp.concatenate([half, -half])


def check_free(free: Any, shape: Shape) -> Array | None:
    """A mask of one latent's entries, of which some are free."""
    if free is None:
        return None
    mask = np.asarray(free)
    if mask.shape != shape or not mask.any():
        raise ValueError(
            f"free is a mask of the entries of one latent, shape {shape}, of which "
            f"some are True, got shape {mask.shape} with {int(mask.sum())} of them. "
            "Pass ~chart.given, or leave it out."
        )
    return jnp.asarray(mask)


def check_hold(hold: Any, parts: Parts) -> Array | None:
    """A mask of entries of the stacked fields, some of them held, none observed."""
    if hold is None:
        return None
    mask = np.asarray(hold)
    judges = (parts.constraint, parts.observation)
    known = (j.shape for j in judges if j is not None and j.shape is not None)
    shape = next(known, mask.shape)
    if mask.shape != shape or not mask.any() or mask.all():
        raise ValueError(
            f"hold is a mask of the entries of stacked fields, shape {shape}, of which "
            f"some are True and some are not, got shape {mask.shape} with "
            f"{int(mask.sum())} of {mask.size}. Pass equation.given_mask, or leave it "
            "out."
        )
    if parts.observation is not None:
        both = mask & np.asarray(parts.observation.mask)
        if both.any():
            raise ValueError(
                "what is held stays as it was drawn, whatever is observed of it: "
                f"expected other entries in hold than in the observation, got "
                f"{both.sum()} in both. Leave hold out where the held fields are "
                "what is asked for."
            )
    return jnp.asarray(mask)


def sample_keys(key: Key, count: int, purpose: int) -> Array:
    """A key for each sample, the same however many there are and in what batches."""
    own = jax.random.fold_in(key, purpose)
    return jax.vmap(lambda i: jax.random.fold_in(own, i))(jnp.arange(count))


def largest_objective(
    fields: np.ndarray,
    observation: Observation | None,
    noise: Any,
    square: Any,
    own: Any,
    scale: Any,
) -> np.ndarray:
    """For each starting sample, a number that its objective does not exceed.

    In float64, where squares of float32 numbers have room. `square` is the sum of
    squares of the residual in units of its `own` scale, and `scale` what it is divided
    by in the objective; None without a constraint, as `noise` is if nothing is seen.
    """
    count = len(fields)
    total = np.zeros(count)
    with np.errstate(all="ignore"):  # what is not finite is what is asked for
        if observation is not None:
            seen = np.asarray(observation.mask)
            apart = (fields - np.asarray(observation.values, np.float64)) / noise
            total += 0.5 * np.square(apart)[:, seen].sum(axis=1)
        if square is not None:
            ratio = np.asarray(own, np.float64) / scale
            worst = np.square(ratio).reshape(count, -1).max(axis=1)
            total += 0.5 * worst * square
    return total


def check_start(sample: np.ndarray, fine: np.ndarray) -> None:
    """Samples, and their objectives, are finite where the solver starts.

    Each says which are not.
    """
    for bad, what, cure in (
        (
            ~sample,
            "samples of the student",
            "The student is not trained, or called beyond what it was trained on.",
        ),
        (
            sample & ~fine,
            "residuals and misfits, and squares of them,",
            "The samples are finite, but too large for the equation, or the "
            "normaliser is not the one that the student was trained with: look at "
            "constraint.restore(x).",
        ),
    ):
        if bad.any():
            raise ValueError(
                f"expected finite {what} at the start, got NaN or infinite ones in "
                f"{bad.sum()} of {bad.size} (the first is sample {bad.argmax()}). "
                f"{cure}"
            )
