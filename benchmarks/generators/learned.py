r"""Priors of channels and of shocks that are learned from a training set; their rivals.

All see the same fields, the training set of the row `training set`: so a generator is
worth its training if its answers are better than that set itself, reweighted. Each is
drawn as often as the bank of the exact law and solved by the same solver; the answers
are the draws, weighted by the likelihood.

- `student`: a teacher by denoising score matching on the fields and their images (under
  mirrors and shifts that do not change the law), and a one-step student of it by `PID`,
  which sees no field. Channels are rounded to the nearer material.
- `teacher`: solutions of that teacher's ODE, to tell its errors from the student's.
- `training set and images`: the training set with the same images, reweighted.
- `Gaussian, rounded`: mean and covariance of the channels and their images.
- `cut Gaussian`: a Gaussian field cut at a level for each point, with the correlations
  for which any two points are in channels as often as in the fields (tetrachoric ones).
- `Gaussian fields`: mean and covariance of the initial fields and their images.
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
from .problems_steady import BATCH, SEEDS, TRAINING, Channels, Reweighted


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


DRAWS = 64  # of the teacher's solutions that choose a student's nodes
RECIPES = {
    "Channels": Recipe(),
    "Channels 64": Recipe(64, 12, 40_000, 20_000, 128),  # for a GPU
    "Shocks": Recipe(384, 12, 5000, 3000, 256),
}
LONGER = {"Channels": Recipe(student_steps=1500)}


def recipe_for(problem, recipes) -> Recipe:
    """The one of its class, or of its class and number of points."""
    points = getattr(problem, "size", 0) or getattr(problem, "points", 0)
    name = type(problem).__name__
    return recipes.get(f"{name} {points}", recipes[name])


def trained_on(problem, seed):
    """The fields of the training set in the coordinates of the model, and images."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed + TRAINING), problem.training)
        given = np.asarray(jax.jit(jax.vmap(problem.given))(keys))
    return problem.images(problem.to_model(given))


def network_of(problem, recipe: Recipe, key):
    """A U-Net for media, a perceptron for fields on a circle."""
    if isinstance(problem, Channels):
        levels = (1, 2) if problem.size <= 16 else (1, 2, 2, 4)
        return px.nn.UNet(1, 1, width=recipe.width, multipliers=levels, key=key)
    size = problem.size
    return px.nn.ResidualMLP(size, size, width=recipe.width, depth=4, key=key)


def shape_of(problem):
    """Of a sample of the model."""
    size = problem.size
    return (size, size, 1) if isinstance(problem, Channels) else (size,)


def taught(network, data, recipe: Recipe, key):
    """A denoiser of data, or of data and conditions, by denoising score matching."""
    fields = data[0] if isinstance(data, tuple) else data
    process = px.EDM(sigma_data=float(fields.std()))
    rate = px.warmup_cosine(recipe.rate, recipe.teacher_steps)
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=recipe.teacher_steps,
        batch_size=recipe.batch_size,
        optimiser=optax.adam(rate, b2=0.99),
        key=key,
        progress=False,
    )
    return result.ema()


def distilled(flow, recipe: Recipe, first, second, condition=None):
    """A one-step student of a teacher; one key for its nodes, one for the training.

    `condition` draws what the teacher is told from a key.
    """
    teacher, process = flow.denoiser, flow.process
    told = condition and jax.vmap(condition)(jax.random.split(first, DRAWS))
    times = px.where_it_moves(
        flow, recipe.nodes, key=first, draws=DRAWS, condition=told
    )
    rate = px.warmup_cosine(recipe.rate, recipe.student_steps)
    result = px.fit(
        px.IntegralStudent.from_teacher(teacher, process, times),
        px.PID(flow, condition=condition),
        steps=recipe.student_steps,
        batch_size=recipe.batch_size,
        optimiser=optax.adam(rate, b2=0.99),
        ema=(0.99,),
        key=second,
        progress=False,
    )
    return result.ema()


def teach(problem, recipe: Recipe, seed):
    data = trained_on(problem, seed)
    data = data.reshape(len(data), *shape_of(problem))
    first, second = jax.random.split(jax.random.key(seed))
    return taught(network_of(problem, recipe, first), data, recipe, second)


NOTED = ("rms", "points_of_the_other_sign", "near_one")


