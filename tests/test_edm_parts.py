"""The parts of EDM's networks: resampling, features, memory, precision, dropout."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from pidax.nn import (
    Attention,
    DhariwalUNet,
    Fourier,
    LowPrecision,
    Positional,
    Resample,
    SongUNet,
    trainable,
)

KEY = jax.random.key(11)
TINY: dict[str, Any] = dict(
    resolution=4, width=8, multipliers=(1,), blocks=1, attention=()
)
TWO = {**TINY, "multipliers": (1, 2)}
every_filter = pytest.mark.parametrize(
    "taps", [(1, 1), (1, 3, 3, 1), (1, 2), (1, 2, 3, 4, 5, 6)]
)


@pytest.mark.slow
@every_filter
def test_a_constant_is_kept_but_at_the_boundary(taps, x64):
    x = jnp.full((12, 16, 2), 0.7)
    cases: list[tuple[Any, Any]] = [("up", (24, 32)), ("down", (6, 8))]
    for direction, grid in cases:
        y = Resample(taps, direction)(x)
        assert y.shape == (*grid, 2)
        inside = y[3:-3, 3:-3] if direction == "up" else y[2:-2, 2:-2]
        if direction == "down" or taps[0] == taps[-1]:
            assert_close(inside, 0.7, 1e-12)
        else:  # an uneven filter gives even and odd points unlike weights
            assert_close(inside.mean((0, 1)), 0.7, 0.1)


@pytest.mark.slow
@every_filter
@pytest.mark.parametrize("dims", [1, 2])
def test_up_is_the_transpose_of_down(taps, dims, x64):
    rng = np.random.default_rng(0)
    down, up = Resample(taps, "down"), Resample(taps, "up")
    x = jnp.asarray(rng.normal(size=(*(12, 16)[:dims], 3)))
    y = jnp.asarray(rng.normal(size=(*(6, 8)[:dims], 3)))
    assert_close((down(x) * y).sum(), (x * up(y)).sum() / 2**dims, 1e-12)
    _, transposed = jax.vjp(down, x)
    assert_close(transposed(y)[0], up(y) / 2**dims, 1e-12)


def test_the_short_filter_is_mean_and_repetition(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 2)))
    means = x.reshape(2, 2, 3, 2, 2).mean((1, 3))
    assert_close(Resample((1, 1), "down")(x), means, 1e-12)
    repeated = jnp.repeat(jnp.repeat(x, 2, 0), 2, 1)
    assert_close(Resample((1, 1), "up")(x), repeated, 1e-12)


def test_what_is_no_filter_is_refused():
    with pytest.raises(ValueError, match="even number of taps"):
        Resample((1, 2, 1), "up")
    with pytest.raises(ValueError, match="even number of taps"):
        Resample((1, -1), "up")
    with pytest.raises(ValueError, match="direction must be one of"):
        Resample((1, 1), "sideways")  # type: ignore[arg-type]


def test_positional_frequencies(dtype):
    ends = Positional(16, endpoint=True)
    assert_close(ends.frequencies[[0, -1]], [1.0, 1e-4], 1e-7)
    open_ = Positional(16)
    assert_close(open_.frequencies, 10_000.0 ** (-np.arange(8) / 8), 1e-6)
    f = jax.jit(ends)(0.3)
    assert f.dtype == dtype
    assert_close(f, np.r_[np.cos(0.3 * (w := ends.frequencies)), np.sin(0.3 * w)], 1e-6)
    with pytest.raises(ValueError, match="even number from 4"):
        Positional(2)


def test_fourier_phases_are_rounded_as_the_published_ones(x32):
    """A phase of 1000 has an error of 3e-5, the same in one order only."""
    features = Fourier(64, scale=16.0, key=KEY)
    c = np.asarray(np.log(37.3), np.float32)
    phase = (np.float32(2 * np.pi) * np.asarray(features.frequencies)) * c
    exact = phase.astype(np.float64)
    expected = np.r_[np.cos(exact), np.sin(exact)]
    assert np.abs(phase).max() > 300
    assert_close(eqx.filter_jit(features)(c), expected, 0, 3e-7)
    assert_close(jax.vmap(features)(c[None])[0], expected, 0, 3e-7)


def test_attention_may_have_a_bias():
    assert Attention(8, key=KEY).qkv.bias is None
    assert Attention(8, bias=True, key=KEY).qkv.bias is not None


# --- whole networks ------------------------------------------------------------------


def test_the_sizes_of_the_published_networks():
    """In millions of parameters, as Karras et al. 2022 count them."""
    for make, options, millions in [
        (SongUNet.ddpmpp, {"resolution": 32, "augments": 9}, 56),
        (SongUNet.ncsnpp, {"resolution": 32, "augments": 9}, 56),
        (DhariwalUNet, {"resolution": 64, "classes": 1000}, 296),
    ]:
        made = eqx.filter_eval_shape(
            lambda make=make, options=options: make(3, 3, **options, key=KEY)
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(made))
        assert count / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.fixture(scope="module")
def song():
    with jax.enable_x64(False):
        return SongUNet(3, 3, **TINY, classes=2, augments=2, dropout=0.5, key=KEY)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(2).normal(size=(4, 4, 3)).astype(np.float32)


@eqx.filter_jit
def gradient(network, x, key):
    loss = lambda network: (network(x, 0.3, 1, key=key) ** 2).sum()
    value, slopes = eqx.filter_value_and_grad(loss)(network)
    return value, jax.tree.leaves(slopes)


@pytest.mark.slow
def test_rematerialisation_changes_nothing(song, x, x32):
    """Neither the value nor the gradient, with dropout too."""
    other = SongUNet(
        3, 3, **TINY, classes=2, augments=2, dropout=0.5, remat=True, key=KEY
    )
    for found, expected in zip(
        jax.tree.leaves(gradient(other, x, KEY)),
        jax.tree.leaves(gradient(song, x, KEY)),
        strict=True,
    ):
        assert_close(found, expected, 1e-5)
        assert np.isfinite(found).all()
    program = str(jax.make_jaxpr(lambda x: other(x, 0.3))(x))
    assert program.count("checkpoint") >= 5 or program.count("remat") >= 5


@pytest.mark.slow
def test_dropout_wants_a_key(song, x, x32):
    ask = eqx.filter_jit(lambda key: song(x, 0.3, 1, key=key))
    first, again, other = ask(None), ask(None), ask(KEY)
    assert_close(first, again, 0)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.slow
def test_low_precision_keeps_the_embedding(song, x, x32):
    """Two noise levels that bfloat16 cannot tell apart still are."""
    low = LowPrecision(song)
    ask = eqx.filter_jit(lambda net, c: net(x, c, 1))
    full, half = ask(song, jnp.float32(1.0)), ask(low, jnp.float32(1.0))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.1 * np.abs(full).max()
    inner: Any = low.network
    embed = inner.embedding
    assert np.abs(embed(jnp.float32(1.001)) - embed(jnp.float32(1.0))).max() > 1e-6
    assert low.classes == 2
    assert low.shape == (4, 4, 3)


def test_fourier_frequencies_are_not_trained(x32):
    made = eqx.filter_eval_shape(
        lambda: SongUNet.ncsnpp(3, 3, **{**TWO, "resolution": 8}, key=KEY)
    )
    kept = trainable(made)
    assert kept.embedding.features.frequencies is False
    assert kept.encoder.stem.weight is not None
    assert made.embedding.features.size == 16


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (SongUNet, {"encoder": "deep"}, "encoder must be one of"),
        (SongUNet, {"features": "none"}, "features must be one of"),
        (SongUNet, {"resolution": 5}, "resolution must be a multiple of 2"),
        (SongUNet, {"multipliers": ()}, "multipliers must have one entry"),
        (SongUNet, {"dropout": 1.0}, "dropout must satisfy"),
        (DhariwalUNet, {"blocks": 0}, "blocks must be a whole number"),
        (DhariwalUNet, {"width": 42}, "groups must divide"),
    ],
)
def test_what_cannot_be_made_says_so(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(3, 3, **{**TWO, **changes}, key=KEY)


def test_what_cannot_be_asked_says_so(song, x, x32):
    with pytest.raises(ValueError, match="augmentation labels"):
        song(x, 0.3, augment=jnp.ones(3))
    with pytest.raises(ValueError, match="one sample of the shape"):
        song(x[None], 0.3)
    plain = eqx.filter_eval_shape(lambda: SongUNet(3, 3, **TINY, key=KEY))
    with pytest.raises(ValueError, match="without any"):
        eqx.filter_eval_shape(lambda n: n(x, 0.3, augment=jnp.ones(3)), plain)
    with pytest.raises(ValueError, match="without classes"):
        eqx.filter_eval_shape(lambda n: n(x, 0.3, 1), plain)
