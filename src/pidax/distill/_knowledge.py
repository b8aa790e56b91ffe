r"""Knowledge distillation: regression on solved trajectories.

$$ L = E_{z, j}\ d\bigl(x_\theta(z, t_j),\ x(z, t_j)\bigr), $$

with $x(z, t_j)$ the states of the probability-flow ODE at saved times, solved by
`solve_batch` to its tolerance. Other distillations learn the trajectories from a
residual. Here they are solved first, so this is the method that others are compared
with.
"""

import math
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import require, whole_number
from .._compatibility import check_grid
from ..flow import ProbabilityFlow, SolveOptions, solve_batch
from ..process import karras
from ..types import (
    Condition,
    Key,
    Sample,
    Scalar,
    Shape,
    Times,
    TimesLike,
    WholeLike,
    at_least_float32,
    typed,
)
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_condition_draw,
    dtype_of,
)
from ._losses import L2
from ._objective import State, Terms, Update

_TIMES = 18  # times of the default grid, EDM's number for small images


class Pairs(eqx.Module):
    """Solved trajectories: the state of `KnowledgeDistillation`.

    - `z`: the prior draws; `x`: their trajectories at the times after `t_max`;
    - `condition`: their conditions, with the pair as the first axis, or None;
    - `evaluations`: denoiser calls spent on pairs so far (a float, which may exceed the
      largest integer; NaN if the solver's calls cannot be counted).
    """

    z: Float[Array, "pair *event"]
    x: Float[Array, "pair time *event"]
    condition: Condition
    evaluations: Scalar


