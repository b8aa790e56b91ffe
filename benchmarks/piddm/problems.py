"""The problems on which PIDDM is measured: fields, coordinates, a teacher.

Fields are drawn from their equation, coordinates fitted to the training part, and the
teacher trained on it by denoising score matching, once for each seed. `poisson16-exact`
has the exact Gaussian teacher in place of a trained one.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px
from pidax import pde

from .. import bench

SOLVE: Any = {"rtol": 1e-2, "atol": 1e-2}  # of pairs and of the teacher's samples
BLOCK = 2048


@dataclasses.dataclass(frozen=True)
class Data:
    """Fields of an equation: some to train on, some held out."""

    equation: Callable[[], pde.AbstractEquation]
    train: int = 8192
    test: int = 4096


@dataclasses.dataclass(frozen=True)
class Chart:
    """The coordinates in which fields are learned: `pde.Whitened`."""

    positive: tuple[int, ...] = ()
    rough: bool = True
    damping: float = 0.1
    rank: int | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """A network and how long it is trained, as a teacher and as a student."""

    width: int = 512
    depth: int = 4
    teacher_steps: int = 1000
    student_steps: int = 1500
    batch_size: int = 256

    def network(self, chart, key):
        """One for what is given, one for what it leaves unexplained, if anything."""
        return px.nn.blockwise(
            chart.blocks, width=self.width, depth=self.depth, key=key
        )

    def fit(self, model, objective, steps, seed, *, rate=1e-3, **options):
        """The run, and the seconds that it took."""
        start = time.perf_counter()
        result = px.fit(
            model, objective, steps=steps, batch_size=self.batch_size,
            key=jax.random.fold_in(jax.random.key(seed), 7),
            optimiser=optax.adam(px.warmup_cosine(rate, steps=steps), b2=0.99),
            ema=(0.99,), progress=False, log_every=max(steps // 8, 1), **options,
        )  # fmt: skip
        return result, time.perf_counter() - start


@dataclasses.dataclass(frozen=True, eq=False)
class Fields:
    """An equation's fields, their coordinates, and students of the teacher in them."""

    data: Data
    chart: Chart
    training: Training = Training()
    exact: bool = False  # the teacher is the law of the fields, not a network
    pairs: int = 8192
    samples: int = 2048
    resamples: int = 20  # of the report

    def configuration(self):
        """What samples are made of; how many of them are judged, methods say."""
        parts = ("data", "chart", "training", "exact", "pairs")
        return {name: getattr(self, name) for name in parts}

    @functools.cached_property
    def equation(self):
        return self.data.equation()

    @functools.cached_property
    def _fields(self):
        return bench.kept("fields", draw, self.data)[0]

    @property
    def train(self):
        return self._fields[: self.data.train]

    @property
    def test(self):
        return self._fields[self.data.train :]

    @functools.cached_property
    def normaliser(self):
        return bench.kept("chart", fit_chart, self.data, self.chart)[0]

    @property
    def shape(self):
        return self.normaliser.shape or self.test.shape[1:]

    @property
    def process(self):
        return px.EDM(sigma_data=1.0)

    @property
    def constraint(self):
        """For refinement: every coordinate may move."""
        return px.Residual(self.equation, self.normaliser)

    @property
    def training_constraint(self):
        """For students: what is given is drawn as the teacher draws it."""
        return px.Residual(self.equation, self.normaliser, adjust="unknowns")

    @functools.cached_property
    def _at(self) -> dict[int, "Seeded"]:
        return {}

    def at(self, seed: int) -> "Seeded":
        """The teacher and the draws of this seed."""
        return self._at.setdefault(seed, Seeded(self, seed))

    def restore(self, x):
        """Physical fields, in float64, as a report takes them."""
        with jax.enable_x64(True):
            return np.asarray(self.normaliser.restore(np.asarray(x, np.float64)))


@dataclasses.dataclass(frozen=True, eq=False)
class Seeded:
    """What the rows of one seed share, made when first asked for."""

    problem: Fields
    seed: int

    @functools.cached_property
    def teacher(self):
        """The denoiser, and the seconds of its training."""
        problem = self.problem
        if problem.exact:
            return law(problem), 0.0
        recipe = problem.data, problem.chart, problem.training, self.seed
        teacher, note = bench.kept("teacher", teach, *recipe)
        return teacher, note["training_seconds"]

    @functools.cached_property
    def flow(self):
        return px.ProbabilityFlow(self.teacher[0], self.problem.process)

    @functools.cached_property
    def z(self):
        """The draws of all samples."""
        key = jax.random.fold_in(jax.random.key(self.seed), 5)
        count = self.problem.samples
        return self.problem.process.prior(key, (count, *self.problem.shape))

    def gaussian(self):
        """Independent normal coordinates, each of its variance over the fields."""
        data = np.asarray(self.problem.normaliser.normalise(self.problem.train))
        return self.z / self.problem.process.t_max * data.std(axis=0)


def solved(flow, z):
    """A teacher's samples for these draws, and its evaluations for each."""
    times = jnp.asarray([flow.process.t_max, flow.process.t_min], float)
    parts, calls = [], 0.0
    for at in range(0, len(z), BLOCK):
        some = z[at : at + BLOCK]
        path = px.solve_batch(flow, some, times=times, **SOLVE)
        parts.append(np.asarray(path.xs[:, -1]))
        calls += float(path.stats["evaluations"]) * len(some)
    return np.concatenate(parts), calls / len(z)


