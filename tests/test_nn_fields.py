"""Networks for fields: spectral convolutions against closed forms, and what they see.

The contract that all networks keep is tested in `test_nn.py`.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, tolerance
from jaxtyping import Array

import pidax as px
from pidax import nn

KEY = jax.random.key(11)
LAYOUTS = ("nodes", "cells")


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def spectral(modes: Any = 3, inputs: int = 1, outputs: int = 1, **options: Any) -> Any:
    return nn.SpectralConv(inputs, outputs, modes=modes, **options, key=KEY)


def fno(modes: Any = 3, **options: Any) -> Any:
    small: Any = dict(width=8, depth=2, features=4)
    return nn.FNO(2, 1, modes=modes, **{**small, **options}, key=KEY)


def places(n: int, layout: str) -> np.ndarray:
    return {
        "circle": np.arange(n) / n,
        "nodes": np.arange(n) / (n - 1),
        "cells": (np.arange(n) + 0.5) / n,
    }[layout]


# --- the spectral convolution --------------------------------------------------------


def circle_symbol(k: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Heat flow, then a translation, then the derivative along the last axis."""
    heat = np.exp(-0.01 * (2 * np.pi * k) @ (2 * np.pi * k))
    return heat * np.exp(-2j * np.pi * k @ shift) * (1 + 2j * np.pi * k[-1])


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_translation_invariant_operator_is_one(dims, dtype):
    """Heat, a shift by no whole number of points, and 1 + d/ds: all in one symbol."""
    grid, modes = (8, 9, 7)[:dims], (4, 3, 3)[:dims]
    shift = np.array([0.123, 0.31, -0.2])[:dims]
    conv = spectral(modes, dims=dims)
    symbol: Any = np.apply_along_axis(circle_symbol, -1, conv.waves, shift)
    weight = np.stack([symbol.real, symbol.imag])[..., None, None]
    conv = eqx.tree_at(lambda c: c.weight, conv, jnp.asarray(weight, dtype))
    # Every wave that the modes hold, and its opposite, with a phase of its own.
    most = [np.arange(1 - m, m) for m in modes]
    waves = np.stack(np.meshgrid(*most, indexing="ij"), -1).reshape(-1, dims)
    sizes, phases = np.random.default_rng(0).normal(size=(2, len(waves)))
    s = np.stack(np.meshgrid(*(places(n, "circle") for n in grid), indexing="ij"), -1)
    wave = [a * np.exp(1j * p) for a, p in zip(sizes, phases, strict=True)]
    field, expected = np.zeros(grid), np.zeros(grid)
    for a, k in zip(wave, waves, strict=True):
        e = a * np.exp(2j * np.pi * s @ k)
        field, expected = field + e.real, expected + (circle_symbol(k, shift) * e).real
    # One wave more along one axis than there are modes: not let through.
    fine = np.cos(2 * np.pi * modes[0] * s[..., 0] + 0.3) if dims < 3 else 0
    field = jnp.asarray(field + fine, dtype)
    out = eqx.filter_jit(conv)(field[..., None])[..., 0]
    assert out.dtype == dtype
    size = np.abs(expected).max()
    assert_close(out / size, expected / size, tolerance(dtype))


