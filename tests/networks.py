"""Networks of the tests: a small one, and one that is the exact answer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px


class Network(eqx.Module):
    """A small network that keeps to the contract of `pidax.nn`."""

    inner: jax.Array
    outer: jax.Array
    classes: int | None = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, size=3, classes=None):
        rng = np.random.default_rng(7)
        self.inner = jnp.asarray(rng.normal(size=(8, size + 1 + (classes or 0))), float)
        self.outer = jnp.asarray(0.5 * rng.normal(size=(size, 8)), float)
        self.classes = classes
        self.shape = (size,)

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        features = [x, c_noise[None]]
        if self.classes is not None:
            label = -1 if condition is None else condition
            features.append(jax.nn.one_hot(label, self.classes, dtype=x.dtype))
        return self.outer @ jnp.tanh(self.inner @ jnp.concatenate(features))


def level_of(log, process):
    """The inverse of `log_ratio`, as `(sigma, alpha)` of any chart."""
    low, high = process.ratio_interval
    high = high if np.isfinite(high) else 160 * process.sigma_data
    beyond = log > jnp.log(high)
    sigma = jnp.where(beyond, 1.0, jnp.exp(log))
    alpha = jnp.where(beyond, (jnp.log(high) + 1 - log) / high, 1.0)
    below = log < jnp.log(low)
    return jnp.where(below, low * (log - jnp.log(low) + 1), sigma), alpha


class Trajectory(eqx.Module):
    """The network whose student is the exact trajectory of Gaussian data."""

    exact: px.Gaussian
    process: Any

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        process = self.process
        t = process.time(*level_of(4 * c_noise, process))
        last = jnp.asarray(process.t_max)
        z = x * process.scale(last)
        start, end = (process.level(at) for at in (last, t))
        noise = end[0] / start[0]
        gap = end[1] - start[1] * noise
        moved = self.exact.transport(z, start, end) - noise * z
        there = jnp.abs(gap) > 1e-9  # at T any value will do
        return jnp.where(there, moved / jnp.where(there, gap, 1.0), 0.0)


def drawn(make, seed=0):
    """A network of NumPy's numbers, float32: nothing is compiled to draw them."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.3
        numbers = scale * rng.normal(size=leaf.shape)
        return jnp.asarray(numbers + 0.5 * (len(leaf.shape) == 1), jnp.float32)

    return jax.tree.map(one, eqx.filter_eval_shape(make))
