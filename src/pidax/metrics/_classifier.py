r"""Whether a classifier can tell two sets of samples apart (C2ST).

A classifier is trained on one half of both sets and tested on the other. If both sets
are of one law, no classifier is right more often than by chance. For laws $p$ and $q$
the best accuracy is

$$ \tfrac12 + \tfrac14 \int |p - q|, $$

which is $\Phi(d/2)$ for two unit normal laws at the distance $d$. A distance that looks
at one direction or one scale at a time does not see everything; a classifier looks for
any difference, within what its size and its samples allow. Lopez-Paz & Oquab 2017,
"Revisiting classifier two-sample tests".
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import whole_number
from ..types import Key, WholeLike, typed
from ._forecasts import wilson
from ._sets import ReferenceLike, SamplesLike, two_sets

_BATCH = 256
_RATE = 3e-3
_DECAY = 1e-2


class C2ST(NamedTuple):
    """The accuracy of a classifier on samples that it has not seen.

    `low` and `high` are the ends of the 95% interval of the accuracy (Wilson).
    `p_value` is the probability of as many right answers or more if both sets were of
    one law, exactly, whatever the classifier is. `agrees` says that it is above 5%.
    """

    accuracy: float
    low: float
    high: float
    p_value: float
    cases: int

    @property
    def agrees(self) -> bool:
        return self.p_value > 0.05

    def __str__(self) -> str:
        words = "not told apart" if self.agrees else "told apart"
        return (
            f"{self.accuracy:.1%} of {self.cases} samples told right (95%: "
            f"{self.low:.1%} to {self.high:.1%}; by chance with probability "
            f"{self.p_value:.2g}): the sets are {words}"
        )


@typed
def c2st(
    samples: SamplesLike,
    reference: ReferenceLike,
    *,
    key: Key,
    width: WholeLike = 64,
    steps: WholeLike = 1000,
) -> C2ST:
    """The accuracy with which a small network tells two sets of samples apart.

    About half: the sets are of one law, or differ by less than this number of samples
    can show. Sets of different sizes are cut to the smaller one. The p-value is of
    independent samples; that of neighbours in one chain is too small.

    **Arguments:**

    - `key`: decides which half is used for training, and the training.
    - `width`, `steps`: of the network, which has two hidden layers, and of its
      training, with 256 samples a step. The last half of the weights are averaged.
    """
    width, steps = whole_number("width", width), whole_number("steps", steps, least=2)
    x, y, _ = two_sets(samples, reference, least=4)
    half = min(len(x), len(y)) // 2
    first, second, third = jax.random.split(key, 3)
    x = x[jax.random.permutation(first, len(x))[: 2 * half]]
    y = y[jax.random.permutation(second, len(y))[: 2 * half]]
    seen = jnp.concatenate([x[:half], y[:half]])
    centre, size = seen.mean(axis=0), seen.std(axis=0)
    scaled = lambda rows: (rows - centre) / jnp.where(size > 0, size, 1)
    label = jnp.repeat(jnp.array([1.0, -1.0], x.dtype), half)
    # Optax and Equinox compute by JAX's standard promotion.
    with jax.numpy_dtype_promotion("standard"):
        network = _trained(scaled(seen), label, third, width, steps)
        tested = scaled(jnp.concatenate([x[half:], y[half:]]))
        chosen = np.asarray(jax.vmap(network)(tested) > 0)
    right = int(chosen[:half].sum()) + int((~chosen[half:]).sum())
    low, high = wilson(right, 2 * half)
    p_value = _by_chance(int(chosen[:half].sum()), int(chosen.sum()), half)
    return C2ST(right / (2 * half), low, high, p_value, 2 * half)


@eqx.filter_jit
def _trained(
    rows: Float[Array, "sample d"],
    label: Float[Array, " sample"],
    key: Key,
    width: int,
    steps: int,
) -> eqx.nn.MLP:
    """A network whose sign is the label, by the logistic loss."""
    import optax

    dtype = rows.dtype
    first, second = jax.random.split(key)
    network = eqx.nn.MLP(
        rows.shape[1], "scalar", width, 2, jax.nn.silu, dtype=dtype, key=first
    )
    weights, rest = eqx.partition(network, eqx.is_inexact_array)
    optimiser = optax.adamw(_RATE, weight_decay=_DECAY)

    def loss(weights: Any, some: Array) -> Array:
        score = jax.vmap(eqx.combine(weights, rest))(rows[some])
        return jnp.mean(jax.nn.softplus(-label[some] * score))

    def step(i: Array, carry: Any) -> Any:
        weights, state, mean = carry
        own = jax.random.fold_in(second, i)
        some = jax.random.randint(own, (min(_BATCH, len(label)),), 0, len(label))
        slope = jax.grad(loss)(weights, some)
        change, state = optimiser.update(slope, state, weights)
        weights = optax.apply_updates(weights, change)
        share = jnp.where(i < steps // 2, 1.0, 1 / (i - steps // 2 + 1.0)).astype(dtype)
        mean = jax.tree.map(lambda m, w: m + share * (w - m), mean, weights)
        return weights, state, mean

    start = weights, optimiser.init(weights), weights
    _, _, mean = jax.lax.fori_loop(0, steps, step, start)
    return eqx.combine(mean, rest)


def _by_chance(right: int, chosen: int, half: int) -> float:
    """The probability that `right` or more of the first half are among `chosen` of all,
    chosen without knowing the halves: hypergeometric.
    """

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    most = min(half, chosen)
    total = sum(
        math.exp(
            log_choose(half, i)
            + log_choose(half, chosen - i)
            - log_choose(2 * half, chosen)
        )
        for i in range(max(right, chosen - half), most + 1)
    )
    return min(total, 1.0)
