"""LPIPS against golden numbers; Frechet's distance and the score in closed form."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import pidax as px
from pidax.convert import lpips_from
from pidax.metrics import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
)

GOLDEN = np.load(Path(__file__).parent / "data/lpips_tiny.npz")
VGG = {name: GOLDEN[name] for name in GOLDEN if name.startswith("features.")}
LINEAR = {name: GOLDEN[name] for name in GOLDEN if name.startswith("lin")}


def images(name):
    return np.moveaxis(GOLDEN[name], 1, -1)


@pytest.fixture(scope="module")
def lpips():
    return lpips_from(VGG, LINEAR)


@pytest.fixture(scope="module")
def both(lpips):
    """Distances of the golden images, and their gradient."""
    run = jax.jit(jax.vmap(jax.value_and_grad(lpips)))
    return run(images("x"), images("y"))


# --- LPIPS ----------------------------------------------------------------------------


@pytest.mark.slow
def test_lpips_is_that_of_the_golden_file(both):
    np.testing.assert_allclose(both[0], GOLDEN["lpips_avgpool"], rtol=1e-5)


@pytest.mark.slow
def test_its_gradient_is_that_of_the_golden_file(both):
    expected = np.moveaxis(GOLDEN["grad_x_avgpool"], 1, -1)
    scale = np.abs(expected).max()
    # Of the sum over the batch. A rounding moves some units over the kink of their
    # ReLU, and the pixels that they see with them.
    away = np.abs(np.asarray(both[1]) - expected) / scale
    assert np.quantile(away, 0.99) < 1e-4
    assert np.linalg.norm(away) < 1e-3 * np.linalg.norm(expected / scale)


def test_images_are_resized_as_there(lpips):
    small = images("x")[0]
    resized = jax.image.resize(small, (224, 224, 3), "bilinear", antialias=False)
    assert_close(resized, images("x_resized224")[0], 1e-5)


@pytest.fixture(scope="module")
def small():
    """At the size of the images, with max pooling."""
    return lpips_from(VGG, LINEAR, pooling="max", size=None)


@pytest.fixture(scope="module")
def run(small):
    return eqx.filter_jit(small)


@pytest.mark.slow
def test_it_is_zero_for_equal_images_symmetric_and_grey_is_three_equal_colours(run):
    x, y = images("x")[0], images("y")[0]
    assert run(x, x) < 1e-12
    assert_close(run(x, y), run(y, x), 1e-6)
    grey, other = x[..., :1], y[..., :1]
    coloured = run(np.repeat(grey, 3, -1), np.repeat(other, 3, -1))
    assert_close(run(grey, other), coloured, 1e-6)


def test_it_is_the_weighted_difference_of_directions(small, run):
    """The five terms, one pixel at a time, in NumPy."""
    x, y = images("x")[0], images("y")[0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    trunk = eqx.filter_jit(small.trunk)
    maps = [trunk(np.float32(((i + 1) / 2 - mean) / std)) for i in (x, y)]
    total = 0.0
    for level, (a, b) in enumerate(zip(*maps, strict=True)):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        unit = [f / np.linalg.norm(f, axis=-1, keepdims=True) for f in (a, b)]
        weight = GOLDEN[f"lin{level}"].ravel()
        total += ((unit[0] - unit[1]) ** 2 @ weight).mean()
    assert_close(run(x, y), total, 1e-5)


@pytest.mark.slow
def test_its_gradient_is_finite_where_no_feature_is_active(small):
    """All biases so low that every ReLU is closed."""
    silent = {n: a - 1e6 * n.endswith("bias") for n, a in VGG.items()}
    silent = {n: np.asarray(a, np.float32) for n, a in silent.items()}
    distance = lpips_from(silent, LINEAR, pooling="average", size=None)
    value, gradient = jax.value_and_grad(distance)(images("x")[0], images("y")[0])
    assert value == 0
    assert (gradient == 0).all()


def test_pooling_is_of_squares_and_leaves_an_odd_row():
    from pidax.nn._vgg import _halved

    x = jnp.arange(15.0).reshape(5, 3, 1)
    np.testing.assert_array_equal(_halved(x, "average")[..., 0], [[2.0], [8.0]])
    np.testing.assert_array_equal(_halved(x, "max")[..., 0], [[4.0], [10.0]])
    make = lambda: px.nn.VGG16(width=1, pooling="max", key=jax.random.key(0))
    maps = eqx.filter_eval_shape(lambda x: make()(x), jnp.zeros((17, 32, 3)))
    assert [m.shape for m in maps] == [
        (17, 32, 1),
        (8, 16, 2),
        (4, 8, 4),
        (2, 4, 8),
        (1, 2, 8),
    ]


def test_the_linear_layers_go_by_all_their_names(small):
    for pattern in ("lin{}.model.1.weight", "lin{}.1.weight", "lin{}"):
        renamed = {pattern.format(i): LINEAR[f"lin{i}"] for i in range(5)}
        again = lpips_from(VGG, renamed, pooling="max", size=None)
        np.testing.assert_array_equal(again.weights[3], small.weights[3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lpips_from({}, LINEAR), "26 of 26 arrays are missing.*vgg16-397923af"),
        (lambda: lpips_from(VGG, {"lin0": LINEAR["lin0"]}), "lin0 to lin4, got"),
        (
            lambda: lpips_from(
                {**VGG, "features.5.weight": np.zeros((7, 8, 3, 3))}, LINEAR
            ),
            "features.5 of VGG16 with 8 channels.*another network",
        ),
        (lambda: lpips_from(VGG, LINEAR, pooling="min"), "'average', 'max'.*got 'min'"),
        (
            lambda: lpips_from(VGG, {**LINEAR, "lin1": -LINEAR["lin1"]}),
            "must not be negative",
        ),
        (
            lambda: lpips_from(VGG, {**LINEAR, "lin1": np.ones(3)}),
            r"\[8, 16, 32, 64, 64\], got \[8, 3",
        ),
        (
            lambda: lpips_from(VGG, LINEAR)(
                np.zeros((32, 32, 2)), np.zeros((32, 32, 2))
            ),
            "1 or 3 channels.*got the shape",
        ),
        (
            lambda: lpips_from(VGG, LINEAR, size=None)(*np.zeros((2, 8, 8, 3))),
            "16 by 16 pixels",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


# --- Frechet's distance and the score -------------------------------------------------


def test_frechet_is_the_transport_of_gaussians_that_commute():
    """In common axes it is |m - n|² + Σ (√a - √b)², rotated or not."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    b[2] = 0  # a direction without spread
    m, n = rng.normal(size=(2, 6))
    found = frechet_distance(
        FeatureStatistics(m, turn @ np.diag(a) @ turn.T),
        FeatureStatistics(n, turn @ np.diag(b) @ turn.T),
    )
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert_close(found, expected, 1e-8)  # a root at zero halves the digits


