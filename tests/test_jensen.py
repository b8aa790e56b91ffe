"""Jensen's gap against closed forms, and the posteriors of clean samples it is from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, assert_close, tolerance
from scipy import special

import pidax as px
from pidax import pde
from pidax.constraint import covariance_term, gap_of, jensen_gap
from pidax.denoiser import WeightedSamples, clean_posterior, latent_posterior

UNIT = px.Circle()
GRID = pde.Grid((6, 7), extent=((0.0, 1.0), (0.0, 2.0)))
DARCY = pde.Darcy.lognormal(GRID)


def on_circle(x):
    return jnp.sum(x**2) - 1


def bessel(kappa):
    return special.i1e(kappa) / special.i0e(kappa)


# ------------------------------------------------------------------- the posteriors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float64) for name in EXACT), ("full mixture", np.float32)],
)
def test_the_mean_of_the_posterior_is_the_denoiser(name, dtype, key):
    """In two charts, of which the one is the other in other units."""
    with jax.enable_x64(dtype == np.float64):
        denoiser = EXACT[name]()
        offsets = np.random.default_rng(0).normal(size=denoiser.shape)
        x = jnp.asarray(0.3 + 0.1 * offsets)

        @jax.jit
        def run(sigma, alpha):
            at = alpha * x, sigma, alpha
            law = clean_posterior(denoiser, *at, key=key, samples=400)
            return law.mean, denoiser(*at), law.weights.sum()

        for sigma, alpha in ((0.4, 1.0), (0.2, 0.5)):
            mean, wanted, total = run(sigma, alpha)
            assert_close(mean, wanted, tolerance(np.dtype(dtype), 20))
            assert_close(total, 1.0, tolerance(np.dtype(dtype)))


def test_the_posterior_of_a_gaussian_is_bayes_rule(x64, key):
    """Its covariance is that of `Gaussian.posterior` with every component observed."""
    denoiser, x = EXACT["gaussian"](), jnp.array([0.5, 0.1, -0.3])

    @jax.jit
    def run(x):
        law = clean_posterior(denoiser, x, 0.3, 0.8, key=key, samples=100_000)
        delta = law.values - law.mean
        cov = jnp.einsum("s,si,sj->ij", law.weights, delta, delta)
        return cov, law.effective

    cov, effective = run(x)
    bayes = denoiser.posterior(jnp.eye(3), x / 0.8, 0.3 / 0.8)
    factor = bayes.covariance.factor((3,))
    assert_close(cov, factor @ factor.T, 0.0, 1e-3)
    assert_close(effective, 100_000, 1e-9)


def test_the_posterior_of_a_mixture_mixes_its_components(x64, key):
    """Second moments, against quadrature of the prior times the likelihood."""
    mixture = px.GaussianMixture(jnp.array([[0.5], [-0.6]]), 0.2)

    @jax.jit
    def run(x):
        law = clean_posterior(mixture, x, 0.5, key=key, samples=200_000)
        return law.mean[0], law.expect(law.values**2)[0]

    mean, square = run(jnp.array([0.1]))
    points = np.linspace(-3, 3, 4001)
    logs = jax.vmap(lambda p: mixture.log_density(p[None], 0.0))
    logs = jax.jit(logs)(jnp.asarray(points))
    density = np.exp(np.asarray(logs) - 0.5 * (points - 0.1) ** 2 / 0.25)
    density /= density.sum()
    assert_close(square, density @ points**2, 2e-3)
    assert_close(mean, density @ points, 1e-9)


def test_a_narrow_circle_is_as_exact_as_a_wide_one(x64):

    @jax.jit
    def run(x, sigma):
        return clean_posterior(UNIT, x, sigma, samples=128).mean, UNIT(x, sigma)

    for sigma in (3.0, 0.5, 0.05, 1e-4):
        mean, wanted = run(jnp.array([0.6, -0.9]), sigma)
        assert_close(mean, wanted, 1e-13)
    assert_close(run(jnp.zeros(2), 0.5)[0], jnp.zeros(2), 1e-14)


@pytest.mark.slow
def test_latents_of_a_linear_map_have_equal_weights(x64, key):
    """Its law is Gaussian, and the denoiser known; the gap of squares too."""
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    mean = jnp.array([1.0, 0.0, -1.0, 0.5])
    gaussian = px.Gaussian(mean, px.denoiser.Covariance.low_rank(rows))
    x = jnp.array([0.3, 1.0, 0.2, -0.7])

    @jax.jit
    def run(x):
        law = latent_posterior(lambda z: mean + rows @ z, 3, x, 0.4, 0.9, key=key)
        return law.mean, law.effective, gaussian(x, 0.4, 0.9)

    got, effective, wanted = run(x)
    assert_close(got, wanted, 1e-12)
    assert_close(effective, 512, 1e-9)


def test_latents_of_a_nonlinear_map_against_quadrature(x64, key):
    make = lambda z: jnp.exp(0.7 * z)
    z = np.linspace(-8, 8, 20001)

    @jax.jit
    def run(x, sigma):
        law = latent_posterior(make, 1, x, sigma, key=key, samples=40_000)
        return law.mean[0], law.expect(law.values**2)[0], law.effective

    for sigma, x in ((2.0, 1.5), (0.3, 2.0)):
        mean, square, effective = run(jnp.array([x]), sigma)
        density = np.exp(-0.5 * z**2 - 0.5 * (x - np.exp(0.7 * z)) ** 2 / sigma**2)
        density /= density.sum()
        assert_close(mean, density @ np.exp(0.7 * z), 3e-3)
        assert_close(square, density @ np.exp(1.4 * z), 6e-3)
        assert effective > 10_000


# -------------------------------------------------------------------------- the gap


@jax.jit
def on_a_circle(x, sigma):
    term = covariance_term(on_circle, clean_posterior(UNIT, x, sigma))
    return jensen_gap(on_circle, UNIT, x, sigma), term


def test_the_gap_on_a_circle_is_one_minus_the_square_of_a_bessel_ratio(x64):
    """It is positive: the mean lies inside, where the residual is negative."""
    for radius, sigma in ((0.9, 0.3), (1.2, 0.1), (0.3, 1.0)):
        got, term = on_a_circle(radius * np.array([0.6, -0.8]), sigma)
        wanted = 1 - bessel(radius / sigma**2) ** 2
        assert_close(got.gap, wanted, 1e-12)
        assert_close(got.mean_residual, 0.0, 1e-14)
        assert_close(got.residual_of_mean, -wanted, 1e-12)
        assert wanted > 0
        assert_close(term, wanted, 1e-12)


@pytest.mark.slow
def test_the_mean_over_noised_data_is_what_was_measured_elsewhere(x64, key):
    """The residual of the denoiser's answer, averaged over draws of noised data."""

    @jax.jit
    def run(sigma):
        noise = sigma * jax.random.normal(key, (20_000, 2))
        x = noise + jnp.array([1.0, 0.0])
        gap = lambda x: jensen_gap(on_circle, UNIT, x, sigma, samples=64).gap
        return jax.vmap(lambda x: on_circle(UNIT(x, sigma)))(x), jax.vmap(gap)(x[:200])

    for sigma, wanted in ((0.1, -0.010), (0.2, -0.041), (0.5, -0.275), (1.0, -0.655)):
        answers, gaps = run(sigma)
        assert_close(answers.mean(), wanted, 0.0, 5e-3)
        assert_close(gaps, -answers[:200], 1e-10)


