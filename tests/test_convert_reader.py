"""The same network from every format, bit for bit; and what is said of other files."""

import json
import struct
import zipfile

import forge
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from mutations import DATA, GOLDEN

import pidax as px
from pidax.convert import CheckpointError, PersistentObject, read_checkpoint
from pidax.convert.__main__ import main
from pidax.convert._zip import members

KINDS = {  # torch's storages, and NumPy's dtypes
    "Float": np.float32,
    "Half": np.float16,
    "Double": np.float64,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}


@pytest.fixture
def write(tmp_path):
    def write(data: bytes):
        path = tmp_path / "file"
        path.write_bytes(data)
        return path

    return write


def same(one, other):
    """Names in order, dtypes, shapes and every bit."""
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


# --- what is read ---------------------------------------------------------------------


def test_one_network_is_the_same_bit_for_bit_in_every_format(tmp_path):
    found = {kind: read_checkpoint(DATA / name) for kind, name in GOLDEN.items()}
    state = found["EDM pickle"].state
    assert len(state) == 209
    assert sum(array.size for array in state.values()) == 317_875
    assert state["model.map_augment.weight"].shape == (16, 9)
    for kind, checkpoint in found.items():
        assert checkpoint.format == kind
        same(checkpoint.state, state)
    px.convert.write_safetensors(tmp_path / "out", state)
    again = read_checkpoint(tmp_path / "out")
    assert again.format == "safetensors"
    same(again.state, state)


def test_an_edm_pickle_says_how_its_network_was_made_and_from_what():
    checkpoint = read_checkpoint(DATA / GOLDEN["EDM pickle"])
    made = checkpoint.configuration
    assert made["class_name"] == "EDMPrecond"
    assert made["init_kwargs"]["channel_mult"] == [1, 2, 2]
    assert made["modules"]["model"]["class_name"] == "SongUNet"
    assert made["modules"]["model"]["init_kwargs"]["augment_dim"] == 9
    assert made["attributes"]["sigma_data"] == 0.5
    assert made["dataset_kwargs"]["path"] == "data.zip"
    assert checkpoint.objects["ema"].modules["model"].class_name == "SongUNet"
    assert checkpoint.objects["loss_fn"].class_name == "EDMLoss"
    assert json.loads(json.dumps(made)) == made
    buffers = set(checkpoint.state) - (checkpoint.parameters or set())
    assert buffers
    assert all(name.endswith("resample_filter") for name in buffers)
    assert checkpoint.source["bytes"] == (DATA / GOLDEN["EDM pickle"]).stat().st_size


def test_arrays_are_views_that_cannot_be_written_and_jax_takes(write):
    state = read_checkpoint(write(forge.edm())).state
    weight = state["model.enc.conv.weight"]
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 1.0
    assert jnp.asarray(weight).sum() == 15.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_of_torch_in_every_format(kind, write):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(KINDS[kind])
    name = forge.Global("torch", f"{kind}Storage")
    raw = array.tobytes()
    zipped = {"a": forge.view(forge.pid("k", 6, name), 0, (2, 3), (3, 1))}
    old = {"a": forge.view(forge.pid("k", 6, name, old=True), 0, (2, 3), (3, 1))}
    edm = forge.view(forge.blob(array, name), 0, (2, 3), (3, 1))
    net = forge.module("Net", {"a": edm})
    for data in (
        forge.torch_zip(zipped, {"k": raw}),
        forge.legacy(old, {"k": (6, raw)}),
        forge.edm(net),
    ):
        same(read_checkpoint(write(data)).state, {"a": array})