def distil(problem, recipe: Recipe, seed):
    """The student, and how far it is from the teacher's solutions."""
    teacher, _ = bench.kept("teacher", teach, problem, recipe, seed)
    process = teacher.process
    shape = shape_of(problem)
    flow = px.ProbabilityFlow(teacher, process, shape=shape)
    first, second, third = jax.random.split(jax.random.key(seed + 1), 3)
    student = distilled(flow, recipe, first, second)
    z = process.prior(third, (4 * recipe.batch_size, *shape))
    ends = jnp.array([process.t_max, process.t_min])
    solved = px.solve_batch(flow, z, times=ends, rtol=1e-3).xs[:, -1]
    made = jax.jit(jax.vmap(student.sample))(z)
    other = ((made > 0) != (solved > 0)).mean()
    near = (abs(abs(made) - 1) < 0.2).mean()
    rms = px.metrics.rms_error(made, solved, per_component=True)
    note = dict(zip(NOTED, map(float, (rms, other, near)), strict=True))
    return student, note


def looked_at(problem, x):
    """What sensors would see of fields of the model, in batches."""
    with jax.enable_x64(True):
        step = min(BATCH, len(x))
        parts = [
            np.asarray(problem.solved(problem.to_given(x[i : i + step])), np.float32)
            for i in range(0, len(x), step)
        ]
    return np.concatenate(parts)


def drawn_by(make, problem, process, count, seed):
    """Samples made of draws of the prior, in batches, as fields."""
    found, step = [], min(BATCH, count)
    for key in jax.random.split(jax.random.key(seed + 2), count // step):
        z = process.prior(key, (step, *shape_of(problem)))
        found.append(np.asarray(make(z)).reshape(step, *problem.shape))
    return np.concatenate(found)


def of_student(problem, recipe: Recipe, count, seed):
    student, note = bench.kept("student", distil, problem, recipe, seed)
    make = jax.jit(jax.vmap(student.sample))
    x = drawn_by(make, problem, student.process, count, seed)
    told = {f"student_{name}": note[name] for name in NOTED}
    return looked_at(problem, x), told


def of_teacher(problem, recipe: Recipe, count, seed):
    """The same from the teacher itself, by 8 steps of Bosh3, 24 evaluations."""
    teacher, _ = bench.kept("teacher", teach, problem, recipe, seed)
    flow = px.ProbabilityFlow(teacher, teacher.process, shape=shape_of(problem))
    options = {"solver": diffrax.Bosh3(), "steps": px.karras(9, teacher.process)}
    make = lambda z: px.solve_batch(flow, z, **options).end
    return looked_at(problem, drawn_by(make, problem, teacher.process, count, seed))


def of_images(problem, recipe, count, seed):
    return looked_at(problem, trained_on(problem, seed))


def of_gaussian(problem, recipe, count, seed):
    data = trained_on(problem, seed)
    x = data.reshape(len(data), -1)
    drawn = _normal(x.mean(0), np.cov(x.T), count, seed)
    return looked_at(problem, drawn.reshape(count, *problem.shape))


def cut_gaussian(problem, seed):
    """Levels and correlations of a Gaussian field that is positive in channels."""
    data = trained_on(problem, seed)
    x = data.reshape(len(data), -1) > 0
    level = norm.ppf(np.clip(x.mean(0), 1e-3, 1 - 1e-3))
    return level, _correlations(level, (x.T.astype(float) @ x) / len(x))


def of_cut_gaussian(problem, recipe, count, seed):
    g = _normal(*cut_gaussian(problem, seed), count, seed)
    return looked_at(problem, g.reshape(count, *problem.shape))


def root_of(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def _normal(mean, covariance, count, seed):
    root = root_of(covariance)
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
    recipes: dict[str, Recipe] | None = None  # by the class of the problem

    def recipe_on(self, problem):
        if self.recipes is None:
            return None
        return recipe_for(problem, self.recipes)

    def configuration_on(self, problem):
        recipe = self.recipe_on(problem)
        return super().configuration_on(problem) | {
            "training": problem.training,
            "made by": self.make.__name__,
            "recipe": recipe and dataclasses.asdict(recipe),
        }

    def rows(self, problem, count, seed, quick):
        recipe = self.recipe_on(problem)
        if recipe and quick:
            recipe = recipe.smaller()
        return bench.kept("bank", self.make, problem, recipe, count, seed)


EVERYWHERE, MEDIA = ("steady",), ("channels",)
WAYS = {
    "training set and images": (Learned("training", make=of_images), EVERYWHERE),
    "student": (Learned("bank", make=of_student, recipes=RECIPES), EVERYWHERE),
    "student, 1,500 steps": (Learned("bank", make=of_student, recipes=LONGER), MEDIA),
    "teacher": (Learned("bank", make=of_teacher, recipes=RECIPES), EVERYWHERE),
    "cut Gaussian": (Learned("bank", make=of_cut_gaussian), MEDIA),
    "Gaussian, rounded": (Learned("bank", make=of_gaussian), MEDIA),
    "Gaussian fields": (Learned("bank", make=of_gaussian), ("shocks",)),
}


def _register():
    for name, (way, on) in WAYS.items():
        bench.method("generators", name, on=on, seeds=SEEDS, quick=False)(way)


_register()
