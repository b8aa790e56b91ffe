r"""PIDDM: distil a diffusion model of fields, and hold its samples to their equation.

$$ L = L_{distil} + \lambda\, E_z\ \operatorname{mean}\,
       \bigl| R(x_\theta(z)) \bigr|^2 / s^2, $$

with $x_\theta(z)$ the student's sample, one evaluation of it. The residual $R$ is put
on the *clean* sample, where the equation is exact. On a posterior mean
$E[x_0 | x_t]$ it is not: a mean of solutions of a nonlinear equation solves nothing
(Jensen's gap; `pidax.constraint.jensen_gap`). Zhang et al. 2025, "Physics-informed
distillation of diffusion models for PDE-constrained generation".
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._checks import require
from ..flow import ProbabilityFlow
from ..student import known_shape
from ..types import Elementwise, Key, Sample, Scalar, at_least_float32
from ._base import AbstractObjective, State, Terms, Update
from ._combine import AbstractCombination
from ._distilled import Draw, check_same_flow, draw_condition, dtype_of
from ._knowledge import KnowledgeDistillation
from ._schedules import Weight, check_weight, weight_at

if TYPE_CHECKING:
    from ..constraint import AbstractConstraint

_PROBES = 16  # samples of the untrained student, for the check of the constraint


class PIDDM(AbstractObjective):
    r"""Teach a student a diffusion model of fields, and its samples their equation.

        PIDDM(flow, Residual(darcy, normaliser), weight=0.1)     # pairs, as the paper
        PIDDM(flow, constraint, distillation=PID(flow))          # no pairs, no solves
        PIDDM(flow, constraint, distillation=Sum(...))           # few pairs and PID

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `constraint`: on clean samples, such as `Residual(equation, normaliser)`.
    - `weight`: $\lambda$, a number or a function of the progress (`Ramp`).
    - `distillation`: how the student learns the teacher. By default
      `KnowledgeDistillation` of endpoints alone, on pairs solved by the ODE; `pairs`
      are its options (`pairs`, `refresh_every`, `rtol`, ...). Any other objective of a
      student: `PID(flow)` for none of them.
    - `fresh`: put the residual on samples of noise drawn for it. By default it is on
      the sample that the pair's loss has made anyway, which costs nothing, and on fresh
      noise where there is none.
    - `combination`: how the gradients of the two losses become one: None for their sum,
      `ConFIG()` for a direction that lowers both (two backward passes; the weight then
      only scales the step).

    The reported terms are those of the distillation and `physics`, the mean square of
    the relative residual.
    """

    distillation: AbstractObjective
    constraint: "AbstractConstraint"
    flow: ProbabilityFlow
    weight: Weight
    fresh: bool = eqx.field(static=True)
    combine: AbstractCombination | None

    def __init__(
        self,
        flow: ProbabilityFlow,
        constraint: "AbstractConstraint",
        *,
        weight: Weight = 0.1,
        distillation: AbstractObjective | None = None,
        fresh: bool | None = None,
        combination: AbstractCombination | None = None,
        **pairs: Any,
    ):
        if distillation is None:
            process = flow.process
            times = jnp.asarray([process.t_max, process.t_min], float)
            distillation = KnowledgeDistillation(flow, times=times, **pairs)
        elif pairs:
            raise ValueError(
                f"{', '.join(pairs)} are options of the pairs that PIDDM solves when "
                "no distillation is given, got both. Give them to the distillation."
            )
        self.flow = flow
        self.constraint = constraint
        self.distillation = distillation
        self.weight = float(weight) if isinstance(weight, int) else weight
        ends = isinstance(distillation, KnowledgeDistillation) and (
            distillation.times.size == 2
        )
        self.fresh = not ends if fresh is None else fresh
        self.combine = combination
        require(
            None,
            self.fresh or ends,
            "the residual is on the samples of the pairs (fresh=False) only if these "
            f"are endpoints, got the distillation {type(distillation).__name__}. Leave "
            "fresh out.",
        )

    def __check_init__(self):
        check_weight(self.weight)
        check_same_flow(self.flow, self.distillation)

    @property
    def classes(self) -> int | None:
        """Of the distillation: the residual's samples have labels drawn like its."""
        return getattr(self.distillation, "classes", None)

    @property
    def condition(self) -> Draw | None:
        """How the distillation draws its conditions."""
        return getattr(self.distillation, "condition", None)

    def check(self, model: PyTree, data: PyTree) -> None:
        self.distillation.check(model, data)
        shape = known_shape(self.flow, model)
        self.constraint.check(shape)
        keys = jax.random.split(jax.random.key(0), _PROBES)
        draw = eqx.filter_jit(lambda model, key: self._sample(model, key))
        samples = jnp.stack([draw(model, key) for key in keys])
        self.constraint.check_start(samples)

    def init(self, model: PyTree, *, key: Key) -> State:
        return self.distillation.init(model, key=key)

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, tuple[Update, Terms]]:
        if self.fresh:
            key, own = jax.random.split(key)
            found = self.distillation.loss(model, state, sample, progress, key=key)
            loss, (update, terms) = found
            x = self._sample(model, own)
        else:
            assert isinstance(self.distillation, KnowledgeDistillation)
            loss, x, terms = self.distillation.answer(model, state, key=key)
            update = ()
        cost = self.constraint.cost(x)
        cost = cost.astype(at_least_float32(cost.dtype))
        weighted = weight_at(self.weight, progress).astype(cost.dtype) * cost
        losses = jnp.stack([loss.astype(cost.dtype), weighted])
        total = losses.sum() if self.combine is None else losses
        return total, (update, {**terms, "physics": cost})

    def trainable(self, state: State) -> PyTree:
        return self.distillation.trainable(state)

    def advance(self, model: PyTree, state: State, update: Update) -> State:
        return self.distillation.advance(model, state, update)

    @property
    def combination(self) -> AbstractCombination | None:
        return self.combine

    @property
    def refresh_every(self) -> int | None:
        return self.distillation.refresh_every

    def refresh(self, model: PyTree, state: State, *, key: Key) -> State:
        return self.distillation.refresh(model, state, key=key)

    def _sample(self, model: Any, key: Key) -> Sample:
        z_key, condition_key = jax.random.split(key)
        z = self.flow.process.prior(z_key, known_shape(self.flow, model))
        condition = draw_condition(self, condition_key)
        return model.sample(z.astype(dtype_of(model)), condition)
