"""Learning rates as functions of the step, and decays of averages."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike

from .._checks import require, require_positive
from ..types import Scalar


class Schedule(eqx.Module):
    """A learning rate as a function of the step, counted from 0.

    It rises linearly from 0 to `peak` over `warmup` steps, and falls along a cosine to
    `end` at step `steps`. Its numbers are arrays, so that they are arguments of the
    compiled step of `fit`: schedules with other numbers share one program.
    """

    peak: Scalar
    end: Scalar
    warmup: Scalar
    steps: Scalar

    def __init__(self, peak: float, end: float, warmup: int, steps: int):
        number = lambda x: jnp.asarray(x, float)
        self.peak, self.end = number(peak), number(end)
        self.warmup, self.steps = number(warmup), number(steps)

    def __call__(self, step: ArrayLike) -> Scalar:
        step = jnp.asarray(step, self.peak.dtype)
        rising = self.peak * step / jnp.maximum(self.warmup, 1)
        share = (step - self.warmup) / jnp.maximum(self.steps - self.warmup, 1)
        wave = (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1))) / 2
        falling = self.end + (self.peak - self.end) * wave
        return jnp.where(step < self.warmup, rising, falling)


def warmup_cosine(
    peak: float, steps: int, *, warmup: int | None = None, end: float = 0.0
) -> Schedule:
    """Rise linearly to `peak` over `warmup` steps, then fall to `end` along a cosine.

    For `optimiser=optax.radam(warmup_cosine(1e-3, steps))`. By default `warmup` is a
    twentieth of the run, at most 1,000 steps. Any function of the step is a schedule
    to Optax; runs with other numbers in this one share their compiled step.
    """
    require_positive(peak=peak, steps=steps)
    if warmup is None:
        warmup = min(steps // 20, 1000)
    require(
        None,
        0 <= warmup < steps,
        f"warmup must be less than steps, got warmup={warmup}, steps={steps}.",
    )
    return Schedule(peak, end, warmup, steps)


def ramp(peak: float, steps: int) -> Schedule:
    """Rise linearly from 0 to `peak` over `steps` steps, then stay: EDM's schedule.

    Karras et al. 2022 rise over ten million images: `steps = 10_000_000 // batch_size`.
    """
    require_positive(peak=peak, steps=steps)
    return Schedule(peak, peak, steps, steps)


def half_life(samples: float, batch_size: int) -> float:
    """The decay of an average with this half-life in training samples.

    For `fit(..., ema=(half_life(500_000, 512),))`. EDM defines its averages this way,
    $0.5^{batch/samples}$, and lowers the decays in the first steps by `ema_ramp`, as
    `fit` does by default.
    """
    require_positive(samples=samples, batch_size=batch_size)
    return 0.5 ** (batch_size / samples)
