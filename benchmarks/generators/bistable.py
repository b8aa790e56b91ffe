r"""Sources with several stable solutions: do answers have the shares of the basins?

$-\epsilon^2\Delta u + u^3 - u = g$ with zero on the sides, and a source of a few modes,
$g = \sum_k \xi_k \sqrt{q_k}\,\varphi_k$. What is to be drawn is the rest of the
gradient flow from a random start: one of several solutions, with the probability of its
basin. The reference of a source is 500 such flows. An answer is 300 fields for each of
100 sources.

From each field Newton's method goes to a solution of the discrete equations. The field
is *no solution* if that is none of the reference's, or further away than 0.2 (root mean
square; the phases are near 1 and -1).

- `tv`: the total variation between the shares of the answer and of the reference, with
  no solution as one more outcome, in the mean over sources, and the half width of its
  95% interval over sources.
- `none`: the share of no solution. `residual`: relative, before Newton, the median.
- `moved`: how far Newton goes, the median of those that it takes to a branch.

The rows: *flows*, other starts (the floor, of 300 draws); the *teacher*, a diffusion
model of the solution that is told $\xi$, trained on one flow a source for 4000 sources
with their 16 images (the symmetries of the square and the sign), and its one-step
*student* by `PID`; *from zero*, the source is solved from one start; the solutions of
the *nearest* training sources, one or 20; the *Gaussian* of source and solution
together, conditioned on the source.
"""

import dataclasses
import functools
import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

import pidax as px
from pidax import pde

from .. import bench
from .learned import Recipe, distilled, taught

SOURCES, REFERENCE, HELD_OUT = 1, 2, 3  # seeds
BATCH = 250
SAME = 0.01  # root mean square; solutions are apart by more
NEAR = 0.2
NEWTON = 12
RECIPE = Recipe(256, 12, teacher_steps=6000, student_steps=3000, batch_size=256)


@dataclasses.dataclass(frozen=True)
class Several:
    """Stable solutions of Bistable for random sources."""

    size: int = 12
    modes: int = 8
    deviation: float = 0.05
    length: float = 0.25
    sources: int = 100
    starts: int = 500
    draws: int = 300
    training: int = 4000

    @functools.cached_property
    def equation(self):
        grid = pde.Grid((self.size, self.size))
        covariance = pde.GaussianCovariance(self.length, self.deviation)
        source = pde.KarhunenLoeve(grid, covariance, modes=self.modes)
        return pde.Bistable(grid, source=source)

    @property
    def columns(self):
        """Of the source's modes, a row for each point."""
        law: Any = self.equation.source
        return law.columns.reshape(-1, self.modes)

    def coordinates(self, count, seed):
        return np.random.default_rng(seed).normal(size=(count, self.modes))

    @functools.cached_property
    def tested(self):
        """The sources of the truths, as coordinates."""
        return self.coordinates(self.sources, SOURCES)

    def source(self, xi):
        return (xi @ self.columns.T).reshape(*xi.shape[:-1], self.size, self.size)

    def inner(self, fields):
        """The unknowns, flat."""
        return fields[..., 1:-1, 1:-1].reshape(*fields.shape[:-2], -1)

    @functools.cached_property
    def laplacian(self):
        """Times the square of the width, on the unknowns."""
        n, one = self.size - 2, np.eye(self.size - 2)
        line = (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * one) * (self.size - 1) ** 2
        matrix = np.kron(line, one) + np.kron(one, line)
        return float(self.equation.width) ** 2 * matrix

    def left(self, u, force):
        return u**3 - u - u @ self.laplacian - force

    def polished(self, u, force):
        """Where Newton's steps go from these unknowns; NaN if they do not arrive."""
        middle = np.arange(u.shape[1])
        for _ in range(NEWTON):
            off = self.left(u, force)
            if np.abs(off).max() < 1e-10:
                break
            jacobian = np.broadcast_to(-self.laplacian, (len(u), *self.laplacian.shape))
            jacobian = jacobian.copy()
            jacobian[:, middle, middle] += 3 * u**2 - 1
            u = np.clip(u - np.linalg.solve(jacobian, off[..., None])[..., 0], -3, 3)
        arrived = np.abs(self.left(u, force)).max(axis=1) < 1e-8
        return np.where(arrived[:, None], u, np.nan)


