"""Many problems at once, in equal batches; running and compiling timed apart."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..constraint import AbstractConstraint, Observation
from ..student import AbstractStudent
from ..types import Batch, Condition, Key
from ._arguments import check_start, largest_objective, sample_keys
from ._clock import Clock
from ._cost import Cost, Training
from ._drive import drive
from ._methods import AbstractMethod
from ._problem import Case, Likelihood, Problem
from ._refined import History, Refined


class Task(NamedTuple):
    """What is asked, the same for all samples."""

    student: AbstractStudent
    observation: Observation | None
    constraint: AbstractConstraint | None
    anchor: str | None
    weight: float
    free: Any
    hold: Any

    def problem(self, likelihood: Likelihood, dtype: Any) -> Problem:
        """The rows that are minimised."""
        weight = None if self.anchor is None else jnp.asarray(self.weight, dtype)
        parts = self.student, self.observation, self.constraint
        return Problem(*parts, weight, self.free, self.hold, likelihood)


class Measured(NamedTuple):
    """What the starting samples say: the likelihood, and their residual."""

    likelihood: Likelihood
    relative: np.ndarray
    clock: Clock


class Run(NamedTuple):
    """One call of `refine`."""

    task: Task
    start: Batch
    condition: Condition
    key: Key
    batch_size: int
    antithetic: bool
    training: Training

    def measure(self, slack: float, tightness: float) -> Measured:
        """Sample from the draws, see that all is finite, and size up the likelihood."""
        clock = Clock()
        problem = self.task.problem(Likelihood(None, None), self.start.dtype)
        parts = [clock.run(_measure, problem, *batch[:2]) for batch in self._batches()]
        fields, finite, square, scale, relative = self._joined(parts)
        noise = None
        if (observation := self.task.observation) is not None:
            tight = tightness * _spread(fields)
            given = np.asarray(observation.noise)
            noise = np.where(given > 0, given, tight).astype(fields.dtype)
        own = scale
        if scale is not None:
            scale = slack * np.median(scale, axis=0).astype(fields.dtype)
        largest = largest_objective(fields, observation, noise, square, own, scale)
        check_start(finite, largest <= np.finfo(self.start.dtype).max)
        as_arrays = lambda a: None if a is None else jnp.asarray(a)
        likelihood = Likelihood(as_arrays(noise), as_arrays(scale))
        return Measured(likelihood, relative, clock)

    def solve(self, method: AbstractMethod, measured: Measured) -> Refined:
        """Minimise for every sample."""
        clock = measured.clock
        problem = self.task.problem(measured.likelihood, self.start.dtype)
        args = (method, problem, self.task.anchor)
        parts = [clock.run(_solve, *args, *batch) for batch in self._batches()]
        outcome, fields, relative = self._joined(parts)
        _report(outcome.failed)
        count = len(self.start)
        anchor, misfit, residual = np.moveaxis(outcome.history, -1, 0)
        network, jvp, vjp = outcome.spent.sum(axis=0, dtype=float)
        network += count  # the start was sampled once before
        judged = 0.0 if self.task.constraint is None else float(network + count)
        if self.task.hold is not None:  # and once for what of it is held
            network += count
        cost = Cost(
            samples=count,
            network=float(network),
            jvp=float(jvp),
            vjp=float(vjp),
            residual=judged,
            seconds=clock.running,
            compiling=clock.compiling,
            training=self.training,
        )
        return Refined(
            fields=fields,
            x=outcome.best.x,
            latent=outcome.best.latent,
            start=np.asarray(self.start),
            best=outcome.best.terms,
            history=History(anchor, misfit, residual),
            steps=outcome.steps,
            converged=outcome.converged,
            failed=outcome.failed,
            relative=relative,
            relative_start=measured.relative,
            cost=cost,
            anchor=self.task.anchor,
            weight=self.task.weight,
            method=type(method).__name__,
            held=0 if self.task.hold is None else int(self.task.hold.sum()),
        )

    def _batches(self) -> Iterator[tuple[Batch, Condition, Array, Array]]:
        """Latents, conditions, keys and signs of the noise, in batches of one size."""
        count = len(self.start)
        number = math.ceil(count / self.batch_size)
        size = math.ceil(count / number)
        keys = sample_keys(self.key, count, 1)
        signs = jnp.ones(count, self.start.dtype)
        if self.antithetic:
            half = count // 2
            keys, signs = jnp.concatenate([keys[:half]] * 2), signs.at[half:].set(-1.0)
        for i in range(number):
            # The last batch is filled up with its last sample, and cut in `_joined`.
            rows = np.minimum(np.arange(i * size, (i + 1) * size), count - 1)
            take = lambda leaf, rows=rows: leaf[rows]
            yield jax.tree.map(take, (self.start, self.condition, keys, signs))

    def _joined(self, parts: list[Any]) -> Any:
        count = len(self.start)
        return jax.tree.map(lambda *all: np.concatenate(all)[:count], *parts)


@eqx.filter_jit
def _measure(problem: Problem, latents: Batch, condition: Condition) -> Any:
    constraint = problem.constraint

    def one(latent, condition):
        x = problem.sample(latent, condition)
        fields = problem.restore(x)
        finite = jnp.isfinite(fields).all() & jnp.isfinite(x).all()
        if constraint is None:
            return fields, finite, None, None, jnp.asarray(jnp.nan)
        mixed = problem.overwrite(fields, fields)
        square = jnp.sum(jnp.square(constraint.relative_of(mixed)))
        scale, cost = constraint.scale_of(mixed), constraint.cost_of(mixed)
        return fields, finite, square, scale, jnp.sqrt(cost)

    return jax.vmap(one)(latents, condition)


@eqx.filter_jit
def _solve(
    method: AbstractMethod,
    problem: Problem,
    anchor: str | None,
    latents: Batch,
    condition: Condition,
    keys: Key,
    signs: Array,
) -> Any:
    observation, constraint = problem.observation, problem.constraint

    def one(latent, condition, key, sign):
        values = None
        if observation is not None:
            values = observation.values
            if anchor == "draw":
                values = observation.perturb(key=key, sign=sign).values
        centre = jnp.zeros_like(latent) if anchor == "norm" else latent
        own = None
        if problem.hold is not None:
            own = problem.restore(problem.sample(latent, condition))
        case = Case(latent, own, centre, values, condition)
        outcome = drive(method, problem, latent, case)
        fields = problem.overwrite(problem.restore(outcome.best.x), own)
        if constraint is None:
            return outcome, fields, jnp.asarray(jnp.nan)
        return outcome, fields, jnp.sqrt(constraint.cost_of(fields))

    return jax.vmap(one)(latents, condition, keys, signs)


def _spread(fields: np.ndarray) -> np.ndarray:
    """The standard deviation of each channel; 1 where it has none."""
    std = fields.reshape(-1, fields.shape[-1]).std(axis=0, dtype=np.float64)
    return np.where(std > 0, std, 1.0)


def _report(failed: np.ndarray) -> None:
    if failed.any():
        warnings.warn(
            f"the solver broke down in {failed.sum()} of {failed.size} samples (the "
            f"first is sample {failed.argmax()}): an entry was not finite, or no step "
            "made the objective smaller. They are returned as the best point before, "
            "never worse than their start; `failed` says which. Allow more slack, or "
            "take another solver.",
            stacklevel=4,
        )
