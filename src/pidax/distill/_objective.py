r"""The contract between an objective and the training engine.

An objective is a loss for *one* sample. The engine (`pidax.train`) batches it,
differentiates it, averages it over micro-batches and devices, and owns the optimiser,
the weight averages and the random numbers. The objective knows none of these.

    state  = objective.init(model, key=key)
    each step, over the samples of the global batch:
        loss_i, (update_i, terms_i) = objective.loss(model, state, sample_i, progress,
                                                     key=key_i)
        model, trainable(state)  <-  optimiser( gradient of mean_i loss_i )
        state  = objective.advance(model, state, mean_i update_i)
    each `refresh_every` steps:
        state  = objective.refresh(model, state, key=key)

An objective's fields (a teacher, a process, times) are arguments of the compiled step
and are not checkpointed; its state (running losses, solved pairs, a slow copy of the
model, an auxiliary network) is replicated on every device and checkpointed.
"""

import abc
from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
from jaxtyping import PyTree

from .. import nn
from ..process import AbstractProcess
from ..types import Elementwise, Key, Scalar

if TYPE_CHECKING:
    from ._combine import AbstractCombination

FIXED = (nn.AbstractFeatures, AbstractProcess)  # what holds arrays but no weights
State: TypeAlias = PyTree[Any]
Update: TypeAlias = PyTree[Any]
Terms: TypeAlias = dict[str, Scalar]


class AbstractObjective(eqx.Module):
    """A loss for one sample, with an optional state.

    A subclass implements `check` and `loss`, and the other methods if it has a state.
    """

    @abc.abstractmethod
    def check(self, model: PyTree, data: PyTree) -> None:
        """Raise `ValueError` if model and data do not fit, before anything compiles.

        `data` holds arrays of samples, with the sample as the first axis: all samples
        or, if they come from an iterator, the first batch. None without data.
        """

    @abc.abstractmethod
    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Elementwise, tuple[Update, Terms]]:
        """The loss of one sample, and `(update, terms)`.

        **Arguments:**

        - `model`: the trained model.
        - `state`: this objective's state; differentiated in `trainable(state)`.
        - `sample`: one element of the data; None for an objective without data.
        - `progress`: the share of the run that is done, from 0 to 1.
        - `key`: this sample's key, the same for any number of devices.

        **Returns:** a float32 (or float64) scalar, or a vector of several losses for an
        objective that combines their gradients; an `update` for `advance`, any pytree
        of arrays, averaged over the global batch; and named `terms` to report, averaged
        likewise.
        """

    def init(self, model: PyTree, *, key: Key) -> State:
        """The state at the start: any pytree. There is no other state."""
        return ()

    def trainable(self, state: State) -> PyTree:
        """The part of `state` that the optimiser trains in addition to the model.

        Its gradient is of the same scalar. An auxiliary network with its own loss adds
        this loss, with `jax.lax.stop_gradient` where both must not interact. `()` if
        there is none.
        """
        return ()

    def advance(self, model: PyTree, state: State, update: Update) -> State:
        """The state after a step: the new model, and the mean update of the batch."""
        return state

    @property
    def combination(self) -> "AbstractCombination | None":
        """The method that combines gradients of several losses; None for a single
        loss.
        """
        return None

    @property
    def refresh_every(self) -> int | None:
        """Steps between calls of `refresh`; None for never."""
        return None

    def refresh(self, model: PyTree, state: State, *, key: Key) -> State:
        """The state renewed between steps, for work that cannot be part of a step."""
        return state