def rests(problem, xi, seed):
    """The rests of flows from random starts, one for each row of coordinates."""
    equation = problem.equation

    @eqx.filter_jit
    def some(equation, sources, keys):
        start = lambda key: equation.start.sample(key=key)
        one = lambda g, key: equation.solve(g, start(key)).solution
        return jax.vmap(one)(sources, keys)

    with jax.enable_x64(True):
        keys, parts = jax.random.split(jax.random.key(seed), len(xi)), []
        for i in range(0, len(xi), BATCH):
            # The last batch is filled up with its last row: one shape, one program.
            at = np.minimum(np.arange(i, i + min(BATCH, len(xi))), len(xi) - 1)
            found = some(equation, jnp.asarray(problem.source(xi[at])), keys[at])
            parts.append(np.asarray(found, np.float32))
    return np.concatenate(parts)[: len(xi)]


def tested_rests(problem, starts, seed):
    """So many flows for each tested source, as (source, start, x, y)."""
    xi = np.repeat(problem.tested, starts, axis=0)
    found = rests(problem, xi, seed)
    return found.reshape(problem.sources, starts, problem.size, problem.size)


def training_rests(problem, seed):
    """One flow for each training source."""
    return rests(problem, problem.coordinates(problem.training, 100 + seed), 100 + seed)


def trained_on(problem, seed):
    """Coordinates and solutions, with the images under the square and the sign."""
    u, _ = bench.kept("fields", training_rests, problem, seed)
    g = problem.source(problem.coordinates(problem.training, 100 + seed))
    pairs = np.stack([g, u], axis=1)
    turned = [np.rot90(pairs, k, axes=(2, 3)) for k in range(4)]
    turned += [image.swapaxes(2, 3) for image in turned]
    images = np.concatenate([*turned, *(-image for image in turned)])
    g, u = images[:, 0].reshape(len(images), -1), images[:, 1]
    xi, off, *_ = np.linalg.lstsq(problem.columns, g.T, rcond=None)
    assert off.max() < 1e-12, "the modes must be closed under the square's symmetries"
    return xi.T, u


def told(xi):
    """The condition of a network, of norm about one like the code of a class."""
    return jnp.asarray(xi / np.sqrt(xi.shape[-1]), jnp.float32)


def teach(problem, recipe: Recipe, seed):
    xi, u = trained_on(problem, seed)
    data = np.asarray(problem.inner(u), np.float32), np.asarray(told(xi))
    first, second = jax.random.split(jax.random.key(seed))
    size = data[0].shape[1]
    network = px.nn.ResidualMLP(
        size, size, width=recipe.width, depth=4, classes=problem.modes, key=first
    )
    return taught(network, data, recipe, second)


def distil(problem, recipe: Recipe, seed):
    teacher, _ = bench.kept("teacher", teach, problem, recipe, seed)
    flow = px.ProbabilityFlow(teacher, teacher.process, shape=teacher.shape)
    law = lambda key: told(jax.random.normal(key, (problem.modes,)))
    first, second = jax.random.split(jax.random.key(seed + 1))
    return distilled(flow, recipe, first, second, law)


def of_flows(problem, recipe, seed):
    """Another seed of the reference: what is left is the error of the draws."""
    return bench.kept("fields", tested_rests, problem, problem.draws, HELD_OUT + seed)


def of_zero(problem, recipe, seed):
    """The source solved from zero, as who generates the source only would do."""
    with jax.enable_x64(True):
        zero = jnp.zeros((problem.size, problem.size))
        solved = jax.jit(jax.vmap(lambda g: problem.equation.solve(g, zero).solution))
        u = np.asarray(solved(jnp.asarray(problem.source(problem.tested))))
    return np.broadcast_to(u[:, None], (len(u), problem.draws, *u.shape[1:])), {}


