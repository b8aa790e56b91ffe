"""Networks: layers against NumPy and SciPy, and the contract that all of them keep."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, tolerance
from jaxtyping import Array
from scipy import ndimage, stats

import pidax as px
from pidax import nn
from pidax.nn._layers import Block, dropout, normal

KEY = jax.random.key(7)
CLASSES = 3
MODES = {"zeros": "constant", "periodic": "wrap", "edge": "nearest"}


MIXED = ("padded", "fourier")
FIELDS: Any = dict(classes=CLASSES, dropout=0.5, features=4, key=KEY)


class Own(nn.AbstractNetwork):
    """A network of the user's, with an integer leaf and features of its own choice."""

    features: nn.Fourier
    weight: Array
    order: Array

    def __init__(self):
        self.features = nn.Fourier(4, scale=100.0, key=KEY)
        self.weight = 0.1 * jax.random.normal(KEY, (7, 3), float)
        self.order = jnp.array([1, 0, 2])

    @property
    def classes(self) -> None:
        return None

    @property
    def shape(self) -> tuple[int, ...]:
        return (3,)

    def __call__(self, x, c_noise, condition=None, *, augment=None, key=None):
        assert jnp.asarray(c_noise).dtype.itemsize >= 4  # not rounded
        features = self.features(c_noise).astype(x.dtype)
        return jnp.concatenate([x, features]) @ self.weight[:, self.order]


def small_unet(width: int = 8, **kwargs: Any) -> nn.UNet:
    return nn.UNet(2, 1, width=width, features=4, key=KEY, **kwargs)


