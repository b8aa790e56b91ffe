"""Small objectives whose training can be followed by hand, for the engine's tests."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import pidax as px

KEY = jax.random.key(7)
ONE = jax.devices()[:1]


class Line(eqx.Module):
    """y = w . x + b."""

    w: Array
    b: Array


def line() -> Line:
    return Line(jnp.array([0.5, -0.3, 0.2]), jnp.array(0.1))


class LeastSquares(px.distill.AbstractObjective):
    """(w . x + b - y)^2 / 2, plus noise on x of this scale."""

    noise: Array = eqx.field(default_factory=lambda: jnp.zeros(()))

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        x, y = sample
        x = x + self.noise * jax.random.normal(key, x.shape, x.dtype)
        error = model.w @ x + model.b - y
        return error**2 / 2, ({}, {"size": jnp.abs(error)})


def regression(count=50, seed=0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    dtype = jnp.zeros(()).dtype
    x = generator.normal(size=(count, 3)).astype(dtype)
    y = x @ np.array([1.0, -2.0, 0.5], dtype) + generator.normal(size=count)
    return x, y.astype(dtype)


def fit(model: Any = None, objective: Any = None, **options: Any) -> px.Result:
    """A short run: what is not given is small and quiet."""
    options = (
        dict(
            steps=12,
            batch_size=8,
            key=KEY,
            data=regression(),
            optimiser=optax.sgd(0.1),  # one program serves most tests
            progress=False,
            devices=ONE,
        )
        | options
    )
    return px.fit(model or line(), objective or LeastSquares(), **options)


class Witness(px.distill.AbstractObjective):
    """Writes down the random bits that each sample of each step was given."""

    steps: int
    count: int

    def check(self, model, data):
        pass

    def init(self, model, *, key):
        return jnp.zeros((self.steps, self.count)), jnp.zeros((), int)

    def loss(self, model, state, sample, progress, *, key):
        bits = jax.random.bits(key, (), jnp.uint32) >> 8  # exact in float32
        mark = (bits.astype(jnp.float32) + 1).astype(state[0].dtype)
        row = jnp.zeros(self.count, mark.dtype).at[sample].set(mark)
        return model.b**2, (row, {})

    def trainable(self, state):
        return ()

    def advance(self, model, state, update):
        table, step = state
        return table.at[step].set(update * self.count), step + 1

    @property
    def refresh_every(self):
        return None

    def refresh(self, model, state, *, key):
        return state


class WithState(px.distill.AbstractObjective):
    """A slow copy of the model, a trained number, and a count of refreshes."""

    def check(self, model, data):
        pass

    def init(self, model, *, key):
        zero = jnp.zeros(())
        return {"slow": model, "aim": zero, "drawn": zero, "size": zero}

    def loss(self, model, state, sample, progress, *, key):
        _, y = sample
        aim = (state["aim"] - y) ** 2 / 2  # its optimum: the mean of y
        return (model.b - progress) ** 2 / 2 + aim, ({"size": y**2}, {"aim": aim})

    def trainable(self, state):
        return state["aim"]

    def advance(self, model, state, update):
        slow = jax.tree.map(lambda s, m: 0.5 * s + 0.5 * m, state["slow"], model)
        return {**state, "slow": slow, "size": update["size"]}

    @property
    def refresh_every(self):
        return 5

    def refresh(self, model, state, *, key):
        return {**state, "drawn": state["drawn"] + jax.random.uniform(key) + 1}


def arrays(tree: Any) -> list[np.ndarray]:
    """All arrays of a tree, random keys as their data."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(a) if is_key(a) else a) for a in leaves]


def assert_same_bits(one: Any, other: Any) -> None:
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)