def of_nearest(problem, recipe, seed, many=1):
    """The solutions of the nearest training sources, each as often."""
    known, u = trained_on(problem, seed)
    off = ((problem.tested[:, None] - known[None]) ** 2).sum(axis=-1)
    nearest = np.argsort(off, axis=1)[:, :many]
    return u[nearest[:, np.arange(problem.draws) % many]], {}


def of_20_nearest(problem, recipe, seed):
    return of_nearest(problem, recipe, seed, min(20, problem.training))


def of_gaussian(problem, recipe, seed):
    known, u = trained_on(problem, seed)
    u = problem.inner(u)
    mean = u.mean(axis=0)
    slope, *_ = np.linalg.lstsq(known, u - mean, rcond=None)
    values, vectors = np.linalg.eigh(np.cov((u - mean - known @ slope).T))
    root = vectors * np.sqrt(np.maximum(values, 0))
    e = np.random.default_rng(seed).normal(
        size=(problem.sources, problem.draws, len(values))
    )
    return widened(problem, (mean + problem.tested @ slope)[:, None] + e @ root.T), {}


def widened(problem, u):
    """Fields of these unknowns: with the zeros of the sides."""
    n = problem.size - 2
    return np.pad(u.reshape(*u.shape[:-1], n, n), ((0, 0), (0, 0), (1, 1), (1, 1)))


def of_network(problem, recipe, seed, one_step):
    teacher, note = bench.kept("teacher", teach, problem, recipe, seed)
    cost = {"teacher_seconds": note["seconds"]}
    if one_step:
        student, note = bench.kept("student", distil, problem, recipe, seed)
        cost["student_seconds"] = note["seconds"]
        make = jax.jit(jax.vmap(lambda z, xi: student.sample(z, xi)))
    else:
        flow = px.ProbabilityFlow(teacher, teacher.process)
        options: Any = {
            "solver": diffrax.Bosh3(),
            "steps": px.karras(9, teacher.process),
        }
        make = lambda z, xi: px.solve_batch(flow, z, condition=xi, **options).end
    key, parts = jax.random.key(seed + 2), []
    for i, xi in enumerate(told(problem.tested)):
        own = jax.random.fold_in(key, i)
        z = teacher.process.prior(own, (problem.draws, *teacher.shape))
        many = jnp.broadcast_to(xi, (problem.draws, *xi.shape))
        if i == 0:
            spent = bench.seconds(lambda: make(z, many), 3)  # noqa: B023
            cost["seconds_a_draw"] = float(np.median(spent)) / problem.draws
        parts.append(np.asarray(make(z, many), np.float64))
    return widened(problem, np.stack(parts)), cost


def of_teacher(problem, recipe, seed):
    """8 steps of Bosh3, 24 evaluations a draw."""
    return of_network(problem, recipe, seed, one_step=False)


def of_student(problem, recipe, seed):
    return of_network(problem, recipe, seed, one_step=True)


def branches_of(u):
    """The different solutions among these, by frequency, and their shares."""
    found, counts = [], []
    while len(u):
        same = np.sqrt(((u - u[0]) ** 2).mean(axis=1)) < SAME
        found.append(u[0])
        counts.append(same.sum())
        u = u[~same]
    order = np.argsort(counts)[::-1]
    shares = np.array(counts, float)[order]
    return np.stack(found)[order], shares / shares.sum()


