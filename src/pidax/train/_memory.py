"""What is said when a step does not fit into the memory of its device.

XLA's account of a compiled step has two parts: what is there between steps (weights,
optimiser, averages), and what the samples of one micro-batch take beside it, which
grows with their number.
"""

import os
from typing import Any


def out_of_memory(error: Exception) -> bool:
    """Whether XLA had no memory for what it was to allocate."""
    return "RESOURCE_EXHAUSTED" in str(error)


def memory_of(device: Any) -> int:
    """The bytes that a device may use: by its own account, or the machine's."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def advice(account: Any, limit: int, device: Any, here: int, accumulate: int) -> str:
    """In three parts: the memory, what the step takes, and the batch that fits.

    `here` is the batch of one device, in `accumulate` micro-batches, and `account` the
    `memory_analysis()` of the compiled step, or None.
    """
    said = "expected a training step that fits into the memory of a device, "
    if account is None:
        cure = f"Pass a larger accumulate than {accumulate}, or a smaller batch_size."
        return f"{said}{size(limit)} ({device}), got one that does not. {cure}"
    kept = account.argument_size_in_bytes + account.output_size_in_bytes
    kept -= account.alias_size_in_bytes
    samples, micro = account.temp_size_in_bytes, here // accumulate
    said += (
        f"{size(limit)} ({device}), got one that takes {size(kept + samples)} by XLA's "
        f"account: {size(kept)} for weights, optimiser and averages, {size(samples)} "
        f"for {micro} sample{'s' * (micro != 1)} at a time. "
    )
    fits = min(max(limit - kept, 0) * micro // max(samples, 1), micro - 1)
    if fits < 1:
        return said + "Not one sample fits: use a smaller model or nn.LowPrecision."
    parts = next(n for n in range(1, here + 1) if here % n == 0 and here // n <= fits)
    return said + f"{fits} at a time would fit: pass accumulate={parts}."


def size(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
