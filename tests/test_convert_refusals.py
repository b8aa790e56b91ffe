"""What a forged file tries, and that it is refused by name and does nothing."""

import json
import pickle
import pickletools
import struct
import zipfile
import zlib

import forge
import numpy as np
import pytest
from forge import Global, Persistent, Raw, Reduce
from mutations import WATCH, outcome

from pidax.convert import CheckpointError, read_checkpoint
from pidax.convert._pickles import (
    _STEPS,
    ORDERED,
    Budget,
    read_pickle,
    survey,
)


@pytest.fixture
def refuse(tmp_path):
    """Read `data`, which must raise with these words and do nothing else."""

    def refuse(data: bytes, words: str):
        path = tmp_path / "file"
        path.write_bytes(data)
        WATCH.seen.clear()
        with pytest.raises(CheckpointError, match=words):
            read_checkpoint(path)
        assert outcome(path)[0] == "refused"
        assert not WATCH.seen
        assert list(tmp_path.iterdir()) == [path], "something was written"

    return refuse


# --- words ----------------------------------------------------------------------------

CALLABLE = {ORDERED: "call"}
DICT = b"ccollections\nOrderedDict\n)R"  # an OrderedDict without arguments


def value(words: bytes):
    """Of these words between a pickle's first two bytes and its last."""
    return read_pickle(memoryview(b"\x80\x02" + words + b"."), 0, CALLABLE, Budget())[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (b"\x8a\x11" + bytes(17), "an integer of at most 16 bytes, got one of 17"),
        (b"K\x01(\x85", "1 objects on the stack, got fewer"),  # from below the mark
        (b"]q\x00q\x00", "memo number 1, got 0"),
        (b"}J\x00\x00\x10\x00Ns", "keys that are strings or small integers"),
        (b"}J\xff\xff\xff\xffNs", "keys that are strings or small integers"),
        (DICT + b"}(X\x09\x00\x00\x00_metadataNK\x01Nub", "nothing but _metadata"),
        (b"ccollections\nOrderedDict\n)\x81", "names to new"),
    ],
    ids=["length", "mark", "memo", "large", "negative", "state", "use"],
)
def test_a_word_that_no_writer_needs_is_refused(words, message):
    with pytest.raises(CheckpointError, match=message):
        value(words)


def test_numbers_are_those_of_pickle():
    for words, number in (
        (b"J\xff\xff\xff\xff", -1),
        (b"M\xff\xff", 65535),
        (b"K\xff", 255),
        (b"\x8a\x02\x00\x80", -(2**15)),
        (b"G" + struct.pack(">d", -0.1), -0.1),
        (b"\x8a\x10" + bytes(15) + b"\x01", 1 << 120),
    ):
        assert value(words) == number == pickle.loads(b"\x80\x02" + words + b".")
    assert value(b"}J\xff\xff\x0f\x00Ns") == {(1 << 20) - 1: None}


def test_what_grows_without_end_is_refused_without_growing():
    """Pairs of one pair before, 2^40 leaves; and a list that contains itself."""
    pairs = b"(]q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))
    with pytest.raises(CheckpointError, match=r"a tree of at most \d+ branches"):
        survey(value(pairs + b"t"))
    with pytest.raises(CheckpointError, match="a list that contains itself"):
        survey(value(b"]q\x00h\x00a"))
    assert survey(value(b"](K\x01K\x02e")) == []


# --- names ----------------------------------------------------------------------------

NAMES = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "subprocess.Popen",
    "importlib.import_module",
    "operator.attrgetter",
    "functools.partial",
    "pickle.loads",
    "numpy.load",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch._utils._rebuild_parameter_with_state",
    "torch_utils.persistence.import_hook",
    "torch.storage._load_from_bytes.__globals__",
    "collections.OrderedDict.__init__",
    "collections.defaultdict",
    "copyreg._reconstructor",
    "_codecs.encode",
    "__main__.x",
    "\u202e.\x1b[31m",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_a_checkpoints_is_refused_by_name(name, refuse):
    module, _, member = name.rpartition(".")
    shown = ascii(name)[1:-1].replace("\\", r"\\").replace("[", r"\[")
    evil = Reduce(Global(module, member), ("touch evil",))
    line = Raw(b"c" + f"{module}\n{member}\n".encode())
    for way in (evil, Reduce(line, ("touch evil",)), Global(module, member)):
        words = rf"got {shown} at byte \d+, which is refused and was not looked up"
        refuse(forge.edm(way), words)
        refuse(forge.edm(loss_fn=[way]), words)
        refuse(forge.torch_zip({"a": way}, {}), words)
        refuse(forge.legacy({"a": way}, {}), words)
        inner = Reduce(forge.LOAD, (forge.legacy(way, {}),))
        weight = forge.view(inner, 0, (), ())
        refuse(forge.edm(forge.module("Net", {"w": weight})), words)


