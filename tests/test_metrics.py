"""Distances between sets against SciPy, brute force and closed forms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance
import scipy.stats
from helpers import assert_close, tolerance
from jax.test_util import check_grads

import pidax as px
from pidax.metrics import (
    energy_distance,
    error_summary,
    median_bandwidth,
    mmd,
    sample_errors,
    sliced_wasserstein,
    wasserstein_1d,
)
from pidax.metrics._kernel_distances import (
    _gaussian,
    _nearness,
    discrepancy,
    row_sums,
    squares,
)
from pidax.metrics._wasserstein import _NUMBERS, directions, projected

KEY = jax.random.key(7)
KEYS = jax.random.split(KEY, 2000)
SLICED = functools.partial(sliced_wasserstein, key=KEY, projections=16)
MMD = functools.partial(mmd, bandwidth=np.array([0.7, 1.8]))
# Distances of the empirical laws themselves: zero for two copies of one set.
OF_LAWS = {
    "sliced 1": functools.partial(SLICED, order=1),
    "sliced 2": SLICED,
    "mmd": functools.partial(MMD, unbiased=False),
    "energy": functools.partial(energy_distance, unbiased=False),
}
ALL = {**OF_LAWS, "unbiased mmd": MMD, "unbiased energy": energy_distance}
of_laws = pytest.mark.parametrize("name", OF_LAWS)
everything = pytest.mark.parametrize("name", ALL)
kinds = pytest.mark.parametrize("name", ["sliced 2", "unbiased mmd", "unbiased energy"])


def two_sets(n=9, m=9, *event, dtype: Any = np.float64) -> tuple[Any, Any]:
    """Each shape costs compilation; most tests share 9 and 9 points in space."""
    rng = np.random.default_rng(0)
    event = event or (3,)
    x = rng.normal(size=(n, *event))
    y = 0.3 + 1.4 * rng.normal(size=(m, *event))
    return x.astype(dtype), y.astype(dtype)


def replicates(distance, x, y):
    """The mean over many pairs of sets, and its standard error."""
    values = np.asarray(jax.jit(jax.vmap(distance))(x, y))
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


# --- errors of pairs -----------------------------------------------------------------


def test_rms_error_by_hand():
    x = np.zeros((2, 2, 1))
    y = np.array([[[3.0], [4.0]], [[0.0], [1.0]]])
    assert float(px.metrics.rms_error(x, y)) == pytest.approx(np.sqrt((25 + 1) / 2))
    by_component = px.metrics.rms_error(x, y, per_component=True)
    assert float(by_component) == pytest.approx(np.sqrt(26 / 4))


@pytest.mark.parametrize("per_component", [False, True])
def test_sample_errors_are_those_of_numpy_and_of_rms_error(per_component, x64):
    x, y = two_sets(9, 9, 3, 2)
    expected = np.linalg.norm((x - y).reshape(9, -1), axis=1)
    if per_component:
        expected /= np.sqrt(6)
    errors = sample_errors(x, y, per_component=per_component)
    assert_close(errors, expected, 1e-13)
    rms = px.metrics.rms_error(x, y, per_component=per_component)
    assert_close(rms, np.sqrt(np.mean(expected**2)), 1e-13)
    assert error_summary(x, y, per_component=per_component) == pytest.approx(
        {
            "rms": np.sqrt(np.mean(expected**2)),
            "median": np.median(expected),
            "p99": np.percentile(expected, 99),
            "max": np.max(expected),
        },
        rel=1e-13,
    )


@pytest.mark.slow
def test_a_failed_sample_is_named_and_not_summarised(x64):
    x, y = two_sets(4, 4)
    x[2] = np.nan
    assert np.isnan(sample_errors(x, y)).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match=r"4 samples, 1 of them .*Leave out and count"):
        error_summary(x, y)
    assert (jax.grad(lambda x: sample_errors(x, y).sum())(jnp.asarray(y)) == 0).all()


# --- sliced Wasserstein --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(20, 12), (1, 7)])
def test_order_one_on_the_line_is_scipys(n, m, x64):
    x, y = two_sets(n, m, 1)
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert_close(wasserstein_1d(x[:, 0], y[:, 0], order=1), expected, 1e-13)
    assert_close(SLICED(x, y, order=1), expected, 1e-13)


def assignment(x, y, order):
    """The cheapest transport, by trying to match copies: `lcm` of each."""
    count = np.lcm(len(x), len(y))
    x, y = np.repeat(x, count // len(x)), np.repeat(y, count // len(y))
    costs = np.abs(x[:, None] - y) ** order
    return costs[scipy.optimize.linear_sum_assignment(costs)].mean()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "order"), [(20, 20, 1), (20, 12, 2)])
def test_every_projection_is_the_cheapest_assignment(n, m, order, x64):
    x, y = two_sets(n, m)
    thetas = directions(KEY, 16, 3, np.dtype(float))
    costs = projected(x, y, thetas, order=order, block=16)
    expected = [assignment(x @ t, y @ t, order) for t in np.asarray(thetas)]
    assert_close(costs, expected, 1e-12)
    assert_close(SLICED(x, y, order=order) ** order, np.mean(expected), 1e-12)
    one = wasserstein_1d(x[:, 0], y[:, 0], order=order)
    assert_close(one**order, assignment(x[:, 0], y[:, 0], order), 1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_a_shift_is_seen_along_each_direction(order, x64):
    x, _ = two_sets()
    shift = np.array([0.5, -1.0, 2.0])
    thetas = directions(KEY, 16, 3, np.dtype(float))
    costs = projected(x, x + shift, thetas, order=order, block=16)
    assert_close(costs, np.abs(thetas @ shift) ** order, 1e-12)
    if order == 2:  # which every orthogonal three of them measure exactly
        assert_close(costs[:15].mean(), np.sum(shift**2) / 3, 1e-12)


@pytest.mark.slow
def test_a_shift_is_right_on_average(x64):
    """`E|theta.m| = |m|/2` and `E(theta.m)^2 = |m|^2/3` in space."""
    x, _ = two_sets()
    shift = np.array([1.0, 2.0, -2.0])
    for order, expected in ((1, 1.5), (2, 3.0)):
        one = functools.partial(SLICED, x, x + shift, projections=2, order=order)
        values = jax.jit(jax.vmap(lambda key, one=one: one(key=key)))(KEYS)
        values = np.asarray(values) ** order
        error = values.std() / np.sqrt(len(KEYS))
        assert error < 0.03 * expected
        assert abs(values.mean() - expected) < 4 * error


@jax.jit
@jax.vmap
def fives(key):
    """Five directions in space for each key."""
    return directions(key, 5, 3, np.dtype(float))


@pytest.mark.slow
def test_directions_are_uniform_and_orthogonal(x64):
    thetas = np.asarray(fives(KEYS))
    for some in (thetas[:, :3], thetas[:, 3:]):
        gram = some @ some.swapaxes(1, 2)
        assert_close(gram, np.broadcast_to(np.eye(gram.shape[1]), gram.shape), 1e-12)
    # Moments of the uniform law, of each of the five by itself: 0, I/d, 3/d(d+2).
    error = 4 / np.sqrt(len(KEYS))
    assert np.abs(thetas.mean(0)).max() < error
    second = np.einsum("kpi,kpj->pij", thetas, thetas) / len(KEYS)
    assert np.abs(second - np.eye(3) / 3).max() < 0.4 * error
    assert np.abs((thetas**4).mean(0) - 0.2).max() < 0.3 * error


@pytest.mark.slow
def test_orthogonal_directions_have_less_variance(x64):
    """Against independent ones, on laws that differ by shift, scale and shape."""
    x, y = two_sets(40, 40)
    y = y * np.array([0.2, 0.5, 2.0])
    ours = fives(KEYS)
    theirs = np.random.default_rng(1).normal(size=ours.shape)
    theirs /= np.linalg.norm(theirs, axis=2, keepdims=True)

    def cost(thetas):
        rows = jnp.reshape(thetas, (-1, 3))
        costs = projected(x, y, rows, order=2, block=1000)
        return np.asarray(costs).reshape(-1, 5).mean(axis=1)

    ours, theirs = cost(ours), cost(theirs)
    error = np.sqrt((ours.var() + theirs.var()) / len(KEYS))
    assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert ours.var() < 0.5 * theirs.var()


@pytest.mark.slow
def test_the_floor_is_the_one_the_docstring_says(x64):
    """Sets of 100 and 200 of one normal law: the mean of `W_1` in closed form."""
    z = np.linspace(-9, 9, 20001)
    width = np.trapezoid(np.sqrt(scipy.stats.norm.cdf(z) * scipy.stats.norm.sf(z)), z)
    expected = np.sqrt(2 / np.pi) * np.sqrt(1 / 100 + 1 / 200) * 1.7 * width
    normal = 1.7 * np.random.default_rng(0).normal(size=(150, 300, 3))
    mean, error = replicates(ALL["sliced 1"], normal[:, :100], normal[:, 100:])
    assert error < 0.04 * expected
    assert abs(mean - expected) < 4 * error + 0.02 * expected


# --- maximum mean discrepancy and energy distance ------------------------------------


def brute(kernel, x, y, unbiased):
    """The three means of a pair function, one pair at a time."""
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)

    def within(z):
        pairs = [
            kernel(np.linalg.norm(z[i] - z[j]))
            for i in range(len(z))
            for j in range(len(z))
            if not (unbiased and i == j)
        ]
        return np.mean(pairs)

    between = np.mean([kernel(np.linalg.norm(a - b)) for a in x for b in y])
    return within(x) - 2 * between + within(y)


@pytest.mark.slow
@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_and_energy_are_their_double_loops(unbiased, x64):
    x, y = two_sets(12, 9)
    gaussian = lambda r, h: np.exp(-(r**2) / (2 * h**2))
    mean = lambda r: (gaussian(r, 0.7) + gaussian(r, 2.0)) / 2
    for several in ([0.7, 2.0], np.array([0.7, 2.0])):
        value = mmd(x, y, bandwidth=several, unbiased=unbiased)
        assert_close(value, brute(mean, x, y, unbiased), 1e-12)
    energy = energy_distance(x, y, unbiased=unbiased)
    assert_close(energy, -brute(lambda r: r, x, y, unbiased), 1e-12)


@pytest.mark.slow
def test_energy_on_the_line_is_scipys_squared(x64):
    x, y = two_sets(20, 12, 1)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert_close(ALL["energy"](x, y), expected, 1e-12)
    assert_close(ALL["energy"](x[:, 0], y[:, 0]), expected, 1e-12)


@pytest.mark.slow
def test_the_median_bandwidth_is_the_median_distance(x64):
    x, y = two_sets()
    pool = np.concatenate([x, y])
    expected = np.median(scipy.spatial.distance.pdist(pool))
    assert_close(median_bandwidth(x, y), expected, 1e-13)
    assert_close(median_bandwidth(pool), expected, 1e-13)
    one = brute(lambda r: np.exp(-(r**2) / (2 * expected**2)), x, y, True)
    for value in (mmd(x, y), mmd(x, y, bandwidth=expected)):
        assert_close(value, one, 1e-12)
    # Of large sets a subset: the same at every call, near to all.
    large = np.random.default_rng(3).normal(size=(5000, 2))
    value = median_bandwidth(large)
    assert float(value) == float(median_bandwidth(large))
    assert_close(value, np.sqrt(4 * np.log(2)), 0.03)  # Rayleigh's median


def gaussian_mean_kernel(shift, cov, h):
    """`E exp(-|Z|^2/2h^2)` for `Z ~ N(shift, cov)`."""
    widened = h**2 * np.eye(len(shift)) + cov
    decay = np.exp(-0.5 * shift @ np.linalg.solve(widened, shift))
    return decay * np.sqrt(h ** (2 * len(shift)) / np.linalg.det(widened))


def normal_mean_distance(shift, variance):
    """`E|Z|` for `Z ~ N(shift, variance)`."""
    s = np.sqrt(variance)
    spread = s * np.sqrt(2 / np.pi) * np.exp(-0.5 * (shift / s) ** 2)
    return spread + shift * (1 - 2 * scipy.stats.norm.cdf(-shift / s))


@pytest.mark.slow
def test_mmd_between_gaussians_is_the_laws(x64):
    """Unbiased: the population's value; the V-statistic: larger by what is stated."""
    h, shift = 1.3, np.array([0.8, -0.4])
    first, second = np.diag([1.0, 0.3]), np.array([[0.5, 0.2], [0.2, 0.9]])
    own = [gaussian_mean_kernel(0 * shift, 2 * cov, h) for cov in (first, second)]
    population = sum(own) - 2 * gaussian_mean_kernel(shift, first + second, h)
    z = np.random.default_rng(0).normal(size=(2, 200, 50, 2))
    x, y = z[0] @ np.sqrt(first), shift + z[1] @ np.linalg.cholesky(second).T
    mean, error = replicates(lambda x, y: mmd(x, y, bandwidth=h), x, y)
    assert error < 0.03 * population
    assert abs(mean - population) < 4 * error
    mean, error = replicates(lambda x, y: mmd(x, y, bandwidth=h, unbiased=False), x, y)
    bias = (2 - sum(own)) / 50
    assert bias > 4 * error
    assert abs(mean - population - bias) < 4 * error