def mode(basis: str, k: int, s: np.ndarray, phase: float = 0.4) -> np.ndarray:
    if basis == "fourier":
        return np.cos(2 * np.pi * k * s + phase)
    return np.cos(np.pi * k * s) if basis == "cosine" else np.sin(np.pi * (k + 1) * s)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "basis",
    [("cosine",), ("sine",), ("cosine", "sine"), ("sine", "fourier")],
    ids="-".join,
)
def test_the_heat_semigroup_in_every_basis(basis, layout, x64):
    """Neumann, Dirichlet and periodic sides, on nodes and on cells."""
    dims, grid, modes, tau = len(basis), (9, 10), (5, 4), 0.02
    conv = spectral(modes[:dims], basis=basis, dims=dims, layout=layout)
    squares = np.sum((2 * np.pi * conv.waves) ** 2, -1)
    heat = np.exp(-tau * squares)
    if "fourier" in basis:
        heat = np.stack([heat, 0 * heat])
    conv = eqx.tree_at(lambda c: c.weight, conv, jnp.asarray(heat[..., None, None]))
    where = ["circle" if b == "fourier" else layout for b in basis]
    s = [places(n, w) for n, w in zip(grid, where, strict=False)]
    field, expected = 0.0, 0.0
    numbers = np.ndindex(*modes[:dims])
    for i, index in enumerate(numbers):
        ones = [mode(b, k, x) for b, k, x in zip(basis, index, s, strict=True)]
        term = np.sin(1.0 + i) * functools.reduce(np.multiply.outer, ones)
        half = [  # half waves along each axis
            {"fourier": 2 * k, "cosine": k, "sine": k + 1}[b]
            for b, k in zip(basis, index, strict=True)
        ]
        rate = np.pi**2 * sum(h**2 for h in half)
        field, expected = field + term, expected + np.exp(-tau * rate) * term
    out = eqx.filter_jit(conv)(jnp.asarray(field)[..., None])[..., 0]
    assert_close(out, expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2])
def test_padding_is_zeros_on_a_longer_circle(dims, x64):
    grid, more = (8, 12)[:dims], (4, 6)[:dims]
    options: Any = dict(inputs=2, outputs=3, dims=dims)
    inside = spectral(4, basis="padded", layout="cells", padding=0.5, **options)
    circle = spectral(4, **options)
    x = draw(*grid, 2)
    longer = jnp.pad(x, [*((0, n) for n in more), (0, 0)])
    expected = eqx.filter_jit(circle)(longer)[tuple(slice(n) for n in grid)]
    assert_close(eqx.filter_jit(inside)(x), expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("basis", "layout"),
    [
        ("fourier", "nodes"),
        ("cosine", "nodes"),
        ("cosine", "cells"),
        ("sine", "nodes"),
        ("sine", "cells"),
    ],
)
def test_weights_mean_the_same_on_every_grid(basis, layout, x64):
    """Of a field of few modes, exactly, at the points that two grids share."""
    conv = spectral((4, 3), inputs=2, outputs=2, basis=basis, layout=layout)
    near = "circle" if basis == "fourier" else layout
    # Of how many fine steps a coarse one is, and where the first coarse point is.
    first, step = (1, 3) if near == "cells" else (0, 2)
    coarse = (9, 7)
    fine = tuple(step * (n - 1) + 1 if near == "nodes" else step * n for n in coarse)
    size = draw(4, 3, 2)

    def field(grid):
        one, two = (
            np.stack([mode(basis, k, places(n, near)) for k in range(modes)], -1)
            for n, modes in zip(grid, (4, 3), strict=True)
        )
        return jnp.einsum("xk,yl,klc->xyc", one, two, size)

    run = eqx.filter_jit(conv)
    shared = run(field(fine))[first::step, first::step]
    assert shared.shape == (*coarse, 2)
    assert_close(run(field(coarse)), shared, 1e-12)


@pytest.mark.slow
def test_a_spectral_convolution_keeps_the_variance_of_what_it_lets_through():
    for basis in ("fourier", "cosine"):
        conv = spectral(6, inputs=32, outputs=32, basis=basis, layout="cells")
        x = draw(16, 16, 32)
        conv_only = eqx.filter_jit(conv)
        passed = {"fourier": 11 / 16, "cosine": 6 / 16}[basis] ** 2
        assert jnp.var(conv_only(x)) == pytest.approx(passed, rel=0.3)


# --- what the networks see -----------------------------------------------------------


@eqx.filter_jit
def answer(net: Any, x: Array) -> Array:
    return net(x, 0.3)


