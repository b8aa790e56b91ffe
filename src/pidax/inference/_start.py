"""Samples of the prior, from which the scale of a residual and the noise that stands
for exact values are found.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..types import Batch, Condition, Sample
from ._problem import Problem

LEAST_SLACK = 1e-2


class Start(NamedTuple):
    """The samples before they are refined."""

    fields: Any
    finite: Any
    linear: Any  # the values of linear functions, apart from the measured ones
    square: Any  # sum of the squares of the residual in units of its own scale
    scale: Any
    size: Any  # root mean square of the sample's own residual, in units of its scale
    relative: Any


@eqx.filter_jit
def measure(problem: Problem, own: tuple[Batch, Condition]) -> Start:
    constraint = problem.constraint

    def one(latent: Sample, condition: Condition) -> Start:
        x = problem.sample(latent, condition)
        fields = problem.restore(x)
        finite = jnp.isfinite(fields).all() & jnp.isfinite(x).all()
        linear = tuple(part.residual_of(fields) for part in problem.linear)
        if constraint is None:
            none = jnp.asarray(jnp.nan)
            return Start(fields, finite, linear, None, None, none, none)
        mixed = problem.overwrite(fields, None)
        scale, cost = problem.scale_of(mixed), constraint.cost_of(mixed)
        square = jnp.sum(jnp.square(problem.residual_of(mixed) / scale))
        own = problem.residual_of(fields) / problem.scale_of(fields)
        size = jnp.sqrt(jnp.mean(jnp.square(own)))
        return Start(fields, finite, linear, square, scale, size, jnp.sqrt(cost))

    return jax.vmap(one)(*own)


def default_slack(problem: Problem, start: Start, held: bool = False) -> float:
    """The student's own residual, if observations are fitted: the median over draws of
    the prior of its root mean square in units of its scale, and not below 0.01.

    A residual that the student does not have is no information. With a smaller slack it
    is taken for one, and the samples are too certain. Without observations, or with
    held fields, the others are moved to solve the equation: 0.01.
    """
    informed = problem.observation is not None or bool(problem.linear)
    if problem.constraint is None or held or not informed:
        return LEAST_SLACK
    return max(LEAST_SLACK, float(np.median(start.size[start.finite])))


def likelihood_at(
    problem: Problem, start: Start, slack: float, tightness: float
) -> tuple[Array | None, tuple[Array, ...], Array | None]:
    """Noise and scale of the objective, after checking that it is finite at the start.

    An upper bound of each sample's objective is computed in float64, where squares of
    float32 numbers do not overflow.
    """
    fields, finite = start.fields, start.finite
    scale = None
    largest = np.zeros(len(fields))
    with np.errstate(all="ignore"):  # the values that are not finite are returned
        std = fields.reshape(-1, fields.shape[-1]).std(axis=0, dtype=np.float64)
        tight = (tightness * np.where(std > 0, std, 1.0)).astype(fields.dtype)
        noise, linear_noise = problem.deviations(tight)
        if (observation := problem.observation) is not None:
            apart = fields - np.asarray(observation.values, np.float64)
            apart = apart / np.asarray(noise, np.float64)
            seen = np.asarray(observation.mask)
            largest += 0.5 * np.square(apart)[:, seen].sum(axis=1)
        for off, spread in zip(start.linear, linear_noise, strict=True):
            apart = np.asarray(off, np.float64) / np.asarray(spread)
            largest += 0.5 * np.square(apart).sum(axis=1)
        if problem.constraint is not None:
            scale = slack * np.median(start.scale, axis=0).astype(fields.dtype)
            ratio = np.asarray(start.scale, np.float64) / scale
            worst = np.square(ratio).reshape(len(fields), -1).max(axis=1)
            largest += 0.5 * worst * start.square
    fine = largest <= np.finfo(fields.dtype).max
    for bad, what, cure in (
        (
            ~finite,
            "samples of the student",
            "The student is not trained, or called beyond what it was trained on.",
        ),
        (
            finite & ~fine,
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
    as_arrays = lambda a: None if a is None else jnp.asarray(a)
    return as_arrays(noise), linear_noise, as_arrays(scale)
