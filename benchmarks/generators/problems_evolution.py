r"""Late mixtures, chaotic rows and windows of a stirred flow: truths and null scores.

A sample of these laws costs the solver thousands of steps. The scores are what a
spectrum does not fix: skewness and kurtosis of increments, the share of the interface,
the density of values, the Euler number of a phase. Against the truths are set, with as
many samples each,

- *held-out*: other truths, the sampling floor;
- *Gaussian*: a Gaussian field with the mean and covariance of the training set;
- *copula*: this Gaussian field with its values replaced, rank for rank, by those of the
  training set: the density is right by construction.

Each set is scored by its own numbers and by distances to the truths. The relative
residual is the defect of the step between stored rows.
"""

import dataclasses
import functools
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pidax import metrics, pde

from .. import bench

SEEDS = {"training": 0, "truths": 1, "held-out": 2}
BATCH = 25


def samples_of(problem, count, seed):
    """Stacked samples in float32, solved in float64."""
    equation, step = problem.equation, min(BATCH, count)
    key = jax.random.key(seed)

    @eqx.filter_jit
    def some(equation, keys):
        solved = lambda key: equation.solve(*equation.draw(key=key))
        return jax.vmap(lambda key: equation.stack(solved(key)))(keys)

    with jax.enable_x64(True):
        keys = jax.random.split(key, count)
        parts = [some(equation, keys[i : i + step]) for i in range(0, count, step)]
        return np.concatenate([np.asarray(part, np.float32) for part in parts])


