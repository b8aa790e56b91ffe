r"""What a run carries from step to step, and nothing else: all of it is checkpointed.

The weights' exponential moving averages follow
$\bar\theta \leftarrow \bar\theta + (1 - d_t)(\theta - \bar\theta)$. A fixed decay $d$
remembers the untrained start for several $1/(1-d)$ steps; with a ramp the half-life
grows with the run, $d_t = 2^{-1/\min(h,\, r t)}$ with $h = -1/\log_2 d$ (Karras et
al. 2022 use $r = 0.05$), so that an average of a short run is worth something too.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ..types import Key, Scalar


class TrainState(eqx.Module):
    """Weights, optimiser, averages, the objective's state, step and key: arrays only.

    `model` and `objective` are the array parts of the model and of the objective's
    state, `averages` those of the trained weights, one for each decay. `failure` is 0,
    or says what was not finite at `step`, where everything else has stood still since.
    """

    model: PyTree
    objective: PyTree
    optimiser: PyTree
    averages: tuple[PyTree, ...]
    step: Int[Array, ""]
    failure: Int[Array, ""]
    key: Key


def rate_at(decay: float, ramp: float | None, step: Int[Array, ""]) -> Scalar | float:
    """One minus the decay of an average at this step, counted from 0."""
    if ramp is None or decay == 0.0:
        return 1 - decay
    half_life = -1 / math.log2(decay)
    now = jnp.minimum(half_life, ramp * step.astype(jnp.zeros(()).dtype))
    return -jnp.expm1(-math.log(2) / jnp.maximum(now, 1e-3))


def averaged(averages: PyTree, weights: PyTree, rate: Scalar | float) -> PyTree:
    """One step of an average towards the weights, in the average's dtype."""

    def one(mean: Array, weight: Array) -> Array:
        return mean + jnp.asarray(rate, mean.dtype) * (weight.astype(mean.dtype) - mean)

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
    """The same arrays in memory of their own, for the run donates its buffers.

    Never weakly typed: a checkpoint would not remember that, and a resumed run would
    be another program.
    """

    def one(leaf: Array) -> Array:
        if is_key(leaf):
            return jax.random.clone(leaf)
        # A chart of fields has NumPy's float64: in the session's precision here.
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jnp.array(leaf, dtype, copy=True)

    return jax.tree.map(lambda a: one(a) if eqx.is_array(a) else a, tree)


def gathered(tree: PyTree) -> PyTree:
    """The arrays as anyone makes them: a copy on one device, bound to none."""

    def one(leaf: Array) -> Array:
        if is_key(leaf):
            impl = jax.random.key_impl(leaf)
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.array(data), impl=impl)
        return jnp.array(np.asarray(leaf), leaf.dtype)

    return jax.tree.map(one, tree)
