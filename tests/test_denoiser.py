"""Denoisers against Tweedie's formula, quadrature, and closed forms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from helpers import (
    EXACT,
    PROCESSES,
    assert_close,
    covariance,
    full_mixture,
    gaussian,
    tolerance,
)
from scipy import integrate, special, stats

import pidax as px
from pidax.denoiser._circle import bessel_deficit, log_i0e

every_exact = pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
LEVELS = [(0.05, 1.0), (0.6, 1.0), (0.8, 0.6), (30.0, 1.0)]


def noised(denoiser, sigma, alpha, seed=0):
    """A point where the noised data are likely, but for the data's own shape."""
    rng = np.random.default_rng(seed)
    x0, eps = 0.5 * rng.normal(size=(2, *denoiser.shape))
    return alpha * x0 + sigma * eps


@eqx.filter_jit
def clean_and_score(denoiser, x, sigma, alpha):
    """D, and the gradient of the density: compiled once for each denoiser."""
    return denoiser(x, sigma, alpha), jax.grad(denoiser.log_density)(x, sigma, alpha)


@eqx.filter_jit
def drawn(denoiser, keys):
    return jax.vmap(lambda k: denoiser.sample(key=k))(keys)


def mean_of(denoiser):
    """The mean of the data, in closed form."""
    if isinstance(denoiser, px.Gaussian):
        return denoiser.mean
    if isinstance(denoiser, px.GaussianMixture):
        return np.tensordot(np.exp(denoiser.log_weights), denoiser.means, axes=1)
    return np.zeros(2)


@pytest.mark.slow
@every_exact
def test_the_denoiser_is_that_of_its_density_in_every_chart(make, x64):
    """D = (x + sigma^2 grad log p) / alpha: couples every D to its own density."""
    denoiser = make()

    def ask(x, sigma, alpha):
        found = clean_and_score(denoiser, x, np.asarray(sigma), np.asarray(alpha))
        return map(np.asarray, found)

    for seed, (sigma, alpha) in enumerate(LEVELS):
        x = noised(denoiser, sigma, alpha, seed)
        clean, score = ask(x, sigma, alpha)
        expected = (x + sigma**2 * score) / alpha
        assert_close(clean, expected, 1e-8 * max(1, sigma**2))
        again, _ = ask(7 * x, 7 * sigma, 7 * alpha)
        assert_close(again, clean, 1e-10)
    x = np.ones(denoiser.shape)  # without signal, and with as good as none
    for alpha, error in ((0.0, 1e-12), (1e-9, 1e-7)):
        clean, _ = ask(x, 1.0, alpha)
        assert_close(clean, mean_of(denoiser), error)


@pytest.mark.slow
def test_samples_have_the_mean_and_the_spread_of_the_data(x64):
    """Those of a Gaussian are compared with its covariance in every form, below."""
    mixture, keys = full_mixture(), jax.random.split(jax.random.key(1), 20_000)
    draws = np.asarray(drawn(mixture, keys))
    assert_close(draws.mean(0), mean_of(mixture), 0, 0.03)
    apart = np.asarray(mixture.means) - mean_of(mixture)
    parts = [0.2 * covariance(2, k) + np.outer(apart[k], apart[k]) for k in range(3)]
    assert_close(np.cov(draws.T), np.tensordot([0.5, 0.3, 0.2], parts, 1), 0, 0.02)
    draws = np.asarray(drawn(px.Circle(0.7), keys))
    assert_close(np.linalg.norm(draws, axis=1), 0.7, 1e-12)
    assert_close(np.cov(draws.T), 0.7**2 / 2 * np.eye(2), 0, 0.02)


@pytest.mark.slow
def test_it_is_differentiable_without_signal(x64):
    for name in ("full mixture", "circle"):
        slope = jax.jit(jax.jacfwd(EXACT[name]()))(jnp.ones(2), 1.0, 0.0)
        assert jnp.isfinite(slope).all()


