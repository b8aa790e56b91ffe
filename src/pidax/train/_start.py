"""Before the first compilation: the loss looked at abstractly, and the first state."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import nn
from ..distill import AbstractObjective
from ..process import AbstractProcess
from ..types import Key
from ._data import AbstractSource
from ._parallel import Place
from ._state import TrainState, average_of, own_copy
from ._step import RESERVED, Recipe, split_objective

_FIXED = (nn.AbstractFeatures, AbstractProcess)  # what holds arrays but no weights
_DISPATCH_BYTES = 2**26


def check_loss(
    model: PyTree,
    objective: AbstractObjective,
    own: PyTree,
    source: AbstractSource,
    trainable: PyTree,
) -> bool:
    """Trace the loss of one sample, and see that it is one; whether it convolves."""
    if not jax.tree.leaves(eqx.filter(model, trainable)):
        raise ValueError(
            "the model must have floating-point arrays to train, got none. Check the "
            "model and `trainable`."
        )

    def one(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape[1:], dtype)

    sample = jax.tree.map(one, source.example())
    key = jax.random.key(0)
    arrays, static = eqx.partition((model, objective, own), eqx.is_array)

    def loss(arrays, sample):
        model, objective, own = eqx.combine(arrays, static)
        return objective.loss(model, own, sample, jnp.zeros(()), key=key)

    jaxpr, shapes = jax.make_jaxpr(loss, return_shape=True)(arrays, sample)
    value, (_, terms) = shapes
    name = type(objective).__name__
    several = objective.combination is not None
    if value.ndim != several or value.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"the loss of {name} must be {'a vector of' if several else 'one'} float32 "
            f"or float64 number{'s' if several else ''}, got "
            f"{value.dtype}{list(value.shape)}. Average over the components, and "
            "convert the network's output with .astype(jnp.float32) first."
        )
    wrong = {n: t for n, t in terms.items() if t.shape != ()}
    if wrong or RESERVED & set(terms):
        raise ValueError(
            f"the terms of {name} must be single numbers, under none of the names "
            f"{sorted(RESERVED)} which are the engine's; got {terms}."
        )
    return _convolves(jaxpr.jaxpr)


def as_jax(model: PyTree) -> PyTree:
    """The model with its NumPy arrays and numbers as JAX's."""
    one = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray | np.generic) else x
    return jax.tree.map(one, model)


def trainable_or_default(model: PyTree, trainable: PyTree) -> PyTree:
    """What to train: as asked, or all that `nn.trainable` and a process leave."""
    return nn.trainable(as_jax(model), _FIXED) if trainable is None else trainable


def dispatch_length(source: AbstractSource, slow: bool) -> int:
    """Steps in a dispatch: few enough that their samples take little memory."""
    if slow:
        return 1
    leaves = jax.tree.leaves(source.example())
    size = source.batch_size * sum(x[:1].nbytes for x in leaves)
    return max(1, min(16, _DISPATCH_BYTES // max(size, 1)))


def loops_are_slow(place: Place) -> bool:
    """Whether convolutions inside a compiled loop are slow here.

    On XLA's CPU backend they are, by far (seen with jax 0.10): there a loop is
    unrolled, or left to Python.
    """
    return place.devices[0].platform == "cpu"


def _convolves(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inside = jax.tree.leaves(list(equation.params.values()))  # of jit, scan, ...
        inner = [getattr(value, "jaxpr", value) for value in inside]
        if any(_convolves(jaxpr) for jaxpr in inner if hasattr(jaxpr, "eqns")):
            return True
    return False


def first_state(
    model: PyTree,
    own: PyTree,
    objective: AbstractObjective,
    recipe: Recipe,
    *,
    key: Key,
) -> TrainState:
    """The state of step 0, in memory of its own."""
    weights = eqx.filter(model, recipe.trainable)
    helpers, _ = split_objective(objective, own)
    state = TrainState(
        model=eqx.filter(model, eqx.is_array),
        objective=eqx.filter(own, eqx.is_array),
        optimiser=recipe.optimiser.init((weights, helpers)),
        averages=tuple(average_of(weights) for _ in recipe.decays),
        step=jnp.zeros((), jnp.int32),
        failure=jnp.zeros((), jnp.int32),
        key=key,
    )
    return own_copy(state)
