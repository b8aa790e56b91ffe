r"""Markov chains in the noise of a prior: preconditioned Crank-Nicolson.

The latent is standard normal, and the proposal

$$ \epsilon' = \sqrt{1 - b^2}\,\epsilon + b\,\xi, \qquad \xi \sim N(0, I), $$

leaves this law as it is. So the move is accepted with probability $\min(1, L'/L)$, the
ratio of the likelihoods alone, and the acceptance does not fall as a field is resolved
more finely. A move costs one evaluation of the prior and one of the forward map. It
needs no derivative, and the chain converges to the posterior under the prior *as it
is*, linear or not. Cotter, Roberts, Stuart & White 2013, "MCMC methods for functions".
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar

from .._checks import check_interval, whole_number
from .._progress import advance, progress_bar
from ..types import Batch, Condition, Key, Scalar, ScalarLike
from ._cost import Clock
from ._problem import Problem
from ._sampler import LONGER, AbstractSampler, Draws, State, begin, move, prior_latents

_SEGMENTS = 10  # calls of one compiled program, between which the bar moves
_SLOWER = 0.6  # the exponent with which the step's changes become smaller
_LIKELY = 0.1  # share of accepted moves of a step that is advised
_SHORTEST = 24  # halvings of the step that are tried if no move is accepted


class AbstractChains(AbstractSampler):
    """Several chains from draws of the prior, each moved by the same program.

    A final class has the numbers of `PCN` and a `kernel`, the move of all chains.
    """

    chains: AbstractVar[int]
    warmup: AbstractVar[int]
    thin: AbstractVar[int]
    step: AbstractVar[float]
    target: AbstractVar[float]

    @property
    @abc.abstractmethod
    def kernel(self) -> Callable[..., State]:
        """Called as `kernel(problem, condition, state, key, target, gain)`: a pytree.

        The logarithm of the step moves by `gain` times the excess of the acceptance
        over its target.
        """

    @property
    def evaluations(self) -> int:
        """Of the likelihood, in a move."""
        return 1

    @property
    def gradients(self) -> int:
        """Of the likelihood, in a move."""
        return 0

    def check(self, problem: Problem) -> None:
        """Check that the problem has what a move needs: nothing by default."""

    def begin(self, problem: Problem, latents: Batch, condition: Condition) -> State:
        """The state at given latents."""
        return begin(problem, latents, condition, jnp.asarray(self.step))

    @property
    def advice(self) -> str:
        name = type(self).__name__
        return (
            f"run longer, {name}(warmup={LONGER * self.warmup}, "
            f"thin={LONGER * self.thin}); if the chains stay apart the posterior has "
            "several modes: SMC()."
        )

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
        self.check(problem)
        first, second = jax.random.split(key)
        shape = problem.shape
        assert shape is not None
        draws = max(4, -(-samples // self.chains))
        kept = -(-draws // _SEGMENTS)
        latents = prior_latents(first, self.chains, shape)
        state = self.begin(problem, latents, condition)
        parts = []

        def run(state: State, thin: int, adapt: bool) -> tuple[State, Any]:
            numbers = map(jnp.asarray, (thin, float(adapt), self.target))
            static = self.kernel, problem, condition, state, second, kept
            state, some = clock.run(_advance, *static, *numbers)
            return jax.tree.map(jnp.asarray, state), some

        with progress_bar(_SEGMENTS + 1, "infer", "part", progress) as bar:
            if self.warmup:
                state, _ = run(state, -(-self.warmup // kept), True)
            warm = int(state.moves)
            state = eqx.tree_at(lambda s: s.accepted, state, 0 * state.accepted)
            advance(bar, 1)
            for _ in range(_SEGMENTS):
                state, some = run(state, self.thin, False)
                parts.append(some)
                advance(bar, 1)
        accepted = np.asarray(state.accepted) / (int(state.moves) - warm)
        if not accepted.any():
            raise ValueError(self._stuck(problem, condition, state, second))
        latent, value = (np.concatenate(some)[:draws] for some in zip(*parts))  # noqa: B905
        in_chains = lambda a: np.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])
        return Draws(
            latent=in_chains(latent),
            log_likelihood=in_chains(value),
            evaluations=self.chains * (1 + self.evaluations * int(state.moves)),
            gradients=self.chains * self.gradients * int(state.moves),
            failed=int(state.failed),
            chains=self.chains,
            acceptance=accepted,
            step=float(np.exp(state.log_step)),
        )

    def _stuck(
        self, problem: Problem, condition: Condition, state: State, key: Key
    ) -> str:
        """Say which step some chain would have taken."""
        step = float(np.exp(state.log_step))
        found = None
        for halving in range(_SHORTEST):
            tried = eqx.tree_at(
                lambda s: s.log_step, state, jnp.log(step) - halving * jnp.log(2.0)
            )
            accepted = _rate(
                self.kernel, problem, condition, tried, jax.random.fold_in(key, 7)
            )
            if float(accepted) > _LIKELY:
                found = step / 2**halving
                break
        name = type(self).__name__
        cure = (
            f"A step of {found:.2g} would be accepted: {name}(step={found:.2g}), with "
            "a longer warmup"
            if found is not None
            else "No shorter step is accepted either: the likelihood is not finite "
            "where the chains are"
        )
        return (
            f"expected chains that move, got no accepted move of {self.chains} chains "
            f"in {int(state.moves)} moves each, with steps of {step:.2g} at the end. "
            f"{cure}; or SMC(), which comes from the prior in small steps."
        )


class PCN(AbstractChains):
    """Several chains from draws of the prior, each moved by the same program.

    **Arguments:**

    - `chains`: the number of chains, at least two, because one cannot be compared. All
      are computed at once.
    - `warmup`: moves that are not kept. In them the step is adapted to the acceptance
      `target`, the same step for all chains; afterwards it is fixed.
    - `thin`: the number of moves from one kept sample to the next.
    - `step`: the first step $b$, above 0 and at most 1. With 1 the proposals are
      independent draws of the prior.

    **Cost:** `chains * warmup + samples * thin` evaluations.
    """

    chains: int = 8
    warmup: int = 1000
    thin: int = 10
    step: float = 0.3
    target: float = 0.25

    def __check_init__(self):
        check_chains(self)
        check_interval("(0, step)", (0.0, self.step), most=1.0, least=0.0)

    @property
    def kernel(self) -> Callable[..., State]:
        return jax.tree_util.Partial(_crank_nicolson)


def check_chains(method: AbstractChains) -> None:
    """Check the numbers that all chains have."""
    whole_number(
        "chains",
        method.chains,
        least=2,
        cure="Whether a chain has converged is seen by comparing it with others.",
    )
    whole_number("warmup", method.warmup, least=0)
    whole_number("thin", method.thin)
    check_interval("(0, target)", (0.0, method.target), most=0.9, least=0.0)


def _crank_nicolson(
    problem: Problem,
    condition: Condition,
    state: State,
    key: Key,
    target: ScalarLike,
    gain: Scalar,
) -> State:
    return move(problem, condition, state, key, 1.0, target, gain)


@eqx.filter_jit
def _advance(
    kernel: Callable[..., State],
    problem: Problem,
    condition: Condition,
    state: State,
    key: Key,
    kept: int,
    thin: Any,
    adapt: Scalar,
    target: ScalarLike,
) -> tuple[State, Any]:
    """`kept` samples of every chain, each `thin` moves after the one before."""

    def one(_: Any, state: State) -> State:
        count = state.moves.astype(state.log_step.dtype)
        gain = adapt.astype(count.dtype) * (count + 1) ** -_SLOWER
        return kernel(problem, condition, state, key, target, gain)

    def keep(state: State, _: None) -> tuple[State, Any]:
        state = jax.lax.fori_loop(0, thin, one, state)
        return state, (state.latent, state.value)

    return jax.lax.scan(keep, state, None, length=kept)


@eqx.filter_jit
def _rate(
    kernel: Callable[..., State],
    problem: Problem,
    condition: Condition,
    state: State,
    key: Key,
) -> Scalar:
    """The share of accepted moves in a few tries from one place."""

    def one(i: Any) -> Any:
        own = jax.random.fold_in(key, i)
        moved = kernel(problem, condition, state, own, 0.0, jnp.zeros(()))
        return (moved.accepted - state.accepted).mean()

    return jax.lax.map(one, jnp.arange(16)).mean()