@pytest.mark.slow
def test_the_views_are_consistent(x64):
    denoiser, sigma, alpha, t = gaussian(), 0.7, 0.5, 0.4
    x = noised(denoiser, sigma, alpha)
    x0, eps = denoiser(x, sigma, alpha), denoiser.noise(x, sigma, alpha)
    assert_close(alpha * x0 + sigma * eps, x, 1e-12)
    assert_close(denoiser.score(x, sigma, alpha), -eps / sigma, 1e-11)
    x0 = denoiser(x, t, 1 - t)
    velocity = denoiser.velocity(x, t, px.RectifiedFlow())
    assert_close(velocity, (x - (1 - t) * x0) / t - x0, 1e-11)
    edm = denoiser.velocity(x, t, px.EDM())
    assert_close(edm, (x - denoiser(x, t)) / t, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["low rank", "full mixture", "circle"])
def test_chart_free_in_float32(name, x32):
    """D(cx, c sigma, c alpha) = D(x, sigma, alpha)."""
    denoiser = EXACT[name]()
    x = noised(denoiser, 0.3, 0.8)
    call = jax.jit(lambda *args: denoiser(*args))
    once = call(np.float32(x), 0.3, 0.8)
    assert_close(call(np.float32(7 * x), 2.1, 5.6), once, tolerance(once.dtype, 10))
    assert once.dtype == jnp.float32


@pytest.mark.slow
@every_exact
def test_a_call_is_arithmetic_alone(make):
    """Checks belong to the making: one inside a solve would call back to the host."""
    denoiser = make()
    x = jnp.zeros(denoiser.shape)
    jaxpr = eqx.filter_make_jaxpr(lambda d, x: d(x, 0.3))(denoiser, x)[0]
    assert "callback" not in str(jaxpr)


@every_exact
def test_the_marginal_density_is_normalised_along_rays(make, x64):
    """Importance estimate of the integral of p: 1 within five standard errors."""
    denoiser = make()
    sigma, alpha, wide = 0.5, 0.9, 1.2
    z = wide * np.random.default_rng(3).normal(size=(50_000, *denoiser.shape))
    density = jax.jit(jax.vmap(lambda x: denoiser.log_density(x, sigma, alpha)))
    log_q = stats.norm.logpdf(z, scale=wide).sum(axis=tuple(range(1, z.ndim)))
    weights = np.exp(density(z) - log_q)
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(z) ** 0.5


def test_gaussian_density_against_scipy(x64):
    g, x, sigma, alpha = gaussian(), jnp.array([0.3, -0.5, 1.0]), 0.2, 0.9
    cov = alpha**2 * covariance(3) + sigma**2 * np.eye(3)
    law = stats.multivariate_normal(alpha * np.asarray(g.mean), cov)  # type: ignore
    assert_close(g.log_density(x, sigma, alpha), law.logpdf(x), 1e-11)


@pytest.mark.slow
def test_every_form_of_one_covariance_is_the_same_gaussian(x64):
    mean, x = jnp.array([0.1, 0.2, -0.3]), jnp.array([1.0, -2.0, 0.5])
    matrix = jnp.asarray(covariance(3))
    full = px.Gaussian(mean, matrix)
    factor = jnp.linalg.cholesky(matrix)
    low = px.Gaussian(mean, px.denoiser.Covariance.low_rank(factor))
    one = px.denoiser.Covariance.low_rank(factor[:, :1], floor=0.3)
    spiked = px.Gaussian(mean, one)
    dense = px.Gaussian(mean, factor[:, :1] @ factor[:, :1].T + 0.3 * jnp.eye(3))
    iso = [px.Gaussian(mean, c) for c in (0.4, jnp.full(3, 0.4), 0.4 * jnp.eye(3))]
    for same in ((full, low), (spiked, dense), iso):
        for other in same[1:]:
            assert_close(same[0](x, 0.3, 0.7), other(x, 0.3, 0.7), 1e-11)
            assert_close(
                same[0].log_density(x, 0.3, 0.7), other.log_density(x, 0.3, 0.7), 1e-11
            )
            draws = drawn(other, jax.random.split(jax.random.key(0), 40_000))
            assert_close(np.cov(draws.T), dense_of(same[0]), 0, 0.02)


