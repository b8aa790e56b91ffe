"""What can be known before anything is compiled: expected, got, do this."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import require, require_finite
from ..flow import ProbabilityFlow, SolveOptions
from ..process import AbstractProcess
from ..student import check_grid, check_same_process, check_same_shape
from ..types import Batch, BatchLike, Key, Shape, Times, TimesLike


def check_counts(*, least: int = 1, **counts: int | None) -> None:
    """Each named number is at least `least`."""
    for name, number in counts.items():
        require(
            None,
            number is None or number >= least,
            f"{name} must be at least {least}, got {name}={number}.",
        )


def check_options(options: dict[str, Any]) -> None:
    """They are a solve's, and of one that says when it fails."""
    known = set(SolveOptions.__annotations__)
    unknown = set(options) - known
    if unknown:
        raise TypeError(
            f"unknown option {sorted(unknown)} of the reference solve; expected some "
            f"of {sorted(known)}."
        )
    if options.get("throw") is False:
        raise ValueError(
            "the reference is what all else is measured against: expected a solve that "
            "raises if it fails, got throw=False. Leave throw= out."
        )


def check_student(student: Any, flow: ProbabilityFlow) -> Shape | None:
    """It is a student of this flow; returns the shape of one sample, if known."""
    process = getattr(student, "process", None)
    if not callable(student) or process is None:
        raise ValueError(
            "compare expects a student, called as student(z, t, condition) and with "
            f"the flow's process, got {type(student).__name__}. Make one with "
            "Student(network, process); of what fit returns pass result.model or "
            "result.ema()."
        )
    check_same_process(process, flow)
    shape = getattr(student, "shape", None)
    check_same_shape(shape, flow.shape)
    return shape if flow.shape is None else flow.shape


def check_z(
    z: BatchLike | None,
    key: Key,
    count: int,
    shape: Shape | None,
    process: AbstractProcess,
) -> Batch:
    """The prior draws: those given, of the right shape, or new ones."""
    if z is None:
        if shape is None:
            raise ValueError(
                "the shape of one sample is not known, got None from student and flow. "
                "Pass z=, or shape= to ProbabilityFlow or to Student."
            )
        return process.prior(key, (count, *shape))
    z = jnp.asarray(z)
    if z.shape[0] < 1 or (shape is not None and z.shape[1:] != shape):
        raise ValueError(
            f"z must be at least one draw of the prior, (sample, ...) with samples of "
            f"{'any shape' if shape is None else shape}, got {z.shape}. Draw them with "
            f"process.prior(key, (count, ...)), or leave z out."
        )
    return require_finite("z", z, "Check how it was made.")


def check_ends(
    name: str, times: TimesLike, process: AbstractProcess, dtype: np.dtype
) -> Times:
    """Times that fall from `t_max` to `t_min`, their ends to the last bit."""
    times = check_grid(jnp.asarray(times, dtype), process, name)
    ends = jnp.array([process.t_max, process.t_min], dtype)
    return times.at[jnp.array([0, -1])].set(ends)


def check_samples(samples: BatchLike | None, shape: Shape) -> None:
    """Held-out data are samples like the student's, enough for two sets."""
    if samples is None:
        return
    require(
        None,
        samples.shape[1:] == shape and len(samples) >= 4,
        "samples must be held-out data, at least 4 samples of the shape "
        f"{shape} with the sample as the first axis, got {samples.shape}. Leave "
        "samples out to compare paths alone.",
    )
    require_finite("samples", jnp.asarray(samples), "Check how they were made.")
