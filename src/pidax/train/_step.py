r"""One step of training, and several of them in one dispatch to the devices.

    key of step s:      k_s = fold_in(key, s)
    of its sample i:    fold_in(k_s, i),   i = 0 .. batch_size - 1 over the whole batch

A sample therefore gets the same noise on any number of devices and processes and in any
number of micro-batches. Sums over samples are divided by the size of the whole batch
once.

If a loss or gradient is not finite, the state does not change, at this step and at
every later one. The host reads the flag later; no step waits for it.
"""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from ..distill import AbstractCombination, AbstractObjective
from ..types import Elementwise, Key, Scalar
from ._programs import closed
from ._state import Numbers, TrainState, averaged

if TYPE_CHECKING:
    import optax

Record = dict[str, Array]
# Failure codes: the update, the loss, or 2 + i for the i-th leaf of the gradient.
UPDATE_FAILED, LOSS_FAILED = -1, 1
RESERVED = {"step", "steps_per_second", "loss", "gradient_norm"}
RESERVED |= {"failure", "interrupt", "agree"}


class Recipe(NamedTuple):
    """The parts of the compiled step that are not its arguments.

    `model`, `state` and `objective` are the parts of the model, of the objective's
    state and of the objective that are not arrays, `trainable` a filter specification
    of the model, `optimiser` the optimiser without its rates, `loss` the compiled loss
    of one sample.
    """

    model: PyTree
    state: PyTree
    objective: PyTree
    trainable: PyTree
    optimiser: "optax.GradientTransformation"
    loss: Callable[..., Any]
    batch_size: int
    accumulate: int
    per_dispatch: int
    unroll: bool


def sample_loss(model: PyTree, objective: PyTree, state: PyTree) -> Callable[..., Any]:
    """The loss of one sample, a function of the arrays of the three.

    It is compiled by itself, so that Python runs the objective once: for the check
    before the run, and for every place in the step that calls or differentiates it.
    """

    def loss(arrays: PyTree, sample: PyTree, progress: Scalar, key: Key) -> PyTree:
        static = model, objective, state
        whole = eqx.combine(arrays, static)
        return whole[1].loss(whole[0], whole[2], sample, progress, key=key)

    return jax.jit(loss, inline=True)


def split_objective(objective: AbstractObjective, state: PyTree) -> tuple:
    """The trained arrays of an objective's state, and a function to put them back."""
    arrays, rest = eqx.partition(objective.trainable(state), eqx.is_inexact_array)
    # By its leaves: a sum's part is a tuple of parts, and no node of the state.
    where = lambda state: jax.tree.leaves(objective.trainable(state))

    def put(arrays: PyTree) -> PyTree:
        if not jax.tree.leaves(arrays):
            return state
        return eqx.tree_at(where, state, jax.tree.leaves(eqx.combine(arrays, rest)))

    return arrays, put


def dispatch(recipe: Recipe, devices: int, axis: Hashable | None) -> Callable[..., Any]:
    """The compiled function: up to `per_dispatch` steps in one call.

    `run(state, objective, numbers, samples, first, count, asked)` takes samples of
    shape `(per_dispatch, samples on this device, ...)`, the index of the first of them
    in the whole batch, the number of steps, and whether this process was asked to stop.
    It returns the state and a record of each step.
    """
    here = recipe.batch_size // devices

    def run(
        state: TrainState,
        objective: AbstractObjective,
        numbers: Numbers,
        samples: PyTree,
        first: Int[Array, ""],
        count: Int[Array, ""],
        asked: Bool[Array, ""],
    ) -> tuple[TrainState, Record]:
        indices = first + jnp.arange(here, dtype=jnp.int32)

        def one(state: TrainState, samples: PyTree) -> tuple[TrainState, Record]:
            return train_step(recipe, axis, state, objective, numbers, samples, indices)

        if recipe.per_dispatch == 1:
            state, record = one(state, jax.tree.map(lambda a: a[0], samples))
            record = jax.tree.map(lambda a: a[None], record)
        else:
            first = jax.tree.map(lambda a: a[0], samples)
            shapes = eqx.filter_eval_shape(one, state, first)[1]
            blank = jax.tree.map(
                lambda s: jnp.zeros((recipe.per_dispatch, *s.shape), s.dtype), shapes
            )

            def body(i: Int[Array, ""], carry: PyTree) -> PyTree:
                state, record = carry
                state, new = one(state, jax.tree.map(lambda a: a[i], samples))
                return state, jax.tree.map(lambda r, n: r.at[i].set(n), record, new)

            state, record = jax.lax.fori_loop(0, count, body, (state, blank))
        record = {**record, "interrupt": asked}
        if axis is not None:
            record["interrupt"] = jax.lax.pmax(asked, axis)
            mark = fingerprint((state.model, state.objective))
            agree = jax.lax.pmax(mark, axis) == jax.lax.pmin(mark, axis)
            record["agree"] = agree
        return state, record

    return run


