"""Saving and loading: bit for bit, and nothing but data."""

import gc
import hashlib
import json
import os
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pidax as px
from pidax.store import header, load, save

PREFIX = struct.Struct("<8sIQ32s")  # the format, stated a second time on purpose


class Box(eqx.Module):
    """A module of the user's: any value in a pytree field and in a static one."""

    value: Any
    static: Any = eqx.field(static=True, default=None)


class OtherBox(eqx.Module):
    value: Any
    colour: str = "red"


def wave(x: Array) -> Array:
    return jnp.sin(x)


class Surfer(eqx.Module):
    def __call__(self, x: Array, t: Array) -> Array:
        return x

    def ride(self, x: Array, t: Array) -> Array:
        return x


def return_trip(path, module, **kwargs):
    save(path, module)
    return load(path, **kwargs)


def assert_same(one, two):
    """The same classes, structure, static fields, dtypes and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array):
            assert a.aval == b.aval  # shape, dtype (a key's too) and weak type
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
        if isinstance(a, jax.Array | np.ndarray | np.generic):
            a, b = np.asarray(a), np.asarray(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes()
        else:
            assert repr(a) == repr(b)


def forge(path, tree, arrays=None, payload=b"", **changes):
    """A file with correct hashes and whatever else is asked for."""
    head = {
        "format": 1,
        "pidax": "0.0",
        "bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "tree": tree,
        "arrays": arrays or {},
    }
    text = json.dumps(head | changes).encode()
    write(path, text, payload)


def write(path, text, payload=b"", version=1):
    digest = hashlib.sha256(text).digest()
    prefix = PREFIX.pack(b"\x89pidax\r\n", version, len(text), digest)
    path.write_bytes(prefix + text + payload)


def instance(name, **fields):
    return {"class": name, "fields": fields}


MIXTURE = px.GaussianMixture.ring(5)
MEAN = jnp.array([0.3, -0.2, 0.1])
FACTOR = jnp.array([[0.5, 0.1], [0.2, -0.3], [0.0, 0.4]])
BOX = f"{Box.__module__}:Box"
DENOISERS = {
    "diagonal": px.Gaussian(MEAN, 0.3),
    "full": px.Gaussian(MEAN, FACTOR @ FACTOR.T + 0.01 * jnp.eye(3)),
    "low rank": px.Gaussian(MEAN, px.denoiser.Covariance.low_rank(FACTOR, 0.02)),
    "mixture": MIXTURE,
    "circle": px.Circle(0.7),
    "guided": px.Guided(MIXTURE, 1.5),
    "guided, weak scale": px.Guided(MIXTURE, jnp.asarray(1.5)),
}
OTHERS = {
    "EDM": px.EDM(sigma_max=float(np.nextafter(80.0, 81.0))),
    "VE": px.VE(),
    "VP": px.VP(beta_max=0.1 + 0.2, t_min=1e-5),
    "SubVP": px.SubVP(),
    "RectifiedFlow": px.RectifiedFlow(),
    "clock": px.flow.LogTimeClock(),
    "trace": px.flow.Hutchinson(8, "gaussian"),
    "flow": px.ProbabilityFlow(px.Circle(), px.VP(), clock=px.flow.TimeClock()),
    "MLP": eqx.nn.MLP(2, "scalar", 8, 2, jax.nn.silu, key=jax.random.key(1)),
    "MLP of relu": eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(2)),
    "convolution": eqx.nn.Conv2d(1, 2, 3, padding="SAME", key=jax.random.key(3)),
    "pooling": eqx.nn.MaxPool2d(2),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_return_the_same_bits(name, tmp_path):
    denoiser = DENOISERS[name]
    loaded = return_trip(tmp_path / "denoiser.pidax", denoiser)
    assert_same(denoiser, loaded)
    if name in ("low rank", "guided"):
        args = jnp.linspace(-1, 1, denoiser.shape[0]), 0.8, 0.6, jnp.asarray(2)
        np.testing.assert_array_equal(loaded(*args), denoiser(*args))


@pytest.mark.parametrize("name", OTHERS)
def test_other_modules_return_the_same_bits(name, tmp_path):
    assert_same(OTHERS[name], return_trip(tmp_path / "module.pidax", OTHERS[name]))


def test_loaded_objects_run_as_the_saved_ones(tmp_path):
    path, x = tmp_path / "module.pidax", jnp.array([0.3, -1.2])
    mlp = return_trip(path, OTHERS["MLP"])
    np.testing.assert_array_equal(mlp(x), OTHERS["MLP"](x))
    flow = return_trip(path, OTHERS["flow"])
    field = OTHERS["flow"](jnp.asarray(0.4), x)
    np.testing.assert_array_equal(flow(jnp.asarray(0.4), x), field)
    assert flow.shape == (2,)
    assert flow.extrapolate is False


def test_wrapped_network_needs_its_class_and_then_is_itself(tmp_path):
    class Noise(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x: Array, t: Array) -> Array:
            return t * self.mlp(x)

    network = Noise(eqx.nn.MLP(2, 2, 4, 1, jnp.tanh, key=jax.random.key(4)))
    denoiser = px.from_noise(network, px.VP(), shape=(2,))
    path, x = tmp_path / "denoiser.pidax", jnp.array([0.3, -1.2])
    save(path, denoiser)
    with pytest.raises(ValueError, match=r"<locals>.Noise at .function.*\(Noise,\)"):
        load(path)
    loaded = load(path, classes=(Noise,))
    np.testing.assert_array_equal(loaded(x, 0.4), denoiser(x, 0.4))


def test_a_class_that_moved_is_found_by_its_name_in_the_file(tmp_path):
    path = tmp_path / "box.pidax"
    forge(path, instance("__main__:Box", value=3, static=None))
    with pytest.raises(ValueError, match=r'classes=\{"__main__:Box": Box\}'):
        load(path, classes=(Box,))
    assert load(path, classes={"__main__:Box": Box}).value == 3


BITS = np.array([0, 1, 0x7F800001, 0xFFC12345, 0x80000000], np.uint32)
VALUES = {
    "None": None,
    "integers": (0, -1, 2**80, True, False),
    "floats": (0.1, -0.0, 5e-324, float("inf"), -float("inf"), float("nan")),
    "complex": (1 + 2j, complex(-0.0, float("inf"))),
    "strings": ("", "naïve \N{SNOWMAN} \ud800", b"", b"\x00\xff"),
    "containers": ([], (), {}, [(1, [2.5]), {"b": {"a": ()}, "a.b": [None]}]),
    "dtypes": (jnp.bfloat16, jnp.bool_, np.float32, np.dtype("int8")),
    "functions": (jax.nn.silu, jax.nn.relu, jnp.tanh, jnp.add, jax.lax.max, px.karras),
    "float32": jnp.asarray(BITS.view(np.float32)),
    "bfloat16": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    "float8": jnp.array([0.5, -2], jnp.float8_e4m3fn),
    "integers of JAX": (jnp.array([-3, 4], jnp.int8), jnp.array(7, jnp.uint16)),
    "bool": jnp.array([[True], [False]]),
    "complex64": jnp.array([1 + 2j], jnp.complex64),
    "empty": (jnp.zeros((0, 3)), np.zeros((2, 0)), jnp.zeros(0)),
    "weak": (jnp.asarray(1.5), jnp.asarray(3), jnp.broadcast_to(jnp.asarray(0.1), 2)),
    "NumPy": (BITS.view(np.float32), np.array(0.1), np.asfortranarray(np.eye(3, 2))),
    "NumPy's big endian": np.array([1.5, -2], ">f8").astype("<f8"),
    "NumPy scalars": (np.float64(0.1), np.bool_(True), np.int8(-4)),
    "keys": (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), 2)),
    "old key": jax.random.PRNGKey(5),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_survives(name, tmp_path):
    box = Box(VALUES[name])
    assert_same(box, return_trip(tmp_path / "box.pidax", box, classes=(Box,)))


def test_static_fields_and_keys_and_functions_are_themselves(tmp_path):
    box = Box(jax.random.key(3), (jnp.float16, {"a": [1.5, jax.nn.gelu]}, "x"))
    loaded = return_trip(tmp_path / "box.pidax", box, classes=(Box,))
    assert loaded.static == box.static
    assert loaded.static[1]["a"][1] is jax.nn.gelu
    draw = jax.random.normal(loaded.value, (3,))
    np.testing.assert_array_equal(draw, jax.random.normal(box.value, (3,)))


def test_a_loaded_numpy_array_is_its_own(tmp_path):
    loaded = return_trip(tmp_path / "box.pidax", Box(np.zeros(2)), classes=(Box,))
    loaded.value[0] = 1  # a view of the file's bytes would refuse
    assert loaded.value[0] == 1


def test_64_bits_are_kept_or_refused_but_never_rounded(tmp_path):
    path = tmp_path / "box.pidax"
    with jax.enable_x64(True):
        box = Box((jnp.asarray(np.array([0.1, np.pi])), jnp.asarray(0.1)))
        assert_same(box, return_trip(path, box, classes=(Box,)))
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"float64 at \.value\[0\].*enable_x64', True"),
    ):
        load(path, classes=(Box,))
    with jax.enable_x64(False):
        weak = Box(jnp.asarray(0.1))
        save(path, weak)
        numpy = return_trip(tmp_path / "np", Box(np.array(0.1)), classes=(Box,))
        assert numpy.value.dtype == np.float64
    with jax.enable_x64(True):
        assert_same(weak, load(path, classes=(Box,)))


def test_header_tells_what_is_inside_without_building_it(tmp_path):
    path = tmp_path / "flow.pidax"
    denoiser = DENOISERS["low rank"]
    save(path, px.ProbabilityFlow(denoiser, px.RectifiedFlow()))
    head = header(path)
    assert head["format"] == 1
    assert head["pidax"] == px.__version__
    assert head["jax"] == jax.__version__
    assert head["tree"]["class"] == "pidax:ProbabilityFlow"
    process = head["tree"]["fields"]["process"]
    assert process == instance(
        "pidax:RectifiedFlow", t_min=1e-3, t_max=1.0, sigma_data=0.5
    )
    basis = head["arrays"][".denoiser.covariance.basis"]
    assert basis["shape"] == [3, 2]
    payload = path.read_bytes()[-head["bytes"] :]
    assert hashlib.sha256(payload).hexdigest() == head["sha256"]
    bits = np.asarray(denoiser.covariance.basis)
    assert basis["dtype"] == bits.dtype.name
    place = slice(basis["offset"], basis["offset"] + bits.nbytes)
    assert payload[place] == bits.astype(bits.dtype.newbyteorder("<")).tobytes()


REFUSED = {
    "lambda": (lambda x: x, "data, not code.*<lambda>.*save the network inside"),
    "function": (wave, r"data, not code.*wave.*at \.value\.function"),
    "method": (Surfer().ride, r"data, not code.*Surfer.ride.*function\.__func__"),
    "bound": (Surfer().__call__, "data, not code.*bound method Surfer"),
    "partial": (jax.tree_util.Partial(jnp.sin), "data, not code.*Partial"),
    "NumPy's": (np.sin, "data, not code.*ufunc 'sin'"),
    "of files": (jnp.load, "data, not code.*function load"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_code_is_refused_when_saving(name, tmp_path):
    function, message = REFUSED[name]
    denoiser = px.from_score(function, px.EDM(), shape=(2,))
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "box.pidax", Box(denoiser))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: 2}, r"dicts with string keys.*\{1: 2\} at \.value"),
        (object(), r"got <object .*at \.value"),
        (float, r"got <class 'float'> at \.value"),
        (np.array([None]), "a dtype that JAX has, got object"),
        (np.array(["a"]), "a dtype that JAX has, got <U1"),
        (np.ma.masked_array([1.0], [True]), "data, not code"),
    ],
    ids=["keys", "object", "type", "objects", "text", "masked"],
)
def test_values_without_a_place_in_the_format_are_refused(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "box.pidax", Box(value))


def test_save_refuses_what_is_no_module_or_has_no_end_or_no_place(tmp_path):
    path = tmp_path / "box.pidax"
    with pytest.raises(ValueError, match=r"expects an equinox.Module, got dict"):
        save(path, {"a": 1})  # pyright: ignore[reportArgumentType]
    endless: list[Any] = []
    box = Box(endless)
    endless.append(endless)
    with pytest.raises(ValueError, match=r"at most 60 levels.*contain itself"):
        save(path, box)
    with pytest.raises(FileNotFoundError, match=r"a directory that exists.*nowhere"):
        save(tmp_path / "nowhere" / "box.pidax", Box(1))
    with pytest.raises(ValueError, match=r"got a tracer at \.value"):
        jax.jit(lambda x: save(path, Box(x)))(1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_save_leaves_the_old_file(function, tmp_path, monkeypatch):
    path = tmp_path / "process.pidax"
    save(path, px.EDM())
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="no space left"):
        save(path, px.VP())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_replaces_the_file(tmp_path):
    path = tmp_path / "process.pidax"
    save(path, MIXTURE)
    assert_same(px.VP(), return_trip(str(path), px.VP()))
    assert list(tmp_path.iterdir()) == [path]


def edit(where: int, byte: int | None = None) -> Callable[[bytes], bytes]:
    """Set one byte, or turn all its bits."""

    def change(data: bytes) -> bytes:
        new = bytearray(data)
        new[where] = new[where] ^ 0xFF if byte is None else byte
        return bytes(new)

    return change


DAMAGE = {
    "empty": (lambda data: b"", "at least 52 bytes, got 0 bytes.*again"),
    "prefix cut": (lambda data: data[:30], "at least 52 bytes, got 30 bytes"),
    "header cut": (
        lambda data: data[:100],
        "at most .* bytes inside the file, got one of",
    ),
    "arrays cut": (lambda data: data[:-1], "60 bytes of arrays, got 59 bytes"),
    "longer": (lambda data: data + b"\0", "60 bytes of arrays, got 61 bytes"),
    "pickle": (lambda data: b"\x80\x04" + data[2:], "first bytes .*pidax.save"),
    "newer": (edit(8, 2), "format version 1, got 2. Update pidax"),
    "older": (edit(8, 0), "format version 1, got 0.*again"),
    "long header": (
        edit(19, 0x7F),
        "at most .*, got one of 9151314442816848",
    ),
    "header": (edit(70), "header's SHA-256 .* got another.*again"),
    "first array": (edit(-60), "arrays' SHA-256 .* got another.*again"),
    "last array": (edit(-1), "arrays' SHA-256 .* got another.*again"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(name, tmp_path):
    path = tmp_path / "box.pidax"
    save(path, Box((np.arange(5), np.arange(5, dtype=np.float32))))
    change, message = DAMAGE[name]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load(path, classes=(Box,))


def test_every_byte_counts(tmp_path):
    path = tmp_path / "box.pidax"
    save(path, Box(np.arange(2.0)))
    data = path.read_bytes()
    for where in [*range(60), *range(60, len(data), 7), len(data) - 1]:
        path.write_bytes(edit(where)(data))
        with pytest.raises(ValueError, match=r"expected .* got"):
            load(path, classes=(Box,))


HOSTILE = [
    "os:system",
    "subprocess:Popen",
    "builtins:eval",
    "builtins:object",
    "pidax.store._file:os",
    "pidax.store._file:version",
    "pidax.store:load",
    "pidax:nothing",
    "pidax.nowhere:EDM",
    "pidaxx:EDM",
    "equinox:Module",
    "equinox.internal:while_loop",
    "jax:Array",
    "pidax",
    ":",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_other_things_are_refused(name, tmp_path):
    path = tmp_path / "forged.pidax"
    forge(path, instance(name))
    with pytest.raises(ValueError, match=r"expected a class of pidax.*pass classes="):
        load(path)
    forge(path, instance("pidax:Circle", radius={"function": name}))
    with pytest.raises(ValueError, match=r"expected a function of jax.*at \.radius"):
        load(path)


@pytest.mark.parametrize(
    "name",
    [
        "pidax:EDM",
        "pidax:save",
        "jax.numpy:save",
        "jax.numpy:load",
        "jax.numpy:float32",
        "jax:numpy",
        "jax._src.api:jit",
        "equinox.nn:MLP",
        "equinox.nn:MLP(activation)",
    ],
)
def test_what_is_no_function_of_arrays_is_refused_as_one(name, tmp_path):
    path = tmp_path / "forged.pidax"
    forge(path, instance("pidax:Circle", radius={"function": name}))
    with pytest.raises(ValueError, match=r"expected a function of jax.*at \.radius"):
        load(path)


def test_reading_imports_nothing(tmp_path):
    path, name = tmp_path / "forged.pidax", "pidax.__main__"
    forge(path, instance(f"{name}:EDM"))
    with pytest.raises(ValueError, match="expected a class of pidax"):
        load(path)
    assert name not in sys.modules


def test_a_file_runs_no_constructor(tmp_path):
    class Loud(eqx.Module):
        value: int

        def __init__(self, value):
            raise AssertionError("called")

    path = tmp_path / "forged.pidax"
    forge(path, instance("a:Loud", value=3))
    assert load(path, classes={"a:Loud": Loud}).value == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"t_min": -1.0, "sigma_data": 0.5}, r"got \(-1.0, 80.0\).*by pidax 0.0: load"),
        ({"t_min": 1.0, "sigma_data": "hello"}, "'str' and 'int'"),
        ({"t_min": 90.0, "sigma_data": 0.5}, r"got \(90.0, 80.0\)"),
    ],
)
def test_what_a_constructor_would_refuse_is_refused(values, message, tmp_path):
    path = tmp_path / "forged.pidax"
    flow = instance("pidax:EDM", t_max=80.0, **values)
    forge(path, instance(BOX, value=flow, static=None))
    with pytest.raises(
        ValueError, match=rf"forged.pidax: .* at \.value .*EDM allows.*{message}"
    ):
        load(path, classes=(Box,))


def test_invariants_of_bases_and_of_ones_own_classes_are_checked(tmp_path):
    path = tmp_path / "forged.pidax"
    values = {"t_min": 1e-3, "t_max": 1.0, "sigma_data": 0.5}
    forge(path, instance("pidax:VP", **values, beta_min=3.0, beta_max=2.0))
    with pytest.raises(
        ValueError, match=r"at the root values that VP .*got \(3.0, 2.0\)"
    ):
        load(path)

    class Even(eqx.Module):
        value: int

        def __check_init__(self):
            if self.value % 2:
                raise ValueError("value must be even")

    for value in (2, 3):
        forge(path, instance("a:Even", value=value))
        if value == 2:
            assert load(path, classes={"a:Even": Even}).value == 2
    with pytest.raises(ValueError, match=r"value must be even\. It was written by"):
        load(path, classes={"a:Even": Even})


def test_fields_of_another_day_are_named(tmp_path):
    path = tmp_path / "box.pidax"
    save(path, Box(1))
    name = header(path)["tree"]["class"]
    message = r"missing \['colour'\], unexpected \['static'\].*written by pidax"
    with pytest.raises(ValueError, match=message):
        load(path, classes={name: OtherBox})
    forge(path, instance("pidax:Circle", radius=1.0, __class__=3))
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['__class__'\]"):
        load(path)


ENTRY = {"kind": "jax", "dtype": "float32", "shape": [2], "offset": 0}
SECOND = ENTRY | {"offset": 8}
BOMBS = {
    "negative offset": [ENTRY | {"offset": -8}, SECOND],
    "overlap": [ENTRY, ENTRY | {"offset": 4}],
    "same": [ENTRY, ENTRY],
    "gap": [ENTRY | {"shape": [1]}, SECOND],
    "out of range": [ENTRY, ENTRY | {"offset": 1000}],
    "too large": [ENTRY, SECOND | {"shape": [3]}],
    "huge": [ENTRY, SECOND | {"shape": [2**40, 2**40]}],
    "huge and empty": [ENTRY, SECOND | {"shape": [2**62, 2**62, 0]}],
    "negative shape": [ENTRY, SECOND | {"shape": [-2]}],
    "shape of floats": [ENTRY, SECOND | {"shape": [2.0]}],
    "shape of bool": [ENTRY | {"shape": [True]}, ENTRY | {"offset": 4}],
    "dtype of objects": [ENTRY, SECOND | {"dtype": "O"}],
    "dtype of fields": [ENTRY, SECOND | {"dtype": "f4,f4"}],
    "too little": [ENTRY, SECOND | {"shape": [1]}],
}


@pytest.mark.parametrize("name", BOMBS)
def test_arrays_must_lie_where_they_can(name, tmp_path):
    path = tmp_path / "forged.pidax"
    value = [{"array": "a"}, {"array": "b"}]
    tree = instance(BOX, value=value, static=None)
    forge(path, tree, {"a": ENTRY, "b": SECOND}, bytes(16))
    np.testing.assert_array_equal(
        load(path, classes=(Box,)).value[1], np.zeros(2, np.float32)
    )
    forge(path, tree, dict(zip("ab", BOMBS[name], strict=True)), bytes(16))
    with pytest.raises(ValueError, match=r"expected .*got .*fetch it again"):
        load(path, classes=(Box,))


MALFORMED = {
    "no such array": {"array": "a"},
    "unknown node": {"pickle": "gASVAAAA"},
    "unknown dtype": {"dtype": "object", "as": "dtype"},
    "no tuple": {"tuple": 3},
    "no finite float": {"float": "1.0"},
    "no fields": {"class": "pidax:EDM"},
    "abstract": instance("pidax.flow._clocks:AbstractClock"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_headers_are_refused(name, tmp_path):
    path = tmp_path / "forged.pidax"
    forge(path, instance("pidax:Circle", radius=MALFORMED[name]))
    with pytest.raises(ValueError, match="a well-formed header, got"):
        load(path)


def test_one_array_is_built_once(tmp_path):
    path = tmp_path / "forged.pidax"
    tree = instance("pidax:Circle", radius=[{"array": "a"}, {"array": "a"}])
    forge(path, tree, {"a": ENTRY}, bytes(8))
    with pytest.raises(ValueError, match="a well-formed header, got KeyError"):
        load(path)


def test_nesting_bombs_and_other_text_are_refused(tmp_path):
    path = tmp_path / "forged.pidax"
    node: Any = 1
    for _ in range(200):
        node = [node]
    forge(path, instance("pidax:Circle", radius=node))
    with pytest.raises(ValueError, match="at most 60 levels of nesting, got more"):
        load(path)
    for text, message in {
        b"[" * 10**5: "a header in JSON, got RecursionError",
        b"[" * 10**6: "a header of at most 300000 items",
        b" " * (8 << 20) + b"{}": "a header of at most 8388608 bytes inside",
        b"[]": "a dict as the header, got a list",
        b'{"a": 1, "a": 2}': "every name once",
        b'{"a": NaN}': "numbers in the header, got NaN",
        b"{}": "None bytes of arrays, got 0",
        b"not JSON": "a header in JSON",
        b"\xff": "a header in JSON",
        b"": "a header in JSON",
    }.items():
        write(path, text)
        for read in (load, header):
            with pytest.raises(ValueError, match=f"forged.pidax: expected {message}"):
                read(path)
    write(path, b"{}", version=7)
    with pytest.raises(ValueError, match=r"format version 1, got 7\. Update pidax"):
        header(path)


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"{},", b'{"":0},'])
def test_a_header_full_of_nothing_costs_little(text, tmp_path):
    path = tmp_path / "forged.pidax"
    for size in (18 << 20, 140_000 * len(text)):
        body = b'{"a":[' + text * (size // len(text) - 9)
        write(path, body[:-1] + b"]}")
        gc.collect()
        tracemalloc.start()
        start = time.thread_time()
        with pytest.raises(ValueError, match="expected"):
            load(path)
        spent = time.thread_time() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < 5
        assert peak < 2 * size + (100 << 20)


def test_a_module_too_large_for_a_header_is_refused_when_saved(tmp_path):
    with pytest.raises(ValueError, match=r"at most 300000 items.*Save the parts of"):
        save(tmp_path / "box.pidax", Box((0,) * 300_001))
    assert list(tmp_path.iterdir()) == []


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer for ever
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device")):
        for read in (load, header, px.convert.read_checkpoint):
            with pytest.raises(ValueError, match=f"a regular file, got {kind}"):
                read(path)