@pytest.mark.slow
def test_energy_between_gaussians_is_the_laws(x64):
    own = normal_mean_distance(0.0, 2.0), normal_mean_distance(0.0, 2 * 2.25)
    population = 2 * normal_mean_distance(0.9, 3.25) - sum(own)
    z = np.random.default_rng(0).normal(size=(2, 200, 50))
    x, y = z[0], 0.9 + 1.5 * z[1]
    mean, error = replicates(energy_distance, x, y)
    assert error < 0.05 * population
    assert abs(mean - population) < 4 * error
    mean, error = replicates(ALL["energy"], x, y)
    bias = sum(own) / 50
    assert bias > 3 * error
    assert abs(mean - population - bias) < 4 * error


# --- what all of them keep -----------------------------------------------------------


@pytest.mark.slow
@of_laws
def test_two_copies_of_one_set_are_at_zero(name, x32):
    x, _ = two_sets(dtype=np.float32)
    x[7] = x[3]
    assert float(ALL[name](x, x)) == 0
    assert abs(float(ALL[name](x, np.random.default_rng(5).permutation(x)))) < 1e-6


@everything
def test_order_and_origin_do_not_matter_and_scale_does(name, x64):
    x, y = two_sets()
    value = float(ALL[name](x, y))
    rng = np.random.default_rng(5)
    assert value > 1e-2
    assert_close(ALL[name](rng.permutation(x), rng.permutation(y)), value, 1e-12)
    assert_close(ALL[name](x + 50, y + 50), value, 1e-11)
    assert_close(ALL[name](y, x), value, 1e-12)
    assert_close(ALL[name](x[:, None], y[:, None]), value, 1e-14)
    if "mmd" in name:
        bandwidth = 2.5 * ALL[name].keywords["bandwidth"]
        scaled = ALL[name](2.5 * x, 2.5 * y, bandwidth=bandwidth)
        assert_close(scaled, value, 1e-12)
    else:
        assert_close(ALL[name](2.5 * x, 2.5 * y), 2.5 * value, 1e-12)


