r"""Several losses as one: their weighted sum, or a step along which all of them fall.

The largest loss dominates $L = \sum_k w_k L_k$. If two gradients point against each
other, a step that lowers one loss raises the other. A combination of the gradients can
choose a direction along which all losses fall.
"""

import abc
from collections.abc import Callable, Sequence
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import require
from ..flow import ProbabilityFlow
from ..types import Elementwise, Key, Sample, Scalar
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_distillation,
    check_same_flow,
)
from ._objective import State, Terms, Update

Weight: TypeAlias = float | int | Scalar | Callable[[Scalar], Scalar]


class AbstractCombination(eqx.Module):
    """One gradient made of several."""

    @abc.abstractmethod
    def __call__(self, gradients: PyTree) -> PyTree:
        """The step's gradient; each leaf of `gradients` has the loss as first axis."""


class Ramp(eqx.Module):
    """From zero to `weight`, linearly, between the shares `start` and `end` of a run.

    The model then learns the distribution of the samples first, and their residual
    afterwards.
    """

    weight: Scalar
    start: Scalar
    end: Scalar

    def __init__(self, weight: float, start: float = 0.0, end: float = 0.5):
        require(
            None,
            0 <= start < end <= 1,
            "a ramp begins and ends at shares of the run, 0 <= start < end <= 1, got "
            f"start={start}, end={end}.",
        )
        self.weight = _number(weight)
        self.start, self.end = jnp.asarray(start, float), jnp.asarray(end, float)

    def __call__(self, progress: Scalar) -> Scalar:
        progress = jnp.asarray(progress, float)
        weight, start, end = (
            x.astype(progress.dtype) for x in (self.weight, self.start, self.end)
        )
        return weight * jnp.clip((progress - start) / (end - start), 0.0, 1.0)


class Sum(AbstractDistillation):
    """Several distillations at once, such as few solved pairs with a residual.

        Sum([(PID(flow), 1.0), (KnowledgeDistillation(flow, pairs=2000), 1.0)])

    Weights are numbers or functions of the progress (`Ramp`); sums that differ in
    numbers alone share a compiled step. Costs add. If two report
    a term of the same name, the first one's is kept. At most one may refresh its state
    between steps.
    """

    objectives: tuple[AbstractDistillation, ...]
    weights: tuple[Scalar | Callable[[Scalar], Scalar], ...]

    def __init__(self, parts: Sequence[tuple[AbstractDistillation, Weight]]):
        self.objectives = tuple(objective for objective, _ in parts)
        self.weights = tuple(as_weight(weight) for _, weight in parts)

    def __check_init__(self):
        require(
            None,
            bool(self.objectives),
            "a sum needs at least one objective, got none. Pass pairs of an objective "
            "and its weight.",
        )
        for objective in self.objectives:
            check_distillation(objective)
        periods = [o.refresh_every for o in self.objectives if o.refresh_every]
        require(
            None,
            len(periods) < 2,
            f"at most one objective of a sum may refresh its state, got periods of "
            f"{periods} steps. Leave refresh_every out of the others.",
        )
        for objective in self.objectives:
            require(
                None,
                objective.combination is None,
                f"{type(objective).__name__} combines the gradients of several losses: "
                "expected objectives of one loss in a sum. Give the sum to it instead.",
            )
            check_same_flow(self.flow, objective)
        kinds = [(o.classes, o.condition is not None) for o in self.objectives]
        require(
            None,
            len(set(kinds)) < 2,
            "objectives of a sum teach one model: expected the same classes in all of "
            "them, or condition= in all, got (classes, condition given) = "
            f"{', '.join(map(str, kinds))}. Pass the same to each.",
        )

    @property
    def flow(self) -> ProbabilityFlow:  # type: ignore[override]
        return self.objectives[0].flow

    @property
    def classes(self) -> int | None:  # type: ignore[override]
        return self.objectives[0].classes

    @property
    def condition(self) -> Draw | None:  # type: ignore[override]
        return self.objectives[0].condition

    def check(self, model: PyTree, data: PyTree) -> None:
        for objective in self.objectives:
            objective.check(model, data)

    def init(self, model: PyTree, *, key: Key) -> State:
        keys = jax.random.split(key, len(self.objectives))
        pairs = zip(self.objectives, keys, strict=True)
        return tuple(objective.init(model, key=key) for objective, key in pairs)

    def answer(
        self, model: PyTree, state: State, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, Sample | None, tuple[Update, Terms]]:
        keys = jax.random.split(key, len(self.objectives))
        losses, samples, updates, terms = [], [], [], {}
        for objective, weight, own, key in zip(
            self.objectives, self.weights, state, keys, strict=True
        ):
            loss, x, (update, said) = objective.answer(model, own, progress, key=key)
            losses.append(weight_at(weight, progress).astype(loss.dtype) * loss)
            samples += [] if x is None else [x]
            updates.append(update)
            terms = {**said, **terms}
        total = sum(losses[1:], losses[0])
        return total, samples[0] if samples else None, (tuple(updates), terms)

    def trainable(self, state: State) -> PyTree:
        pairs = zip(self.objectives, state, strict=True)
        return tuple(objective.trainable(own) for objective, own in pairs)

    def advance(self, model: PyTree, state: State, update: Update) -> State:
        triples = zip(self.objectives, state, update, strict=True)
        return tuple(o.advance(model, own, new) for o, own, new in triples)

    @property
    def refresh_every(self) -> int | None:
        periods = [o.refresh_every for o in self.objectives if o.refresh_every]
        return periods[0] if periods else None

    def refresh(self, model: PyTree, state: State, *, key: Key) -> State:
        pairs = zip(self.objectives, state, strict=True)
        return tuple(
            o.refresh(model, own, key=key) if o.refresh_every else own
            for o, own in pairs
        )


