"""Write a benchmark's numbers with what is needed to believe them."""

import fcntl
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("pidax", "jax", "jaxlib", "equinox", "diffrax", "numpy")


@functools.cache
def provenance() -> dict[str, Any]:
    """The command, machine, versions and commit of this run, as it started."""
    return {
        "command": "python " + " ".join(sys.argv),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "devices": [str(d.device_kind) for d in jax.devices()],
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes_to_src": bool(_git("status", "--porcelain", "src")),
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, results: dict[str, Any]) -> Path:
    """`results/NAME.json`, provenance first."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps({**provenance(), **results}, indent=1) + "\n")
    return target


def rows(name: str) -> list[dict[str, Any]]:
    """The rows that `results/NAME.json` holds so far."""
    target = RESULTS / f"{name}.json"
    return json.loads(target.read_text())["rows"] if target.exists() else []


def append(name: str, row: dict[str, Any], head: dict[str, Any]) -> None:
    """Add a row to `results/NAME.json`; others may be adding theirs.

    `head` is written beside the provenance of this run; a row keeps its own commit and
    processor.
    """
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        head = {**provenance(), **head}
        mine = {key: head[key] for key in ("commit", "uncommitted_changes_to_src")}
        mine["processor"] = head["machine"]["processor"]
        found = {**head, "rows": [*rows(name), {**row, **mine}]}
        target.write_text(json.dumps(found, indent=1) + "\n")


def seconds(fn: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `fn`, compiled and warmed up, results awaited."""
    jax.block_until_ready(fn())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return times


def paired_ratio(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float], float]:
    """Times of two functions in turn, and the median of other/one pair by pair."""
    jax.block_until_ready((one(), other()))
    pairs = [(seconds(one, 1)[0], seconds(other, 1)[0]) for _ in range(repeats)]
    first, second = map(list, zip(*pairs, strict=True))
    return first, second, float(np.median(np.divide(second, first)))


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()
