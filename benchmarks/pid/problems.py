"""The teachers on which distillation is measured, and the truth about them.

`ring` and `mixture` are exact; `digits`, `learned` (the same mixture, from samples) and
`patches` (of photographs) are networks trained here by denoising score matching. Each
comes with fixed prior draws solved by the adaptive solver: what a student's error is
measured against.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px

from .. import bench

BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Network:
    """A multilayer perceptron, plain or residual."""

    size: int
    residual: bool = True
    classes: int | None = None
    width: int = 256
    depth: int = 4

    @property
    def shape(self):
        return (self.size,)

    def smaller(self):
        return dataclasses.replace(self, width=32, depth=2)

    def make(self, key, scale=1, nodes=1):
        """Answers with as many samples as there are `nodes`."""
        options = {"width": self.width // scale, "depth": self.depth, "key": key}
        sizes = self.size, nodes * self.size
        if not self.residual:
            return px.nn.MLP(*sizes, **options)
        return px.nn.ResidualMLP(*sizes, classes=self.classes, **options)


@dataclasses.dataclass(frozen=True)
class UNet:
    """A U-Net of two levels for square colour images."""

    resolution: int
    width: int = 32
    classes: int | None = None

    @property
    def shape(self):
        return (self.resolution, self.resolution, 3)

    def smaller(self):
        return dataclasses.replace(self, width=8)

    def make(self, key, scale=1, nodes=1):
        """Answers with as many images as there are `nodes`."""
        width = self.width // scale
        return px.nn.UNet(3, 3 * nodes, width=width, multipliers=(1, 2), key=key)


@dataclasses.dataclass(frozen=True)
class Taught:
    """How a learned teacher is trained: on what `data()` returns."""

    data: Callable[[], Any]
    steps: int = 3000
    rate: float = 2e-3
    batch_size: int = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """A teacher's flow, students for it, and solved trajectories."""

    network: Network | UNet
    batch_size: int
    steps: dict[str, int]  # of training, by recipe
    optimiser: str = "Adam"  # of the recipes but the paper's
    ema: float = 0.99
    law: Callable[[], Any] | None = None  # an exact denoiser; draws of it are the truth
    taught: Taught | None = None  # the teacher, where it is a network
    held_out: Callable[[], Any] | None = None  # the truth, where there is no law
    sigma_data: float | None = None  # None for the standard deviation of the data
    count: int = 4096  # fixed prior draws
    truth_count: int = 4096
    tolerance: float = 1e-5  # of their solve
    times: tuple[float, ...] | int = 9  # where the truth is kept
    per_component: bool = True  # errors are divided by the root of the size

    @property
    def classes(self):
        return self.network.classes

    @functools.cached_property
    def process(self):
        sigma_data = self.sigma_data
        if sigma_data is None:
            assert self.taught is not None
            sigma_data = float(self.taught.data()[0].std())
        return px.EDM(sigma_data=sigma_data)

    @functools.cached_property
    def flow(self):
        if self.taught is None:
            assert self.law is not None
            return px.ProbabilityFlow(self.law(), self.process)
        teacher, _ = bench.kept(
            "teacher", teach, self.taught, self.network, self.process.sigma_data
        )
        return px.ProbabilityFlow(teacher, self.process, shape=self.network.shape)

    @functools.cached_property
    def grid(self):
        """The times at which the truth is kept, from `t_max` to `t_min`."""
        if isinstance(self.times, int):
            return px.karras(self.times, self.process)
        return jnp.array([self.process.t_max, *self.times, self.process.t_min])

    @functools.cached_property
    def condition(self):
        return None if self.classes is None else jnp.arange(self.count) % self.classes

    @functools.cached_property
    def solved(self):
        """`(z, xs)`: the draws, and their states on the grid."""
        z = self.process.prior(jax.random.key(123), (self.count, *self.network.shape))
        parts = []
        for at in range(0, self.count, BLOCK):
            label = None if self.condition is None else self.condition[at : at + BLOCK]
            path = px.solve_batch(
                self.flow,
                z[at : at + BLOCK],
                times=self.grid,
                condition=label,
                rtol=self.tolerance,
            )
            parts.append(path.xs)
        return z, jnp.concatenate(parts)

    @functools.cached_property
    def truth(self):
        """Two sets of true samples, of the same size."""
        if self.law is not None:
            exact = self.law()
            keys = jax.random.split(jax.random.key(9), 2 * self.truth_count)
            draws = np.asarray(jax.vmap(lambda key: exact.sample(key=key))(keys))
        else:
            assert self.held_out is not None
            draws = self.held_out()
        half = len(draws) // 2
        return draws[:half], draws[half : 2 * half]


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Vectors):
    """The same for images: an integral student of few nodes, and one optimiser."""

    nodes: int = 8


def teach(taught: Taught, network: Network | UNet, sigma_data: float):
    """A teacher, by denoising score matching."""
    process = px.EDM(sigma_data=sigma_data)
    result = px.fit(
        px.Preconditioned(network.make(jax.random.key(0)), process),
        px.DenoisingScoreMatching(process),
        data=taught.data(),
        steps=taught.steps,
        batch_size=taught.batch_size,
        optimiser=optax.adam(px.warmup_cosine(taught.rate, taught.steps)),
        key=jax.random.key(3),
        progress=False,
    )
    return result.ema()


