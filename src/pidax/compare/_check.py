"""What can be known before anything is compiled: expected, got, do this."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import require, require_finite
from ..denoiser import AbstractDenoiser
from ..flow import ProbabilityFlow, SolveOptions
from ..process import AbstractProcess
from ..types import Batch, BatchLike, Condition, Key, Shape, Times, TimesLike

_SLACK = 1e-6  # relative; t_max and t_min in float32 are still themselves
_UNKNOWN = object()


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
    if not eqx.tree_equal(process, flow.process):
        raise ValueError(
            "student and teacher's flow must have the same process, got "
            f"{process} and {flow.process}. Make both with one object."
        )
    shape = getattr(student, "shape", None)
    if None not in (shape, flow.shape) and shape != flow.shape:
        raise ValueError(
            f"the teacher's samples have the shape {flow.shape}, the student's "
            f"{shape}. Compare a student with the teacher that it was made for."
        )
    return shape if flow.shape is None else flow.shape


def check_classes(
    classes: int | None, condition: Condition, teacher: AbstractDenoiser, student: Any
) -> None:
    """Labels are drawn or given, not both, and both models know those drawn."""
    if classes is None:
        return
    if condition is not None:
        raise ValueError(
            f"classes={classes} draws labels, but condition= gives them already. Leave "
            "one of the two out."
        )
    for who, model in (("teacher", teacher), ("student", student)):
        known = _classes_of(model)
        if known is _UNKNOWN or (known is not None and known >= classes):
            continue
        raise ValueError(
            f"labels of {classes} classes are drawn, but the {who} knows "
            f"{'none' if known is None else known}. Pass classes={known}, or a {who} "
            f"made with classes={classes}."
        )


def _classes_of(model: Any) -> Any:
    """Its number of classes, None for none, or unknown if it does not say."""
    while model is not None:  # what wraps a denoiser has its classes
        known = getattr(model, "classes", _UNKNOWN)
        if known is not _UNKNOWN:
            return known
        model = getattr(model, "denoiser", None)
    return _UNKNOWN


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


def check_condition(condition: Condition, count: int) -> Condition:
    """With the sample as the first axis of every array; scalars are repeated."""

    def spread(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if leaf.ndim == 0:
            return jnp.broadcast_to(leaf, (count,))
        if leaf.shape[0] != count:
            raise ValueError(
                "arrays in condition carry the sample as their first axis: expected "
                f"length {count}, got shape {leaf.shape}. To share one condition, "
                "repeat it with jnp.broadcast_to."
            )
        return leaf

    return jax.tree.map(spread, condition)


def check_grid(
    name: str, times: TimesLike, process: AbstractProcess, dtype: np.dtype
) -> Times:
    """Times that fall from `t_max` to `t_min`, their ends to the last bit."""
    times = jnp.asarray(times, dtype)
    ends = jnp.array([process.t_max, process.t_min], dtype)
    fits = times.size > 1 and bool(
        (jnp.abs(times[jnp.array([0, -1])] - ends) <= _SLACK * ends).all()
        & (jnp.diff(times) < 0).all()
    )
    require(
        None,
        fits,
        f"{name} must decrease from t_max to t_min, here from {ends[0]} to {ends[1]}, "
        f"got {times}. Use a time grid of the process without a final zero, such as "
        "karras(18, process).",
    )
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


def check_output(student: Any, z: Batch, times: Times, condition: Condition) -> None:
    """One state comes back for one draw."""
    one = jax.tree.map(lambda leaf: leaf[0], (z, condition))
    out = eqx.filter_eval_shape(
        lambda z, t, c: student(z, t, c), one[0], times[0], one[1]
    )
    if getattr(out, "shape", None) != z.shape[1:]:
        raise ValueError(
            "student(z, t, condition) must return one state of the shape of z, "
            f"{z.shape[1:]}, got {getattr(out, 'shape', type(out).__name__)}. The "
            "student is called on one sample; batches are made by jax.vmap."
        )
