r"""A sum of objectives: $L = \sum_k w_k L_k$, each with a state of its own."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from .._checks import require
from ..types import Key, Scalar
from ._base import AbstractObjective, State, Terms, Update
from ._distilled import Draw
from ._schedules import Weight, check_weight, weight_at


class Sum(AbstractObjective):
    r"""Several objectives at once, such as few solved pairs beside a residual.

        Sum([(PID(flow), 1.0), (KnowledgeDistillation(flow, pairs=2000), 1.0)])

    Weights are numbers or functions of the progress (`Ramp`). A sample costs what all
    of them cost. Terms that two of them report are those of the first. At most one may
    refresh its state between steps.
    """

    objectives: tuple[AbstractObjective, ...]
    weights: tuple[Weight, ...]

    def __init__(self, parts: Sequence[tuple[AbstractObjective, Weight]]):
        self.objectives = tuple(objective for objective, _ in parts)
        self.weights = tuple(
            float(weight) if isinstance(weight, int) else weight for _, weight in parts
        )

    def __check_init__(self):
        require(None, bool(self.objectives), "a sum needs at least one objective.")
        for weight in self.weights:
            check_weight(weight)
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

        kinds = [(o.classes, o.condition is not None) for o in self._drawing]
        require(
            None,
            len(set(kinds)) < 2,
            "objectives of a sum teach one model: expected the same classes in all of "
            "them, or condition= in all, got (classes, condition given) = "
            f"{', '.join(map(str, kinds))}. Pass the same to each.",
        )

    @property
    def classes(self) -> int | None:
        """Of the objectives that draw conditions: they all have the same."""
        return next((o.classes for o in self._drawing), None)

    @property
    def condition(self) -> Draw | None:
        """How the first objective that draws conditions does."""
        return next((o.condition for o in self._drawing), None)

    @property
    def _drawing(self) -> list[Any]:
        return [o for o in self.objectives if hasattr(o, "classes")]

    def check(self, model: PyTree, data: PyTree) -> None:
        for objective in self.objectives:
            objective.check(model, data)

    def init(self, model: PyTree, *, key: Key) -> State:
        keys = jax.random.split(key, len(self.objectives))
        pairs = zip(self.objectives, keys, strict=True)
        return tuple(objective.init(model, key=key) for objective, key in pairs)

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        keys = jax.random.split(key, len(self.objectives))
        total, updates, terms = 0.0, [], {}
        for objective, weight, own, key in zip(
            self.objectives, self.weights, state, keys, strict=True
        ):
            loss, (update, said) = objective.loss(model, own, sample, progress, key=key)
            total = total + weight_at(weight, progress).astype(loss.dtype) * loss
            updates.append(update)
            terms = {**said, **terms}
        return total, (tuple(updates), terms)  # type: ignore[return-value]

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