@dataclasses.dataclass(frozen=True)
class Late:
    """Two rows of the Cahn-Hilliard equation at T = 400, 32 x 32 points."""

    points: int = 32
    skip: int = 99
    count: int = 500
    repeats: int = 5

    @functools.cached_property
    def equation(self):
        n = self.points
        grid = pde.Grid((n, n), extent=(0.0, float(n)), boundary=pde.Periodic())
        return pde.CahnHilliard(grid, skip=self.skip)

    def rows(self, samples):
        """The last row of each sample."""
        return samples[..., -1]

    def states(self, samples):
        """Single states to learn from."""
        return self.rows(samples)

    last = rows

    @property
    def patched(self):
        """The shape of a sample of a model: patches of 4 x 4 points as channels."""
        return (self.points // 4, self.points // 4, 16)

    def to_model(self, states):
        n = self.points // 4
        patches = states.reshape(-1, n, 4, n, 4).transpose(0, 1, 3, 2, 4)
        return patches.reshape(-1, *self.patched)

    def to_states(self, samples):
        n = self.points // 4
        patches = np.asarray(samples).reshape(-1, n, n, 4, 4).transpose(0, 1, 3, 2, 4)
        return patches.reshape(-1, self.points, self.points)

    def images(self, states, seed):
        """Each in 64 random places, mirrored, turned, and with either sign."""
        rng, found = np.random.default_rng(seed), []
        for _ in range(64):
            image = np.roll(states, rng.integers(self.points, size=2), axis=(1, 2))
            image = image[:, :, ::-1] if rng.random() < 0.5 else image
            image = np.rot90(image, int(rng.integers(4)), axes=(1, 2))
            found.append(image * rng.choice([-1, 1]))
        return np.asarray(np.concatenate(found), np.float32)

    def gaussian(self, states, count, seed):
        return gaussian_like(states[..., None], count, seed, line=False)[..., 0]

    def gaussian_samples(self, samples, count, seed):
        return gaussian_like(samples, count, seed, line=False)

    def compared(self, states, truths):
        lines = [self.lineal_path(fields) for fields in (states, truths)]
        apart = np.sqrt(((lines[0] - lines[1]) ** 2).mean() / (lines[1] ** 2).mean())
        found = self.numbers(states) | self.distances(states, truths)
        return found | {"lineal_path": float(apart)}

    def lineal_path(self, fields):
        """The mean over both axes and both phases."""
        both = [
            metrics.lineal_path(phase, axis, periodic=True)
            for phase in (jnp.asarray(fields) > 0, jnp.asarray(fields) < 0)
            for axis in (1, 2)
        ]
        return np.mean([np.asarray(one, float) for one in both], axis=0)

    def numbers(self, fields):
        both = [metrics.increment_kurtosis(fields, axis=axis) for axis in (1, 2)]
        values = fields.ravel() - fields.mean()
        return {
            "kurtosis": float((values**4).mean() / (values**2).mean() ** 2),
            "increment_kurtosis": float(np.mean(both)),
            "interface_share": float(metrics.interface_share(fields)),
            "euler_mean": float(self.euler(fields).mean()),
        }

    def euler(self, fields):
        return np.asarray(jax.jit(jax.vmap(metrics.euler_number))(fields))

    def distances(self, fields, truths):
        euler = self.euler(fields), self.euler(truths)
        return {
            "density": float(metrics.density_distance(fields, truths)),
            "euler": float(metrics.wasserstein_1d(*euler)),
            "covariance": covariance_error(fields, truths, axes=(1, 2)),
        }


@dataclasses.dataclass(frozen=True)
class Chaotic:
    """32 rows of the Kuramoto-Sivashinsky equation on a circle of length 64."""

    points: int = 64
    skip: int = 100
    count: int = 2000
    repeats: int = 5

    @functools.cached_property
    def equation(self):
        n = self.points
        circle = pde.Grid((n,), extent=(0.0, float(n)), boundary=pde.Periodic())
        return pde.KuramotoSivashinsky(circle, skip=self.skip)

    def rows(self, samples):
        return samples[..., 0]

    def states(self, samples):
        """Single states to learn from."""
        return self.rows(samples).reshape(-1, self.points)

    def last(self, samples):
        return self.rows(samples)[:, -1]

    def images(self, states, seed):
        return states

    @property
    def patched(self):
        """The shape of a sample of a model."""
        return (self.points,)

    def to_model(self, states):
        return states

    def to_states(self, samples):
        return np.asarray(samples)

    def gaussian(self, states, count, seed):
        image = states[:, None, :, None]
        return gaussian_like(image, count, seed, line=True)[:, 0, :, 0]

    def gaussian_samples(self, samples, count, seed):
        return gaussian_like(samples, count, seed, line=True)

    def compared(self, states, truths):
        values = states - states.mean()
        slopes, true_slopes = (np.roll(f, -1, axis=-1) - f for f in (states, truths))
        return {
            "kurtosis": float((values**4).mean() / (values**2).mean() ** 2),
            "increment_skewness": float(metrics.increment_skewness(states)),
            "increment_kurtosis": float(metrics.increment_kurtosis(states)),
            "density": float(metrics.density_distance(states, truths)),
            "density_of_increments": float(
                metrics.density_distance(slopes, true_slopes)
            ),
            "covariance": covariance_error(states, truths, axes=(1,)),
        }

    def numbers(self, fields):
        values = fields.ravel() - fields.mean()
        return {
            "kurtosis": float((values**4).mean() / (values**2).mean() ** 2),
            "increment_skewness": float(metrics.increment_skewness(fields)),
            "increment_kurtosis": float(metrics.increment_kurtosis(fields)),
            "skewness_in_time": float(
                metrics.increment_skewness(fields, axis=1, periodic=False)
            ),
        }

    def distances(self, fields, truths):
        slopes = (np.roll(f, -1, axis=-1) - f for f in (fields, truths))
        return {
            "density": float(metrics.density_distance(fields, truths)),
            "density_of_increments": float(metrics.density_distance(*slopes)),
            "covariance": covariance_error(fields, truths, axes=(2,)),
        }


@dataclasses.dataclass(frozen=True)
class Window:
    """Four rows of Kolmogorov's flow at Re = 20, 32 x 32 points, as vorticity."""

    points: int = 32
    skip: int = 80
    count: int = 300
    repeats: int = 3

    @functools.cached_property
    def equation(self):
        n = self.points
        torus = pde.Grid((n, n), extent=(0.0, 2 * np.pi), boundary=pde.Periodic())
        return pde.Kolmogorov(torus, skip=self.skip)

    def rows(self, samples):
        return np.moveaxis(samples, -1, 1)

    def gaussian_samples(self, samples, count, seed):
        """The force is the same along x alone: y belongs to the channels."""
        n = self.points
        image = samples.reshape(len(samples), n, -1)
        mean = image.mean(axis=(0, 1))
        found = gaussian_like(image - mean, count, seed, line=False) + mean
        return np.asarray(found, np.float32).reshape(count, *samples.shape[1:])

    def numbers(self, fields):
        values = fields.ravel() - fields.mean()
        both = [metrics.increment_kurtosis(fields, axis=axis) for axis in (2, 3)]
        return {
            "kurtosis": float((values**4).mean() / (values**2).mean() ** 2),
            "increment_kurtosis": float(np.mean(both)),
            "enstrophy_deviation": float(self.enstrophy(fields).std()),
        }

    def enstrophy(self, fields):
        """Of each row, half the mean square of the vorticity."""
        return (fields.astype(float) ** 2).mean(axis=(2, 3)).ravel() / 2

    def distances(self, fields, truths):
        slopes = [np.roll(f, -1, axis=3) - f for f in (fields, truths)]
        enstrophy = [self.enstrophy(f) for f in (fields, truths)]
        return {
            "density": float(metrics.density_distance(fields, truths)),
            "density_of_increments": float(metrics.density_distance(*slopes)),
            "enstrophy": float(metrics.wasserstein_1d(*enstrophy)),
            "covariance": covariance_error(fields, truths, axes=(2, 3)),
        }


def covariance_error(fields, truths, axes):
    """How far S_2 along an axis is apart, relative to the truths', root mean square."""
    apart, size = 0.0, 0.0
    for axis in axes:
        ours, theirs = (
            np.asarray(metrics.structure_functions(f, axis=axis), float)
            for f in (fields, truths)
        )
        apart, size = apart + np.mean((ours - theirs) ** 2), size + np.mean(theirs**2)
    return float(np.sqrt(apart / size))


def gaussian_like(samples, count, seed, line):
    """Gaussian samples with the mean and the covariance of these.

    Shifts along the periodic axes leave the laws as they are, so each sample counts
    with all its shifts: the covariance is diagonal in Fourier series along them, and
    full between rows. `line` says that rows come first and one channel last.
    """
    image = np.moveaxis(samples[..., 0], 1, -1) if line else samples
    axes, size = tuple(range(1, image.ndim - 1)), np.prod(image.shape[1:-1])
    waves = np.fft.fftn(image - image.mean(), axes=axes)  # sample, modes, rows
    square = np.einsum("s...r,s...q->...rq", waves, waves.conj()) / len(waves)
    values, vectors = np.linalg.eigh(square)
    scaled = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
    root = np.einsum("...rk,...qk->...rq", scaled, vectors.conj())
    rng = np.random.default_rng(seed)
    noise = np.fft.fftn(rng.normal(size=(count, *image.shape[1:])), axes=axes)
    drawn = np.einsum("...rq,s...q->s...r", root, noise / np.sqrt(size))
    found = np.fft.ifftn(drawn, axes=axes).real + image.mean()
    if line:
        found = np.moveaxis(found, -1, 1)[..., None]
    return np.asarray(found, np.float32)


def replaced(fields, values):
    """The fields with their values replaced by these, rank for rank."""
    known = np.sort(values, axis=None)
    places = (np.arange(fields.size) + 0.5) / fields.size
    found = np.empty(fields.size, np.float32)
    middles = (np.arange(known.size) + 0.5) / known.size
    found[np.argsort(fields, axis=None)] = np.interp(places, middles, known)
    return found.reshape(fields.shape)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A set of samples against the truths; a method of the suite."""

    kind: str

    def configuration_on(self, problem):
        return {"set": self.kind, "of": dict(SEEDS)}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        data = lambda name: bench.kept(
            "fields", samples_of, problem, problem.count, SEEDS[name]
        )
        truths, note = data("truths")
        if self.kind == "held-out":
            samples, _ = data("held-out")
        else:
            training, _ = data("training")
            samples = problem.gaussian_samples(training, problem.count, 3 + seed)
            if self.kind == "copula":
                samples = replaced(samples, training)
        fields, theirs = problem.rows(samples), problem.rows(truths)
        found: dict[str, Any] = {"count": len(samples)}
        found |= problem.numbers(fields) | problem.distances(fields, theirs)
        found |= self.residual(problem, samples)
        return bench.Outcome(found, {"truths_seconds": note["seconds"]})

    def residual(self, problem, samples):
        """The median relative residual, and the share whose step diverges."""
        equation = problem.equation
        one = lambda image: equation.relative_residual(equation.unstack(image))
        each = eqx.filter_jit(lambda images: jax.lax.map(one, images, batch_size=BATCH))
        found = np.asarray(each(jnp.asarray(samples)))
        finite = np.isfinite(found)
        return {
            "residual": float(np.median(found[finite])),
            "diverged": float(1 - finite.mean()),
        }


@dataclasses.dataclass(frozen=True)
class Solver:
    """Seconds a sample of the solver, in a batch and alone: a method."""

    batch: int = 16

    def configuration_on(self, problem):
        return {"batch": self.batch}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        batch = 2 if quick else self.batch
        cores = len(os.sched_getaffinity(0))
        found: dict[str, Any] = {"batch": batch, "cores": cores}
        equation = problem.equation
        draw = lambda key: equation.solve(*equation.draw(key=key))
        many = eqx.filter_jit(lambda keys: jax.vmap(draw)(keys))
        for name, wide in (("float32", False), ("float64", True)):
            with jax.enable_x64(wide):
                keys = jax.random.split(jax.random.key(seed), batch)
                spent = bench.seconds(lambda: many(keys), problem.repeats)  # noqa: B023
                alone = bench.seconds(lambda: many(keys[:1]), problem.repeats)  # noqa: B023
            found[name] = {
                "seconds_a_sample": float(np.median(spent)) / batch,
                "seconds_alone": float(np.median(alone)),
            }
        steps = (equation.skip + equation.rows - 1) * equation.substeps
        return bench.Outcome(found | {"steps": steps}, dtype="float32 and float64")


QUICK = {"points": 16, "skip": 2, "count": 4, "repeats": 1}
PROBLEMS = {
    "late Cahn-Hilliard": Late(),
    "Kuramoto-Sivashinsky": Chaotic(),
    "Kolmogorov": Window(),
}


def _register():
    for name, problem in PROBLEMS.items():

        @bench.problem("generators", name, kind="evolution")
        def make(quick, problem=problem):
            return dataclasses.replace(problem, **QUICK) if quick else problem

    for name in ("held-out", "Gaussian", "copula"):
        bench.method("generators", name, on=("evolution",))(Scored(name))
    bench.method("generators", "solver", on=("evolution",))(Solver())


_register()
