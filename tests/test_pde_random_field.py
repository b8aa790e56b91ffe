"""Random fields against their recipes, their operators and their own samples."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.special
from helpers import assert_close

from pidax.pde import (
    Dirichlet,
    ExponentialCovariance,
    Fixed,
    GaussianCovariance,
    Grid,
    KarhunenLoeve,
    Lognormal,
    Matern,
    Neumann,
    Periodic,
    Thresholded,
    Transform,
    laplacian_eigenvalues,
)

LAYOUTS = ("nodes", "cells")
CELLS = Grid((8, 8), layout="cells", boundary=Neumann())


def matrix(field) -> np.ndarray:
    """The covariance, from the factor: of its own law by `covariance` below."""
    factor = np.asarray(eqx.filter_jit(lambda f: f.factor())(field), float)
    factor = factor.reshape(-1, factor.shape[-1])
    return factor @ factor.T


@eqx.filter_jit
def sampled(field, keys):
    return jax.vmap(lambda k: field.sample(key=k))(keys)


@eqx.filter_jit
def once(field, key):
    return field.sample(key=key)


def draws(field, count: int, key) -> np.ndarray:
    return np.asarray(sampled(field, jax.random.split(key, count))).reshape(count, -1)


def check_by_samples(field, key, count=4000):
    """Mean and covariance of draws, each entry within five standard errors."""
    u, c = draws(field, count, key), matrix(field)
    mean, d = np.asarray(field.mean()).ravel(), np.diag(c)
    error = np.abs(u.mean(axis=0) - mean) / np.sqrt(np.maximum(d, 1e-30) / count)
    assert error[d > 0].max() < 5
    found = (u - mean).T @ (u - mean) / count
    spread = np.sqrt((np.outer(d, d) + c**2) / count)  # of a product of Gaussians
    assert np.all(np.abs(found - c) <= 5.5 * spread + 1e-12)


def test_the_neumann_recipe(key, x64):
    """U = idct2(s xi tau^(alpha-1) (pi^2 k^2 + tau^2)^(-alpha/2)), the mean removed."""
    s, alpha, tau = 8, 2.0, 3.0
    field = Matern(CELLS, alpha=alpha, tau=tau)
    xi = np.asarray(jax.random.normal(key, (s, s)))
    k = np.arange(s)
    squared = k[:, None] ** 2 + k[None, :] ** 2
    coefficients = s * xi * tau ** (alpha - 1)
    coefficients *= (np.pi**2 * squared + tau**2) ** (-alpha / 2)
    coefficients[0, 0] = 0.0
    expected = scipy.fft.idctn(coefficients, norm="ortho")
    found = once(field, key)
    assert_close(found, expected, 1e-13)
    assert abs(np.mean(found)) < 1e-15


def test_the_burgers_recipe(key, x64):
    """On a periodic interval: deviations sqrt(2) 49 ((2 pi k)^2 + 49)^(-1.25)."""
    grid = Grid((16,), boundary=Periodic())
    field = Matern(grid, alpha=2.5, tau=7.0)
    xi = np.asarray(jax.random.normal(key, (16,)))
    x = np.arange(16) / 16
    e = lambda k: np.sqrt(2) * 49 * ((2 * np.pi * k) ** 2 + 49) ** -1.25
    expected = sum(
        e(k)
        * (
            xi[2 * k - 1] * np.cos(2 * np.pi * k * x)
            + xi[2 * k] * np.sin(2 * np.pi * k * x)
        )
        for k in range(1, 8)
    ) + e(8) / np.sqrt(2) * xi[15] * np.cos(2 * np.pi * 8 * x)
    assert_close(once(field, key), expected, 1e-12)


@pytest.mark.slow
def test_the_covariance_is_the_operators(x64):
    r"""C W = tau^(2 alpha - d) (-Delta + tau^2)^(-alpha), applied alpha = 2 times."""
    sides: Any = [(side, la) for side in (Neumann(), Dirichlet()) for la in LAYOUTS]
    fields = [
        Matern(
            Grid((7, 6), extent=((0, 1), (0, 2)), layout=layout),
            alpha=2.0,
            tau=3.0,
            sides=side,
            scale=1.3,
            constant=True,
        )
        for side, layout in sides
    ]

    @eqx.filter_jit
    def back(fields):
        found = []
        for field in fields:
            law, c = field.law_grid, field.covariance()
            u = jax.random.normal(jax.random.key(1), law.unknown_shape)
            weighted = law.restrict(law.weights) * u
            inner = jnp.tensordot(c[law.unknown * 2], weighted, axes=2)
            # With the continuous frequencies in the place of the grid's eigenvalues.
            transform = Transform(law)
            power = (transform.squared_frequencies + 9.0) ** 2
            found.append((transform.multiply(power, inner), u, c))
        return found

    for (side, layout), (found, u, c) in zip(sides, back(fields), strict=True):
        assert_close(found, 1.3**2 * 3.0**2 * u, 1e-11)
        if isinstance(side, Dirichlet) and layout == "nodes":
            assert np.all(np.asarray(c)[0] == 0)


def test_its_variance_on_a_circle_has_a_closed_form(x64):
    r"""The sum of (k^2 + tau^2)^-2 over all whole k, by the residue theorem."""
    grid = Grid((256,), extent=(0.0, 2 * np.pi), boundary=Periodic())
    field = Matern(grid, alpha=2.0, tau=2.0, constant=True)
    tau, p = 2.0, np.pi
    series = (
        p / (2 * tau**3) / np.tanh(p * tau)
        + p**2 / (2 * tau**2) / np.sinh(p * tau) ** 2
    )
    variance = eqx.filter_jit(lambda f: f.variance())(field)
    assert_close(variance, tau**3 / (2 * p) * series * np.ones(256), 1e-6)


def bessel(r, length, nu):
    """Matern's correlation, by SciPy."""
    s = np.sqrt(2 * nu) * np.maximum(r, 1e-9) / length
    return 2 ** (1 - nu) / scipy.special.gamma(nu) * s**nu * scipy.special.kv(nu, s)


