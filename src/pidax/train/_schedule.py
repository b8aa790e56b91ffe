"""Learning rates as functions of the step, and decays of averages."""

from typing import TYPE_CHECKING

from .._checks import require, require_positive

if TYPE_CHECKING:
    import optax


def warmup_cosine(
    peak: float, steps: int, *, warmup: int | None = None, end: float = 0.0
) -> "optax.Schedule":
    """Rise linearly to `peak` over `warmup` steps, then fall to `end` along a cosine.

    For `optimiser=optax.radam(warmup_cosine(1e-3, steps))`. By default `warmup` is a
    twentieth of the run, at most 1,000 steps. It is a schedule of Optax.
    """
    import optax

    require_positive(peak=peak, steps=steps)
    if warmup is None:
        warmup = min(steps // 20, 1000)
    require(
        None,
        0 <= warmup < steps,
        f"warmup must be less than steps, got warmup={warmup}, steps={steps}.",
    )
    start = peak if warmup == 0 else 0.0
    return optax.warmup_cosine_decay_schedule(start, peak, warmup, steps, end)


def ramp(peak: float, steps: int) -> "optax.Schedule":
    """Rise linearly from 0 to `peak` over `steps` steps, then stay: EDM's schedule.

    Karras et al. 2022 rise over ten million images: `steps = 10_000_000 // batch_size`.
    """
    import optax

    require_positive(peak=peak, steps=steps)
    return optax.linear_schedule(0.0, peak, steps)


def half_life(samples: float, batch_size: int) -> float:
    """The decay of an average with this half-life in training samples.

    For `fit(..., ema=(half_life(500_000, 512),))`. EDM defines its averages this way,
    $0.5^{batch/samples}$, and lowers the decays in the first steps by `ema_ramp`, as
    `fit` does by default.
    """
    require_positive(samples=samples, batch_size=batch_size)
    return 0.5 ** (batch_size / samples)
