"""Many truths of an equation, each seen by ten sensors, and every method's answer.

Truths are drawn from the exact prior and solved. Ten points of the solution, the same
for all truths, are measured with independent noise. So the right answer is calibrated:
intervals of a level hold this share of the truths. Means and standard deviations are
compared with a reference: the Gaussian posterior of Poisson's equation, and long chains
for Darcy's. Everything is judged in the *features* of a field: the given field (its
logarithm for Darcy) and the solution, point by point.

- Errors are root mean squares over points and truths, in units of the reference's
  standard deviation. `*_mc` is the error that chance alone gives, from two independent
  halves of the samples: chains, members or runs. `*_within` says whether the rest is
  less than two of its standard errors over truths.
- `running` are wall seconds of one truth's answer, `processor` the seconds that it kept
  a core busy (diagnostics included), which other programs on the machine change less;
  `with_compiling` are of the first call.
- Coverage and CRPS are of three numbers of each truth: the given field at a point, the
  solution at a point without a sensor, and the mean of the solution.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax import pde
from pidax.inference import (
    HMC,
    MALA,
    PCN,
    SMC,
    Ensemble,
    LatentPrior,
    RandomisedMaximumLikelihood,
    effective_samples,
)

from .. import bench

SENSORS = 10
LEVELS = (0.5, 0.9)
PRIOR_DRAWS = 1000  # for the scores of the prior
SEED = 1  # of truths, sensors and noise


def poisson(size: int):
    grid = pde.Grid((size, size))
    return pde.Poisson(grid, pde.Matern(grid, modes=64))


def darcy(size: int):
    return pde.Darcy.lognormal(pde.Grid((size, size)), scale=2.0)


@dataclasses.dataclass(frozen=True)
class Long:
    """Chains that are long enough to be a reference."""

    chains: int = 64
    warmup: int = 2000
    draws: int = 100
    thin: int = 60


SHORT = Long(4, 20, 8, 2)


@dataclasses.dataclass(frozen=True)
class Sensors:
    """An equation, and how its truths are measured.

    `noise` is in standard deviations of the solution at the sensors; `referenced` the
    number of truths, the first ones, whose posterior is known.
    """

    equation_of: Callable[[int], Any]
    size: int
    noise: float = 0.5
    truths: int = 100
    referenced: int = 100
    long: Long | None = None

    @functools.cached_property
    def equation(self):
        return self.equation_of(self.size)

    @functools.cached_property
    def logarithmic(self):
        return isinstance(self.equation, pde.Darcy)

    @functools.cached_property
    def _drawn(self):
        """Truths, and draws of the prior, stacked."""
        keys = jax.random.split(jax.random.key(SEED), self.truths + PRIOR_DRAWS)
        equation = self.equation
        with jax.enable_x64(True):
            one = lambda key: equation.stack(equation.solve(*equation.draw(key=key)))
            return np.asarray(jax.jit(jax.vmap(one))(keys))

    @property
    def fields(self):
        return self._drawn[: self.truths]

    @functools.cached_property
    def prior_draws(self):
        return self._drawn[self.truths :]

    @functools.cached_property
    def places(self):
        """The indices of the sensors, and after them of one point without."""
        inner = np.argwhere(np.ones((self.size - 2, self.size - 2))) + 1
        order = np.random.default_rng(SEED).permutation(len(inner))
        return inner[order[: SENSORS + 1]]

    @functools.cached_property
    def deviation(self):
        """Of the noise."""
        at = tuple(self.places[:SENSORS].T)
        return float(self.noise * self.prior_draws[..., 1].std(axis=0)[at].mean())

    @functools.cached_property
    def mask(self):
        mask = np.zeros((self.size, self.size, 2), bool)
        mask[(*self.places[:SENSORS].T, 1)] = True
        return mask

    def observation(self, i: int):
        """What the sensors say of truth `i`."""
        eta = np.random.default_rng((SEED, i)).normal(size=self.mask.shape)
        values = np.where(self.mask, self.fields[i] + self.deviation * eta, 0.0)
        return px.Observation(self.mask, values.astype(np.float32), self.deviation)

    def features(self, fields):
        """The given field or its logarithm, and the solution, in float64."""
        found = np.array(fields, np.float64)
        if self.logarithmic:
            found[..., 0] = np.log(found[..., 0])
        return found

    def numbers(self, fields):
        """The three numbers that are judged."""
        found = self.features(fields)
        x, y = self.places[SENSORS]
        some = [found[..., x, y, 0], found[..., x, y, 1], found[..., 1].mean((-1, -2))]
        return np.stack(some, axis=-1)

    # --- a student of both fields --------------------------------------------------

    @functools.cached_property
    def student(self):
        """A Gaussian student: its given field has the exact law, and its solution the
        right mean and covariance.
        """
        return Gaussian.of(self.equation).prior

    @property
    def residual(self):
        return px.Residual(self.equation, pde.Normaliser((0.0, 0.0), (1.0, 1.0)))

    # --- references ----------------------------------------------------------------

    def reference(self, i: int, *, quick: bool = False):
        """Mean, standard deviation and their squared Monte Carlo errors."""
        if not self.logarithmic:
            mean, std = gaussian_posterior(self, i)
            return mean, std, np.zeros_like(mean), np.zeros_like(std)
        how = SHORT if quick else self.long
        return bench.kept("reference", long_chains, self, i, how)[0]


class Gaussian(eqx.Module):
    """A given field by its latent e1, and u = m + B e1 + L e2 at the unknowns."""

    given: LatentPrior
    grid: pde.Grid
    mean: Any
    slope: Any
    factor: Any

    @classmethod
    def of(cls, equation, draws=4096):
        """By regression over draws of the equation's fields."""
        given, grid = LatentPrior.of(equation), equation.grid
        e = jax.random.normal(jax.random.key(SEED), (draws, *given.shape))
        solve = lambda e: grid.restrict(equation.solve(given(e)[..., 0]).solution)
        e, u = np.asarray(e, np.float64), np.asarray(jax.jit(jax.vmap(solve))(e))
        u = u.reshape(draws, -1).astype(np.float64)
        mean, e = u.mean(axis=0), e - e.mean(axis=0)
        slope = np.linalg.lstsq(e, u - mean)[0].T
        rest = np.cov((u - mean - e @ slope.T).T)
        tiny = 1e-6 * np.trace(rest) / len(rest)
        factor = np.linalg.cholesky(rest + tiny * np.eye(len(rest)))
        single = lambda a: jnp.asarray(a, jnp.float32)
        return cls(given, grid, single(mean), single(slope), single(factor))

    @property
    def prior(self):
        return LatentPrior(self, (self.given.shape[0] + len(self.factor),))

    def __call__(self, e):
        first, second = jnp.split(e, self.given.shape)
        inner = self.mean + self.slope @ first + self.factor @ second
        u = self.grid.pad(inner.reshape(self.grid.unknown_shape))
        return jnp.stack([self.given(first)[..., 0], u], axis=-1)