@pytest.mark.slow
def test_an_affine_residual_has_no_gap(x64, key):
    """Poisson under its exact Gaussian law: zero to rounding, at any noise."""
    poisson = pde.Poisson(GRID, pde.Matern(GRID, modes=6))
    chart = pde.Normaliser((0.0, 0.0), (1.0, 0.05))
    residual = px.Residual(poisson, chart)
    x = jax.random.normal(key, (*GRID.shape, 2))
    law = poisson.law()
    factor = law.factor / jnp.array([1.0, 0.05])[:, None]
    cov = px.denoiser.Covariance.low_rank(factor)
    denoiser = px.Gaussian(chart.normalise(law.mean), cov)

    @jax.jit
    def run(sigmas):
        one = lambda s: jensen_gap(residual, denoiser, x, s, key=key, samples=64)
        two = lambda s: clean_posterior(denoiser, x, s, key=key, samples=64).values
        return jax.vmap(one)(sigmas), jax.vmap(two)(sigmas)

    got, values = run(jnp.array([0.1, 1.0, 10.0]))
    assert jnp.abs(got.mean_residual).max() < 1e-12
    assert jnp.abs(got.gap).max() < 1e-12
    assert (values.std(axis=1).max(axis=(1, 2, 3)) > 0.01).all()
    # Also where the samples solve nothing: affinity alone makes it zero.
    wild = jax.random.normal(key, (8, *GRID.shape, 2))
    law = WeightedSamples(wild, jnp.full(8, 1 / 8))
    got = jax.jit(lambda law: gap_of(residual, law))(law)
    assert jnp.abs(got.mean_residual).max() > 0.1
    assert jnp.abs(got.gap).max() < 1e-12


