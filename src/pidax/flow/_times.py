"""The times a solve is asked for: inside the process's interval, in one direction."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_traced, require, show
from ..process import AbstractProcess
from ..types import Times, TimesLike

_SLACK = 1e-6  # relative; t_max and t_min in float32 are still themselves


def check_times(
    times: TimesLike | None, process: AbstractProcess, direction: int, dtype: np.dtype
) -> tuple[Times, bool]:
    """The times to save at, and whether a final zero (the denoiser) was asked for.

    `direction` is -1 from noise to data, +1 from data to noise.
    """
    if times is None:
        ends = (process.t_min, process.t_max)[::direction]
        return jnp.stack([jnp.asarray(end, dtype) for end in ends]), False
    ts = jnp.asarray(times, dtype)
    verb, start = ("decrease", "z") if direction < 0 else ("increase", "x0")
    if ts.size < 2:
        raise ValueError(
            f"times must hold at least the start (where {start} is) and the end of "
            f"the trajectory, got {ts.size} of them."
        )
    ts, final_zero = _split_final_zero(ts, process, direction)
    low, high = process.t_min, process.t_max
    inside = (ts >= low * (1 - _SLACK)) & (ts <= high * (1 + _SLACK))
    ts = require(
        ts,
        inside.all(),
        "times must lie in the interval [t_min, t_max] = "
        f"[{show(low)}, {show(high)}] of "
        f"{type(process).__name__}, got times from {show(ts.min())} to "
        f"{show(ts.max())}. Make the process with other ends, or move the times.",
    )
    ts = require(
        ts,
        (direction * jnp.diff(ts) > 0).all(),
        f"times must strictly {verb} from the start to the end of the trajectory, got "
        f"{show(ts)}. Sort them, or use "
        f"{'encode' if direction < 0 else 'solve'} for the other direction.",
    )
    return jnp.clip(ts, low, high), final_zero


def _split_final_zero(
    ts: Array, process: AbstractProcess, direction: int
) -> tuple[Times, bool]:
    """Take off a last time 0: the ODE is singular there, the denoiser is not."""
    if is_traced(ts, process) or direction > 0:
        return ts, False
    before, last = np.asarray(ts)[-2:]  # numbers, inside jit too
    if last != 0.0:
        return ts, False
    if ts.size > 2 and abs(before / process.t_min - 1) <= _SLACK:
        return ts[:-1], True
    raise ValueError(
        "time 0 is zero noise, where the ODE is singular; the last step to it is the "
        f"denoiser itself, from t_min={process.t_min}. Expected t_min right before "
        f"the 0, got {before}. Use a grid with final_zero=True, or end at "
        "t_min and pass denoise=True."
    )