def train_step(
    recipe: Recipe,
    axis: Hashable | None,
    state: TrainState,
    objective: AbstractObjective,
    numbers: Numbers,
    samples: PyTree,
    indices: Int[Array, " sample"],
) -> tuple[TrainState, Record]:
    """Gradient, optimiser, averages, the objective's own state."""
    model = eqx.combine(state.model, recipe.model)
    own = eqx.combine(state.objective, recipe.state)
    weights, frozen = eqx.partition(model, recipe.trainable)
    helpers, put = split_objective(objective, own)
    step_key = jax.random.fold_in(state.key, state.step)
    progress = state.step.astype(numbers.steps.dtype) / numbers.steps

    def total(
        trained: PyTree, samples: PyTree, indices: Int[Array, " sample"]
    ) -> tuple[Elementwise, PyTree]:
        whole = eqx.combine(trained[0], frozen), objective, put(trained[1])
        arrays = eqx.filter(whole, eqx.is_array)

        def one(sample: PyTree, index: Int[Array, ""]) -> PyTree:
            key = jax.random.fold_in(step_key, index)
            return recipe.loss(arrays, sample, progress, key)

        loss, aux = jax.vmap(one)(samples, indices)
        return loss.sum(axis=0), jax.tree.map(lambda a: a.sum(axis=0), aux)

    trained = (weights, helpers)
    combination = objective.combination
    means = _means(recipe, axis, combination, total, trained, samples, indices)
    (loss, (update, terms)), gradient = means
    gradient, norm, failure = _inspect(numbers.clip, loss, gradient)
    floats = jax.tree.leaves(eqx.filter(update, eqx.is_inexact_array))
    for leaf in floats:  # it would live on in the objective's state
        bad = (failure == 0) & ~jnp.isfinite(leaf).all()
        failure = jnp.where(bad, UPDATE_FAILED, failure).astype(jnp.int32)
    # Optax computes by JAX's standard promotion; a user's session may be strict.
    with jax.numpy_dtype_promotion("standard"):
        whole = closed(recipe.optimiser, numbers.learning)
        steps, optimiser = whole.update(gradient, state.optimiser, trained)
    weights, helpers = jax.tree.map(lambda w, s: w + s.astype(w.dtype), trained, steps)
    own = put(helpers)
    new_model = eqx.combine(weights, frozen)
    own = objective.advance(new_model, own, update)
    new = TrainState(
        model=eqx.filter(new_model, eqx.is_array),
        objective=eqx.filter(own, eqx.is_array),
        optimiser=optimiser,
        averages=tuple(
            averaged(mean, weights, numbers.rate(i, state.step))
            for i, mean in enumerate(state.averages)
        ),
        step=state.step + 1,
        failure=state.failure,
        key=state.key,
    )
    failure = jnp.where(state.failure == 0, failure, state.failure)
    new = _unless(failure != 0, new, state)
    new = eqx.tree_at(lambda s: s.failure, new, failure)
    return new, {**terms, "loss": loss, "gradient_norm": norm, "failure": failure}


