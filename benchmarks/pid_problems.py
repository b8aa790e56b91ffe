"""The teachers on which distillation is measured, and the truth about them.

`ring` and `mixture` are exact; `digits` and `learned` (the same mixture, from samples)
are networks trained here by denoising score matching, once, and kept in `outputs/`.
Each comes with fixed prior draws solved by the adaptive solver: what a student's error
is measured against.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pidax as px

STORE = Path(__file__).parent.parent / "outputs/pid_ablation"
BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A teacher's flow, students for it, and solved trajectories."""

    name: str
    flow: px.ProbabilityFlow
    network: Callable[..., Any]  # (key, scale of its size) -> network
    batch_size: int
    classes: int | None
    count: int  # fixed prior draws
    tolerance: float  # of their solve
    exact: px.AbstractExactDenoiser | None  # draws of it are the truth
    data: np.ndarray | None  # or these, held out from the teacher's training

    @functools.cached_property
    def times(self):
        process = self.flow.process
        if self.name == "ring":
            return jnp.array([process.t_max, 1.0, 0.1, process.t_min])
        return px.karras(9, process)

    @functools.cached_property
    def condition(self):
        return None if self.classes is None else jnp.arange(self.count) % self.classes

    @functools.cached_property
    def solved(self):
        """`(z, xs)`: the draws, and their states at `times`."""
        shape = self.flow.shape
        assert shape is not None
        z = self.flow.process.prior(jax.random.key(123), (self.count, *shape))
        parts = []
        for at in range(0, self.count, BLOCK):
            label = None if self.condition is None else self.condition[at : at + BLOCK]
            path = px.solve_batch(
                self.flow,
                z[at : at + BLOCK],
                times=self.times,
                condition=label,
                rtol=self.tolerance,
            )
            parts.append(path.xs)
        return z, jnp.concatenate(parts)

    @functools.cached_property
    def truth(self):
        """Two sets of true samples, of the same size."""
        draws, exact = self.data, self.exact
        if exact is not None:
            keys = jax.random.split(jax.random.key(9), 2 * 4096)
            draws = np.asarray(jax.vmap(lambda key: exact.sample(key=key))(keys))
        assert draws is not None
        half = len(draws) // 2
        return draws[:half], draws[half : 2 * half]


def ring():
    """Eight Gaussians on a circle: radius 0.7, standard deviation 0.08."""
    exact = px.GaussianMixture.ring(8, radius=0.7, scale=0.08)
    flow = px.ProbabilityFlow(exact, px.EDM())
    make = lambda key, scale=1: px.nn.MLP(2, 2, width=256 // scale, depth=4, key=key)
    return Problem("ring", flow, make, 1024, None, 16_384, 1e-6, exact, None)


def mixture():
    """Eight Gaussians in 64 dimensions: those of benchmarks/reference_solve.py."""
    exact, process = _mixture()
    flow = px.ProbabilityFlow(exact, process)
    return Problem("mixture", flow, _residual(None), 256, None, 4096, 1e-5, exact, None)


def learned():
    """The same mixture, by a network that has seen 50,000 samples of it."""
    exact, process = _mixture()
    keys = jax.random.split(jax.random.key(5), 50_000)
    data = jax.vmap(lambda key: exact.sample(key=key))(keys)
    teacher = _teacher("learned", process, _residual(None), data)
    flow = px.ProbabilityFlow(teacher, process)
    return Problem("learned", flow, _residual(None), 256, None, 4096, 1e-5, exact, None)


def digits():
    """8 by 8 digits as vectors, ten classes; a third is held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:1197], order[1197:]
    process = px.EDM(sigma_data=float(images.std()))
    data = (images[train], labels[train])
    teacher = _teacher("digits", process, _residual(10), data)
    flow = px.ProbabilityFlow(teacher, process)
    held = images[held_out]
    return Problem("digits", flow, _residual(10), 256, 10, 4096, 1e-5, None, held)


PROBLEMS = {f.__name__: f for f in (ring, mixture, learned, digits)}


def _mixture():
    means = np.random.default_rng(0).normal(size=(8, 64))
    means *= 0.7 / np.sqrt(np.mean(means**2, axis=1, keepdims=True))
    process = px.EDM(sigma_data=float(np.hypot(0.7, 0.2)))
    return px.GaussianMixture(jnp.asarray(means, jnp.float32), 0.2), process


def _residual(classes):
    def make(key, scale=1):
        return px.nn.ResidualMLP(
            64, 64, width=256 // scale, depth=4, classes=classes, key=key
        )

    return make


def _teacher(name, process, make, data, steps=3000):
    """Trained here, or read from where it was kept."""
    path = STORE / f"{name}.pidax"
    if path.exists():
        return px.store.load(path)
    result = px.fit(
        px.Preconditioned(make(jax.random.key(0)), process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=steps,
        batch_size=256,
        optimiser=optax.adam(px.warmup_cosine(2e-3, steps)),
        key=jax.random.key(3),
        progress=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    px.store.save(path, result.ema())
    return result.ema()