@everything
def test_no_square_overflows_or_vanishes(name, x32):
    """Distances are as large as the numbers, of which float32 has more than squares."""
    x, y = two_sets(dtype=np.float32)
    value = ALL[name](x, y)
    for scale in (np.float32(2.0**64), np.float32(2.0**-70)):
        if "mmd" in name:
            bandwidth = scale * ALL[name].keywords["bandwidth"]
            assert_close(
                ALL[name](scale * x, scale * y, bandwidth=bandwidth), value, 1e-6
            )
        else:
            assert_close(ALL[name](scale * x, scale * y) / scale, value, 1e-6)
            apart = px.metrics.rms_error(scale * x, scale * y) / scale
            assert_close(apart, px.metrics.rms_error(x, y), 1e-6)


@everything
def test_float32_keeps_the_distances_of_points_far_from_the_origin(name, x32):
    """Where $|x|^2 + |y|^2 - 2xy$ would be off by several times the spread."""
    x, y = (np.float32(1000 + z) for z in two_sets())
    value = ALL[name](x, y)
    assert value.dtype == np.float32
    with jax.enable_x64(True):
        exact = ALL[name](x.astype(float), y.astype(float))
        assert exact.dtype == np.float64
    assert_close(value, exact, tolerance(np.dtype(np.float32)))