class Evil:
    """The standard escape, as the standard library writes it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_genuine_escape_does_nothing(protocol, refuse, tmp_path):
    sentinel = tmp_path / "sentinel"
    data = pickle.dumps({"ema": Evil(sentinel)}, protocol)
    pickle.loads(data)["ema"].close()  # it would
    assert sentinel.exists()
    sentinel.unlink()
    refuse(data, r"got (_?io|builtins)\.open at byte")
    refuse(forge.torch_zip(data, {}), r"got (_?io|builtins)\.open at byte")


def test_names_allowed_elsewhere_are_refused_out_of_their_place(refuse):
    blob = forge.blob(np.ones(2, "f4"))
    inside = Reduce(forge.LOAD, (forge.legacy(blob, {}),))
    nested = forge.module("Net", {"w": forge.view(inside, 0, (), ())})
    refuse(forge.edm(nested), "got torch.storage._load_from_bytes at byte")
    refuse(forge.torch_zip({"a": blob}, {}), "got torch.storage._load_from_bytes")
    whole = forge.module("Net")
    refuse(forge.torch_zip({"a": whole}, {}), "got torch_utils.persistence._rec")
    for header in (forge.FLOAT, forge.ORDERED):
        system = {"little_endian": True, "x": header}
        refuse(forge.legacy({}, {}, **system), r"got (torch|collections)\.")


OUT_OF_PLACE = {
    "FloatStorage, which is none": Reduce(forge.FLOAT, (4,)),
    "torch.FloatStorage, out of its place": forge.FLOAT,
    "OrderedDict, out of its place": forge.ORDERED,
    "_rebuild_tensor_v2, out of its place": forge.TENSOR,
    "OrderedDict without arguments, got 1": Reduce(forge.ORDERED, ([],)),
    "a name and a tuple to call, got str, tuple": Reduce("os", ()),
    "a name and a tuple to call, got _rebuild|Call": Reduce(
        Reduce(forge.TENSOR, ()), ()
    ),
    r"Ordered|a name and a tuple to call, got": Reduce(Reduce(forge.ORDERED, ()), ()),
    "BUILD on dict": Reduce(Raw(b""), {}, {"__class__": 1}, how=b""),
    "nothing but _metadata": Reduce(forge.ORDERED, (), {"__setstate__": 1}),
    "BUILD on torch._utils._rebuild_tensor_v2": Reduce(forge.TENSOR, (), {"a": 1}),
    "6 arguments of torch._utils._rebuild_tensor_v2": Reduce(forge.TENSOR, ()),
    "Persistent, out of its place": forge.pid("0", 2),
    "names to new, got collections.OrderedDict": Reduce(forge.ORDERED, (), how=b"\x81"),
    "a name in two strings, got int, str": Raw(b"K\x01X\x01\x00\x00\x00a\x93"),
    "memoryview, out of its place": b"bytes",
    "sets of strings": Raw(b"\x8f(K\x01\x90"),
    "keys that are strings or small integers, got tuple": Raw(b"}()K\x01u"),
    "keys that are strings or small integers, got bool": Raw(b"}(\x88K\x01u"),
    "a list to add to, got a dict": Raw(b"}K\x01a"),
    "a dict to add to, got a list": Raw(b"]K\x01K\x01s"),
    "a set to add to, got a list": Raw(b"](K\x01\x90"),
    "objects on the stack, got fewer": Raw(b"(\x87"),
    "a mark on the stack, got none": Raw(b"tttt"),
    "keys and values in pairs": Raw(b"}(K\x01u"),
    "memo number 0, got 7": Raw(b"Nq\x07"),
    "a memo number below 0, got 7": Raw(b"h\x07"),
    "text in UTF-8": Raw(b"\x8c\x02\xff\xff"),
    "a name of less than 128": Raw(b"c" + b"x" * 200 + b"\n"),
    "an integer of at most 16 bytes, got one of 200": Raw(b"\x8a\xc8" + b"x" * 200),
}


@pytest.mark.parametrize("message", OUT_OF_PLACE)
def test_what_is_out_of_its_place_in_a_pickle_is_refused(message, refuse):
    value = OUT_OF_PLACE[message]
    refuse(forge.torch_zip({"a": value}, {"0": bytes(8)}), message)


def words_of_the_language():
    return [word for word in pickletools.opcodes if ord(word.code) not in _STEPS]


def test_the_words_that_are_known_are_these():
    """A new word of Python's must not slip in, nor an old one without a thought."""
    known = {word.name for word in pickletools.opcodes if ord(word.code) in _STEPS}
    words = (
        "MARK FRAME NONE NEWTRUE NEWFALSE BININT1 BININT2 BININT LONG1 BINFLOAT "
        "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 "
        "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT "
        "SETITEM SETITEMS EMPTY_SET ADDITEMS BINPUT LONG_BINPUT MEMOIZE BINGET "
        "LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID"
    )
    assert known == set(words.split())


