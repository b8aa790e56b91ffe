"""The arguments of `fit`, one by one: what was expected, what came, what to do."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from .._checks import require, require_positive
from ._parallel import Place
from ._state import is_key


def check_counts(**numbers: Any) -> None:
    """Each named number is a whole one, and at least one."""
    for name, number in numbers.items():
        require(
            None,
            isinstance(number, int | np.integer) and bool(number >= 1),
            f"{name} must be a whole number of at least 1, got {number!r}.",
        )


def check_values(
    key: Any, clip: float | None, ema: Sequence[float], ramp: float | None
) -> None:
    """A typed key, positive numbers, decays below one."""
    if not eqx.is_array(key) or not is_key(key) or key.shape:
        raise ValueError(
            f"key must be one random key, got {type(key).__name__}. Make it with "
            "jax.random.key(0); jax.random.wrap_key_data converts one of PRNGKey."
        )
    if clip is not None:
        require_positive(clip=clip)
    if ramp is not None:
        require_positive(ema_ramp=ramp)
    if isinstance(ema, float):
        raise ValueError(f"ema must be a sequence of decays, got {ema}: ema=({ema},).")
    for decay in ema:
        require(
            None,
            0 <= decay < 1,
            f"the decays in ema must be at least 0 and less than 1, got {decay}. An "
            "average over about n steps has the decay 1 - 1/n.",
        )


def check_batch_size(batch_size: int, accumulate: int, place: Place) -> None:
    """Every device gets as many samples in every micro-batch."""
    parts = place.total * accumulate
    if batch_size % parts == 0:
        return
    below = batch_size // parts * parts
    nearer = below and 2 * (batch_size - below) < parts
    micro = f" times {accumulate} micro-batches" if accumulate > 1 else ""
    devices = "1 device" if place.total == 1 else f"{place.total} devices"
    raise ValueError(
        f"batch_size must be divisible by {parts} ({devices}{micro}), got "
        f"{batch_size}. The nearest that is: {below if nearer else below + parts}."
    )
