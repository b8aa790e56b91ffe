r"""The state of a run, and its result.

The whole state is checkpointed, and nothing else.

The weights' exponential moving averages follow
$\bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta - \bar\theta)$. A fixed decay $d$
remembers the untrained start for several $1/(1-d)$ steps; with a ramp the half-life
grows with the run, $d_t = 2^{-1/\min(h,\, r t)}$ with $h = -1/\log_2 d$ (Karras et
al. 2022 use $r = 0.05$), so that the average of a short run is useful.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .._table import screen
from ..types import Key, Scalar

M = TypeVar("M")


class TrainState(eqx.Module):
    """Weights, optimiser, averages, the objective's state, step and key: arrays only.

    `model` and `objective` are the array parts of the model and of the objective's
    state, `averages` the averages of the trained weights, one for each decay. `failure`
    is 0, or names what was not finite at `step`, at which everything else has stopped.
    """

    model: PyTree
    objective: PyTree
    optimiser: PyTree
    averages: tuple[PyTree, ...]
    step: Int[Array, ""]
    failure: Int[Array, ""]
    key: Key


class NonFiniteError(RuntimeError):
    """A NaN or an infinity in training, which has stopped before it changed the
    weights.

    `step` is the step that failed (as many were completed before it), `term` the value
    that was not finite, `checkpoint` the last intact checkpoint, `result` the run
    before the failure.
    """

    def __init__(
        self,
        step: int,
        term: str,
        checkpoint: Path | None,
        result: "Result[Any]",
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


@dataclasses.dataclass(frozen=True, repr=False)
class Result(Generic[M]):
    """A trained model, its averages, and how it came about.

    **Fields:**

    - `model`: the model with the weights of the last step.
    - `step`: the number of steps taken; `finished` says whether those were all.
    - `history`: each reported term as an array, by name, beside `history["step"]`.
    - `state`: the whole `TrainState`, the optimiser's and the objective's included.
    - `checkpoint`: the file that holds it, if there is one.
    """

    model: M
    step: int
    finished: bool
    history: dict[str, np.ndarray]
    state: TrainState
    decays: tuple[float, ...]
    checkpoint: Path | None
    steps: int
    seconds: float
    configuration: str

    def __repr__(self) -> str:
        done = "finished" if self.finished else "stopped"
        of = "" if self.finished else f" of {self.steps:,}"
        lines: dict[str, Any] = {}
        for name in ("loss", "validation_loss"):
            if name in self.history:
                lines[name] = _first_and_last(self.history, name)
        kept = ", ".join(map(str, self.decays)) or "none"
        lines["model"] = f"{type(self.model).__name__}, averages: {kept}"
        lines["configuration"] = self.configuration
        lines["saved"] = self.checkpoint or "no: pass directory= to fit"
        title = f"{done}: {self.step:,}{of} steps in {self.seconds:.3g} s"
        return screen(title, **lines)

    def ema(self, decay: float | None = None) -> M:
        """The model with averaged weights: the average of this decay, or the only one.

        To find the best average, sample with each. The longest is not always the best.
        """
        if decay is None and len(self.decays) == 1:
            decay = self.decays[0]
        if decay not in self.decays:
            raise ValueError(
                f"decay must be one of those that were averaged, {list(self.decays)}, "
                f"got {decay}. Ask fit for others with ema=(...)."
            )
        mean = self.state.averages[self.decays.index(decay)]
        ours = lambda w, m: m if w is None else w.astype(m.dtype)
        return jax.tree.map(ours, mean, self.model, is_leaf=lambda leaf: leaf is None)


def _first_and_last(history: dict[str, np.ndarray], name: str) -> str:
    """The first and the last mean of a term, and at which steps they are."""
    some = np.flatnonzero(np.isfinite(history[name]))
    if not some.size:
        return "no finite value"
    said = [
        f"{history[name][i]:.4g} at step {int(history['step'][i]):,}"
        for i in dict.fromkeys((some[0], some[-1]))
    ]
    return ", ".join(said)


class Numbers(eqx.Module):
    """The numbers of a run that are arguments of its compiled step.

    An average of decay $d$ moves by `rates`, $1 - d$, and with a `ramp` by at least the
    rate for a half-life of $r t$ steps. `learning` are the rates of the optimiser.
    """

    steps: Scalar
    clip: Scalar | None
    rates: Float[Array, " average"]
    half_lives: Float[Array, " average"]
    ramp: Scalar | None
    learning: tuple[Scalar, ...] = ()

    @classmethod
    def of(
        cls,
        steps: int,
        clip: float | None,
        decays: Sequence[float],
        ramp: float | None,
        learning: tuple[Scalar, ...] = (),
    ) -> "Numbers":
        dtype = jnp.zeros(()).dtype
        number = lambda x: None if x is None else jnp.array(x, dtype)
        half_lives = [-1 / math.log2(d) if d else 0.0 for d in decays]
        return cls(
            jnp.array(steps, dtype),
            number(clip),
            jnp.array([1 - d for d in decays], dtype),
            jnp.array(half_lives, dtype),
            number(ramp),
            learning,
        )

    def rate(self, i: int, step: Int[Array, ""]) -> Scalar:
        """One minus the decay of average `i` at this step, counted from 0."""
        if self.ramp is None:
            return self.rates[i]
        now = jnp.minimum(self.half_lives[i], self.ramp * step.astype(self.ramp.dtype))
        return -jnp.expm1(-math.log(2) / jnp.maximum(now, 1e-3))


def averaged(averages: PyTree, weights: PyTree, rate: Scalar) -> PyTree:
    """One step of an average towards the weights, in the average's dtype."""

    def one(mean: Array, weight: Array) -> Array:
        return mean + rate.astype(mean.dtype) * (weight.astype(mean.dtype) - mean)

    return jax.tree.map(one, averages, weights)


def average_of(weights: PyTree) -> PyTree:
    """The start of an average: the weights, in at least float32."""

    def one(weight: Array) -> Array:
        dtype = weight.dtype if weight.dtype.itemsize >= 4 else jnp.float32
        return jnp.array(weight, dtype, copy=True)

    return jax.tree.map(one, weights)


def is_key(leaf: Array) -> bool:
    """Whether an array holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def own_copy(tree: PyTree) -> PyTree:
    """The same arrays in their own memory, because the run donates its buffers.

    Never weakly typed: a checkpoint would not store that, and a resumed run would be
    another program.
    """

    def one(leaf: Array) -> Array:
        if is_key(leaf):
            return jax.random.clone(leaf)
        # Coordinates of fields are NumPy's float64: use the session's precision.
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jnp.array(leaf, dtype, copy=True)

    return jax.tree.map(lambda a: one(a) if eqx.is_array(a) else a, tree)


def gathered(tree: PyTree) -> PyTree:
    """The arrays as a copy on one device, committed to none."""

    def one(leaf: Array) -> Array:
        if is_key(leaf):
            impl = jax.random.key_impl(leaf)
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.array(data), impl=impl)
        return jnp.array(np.asarray(leaf), leaf.dtype)

    return jax.tree.map(one, tree)