def dense_of(g):
    rows = g.covariance.factor(g.shape)
    return rows @ rows.T


@pytest.mark.slow
def test_singular_directions_stay_at_the_mean(dtype):
    """A rank-one law has no spread outside its line, at any noise, down to none."""
    line = px.Gaussian(
        jnp.array([1.0, 2.0]), px.denoiser.Covariance.low_rank(jnp.eye(2)[:, :1])
    )
    for sigma in (0.0, 1e-3, 1.0):
        assert line(jnp.array([0.5, 7.0]), sigma)[1] == 2.0
    assert line(jnp.array([0.5, 7.0]), 0.0)[0] == 0.5


@pytest.mark.slow
def test_mixture_density_and_denoiser_against_scipy(x64):
    mixture, x, sigma, alpha = full_mixture(), np.array([0.2, -0.3]), 0.25, 0.8
    densities, means = [], []
    for k in range(3):
        cov = 0.2 * covariance(2, k)
        mean = np.asarray(mixture.means[k])
        noisy = alpha**2 * cov + sigma**2 * np.eye(2)
        weight = [0.5, 0.3, 0.2][k]
        law = stats.multivariate_normal(alpha * mean, noisy)  # type: ignore
        densities.append(weight * law.pdf(x))
        gain = alpha * cov @ np.linalg.inv(noisy)
        means.append(mean + gain @ (x - alpha * mean))
    total = sum(densities)
    value = mixture.log_density(jnp.asarray(x), sigma, alpha)
    assert_close(value, np.log(total), 1e-11)
    expected = sum(p * m for p, m in zip(densities, means, strict=True)) / total
    assert_close(mixture(jnp.asarray(x), sigma, alpha), expected, 1e-11)


@pytest.mark.slow
def test_a_mixture_of_one_is_a_gaussian(x64):
    cov = jnp.asarray(covariance(2))
    one = px.GaussianMixture(jnp.array([[0.3, 0.4]]), covariances=cov[None])
    x = np.array([1.0, -1.0])
    g = px.Gaussian(jnp.array([0.3, 0.4]), cov)
    assert_close(one(x, 0.4, 0.6), g(x, 0.4, 0.6), 1e-12)
    assert_close(one.log_density(x, 0.4), g.log_density(x, 0.4), 1e-12)


@pytest.mark.slow
def test_conditions_choose_components(x64):
    mixture = full_mixture()
    x = jnp.array([0.1, 0.2])
    first = px.GaussianMixture(
        mixture.means[:2],
        weights=jnp.array([0.5, 0.3]) / 0.8,
        covariances=jnp.asarray(np.stack([0.2 * covariance(2, s) for s in range(2)])),
    )
    assert_close(mixture(x, 0.3, 1.0, 0), first(x, 0.3), 1e-12)
    for one_hot in (jnp.array([1.0, 0.0]), jnp.array([1, 0])):
        assert_close(mixture(x, 0.3, 1.0, one_hot), first(x, 0.3), 1e-12)
    assert_close(mixture.log_density(x, 0.3, 1.0, 0), first.log_density(x, 0.3), 1e-12)
    # The class probabilities of the mixture itself are no condition at all.
    prior = jnp.array([0.8, 0.2])
    assert_close(mixture(x, 0.3, 1.0, prior), mixture(x, 0.3), 1e-12)
    draw = mixture.sample(key=jax.random.key(0), condition=1)
    assert jnp.linalg.norm(draw - mixture.means[2]) < 2


@pytest.mark.slow
def test_guidance_adds_scores(x64):
    """score_guided = score + w (score_c - score), by autodiff of exact densities."""
    mixture, w = full_mixture(), 2.5
    guided = px.Guided(mixture, w)
    x, sigma, alpha = jnp.array([0.1, 0.2]), 0.3, 0.7
    free = jax.grad(mixture.log_density)(x, sigma, alpha)
    bound = jax.grad(mixture.log_density)(x, sigma, alpha, 1)
    expected = free + w * (bound - free)
    assert_close(guided.score(x, sigma, alpha, 1), expected, 1e-10)
    assert_close(guided(x, sigma, alpha), mixture(x, sigma, alpha), 0)
    one = px.Guided(mixture, 1.0)
    assert_close(one(x, sigma, alpha, 1), mixture(x, sigma, alpha, 1), 1e-14)
    assert (guided.evaluations(1), guided.evaluations(), mixture.evaluations(1)) == (
        2,
        1,
        1,
    )