def test_views_of_one_storage(write):
    numbers = np.arange(12, dtype="f4")
    views = {  # offset, shape, strides
        "whole": (0, (3, 4), (4, 1)),
        "transposed": (0, (4, 3), (1, 4)),
        "column": (2, (3,), (4,)),
        "one": (11, (), ()),
        "overlapping": (1, (3, 3), (1, 1)),
        "empty": (12, (0, 5), (5, 1)),
        "long stride of one": (0, (1, 4), (10**9, 1)),
    }
    graph = {name: forge.view(forge.pid("0", 12), *how) for name, how in views.items()}
    state = read_checkpoint(
        write(forge.torch_zip(graph, {"0": numbers.tobytes()}))
    ).state
    grid = numbers.reshape(3, 4)
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "column": grid[:, 2],
        "one": np.array(11, "f4"),
        "overlapping": np.array([[1, 2, 3], [2, 3, 4], [3, 4, 5]], "f4"),
        "empty": np.empty((0, 5), "f4"),
        "long stride of one": grid[:1],
    }
    same(state, expected)


def test_what_else_a_state_dict_holds(write):
    tensor = forge.view(forge.pid("0", 2), 0, (2,), (1,))
    graph = forge.Reduce(forge.ORDERED, (), {"_metadata": {"": {"version": 1}}})
    data = forge.torch_zip(
        {
            "model": {"w": tensor, "tied": tensor},
            "optimiser": {"state": {0: {"step": tensor}}, "lr": [1e-4, None]},
            "epoch": 3,
            "empty": graph,
        },
        {"0": np.ones(2, "f4").tobytes()},
    )
    found = read_checkpoint(write(data))
    assert list(found.state) == ["model.w", "model.tied", "optimiser.state.0.step"]
    assert found.configuration == {"optimiser.lr.0": 1e-4, "epoch": 3}


def test_numpy_numbers_of_both_generations_and_objects(write):
    dtype = forge.Global("numpy", "dtype")
    state = (3, "<", None, None, None, -1, -1, 0)
    for home in ("numpy._core.multiarray", "numpy.core.multiarray"):
        kind = forge.Reduce(dtype, ("f8", False, True), state)
        number = forge.Reduce(
            forge.Global(home, "scalar"), (kind, np.float64(0.5).tobytes())
        )
        net = forge.module("Net", {"w": forge.parameter(np.ones(2, "f4"))})
        net.args[0]["state"]["_init_kwargs"] = {"skip_scale": number, "cut": (1, 2)}
        found = read_checkpoint(write(forge.edm(net)))
        assert found.configuration["init_kwargs"] == {"skip_scale": 0.5, "cut": [1, 2]}


def test_a_buffer_that_is_not_persistent_has_no_name(write):
    array = forge.parameter(np.ones(2, "f4"))
    net = forge.module(
        "Net", {"w": array, "b": None}, _buffers={"f": array, "g": array}
    )
    net.args[0]["state"]["_non_persistent_buffers_set"] = {"g"}
    assert list(read_checkpoint(write(forge.edm(net))).state) == ["w", "f"]


def test_persistent_objects_by_themselves():
    inner = PersistentObject("Conv", (), {}, {"_parameters": {"w": np.ones(3)}})
    outer = PersistentObject("Net", (8,), {}, {"_modules": {"a": inner, "b": None}})
    assert list(px.convert.state_dict(outer)) == ["a.w"]
    assert "class_name='Net'" in repr(outer)
    broken = PersistentObject("Net", (), {}, {"_modules": {"a": 3}})
    with pytest.raises(CheckpointError, match="others in _modules of Net"):
        px.convert.state_dict(broken)


def test_zip_members_are_those_that_the_standard_library_finds():
    data = (DATA / GOLDEN["torch zip"]).read_bytes()
    found = members(memoryview(data))
    with zipfile.ZipFile(DATA / GOLDEN["torch zip"]) as file:
        assert list(found) == file.namelist()
        assert all(file.read(name) == part for name, part in found.items())


def test_a_zip_file_with_lengths_of_64_bits(write):
    """As of four gigabytes on; here the directory says so of eight bytes."""
    graph = {"a": forge.view(forge.pid("0", 2), 0, (2,), (1,))}
    data = forge.torch_zip(graph, {"0": np.ones(2, "f4").tobytes()})
    last, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    entry, name = bytearray(data[last : last + 46]), data[last + 46 : end]
    entry[20:28] = b"\xff" * 8
    entry[30:32] = (20 + 6).to_bytes(2, "little")
    extra = b"\x99\x00\x02\x00??" + struct.pack("<HHQQ", 1, 16, 8, 8)
    wide = data[:last] + bytes(entry) + name + extra + data[end:]
    size = int.from_bytes(data[end + 12 : end + 16], "little") + len(extra)
    at = end + len(extra) + 12
    wide = wide[:at] + size.to_bytes(4, "little") + wide[at + 4 :]
    assert read_checkpoint(write(wide)).state["a"].tolist() == [1.0, 1.0]