@pytest.mark.slow
@kinds
def test_compiled_it_is_the_same_and_refuses_the_same(name, x64):
    x, y = two_sets()
    compiled = jax.jit(ALL[name])
    assert_close(compiled(x, y), ALL[name](x, y), 1e-13)
    y[3, 1] = np.nan
    with pytest.raises(Exception, match="reference must be finite"):
        jax.block_until_ready(compiled(x, y))


@pytest.mark.slow
@kinds
def test_derivatives_are_those_of_differences(name, x64):
    x, y = two_sets()
    check_grads(jax.jit(ALL[name]), (x, y), 1, ["rev"], atol=1e-6, rtol=1e-6)


def test_second_derivatives_of_pairs(x64):
    x, y = two_sets(1, 4)
    modes = ["rev"]
    check_grads(jax.jit(squares), (x[0], y.T), 2, modes, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@kinds
def test_the_gradient_is_finite_at_coinciding_points(name, x64):
    x, y = two_sets()
    x[:] = y
    x[5] = y[5] = y[4]
    for gradient in jax.grad(ALL[name], argnums=(0, 1))(x, y):
        assert np.isfinite(gradient).all()


# One row at a time, and four of nine.
@pytest.mark.parametrize(("function", "pairs"), [(_gaussian, 10), (_nearness, 40)])
def test_pairs_in_blocks_are_pairs_at_once(function, pairs, x64):
    x, y = two_sets()
    h = jnp.array([0.7, 1.8])
    at_once, blocked = (
        discrepancy(function, 0.3, x, y, h, unbiased=True, pairs=n)
        for n in (1 << 20, pairs)
    )
    assert_close(blocked, at_once, 1e-13)


@pytest.mark.parametrize("block", [1, 5])
def test_projections_in_blocks_are_projections_at_once(block, x64):
    x, y = two_sets()
    thetas = directions(KEY, 16, 3, np.dtype(float))
    at_once = projected(x, y, thetas, order=2, block=100)
    assert_close(projected(x, y, thetas, order=2, block=block), at_once, 1e-13)


def test_memory_does_not_grow_with_the_number_of_pairs(x32):
    """16,384 against 16,384: a gigabyte of pairs, 20 MB of them held at once."""
    points = jax.ShapeDtypeStruct((16384, 16), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    compiled = row_sums.lower(_gaussian, points, points, one, block=64).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 20e6
    assert _NUMBERS * 4 < 20e6


def test_the_same_shapes_compile_once(x64):
    x, y = two_sets()
    mmd(x, y, bandwidth=0.3)
    compiled: Any = row_sums
    before = compiled._cache_size()
    mmd(y - 1, x + 1, bandwidth=0.4, unbiased=False)
    mmd(x + 1, y, bandwidth=[0.5])
    assert compiled._cache_size() == before


@pytest.mark.slow
def test_mixed_and_half_precision(x64):
    x, y = two_sets()
    value = energy_distance(x, y)
    mixed = energy_distance(jnp.asarray(x, jnp.float32), y)
    assert mixed.dtype == jnp.float64
    assert_close(mixed, value, 1e-6)
    half = energy_distance(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.float16))
    assert half.dtype == jnp.float32
    assert_close(half, value, 0.03)


# --- what is refused -----------------------------------------------------------------


def test_sizes_are_checked_without_types_too(x64):
    """As with JAXTYPING_DISABLE=1: a set is not broadcast against another."""
    x, y = two_sets()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for distance in (*ALL.values(), px.metrics.mean_error, px.metrics.spread_error):
            with pytest.raises(
                ValueError, match=r"one shape, got .*\(9, 1\)\. Reshape"
            ):
                distance(x, y[:, :1])
        for error in (px.metrics.rms_error, sample_errors, error_summary):
            for other in (y[:1], y[:, :1]):
                with pytest.raises(
                    ValueError, match=r"the same samples, got .* Reshape"
                ):
                    error(x, other)
        with pytest.raises(ValueError, match=r"sets of numbers, got .*\(9, 3\)\. Use"):
            wasserstein_1d(x, y)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@kinds
def test_bad_sets_are_refused(name, x64):
    distance = ALL[name]
    x, y = two_sets()
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'reference'"):
        distance(x, y[:, :1])
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'samples'"):
        distance(x.astype(int), y)
    with pytest.raises(ValueError, match=r"reference must hold at least .*Pass more"):
        distance(x, y[:0])
    with pytest.raises(ValueError, match=r"samples must hold .*shape \(9, 0\)"):
        distance(x[:, :0], y[:, :0])
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"reference must be finite.* in 1 of 27\. F"):
        distance(x, y)


