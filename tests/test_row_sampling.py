"""Which times a residual attends to, and distances: closed forms and frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from scipy import stats

from pidax.distill import (
    L1,
    L2,
    ByLoss,
    Causal,
    Curriculum,
    PowerLaw,
    PseudoHuber,
    Uniform,
    Unweighted,
)
from pidax.distill._row_sampling import RunningMeans, draw_row

LOSSES = np.array([0.9, 0.1, 0.4, 0.0016, 0.25])
NONE = jnp.zeros(5)  # times, which none of them looks at


def chances(sampling, progress=0.0, losses=LOSSES):
    losses = jnp.asarray(losses, float)
    found = sampling(NONE, losses, jnp.asarray(progress, float))
    assert found.dtype == losses.dtype
    return np.asarray(found / found.sum())


def test_even_draws_and_draws_towards_the_data(dtype):
    assert_close(chances(Uniform()), np.full(5, 0.2), tolerance(dtype))
    assert_close(chances(PowerLaw()), np.arange(1, 6) / 15, tolerance(dtype))
    back = chances(PowerLaw(power=-2.0))
    assert_close(back / back[0], 1.0 / np.arange(1, 6) ** 2, tolerance(dtype))


def test_draws_by_loss_are_a_mixture_with_even_ones(dtype):
    root = LOSSES**0.5
    expected = 0.8 * root / root.sum() + 0.04
    assert_close(chances(ByLoss()), expected, tolerance(dtype))
    plain = chances(ByLoss(power=1.0, even=0.5))
    assert_close(plain, 0.5 * LOSSES / LOSSES.sum() + 0.1, tolerance(dtype))
    assert_close(chances(ByLoss(), losses=np.zeros(5)), np.full(5, 0.2), 1e-6)


def test_rows_open_one_after_another_from_noise_to_data():
    """The first at once, and the last before the whole share of the run is done."""
    for progress, rows in [(0.0, 1), (0.1, 2), (0.3, 4), (0.45, 5), (0.5, 5), (1, 5)]:
        found = chances(Curriculum(by=0.5), progress)
        np.testing.assert_array_equal(found > 0, np.arange(5) < rows)
        assert_close(found[:rows], np.full(rows, 1 / rows), 1e-6)


def test_a_row_counts_when_those_before_it_are_small(dtype):
    weights = Causal(strictness=2.0)(
        NONE, jnp.asarray(LOSSES, float), jnp.zeros(()), NONE
    )
    sums = np.array([0.0, 0.9, 1.0, 1.4, 1.4016])
    assert_close(weights, np.exp(-2 * sums), tolerance(dtype))
    ones = Unweighted()(NONE, jnp.asarray(LOSSES, float), jnp.zeros(()), NONE)
    np.testing.assert_array_equal(ones, np.ones(5))


def drawn(sampling, weighting, count=4000):
    """Indices and factors of many draws."""
    losses, now = jnp.asarray(LOSSES, float), jnp.asarray(0.15, float)
    one = lambda key: draw_row(sampling, weighting, NONE, losses, now, NONE, key)
    keys = jax.random.split(jax.random.key(1), count)
    return [np.asarray(a) for a in jax.jit(jax.vmap(one))(keys)]


@pytest.mark.parametrize(
    "sampling",
    [Uniform(), ByLoss(), PowerLaw(), Curriculum()],
    ids=lambda s: type(s).__name__,
)
def test_rows_are_drawn_as_often_as_they_should_be(sampling, x64):
    i, factor = drawn(sampling, Causal())
    p = chances(sampling, 0.15)
    counts = np.bincount(i, minlength=5)
    assert (counts[p == 0] == 0).all()
    assert stats.chisquare(counts[p > 0], 4000 * p[p > 0]).pvalue > 1e-3
    weights = np.exp(LOSSES - LOSSES.cumsum())
    share = 0.2 / p[i] if isinstance(sampling, ByLoss) else 1.0
    assert_close(factor, weights[i] * share, 1e-12)


def test_draws_by_loss_leave_the_expected_loss_as_it_is(x64):
    """The sum over rows of probability, factor and loss is the mean loss."""
    i, factor = drawn(ByLoss(), Unweighted())
    p, of = chances(ByLoss()), dict(zip(i.tolist(), factor.tolist(), strict=True))
    assert sorted(of) == [0, 1, 2, 3, 4]
    assert_close(sum(p[k] * of[k] * LOSSES[k] for k in of), LOSSES.mean(), 1e-12)
    noise = (factor * LOSSES[i]).std()
    assert noise < 0.7 * LOSSES.std()  # which is what it is for


def test_running_losses_remember_a_hundred_steps(dtype):
    running = RunningMeans.start(3)
    np.testing.assert_array_equal(running.means(), np.ones(3))
    total, count = np.full((2, 3), 1e-3)
    seen = np.array([[0.5, 0.25, 0.0], [0.25, 0.25, 0.0]])  # shares of two batches
    for share, loss in zip(seen, (0.3, 0.7), strict=True):
        running = running.update(jnp.asarray(share * loss), jnp.asarray(share))
        fade = np.where(share > 0, 0.99, 1.0)
        total, count = fade * total + share * loss, fade * count + share
    assert running.total.dtype == dtype
    assert_close(running.means(), total / count, tolerance(dtype))
    assert_close(running.means()[2], 1.0, tolerance(dtype))
    assert abs(float(running.means()[0]) - (0.15 + 0.175) / 0.75) < 1e-2


def test_a_row_never_seen_keeps_its_first_mean(dtype):
    """Faded at every step it would be 0 / 0 after some eight thousand."""
    share = jnp.array([1.0, 0.0])
    more = lambda i, running: running.update(0.5 * share, share)
    running = jax.lax.fori_loop(0, 20_000, more, RunningMeans.start(2))
    assert_close(running.means(), np.array([0.5, 1.0]), tolerance(dtype))


def test_distances_are_means_over_components(dtype):
    x, y = jnp.array([[3.0, -1.0], [0.5, 0.0]]), jnp.array([[1.0, 0.0], [0.5, 2.0]])
    eps = tolerance(dtype)
    assert_close(L2()(x, y), (4 + 1 + 4) / 4, eps)
    assert_close(L1()(x, y), (2 + 1 + 2) / 4, eps)
    assert_close(PseudoHuber(c=2.0)(x, y), (9 / 4 + 4) ** 0.5 - 2, eps)
    assert PseudoHuber()(x, x) == 0
    near = x + jnp.array(1e-4, dtype)  # no digits lost beside c
    square = np.mean(np.asarray(near - x, float) ** 2)
    assert_close(PseudoHuber(c=0.5)(near, x) / square, 1.0, 1e-5)
    far = PseudoHuber(c=1e-3)(x, y)
    assert_close(far, 1.5, 2e-3)  # the root mean square


def test_distances_of_bfloat16_are_float32():
    x = jnp.full(300, 1.0, jnp.bfloat16)
    y = jnp.full(300, 1.0078125, jnp.bfloat16)
    for distance, expected in [(L1(), 2.0**-7), (L2(), 2.0**-14)]:
        found = distance(x, y)
        assert found.dtype == np.float32
        assert_close(found, expected, 1e-6, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ByLoss(power=0.0), "power must be positive and finite, got power=0.0"),
        (lambda: ByLoss(even=0.0), r"in \(0, 1\], got even=0.0"),
        (lambda: ByLoss(even=1.5), r"in \(0, 1\], got even=1.5"),
        (lambda: Curriculum(by=0.0), r"in \(0, 1\], got by=0.0"),
        (lambda: Causal(strictness=-1.0), "strictness must be positive"),
        (lambda: PseudoHuber(c=0.0), "c must be positive and finite, got c=0.0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