class ConFIG(AbstractCombination):
    r"""The direction that has the same angle with every gradient: conflict-free.

    With unit gradients $\hat g_i$ and their Gram matrix $G$,

    $$ v = \sum_i w_i \hat g_i, \quad G w = 1, \qquad
       g = \Bigl(\sum_i g_i \cdot \hat v\Bigr) \hat v. $$

    Liu, Chu & Thuerey 2025, "ConFIG: towards conflict-free training of physics informed
    neural networks". Weights of the losses change the length of the step, not its
    direction. Costs one backward pass for each loss. If gradients are exactly opposed
    no direction lowers both, and the step is zero.
    """

    def __call__(self, gradients: PyTree) -> PyTree:
        dtype = jnp.result_type(float)
        flat = [g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)]
        gram = sum(jnp.asarray(g @ g.T, dtype) for g in flat)
        norms = jnp.sqrt(jnp.diagonal(gram))
        inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1.0), 0.0)
        cosines = gram * jnp.outer(inverse, inverse)
        # A loss without gradient gets the row of the identity.
        silent = (norms == 0).astype(dtype)
        asked = 1 - silent
        w = _solve(cosines + jnp.diag(silent), asked)
        w = w * inverse  # now the weights of the gradients themselves
        length = jnp.sqrt(jnp.maximum(w @ gram @ w, 0.0))
        along = (gram @ w).sum()  # sum_i g_i . v
        opposed = length <= 1e-6 * jnp.abs(w * norms).max()
        factor = jnp.where(opposed, 0.0, along / jnp.where(opposed, 1.0, length) ** 2)
        weights = factor * w
        one = lambda g: jnp.tensordot(weights.astype(g.dtype), g, axes=1)
        return jax.tree.map(one, gradients)


def as_weight(weight: Weight) -> Scalar | Callable[[Scalar], Scalar]:
    """A number as an array, an argument of the compiled step; a function as it is."""
    return weight if callable(weight) else _number(weight)


def _number(weight: float | int | Scalar) -> Scalar:
    """Check that a weight is not negative and finite."""
    require(
        None,
        (weight >= 0) & (weight < float("inf")),
        f"weight must be finite and not negative, got weight={weight}, or a "
        "function of the progress from 0 to 1, such as Ramp(0.1).",
    )
    return jnp.asarray(weight, float)


def weight_at(weight: Weight, progress: Scalar) -> Scalar:
    """The weight at this share of the run."""
    value = weight(progress) if callable(weight) else weight
    return jnp.asarray(value, progress.dtype)


def _solve(matrix: Array, right: Array) -> Array:
    """By least squares, because parallel gradients make the matrix singular."""
    values, vectors = jnp.linalg.eigh(matrix)
    kept = values > 1e-5 * values.max()
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ right))