@pytest.mark.parametrize("distance", [mmd, energy_distance])
def test_unbiased_needs_two_of_each(distance):
    x, y = two_sets(2, 1, 2)
    with pytest.raises(ValueError, match="reference must hold at least 2 samples"):
        distance(x, y)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("inf"), [1.0, 0.0], []])
def test_a_bandwidth_is_positive(bandwidth):
    x, y = two_sets(4, 4, 2)
    with pytest.raises(ValueError, match=r"positive finite .* got bandwidth=.*start"):
        mmd(x, y, bandwidth=bandwidth)


def test_a_traced_bandwidth_is_checked_and_differentiable(x64):
    x, y = two_sets()
    value = jax.jit(lambda h: mmd(x, y, bandwidth=h))
    assert_close(value(0.6), mmd(x, y, bandwidth=0.6), 1e-12)
    with pytest.raises(Exception, match="bandwidth must be one or several positive"):
        jax.block_until_ready(value(-1.0))
    slope = jax.grad(value)(0.6)
    difference = (value(0.6 + 1e-5) - value(0.6 - 1e-5)) / 2e-5
    assert_close(slope, difference, 1e-8)


def test_coinciding_points_have_no_median_bandwidth():
    x = np.zeros((9, 3))
    with pytest.raises(ValueError, match=r"must be positive .* got 0: .*Pass bandwid"):
        mmd(x, x)
    with pytest.raises(ValueError, match="samples must hold at least 2"):
        median_bandwidth(x[:1])


def test_bad_orders_and_projections_are_refused():
    x, y = two_sets(4, 4, 1)
    for call in (SLICED, wasserstein_1d):
        with pytest.raises(
            ValueError, match=r"order must be 1 or 2, got order=3. Pass"
        ):
            call(x[:, 0], y[:, 0], order=3)
    with pytest.raises(ValueError, match=r"projections must be a whole .*Hund"):
        SLICED(x, y, projections=0)