def gaussian_posterior(problem: Sensors, i: int):
    """Mean and standard deviation of Poisson's fields, in float64."""
    with jax.enable_x64(True):
        law = problem.equation.law()
        mean, factor = np.asarray(law.mean), np.asarray(law.factor)
    observation = problem.observation(i)
    rows = factor[problem.mask] / problem.deviation
    off = np.asarray(observation.values, np.float64) - mean
    precision = np.eye(factor.shape[-1]) + rows.T @ rows
    best = np.linalg.solve(precision, rows.T @ off[problem.mask] / problem.deviation)
    rest = factor @ np.linalg.inv(np.linalg.cholesky(precision)).T
    return mean + factor @ best, np.sqrt((rest**2).sum(axis=-1))


def long_chains(problem: Sensors, i: int, how: Long):
    """The moments of a truth's posterior, and what the diagnostics say."""
    found = px.infer(
        problem.equation,
        problem.observation(i),
        key=jax.random.fold_in(jax.random.key(SEED), i),
        method=PCN(chains=how.chains, warmup=how.warmup, thin=how.thin),
        samples=how.chains * how.draws,
        progress=False,
    )
    features = problem.features(found.fields)
    both = features.reshape(2, -1, *features.shape[1:])
    mean, std = features.mean(axis=0), features.std(axis=0)
    chance = lambda a: ((a[0] - a[1]) / 2) ** 2
    moments = [mean, std, chance(both.mean(axis=1)), chance(both.std(axis=1))]
    note = {
        "r_hat": found.r_hat,
        "bulk_ess": found.bulk_ess,
        "tail_ess": found.tail_ess,
        "running": found.cost.seconds,
        "solves": found.cost.solves,
    }
    return np.stack(moments), note