@pytest.mark.slow
def test_constructors_are_where_their_names_say():
    ring = px.GaussianMixture.ring(6, radius=0.9, scale=0.1)
    angles = 2 * np.pi * np.arange(6) / 6
    assert_close(ring.means, 0.9 * np.stack([np.cos(angles), np.sin(angles)], 1), 1e-6)
    grid = px.GaussianMixture.grid(3, spacing=0.5)
    assert_close(jnp.sort(jnp.unique(grid.means)), [-0.5, 0.0, 0.5], 1e-6)
    assert grid.means.shape == (9, 2)
    moons = px.GaussianMixture.two_moons(50, radius=0.5)
    assert_close(moons.means.mean(0), 0.0, 1e-6)  # point symmetric
    upper, lower = moons.means[:50], moons.means[50:]
    assert_close(upper, -lower, 1e-6)
    between = jnp.linalg.norm(upper[:, None] - lower[None], axis=-1).min()
    assert between > 0.2  # the moons interleave without touching
    samples = jnp.array([[0.1, 0.2], [0.3, 0.4], [-1.0, 0.0]])
    memory = px.GaussianMixture.from_samples(samples, 1e-3)
    assert_close(memory(samples[1] + 0.01, 0.02), samples[1], 1e-3)


@pytest.mark.slow
def test_bessel_deficit_to_relative_rounding(dtype):
    """Against an independent continued fraction, on both sides of the switch."""
    kappas = [1e-6, 0.3, 5.0, 39.9, 40.1, 300.0, 1e5]
    both = jax.jit(jax.vmap(jax.value_and_grad(bessel_deficit)))(jnp.array(kappas))
    for kappa, value, slope in zip(kappas, *map(np.asarray, both), strict=True):
        # 1 - I1/I0 by Gauss's continued fraction for I1/I0, in exact-enough floats.
        ratio, kappa = np.longdouble(0), np.longdouble(np.asarray(kappa, dtype))
        for n in range(int(3 * kappa**0.5 * 12 + 60), 0, -1):
            ratio = 1 / (2 * np.longdouble(n) / kappa + ratio)
        assert_close(value, float(1 - ratio), tolerance(dtype, 50), 0)
        riccati = -(1 - ratio * ratio - ratio / kappa)  # A' = 1 - A/k - A^2
        if kappa < 1e4:  # beyond, this check itself cancels
            assert_close(slope, float(riccati), tolerance(dtype, 500), 1e-9)


def test_log_bessel_and_its_derivative(x64):
    for kappa in (0.1, 3.0, 80.0, 1e6):
        value, slope = jax.value_and_grad(log_i0e)(jnp.asarray(kappa))
        assert_close(value, np.log(special.i0e(kappa)), 1e-13)
        assert_close(slope, -bessel_deficit(jnp.asarray(kappa)), 1e-14)


def test_circle_against_quadrature(x64):
    circle, sigma, alpha = px.Circle(0.7), 0.3, 0.8
    x = np.array([0.5, -0.2])

    def weight(angle):
        point = 0.7 * np.array([np.cos(angle), np.sin(angle)])
        return np.exp(-np.sum((x - alpha * point) ** 2) / (2 * sigma**2)), point

    total = integrate.quad(lambda a: weight(a)[0], 0, 2 * np.pi, epsabs=1e-12)[0]
    first = [
        integrate.quad(lambda a, i=i: weight(a)[0] * weight(a)[1][i], 0, 2 * np.pi)[0]
        for i in range(2)
    ]
    assert_close(circle(jnp.asarray(x), sigma, alpha), np.array(first) / total, 1e-9)
    density = total / (2 * np.pi) / (2 * np.pi * sigma**2)
    value = circle.log_density(jnp.asarray(x), sigma, alpha)
    assert_close(value, np.log(density), 1e-9)