def judged(problem, fields, force, known):
    """The scores of the fields of one source."""
    u, force = problem.inner(np.asarray(fields, np.float64)), problem.inner(force)
    branches, shares = branches_of(problem.inner(known).astype(np.float64))
    size = sum(
        np.sqrt((term**2).mean(axis=1)) for term in (u, u**3, u @ problem.laplacian)
    )
    size = size + np.sqrt((force**2).mean())
    residual = np.sqrt((problem.left(u, force) ** 2).mean(axis=1)) / size
    there = problem.polished(u, force)
    apart = np.sqrt(((there[:, None] - branches) ** 2).mean(axis=2))
    moved = np.sqrt(((there - u) ** 2).mean(axis=1))
    fits = (apart < SAME) & (moved < NEAR)[:, None]  # NaN fits nothing
    answer, none = fits.mean(axis=0), 1 - fits.any(axis=1).mean()
    return {
        "tv": 0.5 * (np.abs(answer - shares).sum() + none),
        "none": none,
        "residual": np.median(residual),
        "moved": np.median(moved[fits.any(axis=1)]) if fits.any() else np.nan,
        "branches": float((shares >= 0.01).sum()),
        "largest_share": shares[0],
    }


def mean_of(values):
    """Of the values that are known."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


@dataclasses.dataclass(frozen=True)
class Shares:
    """The branches of an answer against those of many flows: a method."""

    make: Any
    recipe: Recipe | None = None

    def configuration_on(self, problem):
        recipe = self.recipe and dataclasses.asdict(self.recipe)
        return {"made by": self.make.__name__, "recipe": recipe}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        recipe = self.recipe.smaller() if self.recipe and quick else self.recipe
        start = time.perf_counter()
        fields, cost = self.make(problem, recipe, seed)
        cost = {k: v for k, v in cost.items() if "second" in k}
        cost["answer_seconds"] = time.perf_counter() - start
        known, note = bench.kept(
            "fields", tested_rests, problem, problem.starts, REFERENCE
        )
        cost["reference_seconds"] = note["seconds"]
        force = problem.source(problem.tested)
        scores = [
            judged(problem, *one) for one in zip(fields, force, known, strict=True)
        ]
        found = {key: float(np.nanmean([s[key] for s in scores])) for key in scores[0]}
        tv = np.array([score["tv"] for score in scores])
        half = norm.ppf(0.975) * tv.std(ddof=1) / len(tv) ** 0.5
        found |= {"tv_half_width": float(half), "sources": len(tv)}
        return bench.Outcome(found | {"draws": fields.shape[1]}, cost)


WAYS = {
    "flows": Shares(of_flows),
    "teacher": Shares(of_teacher, RECIPE),
    "student": Shares(of_student, RECIPE),
    "from zero": Shares(of_zero),
    "nearest": Shares(of_nearest),
    "20 nearest": Shares(of_20_nearest),
    "Gaussian": Shares(of_gaussian),
}
QUICK = {"sources": 2, "starts": 8, "draws": 4, "training": 4}


@bench.problem("generators", "bistable", kind="branches")
def bistable(quick):
    return dataclasses.replace(Several(), **QUICK) if quick else Several()


def _register():
    for name, way in WAYS.items():
        seeds = (0,) if name in ("flows", "from zero") else (0, 1, 2)
        bench.method(
            "generators", f"branches, {name}", on=("branches",), seeds=seeds,
            quick=way.recipe is None,
        )(way)  # fmt: skip


_register()


@bench.table("generators_branches", "generators")
def branches(results):
    """The distance of shares, and what is no solution."""
    lines, numbers = [], ("none", "residual", "moved")
    for name in WAYS:
        some = results.where(method=f"branches, {name}")
        if not some:
            continue
        half = max(row["tv_half_width"] for row in some)
        spent = [row.cost.get("seconds_a_draw") for row in some]
        lines.append((
            name, len(some), f"{bench.with_range(some.values('tv'))} ± {half:.2g}",
            *(bench.with_range(some.values(key)) for key in numbers),
            f"{1e6 * spent[0]:.0f} µs" if spent[0] else "",
        ))  # fmt: skip
    head = (
        "answer", "seeds", "total variation ± 95% over sources", "no solution",
        "residual", "moved", "time a draw",
    )  # fmt: skip
    return bench.markdown(head, lines) if lines else "Not measured yet."