# --- methods -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answers of a method of `infer` for the first truths; a method of the suite.

    `runs` of `samples` each, for each truth: two if the samples of one run depend on
    each other. `fewer` are samples and truths where a solve is expensive. `prior` is
    the equation's own given field, with its solver as the forward map, or the Gaussian
    student of both fields, whose residual is penalised. `on` are the problems.
    """

    method: Any
    samples: int
    truths: int = 100
    runs: int = 1
    fewer: tuple[int, int] | None = None
    prior: str = "given"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    on: tuple[str, ...] = ("sensors",)

    def configuration_on(self, problem: Sensors):
        samples, truths = self.sizes(problem)
        own = {name: getattr(self, name) for name in ("runs", "prior", "options")}
        own |= {"method": repr(self.method), "samples": samples, "truths": truths}
        return own | {"long": problem.long}

    def sizes(self, problem):
        expensive = problem.logarithmic and problem.size > 6
        samples, truths = self.samples, self.truths
        if expensive and self.fewer:
            samples, truths = self.fewer
        return samples, min(truths, problem.truths)

    def __call__(self, problem: Sensors, seed, quick) -> bench.Outcome:
        samples, count = (32, 2) if quick else self.sizes(problem)
        tally = Tally(problem)
        problem.observation(0)  # draws the truths, whose seconds are nobody's
        infer = self.infer(problem, samples)
        for i in range(count):
            own = answered(infer, problem, i, seed, self.runs)
            tally.add(i, *own, quick=quick)
        metrics, cost = tally.outcome()
        return bench.Outcome(metrics | {"samples": samples * self.runs}, cost)

    def infer(self, problem: Sensors, samples: int):
        """A function of observation and key."""
        options = dict(self.options)
        if self.prior == "given":
            prior, options["forward"] = problem.equation, problem.equation
        else:
            prior, options["constraint"] = problem.student, problem.residual
        return functools.partial(
            px.infer, prior, samples=samples, method=self.method, progress=False,
            **options,
        )  # fmt: skip


def answered(infer, problem: Sensors, i: int, seed: int, runs: int):
    """Answers for a truth, and the seconds of each: wall, and of the processor."""
    answers, seconds = [], []
    for run in range(runs):
        key = jax.random.key(100 + seed)
        for number in (i, run):
            key = jax.random.fold_in(key, number)
        start = np.array([time.perf_counter(), time.process_time()])
        answers.append(infer(problem.observation(i), key=key))
        end = np.array([time.perf_counter(), time.process_time()])
        seconds.append(end - start)
    return answers, seconds


class Tally:
    """What is kept of each truth's answers, and the numbers of a row."""

    def __init__(self, problem: Sensors):
        self.problem = problem
        self.samples, self.truths, self.rows, self.moments = [], [], [], []
        self.seconds = []

    def add(self, i, answers, seconds, *, quick=False):
        problem, costs = self.problem, [answer.cost for answer in answers]
        self.seconds.append(seconds)
        features = np.stack([problem.features(a.fields) for a in answers])
        numbers = np.concatenate([problem.numbers(a.fields) for a in answers])
        self.samples.append(numbers)
        self.truths.append(problem.numbers(problem.fields[i]))
        total = lambda name: sum(getattr(cost, name) for cost in costs)
        self.rows.append(
            {
                "running": total("seconds"),
                "solves": total("solves"),
                "products": total("jvp") + total("vjp"),
                "r_hat": max(a.r_hat for a in answers),
                "bulk_ess": sum(a.bulk_ess for a in answers),
                "number_ess": self._number_ess(answers),
                "trusted": all(a.trusted for a in answers),
                "failed": sum(a.failed for a in answers),
            }
        )
        if i < (1 if quick else problem.referenced):
            reference = problem.reference(i, quick=quick)
            self.moments.append(compared(features, reference))

    def _number_ess(self, answers):
        """Of the number that is worth least, by plain autocorrelations of chains."""
        if answers[0].chains is None:
            return np.nan
        sizes = 0.0
        for a in answers:
            numbers = self.problem.numbers(a.fields)
            sizes = sizes + effective_samples(numbers.reshape(a.chains, -1, 3))
        return float(np.min(sizes))

    def outcome(self):
        count = min(len(some) for some in self.samples)
        samples = np.stack([some[:count] for some in self.samples], axis=1)
        truths = np.stack(self.truths)
        metrics: dict[str, Any] = {"truths": len(truths)}
        metrics |= coverages(samples, truths)
        metrics |= scores(
            samples, truths, self.problem.numbers(self.problem.prior_draws)
        )
        if self.moments:
            metrics |= {"referenced": len(self.moments), **errors(self.moments)}
        middle = lambda name: finite(np.nanmedian([row[name] for row in self.rows]))
        if not all(np.isnan(row["bulk_ess"]) for row in self.rows):
            metrics["bulk_ess"] = middle("bulk_ess")
        if not all(np.isnan(row["r_hat"]) for row in self.rows):
            metrics["r_hat"] = middle("r_hat")
            metrics["number_ess"] = middle("number_ess")
        metrics["trusted"] = float(np.mean([row["trusted"] for row in self.rows]))
        metrics["failed"] = int(sum(row["failed"] for row in self.rows))
        cost = {
            "running": middle("running"),
            "with_compiling": float(self.seconds[0][0][0]),
            "processor_with_compiling": float(self.seconds[0][0][1]),
            "processor": float(
                np.median([np.sum(s, axis=0)[1] for s in self.seconds[1:]])
            ),
            "solves": middle("solves"),
            "products": middle("products"),
        }
        return metrics, cost


