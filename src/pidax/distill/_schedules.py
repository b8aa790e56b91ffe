r"""Weights that change during a run, as functions of its progress from 0 to 1."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp

from .._checks import require
from ..types import Scalar

Weight: TypeAlias = float | int | Callable[[Scalar], Scalar]


class Ramp(eqx.Module):
    """From zero to `weight`, linearly, between the shares `start` and `end` of a run.

    What must come first (the law of the samples) is learned before what follows (their
    residual) is asked for.
    """

    weight: float
    start: float = 0.0
    end: float = 0.5

    def __check_init__(self):
        require(
            None,
            0 <= self.start < self.end <= 1,
            "a ramp begins and ends at shares of the run, 0 <= start < end <= 1, got "
            f"start={self.start}, end={self.end}.",
        )
        check_weight(self.weight)

    def __call__(self, progress: Scalar) -> Scalar:
        done = (progress - self.start) / (self.end - self.start)
        return self.weight * jnp.clip(done, 0.0, 1.0)


def check_weight(weight: Weight) -> None:
    """Not negative and finite, or a function."""
    if not callable(weight):
        require(
            None,
            0 <= weight < float("inf"),
            f"weight must be finite and not negative, got weight={weight}, or a "
            "function of the progress from 0 to 1, such as Ramp(0.1).",
        )


def weight_at(weight: Weight, progress: Scalar) -> Scalar:
    """The weight when this share of the run is done."""
    value = weight(progress) if callable(weight) else weight
    return jnp.asarray(value, progress.dtype)
