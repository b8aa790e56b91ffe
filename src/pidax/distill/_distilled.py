"""What all distillations share: checks before anything compiles, drawn conditions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._checks import is_traced, require
from ..flow import ProbabilityFlow
from ..student import (
    Stencil,
    Student,
    check_classes,
    check_output,
    check_same_process,
    check_same_shape,
    known_shape,
)
from ..types import Condition, Key, Shape

Draw = Callable[[Key], Condition]
_PROBES = 2  # draws of noise and condition at each row, for the check of a teacher


def check_student(name: str, objective: Any, model: PyTree, data: PyTree) -> Shape:
    """The model is a student of the objective's flow, and there are no data.

    Returns the shape of one sample.
    """
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
    check_same_process(model.process, flow)
    check_same_shape(model.shape, flow.shape)
    check_classes(objective.classes, objective.condition, flow.denoiser, model)
    shape = known_shape(flow, model)
    draw = lambda key: draw_condition(objective, key)
    condition = jax.vmap(draw)(jax.random.split(jax.random.key(0), 1))
    z = jnp.zeros((1, *shape), dtype_of(model))
    check_output(model, z, flow.process.t_min, condition)
    return shape


def check_conditions(classes: int | None, condition: Any) -> None:
    """The number of classes is positive; a drawn condition is drawn by a function."""
    require(
        None,
        classes is None or classes >= 1,
        f"classes must be at least 1, got classes={classes}. Leave it out for a "
        "distillation without labels.",
    )
    if condition is not None and not callable(condition):
        raise ValueError(
            "condition must be a function of a key that draws what the teacher takes "
            f"as its condition, got {type(condition).__name__}. For one and the same, "
            "use condition=lambda key: it."
        )


def check_same_flow(flow: ProbabilityFlow, distillation: Any) -> None:
    """The distillation, and each one that it is a sum of, is of this flow."""
    for part in getattr(distillation, "objectives", ()):
        check_same_flow(flow, part)
    own = getattr(distillation, "flow", None)
    if own is None or own is flow:
        return
    for what in ("process", "denoiser"):
        ours, theirs = getattr(flow, what), getattr(own, what)
        same = ours is theirs or eqx.tree_equal(ours, theirs)
        if not is_traced(same) and not same:
            differ = f"{ours} and {theirs}" if what == "process" else "two that differ"
            raise ValueError(
                f"the flow and that of its distillation {type(distillation).__name__} "
                f"must have the same {what}, got {differ}: the student would learn one "
                "teacher from noise of another. Make both with one object, "
                "PIDDM(flow, constraint, distillation=PID(flow))."
            )


def draw_condition(objective: Any, key: Key) -> Condition:
    """By the objective's own `condition`, or a label of its `classes`, or None."""
    if objective.condition is not None:
        return objective.condition(key)
    if objective.classes is None:
        return None
    return jax.random.randint(key, (), 0, objective.classes)


def check_teacher(objective: Any, rows: Stencil, shape: Shape) -> None:
    """The teacher is finite wherever these rows ask it, for states of their size.

    It is asked as in training, in a few draws of noise and of the objective's
    conditions at each row.
    """
    flow: ProbabilityFlow = objective.flow
    if is_traced(flow, rows):
        return
    scale = flow.process.sigma_data

    @eqx.filter_jit
    def finite(objective: Any, rows: Stencil, keys: Key) -> Any:
        def asked(row: Stencil, key: Key) -> Any:
            z_key, condition_key = jax.random.split(key)
            size = jnp.hypot(row.sigma, row.alpha * scale)
            noise = jax.random.normal(z_key, (*size.shape, *shape), size.dtype)
            states = size.reshape(-1, *[1] * len(shape)) * noise
            condition = draw_condition(objective, condition_key)
            x0 = objective.derivative.target(objective.flow, row, states, condition)
            return jnp.isfinite(x0).all()

        at = lambda pair: jax.vmap(asked, (None, 0))(*pair).all()
        return jax.lax.map(at, (rows, keys))

    keys = jax.random.split(jax.random.key(0), (len(rows), _PROBES))
    at = np.asarray(rows.at_time)[~np.asarray(finite(objective, rows, keys))]
    if at.size:
        sigma = float(flow.process.sigma(jnp.asarray(at[0], float)))
        raise ValueError(
            f"the teacher's output is not finite in {at.size} of the {len(rows)} "
            f"equations of the grid, the first of them at t={at[0]:.6g} (sigma="
            f"{sigma:.6g}) or in a solver's step from there. Compute it in a form that "
            "is finite there, or choose t_min and t_max of the process in its range."
        )


def dtype_of(model: PyTree) -> np.dtype:
    """The widest of the model's weights, at least float32: what it computes in."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    double = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves)
    return jnp.dtype(jnp.float64 if double else jnp.float32)