def finite(value):
    return float(value) if np.isfinite(value) else None


def compared(features, reference):
    """Squared errors, and those of chance, for the mean and the standard deviation.

    `features` are `[run, sample, ...]`. One run is split into its halves, which are
    of different chains.
    """
    mean, std, mean_chance, std_chance = reference
    varies = std > 1e-3 * std.max(axis=(0, 1))
    halves = features
    if len(features) == 1:
        half = features.shape[1] // 2
        halves = np.stack([features[0, :half], features[0, half : 2 * half]])
    unit = std[varies]
    own = lambda a: a[:, varies]
    flat = features.reshape(-1, *features.shape[2:])[:, varies]
    means, stds = own(halves.mean(axis=1)), own(halves.std(axis=1, ddof=1))
    off = [flat.mean(axis=0) - mean[varies], flat.std(axis=0, ddof=1) - unit]
    chance = [
        (means[0] - means[1]) ** 2 / 4 + mean_chance[varies],
        (stds[0] - stds[1]) ** 2 / 4 + std_chance[varies],
    ]
    square = lambda a: float(np.mean(a / unit**2))
    ratio = float(np.mean(flat.std(axis=0, ddof=1) / unit))
    return [square(off[0] ** 2), square(chance[0]),
            square(off[1] ** 2), square(chance[1]), ratio]  # fmt: skip


def errors(moments):
    """Over truths: errors, those of chance, and whether nothing else is left."""
    table = np.array(moments)
    found: dict[str, Any] = {}
    for name, at in (("mean", 0), ("std", 2)):
        error, chance = table[:, at], table[:, at + 1]
        rest, spread = error - chance, np.nan
        if len(table) > 1:
            spread = rest.std(ddof=1) / np.sqrt(len(table))
        found[f"{name}_error"] = float(np.sqrt(error.mean()))
        found[f"{name}_mc"] = float(np.sqrt(chance.mean()))
        found[f"{name}_bias"] = float(np.sqrt(max(rest.mean(), 0.0)))
        found[f"{name}_within"] = bool(rest.mean() < 2 * spread)
    found["std_ratio"] = float(table[:, 4].mean())
    return found


def coverages(samples, truths):
    """Shares of truths in central intervals: of each number, and their mean.

    Wilson's interval of the mean is for as many cases as there are truths: the three
    numbers of a truth are not independent.
    """
    found: dict[str, Any] = {}
    for level in LEVELS:
        each = [
            px.metrics.coverage(samples[..., k], truths[:, k], level=level).share
            for k in range(truths.shape[1])
        ]
        share = float(np.mean(each))
        low, high = px.metrics.wilson(share * len(truths), len(truths))
        name = f"coverage_{round(100 * level)}"
        found[name] = share
        found[f"{name}_interval"] = [low, high]
        found[f"{name}_each"] = each
    return found