@pytest.mark.parametrize("word", words_of_the_language(), ids=lambda word: word.name)
def test_every_other_word_is_refused_by_name(word, refuse):
    if word.name == "STOP":
        return
    body = Raw(word.code.encode("latin1") + b"os\nsystem\n\x00\x00\x00")
    for data in (forge.edm(body), forge.torch_zip({"a": body}, {})):
        refuse(data, rf"got the pickle word {word.name} at byte")


def test_bytes_that_are_no_words(refuse):
    for code in set(range(256)) - {ord(word.code) for word in pickletools.opcodes}:
        words = f"word 0x{code:02x}, which does not exist"
        refuse(forge.edm(Raw(bytes([code]))), words)


# --- objects --------------------------------------------------------------------------


def test_persistent_objects_are_what_they_must_be(refuse):
    def meta(**changes):
        net = forge.module("Net")
        return Reduce(forge.OBJECT, (net.args[0] | changes,))

    refuse(forge.edm(meta(version=5)), "of version 6, got version 5")
    refuse(forge.edm(meta(version=6.0)), "of version 6, got another")
    refuse(forge.edm(meta(type="function")), "a persistent class of version 6")
    refuse(forge.edm(meta(state=3)), "class_name and state")
    refuse(forge.edm(Reduce(forge.OBJECT, ())), "class_name and state")
    refuse(forge.edm(meta(state={"_init_args": 1})), "the arguments Net was made with")
    refuse(forge.edm(meta(state={"_modules": {"a": 1}})), "others in _modules of Net")
    refuse(forge.edm(meta(state={"_parameters": 1})), "others in _parameters of Net")
    dots = {"a.b": forge.module("B", {"w": forge.parameter(np.ones(1, "f4"))})}
    clash = {"a": forge.module("A", modules={"b": dots["a.b"]})} | dots
    refuse(forge.edm(forge.module("Net", modules=clash)), "every name once, got a.b.w")
    refuse(forge.edm({"a": 1}), "a network by the name 'ema'")
    bare = Reduce(forge.MODULE_DICT, (), how=b"\x81")
    refuse(forge.edm(bare), "a ModuleDict with its attributes")
    refuse(forge.edm(Persistent(("storage",))), "got a persistent id")
    refuse(forge.edm() + b"N.", "the pickle's end at the end of the file")
    refuse(forge.dump([]), "a dict with 'ema' at the root, got a list")


def test_numpy_numbers_are_numbers(refuse):
    scalar = Global("numpy.core.multiarray", "scalar")

    def number(code, raw, state=None, args=(False, True)):
        kind = Reduce(Global("numpy", "dtype"), (code, *args), state)
        return forge.edm(loss_fn=Reduce(scalar, (kind, raw)))

    refuse(number("O8", bytes(8)), "a dtype of numbers, got O8")
    refuse(number("V8", bytes(8)), "a dtype of numbers, got V8")
    refuse(number({"names": ["a"]}, bytes(8)), "a dtype of numbers, got another")
    refuse(number("f8", bytes(7)), "8 bytes of float64, got 7")
    refuse(number("f8", [1.0]), "a dtype and bytes")
    refuse(number("b1", b"\x02"), "bools that are 0 or 1")
    big = (3, ">", None, None, None, -1, -1, 0)
    refuse(number("f8", bytes(8), big), "a little-endian f8")
    refuse(forge.edm(Reduce(Global("numpy", "dtype"), ("f8",))), "numpy.dtype, out of")


