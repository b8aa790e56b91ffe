r"""What every guided sampler does.

A sampler of the probability-flow ODE goes from noise to data by steps, and each step
asks the denoiser for a clean sample. A guided sampler bends these steps, so that the
clean sample agrees with observations and equations. Its prior is a teacher, a
`ProbabilityFlow`, of any process and with any denoiser.

A method is an equation: the way of one state from one noise level to the next
(`step`). Everything else is here: noise and keys of each sample, the loop over levels,
batches, the count of evaluations, states that diverge, and whether the method can take
what it is asked to satisfy.
"""

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._checks import whole_number
from ..._progress import advance, progress_bar
from ...types import Condition, Key, Sample, Scalar, Stacked
from .._cost import Clock
from .._foreign import Foreign
from .._prior import SolvedFlow
from .._problem import Problem
from .._sampler import AbstractSampler, Draws, in_chunks
from ._levels import Grid, Now, ratios
from ._target import Spent, Target, aim

_FAR = 100.0  # standard deviations of the data: no data are there
BATCH = 256

NOISY, EXACT = "values with noise", "exact values"
CLOSED = "a constraint with a closed-form projection"
EQUATION, FORWARD = "a constraint such as a Residual", "a forward map"
FOREIGN = "a Foreign forward map"
DIFFERENTIABLE = frozenset({NOISY, EXACT, CLOSED, EQUATION, FORWARD})


class Sampled(eqx.Module):
    """The end of a guided run: of one sample, or of many."""

    x: Array
    fields: Any
    predicted: Any
    latent: Array
    log_likelihood: Array
    fine: Bool[Array, "..."]
    left: Float[Array, "..."]
    spent: Float[Array, "*sample 4"]
    ancestors: Any = None  # of a population
    log_evidence: Any = None
    redrawn: Any = None


