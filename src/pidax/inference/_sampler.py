"""What every method of `infer` does: draw latents of the posterior, and say how."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._batches import batch_length, batch_rows
from ..types import Batch, Condition, Flag, Key, Scalar, ScalarLike
from ._cost import Clock
from ._foreign import Foreign
from ._problem import Problem

APPROXIMATE = "approximate unless the prior and the forward map are linear"
COMPARE = "compare with PCN() or SMC(), which are exact for this prior."
_BATCH = 256  # samples at once
_CHUNK = 4096  # of one call
REFERENCE = 200  # effective draws of a bank, below which a few of them decide
LONGER = 4  # times as long is advised to a method that did not finish


@dataclasses.dataclass(frozen=True)
class Draws:
    """Latents of the posterior, and the diagnostics of the method that drew them.

    `chains` is the number of chains of which the samples are, one after the other; None
    if they are not chains. `ancestors` says from which first particle each sample
    descends. `acceptance` is of each chain, or of each temperature. `evaluations`
    counts likelihoods, `gradients` those with a gradient, `failed` those that were not
    finite. `fields` and `predicted` are the outputs, if they are known. `bank_ess` is
    the effective number of draws of a bank. `advice` replaces the advice of the method.
    A guided sampler counts evaluations of its teacher, and has `products` with the
    Jacobian of the teacher (`gradients` are with the transpose), the number of `rows`
    that were evaluated, and `failures` by name.
    """

    latent: Float[np.ndarray, "sample *event"]
    log_likelihood: Float[np.ndarray, " sample"]
    evaluations: int
    gradients: int = 0
    failed: int = 0
    chains: int | None = None
    ancestors: Int[np.ndarray, " sample"] | None = None
    acceptance: Float[np.ndarray, " part"] | None = None
    step: float | None = None
    temperatures: Float[np.ndarray, " stage"] | None = None
    log_evidence: float | None = None
    fields: Float[np.ndarray, "sample *grid channel"] | None = None
    predicted: Float[np.ndarray, "sample *quantity"] | None = None
    bank_ess: float = np.nan
    advice: str = ""
    products: int = 0
    rows: int | None = None
    failures: Mapping[str, int] = dataclasses.field(default_factory=dict)


class AbstractSampler(eqx.Module):
    """A method of `infer`. A final class implements `draw` and `advice`."""

    @property
    def caution(self) -> str:
        """Why its samples are approximate, however many there are; by default "": they
        are not.
        """
        return ""

    @property
    @abc.abstractmethod
    def advice(self) -> str:
        """What to do if the samples cannot be believed, as the result prints it."""

    @abc.abstractmethod
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
        """At least `samples` latents."""


class State(eqx.Module):
    """Positions of chains or particles, with the step that they share. `slope` is the
    gradient of their log-density, if the moves need it.
    """

    latent: Batch
    value: Float[Array, " chain"]  # log-likelihood
    log_step: Scalar
    accepted: Float[Array, " chain"]
    moves: Int[Array, ""]
    failed: Int[Array, ""]
    slope: Batch | None = None


@eqx.filter_jit
def begin(
    problem: Problem, latents: Batch, condition: Condition, step: ScalarLike
) -> State:
    """The state at given latents."""
    value = likelihoods(problem, latents, condition)
    none = jnp.zeros((), int)
    log_step = jnp.log(jnp.asarray(step, float))
    failed = jnp.sum(~jnp.isfinite(value))
    return State(latents, value, log_step, jnp.zeros_like(value), none, failed)


def likelihoods(
    problem: Problem, latents: Batch, condition: Condition
) -> Float[Array, " chain"]:
    """The log-likelihood of each latent."""
    return jax.vmap(lambda e: problem.log_likelihood(e, condition))(latents)


def move(
    problem: Problem,
    condition: Condition,
    state: State,
    key: Key,
    temperature: ScalarLike,
    target: ScalarLike,
    gain: Scalar,
) -> State:
    r"""One preconditioned Crank-Nicolson move of every chain.

    $\epsilon' = \sqrt{1 - b^2}\,\epsilon + b\,\xi$, which leaves the prior as it is,
    accepted with probability $\min(1, (L'/L)^t)$ at the temperature $t$. The logarithm
    of $b$ moves by `gain` times the excess of the acceptance over its target.
    """
    first, second = jax.random.split(jax.random.fold_in(key, state.moves))
    latent, step = state.latent, jnp.exp(state.log_step).astype(state.latent.dtype)
    xi = jax.random.normal(first, latent.shape, latent.dtype)
    proposed = jnp.sqrt(1 - step**2) * latent + step * xi
    value = likelihoods(problem, proposed, condition)
    better = jnp.asarray(temperature, value.dtype) * (value - state.value)
    uniform = jax.random.uniform(second, value.shape, value.dtype)
    taken: Flag = jnp.log(uniform) < better  # minus infinity twice is NaN: not taken
    rate = jnp.mean(taken.astype(state.log_step.dtype))
    log_step = state.log_step + gain * (rate - jnp.asarray(target, rate.dtype))
    wide = taken.reshape(-1, *(1,) * (latent.ndim - 1))
    return State(
        latent=jnp.where(wide, proposed, latent),
        value=jnp.where(taken, value, state.value),
        log_step=jnp.minimum(log_step, 0.0),
        accepted=state.accepted + taken.astype(value.dtype),
        moves=state.moves + 1,
        failed=state.failed + jnp.sum(~jnp.isfinite(value)),
    )


def outputs(
    problem: Problem,
    latents: np.ndarray,
    condition: Condition,
    clock: Clock,
    done: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The fields of all latents, the outputs of the forward map, and evaluations."""
    own, dear = (problem, condition), isinstance(problem.forward, Foreign)
    found = in_chunks(_outputs, own, latents, clock=clock, done=done, fill=not dear)
    fields, predicted = found
    return fields, predicted, len(latents)


@eqx.filter_jit
def _outputs(own: tuple[Problem, Condition], latents: Batch) -> Any:
    problem, condition = own
    one = lambda latent: problem.outputs(latent, condition)
    return jax.lax.map(one, latents, batch_size=_BATCH)


def in_chunks(
    function: Callable[[Any, Batch], Any],
    fixed: Any,
    rows: Any,
    *,
    clock: Clock,
    done: Callable[[int], None] | None = None,
    fill: bool = True,
) -> Any:
    """`function(fixed, rows)` of some thousand rows at a time, joined on the host.

    The last of them are filled up, so that another number is the same program, unless
    each row is expensive.
    """
    count, parts = len(rows), []
    size = batch_length(count, _CHUNK)
    for first, some in enumerate(batch_rows(count, size)):
        own = min(size, count - first * size)
        some = some if fill else some[:own]
        parts.append(clock.run(function, fixed, jnp.asarray(rows[some])))
        if done is not None:
            done(own)
    return jax.tree.map(lambda *leaf: np.concatenate(leaf)[:count], *parts)


@eqx.filter_jit
def prior_latents(key: Key, count: int, shape: tuple[int, ...]) -> Batch:
    """Standard normal latents."""
    return jax.random.normal(key, (count, *shape))


def at_start(latents: Any, value: np.ndarray, failures: str) -> None:
    """Check that some first latent has a likelihood."""
    if not np.isfinite(value).any():
        raise ValueError(
            "expected some draws of the prior with a finite likelihood, got none of "
            f"{len(value)}: the forward map failed for all of them{failures}. Call it "
            "with the fields of one draw and see."
        )