# --- storages and tensors -------------------------------------------------------------

TENSORS = {  # offset, shape, strides on a storage of 12
    "inside its storage's 12 numbers, got offset 9": (9, (4,), (1,)),
    "inside its storage's 12 numbers, got offset 0": (0, (3, 4), (4, 2)),
    "inside its storage's 12 numbers, got offset 12": (12, (1,), (1,)),
    "at most its storage's 12 numbers": (0, (13,), (0,)),
    r"at most its storage's 12 numbers, got \(1048": (0, (1 << 20, 1 << 20), (0, 0)),
    r"at most its storage's 12 numbers, got \(0, ": (
        0,
        (0, 1 << 40, 1 << 40),
        (1, 1, 1),
    ),
    "whole numbers": (-1, (1,), (1,)),
    "strides of whole numbers, got others": (0, (4,), (-1,)),
    "shape and strides of whole": (0, (True,), (1,)),
    "and strides of whole numbers": (0, (2.0,), (1,)),
    "of whole": (0, [2], [1]),
    "an offset, a shape": (1 << 70, (1,), (1,)),
    "of one length, at most 32, got 2 and 1": (0, (2, 2), (1,)),
    "of one length, at most 32, got 33 and 33": (0, (1,) * 33, (1,) * 33),
    "an offset within 12 numbers, got 13": (13, (0,), (1,)),
}


@pytest.mark.parametrize("message", TENSORS)
def test_a_tensor_outside_its_storage_is_refused(message, refuse):
    how, numbers = TENSORS[message], np.arange(12, dtype="f4")
    raw = numbers.tobytes()
    zipped = {"a": forge.view(forge.pid("0", 12), *how)}
    refuse(forge.torch_zip(zipped, {"0": raw}), message)
    old = {"a": forge.view(forge.pid("0", 12, old=True), *how)}
    refuse(forge.legacy(old, {"0": (12, raw)}), message)
    weight = forge.view(forge.blob(numbers), *how)
    refuse(forge.edm(forge.module("Net", {"w": weight})), message)


@pytest.mark.parametrize("kind", ["ComplexFloat", "QInt8", "Untyped", "ComplexDouble"])
def test_an_unknown_dtype_is_refused_by_name(kind, refuse):
    graph = {
        "a": forge.view(forge.pid("0", 1, Global("torch", f"{kind}Storage")), 0, (), ())
    }
    refuse(forge.torch_zip(graph, {"0": bytes(8)}), f"got torch.{kind}Storage at byte")


def test_storages_are_what_they_are_said_to_be(refuse):
    graph = lambda *words: {"a": forge.view(Persistent(words), 0, (1,), (1,))}
    good = ("storage", forge.FLOAT, "0", "cpu", 3)
    for words in (
        ("module", *good[1:]),
        (*good[:4], -1),
        (*good[:4], True),
        (*good, ("view", 0, 1)),
        (*good[:1], "os.system", *good[2:]),
        (*good[:2], 0, *good[3:]),
        good[:3],
        (),
    ):
        refuse(forge.torch_zip(graph(*words), {"0": bytes(12)}), "that names a storage")
    zipped = lambda **files: forge.torch_zip(graph(*good), files)
    refuse(zipped(), "3 numbers of float32 in data/0, got 0 bytes")
    refuse(zipped(**{"0": bytes(8)}), "3 numbers of float32 in data/0, got 8")
    refuse(zipped(**{"0": bytes(13)}), "3 numbers of float32 in data/0, got 13")
    other = ("storage", Global("torch", "IntStorage"), "0", "cpu", 3)
    two = {"a": graph(*good)["a"], "b": graph(*other)["a"]}
    refuse(forge.torch_zip(two, {"0": bytes(12)}), "one storage 0, got two that differ")
    bools = forge.pid("0", 3, Global("torch", "BoolStorage"))
    lie = forge.torch_zip(
        {"a": forge.view(bools, 0, (3,), (1,))}, {"0": b"\x00\x01\x02"}
    )
    refuse(lie, "bools that are 0 or 1")
    bare = {"a": forge.view(3, 0, (1,), (1,))}
    refuse(forge.torch_zip(bare, {}), "a tensor's storage, got a int")
    refuse(forge.edm(forge.module("N", bare)), "a tensor's storage, got a int")
    text = forge.view(Reduce(forge.LOAD, ("text",)), 0, (1,), (1,))
    refuse(forge.edm(forge.module("N", {"w": text})), "bytes as the argument")