ring_law = functools.partial(px.GaussianMixture.ring, 8, radius=0.7, scale=0.08)
SIGMA_64 = float(np.hypot(0.7, 0.2))


def mixture_law():
    """Eight Gaussians in 64 dimensions: means of RMS 0.7, standard deviation 0.2."""
    means = np.random.default_rng(0).normal(size=(8, 64))
    means *= 0.7 / np.sqrt(np.mean(means**2, axis=1, keepdims=True))
    return px.GaussianMixture(jnp.asarray(means, jnp.float32), 0.2)


def mixture_samples():
    exact, keys = mixture_law(), jax.random.split(jax.random.key(5), 50_000)
    return jax.vmap(lambda key: exact.sample(key=key))(keys)


def digits_data():
    """Images and labels for training; a third is held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def digits_train():
    images, labels = digits_data()
    return images[:1197], labels[:1197]


def digits_held_out():
    return digits_data()[0][1197:]


def photographs():
    """Two photographs at half their resolution, in [-1, 1], as vertical strips.

    Of eight strips of equal width the fourth and the last are held out: two lists.
    """
    from sklearn.datasets import load_sample_images

    train, held_out = [], []
    for image in load_sample_images().images:
        tall, wide = (n // 2 for n in image.shape[:2])
        image = image[: 2 * tall, : 2 * wide].reshape(tall, 2, wide, 2, 3)
        image, cut = image.mean((1, 3)) / 127.5 - 1, wide // 8
        train += [image[:, : 3 * cut], image[:, 4 * cut : 7 * cut]]
        held_out += [image[:, 3 * cut : 4 * cut], image[:, 7 * cut :]]
    return train, held_out


def crops(of, count, size, seed):
    """Square parts of images at random places, as many of each image."""
    random, found = np.random.default_rng(seed), []
    for image in of:
        places = [random.integers(0, n - size + 1, count) for n in image.shape[:2]]
        found += [
            image[i : i + size, j : j + size] for i, j in zip(*places, strict=True)
        ]
    found = np.stack(found)[random.permutation(len(found))]
    return found.astype(np.float32)


def patches_train():
    return crops(photographs()[0], 8192, 16, 0)


def patches_held_out():
    return crops(photographs()[1], 512, 16, 1)


def smaller(problem: Vectors, quick: bool) -> Vectors:
    """The problem, or for a trial run a small version of it."""
    if not quick:
        return problem
    taught = problem.taught and dataclasses.replace(problem.taught, steps=4)
    return dataclasses.replace(
        problem,
        network=problem.network.smaller(),
        taught=taught,
        steps=dict.fromkeys(problem.steps, 4),
        batch_size=16,
        count=64,
        truth_count=64,
        tolerance=1e-3,
        times=2,
    )


FEW = {"paper": 1500, "ours": 1500, "kd": 3000}  # a step of kd costs half


@bench.problem("pid", label="ring of 8, d = 2")
def ring(quick):
    """Eight Gaussians on a circle: radius 0.7, standard deviation 0.08."""
    problem = Vectors(
        Network(2, residual=False),
        batch_size=1024,
        steps={"paper": 8000, "ours": 5000, "kd": 8000},
        optimiser="Muon",
        ema=0.999,
        law=ring_law,
        sigma_data=0.5,
        count=16_384,
        tolerance=1e-6,
        times=(1.0, 0.1),
        per_component=False,
    )
    return smaller(problem, quick)


@bench.problem("pid", label="digits, learned", quick=False)
def digits(quick):
    """8 by 8 digits as vectors, ten classes."""
    problem = Vectors(
        Network(64, classes=10),
        batch_size=256,
        steps=FEW,
        taught=Taught(digits_train),
        held_out=digits_held_out,
    )
    return smaller(problem, quick)


@bench.problem("pid", label="8 modes, d = 64")
def mixture(quick):
    """Eight Gaussians in 64 dimensions: the mixture of the suite `solvers`, too."""
    problem = Vectors(
        Network(64), batch_size=256, steps=FEW, law=mixture_law, sigma_data=SIGMA_64
    )
    return smaller(problem, quick)


@bench.problem("pid", label="8 modes, d = 64, learned", quick=False)
def learned(quick):
    """The same mixture, by a network that has seen 50,000 samples of it."""
    problem = Vectors(
        Network(64),
        batch_size=256,
        steps=FEW,
        law=mixture_law,
        taught=Taught(mixture_samples),
        sigma_data=SIGMA_64,
    )
    return smaller(problem, quick)


@bench.problem("pid", label="patches of photographs, learned", quick=False)
def patches(quick):
    """Colour patches, 16 by 16, of the two photographs that come with scikit-learn."""
    problem = Images(
        UNet(16, width=16),
        batch_size=64,
        steps={"paper": 600, "ours": 600, "kd": 600},
        taught=Taught(patches_train, steps=1500, batch_size=64),
        held_out=patches_held_out,
        sigma_data=0.6,
        count=512,
        truth_count=512,
    )
    return smaller(problem, quick)
