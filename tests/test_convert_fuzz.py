"""Files that would take all memory or time, and hundreds of damaged ones."""

import contextlib
import gc
import time
import tracemalloc
from collections import Counter

import forge
import numpy as np
import pytest
from forge import Raw
from mutations import WATCH, mutate, outcome, seeds

from pidax.convert import CheckpointError, read_checkpoint

SECONDS = 5.0  # of processor time: the machine may be busy with something else
SPARE = 100 << 20  # bytes beside twice the file


def laughs(levels: int) -> bytes:
    """A list of two lists of two lists ..., each pair being one and the same."""
    out = b"]\x94"
    for i in range(levels):
        get = b"j" + i.to_bytes(4, "little")
        out += b"](" + get + get + b"e\x94"
    return b"](" + out + b"e"


def deep(levels: int) -> bytes:
    return b"N" + b"\x85" * levels


def flood(each: bytes, count: int) -> bytes:
    return b"](" + each * count + b"e"


BOMBS = {
    "sets": (flood(b"\x8f", 199_000), ""),
    "lists in lists": (flood(b"]Na", 99_000), ""),
    "tuples": (flood(b"N\x85", 99_000), ""),
    "dicts": (flood(b"}\x8c\x01aNs", 59_000), ""),
    "bytes": (flood(b"C\x00", 199_000), "memoryview, out of its place"),
    "words": (flood(b"N", 400_000), "at most 300000 pickle words"),
    "marks": (b"(" * 290_000, "objects on the stack, got fewer"),
    "depth": (deep(200_000), "at most 60 levels"),
    "laughs": (laughs(50), "a tree of at most 200000 branches"),
    "text": (flood(b"X\xff\xff\x0f\x00" + b"x" * 0xFFFFF, 5), "at most 4194304 bytes"),
    "wide text": (flood(b"X\xfc\xff\x0f\x00" + "🦆".encode() * 0x3FFFF, 3), ""),
    "a length beyond the file": (
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        "more bytes, got the",
    ),
    "a string beyond the file": (
        b"\x8d" + b"\xff" * 7 + b"\x7f",
        "more bytes, got the",
    ),
    "a frame beyond the file": (b"\x95" + b"\xff" * 7 + b"\x7f", "a frame inside"),
    "a number of two gigabytes": (b"\x8b\xff\xff\xff\x7f", "pickle word LONG4"),
    "a memo of four billion": (b"Nr\xff\xff\xff\xff", "memo number 0"),
    "itself": (b"]\x94h\x00a", "a list that contains itself"),
    "itself in a dict": (
        b"}\x94X\x01\x00\x00\x00ah\x00s",
        "a dict that contains itself",
    ),
    "keys that collide": (
        b"}("
        + b"".join(forge.words(i * (2**61 - 1)) + b"N" for i in range(9_999))
        + b"u",
        "keys that are strings or small integers",
    ),
}


@pytest.fixture(params=["seconds", pytest.param("bytes", marks=pytest.mark.slow)])
def bounded(request, tmp_path):
    """Read `data`, which is refused with this message or read, within bounds.

    Counting every allocation takes several times as long: not by default.
    """

    def bounded(data: bytes, message: str) -> None:
        path = tmp_path / "file"
        path.write_bytes(data)
        WATCH.seen.clear()
        if request.param == "seconds":
            gc.collect()
            gc.freeze()  # what other tests left is not walked through with every list
            start = time.thread_time()
            assert outcome(path)[0] == "refused" or not message
            assert time.thread_time() - start < SECONDS
            gc.unfreeze()
            assert not WATCH.seen
            return
        tracemalloc.start()
        honest = contextlib.nullcontext()
        with pytest.raises(CheckpointError, match=message) if message else honest:
            read_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(data) + SPARE

    return bounded


ALIKE = ("sets", "tuples", "bytes", "wide text")  # seconds each: for the slow run
SLOW = [pytest.param(b, marks=pytest.mark.slow) if b in ALIKE else b for b in BOMBS]


@pytest.mark.slow
@pytest.mark.parametrize("bomb", SLOW)
def test_a_pickle_that_asks_for_too_much(bomb, bounded):
    body, message = BOMBS[bomb]
    net = forge.module("Net", {"w": forge.parameter(np.ones(2, "f4"))})
    # The words stand first, so that their memo begins at nought.
    pairs = forge.words("x") + body + forge.words("ema") + forge.words(net)
    bounded(b"\x80\x04}(" + pairs + b"u.", message)


def test_many_names_for_one_array(bounded):
    """Views cost nothing until someone copies them: a gigabyte of names is refused."""
    whole = forge.view(forge.pid("0", 250_000), 0, (250_000,), (1,))
    again = b"".join(forge.words(str(i)) + b"h\x00" for i in range(1000))
    graph = (
        b"\x80\x04}(" + forge.words("a") + forge.words(whole) + b"\x94" + again + b"u."
    )
    bounded(
        forge.torch_zip(graph, {"0": bytes(1_000_000)}),
        "arrays of at most 4 times the file",
    )


def test_names_without_end(bounded):
    net = forge.module("Net", {"w": forge.parameter(np.ones(2, "f4"))})
    for _ in range(8):
        net = forge.module("Net", modules={"x" * 100: net})
    bounded(forge.edm(net), "names of at most 512 characters")
    bounded(
        forge.torch_zip({str(i): i for i in range(50_001)}, {}), "at most 50000 names"
    )


def test_a_configuration_without_end(bounded):
    """A long text in a thousand places is short in the file, and not in its JSON."""
    long = forge.words("x" * 100_000) + b"\x94"
    places = b"".join(forge.words(str(i)) + b"h\x00" for i in range(1000))
    kwargs = Raw(b"}(" + forge.words("a") + long + places + b"u")
    bounded(
        forge.edm(forge.module("Net", _init_kwargs=kwargs)),
        "a configuration of at most 8388608 bytes",
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", [b'{"":0},', b"[[]],"])
def test_a_safetensors_header_full_of_nothing(text, bounded):
    body = b'{"a":[' + text * 140_000
    body = body[:-1] + b"]}"
    bounded(
        len(body).to_bytes(8, "little") + body,
        "dtype, shape and data_offsets of a|a header of at most 300000 items",
    )


def test_a_zip_directory_full_of_nothing(bounded):
    bounded(
        forge.torch_zip({"a": 1}, {str(i): b"" for i in range(30_000)}),
        "a zip directory of at most|a dict of arrays, got none",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("golden", "count"), [(False, 120), (True, 30)])
def test_damaged_files_are_refused_or_read_and_do_nothing(golden, count, tmp_path):
    """The suite `fuzz` of the benchmarks reads ten thousand of them."""
    files, ends = seeds(tmp_path, golden=golden), Counter()
    path, WATCH.seen[:] = tmp_path / "file", []
    for i in range(count):
        rng = np.random.default_rng([20220601, golden, i])
        kind = list(files)[i % len(files)]
        path.write_bytes(mutate(files[kind], rng))
        if i % 21 == 0:
            tracemalloc.start()
        start = time.thread_time()
        ends[outcome(path)[0]] += 1
        assert time.thread_time() - start < SECONDS
        if tracemalloc.is_tracing():
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2 * path.stat().st_size + SPARE
    assert not WATCH.seen
    assert ends["refused"] > count // 2
    assert ends["read"] > 0, "some changes are of the numbers alone"
