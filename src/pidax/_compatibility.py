"""Checks that a student, a teacher's flow, a grid and class labels fit together.

They run before anything is compiled, for everything that trains or compares students.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import classes_of, is_known, is_traced, require, settled, show
from .flow import ProbabilityFlow
from .process import AbstractProcess
from .types import Batch, Condition, Shape, Times, TimesLike

_SLACK = 1e-6  # relative; t_max and t_min in float32 are still themselves


def check_grid(
    times: TimesLike, process: AbstractProcess, name: str = "times"
) -> Times:
    """The times, if two or more decrease from `t_max` to `t_min`."""
    times = jnp.asarray(times, None if hasattr(times, "dtype") else float)
    traced = is_traced(process)
    ends = (jnp if traced else np).array([process.t_max, process.t_min], times.dtype)
    grid = settled(times)
    given = grid[np.array([0, -1])] if grid.size > 1 else np.nan
    fits = (abs(given - ends) <= _SLACK * ends).all() & (grid[1:] < grid[:-1]).all()
    return require(
        times,
        fits,
        f"{name} must be two or more that decrease from t_max to t_min, here from "
        f"{show(ends[0])} to {show(ends[1])}, got {show(grid)}. Use a time grid "
        "of the process without a final zero, such as karras(18, process).",
    )


def check_same_process(process: Any, flow: ProbabilityFlow) -> None:
    """The student answers in the times of the flow."""
    if not eqx.tree_equal(process, flow.process):
        raise ValueError(
            "student and teacher's flow must have the same process, got "
            f"{process} and {flow.process}. Make both with one object."
        )


def check_same_shape(student: Shape | None, teacher: Shape | None) -> None:
    """Samples of both have one shape, as far as they say."""
    if None not in (student, teacher) and student != teacher:
        raise ValueError(
            f"the teacher's samples have the shape {teacher}, the student's {student}. "
            "Make the student's network for the teacher's shape."
        )


def check_classes(
    classes: int | None, condition: Any, teacher: Any, student: Any
) -> None:
    """Labels are drawn or given, not both, and teacher and student know them.

    A student with classes but without labels would see "no class" only. A student
    without classes learns its teacher's output without a class.
    """
    if condition is not None:
        if classes is not None:
            raise ValueError(
                f"classes={classes} draws labels, but condition= gives them already. "
                "Leave one of the two out."
            )
        return
    for who, model in (("teacher", teacher), ("student", student)):
        known = classes_of(model)
        if not is_known(known):
            continue
        if classes is None:
            if known is not None and who == "student":
                raise ValueError(
                    f"the student knows {known} classes, but no labels are drawn. Pass "
                    f"classes={known}; or condition=, with what stands for no class."
                )
        elif known is None:
            raise ValueError(
                f"labels of {classes} classes are drawn, but the {who} knows none. "
                "Leave out classes=, or make it with classes (classes= of a network, "
                "labels= of a mixture)."
            )
        elif known < classes:
            raise ValueError(
                f"labels of {classes} classes are drawn, but the {who} knows {known}. "
                f"Pass classes={known}, or make it with {classes} (classes= of a "
                "network, labels= of a mixture)."
            )


def check_output(student: Any, z: Batch, time: Any, condition: Condition) -> None:
    """One state comes back for one of the draws, traced and not run."""
    one = jax.tree.map(lambda leaf: leaf[0], (z, condition))
    out = eqx.filter_eval_shape(lambda z, t, c: student(z, t, c), one[0], time, one[1])
    if getattr(out, "shape", None) != z.shape[1:]:
        raise ValueError(
            "student(z, t, condition) must return one state of the shape of z, "
            f"{z.shape[1:]}, got {getattr(out, 'shape', type(out).__name__)}. The "
            "student is called on one sample; batches are made by jax.vmap."
        )
