r"""Progressive distillation: each round halves the number of steps.

$$ F(x, s, t) = \lambda\, F_{old}(x, s, r) + (1 - \lambda)\, F_{old}(X_r, r, t), $$

one step of the student for two of the round before, on a grid of times. The first round
takes the teacher's steps of DDIM. Salimans and Ho 2022, "Progressive distillation for
fast sampling of diffusion models", whose target for the clean sample is this mean.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._checks import require, whole_number
from .._compatibility import check_grid
from ..flow import ProbabilityFlow
from ..process import uniform_angle
from ..types import (
    Count,
    Key,
    Scalar,
    Times,
    TimesLike,
    WholeLike,
    at_least_float32,
    typed,
)
from ._denoising import check_data
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_condition_draw,
    check_teacher_at,
    dtype_of,
)
from ._losses import L2
from ._map_rules import Leg, Semigroup
from ._maps import check_flow_map, drawn, state_at
from ._objective import Terms, Update
from ._slow_copy import copy_of


class Rounds(eqx.Module):
    """The student of the round before, and the number of this round, from zero."""

    before: Any
    round: Count


class ProgressiveDistillation(AbstractDistillation):
    r"""Halve the number of steps of a `FlowMap`, round by round.

        objective = px.distill.ProgressiveDistillation(flow, 16, every=500)
        px.fit(student, objective, data=data, steps=4 * 500)

    After the last round the student makes one step. A round begins with the student of
    the round before, so training starts well from `FlowMap.from_teacher`. Costs one
    pass of the student, two of the round before, and two of the teacher (which count in
    the first round).

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `steps`: of the student in the first round; a power of two. The teacher makes
      twice as many.
    - `every`: the training steps of a round. There are $\log_2(steps) + 1$ rounds.
    - `times`: the $2\,steps + 1$ times of the teacher's steps, by default even in the
      angle.
    - `truncated`: weigh by $\max(\rho_s^2\sigma_{data}^2, 1)$, their "truncated SNR";
      False for a weight of one.
    - `classes`, `condition`: as for `PID`.

    It needs data, whose noised samples are the starts of the maps: pass `data=` to
    `fit`. Between its rounds a student maps between neighbours on the grid only: sample
    it with `in_steps`, from a `FlowMap` whose `stops` are on the grid.

    The reported terms are `residual`, and `round`.
    """

    flow: ProbabilityFlow
    times: Times
    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    truncated: bool = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    condition: Draw | None

    @typed
    def __init__(
        self,
        flow: ProbabilityFlow,
        steps: WholeLike = 16,
        *,
        every: WholeLike,
        times: TimesLike | None = None,
        truncated: bool = False,
        classes: WholeLike | None = None,
        condition: Any = None,
    ):
        self.flow = flow
        self.steps = whole_number("steps", steps)
        self.every = whole_number("every", every)
        self.truncated = truncated
        if self.steps & (self.steps - 1):
            raise ValueError(
                "each round halves the number of steps: expected a power of two, got "
                f"steps={self.steps}. Take {2 ** (self.steps.bit_length() - 1)} or "
                f"{2 ** self.steps.bit_length()}."
            )
        nodes = 2 * self.steps + 1
        times = uniform_angle(nodes, flow.process) if times is None else times
        self.times = check_grid(jnp.asarray(times), flow.process)
        require(
            None,
            self.times.size == nodes,
            f"the teacher makes {nodes - 1} steps: expected {nodes} times, got "
            f"{self.times.size}. Pass as many, or {self.times.size // 2} steps.",
        )
        self.classes = check_condition_draw(classes, condition)
        self.condition = condition

    @property
    def rounds(self) -> int:
        """The number of rounds, down to a single step."""
        return self.steps.bit_length()

    def check(self, model: PyTree, data: PyTree) -> None:
        check_flow_map(self, model)
        self.check_student(model, None)
        if data is None:
            raise ValueError(
                "ProgressiveDistillation starts its maps from noised data: expected "
                "data, got none. Pass data= to fit, such as samples of the teacher: "
                "px.sample(flow, 4096, key=key)."
            )
        check_data(model, data, 0.0)
        check_teacher_at(self, self.times, self.shape_of(model))

    def init(self, model: PyTree, *, key: Key) -> Rounds:
        return Rounds(copy_of(model), jnp.asarray(0))

    @property
    def refresh_every(self) -> int:
        return self.every

    def refresh(self, model: PyTree, state: Rounds, *, key: Key) -> Rounds:
        """The next round, until the student makes one step."""
        last = state.round + 1 >= self.rounds
        keep = lambda old, new: jnp.where(last, old, new) if eqx.is_array(old) else old
        before = jax.tree.map(keep, state.before, copy_of(model))
        return Rounds(before, jnp.minimum(state.round + 1, self.rounds - 1))

    def loss(
        self,
        model: PyTree,
        state: Rounds,
        sample: PyTree,
        progress: Scalar,
        *,
        key: Key,
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        noise_key, condition_key, time_key = jax.random.split(key, 3)
        data, condition = drawn(self, sample, condition_key)
        dtype = dtype_of(model)
        half = 2**state.round
        index = jax.random.randint(time_key, (), 0, self.steps // half) * (2 * half)
        at = lambda steps: self.times[index + steps * half].astype(dtype)
        noise = jax.random.normal(noise_key, self.shape_of(model)).astype(dtype)
        unit = state_at(model, data, noise, at(0), condition)
        leg = Leg(
            model, state.before, self.flow, unit, at(0), at(1), at(2), condition, None
        )
        own, target = Semigroup("map").sides(leg)
        # Two steps of DDIM hold the denoiser from s to r and from r to t.
        first, way = leg.clean(), leg.way(leg.s, leg.r)
        second = leg.denoised(unit + way * first, leg.r)
        share = way / leg.way(leg.s, leg.t)
        steps = share * first + (1 - share) * second
        target = jnp.where(state.round == 0, steps, target)
        terms = {"residual": L2()(own, target), "round": state.round.astype(own.dtype)}
        weight = jnp.ones((), own.dtype)
        if self.truncated:
            weight = jnp.maximum(self.flow.process.snr(leg.s), 1.0)
        loss = weight * L2()(own, jax.lax.stop_gradient(target))
        return loss.astype(at_least_float32(loss.dtype)), ((), terms)

    def answer(self, model: Any, state: Any, progress: Any, *, key: Key) -> Any:
        raise ValueError(
            "ProgressiveDistillation learns from data: expected fit(..., data=), got a "
            "use without samples, as a part of PIDDM. Take PID(flow) there."
        )
