"""What training returns."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from ._state import TrainState


class NonFiniteError(RuntimeError):
    """Training met a NaN or an infinity, and stopped before it could spread.

    `step` is the step that failed (as many were completed before it), `term` what was
    not finite, `checkpoint` the last good one, `result` the run as it was before.
    """

    def __init__(
        self,
        step: int,
        term: str,
        checkpoint: Path | None,
        result: "Result",
        *,
        intact: bool = True,
    ):
        self.step, self.term, self.checkpoint = step, term, checkpoint
        self.result = result
        where = f"is {checkpoint}" if checkpoint else "does not exist"
        weights = "still those before that step" if intact else "not to be used"
        super().__init__(
            f"expected finite numbers, got {term} at step {step}. The weights are "
            f"{weights} (in .result of this error); the last good checkpoint {where}. "
            "Lower the learning rate, warm it up, or clip the gradient (clip=1.0), and "
            "start in another directory, perhaps from px.restore(directory, model); or "
            "look at the loss of that step's samples."
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """A trained model, its averages, and how it came about.

    **Fields:**

    - `model`: the model with the weights of the last step.
    - `step`: the number of steps taken; `finished` says whether those were all.
    - `history`: each reported term as an array, by name, beside `history["step"]`.
    - `state`: the whole `TrainState`, the optimiser's and the objective's included.
    - `checkpoint`: the file that holds it, if there is one.
    """

    model: PyTree
    step: int
    finished: bool
    history: dict[str, np.ndarray]
    state: TrainState
    decays: tuple[float, ...]
    checkpoint: Path | None

    def ema(self, decay: float | None = None) -> PyTree:
        """The model with averaged weights: the average of this decay, or the only one.

        Which average samples best is found by sampling; the longest is not always it.
        """
        if decay is None and len(self.decays) == 1:
            decay = self.decays[0]
        if decay not in self.decays:
            raise ValueError(
                f"decay must be one of those that were averaged, {list(self.decays)}, "
                f"got {decay}. Ask fit for others with ema=(...)."
            )
        mean = self.state.averages[self.decays.index(decay)]
        return with_weights(self.model, mean)


def with_weights(model: PyTree, weights: PyTree) -> PyTree:
    """`model` with these trained arrays, in its own dtypes."""
    import jax

    ours = lambda w, m: m if w is None else w.astype(m.dtype)
    return jax.tree.map(ours, weights, model, is_leaf=lambda leaf: leaf is None)