@pytest.mark.slow
def test_the_sign_of_darcys_gap_by_hand(x64):
    """A = 3 + z c and u = u_0 + z b, z = 1 or -1: the gap is -c (b_xx + b_yy) > 0."""
    x, y = GRID.coordinates
    b = jnp.sin(jnp.pi * x) * jnp.sin(jnp.pi * y / 2)  # zero on the sides
    c, z = 0.5, jnp.array([1.0, -1.0])
    one = lambda z: jnp.stack([3.0 + z * c + 0 * x, 0.3 * b + z * b], axis=-1)
    law = WeightedSamples(jax.vmap(one)(z), jnp.full(2, 0.5))
    residual = lambda f: DARCY.residual(DARCY.unstack(f))
    hx, hy = GRID.spacing
    value = 2 * (1 - np.cos(np.pi * hx)) / hx**2
    value += 2 * (1 - np.cos(np.pi * hy / 2)) / hy**2  # of minus the Laplacian
    inside = np.asarray(b).copy()
    inside[[0, -1]] = inside[:, [0, -1]] = 0.0
    got = jax.jit(lambda law: gap_of(residual, law).gap)(law)
    assert_close(got, c * value * inside, 1e-12)
    assert inside.max() > 0.5


@pytest.mark.slow
def test_darcys_gap_is_minus_the_divergence_of_a_covariance(x64, key):
    """Of the coefficient and the slope at each face, in the form that was solved."""
    draw = lambda k: DARCY.stack(DARCY.solve(*DARCY.draw(key=k)))
    data = jax.jit(jax.vmap(draw))(jax.random.split(key, 40))
    chart = pde.Normaliser.fit(data)
    points = px.GaussianMixture.from_samples(chart.normalise(data), 0.0)
    x = points.means[0] + jax.random.normal(key, data.shape[1:])
    residual = px.Residual(DARCY, chart)

    def flux_form(law):
        fields = law._replace(values=data)
        a, u = jnp.moveaxis(fields.values - fields.mean, -1, 0)
        slope = jax.vmap(pde.Gradient(GRID))(u)
        faces = jax.vmap(lambda a: pde.Diffusion(GRID, a, check=False).faces)(a)
        flux = [fields.expect(f * s) for f, s in zip(faces, slope, strict=True)]
        return -GRID.pad(GRID.restrict(pde.Divergence(GRID)(tuple(flux))))

    @jax.jit
    def run(x):
        law = clean_posterior(points, x, 3.0)
        term = covariance_term(residual, law)
        return jensen_gap(residual, points, x, 3.0), term, flux_form(law)

    got, term, wanted = run(x)
    assert 2 < got.effective < 39
    assert jnp.abs(wanted).max() > 1e-3
    assert_close(got.gap, wanted, 0.0, 1e-11)
    assert_close(term, wanted, 0.0, 1e-11)
    assert jnp.abs(got.mean_residual).max() < 1e-9  # solutions, all of them


@pytest.mark.slow
def test_the_gap_of_burgers_is_half_the_slope_of_a_variance(x64, key):
    """In collocation form, which is quadratic; the defect of a step is not."""
    grid = pde.Grid((24,), boundary=pde.Periodic())
    burgers = pde.Burgers(grid, rows=5)
    data = jax.random.normal(key, (10, 5, 24, 1))
    law = WeightedSamples(data, jax.nn.softmax(data[:, 0, 0, 0]))
    residual = lambda x: burgers.collocation(burgers.unstack(x))
    slope = pde.Derivative(grid, 0, 1, "spectral")
    dealias = lambda u: pde.dealias(grid, u)

    @jax.jit
    def run(law):
        kept = jax.vmap(jax.vmap(dealias))(law.values[..., 0])
        variance = law.expect((kept - law.expect(kept)) ** 2)
        wanted = jax.vmap(lambda v: 0.5 * slope(dealias(v)))(variance)
        wanted = wanted.at[jnp.array([0, -1])].set(0.0)
        return gap_of(residual, law).gap, covariance_term(residual, law), wanted

    got, term, wanted = run(law)
    assert jnp.abs(wanted).max() > 1.0
    assert_close(got, wanted, 0.0, 1e-10)
    assert_close(term, wanted, 0.0, 1e-10)


def test_the_gap_is_mapped_and_compiled(x64, key):
    batch = jax.random.normal(key, (3, 2))
    run = jax.jit(jax.vmap(lambda x: jensen_gap(on_circle, UNIT, x, 0.5).gap))
    one = [on_a_circle(x, 0.5)[0].gap for x in batch]
    assert_close(run(batch), one, 1e-12)


def test_laws_that_are_not_known_are_named():
    learned = px.from_function(lambda x, t: 0.5 * x, px.EDM(), shape=(2,))
    with pytest.raises(ValueError, match="which knows its mean alone"):
        clean_posterior(learned, jnp.ones(2), 0.5)
    with pytest.raises(ValueError, match="expected key="):
        jensen_gap(on_circle, px.Gaussian(jnp.zeros(2), 1.0), jnp.ones(2), 0.5)
