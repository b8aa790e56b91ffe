r"""Priors of channels that are learned from a training set, and their Gaussian rivals.

All see the same fields, the training set of the row `training set`: so a generator is
worth its training if its answers are better than that set itself, reweighted. Each is
drawn as often as the bank of the exact law and solved by the same solver; the answers
are the draws, weighted by the likelihood.

- `student`: a teacher by denoising score matching on the fields and their mirror images
  (the law has these symmetries), and a one-step student of it by `PID`, which sees no
  field. A sample is rounded to the nearer material.
- `teacher`: solutions of that teacher's ODE, to tell its errors from the student's.
- `Gaussian, rounded`: mean and covariance of the fields and their mirror images.
- `cut Gaussian`: a Gaussian field cut at a level for each point, with the correlations
  for which any two points are in channels as often as in the fields (tetrachoric ones).
"""

import dataclasses
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import norm

import pidax as px

from .. import bench
from .problems_steady import BATCH, SEEDS, TRAINING, Reweighted


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a teacher and its student are trained."""

    width: int = 32
    nodes: int = 8
    teacher_steps: int = 1500
    student_steps: int = 500
    batch_size: int = 64
    rate: float = 1e-3

    def smaller(self):
        return Recipe(8, 4, 2, 2, 4)


def signs(problem, seed):
    """The fields of the training set and their mirror images: 1 in channels, or -1."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed + TRAINING), problem.training)
        a = np.asarray(jax.jit(jax.vmap(problem.given))(keys))
    inside = np.where(a > 10, 1.0, -1.0).astype(np.float32)
    both = np.concatenate([inside, inside[:, ::-1]])
    return np.concatenate([both, both[:, :, ::-1]])


def teach(problem, recipe: Recipe, seed):
    data = signs(problem, seed)[..., None]
    process = px.EDM(sigma_data=float(data.std()))
    first, second = jax.random.split(jax.random.key(seed))
    network = px.nn.UNet(1, 1, width=recipe.width, multipliers=(1, 2), key=first)
    rate = px.warmup_cosine(recipe.rate, recipe.teacher_steps)
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=recipe.teacher_steps,
        batch_size=recipe.batch_size,
        optimiser=optax.adam(rate, b2=0.99),
        key=second,
        progress=False,
    )
    return result.ema()


NOTED = ("rms", "points_of_the_other_material", "near_a_material")


def distil(problem, recipe: Recipe, seed):
    """The student, and how far it is from the teacher's solutions."""
    teacher, _ = bench.kept("teacher", teach, problem, recipe, seed)
    process = teacher.process
    shape = (problem.size, problem.size, 1)
    flow = px.ProbabilityFlow(teacher, process, shape=shape)
    first, second, third = jax.random.split(jax.random.key(seed + 1), 3)
    times = px.where_it_moves(flow, recipe.nodes, key=first, draws=64)
    rate = px.warmup_cosine(recipe.rate, recipe.student_steps)
    result = px.fit(
        px.IntegralStudent.from_teacher(teacher, process, times),
        px.PID(flow),
        steps=recipe.student_steps,
        batch_size=recipe.batch_size,
        optimiser=optax.adam(rate, b2=0.99),
        ema=(0.99,),
        key=second,
        progress=False,
    )
    student = result.ema()
    z = process.prior(third, (4 * recipe.batch_size, *shape))
    ends = jnp.array([process.t_max, process.t_min])
    solved = px.solve_batch(flow, z, times=ends, rtol=1e-3).xs[:, -1]
    made = jax.jit(jax.vmap(student.sample))(z)
    other = ((made > 0) != (solved > 0)).mean()
    near = (abs(abs(made) - 1) < 0.2).mean()
    rms = px.metrics.rms_error(made, solved, per_component=True)
    note = dict(zip(NOTED, map(float, (rms, other, near)), strict=True))
    return student, note


def looked_at(problem, inside):
    """What sensors would see of fields, in batches."""
    law = problem.equation.coefficient
    with jax.enable_x64(True):
        step = min(BATCH, len(inside))
        parts = [
            problem.solved(jnp.where(some, law.high, law.low).astype(float))
            for some in (inside[i : i + step] for i in range(0, len(inside), step))
        ]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])


