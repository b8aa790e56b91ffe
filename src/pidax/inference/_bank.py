r"""A bank: draws of the prior, solved once, and weighted for each observation.

$$ \epsilon_i \sim N(0, I), \qquad w_i \propto L(y \mid \epsilon_i), \qquad
   \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}, \qquad
   \ln \hat Z = \ln \frac1N \sum_i L(y \mid \epsilon_i). $$

This is importance sampling from the prior (Hammersley & Handscomb 1964; Owen 2013,
"Monte Carlo theory, methods and examples", chapter 9). Nothing has to converge, several
modes keep their weights, and one bank serves every observation of the same quantities.
The effective sample size is about $N e^{-I}$, with $I$ the information that the
observations give in nats: a bank of $10^5$ draws bears some six. Beyond that use `SMC`.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._checks import whole_number
from .._progress import advance, progress_bar
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Condition, Key, WholeLike, typed
from ._cost import Clock
from ._prior import as_prior
from ._problem import Problem
from ._sampler import (
    REFERENCE,
    AbstractSampler,
    Draws,
    at_start,
    in_chunks,
    outputs,
    prior_latents,
)

_SAME = 1e-3  # relative difference of two computations of the same fields


class Bank(AbstractSampler):
    r"""Importance sampling from the prior.

        px.infer(darcy, observation, key=key, method=Bank(count=20_000))

        bank = Bank.of(darcy, key=key, count=1_000_000)   # draws and solves once
        for observation in observations:
            found = px.infer(darcy, observation, key=key, method=bank)

    The samples are drawn from the bank with the probabilities of their weights, so that
    all count the same; some are repeated. The result has `bank_ess`, the effective
    number of draws, `log_evidence`, and the weights' part in `bulk_ess`. Below 200
    effective draws the result says that it is no reference, and what would be.

    **Arguments:** `count`, the number of draws.

    **Cost:** `count` evaluations; of a bank that is filled, two.
    """

    count: int = 100_000
    latent: np.ndarray | None = None
    fields: np.ndarray | None = None
    predicted: np.ndarray | None = None

    def __check_init__(self):
        whole_number("count", self.count, least=2)

    @classmethod
    @typed
    def of(
        cls,
        prior: Any,
        *,
        key: Key,
        count: WholeLike = 100_000,
        forward: Any = None,
        normaliser: AbstractNormaliser | None = None,
        condition: Condition = None,
        progress: bool = True,
    ) -> "Bank":
        """A bank that is filled, for `infer` with the same prior, forward map,
        normaliser and condition.

        It holds all latents and fields on the host: a million draws of 16 x 16 points
        with two fields take 2 GB.
        """
        if forward is None and isinstance(prior, AbstractEquation):
            forward = prior
        problem = Problem(as_prior(prior), forward=forward, normaliser=normaliser)
        empty = cls(int(count))
        return empty._filled(problem, condition, key, Clock(), progress)

    @property
    def advice(self) -> str:
        return "take more draws, or SMC()."

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
        first, second = jax.random.split(key)
        bank, evaluations = self, self.count
        if self.latent is None:
            bank = self._filled(problem, condition, first, clock, progress)
        else:
            evaluations = self._check_same(problem, condition)
        assert bank.latent is not None
        seen = bank.fields if bank.predicted is None else bank.predicted
        value = in_chunks(_valued, problem, seen, clock=clock).astype(np.float64)
        at_start(bank.latent, value, "")
        top = value.max()
        weights = np.exp(value - top)
        total = weights.sum()
        worth = total**2 / (weights**2).sum()
        start = float(jax.random.uniform(second))
        at = (np.arange(samples) + start) / samples * total
        chosen = np.minimum(np.searchsorted(np.cumsum(weights), at), len(value) - 1)
        pick = lambda leaf: None if leaf is None else leaf[chosen]
        return Draws(
            latent=bank.latent[chosen],
            log_likelihood=value[chosen],
            fields=pick(bank.fields),
            predicted=pick(bank.predicted),
            evaluations=evaluations,
            failed=int((~np.isfinite(value)).sum()),
            bank_ess=float(worth),
            log_evidence=float(top + np.log(total / len(value))),
            advice=_advice(value - top, worth, samples, problem),
        )

    def _filled(
        self,
        problem: Problem,
        condition: Condition,
        key: Key,
        clock: Clock,
        progress: bool,
    ) -> "Bank":
        shape = problem.shape
        if shape is None:
            raise ValueError(
                "the shape of one latent is not known, got None from the prior. Pass "
                "shape= to Student."
            )
        latent = np.asarray(prior_latents(key, self.count, shape))
        with progress_bar(self.count, "bank", "draw", progress) as bar:
            done = lambda count: advance(bar, count)
            found = outputs(problem, latent, condition, clock, done)
        fields, predicted, _ = found
        return dataclasses.replace(
            self, latent=latent, fields=fields, predicted=predicted
        )

    def _check_same(self, problem: Problem, condition: Condition) -> int:
        """Check that the bank is of this prior and forward map, by two of its draws."""
        assert self.latent is not None
        few = self.latent[:2]
        if few.shape[1:] == problem.shape:
            *found, _ = outputs(problem, few, condition, Clock())
            stored = self.fields, self.predicted
            if all(map(_alike, found, stored)):
                return len(few)
        raise ValueError(
            "a bank is of one prior and one forward map: expected its first draws to "
            "have the fields that are stored, got others. Call infer with the "
            "arguments of Bank.of, or fill a new bank."
        )


def _alike(found: Any, stored: Any) -> bool:
    if found is None or stored is None:
        return found is stored
    few = stored[: len(found)]
    if found.shape != few.shape:
        return False
    size = _SAME * np.nanstd(stored[:1000])
    return np.allclose(found, few, _SAME, size, equal_nan=True)


@eqx.filter_jit
def _valued(problem: Problem, seen: Any) -> Any:
    return jax.lax.map(problem.log_likelihood_of, seen, batch_size=256)


def _advice(value: np.ndarray, worth: float, samples: int, problem: Problem) -> str:
    """What would be worth enough: more draws, more noise, or fewer observed values.

    With all noise multiplied by f the logarithm of the likelihood is divided by its
    square. A share of the values, if they tell alike, has this share of it on average.
    """
    if worth >= REFERENCE:
        return f"take more samples than {samples}, or more draws than {len(value)}."
    low, high = 0.0, 1.0  # temperatures
    for _ in range(40):
        middle = (low + high) / 2
        w = np.exp(middle * value)
        enough = w.sum() ** 2 / (w**2).sum() >= REFERENCE
        low, high = (middle, high) if enough else (low, middle)
    draws = float(f"{len(value) * REFERENCE / worth:.1e}")
    noise = "" if low == 0 else f", noise {low**-0.5:.2g} times as large"
    count = _observed(problem)
    fewer = int(low * count)
    values = (
        f", about {fewer} of the {count} observed values" if 0 < fewer < count else ""
    )
    return (
        f"take about {draws:,.0f} draws{noise}{values}, or SMC(), whose particles move."
    )


def _observed(problem: Problem) -> int:
    """The number of observed values."""
    seen = problem.observation
    own = 0 if seen is None else int(np.asarray(seen.mask).sum())
    return own + sum(part.values.size for part in problem.linear)