def test_legacy_files_are_what_they_are_said_to_be(refuse):
    graph = {"a": forge.view(forge.pid("0", 2, old=True), 0, (2,), (1,))}
    raw = bytes(8)
    refuse(forge.legacy(graph, {"0": (3, raw)}), "2 numbers in storage 0, got 3")
    refuse(forge.legacy(graph, {"0": (2, raw[:7])}), "got 2, of which 7 bytes")
    refuse(forge.legacy(graph, {"0": (2, raw + b"x")}), "the storages' end at the end")
    refuse(forge.legacy(graph, {}), "the keys of 1 storages")
    refuse(forge.legacy(graph, {"0": (2, raw), "1": (2, raw)}), "the keys of 1")
    refuse(forge.legacy(graph, {"0": (2, raw)}, little_endian=False), "little-endian")
    good = forge.legacy(graph, {"0": (2, raw)})
    twice = good.replace(forge.dump(["0"]), forge.dump(["0", "0"]))
    refuse(twice, "each once, got 2 keys")
    refuse(good.replace(forge.dump(1001), forge.dump(1002)), "0x3e9 at the start")
    inner = Reduce(forge.LOAD, (forge.dump(forge.MAGIC + 1),))
    weight = forge.module("N", {"w": forge.view(inner, 0, (), ())})
    refuse(forge.edm(weight), "0x1950a86a20f9469cfc6c at the start")


# --- zip files ------------------------------------------------------------------------


def test_zip_members_are_stored_once_beside_each_other_and_whole(refuse, tmp_path):
    graph = {"a": forge.view(forge.pid("0", 2), 0, (2,), (1,))}
    good = forge.torch_zip(graph, {"0": bytes(8)})
    bomb = forge.torch_zip(graph, {"0": bytes(8)}, compression=zipfile.ZIP_DEFLATED)
    refuse(bomb, "x/data.pkl compressed by method 8.*zip it with -0")
    directory = good.rfind(b"PK\x01\x02")
    change = lambda at, new: good[:at] + new + good[at + len(new) :]
    at = lambda offset: directory + offset
    refuse(change(at(8), b"\x01"), "x/data/0 encrypted")
    refuse(change(at(20), b"\xff"), "8 bytes of x/data/0 stored, got 255")
    refuse(change(at(20), b"\xff\xff\xff\x7f" * 2), "bytes of x/data/0, got")
    refuse(change(at(16), b"\x00"), "the checksum .* of x/data/0, got another")
    refuse(change(at(42), b"\x00\x00\x00\x00"), "x/data/0 where the directory says")
    refuse(change(at(42), b"\xff\xff\xff\x7f"), "x/data/0 inside the file")
    refuse(change(at(20), b"\xff" * 4), "a zip64 field with the lengths")
    refuse(change(at(46), b"x/data.pkl"[:8]), "something else")
    end = good.rfind(b"PK\x05\x06")
    refuse(change(end + 12, b"\xff\xff\xff\x00"), "a zip directory of at most 8388608")
    refuse(change(end + 8, b"\x09\x00\x09\x00"), "9 zip members, got 3")
    refuse(change(end + 4, b"\x01"), "a zip file in one part")
    refuse(good[: end - 1], "a zip file's directory at its end")


def test_zip_members_that_overlap_are_refused_before_they_are_read(refuse):
    """Else a few entries for one long member would be read as many times its length."""
    data = forge.torch_zip({"a": 1}, {"0": bytes(100), "1": bytes(100)})
    central = data.rfind(b"x/data/0") - 46
    longer = struct.pack("<2L", 110, 110)
    refuse(data[: central + 20] + longer + data[central + 28 :], "members that overlap")


