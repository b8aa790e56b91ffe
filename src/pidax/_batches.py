"""Batches of few sizes, so that another number of samples needs no new program."""

import numpy as np
from jaxtyping import Int


def batch_length(count: int, most: int) -> int:
    """The number of samples computed at once: `most`, or the next power of two.

    The last batch is filled up. A program is compiled for each length, and there are
    few lengths: 65 to 128 samples make batches of 128.
    """
    return min(most, 1 << max(count - 1, 0).bit_length())


def batch_rows(count: int, length: int) -> Int[np.ndarray, "batch row"]:
    """The samples of each batch, the last one filled up with the last sample."""
    rows = np.arange(-(-count // length) * length)
    return np.minimum(rows, count - 1).reshape(-1, length)