NETWORKS = {
    "MLP": lambda: nn.MLP(3, 2, width=8, depth=2, classes=CLASSES, key=KEY),
    "ResidualMLP": lambda: nn.ResidualMLP(
        3, 2, width=8, depth=2, classes=CLASSES, dropout=0.5, key=KEY
    ),
    "Concatenated": lambda: nn.Concatenated(
        [
            nn.ResidualMLP(
                3, size, width=8, depth=2, classes=CLASSES, dropout=0.5, gain=at, key=k
            )
            for size, at, k in zip((1, 2), (0, 1), jax.random.split(KEY), strict=True)
        ]
    ),
    "UNet": lambda: small_unet(attention=(1,), classes=CLASSES),
    "FNO": lambda: nn.FNO(
        2, 1, modes=2, width=8, depth=2, basis=MIXED, coordinates=True, **FIELDS
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def _network(name: str, dtype: np.dtype) -> Any:
    return {**NETWORKS, "own": Own}[name]()


def network(name: str) -> Any:
    return _network(name, jnp.zeros(()).dtype)


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def sample(net: Any, batch: tuple[int, ...] = ()) -> Array:
    return draw(*batch, *(net.shape or (4, 8, 2)))


# Compiling is what takes time here, not running.
quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@quick
def call(net: Callable[..., Array], *args: Any, **kwargs: Any) -> Array:
    return net(*args, **kwargs)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, also of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def operations(fn: Callable[..., Any], *args: Any) -> list[tuple[str, np.dtype]]:
    """Each operation of `fn` and the dtype of its first operand."""
    program = jax.make_jaxpr(fn)(*args).jaxpr
    some = [e for e in equations(program) if e.invars]
    return [(e.primitive.name, e.invars[0].aval.dtype) for e in some]


def count(name: str, fn: Callable[..., Any], *args: Any) -> int:
    return [operation for operation, _ in operations(fn, *args)].count(name)


def size(net: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(net))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    bias = 0.0 if layer.bias is None else np.asarray(layer.bias)
    return x @ np.asarray(layer.weight) + bias


# --- layers --------------------------------------------------------------------------


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution_is_scipys_correlation(dims, padding, x64):
    x = draw(*(6, 4, 8)[:dims], 2)
    for kernel, stride in ((3, 1), (3, 2), (5, 2)):
        settings: Any = dict(kernel=kernel, stride=stride, dims=dims, padding=padding)
        conv = nn.Conv(2, 3, **settings, key=KEY)
        conv = eqx.tree_at(lambda c: c.bias, conv, draw(3))
        weight = np.asarray(conv.weight)
        whole = [
            sum(
                ndimage.correlate(x[..., i], weight[..., i, o], mode=MODES[padding])
                for i in range(2)
            )
            for o in range(3)
        ]
        every = (slice(None, None, stride),) * dims
        expected = np.stack(whole, -1)[every] + np.asarray(conv.bias)
        assert_close(call(conv, x), expected, 1e-12)


def test_a_convolution_of_one_point_is_a_linear_layer():
    conv = nn.Conv(4, 3, kernel=1, key=KEY)
    dense = nn.Linear(4, 3, key=KEY)
    dense = eqx.tree_at(lambda layer: layer.weight, dense, conv.weight[0, 0])
    x = draw(4, 2, 4)
    assert_close(call(conv, x), call(dense, x), tolerance(x.dtype))
    assert_close(dense(x), linear(dense, np.asarray(x)), 1e-6)


@pytest.mark.parametrize("padding", MODES)
def test_a_batch_is_one_convolution_and_no_transposition(padding):
    conv = nn.Conv(2, 4, padding=padding, key=KEY)
    batched = jax.vmap(conv)
    xs = draw(3, 4, 6, 2)
    assert count("conv_general_dilated", batched, xs) == 1
    assert count("transpose", batched, xs) == 0
    program = jax.make_jaxpr(batched)(xs).jaxpr
    (one,) = [e for e in equations(program) if e.primitive.name.startswith("conv_g")]
    assert one.invars[0].aval.shape[0] == 3  # the batch is where a batch should be


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_normalisation_is_its_formula(groups, dtype):
    norm = nn.GroupNorm(6, groups)
    gain, shift = draw(6, seed=1), draw(6, seed=2)
    norm = eqx.tree_at(lambda n: (n.gain, n.shift), norm, (gain, shift))
    x = 3 + 2 * draw(4, 5, 6)
    parts = np.split(np.asarray(x, np.float64), groups, axis=-1)
    parts = [(p - p.mean()) / np.sqrt(p.var() + 1e-5) for p in parts]
    expected = np.concatenate(parts, -1) * np.asarray(gain) + np.asarray(shift)
    y = call(norm, x)
    assert y.dtype == dtype
    assert_close(y, expected, tolerance(dtype))


def test_groups_are_chosen():
    chosen = {n: nn.GroupNorm(n).groups for n in (1, 3, 8, 12, 20, 30, 48, 128, 256)}
    assert chosen == {1: 1, 3: 1, 8: 2, 12: 3, 20: 5, 30: 6, 48: 12, 128: 32, 256: 32}


def test_statistics_and_softmax_are_not_in_half_precision():
    x = (1000 + 10 * draw(64, 8)).astype(jnp.float16)  # its squares overflow
    norm = nn.GroupNorm(8, 1)
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    y = call(norm, x)
    assert y.dtype == jnp.float16
    assert_close(y, expected, 2e-3)
    attention = nn.Attention(8, key=KEY)
    done = operations(attention, draw(4, 8).astype(jnp.bfloat16))
    assert [dtype for name, dtype in done if name == "exp"] == [jnp.float32]
    assert all(dtype == jnp.bfloat16 for name, dtype in done if name == "dot_general")


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_its_formula(heads, x64):
    attention = nn.Attention(4, heads=heads, key=KEY)
    x = draw(2, 3, 4)
    tokens = np.asarray(x).reshape(6, 4)
    q, k, v = np.split(tokens @ np.asarray(attention.qkv.weight), 3, axis=-1)
    parts = []
    for a, b, c in zip(*(np.split(m, heads, -1) for m in (q, k, v)), strict=True):
        weights = np.exp(a @ b.T / math.sqrt(4 / heads))
        parts.append(weights @ c / weights.sum(-1, keepdims=True))
    expected = np.concatenate(parts, -1) @ np.asarray(attention.out.weight)
    assert_close(call(attention, x), expected.reshape(2, 3, 4), 1e-12)


def test_layers_keep_the_variance():
    for layer, shape in (
        (nn.Linear(16, 256, key=KEY), (64, 16)),
        (nn.Conv(8, 56, padding="periodic", key=KEY), (16, 16, 8)),
    ):
        assert abs(call(layer, draw(*shape)).std() - 1) < 0.06


def test_random_numbers_are_of_one_kind_whatever_their_size():
    """Each size is cut from a longer draw: the numbers at its start are the same."""
    short, long = normal(KEY, (3,), 2.0), normal(KEY, (4000,), 2.0)
    assert_close(normal(KEY, (2, 3), 2.0).ravel()[:3], short, 0)
    assert abs(long.mean()) < 0.15
    assert abs(long.std() / 2 - 1) < 0.05


# --- what a network is told ----------------------------------------------------------


def test_fourier_features_are_their_formula(dtype):
    fourier = nn.Fourier(6, scale=3.0, key=KEY)
    phase = 2 * np.pi * np.asarray(fourier.frequencies) * 0.37
    expected = np.concatenate([np.cos(phase), np.sin(phase)])
    features = call(fourier, 0.37)
    assert (features.dtype, fourier.size) == (dtype, 6)
    assert_close(features, expected, tolerance(dtype, 10))
    for key in (None, KEY):
        frequencies = np.abs(nn.Fourier(2000, scale=3.0, key=key).frequencies)
        furthest = stats.kstest(frequencies, stats.halfnorm(scale=3.0).cdf).statistic
        assert furthest < (0.06 if key is not None else 0.0005 + 1e-5)


def test_sinusoidal_features_are_their_formula(dtype):
    sinusoidal = nn.Sinusoidal(6, max_period=100.0)
    phase = 7 * np.array([1.0, 100.0 ** (-1 / 3), 100.0 ** (-2 / 3)])
    expected = np.concatenate([np.cos(phase), np.sin(phase)])
    assert (sinusoidal(7).dtype, sinusoidal.size) == (dtype, 6)
    assert_close(sinusoidal(7), expected, tolerance(dtype))


@pytest.mark.parametrize("features", [nn.Fourier(8, key=KEY), nn.Sinusoidal(8)])
def test_features_of_a_rounded_number_are_not_rounded_again(features):
    c_noise = jnp.asarray(0.73, jnp.bfloat16)
    assert features(c_noise).dtype == jnp.float32
    assert_close(features(c_noise), features(c_noise.astype(jnp.float32)), 0)


def test_class_vectors():
    one_hot = np.eye(CLASSES)[1]
    for label in (1, np.int64(1), np.uint8(1), jnp.asarray(1)):
        assert_close(nn.class_vector(label, CLASSES), one_hot, 0)
    for nothing in (None, -1, CLASSES, jnp.asarray(-1, jnp.int8)):
        assert_close(nn.class_vector(nothing, CLASSES), np.zeros(CLASSES), 0)
    mixed = jnp.array([0.2, 0.3, 0.5])
    assert_close(nn.class_vector(mixed, CLASSES), mixed, 0)
    assert nn.class_vector(None, None).shape == (0,)
    many = nn.class_vector(jnp.asarray(100, jnp.int8), 200)  # more than int8 counts
    assert (int(many.argmax()), many.sum()) == (100, 1)


@pytest.mark.parametrize(
    ("condition", "classes", "message"),
    [
        (1, None, r"None for a network made without classes, got 1\. Make .* classes="),
        (np.ones(3), None, r"without classes, got an array of the shape \(3,\)"),
        (np.ones(2), 3, r"length 3, got an array of the shape \(2,\).*float64"),
        (np.array([0, 1, 2]), 3, r"the dtype int.*Use jax.vmap for a batch"),
        (np.ones((4, 3)), 3, r"the shape \(4, 3\)"),
        (1.0, 3, r"one integer label \(-1: no class\) .* got 1.0"),
        (True, 3, "got True"),
        ("cat", 3, r"got 'cat'.* jax.nn.one_hot\(label, 3\)"),
    ],
)
def test_conditions_that_are_refused(condition, classes, message):
    with pytest.raises(ValueError, match=message):
        nn.class_vector(condition, classes)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_embedding_is_its_formula(depth, x64):
    embedding = nn.Embedding(4, features=6, classes=CLASSES, depth=depth, key=KEY)
    features = np.asarray(embedding.features(0.3))
    noise, label = embedding.noise, embedding.label
    assert label is not None
    e = features @ np.asarray(noise.weight) + np.asarray(label.weight)[1]
    for layer in embedding.layers:
        e = linear(layer, silu(e))
    assert len(embedding.layers) == depth - 1
    one = call(embedding, 0.3, 1)
    assert_close(one, e, 1e-12)
    vector = jnp.array([0.0, 1.0, 0.0])
    assert_close(call(embedding, 0.3, vector), one, 1e-12)
    assert_close(call(embedding, 0.3), call(embedding, 0.3, -1), 1e-12)


@pytest.mark.slow
def test_the_parts_of_an_embedding_have_the_same_variance():
    embedding = nn.Embedding(1000, features=4, classes=4, key=KEY)
    time = call(embedding, 0.3, -1)
    assert abs(time.std() - 1) < 0.1
    assert abs((call(embedding, 0.3, 2) - time).std() - 1) < 0.1


@pytest.mark.slow
@every_network
def test_a_network_hears_its_label_and_its_time(name):
    net = network(name)
    x = sample(net)
    one = call(net, x, 0.3, 1)
    different = [one, call(net, x, 0.3, -1), call(net, x, 0.3, 2), call(net, x, 0.4, 1)]
    for a, b in itertools.combinations(different, 2):
        assert jnp.abs(a - b).max() > 1e-2 * one.std()


# --- the contract --------------------------------------------------------------------


def test_the_perceptron_is_its_formula(x64):
    net, x = network("MLP"), draw(3)
    h = linear(net.input, np.asarray(x)) + np.asarray(net.embedding(0.3, 1))
    expected = linear(net.out, silu(linear(net.hidden[0], silu(h))))
    assert_close(call(net, x, 0.3, 1), expected, 1e-12)


def test_the_residual_perceptron_is_its_formula(x64):
    net, x = network("ResidualMLP"), draw(3)
    hat = lambda h: (h - h.mean()) / np.sqrt(h.var() + 1e-5)
    e = np.asarray(net.embedding(0.3, 1))
    h = linear(net.input, np.asarray(x)) + e
    for block in net.blocks:
        scale, shift = np.split(linear(block.modulation, silu(e)), 2)
        r = hat(linear(block.layers[0], silu(hat(h))))
        h = h + linear(block.layers[1], silu((1 + scale) * r + shift))
    assert_close(call(net, x, 0.3, 1), linear(net.out, silu(hat(h))), 1e-12)


@pytest.mark.slow
@every_network
def test_a_batch_is_a_loop(name):
    net = network(name)
    xs, cs, labels = sample(net, (3,)), draw(3), jnp.array([0, -1, 2])
    batch = quick(jax.vmap(net))(xs, cs, labels)
    loop = [call(net, *args) for args in zip(xs, cs, labels, strict=True)]
    assert_close(batch, jnp.stack(loop), tolerance(xs.dtype))


@pytest.mark.slow
def test_a_batch_costs_no_more_convolutions():
    net = small_unet()  # without attention, whose heads are transposed
    xs, cs = sample(net, (3,)), draw(3)
    single = count("conv_general_dilated", net, xs[0], cs[0])
    blocks, others = 4 - 1, 4  # down, middle, up, up; stem, down, up, out
    shortcuts = 2  # of the blocks on the way up: one by one
    assert single == 2 * (blocks + 2) + others + shortcuts
    assert count("conv_general_dilated", jax.vmap(net), xs, cs) == single
    assert count("transpose", jax.vmap(net), xs, cs) == 0


@pytest.mark.slow
@every_network
def test_every_leaf_is_an_array_and_learns(name):
    """All but the Fourier frequencies."""
    net = network(name)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(net))

    @quick
    def slope(net, x, c, label):
        loss = lambda net: jnp.mean((net(x, c, label) - 1) ** 2)
        return jax.grad(loss)(net)

    gradient = slope(net, sample(net), 0.3, 1)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        where = jax.tree_util.keystr(path)
        assert (jnp.abs(leaf).max() > 1e-6) == ("frequencies" not in where), where


@pytest.mark.slow
@every_network
def test_the_length_of_the_input_is_not_lost_in_a_normalisation(name):
    net = network(name)
    x = sample(net)
    one, two = call(net, x, 0.3, 1), call(net, 2 * x, 0.3, 1)
    assert jnp.abs(one - two).max() > 5e-2 * one.std()
    assert 1e-4 < one.std() < 0.5  # it begins near zero, and not at it


@pytest.mark.slow
@every_network
def test_float64(name, x64):
    net = network(name)
    x = sample(net)
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(float)}
    # A network made in float32 computes in the dtype of what it is given.
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net)
    assert jax.eval_shape(rounded, x, 0.3, 1).dtype == jnp.float64
    assert jax.eval_shape(rounded, x.astype(jnp.float32), 0.3).dtype == jnp.float32
    if name != "UNet":  # that takes long to compile, and is in float64 elsewhere
        exact, single = call(net, x, 0.3), call(rounded, x.astype(jnp.float32), 0.3)
        assert_close(single, exact, 1e-4, 1e-5)


