"""The training engine: its speed beside a bare loop, and what it costs to be safe.

    python benchmarks/engine.py            # all of it, about 25 minutes on two cores
    python benchmarks/engine.py speed      # or one part: speed, checkpoint, memory,
                                           # parallel, quality

Writes benchmarks/results/engine.json, part by part. `speed` compares `fit` with a
hand-written jitted loop on the same model, loss, optimiser and average in the same run,
in turns. `parallel` and `memory` run in processes of their own.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import engine_parts
import numpy as np
import record

TARGET = record.RESULTS / "engine.json"
ROUNDS = 7


def speed():
    """Steps per second of `fit` and of the bare loop, in turns."""
    rows = []
    for case in engine_parts.CASES:
        make = engine_parts.CASES[case]
        start = time.perf_counter()
        bare = engine_parts.bare_loop(make())
        bare(1)
        bare_first = time.perf_counter() - start
        pairs, firsts = [], []
        for _ in range(ROUNDS):
            rate, first = engine_parts.fit_rate(make())
            firsts.append(first)
            pairs.append((rate, bare(make().steps)))
        mine, theirs = (np.array(column) for column in zip(*pairs, strict=True))
        rows.append(
            {
                "case": case,
                "fit_steps_per_second": sorted(map(float, mine)),
                "bare_steps_per_second": sorted(map(float, theirs)),
                "ratio_median": float(np.median(mine / theirs)),
                "ratio_range": [
                    float((mine / theirs).min()),
                    float((mine / theirs).max()),
                ],
                "seconds_to_first_step": float(np.median(firsts)),
                "bare_seconds_to_first_step": bare_first,
                "parameters": engine_parts.parameters(make().model),
                "batch_size": make().batch_size,
            }
        )
        print(rows[-1])
    return rows


def checkpoint():
    """Milliseconds and bytes of one checkpoint, written and read."""
    from pidax.train._checkpoint import Checkpoints

    rows = []
    for case, make in engine_parts.CASES.items():
        work = make()
        result = engine_parts.fit(work, steps=1)
        with tempfile.TemporaryDirectory() as folder:
            kept = Checkpoints(Path(folder), {}, 3, result.decays)
            kept.prepare()
            kept.release()
            writes, reads = [], []
            for step in range(20):
                start = time.perf_counter()
                kept.write(result.state, step, None)
                writes.append(time.perf_counter() - start)
                start = time.perf_counter()
                kept.read_last(result.state)
                reads.append(time.perf_counter() - start)
            size = max(path.stat().st_size for path in kept.files().values())
        rows.append(
            {
                "case": case,
                "write_ms": 1e3 * float(np.median(writes)),
                "read_ms": 1e3 * float(np.median(reads)),
                "bytes": size,
                "model_bytes": 4 * engine_parts.parameters(work.model),
                "averages": len(result.decays),
            }
        )
        print(rows[-1])
    return rows


def memory():
    """The compiled step's memory, by XLA's own account, against the model's."""
    rows = []
    for case, make in engine_parts.CASES.items():
        rows.append({"case": case, **engine_parts.step_memory(make())})
        print(rows[-1])
    return rows


def parallel():
    """Milliseconds a step: one device, two fake ones, two processes; equal work."""
    rows = []
    for name, devices, processes in (
        ("1 device", 1, 1),
        ("2 fake devices", 2, 1),
        ("2 processes", 1, 2),
    ):
        rows.append({"where": name, **engine_parts.parallel_row(devices, processes)})
        print(rows[-1])
    return rows


def quality():
    """Sliced W2 of a learned two-moons teacher to held-out data, and its floor."""
    return engine_parts.two_moons()


PARTS = {f.__name__: f for f in (speed, checkpoint, memory, parallel, quality)}


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    chosen = parser.parse_args().parts or list(PARTS)
    record.provenance()  # as the run starts
    done = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name in chosen:
        print(f"\n{name}")
        rows = PARTS[name]()
        done[name] = {
            **record.provenance(),
            "dtype": "float32",
            "seeds": engine_parts.SEEDS,
            "rows": rows,
        }
        record.RESULTS.mkdir(exist_ok=True)
        TARGET.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    if "PIDAX_WORKER" in os.environ:
        engine_parts.worker()
    else:
        main()
