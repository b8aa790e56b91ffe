r"""Sequential Monte Carlo from the prior to the posterior.

Particles are drawn from the prior and pass through the laws

$$ p_t(\epsilon) \propto N(\epsilon; 0, I)\, L(\epsilon)^t, \qquad
   0 = t_0 < t_1 < \dots < t_K = 1. $$

From one to the next they are weighted by $L^{t_{k+1} - t_k}$ and resampled, and then
moved by preconditioned Crank-Nicolson at the new temperature. The next temperature is
the one at which the weights have a given effective sample size. So several modes keep
their weights, which a chain that starts in one of them does not know. Del Moral, Doucet
& Jasra 2006, "Sequential Monte Carlo samplers"; Beskos, Jasra, Muzaffer & Stuart 2015.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import check_interval, whole_number
from .._progress import advance, progress_bar
from ..types import Condition, Key, Scalar, ScalarLike
from ._cost import Clock
from ._problem import Problem
from ._sampler import (
    LONGER,
    AbstractSampler,
    Draws,
    State,
    at_start,
    begin,
    move,
    prior_latents,
)

_MOST = 500  # temperatures
_HALVINGS = 40


class SMC(AbstractSampler):
    r"""As many particles as samples, from the prior to the posterior.

    **Arguments:**

    - `share`: the effective sample size of the weights, as a share of the particles,
      that decides the next temperature.
    - `moves`: of every particle at each temperature.
    - `step`, `target`: the first step and the acceptance to which it is adapted.

    The result also has `log_evidence`, the logarithm of the mean likelihood under the
    prior (without the constant of the noise).

    **Cost:** `samples * (1 + moves * temperatures)` evaluations; the number of
    temperatures grows with what the observations tell, and is some ten or twenty.
    """

    share: float = 0.5
    moves: int = 20
    step: float = 0.5
    target: float = 0.25

    def __check_init__(self):
        whole_number("moves", self.moves)
        for name in ("share", "target"):
            check_interval(
                f"(0, {name})", (0.0, getattr(self, name)), most=0.99, least=0
            )
        check_interval("(0, step)", (0.0, self.step), most=1.0, least=0.0)

    @property
    def advice(self) -> str:
        return f"take more samples, or more moves, SMC(moves={LONGER * self.moves})."

    def draw(
        self,
        problem: Problem,
        condition: Condition,
        samples: int,
        *,
        key: Key,
        clock: Clock,
        progress: bool,
    ) -> Draws:
        shape = problem.shape
        assert shape is not None
        first, second = jax.random.split(key)
        state = begin(
            problem, prior_latents(first, samples, shape), condition, self.step
        )
        at_start(state.latent, np.asarray(state.value), "")
        stage = _Stage(state, jnp.arange(samples), jnp.zeros(()), jnp.zeros(()))
        temperatures, rates = [0.0], []
        with progress_bar(100, "infer", "%", progress) as bar:
            while temperatures[-1] < 1 and len(temperatures) <= _MOST:
                own = jax.random.fold_in(second, len(temperatures))
                numbers = map(jnp.asarray, (self.share, self.moves, self.target))
                stage = clock.run(_temper, problem, condition, stage, own, *numbers)
                stage = jax.tree.map(jnp.asarray, stage)
                temperatures.append(float(stage.temperature))
                rates.append(float(stage.state.accepted.mean()) / self.moves)
                advance(bar, round(100 * temperatures[-1]) - bar.n)
        if temperatures[-1] < 1:
            raise ValueError(
                f"expected particles at temperature 1, got {temperatures[-1]:.2g} "
                f"after {_MOST} temperatures: the likelihood is too narrow for "
                f"{samples} particles. Take more samples, or check the noise."
            )
        state = stage.state
        return Draws(
            latent=np.asarray(state.latent),
            log_likelihood=np.asarray(state.value),
            evaluations=samples * (1 + int(state.moves)),
            failed=int(state.failed),
            ancestors=np.asarray(stage.ancestors),
            acceptance=np.asarray(rates),
            step=float(np.exp(state.log_step)),
            temperatures=np.asarray(temperatures),
            log_evidence=float(stage.log_evidence),
        )


class _Stage(eqx.Module):
    """The particles at one temperature."""

    state: State
    ancestors: Int[Array, " particle"]
    temperature: Scalar
    log_evidence: Scalar


@eqx.filter_jit
def _temper(
    problem: Problem,
    condition: Condition,
    stage: _Stage,
    key: Key,
    share: ScalarLike,
    moves: Any,
    target: ScalarLike,
) -> _Stage:
    """Weight to the next temperature, resample, and move."""
    state, last = stage.state, stage.temperature
    value = state.value.astype(last.dtype)
    count = value.shape[0]
    following = _next(value, last, jnp.asarray(share, last.dtype))
    log_weight = _log_weight(value, following - last)
    gained = jax.nn.logsumexp(log_weight) - jnp.log(jnp.asarray(count, last.dtype))
    chosen = systematic(jax.random.fold_in(key, 0), jax.nn.softmax(log_weight))
    pick = lambda a: a[chosen]
    state = State(
        latent=pick(state.latent),
        value=pick(state.value),
        log_step=state.log_step,
        accepted=jnp.zeros_like(state.accepted),
        moves=state.moves,
        failed=state.failed,
    )
    own = jax.random.fold_in(key, 1)

    def one(i: Any, state: State) -> State:
        gain = (jnp.asarray(i, last.dtype) + 1) ** -0.6
        return move(problem, condition, state, own, following, target, gain)

    state = jax.lax.fori_loop(0, moves, one, state)
    evidence = stage.log_evidence + gained
    return _Stage(state, pick(stage.ancestors), following, evidence)


def _log_weight(value: Float[Array, " particle"], by: Scalar) -> Array:
    """Minus infinity stays, also times zero."""
    lost = ~jnp.isfinite(value)
    return jnp.where(lost, -jnp.inf, by * jnp.where(lost, 0.0, value))


def _next(value: Float[Array, " particle"], last: Scalar, share: Scalar) -> Scalar:
    """The temperature at which the weights are worth a share of the particles.

    A failed particle counts as none, so that the share is of the others.
    """
    alive = jnp.sum(jnp.isfinite(value)).astype(last.dtype)

    def worth(t: Scalar) -> Scalar:
        w = _log_weight(value, t - last)
        both = 2 * jax.nn.logsumexp(w) - jax.nn.logsumexp(2 * w)
        return jnp.exp(both) / alive

    def halve(_: Any, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = (low + high) / 2
        enough = worth(middle) >= share
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    one = jnp.ones_like(last)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (last, one))
    return jnp.where(worth(one) >= share, one, jnp.where(low > last, low, high))


def systematic(key: Key, weights: Float[Array, " particle"]) -> Int[Array, " particle"]:
    """Indices, each as often as its weight says, up to one."""
    count = weights.shape[0]
    start = jax.random.uniform(key, (), weights.dtype)
    at = (jnp.arange(count).astype(weights.dtype) + start) / count
    ends = jnp.cumsum(weights)
    return jnp.minimum(jnp.searchsorted(ends, at * ends[-1]), count - 1)