class AbstractGuided(AbstractSampler):
    r"""A guided sampler, a method of `infer` for a `ProbabilityFlow`.

        px.infer(flow, observations, constraint, key=key, method=DPS(steps=100))

    States are $u = x/\alpha = x_0 + r\epsilon$ with $r = \sigma/\alpha$, so that a
    method is the same for every process. A final class has the fields `steps`, `grid`
    and `batch_size`, says in `takes` what it can be asked to satisfy, and implements

    - `step(target, state, now, key)`: the state at the next level and what it cost;
    - `bias`: why its samples are not of the posterior.

    It may keep more than $u$ in its state: `begin` makes the first one, `end` the clean
    sample of the last one, `seal` puts exact values into its fields, and `left` says by
    how much they still violate what must hold.
    """

    steps: eqx.AbstractVar[int]
    grid: eqx.AbstractVar[Grid]
    batch_size: eqx.AbstractVar[int]
    takes: ClassVar[frozenset[str]] = DIFFERENTIABLE

    @abc.abstractmethod
    def step(
        self, target: Target, state: PyTree, now: Now, key: Key
    ) -> tuple[PyTree, Spent]:
        """The state at the next level, for one sample, and its cost."""

    @property
    @abc.abstractmethod
    def bias(self) -> str:
        """Why its samples are not of the posterior, however many and small the
        steps.
        """

    def begin(self, target: Target, u: Sample, level: Scalar) -> PyTree:
        """The first state: noise alone, at the first level."""
        return u

    def end(self, target: Target, state: PyTree, key: Key) -> tuple[Sample, Spent]:
        """The clean sample of the last state."""
        return state, Spent()

    def seal(self, target: Target, fields: Stacked) -> Stacked:
        """The fields of the clean sample, as they are returned."""
        return fields

    def left(self, target: Target, fields: Stacked) -> Scalar:
        """The largest violation of what must hold, in units of the coordinates; zero if
        nothing must.
        """
        return jnp.zeros((), fields.dtype)

    def check(self, problem: Problem) -> None:
        """Check what cannot work, before anything is compiled."""

    @property
    def caution(self) -> str:
        return self.bias

    @property
    def advice(self) -> str:
        return (
            "compare with an exact method: PCN() or SMC() on "
            "inference.SolvedFlow(flow), or on a one-step student."
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
        prior = problem.student
        if not isinstance(prior, SolvedFlow):
            raise ValueError(
                f"{type(self).__name__} guides the steps of a teacher: expected a "
                f"ProbabilityFlow as the prior, got {type(prior).__name__}. Pass the "
                "flow; for a student, PCN(), SMC() or RandomisedMaximumLikelihood()."
            )
        _check_taken(self, problem)
        self.check(problem)
        whole_number("batch_size", self.batch_size)
        levels = ratios(prior.flow, self.steps, self.grid)
        target = aim(problem, condition, levels[0], clock.run)
        self._check_rows(target)
        with progress_bar(samples, "infer", "sample", progress) as bar:
            found = self.sampled(
                target, levels, samples, key=key, clock=clock,
                done=lambda n: advance(bar, n),
            )  # fmt: skip
        return self.drawn(found, prior.flow.denoiser.evaluations(condition))

    def _check_rows(self, target: Target) -> None:
        """Check that fewer numbers are prescribed than there are, if they must hold."""
        hard = not {NOISY, FORWARD} & self.takes
        rows = round(sum(float(n) for n in target.counts.values()))
        if hard and rows > (size := math.prod(target.shape)):
            raise ValueError(
                f"{type(self).__name__} satisfies all conditions exactly: expected at "
                f"most {size}, the number of unknowns, got {rows}. Leave some out, or "
                "treat values as noisy, noise=, and take DPS() or ProFlow()."
            )

    def sampled(
        self,
        target: Target,
        levels: Float[Array, " level"],
        samples: int,
        *,
        key: Key,
        clock: Clock,
        done: Any,
    ) -> Sampled:
        """All samples, in batches: each has its own key, and they know nothing of each
        other.
        """
        fixed = (self, target, levels, key)
        return in_chunks(_run, fixed, np.arange(samples), clock=clock, done=done)

    def drawn(self, found: Sampled, each: int) -> Draws:
        """The samples that did not diverge; `each` is the cost of one denoised
        sample.
        """
        fine, left = np.asarray(found.fine), np.asarray(found.left)
        count, lost = len(fine), len(fine) - int(fine.sum())
        if 2 * lost > count:
            raise ValueError(
                f"expected clean samples of the size of the data, got {lost} of "
                f"{count} that diverged under {self}: their entries are not finite, or "
                f"more than {_FAR:g} standard deviations of the data. Lower its "
                "strength, or take more steps."
            )
        held = left <= np.sqrt(np.finfo(left.dtype).eps)
        violated = int((fine & ~held).sum())
        if 2 * violated > count:
            raise ValueError(
                f"expected samples that satisfy what must hold, got {violated} of "
                f"{count} by {type(self).__name__} whose largest violation is "
                f"{left[fine].min():.3g} standard deviations of the data or more. The "
                "conditions contradict each other; or give Gauss-Newton more products."
            )
        fine = fine & held
        failures = {"diverged": lost, "conditions not met": violated}
        network, jvp, vjp, rows = found.spent.sum(axis=0, dtype=float)
        return Draws(
            latent=np.asarray(found.latent)[fine],
            log_likelihood=np.asarray(found.log_likelihood)[fine],
            evaluations=round(each * (network + 1)),  # one for the units
            products=round(each * jvp),
            gradients=round(each * vjp),
            rows=round(rows),
            failed=lost + violated,
            failures={name: n for name, n in failures.items() if n},
            ancestors=None if found.ancestors is None else found.ancestors[fine],
            log_evidence=None if found.ancestors is None else float(found.log_evidence),
            fields=found.fields[fine],
            predicted=None if found.predicted is None else found.predicted[fine],
        )


def one(
    method: AbstractGuided,
    target: Target,
    levels: Float[Array, " level"],
    latent: Sample,
    key: Key,
) -> Sampled:
    """One sample, from its latent to its fields."""
    levels = levels.astype(latent.dtype)
    state = method.begin(target, levels[0] * latent, levels[0])

    def body(carry: Any, now: Now) -> tuple[Any, None]:
        state, spent = carry
        own = jax.random.fold_in(key, now.number)
        state, more = method.step(target, state, now, own)
        return (state, spent.plus(more)), None

    none = jnp.zeros((), int)
    start = (state, Spent(none, none, none, none))
    (state, spent), _ = jax.lax.scan(body, start, each_step(target, levels))
    last = jax.random.fold_in(key, len(levels))
    x, more = method.end(target, state, last)
    return finished(method, target, latent, x, spent.plus(more))


def each_step(target: Target, levels: Float[Array, " level"]) -> Now:
    """The steps between the levels."""
    count = len(levels) - 1
    number = jnp.arange(count)
    done = number.astype(levels.dtype) / count
    size = jnp.broadcast_to(target.size.astype(levels.dtype), done.shape)
    return Now(levels[:-1], levels[1:], done, number, size)


def finished(
    method: AbstractGuided, target: Target, latent: Sample, x: Sample, spent: Spent
) -> Sampled:
    """The fields of a clean sample, and whether it is one."""
    problem = target.problem
    fields = method.seal(target, target.fields(x))
    told, predicted = problem.through(fields)
    value: Scalar = problem.log_likelihood_of(told)
    fine = jnp.sqrt(jnp.mean(jnp.square(x))) < _FAR * target.size
    left = method.left(target, fields) / target.size if target.units else 0.0
    count = jnp.stack([jnp.asarray(n, float) for n in spent])
    returned = told if predicted is None else fields
    left = jnp.asarray(left, x.dtype)
    return Sampled(x, returned, predicted, latent, value, fine, left, count)


@eqx.filter_jit
def _run(fixed: Any, numbers: Int[Array, " sample"]) -> Sampled:
    method, target, levels, key = fixed

    def run(number: Int[Array, ""]) -> Sampled:
        first, second = jax.random.split(jax.random.fold_in(key, number))
        latent = jax.random.normal(first, target.shape)
        return one(method, target, levels, latent, second)

    return jax.lax.map(run, numbers, batch_size=method.batch_size)


def _final(base: type[AbstractGuided]) -> list[type[AbstractGuided]]:
    """The methods of pidax."""
    below = [cls for cls in base.__subclasses__() if "pidax." in cls.__module__]
    found = [cls for cls in below if not cls.__name__.startswith("Abstract")]
    return found + [cls for other in below for cls in _final(other)]


def _asked(problem: Problem) -> set[str]:
    """What the samples are asked to satisfy, in the words of `takes`."""
    noises = [np.asarray(part.noise) for part in problem.linear]
    if (seen := problem.observation) is not None:
        noises.append(np.asarray(seen.noise)[np.asarray(seen.mask)])
    asked = set()
    if any((noise > 0).any() for noise in noises):
        asked.add(NOISY)
    if any((noise == 0).any() for noise in noises):
        asked.add(EXACT)
    if problem.constraint is not None:
        asked.add(CLOSED if problem.constraint.projects else EQUATION)
    if problem.forward is not None:
        asked.add(FOREIGN if isinstance(problem.forward, Foreign) else FORWARD)
    return asked


def _check_taken(method: AbstractGuided, problem: Problem) -> None:
    """Check that a method can take what it is asked for; if not, say which can."""
    asked = _asked(problem)
    refused = sorted(asked - method.takes)
    if not refused:
        return
    others = [cls for cls in _final(AbstractGuided) if asked <= cls.takes]
    names = ", ".join(sorted(f"{cls.__name__}()" for cls in others))
    cure = (
        f"These methods take it: {names}." if names else "No guided sampler takes it."
    )
    raise ValueError(
        f"{type(method).__name__} takes {', '.join(sorted(method.takes))}: got "
        f"{', '.join(refused)}, which it does not. {cure}"
    )