def test_a_safetensors_file_written_by_hand(write):
    header = b'{"b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]},'
    header += b'"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   '
    data = struct.pack("<Q", len(header)) + header + struct.pack("<fhh", 1.5, 7, -8)
    state = read_checkpoint(write(data)).state
    same(state, {"b": np.array([7, -8], "i2"), "a": np.array(1.5, "f4")})


# --- weights that are no numbers ------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(dtype, value, tmp_path):
    arrays = {"good": np.ones(3, dtype), "bad": np.ones((2, 2), dtype)}
    arrays["bad"][1, 0] = value
    path = tmp_path / "x.safetensors"
    px.convert.write_safetensors(path, arrays)
    with pytest.raises(
        CheckpointError, match=rf"in bad, got {value} at 2\. .*diverged"
    ):
        read_checkpoint(path)
    same(read_checkpoint(path, allow_nonfinite=True).state, arrays)


# --- safetensors ----------------------------------------------------------------------


def test_safetensors_round_trip_of_every_dtype_and_shape(tmp_path):
    dtypes = ["f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "i2", "i1"]
    dtypes += ["u8", "u4", "u2", "u1", "?", ">f4"]
    arrays = {}
    for i, dtype in enumerate(dtypes):
        whole = np.arange(6).reshape(2, 3).astype(dtype)
        arrays |= {f"{i}": whole, f"{i}.scalar": whole[1, 2], f"{i}.t": whole.T}
        arrays |= {f"{i}.none": np.empty((0, 3), dtype), f"{i}.odd": whole[:, ::2]}
    path = tmp_path / "x.safetensors"
    px.convert.write_safetensors(path, arrays, {"who": "me", "ü": "\n"})
    found = read_checkpoint(path)
    assert found.source["metadata"] == {"who": "me", "ü": "\n"}
    little = lambda a: np.asarray(a).astype(np.asarray(a).dtype.newbyteorder("<"))
    same(found.state, {name: little(array) for name, array in arrays.items()})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    for entry in list(json.loads(raw[8 : 8 + length]).values())[1:]:
        size = {"64": 8, "32": 4, "16": 2}.get(entry["dtype"][-2:], 1)
        assert entry["data_offsets"][0] % size == 0, "each begins at its own multiple"
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_of_jax_and_of_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    px.convert.write_safetensors(path, {"a": jnp.ones((2, 2), jnp.bfloat16)})
    assert read_checkpoint(path).state["a"].dtype == ml_dtypes.bfloat16
    px.convert.write_safetensors(path, {})
    assert read_checkpoint(path).state == {}


def test_safetensors_says_what_it_cannot_write(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    write = px.convert.write_safetensors
    with pytest.raises(ValueError, match="got complex64 by the name 'z'"):
        write(path, {"z": np.ones(2, np.complex64)})
    with pytest.raises(ValueError, match="other than __metadata__"):
        write(path, {"__metadata__": np.ones(2)})
    with pytest.raises(ValueError, match="metadata of strings"):
        write(path, {}, {"a": 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at most 8388608 bytes"):
        write(path, {}, {"a": "x" * (8 << 20)})
    with pytest.raises(FileNotFoundError, match="a directory that exists"):
        write(tmp_path / "none" / "x", {})
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# --- files that are something else ----------------------------------------------------

OTHERS = {
    "an empty file.*Download it again": b"",
    "a web page": b"\n <!DOCTYPE html><html>",
    "a git-lfs pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\n",
    "a gzip file": b"\x1f\x8b\x08\x00\x00",
    r"a file of pidax\.save.*pidax\.load": b"\x89pidax\r\n\x01",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "one NumPy array": b"\x93NUMPY\x01\x00",
    "a tar file": b"x" * 257 + b"ustar\x00" + b"x" * 20,
    r"begins b'hello'": b"hello",
    r"begins b'\(dp0": b"(dp0\nI1\n.",
    r"begins b'\\x80\\x06": b"\x80\x06N.",
    "an EDM pickle.* begins": b"{}",
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_is_no_checkpoint_is_told_by_its_first_bytes(message, write):
    with pytest.raises(CheckpointError, match=f"(?s){message}") as caught:
        read_checkpoint(write(OTHERS[message]))
    assert "expected an EDM pickle, a torch state dict or a safet" in str(caught.value)


def test_other_zip_files_and_other_pickles(tmp_path, write):
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    with pytest.raises(CheckpointError, match=r"one data\.pkl.*got 0\. .*npz"):
        read_checkpoint(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "s", "w") as file:
        file.writestr("x/data.pkl", forge.dump({}))
        file.writestr("x/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"'ema' in an EDM pickle, got \['a'\]"):
        read_checkpoint(write(forge.dump({"a": 1})))
    with pytest.raises(CheckpointError, match="a dict of arrays, got none"):
        read_checkpoint(write(forge.torch_zip({"a": 1}, {})))
    with pytest.raises(CheckpointError, match="a dict of arrays, got a list"):
        read_checkpoint(write(forge.torch_zip([], {})))
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nowhere")


# --- names against names --------------------------------------------------------------


def test_a_key_report_lists_all_that_is_wrong():
    found = {"a": np.ones((2, 3)), "b": np.ones(4), "x": np.ones(1)}
    report = px.convert.match(found, {"a": (2, 3), "b": (5,), "c": (1,)})
    assert not report.exact
    assert report.missing == ("c",)
    assert report.unexpected == ("x",)
    assert report.misshaped == {"b": ((4,), (5,))}
    text = str(report)
    assert text.startswith("1 of 3 arrays as expected\n1 missing:\n    c\n")
    assert "    b: found (4,), expected (5,)" in text
    with pytest.raises(CheckpointError, match="got 1 of 3 arrays"):
        report.raise_if_not_exact()
    exact = px.convert.match(found, {"a": (2, 3), "b": (4,), "x": (1,)})
    assert exact.exact
    exact.raise_if_not_exact()
    assert str(exact) == "3 of 3 arrays as expected"
    many = px.convert.match({}, {str(i): () for i in range(50)})
    assert "... and 30 more" in str(many)


# --- the command line -----------------------------------------------------------------


def test_info_and_convert_from_the_command_line(tmp_path, capsys):
    file, out = DATA / GOLDEN["EDM pickle"], tmp_path / "out.safetensors"
    assert main(["info", str(file)]) == 0
    said = capsys.readouterr().out
    for words in (
        "EDMPrecond of SongUNet",
        "classes:          none",
        "training data:    data.zip",
        "parameters:       317843, and 32 numbers in buffers",
        "209 of float32",
    ):
        assert words in said
    assert main(["convert", str(file), str(out)]) == 0
    one, other = read_checkpoint(file), read_checkpoint(out)
    same(other.state, one.state)
    assert other.configuration == one.configuration
    source = json.loads(other.source["metadata"]["source"])
    assert source["sha256"] == one.source["sha256"]
    assert source["format"] == "EDM pickle"
    assert main(["info", str(out)]) == 0
    assert "EDMPrecond of SongUNet" in capsys.readouterr().out


def test_the_command_line_says_no_without_a_traceback(tmp_path, capsys):
    file = tmp_path / "page.pkl"
    file.write_bytes(b"<html>")
    assert main(["info", str(file)]) == 1
    assert "a web page" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "none"), "out"]) == 1
    with pytest.raises(SystemExit):
        main(["run", str(file)])


def test_a_state_dict_has_no_more_to_say(capsys):
    assert main(["info", str(DATA / GOLDEN["torch legacy"])]) == 0
    said = capsys.readouterr().out
    assert "not said in the file" in said
    assert "317875, parameters and buffers" in said