@pytest.mark.slow
def test_the_circles_centre(x64):
    """A(kappa) ~ kappa/2 there: D is linear with slope alpha R^2 / 2 sigma^2."""
    circle, sigma, alpha = px.Circle(0.7), 0.3, 0.8
    slope = alpha * 0.7**2 / (2 * sigma**2)
    for x in (jnp.zeros(2), jnp.full(2, 1e-6)):
        jacobian = jax.jacfwd(circle)(x, sigma, alpha)
        assert_close(jacobian, slope * jnp.eye(2), 1e-9)


@pytest.mark.slow
def test_circle_is_stable_at_small_noise_in_float32():
    circle, x = px.Circle(), jnp.array([0.6, 0.8]) * 1.01
    assert_close(circle(x, 0.002), jnp.array([0.6, 0.8]), 3e-6)
    jacobian = jax.jacfwd(circle)(x, 0.002)
    normal, tangent = jnp.array([0.6, 0.8]), jnp.array([-0.8, 0.6])
    assert abs(normal @ jacobian @ normal) < 1e-4  # the radius is known
    assert_close(tangent @ jacobian @ tangent, 1 / 1.01, 1e-4)
    assert jnp.isfinite(jax.jacfwd(circle)(jnp.zeros(2), 0.5)).all()


@pytest.mark.slow
def test_a_circle_in_half_precision_is_the_circle(x64):
    """Where sigma squared is no number of half precision."""
    circle, x = px.Circle(), jnp.array([0.6, -0.8], jnp.float16)
    density = circle.log_density(x, 2e-4)
    sigma = float(jnp.float16(2e-4))
    exact = circle.log_density(x.astype(float), sigma)
    assert density.dtype == jnp.float32
    assert_close(density, exact, 1e-4)
    assert circle(x, 2e-4).dtype == jnp.float16
    assert_close(circle(x, 2e-4), jnp.array([0.6, -0.8]), 1e-3)


@pytest.mark.slow
def test_no_square_overflows_at_great_noise(x64):
    """In float32, at levels whose squares float32 has no numbers for."""
    both = eqx.filter_jit(lambda d, *args: (d(*args), d.log_density(*args)))
    x = np.array([1.0, -0.4])
    for make in (full_mixture, lambda: px.Circle(0.7)):
        with jax.enable_x64(False):
            single = make()
        for sigma in (1e15, 1e19, 1e25):
            level = np.float32(sigma), np.float32(sigma * 0.5)
            found = both(single, np.float32(sigma) * np.float32(x), *level)
            exact = both(
                make(),
                float(level[0]) * np.float32(x).astype(float),
                *map(float, level),
            )
            for ours, theirs in zip(found, exact, strict=True):
                assert ours.dtype == jnp.float32
                assert_close(ours, theirs, 1e-5)


@pytest.mark.slow
def test_numbers_and_labels_of_any_kind(x32):
    data = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    spread = data.std()
    assert type(spread) is np.float32
    by_hand = px.GaussianMixture(data, float(spread), labels=np.arange(4))
    given = px.GaussianMixture(data, spread, labels=np.arange(4, dtype=np.uint8))
    assert eqx.tree_equal(by_hand.covariances, given.covariances)
    assert px.GaussianMixture.ring(np.int64(3)).shape == (2,)
    x = jnp.array([0.3, -0.1])
    expected = by_hand(x, 0.5, 1.0, 2)
    for label in (np.uint8(2), jnp.uint8(2), np.int64(2), np.array(2)):
        assert_close(given(x, 0.5, 1.0, label), expected, 1e-6)
    compiled = eqx.filter_jit(lambda label: by_hand(x, 0.5, 1.0, label))
    assert_close(compiled(jnp.array(2)), expected, 1e-6)
    message = r"must name a component .*, got not known while tracing\. Pass one of"
    with pytest.raises(Exception, match=message):
        compiled(jnp.array(4))