def test_parameter_counts():
    inputs, outputs, w, f, k = 3, 2, 8, 32, CLASSES
    told = f // 2 + (f + 1) * w + k * w  # frequencies, features, classes
    mlp = told + inputs * w + (w + 1) * w + (w + 1) * outputs
    assert size(network("MLP")) == mlp
    block = 2 * 2 * w + 2 * (w + 1) * w + (w + 1) * 2 * w
    ends = (inputs + 1) * w + 2 * w + (w + 1) * outputs
    assert size(network("ResidualMLP")) == told + (w + 1) * w + ends + 2 * block
    default = jax.eval_shape(lambda: nn.ResidualMLP(2, 2, key=KEY))
    assert round(size(default) / 1e6, 1) == 6.6  # as its docstring says

    def conv(inputs, outputs):
        return (9 * inputs + 1) * outputs

    def unet_block(inputs, outputs, e):
        layers = conv(inputs, outputs) + conv(outputs, outputs)
        shortcut = (inputs + 1) * outputs if inputs != outputs else 0
        return layers + 2 * (inputs + outputs) + (e + 1) * 2 * outputs + shortcut

    w, e, f, k = 8, 32, 4, CLASSES
    told = f // 2 + (f + 1) * e + k * e + (e + 1) * e + (e + 1) * w
    plain = conv(2, w) + conv(w, 2 * w) + conv(2 * w, w) + 2 * w + conv(w, 1)
    down = unet_block(w, w, e) + unet_block(2 * w, 2 * w, e)
    up = unet_block(4 * w, 2 * w, e) + unet_block(2 * w, w, e)
    middle = unet_block(2 * w, 2 * w, e)
    attention = 2 * (2 * w) + 3 * (2 * w) ** 2 + (2 * w + 1) * 2 * w
    expected = told + plain + down + middle + up + 3 * attention
    assert size(network("UNet")) == expected


