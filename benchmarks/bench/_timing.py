"""Times of compiled functions, warmed up and awaited."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def seconds(fn: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `fn`, compiled and warmed up, results awaited."""
    jax.block_until_ready(fn())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return times


def paired_ratio(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float], float]:
    """Times of two functions in turn, and the median of other/one pair by pair."""
    jax.block_until_ready((one(), other()))
    pairs = [(seconds(one, 1)[0], seconds(other, 1)[0]) for _ in range(repeats)]
    first, second = map(list, zip(*pairs, strict=True))
    return first, second, float(np.median(np.divide(second, first)))
