r"""Posterior samples of fields, with the diagnostics that say whether to believe them.

$$ p(\epsilon \mid y) \propto N(\epsilon; 0, I)\;
   \exp\Bigl(-\tfrac12 \Bigl|\frac{G(d(\epsilon)) - y}{s}\Bigr|^2\Bigr), $$

with $d$ the prior, a function of a standard normal latent, and $G$ the forward map from
its fields to what was observed. Methods differ in how they sample this law: by Markov
chains (`PCN`), by particles (`SMC`), by weights (`Bank`), by regressions (`Ensemble`)
or by minimisation (`RandomisedMaximumLikelihood`, which is `refine`). A one-step
student makes each proposal one evaluation of a network. Guided samplers (`DPS` and
others) need no student: they bend the steps of a teacher's sampler.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_traced, require_positive, whole_number
from ..constraint import AbstractConstraint, All, Residual
from ..flow import ProbabilityFlow
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Batch, Condition, Key, ScalarLike, WholeLike, typed
from ._chains import PCN
from ._cost import Clock, Cost, Training
from ._foreign import Foreign
from ._guided import AbstractGuided, DFlow
from ._posterior import Posterior, diagnosed
from ._prior import SolvedFlow, as_prior, evaluations_of
from ._problem import Problem
from ._randomised import CHAINS, RandomisedMaximumLikelihood, metropolis
from ._refine import Refined, in_batches
from ._sampler import (
    APPROXIMATE,
    COMPARE,
    LONGER,
    AbstractSampler,
    Draws,
    outputs,
    prior_latents,
)
from ._start import default_slack, likelihood_at, measure

_STARTS = 64  # draws of the prior that are looked at before anything is sampled
_TRIED = 8  # of them, with a foreign solver
_OF_A_TEACHER = 16  # of which each is a solve
_TILTED = (
    "the law of a penalised residual is the posterior times 1/|det dR/du|, which may "
    "depend on the given fields"
)
_STRAIGHT = (
    'pass forward=equation without a constraint, slack_on="solution", or '
    "determinant=True; and if the chains disagree, run longer."
)


@typed
def infer(
    prior: Any,
    observations: AbstractConstraint | None = None,
    constraint: AbstractConstraint | None = None,
    *,
    key: Key,
    method: AbstractSampler | RandomisedMaximumLikelihood | DFlow | None = None,
    samples: WholeLike = 2000,
    forward: Any = None,
    normaliser: AbstractNormaliser | None = None,
    condition: Condition = None,
    slack: ScalarLike | None = None,
    slack_on: str = "residual",
    determinant: bool = False,
    training: Training | None = None,
    progress: bool = True,
) -> Posterior:
    r"""Samples of the posterior of a prior, given observations.

        px.infer(student, observation, key=key)                 # the student's fields
        px.infer(student, observation, forward=darcy, key=key)  # its a, solved for u
        px.infer(darcy, observation, key=key)                   # the exact prior
        px.infer(student, observation, forward=Foreign(run, (9,)), key=key)
        px.infer(flow, observation, key=key, method=px.inference.DPS())  # a teacher

    Print the result: its first line says whether to believe it, and the second what to
    do if not.

    **Arguments:**

    - `prior`: a one-step student; a `LatentPrior`, any function of a standard normal
      latent; a `Gaussian`, `GaussianMixture` or random field; an equation, whose
      random given field is the prior and whose solver is the forward map; or a teacher,
      a `ProbabilityFlow`, with a guided sampler as the method.
    - `observations`: an `Observation`, an `Affine` with noise, or several joined by
      `&`, of the output of the forward map. Chains, particles and ensembles need noise
      in every value.
    - `constraint`: a `Residual`, if the fields need not satisfy an equation by
      themselves. It adds $-|R/(\text{scale}\cdot\text{slack})|^2/2$ to the
      log-likelihood. For a small slack this samples the posterior times
      $1/|\det\partial R/\partial u|$: right if the determinant does not depend on the
      given fields. With `slack_on="solution"` it adds the same of $u - S(a)$, whose
      determinant is 1, for a solution of the equation each time. `forward=equation`
      needs no slack at all. `slack` is by default the student's own residual, as for
      `refine`; the result has it.
    - `determinant`: add $\ln|\det\partial R/\partial u|$ to the log-likelihood, which
      takes this factor away, for one `equation.log_determinant` in each evaluation.
      `Darcy` has one. For chains, particles, and minima with weights.
    - `method`: `PCN()` by default, or `SMC()`, `Bank()`, `MALA()`, `HMC()`,
      `Ensemble()`, `RandomisedMaximumLikelihood()`; for a teacher, `DPS()`, `PiGDM()`
      and the other guided samplers, which may also be asked for nothing.
    - `samples`: the number of samples; of the particles or members, of all chains
      together.
    - `forward`: from the prior's fields to what is observed. An equation: its solver,
      for the given fields among them. A function of JAX. A `Foreign` solver, for every
      method without derivatives. None: the prior's own fields.
    - `normaliser`: the coordinates of the student, if neither observations nor
      constraint have it.
    - `condition`: passed to the student, the same for all samples.
    - `training`: the cost of the student's training, for the result's `cost`.
    """
    if is_traced((prior, observations, constraint)):
        raise ValueError(
            "infer compiles, times and checks its own runs: expected to be called from "
            "Python, got traced arguments. Call it outside jax.jit, vmap and grad."
        )
    guided = isinstance(method, AbstractGuided)
    if observations is None and constraint is None and not guided:
        raise ValueError(
            "expected observations to condition on, got none, and no constraint: the "
            "posterior is the prior. Sample it: px.sample(student, count, key=key)."
        )
    require_positive(slack=1.0 if slack is None else slack)
    samples = whole_number("samples", samples)
    method = PCN() if method is None else method
    if forward is None and isinstance(prior, AbstractEquation):
        forward = prior
    if isinstance(prior, ProbabilityFlow) and isinstance(method, DFlow):
        prior = SolvedFlow(prior, method.steps)
    elif guided and isinstance(prior, ProbabilityFlow):
        prior = SolvedFlow(prior)
    prior = as_prior(prior)
    if isinstance(forward, Foreign):
        forward.record.failures.clear()
    problem = Problem(
        prior, observations, constraint, scale=1.0, exact_noise=1.0, forward=forward,
        normaliser=normaliser, slack_on=slack_on, determinant=determinant,
    )  # fmt: skip
    if isinstance(method, RandomisedMaximumLikelihood | DFlow):
        if method.metropolis:  # chains of one length, of which each can be halved
            samples = CHAINS * max(4, -(-samples // CHAINS))
        refined = in_batches(
            problem,
            key=key,
            samples=samples,
            condition=_repeated(condition, samples),
            slack=slack,
            training=training,
            progress=progress,
            **method.options,
        )
        return _of_refined(refined, method, problem, condition, key)
    if not guided:
        _check_noise(problem, method)
    first, second = jax.random.split(key)
    clock = Clock()
    problem, looked, used = _prepared(problem, condition, first, slack, guided)
    draws = method.draw(
        problem, condition, samples, key=second, clock=clock, progress=progress
    )
    failures = dict(draws.failures)
    failures |= forward.record.failures if isinstance(forward, Foreign) else {}
    fields, predicted, again = draws.fields, draws.predicted, 0
    if fields is None:
        fields, predicted, again = outputs(problem, draws.latent, condition, clock)
    each, rows = (
        evaluations_of(prior, condition),
        float(draws.evaluations + looked + again),
    )
    network = each * rows
    if draws.rows is not None:  # a guided sampler counts its teacher's evaluations
        network, rows = draws.evaluations + each * looked, float(draws.rows + looked)
    name = type(method).__name__
    tilted, advice = _tilted(problem), draws.advice or method.advice
    return Posterior(
        fields=fields,
        predicted=predicted,
        latent=draws.latent,
        log_likelihood=draws.log_likelihood,
        method=name,
        caution=method.caution or tilted,
        cost=Cost(
            samples=len(fields),
            network=network,
            jvp=float(draws.products),
            vjp=float(draws.gradients),
            residual=0.0 if problem.constraint is None else rows,
            solves=rows if problem.solves else 0.0,
            seconds=clock.running,
            compiling=clock.compiling,
            training=Training() if training is None else training,
        ),
        chains=draws.chains,
        acceptance=draws.acceptance,
        step=draws.step,
        temperatures=draws.temperatures,
        log_evidence=draws.log_evidence,
        failed=draws.failed,
        failures=failures,
        slack=used,
        advice=_STRAIGHT if tilted and not method.caution else advice,
        bank_ess=draws.bank_ess,
        **diagnosed(draws, fields),
    )


def _tilted(problem: Problem) -> str:
    """Whether the determinant of a penalised residual may depend on the given fields,
    and nothing corrects it.
    """
    if problem.slack_on == "solution" or problem.determinant:
        return ""
    parts = [] if problem.constraint is None else All([problem.constraint]).parts
    equations = [part.equation for part in parts if isinstance(part, Residual)]
    constant = all(equation.constant_determinant for equation in equations)
    return "" if constant else _TILTED


def _check_noise(problem: Problem, method: Any) -> None:
    """Check that every value has noise."""
    if exact := _exact_values(problem):
        raise ValueError(
            f"{type(method).__name__} samples a likelihood: expected values with "
            f"noise, got {exact} that are exact, which no draw of the prior has. Pass "
            "noise=, the standard deviation of the measurement; or "
            "method=RandomisedMaximumLikelihood(), which fits exact values."
        )


def _exact_values(problem: Problem) -> int:
    """The number of values without noise."""
    exact = sum(int((np.asarray(part.noise) == 0).sum()) for part in problem.linear)
    if problem.observation is not None:
        exact += int(np.asarray(problem.observation.exact).sum())
    return exact


def _prepared(
    problem: Problem,
    condition: Condition,
    key: Key,
    slack: ScalarLike | None,
    guided: bool,
) -> tuple[Problem, int, float]:
    """The problem with the scale of its residual, the number of prior draws that were
    looked at, and the slack, NaN without a constraint.
    """
    shape = problem.shape
    if shape is None:
        raise ValueError(
            "the shape of one sample is not known, got None from the prior and the "
            "observations. Pass shape= to Student."
        )
    if guided and problem.constraint is None and not _exact_values(problem):
        return problem, 0, np.nan
    starts = _OF_A_TEACHER if isinstance(problem.student, SolvedFlow) else _STARTS
    latents = prior_latents(key, starts, shape)
    if isinstance(problem.forward, Foreign):
        problem.forward.check(_own_fields(problem, latents[:_TRIED], condition))
        if problem.constraint is None:
            return problem, _TRIED, np.nan
    start = measure(problem, (latents, _repeated(condition, starts)))
    start = jax.tree.map(np.asarray, start)
    if not start.finite.any():
        raise ValueError(
            "expected draws of the prior whose fields, and what the forward map makes "
            f"of them, are finite, got none of {starts}. The student is not trained, "
            "or the forward map does not bear such fields."
        )
    fine = jax.tree.map(lambda leaf: leaf[start.finite], start)
    used = default_slack(problem, fine) if slack is None else float(slack)
    noise, linear_noise, scale = likelihood_at(problem, fine, used, 1.0)
    absent = lambda leaf: leaf is None
    problem = eqx.tree_at(
        lambda p: (p.noise, p.linear_noise, p.scale),
        problem,
        (noise, linear_noise, scale),
        is_leaf=absent,
    )
    return problem, starts, np.nan if problem.constraint is None else used


def _repeated(condition: Condition, count: int) -> Condition:
    """The same condition for every sample."""
    spread = lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (count, *np.shape(leaf)))
    return jax.tree.map(spread, condition)


def _own_fields(problem: Problem, latents: Batch, condition: Condition) -> np.ndarray:
    """Before the forward map."""
    one = lambda latent: problem.own_fields(problem.sample(latent, condition))
    return np.asarray(eqx.filter_jit(jax.vmap(one))(latents))


def _of_refined(
    refined: Refined,
    method: RandomisedMaximumLikelihood | DFlow,
    problem: Problem,
    condition: Condition,
    key: Key,
) -> Posterior:
    """The same result for samples that were found by minimisation."""
    fields, predicted = refined.fields, None
    if problem.forward is not None and not isinstance(
        problem.forward, AbstractEquation
    ):
        fields, predicted, _ = outputs(problem, refined.latent, condition, Clock())
    done = int(refined.converged.sum())
    count = len(refined.fields)
    late = f"{count - done} of {count} did not stop by tolerance: allow more steps, or "
    late = f"{late}more slack; " if done < count else ""
    caution, advice = method.caution or APPROXIMATE, COMPARE
    weights, tilted = refined.weights, _tilted(problem)
    how: dict[str, Any] = {"bulk_ess": refined.effective}
    index = np.arange(count)
    value = _of_noisy(problem, refined.fields)
    if method.metropolis:
        assert refined.log_weights is not None
        uniform = jax.random.uniform(jax.random.fold_in(key, 1), (count,))
        index, accepted = metropolis(refined.log_weights, np.asarray(uniform))
        draws = Draws(refined.latent[index], value[index], 0, chains=CHAINS)
        how = diagnosed(draws, fields[index])
        how |= {"acceptance": accepted, "chains": CHAINS}
        caution, weights = tilted, None
        advice = _STRAIGHT if tilted else f"take {LONGER} times as many samples."
    elif weights is not None:
        caution = tilted or "right only in means with `weights`"
        advice = "take means with `weights`, or samples with metropolis=True."
        advice = _STRAIGHT if tilted else advice
    return Posterior(
        fields=fields[index],
        predicted=None if predicted is None else predicted[index],
        latent=refined.latent[index],
        log_likelihood=value[index],
        method=type(method).__name__,
        caution=caution,
        cost=refined.cost,
        weights=weights,
        failed=int(refined.failed.sum()),
        slack=refined.slack,
        refined=refined,
        advice=late + advice,
        **how,
    )


def _of_noisy(problem: Problem, outputs: np.ndarray) -> np.ndarray:
    """The log-likelihood of the values that have noise, as they were observed."""
    parts = [*problem.linear]
    parts += [] if problem.observation is None else [problem.observation]
    total = np.zeros(len(outputs))
    for part in parts:
        off = np.asarray(jax.vmap(part.residual_of)(jnp.asarray(outputs)), np.float64)
        noise = np.asarray(part.noise, np.float64)
        some = noise > 0
        total -= 0.5 * np.square(off[:, some] / noise[some]).sum(axis=1)
    return total