def test_frechet_of_matrices_that_do_not_commute_solves_the_transport_problem():
    """The map A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2 pushes N(0, A) to N(0, B)."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 4, 4))
    a, b = x @ x.T + np.eye(4), y @ y.T + np.eye(4)

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values)) @ vectors.T

    half = root(a)
    inverse = np.linalg.inv(half)
    push = inverse @ root(half @ b @ half) @ inverse
    np.testing.assert_allclose(push @ a @ push, b, rtol=1e-10)
    cost = np.trace((np.eye(4) - push) @ a @ (np.eye(4) - push))
    zero = np.zeros(4)
    found = frechet_distance(FeatureStatistics(zero, a), FeatureStatistics(zero, b))
    assert_close(found, cost, 1e-10)


def test_statistics_are_those_of_the_rows_and_survive_a_file(tmp_path):
    rows = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
    found = FeatureStatistics.of(rows)
    double = rows.astype(np.float64)
    assert_close(found.mean, double.sum(0) / 50, 1e-14)
    centred = double - double.mean(0)
    assert_close(found.covariance, centred.T @ centred / 49, 1e-13)
    found.save(tmp_path / "some.npz")
    again = FeatureStatistics.load(tmp_path / "some.npz")
    assert frechet_distance(found, again) < 1e-12
    assert frechet_distance(found, FeatureStatistics.of(rows + 1)) == pytest.approx(3)


def test_the_score_is_the_number_of_labels_that_are_told_apart():
    sure = np.eye(5)[np.arange(100) % 5]
    assert inception_score(sure, splits=4) == pytest.approx((5, 0))
    assert inception_score(np.full((40, 5), 0.2)) == pytest.approx((1, 0))
    # Half of a bit: p(y|x) is (1, 0) or (1/2, 1/2), p(y) = (3/4, 1/4).
    mixed = np.array([[1, 0], [0.5, 0.5]] * 10)
    information = 0.5 * np.log(4 / 3) + 0.5 * (0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    assert inception_score(mixed, splits=1)[0] == pytest.approx(np.exp(information))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureStatistics(np.zeros(3), np.eye(2)), r"shape \(3, 3\), got"),
        (lambda: FeatureStatistics.of(np.zeros((1, 3))), "at least two images, got 1"),
        (lambda: FeatureStatistics.of(np.full((2, 3), np.nan)), "6 numbers in them"),
        (lambda: inception_score(np.zeros((5, 2))), "sum to 0 to 0.*softmax"),
        (lambda: inception_score(np.ones((5, 1))), "5 images and splits=10"),
        (
            lambda: frechet_distance(
                FeatureStatistics(np.zeros(1), np.eye(1)),
                FeatureStatistics(np.zeros(2), np.eye(2)),
            ),
            "same features, got 1 and 2",
        ),
    ],
)
def test_bad_statistics_are_named(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_a_file_without_statistics_is_named(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="'mu' and 'sigma', got"):
        FeatureStatistics.load(tmp_path / "images.npz")