# --- what is kept --------------------------------------------------------------------


def draw(data: Data):
    """Fields for training, then held-out ones; the same for every seed."""
    equation, count = data.equation(), data.train + data.test
    with jax.enable_x64(True):
        parts = []
        for i, at in enumerate(range(0, count, 4096)):
            key = jax.random.fold_in(jax.random.key(0), i)
            some = pde.draw(equation, min(4096, count - at), key=key)
            wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), some)
            parts.append(np.asarray(jax.vmap(equation.stack)(wide)))
    return np.concatenate(parts)


def fit_chart(data: Data, chart: Chart):
    """Coordinates for the training part."""
    equation = data.equation()
    fields, _ = bench.kept("fields", draw, data)
    return pde.Whitened.fit(
        fields[: data.train], positive=chart.positive, given=equation.given_mask,
        rough={1: equation.grid} if chart.rough else None,
        damping=chart.damping, rank=chart.rank,
    )  # fmt: skip


def coordinates(data: Data, chart: Chart):
    """The training part in its coordinates, and these."""
    fields, _ = bench.kept("fields", draw, data)
    normaliser, _ = bench.kept("chart", fit_chart, data, chart)
    y = np.asarray(normaliser.normalise(fields[: data.train]), np.float32)
    return y, normaliser


def teach(data: Data, chart: Chart, training: Training, seed: int):
    """A teacher, and the seconds of its training."""
    y, normaliser = coordinates(data, chart)
    process = px.EDM(sigma_data=1.0)
    key = jax.random.fold_in(jax.random.key(seed), 3)
    model = px.Preconditioned(training.network(normaliser, key), process)
    objective = px.DenoisingScoreMatching(process)
    result, seconds = training.fit(
        model, objective, training.teacher_steps, seed, data=y
    )
    return result.ema(), {"training_seconds": seconds}


def law(problem: Fields) -> px.Gaussian:
    """The law of Poisson's fields in the coordinates of the chart, which are linear."""
    known = problem.equation.law()  # type: ignore[attr-defined]
    chart = problem.normaliser
    with jax.enable_x64(True):
        base = chart.normalise(np.asarray(known.mean, np.float64))
        columns = np.moveaxis(np.asarray(known.factor, np.float64), -1, 0)
        factor = chart.normalise(columns + np.asarray(known.mean)) - base
        mean, factor = np.asarray(base), np.asarray(factor).T
    return px.Gaussian(
        jnp.asarray(mean, float),
        px.denoiser.Covariance.low_rank(jnp.asarray(factor, float)),
    )


# --- the problems --------------------------------------------------------------------


def darcy_equation(n: int):
    return pde.Darcy.lognormal(pde.Grid((n, n)))


def burgers_equation():
    return pde.Burgers(pde.Grid((32,), boundary=pde.Periodic()), rows=32)


def poisson_equation():
    grid = pde.Grid((16, 16))
    return pde.Poisson(grid, pde.Matern(grid, modes=64))


FEWER: Any = {"teacher_steps": 800, "student_steps": 800}  # beside Darcy 16^2


def smaller(problem: Fields, quick: bool) -> Fields:
    """The problem, or for a trial run a small version of it."""
    if not quick:
        return problem
    return dataclasses.replace(
        problem,
        data=dataclasses.replace(problem.data, train=128, test=32),
        chart=dataclasses.replace(problem.chart, rank=32),
        training=Training(32, 1, 4, 4, batch_size=16),
        pairs=16,
        samples=16,
        resamples=2,
    )


@bench.problem("piddm", label="Darcy, 16 x 16", seeds=(0, 1, 2))
def darcy16(quick):
    equation = functools.partial(darcy_equation, 16)
    return smaller(Fields(Data(equation), Chart((0,))), quick)


@bench.problem(
    "piddm", label="Poisson, 16 x 16, trained teacher", seeds=(0,), quick=False
)
def poisson16(quick):
    return smaller(Fields(Data(poisson_equation), Chart(), Training(**FEWER)), quick)


@bench.problem(
    "piddm",
    "poisson16-exact",
    label="Poisson, 16 x 16, exact teacher",
    kind="exact",
    seeds=(0,),
    quick=False,
)
def poisson16_exact(quick):
    problem = Fields(Data(poisson_equation), Chart(), Training(**FEWER), exact=True)
    return smaller(problem, quick)


@bench.problem("piddm", label="Burgers, 32 rows of 32 points", seeds=(0,), quick=False)
def burgers32(quick):
    # Its fields are far from Gaussian: there is more to learn.
    training = Training(teacher_steps=2000, student_steps=1000)
    chart = Chart(rough=False, rank=256)
    return smaller(Fields(Data(burgers_equation), chart, training), quick)


@bench.problem("piddm", label="Darcy, 32 x 32", seeds=(0,), quick=False)
def darcy32(quick):
    equation = functools.partial(darcy_equation, 32)
    training = Training(**FEWER)
    return smaller(Fields(Data(equation), Chart((0,), rank=512), training), quick)


@bench.problem("piddm", label="Darcy, 64 x 64", kind="gpu", quick=False)
def darcy64(quick):
    """14 million parameters: benchmarks/gpu runs its rows."""
    equation = functools.partial(darcy_equation, 64)
    training = Training(width=896, teacher_steps=4000, student_steps=2000)
    return smaller(Fields(Data(equation), Chart((0,), rank=512), training), quick)
