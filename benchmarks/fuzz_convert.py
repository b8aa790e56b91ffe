"""Ten thousand damaged and forged checkpoints: how reading each of them ends.

    python benchmarks/fuzz_convert.py

An honest file of each format, small and of a network of 209 arrays, is changed: bits
flipped, words of the pickle language put in, parts cut, swapped and repeated, lengths
and names replaced; in zip files also behind the checksums. Every file must end in a
`CheckpointError` or be read, in less than five seconds, and without one of the events
by which Python code acts (`mutations.FORBIDDEN`). Every 21st, of all formats in turn,
is read once more with its allocations counted.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from mutations import FORBIDDEN, WATCH, mutate, outcome, seeds

SEED = 20260101
SECONDS = 5.0
SPARE = 100 << 20  # bytes, beside twice the file


def run(count: int, *, golden: bool, folder: Path) -> dict[str, object]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=7000)
    parser.add_argument("--golden", type=int, default=3000)
    chosen = parser.parse_args()
    record.provenance()
    with tempfile.TemporaryDirectory() as folder:
        small = run(chosen.small, golden=False, folder=Path(folder))
        print(small)
        golden = run(chosen.golden, golden=True, folder=Path(folder))
        print(golden)
    bounds = {"seconds": SECONDS, "bytes_beyond_twice_the_file": SPARE}
    results = {"seed": SEED, "bounds": bounds, "forbidden": FORBIDDEN}
    parts = {"small_files": small, "a_network_of_209_arrays": golden}
    if chosen.small + chosen.golden >= 10_000:  # a shorter run is a trial
        record.save("fuzz_convert", {**results, **parts})
    bad = [part for part in (small, golden) if not part["within_bounds"]]
    if bad or any(p["failures"] or p["forbidden_events"] for p in (small, golden)):
        sys.exit("a reader failed")


if __name__ == "__main__":
    main()