def of_student(problem, recipe: Recipe, count, seed):
    student, note = bench.kept("student", distil, problem, recipe, seed)
    make = jax.jit(jax.vmap(student.sample))
    inside = []
    step = min(BATCH, count)
    for key in jax.random.split(jax.random.key(seed + 2), count // step):
        shape = (step, problem.size, problem.size, 1)
        inside.append(np.asarray(make(student.process.prior(key, shape)))[..., 0] > 0)
    told = {f"student_{name}": note[name] for name in NOTED}
    return looked_at(problem, np.concatenate(inside)), told


def of_teacher(problem, recipe: Recipe, count, seed):
    """The same from the teacher itself, by 8 steps of Bosh3, 24 evaluations."""
    teacher, _ = bench.kept("teacher", teach, problem, recipe, seed)
    process, shape = teacher.process, (problem.size, problem.size, 1)
    flow = px.ProbabilityFlow(teacher, process, shape=shape)
    times, inside = px.karras(9, process), []
    step = min(BATCH, count)
    for key in jax.random.split(jax.random.key(seed + 2), count // step):
        z = process.prior(key, (step, *shape))
        path = px.solve_batch(flow, z, solver=diffrax.Bosh3(), steps=times)
        inside.append(np.asarray(path.end)[..., 0] > 0)
    return looked_at(problem, np.concatenate(inside))


def of_gaussian(problem, recipe, count, seed):
    data = signs(problem, seed)
    x = data.reshape(len(data), -1)
    return looked_at(problem, _normal(x.mean(0), np.cov(x.T), count, seed).reshape(
        count, *data.shape[1:]) > 0)  # fmt: skip


def of_cut_gaussian(problem, recipe, count, seed):
    data = signs(problem, seed)
    x = data.reshape(len(data), -1) > 0
    level = norm.ppf(np.clip(x.mean(0), 1e-3, 1 - 1e-3))
    together = (x.T.astype(float) @ x) / len(x)
    rho = _correlations(level, together)
    g = _normal(level, rho, count, seed)
    return looked_at(problem, g.reshape(count, *data.shape[1:]) > 0)


def _normal(mean, covariance, count, seed):
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    e = np.random.default_rng(seed).normal(size=(count, len(mean)))
    return mean + e @ root.T


def _correlations(level, together):
    """For which two normal numbers are both above their levels as often as observed.

    By bisection, with the probability as an integral over the correlation: its
    derivative is the bivariate density at the levels (Plackett 1954).
    """
    x, y = level[:, None], level[None]
    point, weight = np.polynomial.legendre.leggauss(24)

    def both(rho):
        found = norm.cdf(x) * norm.cdf(y)
        for p, w in zip(point, weight, strict=True):
            r = rho * (1 + p) / 2
            rest = 1 - r**2
            power = (x**2 - 2 * r * x * y + y**2) / (2 * rest)
            found = found + rho / 2 * w * np.exp(-power) / (2 * np.pi * np.sqrt(rest))
        return found

    low, high = np.full(together.shape, -0.999), np.full(together.shape, 0.999)
    for _ in range(40):
        middle = (low + high) / 2
        less = both(middle) < together
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    rho = (low + high) / 2
    np.fill_diagonal(rho, 1.0)
    return rho


@dataclasses.dataclass(frozen=True)
class Learned(Reweighted):
    """Draws of a prior that was learned from the training set: a method."""

    make: Any = None
    recipe: Recipe | None = None

    def configuration_on(self, problem):
        return super().configuration_on(problem) | {
            "training": problem.training,
            "made by": self.make.__name__,
            "recipe": None if self.recipe is None else dataclasses.asdict(self.recipe),
        }

    def rows(self, problem, count, seed, quick):
        recipe = self.recipe and (self.recipe.smaller() if quick else self.recipe)
        return bench.kept("bank", self.make, problem, recipe, count, seed)


WAYS = {
    "student": Learned("bank", make=of_student, recipe=Recipe()),
    "student, 1,500 steps": Learned(
        "bank", make=of_student, recipe=Recipe(student_steps=1500)
    ),
    "teacher": Learned("bank", make=of_teacher, recipe=Recipe()),
    "cut Gaussian": Learned("bank", make=of_cut_gaussian),
    "Gaussian, rounded": Learned("bank", make=of_gaussian),
}


def _register():
    for name, way in WAYS.items():
        bench.method("generators", name, on=("channels",), seeds=SEEDS, quick=False)(
            way
        )


_register()