@pytest.mark.parametrize("low", [False, True])
@every_network
def test_a_saved_network_comes_back(name, low, tmp_path):
    net = nn.LowPrecision(network(name)) if low else network(name)
    px.save(tmp_path / "network.px", net)
    back: Any = px.load(tmp_path / "network.px")
    assert jax.tree.structure(back) == jax.tree.structure(net)
    jax.tree.map(np.testing.assert_array_equal, back, net)
    assert (back.classes, back.shape) == (CLASSES, net.shape)


def test_classes_and_shape_are_said():
    assert (network("MLP").classes, network("MLP").shape) == (CLASSES, (3,))
    assert network("ResidualMLP").shape == (3,)
    assert (network("UNet").classes, network("UNet").shape) == (CLASSES, None)
    assert small_unet().classes is None
    low = nn.LowPrecision(network("ResidualMLP"))
    assert (low.classes, low.shape) == (CLASSES, (3,))


@pytest.mark.slow
def test_features_and_activation_can_be_chosen():
    settings: Any = dict(width=4, depth=2, features=nn.Sinusoidal(6), key=KEY)
    net = nn.MLP(2, 2, **settings)
    assert size(net) == (6 + 1) * 4 + 2 * 4 + 5 * 4 + 5 * 2  # no frequencies
    x = draw(2)
    relu = nn.MLP(2, 2, **settings, activation=jax.nn.relu)
    h = relu.input(x) + relu.embedding(1.0)
    h = np.maximum(relu.hidden[0](jnp.maximum(h, 0)), 0)
    assert_close(relu(x, 1.0), relu.out(jnp.asarray(h)), tolerance(x.dtype))
    assert jnp.abs(net(x, 1.0) - relu(x, 1.0)).max() > 1e-4