@jax.jit
def covariances(factor, i, j):
    """Of one point with all, and of every point with itself."""
    return jnp.sum(factor * factor[i, j], -1), jnp.sum(factor**2, -1)


def test_neumann_sides_multiply_the_variance_and_a_margin_does_not(x64):
    """3.7 at the middle of a side and 8.6 in a corner, by sums over all modes; with a
    margin the covariance is Matern's, by Bessel functions, at all distances.
    """
    _, bare = covariances(Matern(Grid((17, 17))).factor(), 8, 8)
    k = np.arange(2000)
    power = (np.pi**2 * (k[:, None] ** 2 + k**2) + 9.0) ** -2.0
    power[0, 0] = 0.0
    ends = np.where(k == 0, 1.0, 2.0)  # cos(pi k x)^2 over its mean square
    centre = ends * (k % 2 == 0)
    exact = centre @ power @ centre
    assert_close(bare[0, 8] / bare[8, 8], ends @ power @ centre / exact, 0.01)
    assert_close(bare[0, 0] / bare[8, 8], ends @ power @ ends / exact, 0.01)
    assert_close(ends @ power @ ends / exact, 8.57, 0.001)
    grid = Grid((16, 12), ((0.0, 2.0), (0.0, 1.5)), layout="cells")
    x, y = np.meshgrid((np.arange(16) + 0.5) / 8, (np.arange(12) + 0.5) / 8)
    for length, nu, std in ((0.5, 1.5, 2.0), (0.7, 1.0, 0.5)):
        law = Matern.of_length(grid, length, std, nu)
        found, variance = covariances(law.factor(), 5, 4)
        r = np.hypot(x - x[4, 5], y - y[4, 5]).T
        # The shortest waves are missing: 2% of the variance.
        assert_close(found / std**2, bessel(r, length, nu), 0.0, 0.03)
        assert_close(variance / std**2, 1.0, 0.0, 0.03)
    assert (law.grid.shape, law.alpha) == ((16, 12), 2.0)


