r"""PIDDM: distil a diffusion model of fields, with the residual of their equation.

$$ L = L_{distil} + \lambda\, E_z\ \operatorname{mean}\,
       \bigl| R(x_\theta(z)) \bigr|^2 / s^2, $$

with $x_\theta(z)$ the student's sample, one evaluation. The residual $R$ is evaluated
on the *clean* sample, for which the equation is exact. For a posterior mean $E[x_0 |
x_t]$ it is not exact: a mean of solutions of a nonlinear equation is not a solution
(Jensen's gap; `pidax.constraint.jensen_gap`). Zhang et al. 2025, "Physics-informed
distillation of diffusion models for PDE-constrained generation".

The weight $\lambda$ has a unit: an error $\delta$ of the sample adds $|\delta|^2/n$ to
the distillation loss and $|J\delta|^2/m$ to the physics loss, with $J$ the Jacobian of
the $m$ entries of $R/s$. The default makes both equal for an error in a random
direction, $\eta \sim N(0, I)$:

$$ \frac1\lambda = E_{z, \eta}\ \tfrac1m\, |J(x_\theta(z))\,\eta|^2. $$
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..flow import ProbabilityFlow
from ..types import Elementwise, Key, Sample, Scalar, at_least_float32
from ._combine import AbstractCombination, Weight, as_weight, weight_at
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_distillation,
    check_same_flow,
    dtype_of,
)
from ._knowledge import KnowledgeDistillation
from ._objective import State, Terms, Update
from ._row_sampling import RunningMeans

if TYPE_CHECKING:
    from ..constraint import AbstractConstraint

_PROBES = 16  # samples of the untrained student, for the check of the constraint


class PIDDMState(eqx.Module):
    r"""The state of PIDDM: the distillation's state, and $1/\lambda$ for the default
    weight.

    `sensitivity` is the running mean of $|J\eta|^2/m$ over some hundred steps; with a
    `weight` that was passed it stays 1.
    """

    distillation: State
    sensitivity: RunningMeans


class PIDDM(AbstractDistillation):
    r"""Teach a student a diffusion model of fields, and the equation of its samples.

        PIDDM(flow, Residual(darcy, normaliser))         # pairs, as the paper
        PIDDM(flow, constraint, distillation=PID(flow))  # no pairs, no solves
        PIDDM(flow, constraint, distillation=Sum(...))   # few pairs and PID

    Zhang et al. 2025. A step costs the distillation and one residual a sample, with one
    directional derivative for the default weight.

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `constraint`: on clean samples, such as `Residual(equation, normaliser)`.
    - `weight`: $\lambda$, a number or a function of the progress (`Ramp`). By default
      the weight at which a random error of the sample adds the same to both losses, if
      the distillation measures mean squares. It is a running mean, and is reported.
    - `distillation`: the loss that teaches the teacher's ODE. By default
      `KnowledgeDistillation` of endpoints, on pairs solved by the ODE; `pairs` are its
      options (`pairs`, `refresh_every`, `rtol`, ...). Any other objective of a student:
      `PID(flow)` needs no pairs.
    - `fresh`: evaluate the residual at samples of new noise. By default it is evaluated
      at the sample that the loss of the pair has computed, without further cost, and at
      new noise if there is none.
    - `combination`: the method that combines the gradients of the two losses: None for
      their sum, `ConFIG()` for a direction that lowers both (two backward passes; the
      weight then only changes the length of the step).

    Reported terms: the terms of the distillation; `physics`, the mean square of the
    relative residual; and the default `weight`.
    """

    distillation: AbstractDistillation
    constraint: "AbstractConstraint"
    weight: Scalar | Callable[[Scalar], Scalar] | None
    fresh: bool = eqx.field(static=True)
    combine: AbstractCombination | None

    def __init__(
        self,
        flow: ProbabilityFlow,
        constraint: "AbstractConstraint",
        *,
        weight: Weight | None = None,
        distillation: AbstractDistillation | None = None,
        fresh: bool = False,
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
        check_distillation(distillation)
        check_same_flow(flow, distillation)
        self.distillation = distillation
        self.constraint = constraint
        self.weight = None if weight is None else as_weight(weight)
        self.fresh = fresh
        self.combine = combination

    @property
    def flow(self) -> ProbabilityFlow:  # type: ignore[override]
        return self.distillation.flow

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        return self.distillation.classes

    @property
    def condition(self) -> Draw | None:  # type: ignore[override]
        return self.distillation.condition

    def check(self, model: PyTree, data: PyTree) -> None:
        self.distillation.check(model, data)
        self.constraint.check(self.shape_of(model))
        keys = jax.random.split(jax.random.key(0), _PROBES)
        # One after the other, with one program.
        draw = eqx.filter_jit(lambda model, key: self._sample(model, key))
        samples = jnp.stack([draw(model, key) for key in keys])
        self.constraint.check_start(samples)

    def init(self, model: PyTree, *, key: Key) -> PIDDMState:
        own = self.distillation.init(model, key=key)
        return PIDDMState(own, RunningMeans.start(1))

    def answer(
        self, model: PyTree, state: PIDDMState, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, Sample, tuple[Update, Terms]]:
        key, sample_key, error_key = jax.random.split(key, 3)
        loss, x, (update, terms) = self.distillation.answer(
            model, state.distillation, progress, key=key
        )
        if x is None or self.fresh:
            x = self._sample(model, sample_key)
        cost = self.constraint.cost(x)
        cost = cost.astype(at_least_float32(cost.dtype))
        terms = {**terms, "physics": cost}
        seen: Update = ()
        if self.weight is not None:
            weight = weight_at(self.weight, progress).astype(cost.dtype)
        else:
            found = self._sensitivity(jax.lax.stop_gradient(x), error_key)
            seen = found[None].astype(cost.dtype), jnp.ones(1, cost.dtype)
            mean = state.sensitivity.means()[0].astype(cost.dtype)
            # No change of the sample changes the residual: leave it out.
            weight = jnp.where(mean > 0, 1 / jnp.where(mean > 0, mean, 1.0), 0.0)
            terms["weight"] = weight
        losses = jnp.stack([loss.astype(cost.dtype), weight * cost])
        total = losses.sum() if self.combine is None else losses
        return total, x, ((update, seen), terms)

    def trainable(self, state: PIDDMState) -> PyTree:
        return self.distillation.trainable(state.distillation)

    def advance(self, model: PyTree, state: PIDDMState, update: Update) -> PIDDMState:
        own, seen = update
        sensitivity = state.sensitivity
        if self.weight is None:
            sensitivity = sensitivity.update(*seen)
        own = self.distillation.advance(model, state.distillation, own)
        return PIDDMState(own, sensitivity)

    @property
    def combination(self) -> AbstractCombination | None:
        return self.combine

    @property
    def refresh_every(self) -> int | None:
        return self.distillation.refresh_every

    def refresh(self, model: PyTree, state: PIDDMState, *, key: Key) -> PIDDMState:
        own = self.distillation.refresh(model, state.distillation, key=key)
        return PIDDMState(own, state.sensitivity)

    def _sample(self, model: Any, key: Key) -> Sample:
        z_key, condition_key = jax.random.split(key)
        z = self.flow.process.prior(z_key, self.shape_of(model))
        condition = self.draw_condition(condition_key)
        return model.sample(z.astype(dtype_of(model)), condition)

    def _sensitivity(self, x: Sample, key: Key) -> Scalar:
        """The mean square change of the relative residual for noise of unit size."""
        relative = lambda x: self.constraint.relative_of(self.constraint.restore(x))
        error = jax.random.normal(key, x.shape, x.dtype)
        return jnp.mean(jnp.square(jax.jvp(relative, (x,), (error,))[1]))