@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_posterior_is_the_kalman_update(noise, x64):
    prior, size = gaussian(), 3
    rows = np.random.default_rng(5).normal(size=(2, size))
    b = np.array([0.3, -0.7])
    cov = covariance(size)
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + noise**2 * np.eye(2))
    mean = np.asarray(prior.mean)
    expected = mean + gain @ (b - rows @ mean)
    new_cov = cov - gain @ rows @ cov
    for operator in (rows, lx.MatrixLinearOperator(jnp.asarray(rows))):
        law = prior.posterior(operator, b, noise)
        assert_close(law.mean, expected, 1e-11)
        assert_close(dense_of(law), new_cov, 1e-11)
    if noise == 0:
        draw = law.sample(key=jax.random.key(0))
        assert_close(rows @ draw, b, 1e-9)


@pytest.mark.slow
def test_posterior_with_more_observations_than_unknowns_and_repeated_ones(x64):
    prior = px.Gaussian(jnp.zeros((2, 1)), 1.0)
    rows = np.ones((5, 2, 1))
    law = prior.posterior(rows, np.full(5, 2.0), 0.5)
    # Five readings of the sum s ~ N(0, 2), noise .25/5.
    assert_close(law.mean.sum(), 2 * 2 / (2 + 0.05), 1e-11)
    variance = jnp.ones(2) @ dense_of(law) @ jnp.ones(2)
    assert_close(variance, 2 * 0.05 / 2.05, 1e-11)


def test_posterior_with_exact_redundant_observations(x64):
    """The same reading twice, without noise, is one reading."""
    row = np.array([[1.0, 0.5, -1.0]])
    once = gaussian().posterior(row, np.array([0.4]), 0.0)
    many = gaussian().posterior(np.repeat(row, 4, 0), np.full(4, 0.4), 0.0)
    assert_close(many.mean, once.mean, 1e-10)
    assert_close(dense_of(many), dense_of(once), 1e-10)


WRAPPED = {
    "score": (px.from_score, lambda d, p: lambda x, t: d.score(x, *p.level(t))),
    "noise": (px.from_noise, lambda d, p: lambda x, t: d.noise(x, *p.level(t))),
    "velocity": (px.from_velocity, lambda d, p: lambda x, t: d.velocity(x, t, p)),
    "function": (px.from_function, lambda d, p: lambda x, t: d(x, *p.level(t))),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapping_any_view_gives_the_denoiser_back_in_every_chart(kind, x64):
    wrap, view = WRAPPED[kind]
    exact = gaussian()
    sigma, alpha = jnp.array([[0.1, 1.0], [0.7, 0.4], [2.0, 0.9], [1.0, 0.0]]).T
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    expected = jax.jit(jax.vmap(exact))(x, sigma, alpha)
    for make in PROCESSES.values():
        process = make()
        wrapped = wrap(view(exact, process), process, shape=(3,))
        found = jax.jit(jax.vmap(wrapped))(x, sigma, alpha)
        assert_close(found[:3], expected[:3], 1e-8)
        assert_close(found[3], expected[3], 0, 0.02)  # without signal
        assert wrapped.interval == process.ratio_interval


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "score"])
def test_a_wrapped_model_is_exact_up_to_its_last_time(kind, x64):
    """The cap is for processes without signal at the end, and only for them."""
    wrap, view = WRAPPED[kind]
    exact = full_mixture()
    for process in (px.EDM(sigma_max=1e3), px.VP(sigma_data=0.1)):
        wrapped = wrap(view(exact, process), process, shape=(2,))
        sigma, alpha = process.level(process.t_max)
        z = process.prior(jax.random.key(0), (2,))
        assert_close(wrapped(z, sigma, alpha), exact(z, sigma, alpha), 1e-8)


def test_a_wrapped_model_is_not_asked_beyond_its_times(x64):
    asked = []
    process = px.VP()
    model = px.from_function(lambda x, t: asked.append(t) or x, process)
    low, high = process.ratio_interval
    for ratio in (0.1 * low, 10 * high):
        model(jnp.ones(2), ratio)
    assert_close(jnp.stack(asked), jnp.array([process.t_min, process.t_max]), 0)


