r"""What all distillations share: a teacher's flow, random noise, random conditions.

A distillation teaches a student $x(z, t)$ the probability-flow ODE of a teacher. It
needs no data: noise is drawn, with a class label or another condition if teacher and
student take one.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, PyTree

from .._checks import is_traced, whole_number
from .._compatibility import (
    check_classes,
    check_output,
    check_same_process,
    check_same_shape,
)
from ..flow import ProbabilityFlow
from ..student import AbstractDerivative, AbstractNetworkStudent, Row, Stencil
from ..types import Condition, Elementwise, Key, Sample, Scalar, Shape, Times
from ._objective import AbstractObjective, State, Terms, Update

Draw = Callable[[Key], Condition]
_PROBES = 2  # draws of noise and condition at each row, for the check of a teacher


class AbstractDistillation(AbstractObjective):
    """An objective that teaches a student the ODE of a teacher, without data.

    A subclass has its `flow`; the number of `classes` from which it draws labels, or
    the function that draws any other `condition`; and implements `check`, with
    `check_student`, and `answer`.
    """

    flow: AbstractVar[ProbabilityFlow]
    classes: AbstractVar[int | None]
    condition: AbstractVar[Draw | None]

    @abc.abstractmethod
    def answer(
        self, model: PyTree, state: State, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, Sample | None, tuple[Update, Terms]]:
        """The loss of one draw, the student's clean sample, and `(update, terms)`.

        The clean sample is one that was computed for the loss, with which `PIDDM` needs
        no second evaluation; None if there is none.
        """

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, tuple[Update, Terms]]:
        loss, _, aux = self.answer(model, state, progress, key=key)
        return loss, aux

    def check_student(self, model: PyTree, data: PyTree) -> None:
        """Check that the model is a student of this flow, and that there
        are no data.
        """
        name, flow = type(self).__name__, self.flow
        if not isinstance(model, AbstractNetworkStudent):
            raise ValueError(
                f"{name} trains a student, got a model of type {type(model).__name__}. "
                "Make one of your network with Student(network, process)."
            )
        if data is not None:
            raise ValueError(
                f"{name} needs no data: it learns from the teacher's flow alone, got "
                f"data of type {type(data).__name__}. Leave data= out."
            )
        check_same_process(model.process, flow)
        check_same_shape(model.shape, flow.shape)
        check_classes(self.classes, self.condition, flow.denoiser, model)
        z = jnp.zeros((1, *self.shape_of(model)), dtype_of(model))
        keys = jax.random.split(jax.random.key(0), 1)
        condition = jax.vmap(self.draw_condition)(keys)
        check_output(model, z, flow.process.t_min, condition)

    def shape_of(self, model: AbstractNetworkStudent) -> Shape:
        """The shape of one sample, which the teacher or the student knows."""
        shape = model.shape if self.flow.shape is None else self.flow.shape
        if shape is None:
            raise ValueError(
                "the shape of one sample is not known, got None from student and flow. "
                "Pass shape= to ProbabilityFlow or to Student."
            )
        return shape

    def draw_condition(self, key: Key) -> Condition:
        """A draw of `condition`, or a label of the `classes`, or None."""
        if self.condition is not None:
            return self.condition(key)
        if self.classes is None:
            return None
        return jax.random.randint(key, (), 0, self.classes)


def check_condition_draw(classes: Any, condition: Any) -> int | None:
    """The classes, if a number; a drawn condition is drawn by a function."""
    if condition is not None and not callable(condition):
        raise ValueError(
            "condition must be a function of a key that draws what the teacher takes "
            f"as its condition, got {type(condition).__name__}. For one and the same, "
            "use condition=lambda key: it."
        )
    if classes is None:
        return None
    cure = "Leave it out for a distillation without labels."
    return whole_number("classes", classes, cure=cure)


def check_distillation(distillation: Any) -> None:
    """It is an objective that teaches a student."""
    if not isinstance(distillation, AbstractDistillation):
        raise ValueError(
            "expected an objective that teaches a student, such as PID(flow), got a "
            f"{type(distillation).__name__}. Make your own a distill."
            "AbstractDistillation."
        )


def check_same_flow(flow: ProbabilityFlow, distillation: AbstractDistillation) -> None:
    """The distillation is of this flow."""
    for what in ("process", "denoiser"):
        ours, theirs = getattr(flow, what), getattr(distillation.flow, what)
        same = ours is theirs or eqx.tree_equal(ours, theirs)
        if not is_traced(same) and not same:
            differ = f"{ours} and {theirs}" if what == "process" else "two that differ"
            raise ValueError(
                "the flow and the flow of its distillation "
                f"{type(distillation).__name__} must have the same {what}, got "
                f"{differ}: the student would learn one teacher from noise of another. "
                "Make both with one object, "
                "PIDDM(flow, constraint, distillation=PID(flow))."
            )


def check_teacher(
    distillation: AbstractDistillation,
    derivative: AbstractDerivative,
    stencil: Stencil,
    shape: Shape,
) -> None:
    """The teacher is finite wherever this stencil asks it, for states of their size."""

    def asked(distillation: Any, row: Row, states: Array, condition: Condition) -> Any:
        return derivative.target(distillation.flow, row, states, condition)

    rows = stencil.rows
    levels = (rows.sigma, rows.alpha)
    _check_finite(distillation, asked, rows, levels, rows.at_time, shape)


def check_teacher_at(
    distillation: AbstractDistillation, times: Times, shape: Shape
) -> None:
    """The teacher is finite at these times, for states of their size."""

    def asked(distillation: Any, row: Any, states: Array, condition: Condition) -> Any:
        return distillation.flow.denoiser(states[0], *row, condition)

    sigma, alpha = distillation.flow.process.level(times)
    levels = (sigma[:, None], alpha[:, None])
    _check_finite(distillation, asked, (sigma, alpha), levels, times, shape)


def _check_finite(
    distillation: AbstractDistillation,
    asked: Callable[[Any, Any, Array, Condition], Array],
    rows: PyTree,
    levels: tuple[Array, Array],
    times: Array,
    shape: Shape,
) -> None:
    """What is `asked` is finite for every row, in a few draws of noise and condition.

    `levels` are `(sigma, alpha)` of the states of each row.
    """
    if is_traced(distillation.flow, rows):
        return

    @eqx.filter_jit
    def finite(distillation: AbstractDistillation, rows: PyTree, keys: Key) -> Array:
        scale = distillation.flow.process.sigma_data

        def one(row: PyTree, levels: tuple[Array, Array], key: Key) -> Array:
            z_key, condition_key = jax.random.split(key)
            size = jnp.hypot(levels[0], levels[1] * scale)
            noise = jax.random.normal(z_key, (*size.shape, *shape), size.dtype)
            states = size.reshape(-1, *[1] * len(shape)) * noise
            condition = distillation.draw_condition(condition_key)
            return jnp.isfinite(asked(distillation, row, states, condition)).all()

        at = lambda each: jax.vmap(one, (None, None, 0))(*each).all()
        return jax.lax.map(at, (rows, levels, keys))

    keys = jax.random.split(jax.random.key(0), (times.size, _PROBES))
    fine = np.asarray(finite(distillation, rows, keys))
    at = np.asarray(times)[~fine]
    if at.size:
        sigma = float(distillation.flow.process.sigma(jnp.asarray(at[0], float)))
        raise ValueError(
            f"the teacher's output is not finite in {at.size} of the {times.size} "
            f"equations of the grid, the first of them at t={at[0]:.6g} (sigma="
            f"{sigma:.6g}) or in a solver's step from there. Compute it in a form that "
            "is finite there, or choose t_min and t_max of the process in its range."
        )


def dtype_of(model: PyTree) -> np.dtype:
    """The widest dtype of the model's weights, at least float32."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    double = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves)
    return jnp.dtype(jnp.float64 if double else jnp.float32)