def moved(net: Any, x: Array, axis: int) -> float:
    """How far a network is from commuting with a shift, relative to its answer."""
    y = answer(net, x)
    shifted = answer(net, jnp.roll(x, 3, axis))
    return float(jnp.abs(shifted - jnp.roll(y, 3, axis)).max() / y.std())


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_periodic_operator_commutes_with_translations(dims, x64):
    x = draw(*(8, 6, 5)[:dims], 2)
    net = fno(dims=dims)
    for axis in range(dims):
        assert moved(net, x, axis) < 1e-11
    if dims < 3:
        assert moved(fno(dims=dims, coordinates=True), x, 0) > 1e-2
        assert moved(fno(dims=dims, basis="cosine"), x, 0) > 1e-2


def test_axes_may_differ(x64):
    """Rows of time, and a periodic axis of space."""
    net, x = fno(basis=("padded", "fourier")), draw(8, 6, 2)
    assert moved(net, x, 1) < 1e-11
    assert moved(net, x, 0) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FNO", "UNet"])
def test_only_coordinates_tell_a_place_on_a_torus(kind, x64):
    """Of a constant field the answer is constant, or not: and then without a seam."""
    unet: Any = dict(width=4, features=4, padding="periodic", dims=1, key=KEY)
    # A UNet moves with its coarsest grid only: one level, and a shift is a shift.
    make: Any = {
        "FNO": lambda c: fno(dims=1, coordinates=c),
        "UNet": lambda c: nn.UNet(2, 1, multipliers=(1,), coordinates=c, **unet),
    }[kind]
    still = jnp.ones((64, 2))
    assert answer(make(False), still).std() < 1e-12
    y = answer(make(True), still)[:, 0]  # of which the last and the first are near
    steps = jnp.abs(jnp.roll(y, -1) - y)
    assert y.std() > 1e-4
    assert steps.max() < 0.3 * (y.max() - y.min())
    assert moved(make(True), draw(64, 2), 0) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["padded", "sine", "coordinates"])
def test_a_boundary_can_be_seen(how, x64):
    """Of a constant field: the ends are not as the middle."""
    chosen = dict(basis="cosine", coordinates=True) if how == "coordinates" else {}
    net = fno(dims=1, **(chosen or dict(basis=how)))
    y = answer(net, jnp.ones((33, 2)))[:, 0]
    assert jnp.abs(y[0] - y[16]) > 1e-2 * jnp.abs(y).max()
    # Cosines alone keep a constant, which has no slope at the ends either.
    blind = answer(fno(dims=1, basis="cosine"), jnp.ones((33, 2)))
    assert blind.std() < 1e-12


def test_coordinates_are_their_formula(dtype):
    show = lambda n: eqx.tree_at(
        lambda layer: layer.weight, nn.Linear(n, n, key=KEY), jnp.eye(n)
    )
    x = draw(4, 5, 1)
    layouts: Any = {"nodes": 1.0, "cells": 0.8}
    for layout, ends in layouts.items():
        told = nn.WithCoordinates(show(4), (True, False), layout)
        assert told.inputs == 1
        y = eqx.filter_jit(told)(x)
        circle = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])[:, None]
        assert_close(y[..., :1], x, 0)
        assert_close(y[..., 1:3], np.broadcast_to(circle, (4, 5, 2)), tolerance(dtype))
        line = np.broadcast_to(np.linspace(-ends, ends, 5), (4, 5))
        assert_close(y[..., 3], line, tolerance(dtype))


@pytest.mark.slow
def test_a_unet_without_coordinates_is_what_it_was():
    """Files hold the fields of a class: none is new, and no weight is drawn anew."""
    options: Any = dict(width=4, multipliers=(1,), features=4, key=KEY)
    plain: Any = nn.UNet(2, 1, **options)
    told: Any = nn.UNet(2, 1, coordinates=True, **options)
    before = "embedding start stem downs encoder middle decoder ups norm out"
    assert " ".join(vars(plain)) == before
    assert isinstance(plain.stem, nn.Conv)
    assert told.stem.layer.weight.shape == (3, 3, 4, 4)
    rest = [eqx.tree_at(lambda net: net.stem, net, None) for net in (plain, told)]
    assert eqx.tree_equal(*rest)
    with pytest.raises(ValueError, match=r"\(n, n, 2\), channels last, got \(4, 4, 4"):
        told(draw(4, 4, 4), 0.3)