@pytest.mark.slow
def test_a_wrapped_model_gets_its_condition():
    exact = full_mixture()
    wrapped = px.from_function(
        lambda x, sigma, alpha, c: exact(x, sigma, alpha, c), shape=(2,)
    )
    x = jnp.array([0.2, 0.1])
    assert_close(wrapped(x, 0.3, 0.9, 1), exact(x, 0.3, 0.9, 1), 1e-7)


def pair(x: Any, t: Any) -> Any:
    """A model that returns more than its prediction."""
    return x, t


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: px.Gaussian(jnp.zeros(2), jnp.diag(jnp.array([1.0, -0.5]))),
            "positive semi-definite.*smallest eigenvalue is -0.5",
        ),
        (
            lambda: px.Gaussian(jnp.zeros(2), jnp.array([[1.0, 0.5], [0.0, 1.0]])),
            "must be symmetric.*0.5",
        ),
        (lambda: px.Gaussian(jnp.zeros(2), jnp.ones(3)), r"cov must be a scalar.*\(3,"),
        (lambda: px.Gaussian(jnp.zeros(2), -1.0), "positive semi-definite"),
        (
            lambda: px.GaussianMixture(jnp.zeros((2, 2)), 0.1, jnp.array([0.5, 0.6])),
            "sum to 1; they sum to 1.1",
        ),
        (
            lambda: px.GaussianMixture(jnp.zeros((2, 2)), 0.1, jnp.array([1.5, -0.5])),
            "non-negative.*least -0.5",
        ),
        (lambda: px.GaussianMixture(jnp.zeros((2, 2)), jnp.ones(3)), "scales must be"),
        (lambda: px.GaussianMixture(jnp.zeros((2, 2)), -0.1), "must not be negative"),
        (lambda: px.GaussianMixture(jnp.zeros((2, 2))), "exactly one of scales"),
        (lambda: px.Circle(0.0), "radius must be positive"),
        (
            lambda: px.GaussianMixture(jnp.zeros((2, 2)), 0.1)(jnp.zeros(2), 1.0, 1, 0),
            "without classes. Pass labels=",
        ),
        (
            lambda: px.GaussianMixture.ring()(jnp.zeros(2), 1.0, 1.0, 99),
            "must name a component of the mixture.*got 99",
        ),
        (
            lambda: px.GaussianMixture.ring()(jnp.zeros(2), 1.0, 1.0, jnp.zeros(8)),
            "must name a component",
        ),
        (
            lambda: px.GaussianMixture.ring()(jnp.zeros(2), 1.0, 1.0, jnp.eye(4)[3]),
            r"probabilities of shape \(8,\)",
        ),
        (
            lambda: px.GaussianMixture.ring()(jnp.zeros(2), 1.0, 1.0, 3.0),
            r"an integer class label.*shape \(\)",
        ),
        (
            lambda: px.GaussianMixture.ring()(jnp.zeros((5, 2)), 1.0),
            r"one sample of the shape \(2,\), got \(5, 2\). Use jax.vmap",
        ),
        (
            lambda: px.Circle().log_density(jnp.zeros(5), 1.0),
            r"one sample of the shape \(2,\), got \(5,\)",
        ),
        (lambda: gaussian().score(jnp.zeros((2, 3)), 1.0), "Use jax.vmap"),
        (
            lambda: px.Gaussian(
                jnp.zeros(3), px.denoiser.Covariance.low_rank(jnp.ones((4, 2)))
            ),
            r"events of shape \(4,\), but the mean has the shape \(3,\)",
        ),
        (lambda: px.Gaussian(jnp.array([jnp.nan, 0.0]), 1.0), "mean must be finite"),
        (
            lambda: px.from_score(pair, px.EDM())(jnp.zeros(2), 1.0),
            "return one array of the shape .*got tuple",
        ),
        (
            lambda: gaussian().posterior(jnp.ones((2, 4)), jnp.ones(2), 0.1),
            r"operator must map an event of shape \(3,\)",
        ),
        (
            lambda: gaussian().posterior(jnp.ones((1, 3)), jnp.ones(1), -0.1),
            "noise is a standard deviation.*-0.1",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