def test_big_endian_torch_files_are_refused(refuse):
    graph = {"a": forge.view(forge.pid("0", 1), 0, (), ())}
    data = forge.torch_zip(graph, {"0": bytes(4)}).replace(b"little", b"big!!!")
    crc = {raw: zlib.crc32(raw).to_bytes(4, "little") for raw in (b"little", b"big!!!")}
    refuse(
        data.replace(crc[b"little"], crc[b"big!!!"]), "a little-endian file, got b'big"
    )


# --- safetensors ----------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


SAFETENSORS = {
    "8 bytes for a, inside the file, got bytes 0 to 9": ({"a": entry(0, 9)}, 9),
    "inside the file, got bytes 8 to 16 of 8": ({"a": entry(8, 16)}, 8),
    "gaps or overlaps, got one at 4, not 0": ({"a": entry(4, 12)}, 12),
    "gaps or overlaps, got one at 0, not 8": ({"a": entry(0, 8), "b": entry(0, 8)}, 8),
    "up to the end of the file, got 1 more": ({"a": entry(0, 8)}, 9),
    "got F8_E4M3": ({"a": entry(0, 2, dtype="F8_E4M3")}, 2),
    "others, or too large": ({"a": entry(0, 8, shape=(-2,))}, 8),
    "or too large ones": ({"a": entry(0, 0, shape=(0, 1 << 40, 1 << 40))}, 0),
    "a shape and offsets of whole": ({"a": entry(0, 8, shape=(True, 2))}, 8),
    "whole numbers for a": ({"a": entry(8, 0)}, 8),
    "dtype, shape and data_offsets of a": ({"a": entry(0, 8, more=1)}, 8),
    "and data_offsets of a": ({"a": [1]}, 8),
    "strings in __metadata__": ({"__metadata__": {"a": 1}}, 0),
    "strings in __meta": ({"__metadata__": 1}, 0),
    "every name once in the header": (b'{"a": 1, "a": 2}', 0),
    "numbers in the header, got NaN": (b'{"a": NaN}', 0),
    "a header in JSON, got JSONDecodeError": (b"{]", 0),
    "got UnicodeDecodeError": (b"{\xff}", 0),
    "a header in JSON, got RecursionError": (b'{"a":' + b"[" * 100_000, 0),
    "a header in JSON, got ValueError": (b'{"a":' + b"9" * 9_999, 0),
    "names of at most 512": ({"a" * 513: entry(0, 8)}, 8),
    "bools that are 0 or 1": ({"a": entry(0, 2, dtype="BOOL")}, b"\x01\x07"),
}


@pytest.mark.parametrize("message", SAFETENSORS)
def test_a_safetensors_header_is_taken_at_no_word(message, refuse):
    header, data = SAFETENSORS[message]
    refuse(safetensors(header, bytes(data) if isinstance(data, int) else data), message)


def test_a_safetensors_header_is_inside_the_file_and_not_too_long(refuse):
    refuse((1 << 40).to_bytes(8, "little") + b"{}", "a header of at most 8388608 bytes")
    refuse((3).to_bytes(8, "little") + b"{}", "got one of 3 in a file of 10")
    refuse(safetensors(b"{}" + b" " * (8 << 20)), "a header of at most 8388608")


def test_metadata_of_others_is_left_alone(tmp_path):
    for text in ("{", "[1]", "[" * 100_000, '{"a":' * 90 + "1" + "}" * 90):
        path = tmp_path / "file"
        path.write_bytes(safetensors({"__metadata__": {"configuration": text}}))
        assert read_checkpoint(path).configuration == {}


# --- truncated files ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["EDM pickle", "torch zip", "torch legacy", "safetensors"]
)
def test_a_file_cut_short_anywhere_is_refused(kind, tmp_path):
    files = forge.small_files()
    files["safetensors"] = safetensors({"a": entry(0, 8)}, bytes(8))
    path = tmp_path / "file"
    path.write_bytes(files[kind])
    assert outcome(path)[0] == "read"
    for length in range(len(files[kind])):
        path.write_bytes(files[kind][:length])
        assert outcome(path)[0] == "refused", length