# --- dropout -------------------------------------------------------------------------


def test_dropout_drops_and_keeps_the_mean():
    x = jnp.ones(20_000)
    assert dropout(x, 0.3, None) is x
    dropped = dropout(x, 0.3, KEY)
    assert_close(jnp.unique(dropped), [0.0, 1 / 0.7], 1e-6)
    assert abs(dropped.mean() - 1) < 5 * math.sqrt(0.3 / 0.7 / 20_000)


@pytest.mark.slow
def test_dropout_in_a_block_keeps_the_mean(x32):
    make = lambda i, o, scale=1.0: nn.Linear(i, o, scale=scale, key=KEY)
    block = Block(make, 4, 4, embedding=4, rate=0.5, key=KEY)
    h, e = draw(4), draw(4, seed=1)
    many = quick(jax.vmap(lambda k: block(h, e, k)))(jax.random.split(KEY, 4000))
    error = many.std(0) / math.sqrt(4000)
    assert (many.std(0) > 1e-3).all()
    assert (jnp.abs(many.mean(0) - block(h, e, None)) < 5 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResidualMLP", "UNet", "FNO"])
def test_a_key_means_training(name):
    net = small_unet(4, multipliers=(1,), dropout=0.5)
    net = network(name) if name != "UNet" else net
    x = sample(net)
    one, two = (call(net, x, 0.3, key=k) for k in jax.random.split(KEY))
    still = call(net, x, 0.3)
    assert_close(call(net, x, 0.3, key=None), still, 0)
    assert_close(call(net, x, 0.3, key=jax.random.split(KEY)[0]), one, 0)
    for other in (one, two):
        assert jnp.abs(other - still).max() > 1e-2 * still.std()
    assert jnp.abs(one - two).max() > 1e-2 * still.std()


# --- grids ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_periodic_network_moves_with_its_field(dims, x64):
    grid, axes = (8, 4, 4)[:dims], tuple(range(dims))
    net = small_unet(4, attention=(1,), dims=dims, padding="periodic")
    x = draw(*grid, 2)
    shift = lambda field, n: jnp.roll(field, (n,) * dims, axes)
    y = call(net, x, 0.3)
    assert y.shape == (*grid, 1)
    assert_close(call(net, shift(x, 2), 0.3), shift(y, 2), 1e-12)
    # Half of a coarse point is no shift of the coarse grid.
    assert jnp.abs(call(net, shift(x, 1), 0.3) - shift(y, 1)).max() > 1e-2 * y.std()
    if dims == 2:
        walls = small_unet(4, attention=(1,), padding="zeros")
        still, moved = (call(walls, field, 0.3) for field in (x, shift(x, 2)))
        assert jnp.abs(moved - shift(still, 2)).max() > 1e-2 * still.std()


def test_any_grid_that_can_be_halved_will_do():
    net = small_unet(multipliers=(1, 1, 1), width=4)
    for grid in ((4, 8), (12, 4)):
        assert jax.eval_shape(net, draw(*grid, 2), 0.3).shape == (*grid, 1)
    message = r"multiple of 4, which is halved 2 times, got the grid \(10, 12\)"
    with pytest.raises(ValueError, match=message + r".* \(8, 12\), pad it to \(12, 12"):
        net(draw(10, 12, 2), 0.3)
    with pytest.raises(ValueError, match=r"Crop it to \(4, 4\), pad it to \(4, 4\)"):
        net(draw(2, 4, 2), 0.3)


# --- low precision -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, "own"])
def test_low_precision_is_near_and_not_equal(name):
    net = network(name)
    low = nn.LowPrecision(net)
    xs, label = sample(net, (20,)), None if name == "own" else 1
    batch = lambda n: quick(jax.vmap(lambda x: n(x, 0.3, label)))(xs)
    full, rounded = batch(net), batch(low)
    assert rounded.dtype == xs.dtype
    assert 0 < jnp.linalg.norm(rounded - full) < 2e-2 * jnp.linalg.norm(full)

    done = operations(lambda x: low(x, 0.3, label), xs[0])
    dtypes = {}
    for operation, dtype in done:
        dtypes.setdefault(operation, []).append(dtype)
    assert jnp.bfloat16 in dtypes["dot_general"]
    if name == "UNet":
        assert set(dtypes["conv_general_dilated"]) == {jnp.dtype(jnp.bfloat16)}
        assert jnp.bfloat16 not in dtypes["exp"] + dtypes["rsqrt"]
    assert jnp.bfloat16 not in dtypes["cos"] + dtypes["sin"]


@pytest.mark.parametrize("name", ["MLP", "own"])
def test_gradients_in_low_precision_are_of_the_parameters_dtype(name):
    low = nn.LowPrecision(network(name))
    x = sample(low)
    learns, rest = eqx.partition(low, eqx.is_inexact_array)
    loss = lambda learns: jnp.mean(eqx.combine(learns, rest)(x, 0.3) ** 2)
    leaves = jax.tree.leaves(jax.eval_shape(jax.grad(loss), learns))
    assert {leaf.dtype for leaf in leaves} == {x.dtype}


def test_time_is_not_rounded_in_low_precision():
    """Two noise levels that are one in bfloat16, and differ in the network."""
    features = nn.Fourier(16, scale=100.0, key=KEY)
    net = nn.MLP(3, 2, width=8, depth=1, features=features, key=KEY)
    low, x = nn.LowPrecision(net), draw(3)
    near, far = jnp.asarray(0.7, float), jnp.asarray(0.7005, float)
    assert near.astype(jnp.bfloat16) == far.astype(jnp.bfloat16)
    one, two = call(low, x, near), call(low, x, far)
    assert jnp.abs(one - two).max() > 0.1 * jnp.abs(one).max()
    assert_close(one, call(net, x, near), 2e-2)
    assert_close(two, call(net, x, far), 2e-2)


@pytest.mark.slow
def test_low_precision_in_another_dtype():
    net = network("UNet")
    x = sample(net)
    full = call(net, x, 0.3, 1)
    half = call(nn.LowPrecision(net, jnp.float16), x, 0.3, 1)
    assert 0 < jnp.abs(half - full).max() < 2e-3 * jnp.abs(full).max()


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.MLP(0, 2, key=KEY), "in_size must be a whole .* got in_size=0"),
        (
            lambda: nn.MLP(2, 2, width=-1, key=KEY),
            "got width=-1. Pass an integer, 1 or more",
        ),
        (lambda: nn.MLP(2, 2, depth=0, key=KEY), "got depth=0"),
        (lambda: nn.MLP(2, 2, classes=0, key=KEY), "got classes=0"),
        (lambda: nn.MLP(2, 2, features=5, key=KEY), "got 5 of them. Use .* 6"),
        (lambda: nn.ResidualMLP(2, 0, key=KEY), "got out_size=0"),
        (lambda: nn.ResidualMLP(2, 2, dropout=1.0, key=KEY), "got dropout=1.0"),
        (lambda: small_unet(width=0), "got width=0"),
        (lambda: small_unet(blocks=True), "got blocks=True"),
        (lambda: small_unet(multipliers=()), r"got none. Use \(1,\)"),
        (lambda: small_unet(multipliers=(1, 0)), "got multipliers=0"),
        (lambda: small_unet(attention=(2,)), r"to 1, got \[2\]. Remove them"),
        (lambda: small_unet(dims=4), "dims must be 1, 2 or 3, got dims=4"),
        (lambda: small_unet(padding="cyclic"), "'edge', got padding='cyclic'. Use"),
        (lambda: nn.Conv(1, 1, kernel=4, key=KEY), "got kernel=4. Use 3 or 5"),
        (lambda: nn.GroupNorm(8, 3), "channels=8, groups=3. Use groups=2"),
        (lambda: nn.Attention(6, heads=4, key=KEY), "heads=4. Use heads=2"),
        (lambda: nn.Fourier(4, scale=0.0, key=KEY), "scale must be positive .*got sca"),
        (lambda: nn.Sinusoidal(4, max_period=1.0), "max_period must be .* got 1.0"),
        (lambda: nn.LowPrecision(Own(), jnp.int8), "floating one, .* got int8"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_samples_are_named():
    mlp, unet = network("MLP"), network("UNet")
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(4,\). Reshape it"):
        mlp(draw(4), 0.3)
    with pytest.raises(ValueError, match=r"got \(5, 3\). Use jax.vmap for a batch"):
        mlp(draw(5, 3), 0.3)
    with pytest.raises(ValueError, match=r"\(n, n, 2\), channels last, got \(2, 4, 4"):
        unet(draw(2, 4, 4), 0.3)
    with pytest.raises(ValueError, match=r"got \(5, 4, 4, 2\). Use jax.vmap"):
        unet(draw(5, 4, 4, 2), 0.3)
    with pytest.raises(ValueError, match=r"\(\*grid, 8\), .* got \(4, 2\)"):
        nn.GroupNorm(8)(draw(4, 2))


@every_network
def test_augmentation_labels_are_refused(name):
    net = network(name)
    with pytest.raises(ValueError, match=r"augment must be None .* Leave it out"):
        net(sample(net), 0.3, augment=jnp.zeros(9))


@pytest.mark.slow
def test_a_gain_multiplies_its_own_coordinates():
    """The network with and without: the difference is g times x from the place on."""
    options: Any = dict(width=8, depth=1, key=KEY)
    net = nn.ResidualMLP(5, 2, gain=3, **options)
    without = eqx.tree_at(lambda n: n.gain, net, None)
    x, moved = draw(5), draw(5, seed=1)
    factor = lambda x: (net(x, 0.2) - without(x, 0.2)) / x[3:]
    np.testing.assert_allclose(factor(x), factor(moved), rtol=1e-4)
    assert jnp.abs(factor(x)).min() > 1e-3
    assert not np.allclose(factor(x), (net(x, 0.9) - without(x, 0.9)) / x[3:])
    with pytest.raises(ValueError, match="the place of the first"):
        nn.ResidualMLP(5, 2, gain=4, **options)


def test_networks_side_by_side_answer_one_after_the_other():
    parts = NETWORKS["Concatenated"]().networks
    x = draw(3)
    expected = jnp.concatenate([net(x, 0.3, 1) for net in parts])
    np.testing.assert_array_equal(network("Concatenated")(x, 0.3, 1), expected)
    with pytest.raises(ValueError, match="take one input"):
        nn.Concatenated([nn.MLP(n, 1, width=4, depth=1, key=KEY) for n in (2, 3)])