def test_a_margin_is_along_axes_that_are_not_periodic(key, x64):
    grid = Grid((8, 6), boundary=(Periodic(), Neumann()))
    law = Matern(grid, margin=0.5)
    assert law.law_grid.shape == (8, 12)
    assert law.law_grid.spacing == grid.spacing
    assert once(law, key).shape == law.factor().shape[:2] == (8, 6)
    with pytest.raises(ValueError, match="margin must be a length"):
        Matern(grid, margin=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        Matern(Grid((6, 5), boundary=Neumann()), alpha=1.5, tau=4.0),
        Matern(Grid((6, 5), boundary=(Periodic(), Dirichlet())), sides=Dirichlet()),
        Matern(CELLS, modes=5, constant=True),
    ],
    ids=["neumann", "periodic and dirichlet", "five modes"],
)
def test_draws_have_the_covariance(field, key):
    check_by_samples(field, key)


def test_fewer_modes_keep_the_largest(x64):
    full, five = Matern(CELLS), Matern(CELLS, modes=5)
    values = lambda f: np.linalg.eigvalsh(matrix(f) / 64)[::-1]
    assert np.linalg.matrix_rank(matrix(five)) == 5
    assert_close(values(five)[:5], values(full)[:5], 1e-12)
    assert_close(values(five)[5:], 0.0, 1e-15)


# --- Karhunen-Loeve -------------------------------------------------------------------


def test_all_modes_give_the_covariance_back(x64):
    grid = Grid((6, 5), boundary=Neumann())
    field = KarhunenLoeve(grid, ExponentialCovariance(0.3, scale=2.0), modes=30)
    x = np.stack(list(map(np.asarray, grid.coordinates)), axis=-1).reshape(-1, 2)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    assert_close(matrix(field), 4 * np.exp(-distance / 0.3), 1e-12)
    assert field.kept == pytest.approx(1.0)


def test_brownian_motion_has_sines_for_modes(x64):
    """C = min(x, y): q = 1/((k - 1/2) pi)^2, sqrt(2) sin((k - 1/2) pi x)."""
    errors = []
    for n in (65, 129):
        grid = Grid((n,))
        field = KarhunenLoeve(grid, lambda x, y: np.minimum(x, y)[..., 0], modes=3)
        rate = (np.arange(3) + 0.5) * np.pi
        x = np.asarray(grid.points[0])[:, None]
        exact = np.sqrt(2) * np.sin(rate * x) / rate
        factor = np.asarray(field.factor())
        errors.append(np.abs(np.abs(factor) - np.abs(exact)).max())
    assert errors[1] < 1e-4
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.2


def test_modes_are_orthonormal_in_the_grids_weights(x64):
    grid = Grid((6, 5), boundary=Neumann())
    factor = KarhunenLoeve(grid, GaussianCovariance(0.5), modes=4).columns
    gram = np.einsum("xy,xyk,xyl->kl", np.asarray(grid.weights), factor, factor)
    assert_close(gram - np.diag(np.diag(gram)), np.zeros((4, 4)), 1e-14)


def test_the_share_is_kept_and_told(x64):
    grid = Grid((40,), layout="cells")
    field = KarhunenLoeve(grid, ExponentialCovariance(0.2), share=0.9)
    rank = field.factor().shape[-1]
    share = float(grid.integral(field.variance()))  # of a total of one
    assert share == pytest.approx(field.kept)
    fewer = KarhunenLoeve(grid, ExponentialCovariance(0.2), modes=rank - 1)
    assert fewer.kept < 0.9 <= field.kept
    assert "modes with 90." in repr(field)


