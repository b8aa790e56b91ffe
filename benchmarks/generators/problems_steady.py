r"""Channels with Darcy's flow, and backward shocks: truths, sensors, banks of draws.

A truth is a draw of the law. Sensors say something of it, with noise. What is judged is
a number or a field that the sensors do not say: the logarithm of the flow through
channels and whether they connect two sides; the initial field of merged shocks.

A *bank* is many draws of the prior with their solutions, made once; reweighted by the
likelihood it answers for every truth, with an error of Monte Carlo alone. It is the
reference if its weights are worth 200 samples. The *training set* is a small bank: what
a learned prior is trained on, and so what it must beat.

- `crps` is of the target, by weighted samples, $E|X - y| - E|X - X'|/2$: the mean over
  truths, and the half width of its 95% interval over truths. With few effective
  samples it is too large on average.
- `effective` is $1/\sum w^2$: its median and its least over truths.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solveh_banded
from scipy.stats import norm

from pidax import metrics, pde

from .. import bench

SEEDS = (0, 1, 2)
TRUTHS = 10_000  # the seed of the truths; banks have 0, 1, 2, ...
TRAINING = 100  # is added to the seed of a training set
BATCH = 500
LEAST = 1e-12  # weights below it are left out


def drawn(problem, count, seed):
    """What sensors would see of draws, without noise, and the targets: one row each."""
    step = min(BATCH, count)
    some, rows = jax.jit(jax.vmap(problem.given)), []
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), count)
        for i in range(0, count, step):
            seen = problem.solved(some(keys[i : i + step]))
            rows.append(np.asarray(seen, np.float32))
    return np.concatenate(rows)


def heads_and_flow(a):
    """Darcy's heads, 1 and 0 at the ends of the first axis, and the flow.

    The discretisation of `pde.Darcy.channels`, by SciPy's banded Cholesky: at 16 x 16
    faster than conjugate gradients, which materials of 100 to 1 hold up.
    """
    n, m = a.shape
    band = np.zeros((m + 1, n, m))  # the diagonal, and what is 1 and m below it
    across = 2 / (1 / a[1:] + 1 / a[:-1]) * n / m
    along = 2 / (1 / a[:, 1:] + 1 / a[:, :-1]) * m / n
    band[0, 1:] += across
    band[0, :-1] += across
    band[0, :, 1:] += along
    band[0, :, :-1] += along
    ends = 2 * a * n / m
    band[0, 0] += ends[0]
    band[0, -1] += ends[-1]
    band[1, :, :-1] = -along
    band[m, :-1] = -across
    load = np.zeros((n, m))
    load[0] = ends[0]
    u = solveh_banded(band.reshape(m + 1, -1), load.ravel(), lower=True).reshape(n, m)
    return u, float((ends[0] * (1 - u[0])).sum())


@dataclasses.dataclass(frozen=True)
class Channels:
    """Material at wells, a share of it wrong, and heads there; ln Q and connection."""

    size: int = 16
    truths: int = 100
    wells: tuple[int, ...] = (2, 8, 13)  # along both axes
    wrong: float = 0.02
    noise: float = 0.05
    bank: int = 30_000
    training: int = 2000

    @functools.cached_property
    def equation(self):
        return pde.Darcy.channels((self.size, self.size))

    @property
    def sensors(self):
        return 2 * len(self.wells) ** 2

    def given(self, key):
        return self.equation.draw(key=key)[0]

    @property
    def shape(self):
        return (self.size, self.size)

    def to_model(self, a):
        """1 in channels, or -1."""
        return np.where(a > 10, 1.0, -1.0).astype(np.float32)

    def to_given(self, x):
        law: Any = self.equation.coefficient
        return jnp.where(x > 0, law.high, law.low).astype(float)

    def images(self, x):
        """With their mirror images, which are as likely."""
        both = np.concatenate([x, x[:, ::-1]])
        return np.concatenate([both, both[:, :, ::-1]])

    def solved(self, a):
        """Of a batch of media: one banded factorisation each."""
        heads, flow = zip(*map(heads_and_flow, np.asarray(a)), strict=True)
        fields = pde.DarcyFields(a, jnp.stack(heads))
        return self._looks(fields, jnp.asarray(flow))

    @functools.cached_property
    def _looks(self):
        return jax.jit(jax.vmap(self.look))

    def look(self, fields, flow):
        """What sensors see of fields, and the targets."""
        at = np.ix_(self.wells, self.wells)
        inside = fields.coefficient > 10
        seen = [inside[at].ravel().astype(flow.dtype), fields.solution[at].ravel()]
        crossing = metrics.connects(inside).astype(flow.dtype)
        return jnp.concatenate([*seen, jnp.log(flow)[None], crossing[None]])

    def measured(self, rows, rng):
        """What the sensors say of each truth."""
        half = self.sensors // 2
        flips = rng.random((len(rows), half)) < self.wrong
        material = np.where(flips, 1 - rows[:, :half], rows[:, :half])
        heads = rows[:, half : 2 * half]
        return np.concatenate(
            [material, heads + self.noise * rng.normal(size=heads.shape)], axis=1
        )

    def log_likelihood(self, rows, said):
        half = self.sensors // 2
        agree = (rows[:, :half] == said[:half]).sum(axis=1)
        off = (rows[:, half : 2 * half] - said[half:]) / self.noise
        return agree * np.log(1 / self.wrong - 1) - 0.5 * (off**2).sum(axis=1)

    def targets(self, rows):
        """The numbers that are judged by CRPS."""
        return rows[:, [self.sensors]]

    def events(self, rows):
        return rows[:, self.sensors + 1] > 0.5


@dataclasses.dataclass(frozen=True)
class Shocks:
    """Sensors of the last row of Godunov's scheme; the initial field is judged."""

    size: int = 64
    truths: int = 100
    sensors: int = 6
    noise: float = 0.07
    bank: int = 60_000
    training: int = 2000

    @functools.cached_property
    def equation(self):
        circle = pde.Grid((self.size,), layout="cells", boundary=pde.Periodic())
        return pde.PeriodicInviscidBurgers(circle, rows=2, substeps=5 * self.size // 8)

    def given(self, key):
        return self.equation.draw(key=key)[0]

    @property
    def shape(self):
        return (self.size,)

    def to_model(self, u):
        return u.astype(np.float32)

    def to_given(self, x):
        return jnp.clip(jnp.asarray(x, float), -1.0, 1.0)  # the law's interval

    def images(self, x):
        """With all shifts along the circle, which are as likely."""
        return np.concatenate([np.roll(x, i, axis=1) for i in range(self.size)])

    @functools.cached_property
    def solved(self):
        return jax.jit(jax.vmap(lambda u: self.look(*self.equation.solve(u))))

    def look(self, initial, solution):
        """What sensors see of fields, and the targets."""
        places = (np.arange(self.sensors) * self.size) // self.sensors
        return jnp.concatenate([solution[-1][places], initial])

    def measured(self, rows, rng):
        seen = rows[:, : self.sensors]
        return seen + self.noise * rng.normal(size=seen.shape)

    def log_likelihood(self, rows, said):
        off = (rows[:, : self.sensors] - said) / self.noise
        return -0.5 * (off**2).sum(axis=1)

    def targets(self, rows):
        return rows[:, self.sensors :]

    def events(self, rows):
        return None


PROBLEMS = {"channels": Channels(), "shocks": Shocks()}
QUICK = {"truths": 3, "bank": 40, "training": 20}


def weighted_crps(samples, weights, truth):
    """$E|X - y| - E|X - X'|/2$ of each column of samples."""
    order = np.argsort(samples, axis=0)
    x, w = np.take_along_axis(samples, order, axis=0), weights[order]
    pairs = (w * x * (2 * np.cumsum(w, axis=0) - w - 1)).sum(axis=0)
    return (w * np.abs(x - truth)).sum(axis=0) - pairs


@dataclasses.dataclass(frozen=True)
class Reweighted:
    """Draws of the prior, weighted by the likelihood or not: a method."""

    size_of: str  # the field of the problem that says how many draws
    weigh: bool = True

    def count_on(self, problem):
        return getattr(problem, self.size_of)

    def configuration_on(self, problem):
        return {"draws": self.count_on(problem), "weigh": self.weigh}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        count = self.count_on(problem)
        rows, note = self.rows(problem, count, seed, quick)
        truth, _ = bench.kept("bank", drawn, problem, problem.truths, TRUTHS)
        said = problem.measured(truth, np.random.default_rng(TRUTHS))
        start = time.perf_counter()
        scores = [self.answer(problem, rows, *one) for one in zip(truth, said)]  # noqa: B905
        spent = time.perf_counter() - start
        metrics = summary(scores) | {"draws": len(rows)}
        metrics |= {name: note[name] for name in note if name.startswith("student_")}
        cost = {"bank_seconds": note["seconds"], "answer_seconds": spent / len(truth)}
        return bench.Outcome(metrics, cost | {"solves": count})

    def rows(self, problem, count, seed, quick):
        """What sensors see of the draws, and a note about them."""
        # A training set has draws of its own, not the first ones of the bank.
        own = seed + TRAINING * (self.size_of == "training")
        return bench.kept("bank", drawn, problem, count, own)

    def answer(self, problem, rows, truth, said) -> dict[str, float]:
        """The scores of one truth."""
        log = np.zeros(len(rows))
        if self.weigh:
            log = problem.log_likelihood(rows, said)
        weights = np.exp(log - log.max())
        weights = weights / weights.sum()
        kept = weights > LEAST
        one, w = truth[None], weights[kept]
        x, y = problem.targets(rows[kept]), problem.targets(one)
        found = {"crps": float(weighted_crps(x, w, y).mean())}
        found["effective"] = float(1 / (weights**2).sum())
        events = problem.events(rows[kept])
        if events is not None:
            found["brier"] = float((w @ events - problem.events(one)[0]) ** 2)
        return found


@dataclasses.dataclass(frozen=True)
class Large(Reweighted):
    """A bank of very many draws of the exact law: the reference; a method."""

    draws: int = 1_000_000

    def count_on(self, problem):
        return min(self.draws, 50 * problem.bank)  # a trial run is small


def summary(scores) -> dict[str, Any]:
    """Means over truths with intervals, and the effective sizes."""
    found: dict[str, Any] = {"truths": len(scores)}
    for name in ("crps", "brier"):
        if name in scores[0]:
            some = np.array([score[name] for score in scores])
            half = float(norm.ppf(0.975) * some.std(ddof=1) / len(some) ** 0.5)
            found[name], found[f"{name}_half_width"] = float(some.mean()), half
    sizes = np.array([score["effective"] for score in scores])
    found["effective_median"] = float(np.median(sizes))
    found["effective_least"] = float(sizes.min())
    found["reference"] = bool(sizes.min() >= 200)
    found["share_of_200"] = float((sizes >= 200).mean())
    return found


METHODS = {
    "prior": Reweighted("training", weigh=False),
    "bank": Reweighted("bank"),
    "training set": Reweighted("training"),
    "large bank": Large("bank"),
}


def _register():
    for name, problem in PROBLEMS.items():

        @bench.problem("generators", name, kind="steady")
        def make(quick, problem=problem):
            return dataclasses.replace(problem, **QUICK) if quick else problem

    for name, method in METHODS.items():
        bench.method("generators", name, on=("steady",), seeds=SEEDS)(method)


_register()
