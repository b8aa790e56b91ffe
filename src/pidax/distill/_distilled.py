"""Is this a student of that teacher? What a distillation asks before it compiles."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._checks import is_traced, require, show
from ..flow import ProbabilityFlow
from ..process import AbstractProcess
from ..student import Student
from ..types import Shape, Times
from ._data import classes_of, is_known

_SLACK = 1e-6  # relative; t_max and t_min in float32 are still themselves


def check_grid(times: Times, process: AbstractProcess) -> Times:
    """The times decrease from `t_max` to `t_min`, and there are two at least."""
    ends = jnp.array([process.t_max, process.t_min], times.dtype)
    given = times[jnp.array([0, -1])] if times.size > 1 else jnp.nan
    return require(
        times,
        (jnp.abs(given - ends) <= _SLACK * ends).all() & (jnp.diff(times) < 0).all(),
        f"times must be two or more that decrease from t_max to t_min, here from "
        f"{show(ends[0])} to {show(ends[1])}, got {show(times)}. Use a time grid of "
        "the process without a final zero, such as karras(18, process).",
    )


def check_student(name: str, objective: Any, model: PyTree, data: PyTree) -> None:
    """The model is a student of the objective's flow, and there are no data."""
    flow: ProbabilityFlow = objective.flow
    if not isinstance(model, Student):
        raise ValueError(
            f"{name} trains a student, got a model of type {type(model).__name__}. "
            "Make one of your network with Student(network, process)."
        )
    if data is not None:
        raise ValueError(
            f"{name} needs no data: it learns from the teacher's flow alone, got data "
            f"of type {type(data).__name__}. Leave data= out."
        )
    if not eqx.tree_equal(model.process, flow.process):
        raise ValueError(
            "student and teacher's flow must have the same process, got "
            f"{model.process} and {flow.process}. Make both with one object."
        )
    _check_shapes(model.shape, flow.shape)
    _check_classes(objective.classes, "teacher", classes_of(flow.denoiser))
    _check_classes(objective.classes, "student", classes_of(model))


def check_teacher(
    flow: ProbabilityFlow, times: Times, shape: Shape, classes: int | None
) -> None:
    """The teacher is finite at each of these times, for noise of the states' size."""
    if is_traced(flow, times):
        return
    process = flow.process
    label = None if classes is None else jnp.zeros((), int)
    noise = jax.random.normal(jax.random.key(0), shape, times.dtype)

    @eqx.filter_jit
    def finite(flow: ProbabilityFlow, times: Times) -> Any:
        def at(t: Any) -> Any:
            x = process.scale(t) * noise
            x0 = flow.denoiser(x, process.sigma(t), process.alpha(t), label)
            return jnp.isfinite(x0).all()

        return jax.lax.map(at, times)

    bad = times[~finite(flow, times)]
    if bad.size:
        raise ValueError(
            f"the teacher's output is not finite at {bad.size} of the {times.size} "
            f"times, the first of them t={float(bad[0]):.6g} (sigma="
            f"{float(process.sigma(bad[0])):.6g}). Compute it in a form that is finite "
            "there, or choose t_min and t_max of the process inside its range."
        )


def event_shape(flow: ProbabilityFlow, model: Any) -> Shape:
    """The shape of one sample, which the teacher or the student knows."""
    shape = flow.shape if flow.shape is not None else model.shape
    if shape is None:
        raise ValueError(
            "the shape of one sample is not known, got None from student and flow. "
            "Pass shape= to ProbabilityFlow or to Student."
        )
    return shape


def dtype_of(model: PyTree) -> np.dtype:
    """The widest of the model's weights, at least float32: what it computes in."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    double = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def _check_shapes(student: Shape | None, teacher: Shape | None) -> None:
    if None not in (student, teacher) and student != teacher:
        raise ValueError(
            f"the teacher's samples have the shape {teacher}, the student's {student}. "
            "Make the student's network for the teacher's shape."
        )


def _check_classes(classes: int | None, who: str, known: Any) -> None:
    if classes is None or not is_known(known):
        return
    if known is None or known < classes:
        raise ValueError(
            f"labels of {classes} classes are drawn, but the {who} knows "
            f"{'none' if known is None else known}. Make it with classes={classes}, or "
            "leave out classes= for unconditional distillation."
        )
