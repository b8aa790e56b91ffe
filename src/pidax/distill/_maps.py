r"""Distil a flow map by an equation between its own maps.

$$ L = E_{x_s, s, t}\ d\bigl(F_\theta(x_s, s, t),\ \text{target}\bigr), $$

with the target of a rule (`_map_rules`). The states $x_s$ are the student's own, from
noise, so that no data are needed; or noised samples of data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import require
from ..flow import ProbabilityFlow
from ..process import karras
from ..student import FlowMap
from ..types import (
    Condition,
    Key,
    Sample,
    Scalar,
    WholeLike,
    at_least_float32,
    typed,
)
from ._denoising import AbstractTimeLaw, UniformAngle, check_data
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_condition_draw,
    check_teacher_at,
    dtype_of,
)
from ._losses import L2
from ._map_rules import AbstractMapRule, Leg
from ._objective import Terms, Update
from ._slow_copy import averaged, check_decay, copy_of

_CHECKED = 18  # times at which the teacher must be finite
_WHOLE, _DIAGONAL = 0.5, 0.25
Answers = Literal["teacher", "data"]
Form = Literal["mean", "state"]


class MapState(eqx.Module):
    """The slow copy of the student, which makes the targets; None without one."""

    slow: Any


class MapDistillation(AbstractDistillation):
    r"""Teach a `FlowMap` by an equation between its own maps.

        objective = px.distill.MapDistillation(flow, px.distill.Eulerian())
        px.fit(student, objective, steps=1000)

    Published methods are functions that make one: `ConsistencyDistillation`,
    `MeanFlow` and others. The states from which maps start are the student's own, at
    the end of its map from noise: then no data are needed. If data are passed to `fit`,
    they are noised data, as published.

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `rule`: `Lagrangian()`, `Eulerian()` or `Semigroup()`.
    - `answers`: `"teacher"`, or `"data"`: the sample of which a state was made stands
      for the denoiser. Its mean over the data is the denoiser, so this trains from data
      alone, and the teacher is not asked. For `Semigroup("denoiser")` it is right for
      small steps of the grid only.
    - `law`: of the start $s$; by default `UniformAngle()`. Not for a rule with a grid.
    - `whole`: the share of draws that start at `t_max`, where samples start; by default
      0.5 without data, and 0 with them.
    - `diagonal`: the share of draws with equal times, where the map is the denoiser; by
      default 0.25 for a rule that asks it there alone, and 0 for others.
    - `form`: `"mean"` compares $F$, `"state"` the states $X$, with the factor
      $\alpha_t - \alpha_s\sigma_t/\sigma_s$.
    - `distance`: of two samples; by default `L2()`. `Adaptive()` is MeanFlow's.
    - `slow`: the decay of a moving average of the student that makes the targets; None
      for the student itself.
    - `classes`, `condition`: as for `PID`. Labelled data have their own labels.

    The reported term `residual` is the mean squared difference of the two sides.
    """

    flow: ProbabilityFlow
    rule: AbstractMapRule
    law: AbstractTimeLaw
    distance: Callable[[Sample, Sample], Scalar]
    whole: float | None = eqx.field(static=True)
    diagonal: float = eqx.field(static=True)
    slow: float | None
    answers: Answers = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    condition: Draw | None

    @typed
    def __init__(
        self,
        flow: ProbabilityFlow,
        rule: Any,
        *,
        answers: str = "teacher",
        law: AbstractTimeLaw | None = None,
        whole: float | int | None = None,
        diagonal: float | int | None = None,
        form: str = "mean",
        distance: Callable[..., Any] | None = None,
        slow: float | None = None,
        classes: WholeLike | None = None,
        condition: Any = None,
    ):
        if not isinstance(rule, AbstractMapRule):
            raise ValueError(
                "expected an equation of flow maps, such as distill.Eulerian(), got a "
                f"{type(rule).__name__}. Make your own a distill.AbstractMapRule."
            )
        rule.check(flow.process)
        self.flow, self.rule = flow, rule
        self.law = UniformAngle() if law is None else law
        self.distance = L2() if distance is None else distance
        self.whole = None if whole is None else float(whole)
        default = _DIAGONAL if rule.asks_on_diagonal else 0.0
        self.diagonal = default if diagonal is None else float(diagonal)
        self.slow = slow
        self.answers = answers  # type: ignore[assignment]
        self.form = form  # type: ignore[assignment]
        self.classes = check_condition_draw(classes, condition)
        self.condition = condition

    def __check_init__(self):
        for name, value, known in (
            ("answers", self.answers, get_args(Answers)),
            ("form", self.form, get_args(Form)),
        ):
            require(None, value in known, f"{name} is one of {known}, got {value!r}.")
        for name, share in (("whole", self.whole or 0.0), ("diagonal", self.diagonal)):
            require(
                None,
                0 <= share <= 1,
                f"{name} is a share of the draws, in [0, 1], got {name}={share}. "
                "Leave it out for the default.",
            )
        require(
            None,
            not self.rule.asks_on_diagonal or self.diagonal > 0,
            "this rule asks the denoiser where both times are equal: expected "
            "diagonal above 0, got 0. Without it the student learns no teacher. Pass "
            "0.25.",
        )
        check_decay(self.slow)

    def check(self, model: PyTree, data: PyTree) -> None:
        check_flow_map(self, model)
        self.check_student(model, None)
        if data is not None:
            check_data(model, data, 0.0)
        elif self.answers == "data":
            raise ValueError(
                "answers='data' takes a sample of data in place of the teacher's "
                "answer: expected data, got none. Pass data= to fit, or "
                "answers='teacher'."
            )
        if self.answers == "teacher":
            times = karras(_CHECKED, self.flow.process)
            check_teacher_at(self, times, self.shape_of(model))

    def init(self, model: PyTree, *, key: Key) -> MapState:
        return MapState(None if self.slow is None else copy_of(model))

    def advance(self, model: PyTree, state: MapState, update: Update) -> MapState:
        if self.slow is None:
            return state
        slow = averaged(self.slow, state.slow, model)
        return dataclasses.replace(state, slow=slow)

    def loss(
        self,
        model: PyTree,
        state: MapState,
        sample: PyTree,
        progress: Scalar,
        *,
        key: Key,
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        noise_key, condition_key, time_key, share_key = jax.random.split(key, 4)
        data, condition = drawn(self, sample, condition_key)
        process, dtype = self.flow.process, dtype_of(model)
        default = _WHOLE if data is None else 0.0
        share = default if self.whole is None else self.whole
        first, second = jax.random.uniform(share_key, (2,))
        s, r, t = self.rule.times(
            process, self.law, progress, first < share, key=time_key
        )
        equal = second < self.diagonal
        s, r, t = (a.astype(dtype) for a in (s, r, t))
        r, t = jnp.where(equal, s, r), jnp.where(equal, s, t)
        noise = jax.random.normal(noise_key, self.shape_of(model)).astype(dtype)
        unit = state_at(model, data, noise, s, condition)
        answer = data if self.answers == "data" else None
        slow = model if state.slow is None else state.slow
        leg = Leg(model, slow, self.flow, unit, s, r, t, condition, answer)
        own, target = self.rule.sides(leg)
        if self.diagonal > 0:
            target = jnp.where(equal, leg.clean(), target)
        terms = {"residual": L2()(own, target)}
        if self.form == "state":
            (sigma, alpha), (before, signal) = process.level(t), process.level(s)
            gap = alpha - signal * sigma / before
            own, target = gap * own, gap * target
        loss = self.distance(own, jax.lax.stop_gradient(target))
        return loss.astype(at_least_float32(loss.dtype)), ((), terms)

    def answer(
        self, model: PyTree, state: MapState, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, None, tuple[Update, Terms]]:
        loss, aux = self.loss(model, state, None, progress, key=key)
        return loss, None, aux


def check_flow_map(objective: AbstractDistillation, model: PyTree) -> None:
    """Only a flow map has maps from any time."""
    if not isinstance(model, FlowMap):
        raise ValueError(
            f"{type(objective).__name__} compares maps between two times: expected a "
            f"FlowMap, got a {type(model).__name__}. Make one with "
            "FlowMap(px.nn.two_times(network), process), or FlowMap.from_teacher."
        )


def drawn(
    objective: AbstractDistillation, sample: PyTree, key: Key
) -> tuple[Array | None, Condition]:
    """The sample of data, if any, and its condition, or a drawn one."""
    if isinstance(sample, tuple):
        return jnp.asarray(sample[0]), sample[1]
    condition = objective.draw_condition(key)
    return None if sample is None else jnp.asarray(sample), condition


def state_at(
    model: FlowMap, data: Array | None, noise: Sample, s: Scalar, condition: Condition
) -> Sample:
    r"""A state at `s`, divided by its noise level, through which no gradient flows.

    Noised data, $(\alpha_s x_0 + \sigma_s\epsilon)/\sigma_s$; or without data the
    student's own state on its map from $z = \sigma_T\epsilon$.
    """
    sigma, alpha = model.process.level(s)
    if data is not None:
        return noise + (alpha / sigma) * data.astype(noise.dtype)
    mean = jax.lax.stop_gradient(model.clean(noise, s, condition))
    return model.state(noise, mean, s) / sigma
