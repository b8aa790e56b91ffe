r"""Samples that know of each other: weighted particles.

Each particle is moved, weighted and, if the weights are worth less than a share of the
particles, drawn again in proportion to its weight (systematic resampling). With
incremental weights $w$, the mean of $\prod w$ is the evidence, and means with the
weights are means of the posterior in the limit of many particles (Del Moral 2004).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ...types import Key, Sample, Scalar
from .._cost import Clock
from .._tempered import systematic
from ._contract import AbstractGuided, Sampled, each_step, finished
from ._levels import Now
from ._target import Spent, Target


class AbstractParticles(AbstractGuided):
    """A guided sampler whose samples are one population of particles.

    A final class also has the field `share`, the effective sample size as a share of
    the particles below which they are drawn again, and implements

    - `weigh(target, state, now)`: the state at a level, ready to be moved, with the
      logarithm of its incremental weight and the cost;
    - `last_weight(target, state, x)`: the last of them, of the clean sample;
    - `step`: the move to the next level, without further cost.
    """

    share: eqx.AbstractVar[float]

    @abc.abstractmethod
    def weigh(
        self, target: Target, state: PyTree, now: Now
    ) -> tuple[PyTree, Scalar, Spent]:
        """The state of one particle at a level, its incremental weight and cost."""

    @abc.abstractmethod
    def last_weight(self, target: Target, state: PyTree, x: Sample) -> Scalar:
        """The logarithm of the last incremental weight, of a clean sample."""

    def sampled(
        self,
        target: Target,
        levels: Float[Array, " level"],
        samples: int,
        *,
        key: Key,
        clock: Clock,
        done: Callable[[int], None],
    ) -> Sampled:
        found = clock.run(_run, self, target, levels, jnp.arange(samples), key)
        done(samples)
        if not np.isfinite(found.log_evidence):
            raise ValueError(
                f"expected some of {samples} particles with a finite likelihood, got "
                "none. Take more particles, or check units and noise."
            )
        return found


class _Population(eqx.Module):
    states: Any
    log_weight: Float[Array, " particle"]
    ancestors: Int[Array, " particle"]
    log_evidence: Scalar
    redrawn: Int[Array, ""]


def _reweighed(all_: _Population, more: Array, share: Scalar, key: Key) -> _Population:
    """The population with these incremental weights, drawn again if it must be."""
    count = len(more)
    weight = all_.log_weight + jnp.where(jnp.isnan(more), -jnp.inf, more)
    total = jax.nn.logsumexp(weight)
    shares = jnp.exp(weight - total)
    worth = 1 / jnp.sum(shares**2)
    again = worth < share * count
    chosen = jnp.where(again, systematic(key, shares), jnp.arange(count))
    pick = lambda leaf: leaf[chosen]
    gained = total - jnp.log(jnp.asarray(count, weight.dtype))
    return _Population(
        states=jax.tree.map(pick, all_.states),
        log_weight=jnp.where(again, 0.0, weight),
        ancestors=pick(all_.ancestors),
        log_evidence=all_.log_evidence + jnp.where(again, gained, 0.0),
        redrawn=all_.redrawn + again.astype(int),
    )


@eqx.filter_jit
def _run(
    method: AbstractParticles,
    target: Target,
    levels: Float[Array, " level"],
    numbers: Int[Array, " particle"],
    key: Key,
) -> Sampled:
    count, share = len(numbers), jnp.asarray(method.share, levels.dtype)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
    draw = lambda k: jax.random.normal(jax.random.fold_in(k, 0), target.shape)
    latents = jax.vmap(draw)(keys)
    levels = levels.astype(latents.dtype)
    common = jax.random.fold_in(key, count)

    def body(carry: Any, now: Now) -> tuple[Any, None]:
        all_, spent = carry
        weigh = lambda state: method.weigh(target, state, now)
        states, more, cost = jax.lax.map(
            weigh, all_.states, batch_size=method.batch_size
        )
        all_ = eqx.tree_at(lambda a: a.states, all_, states)
        all_ = _reweighed(all_, more, share, jax.random.fold_in(common, now.number))
        own = jax.vmap(lambda k: jax.random.fold_in(k, 1 + now.number))(keys)
        move = lambda state, k: method.step(target, state, now, k)[0]
        states = jax.vmap(move)(all_.states, own)
        all_ = eqx.tree_at(lambda a: a.states, all_, states)
        return (all_, spent.plus(jax.tree.map(jnp.sum, cost))), None

    begin = lambda latent: method.begin(target, levels[0] * latent, levels[0])
    zero, none = jnp.zeros(count, latents.dtype), jnp.zeros((), int)
    all_ = _Population(jax.vmap(begin)(latents), zero, numbers, zero[0], none)
    start = (all_, Spent(none, none, none, none))
    (all_, spent), _ = jax.lax.scan(body, start, each_step(target, levels))

    def last(state: Any) -> tuple[Sample, Scalar]:
        x, _ = method.end(target, state, common)
        return x, method.last_weight(target, state, x)

    x, more = jax.lax.map(last, all_.states, batch_size=method.batch_size)
    all_ = eqx.tree_at(lambda a: a.states, all_, x)
    one = jnp.ones((), share.dtype) * 2  # above all shares: equal weights at the end
    all_ = _reweighed(all_, more, one, jax.random.fold_in(common, len(levels)))
    each = Spent(*(n / count for n in spent.plus(Spent(0, 0, 0, count))))
    ends = lambda x, i: finished(method, target, latents[i], x, each)
    found = jax.lax.map(
        lambda own: ends(*own), (all_.states, all_.ancestors),
        batch_size=method.batch_size,
    )  # fmt: skip
    return eqx.tree_at(
        lambda f: (f.ancestors, f.log_evidence, f.redrawn),
        found,
        (all_.ancestors, all_.log_evidence, all_.redrawn),
        is_leaf=lambda leaf: leaf is None,
    )
