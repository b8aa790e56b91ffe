"""The arguments of `fit`, one by one: what was expected, what came, what to do."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from .._checks import require, require_positive
from ..distill import AbstractObjective
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


def check_arguments(
    objective: Any,
    optimiser: Any,
    key: Any,
    clip: float | None,
    ema: Sequence[float],
    ramp: float | None,
) -> None:
    """An objective, an optimiser, a typed key; positive numbers, decays below one."""
    if not isinstance(objective, AbstractObjective):
        raise ValueError(
            f"objective must be an instance of AbstractObjective, got {objective!r}. "
            "For example DenoisingScoreMatching(process)."
        )
    if optimiser is not None and not hasattr(optimiser, "update"):
        raise ValueError(
            f"optimiser must be an Optax transformation, got {optimiser!r}. Call it "
            "with its learning rate: optax.adam(1e-3)."
        )
    if not eqx.is_array(key) or not is_key(key) or key.shape:
        raise ValueError(
            f"key must be one random key, got {type(key).__name__}. Make it with "
            "jax.random.key(0); jax.random.wrap_key_data converts one of PRNGKey."
        )
    if clip is not None:
        require_positive(clip=clip)
    if ramp is not None:
        require_positive(ema_ramp=ramp)
    if not isinstance(ema, Sequence):
        raise ValueError(f"ema must be a tuple of decays, got {ema}: (0.999,) or ().")
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