class KnowledgeDistillation(AbstractDistillation):
    """Teach a student solved trajectories: Luhman & Luhman 2021.

    "Knowledge distillation in iterative generative models for improved sampling speed"
    regresses on endpoints. Here states along the trajectory are learned too, so that
    the student becomes the trajectory. No data are needed: pairs are solved when
    training starts, and again whenever they are refreshed. A step costs one evaluation
    of the student a sample and none of the teacher. Each pair costs
    `path.stats["evaluations"]` of the teacher (kept in the state).

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `pairs`: the number of trajectories. They take `pairs * len(times)` samples of
      memory on every device.
    - `times`: process times from `t_max` to `t_min` at which trajectories are learned;
      by default `karras(18, process)`. `(t_max, t_min)` learns the sample alone, as
      Luhman & Luhman do.
    - `endpoint`: the probability that the time is `t_min`; otherwise it is another of
      the times.
    - `distance`: a function of the student's state and the solved state: `L2()`.
    - `classes`: draw a label from `0..classes-1` for every pair, for teacher and
      student. `condition`: a function of a key that draws any other condition.
    - `refresh_every`: the number of steps after which pairs are solved anew; by default
      never.
    - `refresh_fraction`: the share of pairs that is replaced, the oldest first.
    - `block`: the number of pairs solved at once, with shared steps.
    - `options`: tolerances and solver: see `pidax.flow.SolveOptions`.

    The reported term `endpoint_error` is the mean squared error per component at
    `t_min` (estimated from the samples that were drawn there).
    """

    flow: ProbabilityFlow
    times: Times
    distance: Callable[[Sample, Sample], Scalar]
    options: dict[str, Any]
    condition: Draw | None
    endpoint: float
    pairs: int = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    period: int | None = eqx.field(static=True)
    refresh_fraction: float = eqx.field(static=True)
    block: int = eqx.field(static=True)

    @typed
    def __init__(
        self,
        flow: ProbabilityFlow,
        *,
        pairs: WholeLike = 16_384,
        times: TimesLike | None = None,
        endpoint: float | int = 0.5,
        distance: Callable[..., Any] | None = None,
        classes: WholeLike | None = None,
        condition: Any = None,
        refresh_every: WholeLike | None = None,
        refresh_fraction: float | int = 1.0,
        block: WholeLike = 1024,
        **options: Unpack[SolveOptions],
    ):
        self.flow = flow
        times = karras(_TIMES, flow.process) if times is None else times
        self.times = check_grid(jnp.asarray(times), flow.process)
        self.distance = L2() if distance is None else distance
        self.options = dict(options)
        self.endpoint = float(endpoint)
        self.pairs = whole_number("pairs", pairs)
        self.classes = check_condition_draw(classes, condition)
        self.condition = condition
        self.period = (
            None
            if refresh_every is None
            else whole_number("refresh_every", refresh_every)
        )
        self.refresh_fraction = float(refresh_fraction)
        self.block = whole_number("block", block)

    def __check_init__(self):
        require(
            None,
            0 < self.endpoint <= 1 and 0 < self.refresh_fraction <= 1,
            "endpoint and refresh_fraction must be in (0, 1], got endpoint="
            f"{self.endpoint}, refresh_fraction={self.refresh_fraction}. Both are "
            "shares: 1.0 is always, and all of them.",
        )

    def check(self, model: PyTree, data: PyTree) -> None:
        self.check_student(model, data)

    def init(self, model: PyTree, *, key: Key) -> Pairs:
        return self._solve(model, self.pairs, key)

    def answer(
        self, model: PyTree, state: State, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, Sample | None, tuple[Update, Terms]]:
        pair_key, time_key, model_key = jax.random.split(key, 3)
        i = jax.random.randint(pair_key, (), 0, state.z.shape[0])
        j = self._draw_time(time_key)
        condition = jax.tree.map(lambda leaf: leaf[i], state.condition)
        t = self.times[1:].astype(state.z.dtype)[j]
        x = model(state.z[i], t, condition, key=model_key)
        reference = state.x[i, j]
        loss = self.distance(x, reference)
        last, ends_alone = j == self.times.size - 2, self.times.size == 2
        # Only samples at t_min count; dividing by their probability removes the bias.
        share = 1.0 if ends_alone else self.endpoint
        error = jnp.where(last, L2()(x, reference), 0.0) / share
        loss = loss.astype(at_least_float32(loss.dtype))
        return loss, x if ends_alone else None, ((), {"endpoint_error": error})

    @property
    def refresh_every(self) -> int | None:
        return self.period

    def refresh(self, model: PyTree, state: State, *, key: Key) -> Pairs:
        count = max(1, round(self.refresh_fraction * self.pairs))
        new = self._solve(model, count, key)
        # A queue: the new ones at its head, the oldest fall off its end.
        push = lambda new, old: jnp.concatenate([new, old[: self.pairs - count]])
        return Pairs(
            push(new.z, state.z),
            push(new.x, state.x),
            jax.tree.map(push, new.condition, state.condition),
            state.evaluations + new.evaluations,
        )

    def _draw_time(self, key: Key) -> Array:
        """Index into the times after `t_max`: the last of them, or another one."""
        others = self.times.size - 2
        if others == 0:
            return jnp.zeros((), int)
        end_key, other_key = jax.random.split(key)
        end = jax.random.bernoulli(end_key, self.endpoint)
        return jnp.where(end, others, jax.random.randint(other_key, (), 0, others))

    def _solve(self, model: Any, count: int, key: Key) -> Pairs:
        """Draw and solve this number of pairs, in equal blocks so that only one
        compiles.
        """
        shape = self.shape_of(model)
        blocks = math.ceil(count / self.block)
        size = math.ceil(count / blocks)
        keys = jax.random.split(key, blocks)
        solved = [self._solve_block(size, shape, k) for k in keys]
        z, x, condition = jax.tree.map(
            lambda *parts: jnp.concatenate(parts)[:count],
            *[part[:3] for part in solved],
        )
        dtype = dtype_of(model)
        spent = jnp.asarray([size * part[3] for part in solved], float).sum()
        return Pairs(z.astype(dtype), x.astype(dtype), condition, spent)

    def _solve_block(
        self, size: int, shape: Shape, key: Key
    ) -> tuple[Array, Array, Condition, float]:
        z_key, condition_key = jax.random.split(key)
        z = self.flow.process.prior(z_key, (size, *shape))
        keys = jax.random.split(condition_key, size)
        condition = jax.vmap(self.draw_condition)(keys)
        path = solve_batch(
            self.flow, z, times=self.times, condition=condition, **self.options
        )
        calls = path.stats["evaluations"]
        return z, path.xs[:, 1:], condition, math.nan if calls is None else calls
