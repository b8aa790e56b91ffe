"""The problems on which PIDDM is measured: fields, coordinates, a teacher.

Fields are drawn from their equation, coordinates fitted to the training part, and the
teacher trained on it by denoising score matching, once for each seed; it is kept in
`outputs/piddm/`, with what it cost. `poisson16-exact` has the exact Gaussian teacher in
place of a trained one.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px
from pidax import pde

STORE = Path(__file__).parent.parent / "outputs/piddm"
TEST = 4096
SOLVE: Any = {"rtol": 1e-2, "atol": 1e-2}  # of pairs and of the teacher's samples
BLOCK = 2048


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a problem is made of; `quick` shrinks it."""

    equation: Callable[[], pde.AbstractEquation]
    positive: tuple[int, ...] = ()
    rough: bool = True
    damping: float = 0.1
    rank: int | None = None
    train: int = 8192
    width: int = 512
    depth: int = 4
    teacher_steps: int = 1000
    student_steps: int = 1500
    batch_size: int = 256
    exact: bool = False


FEWER: Any = {"teacher_steps": 800, "student_steps": 800}  # beside Darcy 16^2


def poisson():
    grid = pde.Grid((16, 16))
    return pde.Poisson(grid, pde.Matern(grid, modes=64))


SETTINGS = {
    "darcy16": Setting(lambda: pde.Darcy.lognormal(pde.Grid((16, 16))), (0,)),
    "darcy32": Setting(
        lambda: pde.Darcy.lognormal(pde.Grid((32, 32))), (0,), rank=512, **FEWER
    ),
    "darcy64": Setting(  # on a GPU (benchmarks/gpu): 14 million parameters
        lambda: pde.Darcy.lognormal(pde.Grid((64, 64))),
        (0,),
        rank=512,
        width=896,
        teacher_steps=4000,
        student_steps=2000,
    ),
    "burgers32": Setting(
        lambda: pde.Burgers(pde.Grid((32,), boundary=pde.Periodic()), rows=32),
        rough=False,
        rank=256,
        teacher_steps=2000,  # its fields are far from Gaussian: more to learn
        student_steps=1000,
    ),
    "poisson16": Setting(poisson, **FEWER),
    "poisson16-exact": Setting(poisson, exact=True, **FEWER),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """An equation, held-out fields, the chart, and the teacher in it."""

    name: str
    seed: int
    setting: Setting
    equation: pde.AbstractEquation
    normaliser: pde.Whitened
    train: np.ndarray
    test: np.ndarray
    process: px.AbstractProcess
    quick: bool = False

    @property
    def shape(self):
        return self.normaliser.shape or self.test.shape[1:]

    @property
    def constraint(self):
        """For refinement: every coordinate may move."""
        return px.Residual(self.equation, self.normaliser)

    @property
    def training_constraint(self):
        """For students: what is given is drawn as the teacher draws it."""
        return px.Residual(self.equation, self.normaliser, adjust="unknowns")

    def network(self, key):
        """One for what is given, one for what it leaves unexplained, if anything."""
        return px.nn.blockwise(
            self.normaliser.blocks, width=self.setting.width,
            depth=self.setting.depth, key=key,
        )  # fmt: skip

    def optimiser(self, steps, rate=1e-3):
        return optax.adam(px.warmup_cosine(rate, steps=steps), b2=0.99)

    def fit(self, model, objective, steps, rate=1e-3, data=None, **options):
        """The averaged model, and the seconds that its training took."""
        start = time.perf_counter()
        result = px.fit(
            model, objective, steps=steps, batch_size=self.setting.batch_size,
            key=jax.random.fold_in(jax.random.key(self.seed), 7), data=data,
            optimiser=self.optimiser(steps, rate), ema=(0.99,), progress=False,
            log_every=max(steps // 8, 1), **options,
        )  # fmt: skip
        return result, time.perf_counter() - start

    @functools.cached_property
    def teacher(self):
        """The denoiser, and the seconds of its training."""
        if self.setting.exact:
            return _exact(self), 0.0
        file = STORE / f"{self.name}-{self.seed}{'-quick' * self.quick}.px"
        note = file.with_suffix(".json")
        if note.exists():
            return px.load(file), json.loads(note.read_text())["seconds"]
        data = np.asarray(self.normaliser.normalise(self.train), np.float32)
        net = self.network(jax.random.fold_in(jax.random.key(self.seed), 3))
        objective = px.DenoisingScoreMatching(self.process)
        model = px.Preconditioned(net, self.process)
        steps = self.setting.teacher_steps
        result, seconds = self.fit(model, objective, steps, data=data)
        STORE.mkdir(parents=True, exist_ok=True)
        px.save(file, result.ema())
        note.write_text(json.dumps({"seconds": seconds}))
        return result.ema(), seconds

    @functools.cached_property
    def flow(self):
        return px.ProbabilityFlow(self.teacher[0], self.process)

    def noise(self, count, salt=5):
        key = jax.random.fold_in(jax.random.key(self.seed), salt)
        return self.process.prior(key, (count, *self.shape))

    def solved(self, z):
        """The teacher's samples for these draws, and its evaluations for each."""
        times = jnp.asarray([self.process.t_max, self.process.t_min], float)
        parts, calls = [], 0.0
        for at in range(0, len(z), BLOCK):
            some = z[at : at + BLOCK]
            path = px.solve_batch(self.flow, some, times=times, **SOLVE)
            parts.append(np.asarray(path.xs[:, -1]))
            calls += float(path.stats["evaluations"]) * len(some)
        return np.concatenate(parts), calls / len(z)

    def restore(self, x):
        """Physical fields, in float64, as a report takes them."""
        with jax.enable_x64(True):
            return np.asarray(self.normaliser.restore(np.asarray(x, np.float64)))


def make(name: str, seed: int, quick: bool = False) -> Problem:
    """The problem of this name; its fields are the same for every seed."""
    setting = SETTINGS[name]
    if quick:
        small = dict(
            train=256, rank=64, width=32, depth=1, teacher_steps=20, student_steps=20
        )
        setting = dataclasses.replace(setting, **small, batch_size=32)
    equation = setting.equation()
    test = 64 if quick else TEST
    fields = _fields(name, equation, setting.train + test, quick)
    train, held = fields[: setting.train], fields[setting.train :]
    chart = _chart(name, setting, equation, train, quick)
    process = px.EDM(sigma_data=1.0)
    return Problem(name, seed, setting, equation, chart, train, held, process, quick)


def _chart(name: str, setting: Setting, equation: Any, train, quick) -> pde.Whitened:
    """Kept beside what is trained in it."""
    file = STORE / f"{name}-chart{'-quick' * quick}.px"
    if file.exists():
        return px.load(file)
    chart = pde.Whitened.fit(
        train, positive=setting.positive, given=equation.given_mask,
        rough={1: equation.grid} if setting.rough else None,
        damping=setting.damping, rank=setting.rank,
    )  # fmt: skip
    px.save(file, chart)
    return chart


def _fields(name: str, equation: Any, count: int, quick: bool) -> np.ndarray:
    file = STORE / f"{name}-fields{'-quick' * quick}.npy"
    if file.exists():
        return np.load(file)
    with jax.enable_x64(True):
        parts = []
        for i, at in enumerate(range(0, count, 4096)):
            key = jax.random.fold_in(jax.random.key(0), i)
            some = pde.draw(equation, min(4096, count - at), key=key)
            wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), some)
            parts.append(np.asarray(jax.vmap(equation.stack)(wide)))
    fields = np.concatenate(parts)
    STORE.mkdir(parents=True, exist_ok=True)
    np.save(file, fields)
    return fields


def _exact(problem: Problem) -> px.Gaussian:
    """The law of Poisson's fields in the coordinates of the chart, which are linear."""
    law = problem.equation.law()  # type: ignore[attr-defined]
    chart = problem.normaliser
    with jax.enable_x64(True):
        base = chart.normalise(np.asarray(law.mean, np.float64))
        columns = np.moveaxis(np.asarray(law.factor, np.float64), -1, 0)
        factor = chart.normalise(columns + np.asarray(law.mean)) - base
        mean, factor = np.asarray(base), np.asarray(factor).T
    return px.Gaussian(
        jnp.asarray(mean, float),
        px.denoiser.Covariance.low_rank(jnp.asarray(factor, float)),
    )
