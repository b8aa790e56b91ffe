"""What is compiled once: numbers of a run are arguments of its step."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives import ONE, LeastSquares, arrays, fit, line

import pidax as px
from pidax.distill import Ramp, Sum
from pidax.train._programs import _made, closed, mark, opened

TWO = jax.devices()[:2]


@pytest.fixture
def compiled():
    """The programs that JAX has made in this test, so far.

    They are counted when they are lowered: what is compiled may come from a cache of
    other tests, as may a kept program, of which there are none at first.
    """
    found: list[str] = []
    _made.cache_clear()

    def note(event: str, duration_secs: float, **more: Any):
        if "jaxpr_to_mlir_module" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.clear_event_listeners()


def change(result, start):
    """By how much a run has moved the weights."""
    pairs = zip(arrays(result.model), arrays(start), strict=True)
    return np.concatenate([np.ravel(a - b) for a, b in pairs])


@pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])
def test_another_rate_compiles_nothing(devices, compiled):
    """Of one step of gradient descent, which is as long as its rate is large."""
    rates = {0.1: 1.0, 0.2: 2.0, 0.05: 0.5}
    first, *rest = (
        (size, len(compiled), change(run, line()))
        for rate, size in rates.items()
        for run in [fit(optimiser=optax.sgd(rate), steps=1, devices=devices)]
    )
    assert first[1] > 0
    for size, count, moved in rest:
        assert count == first[1]
        np.testing.assert_allclose(moved, size * first[2], rtol=1e-4, atol=1e-7)


class Offset(LeastSquares):
    """The loss is the offset of the line."""

    def loss(self, model, state, sample, progress, *, key):
        return model.b, ({}, {})


def test_another_schedule_and_length_compile_nothing(compiled):
    """The sum of the rates is what a constant gradient moves a weight by."""

    def run(peak, steps, **more):
        rate: Any = px.warmup_cosine(peak, steps, **more)
        result = fit(objective=Offset(), optimiser=optax.sgd(rate), steps=steps)
        expected = -sum(float(rate(step)) for step in range(steps))
        assert float(result.model.b - line().b) == pytest.approx(expected, rel=1e-4)
        return len(compiled)

    first = run(0.1, 12)
    assert first > 0
    assert run(0.03, 20, warmup=4, end=0.01) == first


class Slope(px.distill.AbstractDistillation):
    """The loss is the student's mean weight: its gradient is one everywhere."""

    flow: px.ProbabilityFlow
    classes: int | None = None
    condition: Any = None

    def check(self, model, data):
        pass

    def answer(self, model, state, progress, *, key):
        weights = jax.tree.leaves(eqx.filter(model, px.nn.trainable(model)))
        total = jnp.stack([w.sum() for w in weights]).sum()
        return total, None, ({}, {})


@pytest.mark.parametrize("devices", [ONE, TWO], ids=["one device", "two devices"])
def test_a_schedule_serves_two_runs(devices):
    """On two devices a step donates its numbers, which are not the user's own."""
    rate: Any = px.warmup_cosine(0.1, 3)
    one, two = (
        fit(optimiser=optax.sgd(rate), steps=3, devices=devices) for _ in range(2)
    )
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(rate))
    for a, b in zip(arrays(one.model), arrays(two.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_weights_of_losses_compile_nothing(compiled):
    """The step is as long as the weights together."""
    process = px.EDM()
    flow = px.ProbabilityFlow(px.Gaussian(jnp.zeros(2), jnp.ones(2)), process)

    def run(weight, ramp):
        parts = [(Slope(flow), weight), (Slope(flow), ramp)]
        return fit(line(), Sum(parts), data=None, steps=2), len(compiled)

    first, count = run(1.0, Ramp(3.0, end=1.0))  # 1, then 1 + 3/2
    second, again = run(0.2, Ramp(8.0, start=0.25, end=0.75))  # 0.2, then 4.2
    assert 0 < count == again
    np.testing.assert_allclose(change(first, line()), -0.1 * 3.5, rtol=1e-5)
    np.testing.assert_allclose(change(second, line()), -0.1 * 4.4, rtol=1e-5)


def test_what_is_opened_and_closed_is_the_same_optimiser():
    gradient = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    mask: Any = lambda tree: jax.tree.map(lambda _: True, tree)
    rate: Any = px.warmup_cosine(1e-2, 100, warmup=2)
    rated: dict[str, Any] = {
        "adam": optax.adam(1e-2),
        "schedule": optax.radam(rate),
        "array": optax.sgd(jnp.array(0.1)),
        "muon": optax.contrib.muon(rate),
        "masked": optax.masked(optax.adamw(1e-2), mask),
    }
    whole = {
        "a user's": optax.sgd(lambda step: 0.1 / (step + 1)),
        "a schedule of Optax": optax.adam(optax.cosine_decay_schedule(0.1, 9)),
    }
    for name, optimiser in (rated | whole).items():
        rates, empty = opened(optimiser)
        assert (len(rates) > 0) == (name in rated), name
        again = closed(empty, rates)
        with jax.numpy_dtype_promotion("standard"):
            state = optimiser.init(gradient)
            expected: Any = optimiser.update(gradient, state, gradient)[0]
            found: Any = again.update(gradient, state, gradient)[0]
        np.testing.assert_array_equal(found["w"], expected["w"], err_msg=name)


def test_programs_are_shared_across_rates_and_nothing_else():
    empty = lambda optimiser: mark(opened(optimiser)[1])
    rate: Any = px.warmup_cosine
    assert empty(optax.adam(1e-3)) == empty(optax.adam(2e-3))
    assert empty(optax.adam(rate(1e-3, 9))) == empty(optax.adam(rate(2e-3, 99)))
    assert empty(optax.adam(1e-3)) != empty(optax.adam(1e-3, b1=0.5))
    assert empty(optax.adam(1e-3)) != empty(optax.adam(rate(1e-3, 9)))
    assert empty(optax.adam(1e-3)) != empty(optax.sgd(1e-3))


def test_a_function_that_contains_itself_is_not_taken_apart():
    def scale(count):
        return scale

    scale.__module__ = "optax"
    assert opened(scale) == ((), scale)