@pytest.mark.slow
def test_an_operator_on_a_finer_grid_is_the_same_function(x64):
    """Up to aliasing of the activations, which falls faster than any power."""
    net = fno(dims=1, width=8)

    def field(n):
        s = places(n, "circle")
        return jnp.asarray(np.stack([np.cos(2 * np.pi * s), np.sin(4 * np.pi * s)], -1))

    exact = answer(net, field(256))
    errors = [
        float(jnp.abs(answer(net, field(n)) - exact[:: 256 // n]).max() / exact.std())
        for n in (8, 16, 32, 64)
    ]
    assert errors[2] < 1e-4
    assert errors[3] < 1e-8


# --- gradients, batches, optimisers, files -------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("basis", [("padded", "fourier"), ("cosine", "sine")])
def test_gradients_are_those_of_finite_differences(basis, x64):
    net = fno(2, basis=basis, width=4, depth=1, coordinates=True, classes=2)
    x, to = draw(6, 5, 2), draw(6, 5, 1, seed=1)
    arrays, static = eqx.partition((net, x), eqx.is_inexact_array)

    def loss(arrays):
        model, x = eqx.combine(arrays, static)
        return jnp.sum(to * model(x, 0.3, 1))

    leaves, tree = jax.tree.flatten(arrays)
    way = [draw(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
    way = jax.tree.unflatten(tree, way)
    # The frequencies of the features get no gradient, by intention.
    fixed = lambda t: t[0].embedding.features.frequencies
    way = eqx.tree_at(fixed, way, replace_fn=jnp.zeros_like)

    @jax.jit
    def both(arrays, way):
        slope = jax.tree.map(jnp.vdot, jax.grad(loss)(arrays), way)
        at = lambda h: loss(jax.tree.map(lambda a, w: a + h * w, arrays, way))
        h = 1e-3  # fourth order
        near, far = at(h) - at(-h), at(2 * h) - at(-2 * h)
        return sum(jax.tree.leaves(slope)), (8 * near - far) / (12 * h)

    exact, differences = both(arrays, way)
    assert abs(exact) > 1e-2
    assert_close(differences, exact, 1e-7)


@pytest.mark.slow
def test_a_batch_with_classes_is_a_loop(dtype):
    net, xs = fno(2, basis="sine", depth=1, classes=3), draw(3, 6, 6, 2)
    times, labels = draw(3, seed=1), jnp.array([0, 2, -1])
    out = eqx.filter_jit(jax.vmap(net))(xs, times, labels)
    one = eqx.filter_jit(net)
    loop = [one(*args) for args in zip(xs, times, labels, strict=True)]
    assert out.dtype == dtype
    assert_close(out, jnp.stack(loop), tolerance(dtype))
    other = one(xs[0], times[0], labels[1])
    assert jnp.abs(other - out[0]).max() > 1e-3 * out.std()


@pytest.mark.slow
def test_weights_are_real_and_every_optimiser_moves_them(tmp_path):
    net = fno(2, dims=1, width=4, depth=1)
    assert (net.classes, net.shape) == (None, None)
    params, static = eqx.partition(net, nn.trainable(net))
    assert not any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params))
    x = draw(6, 2)
    optimisers = optax.radam(1e-2), optax.adam(1e-2), optax.contrib.muon(1e-2)

    @jax.jit
    def updates(params):
        loss = lambda p: jnp.mean((eqx.combine(p, static)(x, 0.3) - 1) ** 2)
        slope = jax.grad(loss)(params)
        return [o.update(slope, o.init(params), params)[0] for o in optimisers]

    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic
        for update in updates(params):
            assert 0 < jnp.abs(update.spectral[0].weight).max() < 1
    px.save(tmp_path / "operator.px", net)
    back: Any = px.load(tmp_path / "operator.px")
    assert eqx.tree_equal(back, net)
    assert back.spectral[0].basis == ("fourier",)


POINTS, WAVES = 32, 3


def smooth_fields(count: int, seed: int) -> Array:
    """Gaussian periodic fields of variance 1, in the lowest waves and no mean."""
    s = places(POINTS, "circle")
    phase = 2 * np.pi * np.outer(s, np.arange(1, WAVES + 1))
    modes = np.concatenate([np.cos(phase), np.sin(phase)], 1) / np.sqrt(WAVES)
    draws = np.random.default_rng(seed).normal(size=(count, 2 * WAVES))
    return jnp.asarray((draws @ modes.T)[..., None], jnp.float32)


@pytest.mark.slow
def test_a_denoiser_of_fields_learns_what_no_pointwise_one_could(x32):
    """Noise of variance 1: at a point alone 1/2 is left, of the modes much less."""
    process = px.EDM(sigma_data=1.0)
    net = nn.FNO(1, 1, modes=4, width=16, depth=1, dims=1, features=8, key=KEY)
    result = px.fit(
        px.Preconditioned(net, process),
        px.DenoisingScoreMatching(process, law=px.distill.LogNormal(0.0, 0.1)),
        data=smooth_fields(4096, 0),
        steps=200,
        batch_size=64,
        optimiser=optax.adam(3e-3),
        ema=(0.95,),
        key=KEY,
        progress=False,
    )
    x0 = smooth_fields(2048, 1)
    noise = jax.random.normal(jax.random.key(5), x0.shape)
    denoise = eqx.filter_jit(jax.vmap(lambda x: result.ema(0.95)(x, 1.0)))
    error = float(jnp.mean((denoise(x0 + noise) - x0) ** 2))
    # 2 WAVES coefficients, each of the variance v; the noise has 1/POINTS in each.
    v, w = 1 / (2 * WAVES), 1 / POINTS
    exact, pointwise = 2 * WAVES * v * w / (v + w), 1 / 2
    assert 0.95 * exact < error < 0.5 * (exact + pointwise)
    assert error < 1.25 * exact


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spectral(0), "modes must be a whole .* got modes=0"),
        (lambda: spectral((2, 3), dims=1), r"each of the 1, got \(2, 3\). Give"),
        (lambda: spectral(basis="chebyshev"), "got 'chebyshev'. Use 'fourier'"),
        (lambda: spectral(basis=("sine",)), r"for each of the 2, got \('sine',\)"),
        (lambda: spectral(layout="faces"), "'cells'.*, got 'faces'. On nodes"),
        (lambda: spectral(padding=0.0), "padding must be positive .* padding=0.0"),
        (lambda: spectral(dims=4), "dims must be 1, 2 or 3, got dims=4"),
        (lambda: fno(width=0), "got width=0"),
        (lambda: fno(depth=0), "got depth=0"),
        (lambda: fno(dropout=1.0), "got dropout=1.0"),
        (lambda: fno()(draw(8, 2), 0.3), r"\(n, n, 2\), channels last, got \(8, 2\)"),
        (lambda: fno(coordinates=True)(draw(8, 8, 6), 0.3), r"got \(8, 8, 6\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("basis", "layout", "least"),
    [
        ("fourier", "nodes", 7),
        ("fourier", "cells", 7),
        ("cosine", "nodes", 5),
        ("cosine", "cells", 4),
        ("sine", "nodes", 6),
        ("sine", "cells", 5),
        ("padded", "cells", 5),
    ],
)
def test_a_grid_that_does_not_resolve_the_modes_is_named(basis, layout, least):
    conv = spectral(4, basis=basis, layout=layout, dims=1)
    assert jax.eval_shape(conv, draw(least, 1)).shape == (least, 1)
    message = rf"modes=4 .* at least {least} points, got {least - 1}. Use fewer"
    with pytest.raises(ValueError, match=message):
        conv(draw(least - 1, 1))
