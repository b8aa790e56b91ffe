"""Gradients of several losses as one: closed forms, and through the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives import KEY, fit, line, regression

import pidax as px
from pidax.distill import ConFIG


def unit(v):
    return v / np.linalg.norm(v)


def gradients(rows):
    """Losses' gradients, spread over two leaves as a network's are."""
    rows = np.asarray(rows, np.float32)
    return {"a": jnp.asarray(rows[:, :2]), "b": jnp.asarray(rows[:, 2:, None])}


combined = jax.jit(ConFIG())


def flat(tree):
    return np.concatenate([np.asarray(tree["a"]), np.asarray(tree["b"])[..., 0]], -1)


def test_two_losses_step_along_the_bisector():
    """G = (g1.v + g2.v) v with v = U(U(g1) + U(g2)), whatever their sizes."""
    first, second = np.array([3.0, 0, 0, 1]), np.array([-0.02, 0.05, 0, 0.01])
    v = unit(unit(first) + unit(second))
    expected = (first @ v + second @ v) * v
    found = flat(combined(gradients([first, second])))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    # Conflict: the sum raises the smaller loss, this lowers both.
    assert second @ (first + second) < 0
    assert second @ found > 0
    assert first @ found > 0


def test_three_losses_all_make_the_same_angle_with_the_step():
    rows = np.random.default_rng(0).normal(size=(3, 5)) * [[1], [20], [0.01]]
    found = flat(combined(gradients(rows)))
    cosines = rows @ found / np.linalg.norm(rows, axis=1) / np.linalg.norm(found)
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-3)
    assert cosines[0] > 0
    length = (rows @ unit(found)).sum()
    np.testing.assert_allclose(np.linalg.norm(found), length, rtol=1e-4)


def test_parallel_opposed_and_silent_gradients():
    g = np.array([1.0, 2.0, 0.0, -1.0])
    found = flat(combined(gradients([g, 3 * g])))
    np.testing.assert_allclose(found, 4 * g, rtol=1e-4)  # the sum
    np.testing.assert_allclose(flat(combined(gradients([g, -2 * g]))), 0, atol=1e-4)
    np.testing.assert_allclose(flat(combined(gradients([g, 0 * g]))), g, rtol=1e-4)
    np.testing.assert_array_equal(flat(combined(gradients([0 * g, 0 * g]))), 0)


class Two(px.distill.AbstractObjective):
    """The losses (w.x + b - y)^2 / 2 and |w|^2 / 2, combined or added."""

    combine: px.distill.AbstractCombination | None

    @property
    def combination(self):
        return self.combine

    def check(self, model, data):
        pass

    def loss(self, model, state, sample, progress, *, key):
        x, y = sample
        losses = jnp.stack(
            [(model.w @ x + model.b - y) ** 2 / 2, (model.w**2).sum() / 2]
        )
        return losses if self.combine else losses.sum(), ((), {})


def by_hand(rate):
    """One step from `line()` on the mean gradients of the first batch of eight."""
    model, (x, y) = line(), regression(8)
    w, b = np.asarray(model.w, float), float(model.b)
    error = x @ w + b - y
    rows = np.array([[*(error @ x / 8), error.mean()], [*w, 0.0]])
    v = unit(unit(rows[0]) + unit(rows[1]))
    return np.array([*w, b]) - rate * (rows @ v).sum() * v


@pytest.mark.parametrize("how", ["one", "two micro-batches", "two devices"])
def test_the_engine_combines_the_gradients_of_the_whole_batch(how):
    """The bisector of means, which is not the mean of bisectors of parts."""
    options = {
        "one": {},
        "two micro-batches": {"accumulate": 2},
        "two devices": {"devices": jax.devices()[:2]},
    }[how]
    result = fit(
        objective=Two(ConFIG()), data=regression(8), steps=1, batch_size=8,
        optimiser=optax.sgd(0.1), key=KEY, **options,
    )  # fmt: skip
    found = np.array([*np.asarray(result.model.w), float(result.model.b)])
    np.testing.assert_allclose(found, by_hand(0.1), rtol=1e-5)


def test_losses_without_a_combination_must_be_one_number():
    class Wrong(px.distill.AbstractObjective):
        def check(self, model, data):
            pass

        def loss(self, model, state, sample, progress, *, key):
            return jnp.ones(2) * model.b, ((), {})

    with pytest.raises(ValueError, match="must be one float32"):
        fit(objective=Wrong())


def test_combined_losses_must_be_a_vector():
    class Wrong(px.distill.AbstractObjective):
        @property
        def combination(self):
            return ConFIG()

        def check(self, model, data):
            pass

        def loss(self, model, state, sample, progress, *, key):
            return model.b, ((), {})

    with pytest.raises(ValueError, match="must be a vector of"):
        fit(objective=Wrong())