def add_up(tree: PyTree, axis: Hashable) -> PyTree:
    """The sum over all devices, of all arrays of one dtype at once.

    One message instead of one for each of a hundred arrays: between processes on the
    CPU each takes about a millisecond.
    """
    leaves, shape = jax.tree.flatten(tree)
    sums: list[Any] = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        mine = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        ends = np.cumsum([leaves[i].size for i in mine])[:-1]
        flat = jnp.concatenate([leaves[i].ravel() for i in mine])
        parts = jnp.split(jax.lax.psum(flat, axis), ends)
        for i, part in zip(mine, parts, strict=True):
            sums[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(shape, sums)


def _means(
    recipe: Recipe,
    axis: Hashable | None,
    combination: AbstractCombination | None,
    total: Callable[..., Any],
    trained: PyTree,
    samples: PyTree,
    indices: Int[Array, " sample"],
) -> tuple[Any, PyTree]:
    """The means over the whole batch of loss, update, terms and gradient."""
    both = jax.value_and_grad if combination is None else _value_and_gradients
    both = both(total, has_aux=True)
    sums = _over_micro_batches(recipe, both, trained, samples, indices)
    if axis is not None:
        sums = add_up(sums, axis)
    (loss, aux), gradient = jax.tree.map(
        lambda a: a / jnp.asarray(recipe.batch_size, a.dtype), sums
    )
    if combination is not None:  # from the gradients of the whole batch
        loss, gradient = loss.sum(), combination(gradient)
    return (loss, aux), gradient


def _value_and_gradients(total: Callable[..., Any], has_aux: bool) -> Callable:
    """As `jax.value_and_grad`, for a vector of losses: one gradient for each."""

    def both(trained: PyTree, *rest: PyTree) -> tuple[PyTree, PyTree]:
        alone = lambda trained: total(trained, *rest)
        losses, back, aux = jax.vjp(alone, trained, has_aux=has_aux)  # type: ignore
        (gradients,) = jax.vmap(back)(jnp.eye(losses.size, dtype=losses.dtype))
        return (losses, aux), gradients

    return both


def _over_micro_batches(
    recipe: Recipe,
    both: Callable[..., Any],
    trained: PyTree,
    samples: PyTree,
    indices: Int[Array, " sample"],
) -> PyTree:
    """The sums of loss, update, terms and gradient over this device's samples."""
    if recipe.accumulate == 1:
        return both(trained, samples, indices)
    parts = jax.tree.map(
        lambda a: a.reshape(recipe.accumulate, -1, *a.shape[1:]), (samples, indices)
    )
    shapes = jax.eval_shape(both, trained, *jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, both(trained, *part)), None

    return jax.lax.scan(body, zeros, parts, unroll=recipe.unroll)[0]


def _inspect(clip: Scalar | None, loss: Scalar, gradient: PyTree):
    """The gradient, clipped; its norm; and which value is not finite."""
    leaves = jax.tree.leaves(gradient)
    square = lambda g: jnp.square(jnp.abs(g).astype(loss.dtype)).sum()
    squares = jnp.stack([square(g) for g in leaves])
    norm = jnp.sqrt(squares.sum())
    bad = ~jnp.isfinite(squares)
    failure = jnp.where(bad.any(), 2 + jnp.argmax(bad), 0)
    # Each leaf may be finite and the sum of their squares overflow.
    failure = jnp.where(jnp.isfinite(norm) | (failure > 0), failure, 2)
    failure = jnp.where(jnp.isfinite(loss), failure, LOSS_FAILED).astype(jnp.int32)
    if clip is not None:
        shrink = jnp.minimum(1.0, clip.astype(norm.dtype) / jnp.maximum(norm, 1e-30))
        gradient = jax.tree.map(lambda g: g * shrink.astype(g.dtype), gradient)
    return gradient, norm, failure


def _unless(stopped: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new`, or `old` if stopped; unchanged leaves cost nothing."""

    def one(new: Array, old: Array) -> Array:
        return new if new is old else jnp.where(stopped, old, new)

    return jax.tree.map(one, new, old)


def fingerprint(tree: PyTree) -> Array:
    """A hash of the bits of all floating-point arrays and of their positions."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)):
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for part in parts:
            kind = jnp.uint16 if part.dtype.itemsize == 2 else jnp.uint32
            bits = jax.lax.bitcast_convert_type(part, kind).ravel()
            places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1  # odd: invertible
            marks = bits.astype(jnp.uint32) * places
            total = 31 * total + marks.sum(dtype=jnp.uint32)
    return total
