"""A row: one method on one problem with one seed, and where its numbers come from."""

import dataclasses
import fcntl
import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from ._configuration import digest

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("pidax", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row; `hash` is that of `configuration`, `cost` has `seconds` at least."""

    suite: str
    problem: str
    method: str
    seed: int
    hash: str
    configuration: Any
    metrics: dict[str, Any]
    cost: dict[str, Any]
    provenance: dict[str, Any]
    processor: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What there is one row of."""
        return self.suite, self.problem, self.method, self.seed

    def __getitem__(self, name: str) -> Any:
        """A metric."""
        return self.metrics[name]

    @property
    def made_by_the_old_runner(self) -> bool:
        """Whether it was measured before there was a configuration to hash."""
        return self.provenance.get("runner") == "old"


class Rows(tuple[Row, ...]):
    """Rows in the order of the file, and parts of them."""

    def where(self, **wanted: Any) -> "Rows":
        """Those whose fields are these, or among these if a tuple is given."""
        fits = lambda have, want: (
            have in want if isinstance(want, tuple) else have == want
        )
        return Rows(
            row
            for row in self
            if all(fits(getattr(row, name), want) for name, want in wanted.items())
        )

    def by(self, *names: str) -> Iterator[tuple[Any, "Rows"]]:
        """Parts with the same fields, in the order of their first rows."""
        value = lambda row: tuple(getattr(row, name) for name in names)
        for key in dict.fromkeys(map(value, self)):
            part = Rows(row for row in self if value(row) == key)
            yield (key if len(names) > 1 else key[0]), part

    def values(self, read: str | Callable[[Row], Any]) -> list[Any]:
        """A metric, or any function, of each row that has one."""
        if callable(read):
            return [read(row) for row in self]
        return [row.metrics[read] for row in self if row.metrics.get(read) is not None]


def read(suite: str, folder: Path | None = None) -> Rows:
    """The rows of a suite's file; none where there is none."""
    file = _file(suite, folder)
    found = json.loads(file.read_text()) if file.exists() else []
    return Rows(Row(**row) for row in found)


def write(row: Row, folder: Path | None = None) -> None:
    """Put a row in its suite's file, in the place of one with its key.

    Others may be adding theirs.
    """
    file = _file(row.suite, folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = {old.key: old for old in read(row.suite, folder)} | {row.key: row}
        lines = [json.dumps(dataclasses.asdict(one)) for one in rows.values()]
        new = file.with_suffix(".new")
        new.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        new.replace(file)


def _file(suite: str, folder: Path | None) -> Path:
    return (RESULTS if folder is None else folder) / f"{suite}.json"


def consistent(row: Row) -> bool:
    """Whether the hash is that of the configuration."""
    return row.hash == digest(row.configuration)


@functools.cache
def provenance() -> dict[str, Any]:
    """Machine, versions and commit of this process, as it started."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes_to_src": bool(_git("status", "--porcelain", "src")),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "machine": {
            "cores": os.cpu_count(),
            "devices": [str(d.device_kind) for d in jax.devices()],
            "system": platform.system(),
        },
    }


def _git(*words: str) -> str:
    run = subprocess.run(
        ["git", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return run.stdout.strip()


@functools.cache
def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()
