"""Seconds of running and seconds of compiling, told apart."""

import time
from typing import Any

import jax
import numpy as np


class Clock:
    """Seconds of running what is compiled, and seconds of compiling it."""

    def __init__(self):
        self.running = self.compiling = 0.0

    def run(self, fn: Any, *args: Any) -> Any:
        """The result of a `filter_jit`ted function, on the host."""
        start = time.perf_counter()
        compiled = fn.lower(*args).compile()
        ready = time.perf_counter()
        out = jax.block_until_ready(compiled(*args))
        self.running += time.perf_counter() - ready
        self.compiling += ready - start
        return jax.tree.map(np.asarray, out)