def scores(samples, truths, prior):
    """1 - CRPS / CRPS of the prior, the mean over the three numbers."""
    wide = np.repeat(prior[:, None], len(truths), axis=1)
    with jax.enable_x64(True):
        own, none = (
            np.asarray(px.metrics.crps(some, truths)).mean(axis=0)
            for some in (samples, wide)
        )
    return {"crps_skill": float(np.mean(1 - own / none))}


@dataclasses.dataclass(frozen=True)
class Reference:
    """The long chains themselves; a method of the suite."""

    def configuration_on(self, problem: Sensors):
        return {"truths": problem.referenced}

    def __call__(self, problem: Sensors, seed, quick) -> bench.Outcome:
        count = 1 if quick else problem.referenced
        how = SHORT if quick else problem.long
        of = lambda i: bench.kept("reference", long_chains, problem, i, how)
        kept = [of(i) for i in range(count)]
        chance = np.array([moments[2:] for moments, _ in kept])
        unit = np.array([moments[1] for moments, _ in kept])
        varies = unit > 1e-3 * unit.max(axis=(0, 1, 2))
        notes = [note for _, note in kept]
        least = lambda name: min(note[name] for note in notes)
        size = lambda k: float(np.sqrt((chance[:, k] / unit**2)[varies].mean()))
        metrics = {
            "truths": count,
            "r_hat": max(note["r_hat"] for note in notes),
            "bulk_ess": least("bulk_ess"),
            "tail_ess": least("tail_ess"),
            "mean_mc": size(0),
            "std_mc": size(1),
        }
        middle = lambda name: float(np.median([note[name] for note in notes]))
        cost = {"running": middle("running"), "solves": middle("solves")}
        return bench.Outcome(metrics, cost)


PROBLEMS = {
    "poisson": Sensors(poisson, 16, truths=40, referenced=40),
    "darcy6": Sensors(darcy, 6, referenced=12, long=Long()),
    "darcy16": Sensors(darcy, 16, truths=32, referenced=0),
}
MINIMA = RandomisedMaximumLikelihood()
LEAPS = HMC(chains=16, warmup=400, thin=4, leaps=16)
SMALL = ("poisson", "darcy6")
BOTH: dict[str, Any] = {"samples": 32, "truths": 25}
METHODS = {
    "PCN": Answered(PCN(chains=16, warmup=600, thin=20), 400),
    "SMC": Answered(SMC(moves=10), 400, truths=25, runs=2),
    "Ensemble": Answered(Ensemble(), 400, truths=50, runs=2),
    "MALA": Answered(
        MALA(chains=16, warmup=600, thin=20), 400, truths=25, on=SMALL
    ),
    "HMC": Answered(
        HMC(chains=16, warmup=200, thin=2, leaps=8), 400, truths=25, on=SMALL
    ),
    "RandomisedMaximumLikelihood": Answered(MINIMA, 64, fewer=(24, 20)),
    "the same, as chains": Answered(
        RandomisedMaximumLikelihood(metropolis=True), 64, truths=12, on=SMALL
    ),
    "free latents, slack on the solution": Answered(
        MINIMA, prior="student", options={"slack": 0.01, "slack_on": "solution"}, **BOTH
    ),
    "free latents, slack on the residual": Answered(
        MINIMA, prior="student", options={"slack": 0.01}, **BOTH
    ),
    "free latents, slack on the residual, HMC": Answered(
        LEAPS, 400, truths=12, prior="student", options={"slack": 0.01},
        on=("darcy6",),
    ),
    "free latents, with the determinant, HMC": Answered(
        LEAPS, 400, truths=12, prior="student",
        options={"slack": 0.01, "determinant": True}, on=("darcy6",),
    ),
}  # fmt: skip


def _register():
    for name, sensors in PROBLEMS.items():
        register = bench.problem(
            "inference", name, kind="sensors", quick=name == "poisson"
        )
        register(lambda quick, sensors=sensors: sensors)
    for name, how in METHODS.items():
        bench.method(
            "inference", f"sensors: {name}", label=name, on=how.on,
            quick=name == "PCN", group="sensors",
        )(how)  # fmt: skip
    bench.method(
        "inference", "sensors: long chains", label="long chains",
        on=("darcy6",), quick=False, group="sensors",
    )(Reference())  # fmt: skip


_register()
