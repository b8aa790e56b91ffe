"""Ten thousand damaged and forged checkpoints: how reading each of them ends.

An honest file of each format, small and of a network of 209 arrays, is changed: bits
flipped, words of the pickle language put in, parts cut, swapped and repeated, lengths
and names replaced; in zip files also behind the checksums. Every file must end in a
`CheckpointError` or be read, in less than five seconds, and without one of the events
by which Python code acts (`mutations.FORBIDDEN`). Every 21st, of all formats in turn,
is read once more with its allocations counted.
"""

import dataclasses
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np

from .. import bench

SEED = 20260101
SECONDS = 5.0
SPARE = 100 << 20  # bytes, beside twice the file


@dataclasses.dataclass(frozen=True)
class Files:
    """So many files, changed from honest ones."""

    count: int
    golden: bool  # of a network of 209 arrays
    seed: int = SEED


def run(problem: Files, folder: Path) -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from mutations import WATCH, mutate, outcome, seeds

    count, golden = problem.count, problem.golden
    files, ends, path = seeds(folder, golden=golden), Counter(), folder / "file"
    slowest, processor, surplus, failures = 0.0, 0.0, 0, []
    start = time.perf_counter()
    for i in range(count):
        rng = np.random.default_rng([SEED, golden, i])
        kind = list(files)[i % len(files)]
        path.write_bytes(mutate(files[kind], rng))
        before = time.process_time()
        try:
            end, seconds = outcome(path)
            processor = max(processor, time.process_time() - before)
            if i % 21 == 0:
                tracemalloc.start()
                outcome(path)
                peak = tracemalloc.get_traced_memory()[1]
                surplus = max(surplus, peak - 2 * path.stat().st_size)
        except Exception as error:  # whatever a reader should not raise
            failures.append(f"{kind} {i}: {error!r:.200}")
            end, seconds = "failed", 0.0
        finally:
            tracemalloc.stop()
        ends[f"{kind}: {end}"] += 1
        slowest = max(slowest, seconds)
    return {
        "files": count,
        "ends": dict(sorted(ends.items())),
        "failures": failures,
        "forbidden_events": list(WATCH.seen),
        "slowest_seconds": slowest,
        "slowest_processor_seconds": processor,
        "most_bytes_beyond_twice_the_file": surplus,
        "within_bounds": slowest < SECONDS and surplus < SPARE,
        "seconds": time.perf_counter() - start,
    }


@bench.problem("fuzz", "small files", label="small files of every format")
def small(quick):
    return Files(84 if quick else 7000, golden=False)


@bench.problem("fuzz", "large files", label="a network of 209 arrays", quick=False)
def large(quick):
    return Files(21 if quick else 3000, golden=True)


@bench.method("fuzz")
def convert(problem: Files, seed, quick):
    """Read every file; the row fails if one is neither read nor refused."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(problem, Path(folder))
    bad = found["failures"] or found["forbidden_events"] or not found["within_bounds"]
    if bad:
        raise AssertionError(f"expected every file read or refused, got {found}")
    bounds = {"seconds": SECONDS, "bytes_beyond_twice_the_file": SPARE}
    return bench.Outcome({**found, "bounds": bounds})
