"""Mutations of checkpoint files, and a watch on what reading one of them does."""

import io
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import forge
import numpy as np

from pidax.convert import Checkpoint, CheckpointError, read_checkpoint
from pidax.convert._safetensors import write_safetensors

DATA = Path(__file__).parent / "data"
GOLDEN = {
    "EDM pickle": "edm_ddpmpp_uncond.pkl",
    "torch zip": "edm_ddpmpp_uncond_state_dict.ckpt",
    "torch legacy": "edm_ddpmpp_uncond_state_dict_legacy.ckpt",
}
# What no reader may do. (Opening the file and allocating arrays are events as well.)
FORBIDDEN = ("import", "exec", "compile", "marshal.", "pickle.", "ctypes.", "socket.")
FORBIDDEN += ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.")
FORBIDDEN += ("os.remove", "os.rename", "os.mkdir", "os.putenv", "sys.addaudithook")
ACTS = [("os", "system"), ("builtins", "eval"), ("posix", "system"), ("os", "_exit")]
ACTS += [("subprocess", "Popen"), ("torch.storage", "x"), ("numpy", "load")]
WORDS = b"RQbci\x81\x92\x93\x82\x83\x84oPI.(0122tuse]}\x94\x95\x8a\x8bh"


@dataclass
class Watch:
    """The forbidden events seen while it was on: an audit hook cannot be removed."""

    on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {arguments!r:.99}")


WATCH = Watch()
sys.addaudithook(WATCH)


def seeds(folder: Path, *, golden: bool) -> dict[str, bytes]:
    """An honest file of each format: forged small, or the golden network's."""
    files = forge.small_files()
    if golden:
        files = {name: (DATA / file).read_bytes() for name, file in GOLDEN.items()}
    target = folder / "seed"
    target.write_bytes(files["EDM pickle"])
    checkpoint = read_checkpoint(target)
    write_safetensors(
        target, checkpoint.state, {"configuration": '{"class_name": "X"}'}
    )
    return files | {"safetensors": target.read_bytes()}


def places(data: bytes, rng: np.random.Generator, count: int) -> list[int]:
    """Bytes to change: most of them near the file's structure, the others anywhere."""
    marks = [b"torch", b"storage", b"PK", b"data_offsets", b"_modules", b"weight"]
    found = []
    for _ in range(count):
        at = int(rng.integers(len(data)))
        mark = marks[rng.integers(len(marks))]
        near = max(data.find(mark, at), data.rfind(mark))
        if near >= 0 and rng.random() < 0.7:
            at = near + int(rng.integers(-60, 60))
        found.append(min(max(at, 2), len(data) - 1))
    return found


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """A few changes of one kind; in a zip file also behind its checksums."""
    if data[:2] == b"PK" and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        graph = next(name for name in parts if name.endswith("data.pkl"))
        parts[graph] = _mutated(parts[graph], rng)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, part in parts.items():
                file.writestr(name, part)
        return out.getvalue()
    return _mutated(data, rng)


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    kinds: list[Callable[[bytes, np.random.Generator], bytes]]
    kinds = [_flip, _flip, _word, _truncate, _swap, _global, _length, _repeat]
    return kinds[rng.integers(len(kinds))](data, rng)


def _flip(data, rng):
    out = bytearray(data)
    for at in places(data, rng, int(rng.integers(1, 9))):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _word(data, rng):
    out = bytearray(data)
    for at in places(data, rng, int(rng.integers(1, 4))):
        out[at] = WORDS[rng.integers(len(WORDS))]
    return bytes(out)


def _truncate(data, rng):
    [at] = places(data, rng, 1)
    return data[:at] if rng.random() < 0.7 else data[:at] + data[at + 1 :]


def _swap(data, rng):
    one, other = sorted(places(data, rng, 2))
    size = int(rng.integers(1, 64))
    if other - one < size:
        return data + data[:size]
    middle = data[one + size : other]
    tail = data[other + size :]
    return (
        data[:one] + data[other : other + size] + middle + data[one : one + size] + tail
    )


def _global(data, rng):
    """A name of the file becomes one that acts, in the same words of the language."""
    names = [b"collections", b"OrderedDict", b"torch._utils", b"_rebuild_tensor_v2"]
    names += [b"torch.storage", b"_load_from_bytes", b"torch", b"FloatStorage"]
    module, member = ACTS[rng.integers(len(ACTS))]
    pairs = zip(names[::2], names[1::2], strict=True)
    for old, new in [
        p for pair in pairs for p in zip(pair, (module, member), strict=True)
    ]:
        raw = new.encode()
        for size in (1, 4):  # with its length before it, or between line ends
            data = data.replace(
                len(old).to_bytes(size, "little") + old,
                len(raw).to_bytes(size, "little") + raw,
            )
        data = data.replace(b"c" + old + b"\n", b"c" + raw + b"\n")
        data = data.replace(b"\n" + old + b"\n", b"\n" + raw + b"\n")
    return data


def _length(data, rng):
    """Something that may be a length becomes huge, or negative."""
    out = bytearray(data)
    for at in places(data, rng, 3):
        size = int(rng.choice([1, 4, 8]))
        out[at : at + size] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * size
    return bytes(out[: len(data)])


def _repeat(data, rng):
    at, size = places(data, rng, 1)[0], int(rng.integers(1, 300))
    return data[:at] + data[at : at + size] * int(rng.integers(2, 200)) + data[at:]


def outcome(path: Path) -> tuple[str, float]:
    """How reading ended, and its seconds. Anything else than these two raises."""
    start, message = time.perf_counter(), None
    WATCH.on = True
    try:
        found = read_checkpoint(path)
        assert isinstance(found, Checkpoint)
    except CheckpointError as error:
        message = str(error)
    finally:
        WATCH.on = False
    seconds = time.perf_counter() - start
    if message is None:
        return "read", seconds
    assert "\n" not in message
    assert len(message) < 2000
    return "refused", seconds