@pytest.mark.slow
def test_few_modes_of_many_points_are_lapacks(x64):
    """The Krylov space, with the equal eigenvalues that a square's symmetry makes."""
    grid = Grid((24, 24), layout="cells")
    few = KarhunenLoeve(grid, ExponentialCovariance(0.1), modes=20)
    all_of_them = KarhunenLoeve(grid, ExponentialCovariance(0.1), modes=576)
    rank = 20  # between two different eigenvalues, or the subspace is not defined
    values = np.asarray(grid.weights)[0, 0] * (np.asarray(all_of_them.factor()) ** 2)
    values = values.sum(axis=(0, 1))
    assert values[rank - 1] > 1.001 * values[rank]
    leading = np.asarray(all_of_them.factor())[..., :rank].reshape(-1, rank)
    assert_close(matrix(few), leading @ leading.T, 1e-9)


def test_karhunen_loeve_draws(key, x64):
    mean = np.linspace(0.0, 1.0, 6)
    grid = Grid((6,))
    check_by_samples(
        KarhunenLoeve(grid, ExponentialCovariance(0.5), modes=4, mean=mean), key
    )


def test_what_karhunen_loeve_refuses():
    grid = Grid((6,))
    with pytest.raises(ValueError, match="either how many modes"):
        KarhunenLoeve(grid, ExponentialCovariance(0.5))
    with pytest.raises(ValueError, match="between 1 and the 6 points, got 7"):
        KarhunenLoeve(grid, ExponentialCovariance(0.5), modes=7)
    with pytest.raises(ValueError, match="it has the eigenvalue -"):
        KarhunenLoeve(grid, lambda x, y: -np.exp(-abs(x - y)[..., 0]), share=0.9)
    with pytest.raises(ValueError, match="symmetric"):
        KarhunenLoeve(grid, lambda x, y: np.exp(x - y)[..., 0], modes=2)
    with pytest.raises(ValueError, match="finite number for each pair"):
        KarhunenLoeve(grid, lambda x, y: np.exp(-abs(x - y)), modes=2)


# --- functions of a Gaussian field ----------------------------------------------------


@pytest.mark.slow
def test_lognormal_and_thresholded(key, x64):
    gaussian = Matern(CELLS, scale=4.0)

    @jax.jit
    def all_of(key):
        laws = gaussian, Lognormal(gaussian), Thresholded(gaussian)
        return [law.sample(key=key) for law in laws], Lognormal(gaussian).mean()

    (g, smooth, stepped), mean = all_of(key)
    assert_close(smooth, np.exp(g), 1e-14)
    assert np.array_equal(stepped, np.where(g >= 0, 12.0, 3.0))
    count = 4000
    a = draws(Lognormal(gaussian), count, key)
    mean = np.asarray(mean).ravel()
    assert np.all(np.abs(a.mean(axis=0) - mean) < 5 * a.std(axis=0) / np.sqrt(count))
    assert mean.min() > 1.01  # what a missing v/2 would say is 1


def test_a_fixed_field_is_always_drawn(key):
    grid = Grid((4, 4))
    assert jnp.all(Fixed(grid, 2.0).sample(key=key) == 2.0)
    assert Fixed(grid, 2.0).factor().shape == (4, 4, 0)
    with pytest.raises(ValueError, match="value must have a value at each point"):
        Fixed(grid, jnp.ones((4, 5)))


def test_what_matern_refuses():
    with pytest.raises(ValueError, match="tau must be positive"):
        Matern(CELLS, tau=0.0)
    with pytest.raises(ValueError, match="Periodic axes come from the grid"):
        Matern(CELLS, sides=Periodic())
    with pytest.raises(ValueError, match="between 1 and 64"):
        Matern(CELLS, modes=65)


def test_precision_follows_the_session(dtype, key):
    for field in (
        Matern(CELLS),
        KarhunenLoeve(CELLS, ExponentialCovariance(0.3), modes=3),
    ):
        assert field.sample(key=key).dtype == dtype
        assert field.factor().dtype == dtype
    assert laplacian_eigenvalues(CELLS).dtype == dtype
