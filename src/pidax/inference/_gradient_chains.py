r"""Markov chains that follow the gradient: MALA and HMC, from BlackJAX.

Both sample $N(\epsilon; 0, I)\,L(\epsilon)$ by moves along $\nabla\ln$ of it. The
Metropolis-adjusted Langevin algorithm takes one step,

$$ \epsilon' = \epsilon + h\,\nabla\ln p(\epsilon) + \sqrt{2h}\,\xi, $$

and Hamiltonian Monte Carlo several leapfrog steps of length $h$ from a random momentum.
Both correct the move by a Metropolis step. A gradient costs a few evaluations, and is
worth them where observations tell several numbers accurately: there the moves of `PCN`
are short in all directions, these only across. Roberts & Tweedie 1996; Duane et al.
1987; Neal 2011, "MCMC using Hamiltonian dynamics". BlackJAX makes the moves
(Cabezas et al. 2024); it has to be installed: `pip install "pidax[mcmc]"`.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import require_positive, whole_number
from ..types import Batch, Condition, Key, Sample, Scalar, ScalarLike
from ._chains import AbstractChains, check_chains
from ._foreign import Foreign
from ._problem import Problem
from ._sampler import State, begin

_FARTHEST = 40.0  # standard deviations, where a prior has no draws


class MALA(AbstractChains):
    """The Metropolis-adjusted Langevin algorithm: one gradient a move.

    **Arguments:** `chains`, `warmup`, `thin` and `target` as for `PCN`; `step` is $h$.

    **Cost:** `chains * warmup + samples * thin` evaluations with a gradient.
    """

    chains: int = 8
    warmup: int = 1000
    thin: int = 10
    step: float = 0.1
    target: float = 0.57

    def __check_init__(self):
        check_chains(self)
        require_positive(step=self.step)

    @property
    def gradients(self) -> int:
        return 1

    @property
    def kernel(self) -> Callable[..., State]:
        return jax.tree_util.Partial(_move, jax.tree_util.Partial(_langevin))

    def check(self, problem: Problem) -> None:
        _check(problem, self)

    def begin(self, problem: Problem, latents: Batch, condition: Condition) -> State:
        return _with_slope(problem, latents, condition, self.step)


class HMC(AbstractChains):
    """Hamiltonian Monte Carlo with a random number of leapfrog steps.

    **Arguments:** `chains`, `warmup`, `thin` and `target` as for `PCN`; `step` is the
    length of a leapfrog step. `leaps` is their mean number in a move: it is uniform
    between 1 and `2 * leaps - 1`, so that moves do not return to their start.

    **Cost:** `leaps * (chains * warmup + samples * thin)` evaluations with a gradient.
    """

    chains: int = 8
    warmup: int = 300
    thin: int = 1
    step: float = 0.1
    target: float = 0.7
    leaps: int = 10

    def __check_init__(self):
        check_chains(self)
        whole_number("leaps", self.leaps)
        require_positive(step=self.step)

    @property
    def evaluations(self) -> int:
        return self.leaps

    @property
    def gradients(self) -> int:
        return self.leaps

    @property
    def kernel(self) -> Callable[..., State]:
        leaps = jnp.asarray(self.leaps)
        return jax.tree_util.Partial(_move, jax.tree_util.Partial(_hamiltonian, leaps))

    def check(self, problem: Problem) -> None:
        _check(problem, self)

    def begin(self, problem: Problem, latents: Batch, condition: Condition) -> State:
        return _with_slope(problem, latents, condition, self.step)


def _check(problem: Problem, method: AbstractChains) -> None:
    """Check that there are gradients, and BlackJAX."""
    name = type(method).__name__
    if isinstance(problem.forward, Foreign):
        raise ValueError(
            f"{name} follows a gradient: expected a forward map of JAX, got a Foreign "
            "solver. Use PCN(), SMC() or Ensemble(), which need no derivatives."
        )
    try:
        importlib.import_module("blackjax")
    except ImportError as error:
        raise ValueError(
            f"{name} is a kernel of BlackJAX: expected the package blackjax, got "
            f'"{error}". Install it, pip install "pidax[mcmc]", or use PCN(), which '
            "needs no gradient."
        ) from error


def _log_density(problem: Problem, condition: Condition) -> Callable[[Sample], Scalar]:
    """Of a latent: the prior times the likelihood.

    A step that is too long leads to latents of which the forward map overflows, or
    which it refuses. The forward map does not see them, and the move is rejected.
    """

    def log_density(latent: Sample) -> Scalar:
        near = (jnp.abs(latent) < _FARTHEST).all()
        latent = jnp.where(near, latent, 0.0)
        prior = -0.5 * jnp.sum(jnp.square(latent))
        return jnp.where(
            near, prior + problem.log_likelihood(latent, condition), -jnp.inf
        )

    return log_density


@eqx.filter_jit
def _with_slope(
    problem: Problem, latents: Batch, condition: Condition, step: ScalarLike
) -> State:
    state = begin(problem, latents, condition, step)
    slope = jax.vmap(jax.grad(_log_density(problem, condition)))(latents)
    return dataclasses.replace(state, slope=slope)


def _move(
    kernel: Callable[..., Any],
    problem: Problem,
    condition: Condition,
    state: State,
    key: Key,
    target: ScalarLike,
    gain: Scalar,
) -> State:
    """One move of every chain."""
    shared, own = jax.random.split(jax.random.fold_in(key, state.moves))
    step = jnp.exp(state.log_step).astype(state.latent.dtype)
    log_density = _log_density(problem, condition)
    squares = lambda e: jnp.sum(jnp.square(e), axis=tuple(range(1, e.ndim)))
    density = state.value - 0.5 * squares(state.latent)

    def one(key: Key, *place: Any) -> Any:
        return kernel(shared, key, log_density, step, *place)

    # BlackJAX computes by JAX's standard promotion; a user's session may be strict.
    with jax.numpy_dtype_promotion("standard"):
        keys = jax.random.split(own, len(density))
        moved, info = jax.vmap(one)(keys, state.latent, density, state.slope)
    latent, density, slope = moved
    rate = jnp.where(jnp.isnan(info.acceptance_rate), 0.0, info.acceptance_rate)
    rate = jnp.mean(rate).astype(state.log_step.dtype)
    taken = info.is_accepted
    value = jnp.where(taken, density + 0.5 * squares(latent), state.value)
    return State(
        latent=latent,
        value=value.astype(state.value.dtype),
        log_step=state.log_step + gain * (rate - jnp.asarray(target, rate.dtype)),
        accepted=state.accepted + taken.astype(state.accepted.dtype),
        moves=state.moves + 1,
        failed=state.failed,
        slope=slope,
    )


def _langevin(
    _: Key, key: Key, log_density: Any, step: Any, *place: Any
) -> tuple[Any, Any]:
    from blackjax.mcmc import mala

    return mala.build_kernel()(key, mala.MALAState(*place), log_density, step)


def _hamiltonian(
    leaps: Any, shared: Key, key: Key, log_density: Any, step: Any, *place: Any
) -> tuple[Any, Any]:
    from blackjax.mcmc import hmc

    number: Any = jax.random.randint(shared, (), 1, 2 * leaps)
    unit = jnp.ones(place[0].size, place[0].dtype)  # the prior's masses
    state = hmc.HMCState(*place)
    return hmc.build_kernel()(key, state, log_density, step, unit, number)
