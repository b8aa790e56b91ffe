"""The tables of docs/training.md, from the rows of three suites."""

import statistics

import numpy as np

from .. import bench
from ..solvers.images import WAYS
from .engine import LABELS


@bench.table("train step", "train", "solvers")
def step(rows, sampled):
    """A step of PID for an image network, and sampling from it."""
    found = rows.where(problem="ddpmpp32")
    first = found[0]
    parameters = first["pidax"]["parameters"]
    return "\n\n".join(
        [
            f"A step of PID for a DDPM++ of {parameters / 1e6:.2f} million parameters "
            f"(3x32x32, width 32, batch {first['batch']}, N = 250, RAdam, one average, "
            f"float32), beside the same step in PyTorch {first['torch']['torch']}, in "
            "turns and in the same environment (`python -m benchmarks run --suite "
            "train --problem ddpmpp32`, `benchmarks/results/train.json`). Seconds; "
            "forward and backward of the 32 images of a step by themselves on the one "
            "device, or the first.",
            steps(found),
            "The same network on two cores (`python -m benchmarks run --suite solvers "
            "--problem images32`), with random weights, which "
            "determine the number of evaluations of the adaptive solver:",
            samples(sampled.where(problem="images32", method=tuple(WAYS))),
            "The full CIFAR-10 network in bf16, on a GPU: [On a GPU](gpu.md).",
        ]
    )


def steps(rows):
    median = statistics.median
    lines = []
    for row in rows:
        own = row["pidax"]
        step, torch = median(own["step"]), median(row["torch"]["seconds"])
        parts = (
            "forward, 32 images",
            "forward and backward, 32 images",
            "teacher, 16 images",
        )
        times = [f"{median(own[part]):.2f}" for part in parts]
        first = f"{own['first step, compiling']:.0f}"
        peak = f"{own['peak memory of the process, MB'] / 1e3:.1f}"
        ours = (row.method, f"{step:.2f}", f"{torch:.2f}", f"{step / torch:.2f}")
        lines.append((*ours, *times, first, peak))
    head = ("environment", "step, s", "PyTorch, s", "ratio", "forward",
            "forward and backward", "teacher", "to the first step, s",
            "peak memory, GB")  # fmt: skip
    return bench.markdown(head, lines)


def samples(rows):
    lines = [
        (row.method, row["evaluations"], f"{row['images_per_second']:.2f}")
        for row in rows
    ]
    return bench.markdown(("sampler", "evaluations", "images/s"), lines)


@bench.table("engine", "train", "reliability")
def engine(rows, reliable):
    """The engine's speed, what it costs to be safe, and whether it is."""
    return "\n\n".join(
        [
            "Measured on 2 CPU cores, float32, by `python -m benchmarks run` with "
            "`--suite train` and `--suite reliability` (`train.json` and "
            "`reliability.json` in `benchmarks/results`). The bare loop is "
            "hand-written and jitted, with the same model, optimiser and average, its "
            "data on the device, no checks; the two run in turns.",
            speed(rows.where(method="speed")),
            "A checkpoint holds weights, moments and averages. The peak is XLA's own "
            "account of the compiled step, activations of the batch included; the "
            "state is donated, so that it is held once.",
            safety(rows),
            "The same global batch on one device, on two fake devices and in two "
            "processes that share the two cores, so that what is more than the first "
            "row is overhead:",
            parallel(rows.where(method="parallel")),
            quality(rows),
            reliability(reliable),
            "On a GPU: [On a GPU](gpu.md).",
        ]
    )


def speed(rows):
    lines = []
    for row in rows:
        middle = lambda name, row=row: sorted(row[name])[len(row[name]) // 2]
        low, high = row["ratio_range"]
        lines.append(
            (
                LABELS[row.problem],
                f"{row['batch_size']:,}",
                f"{row['parameters']:,}",
                f"{middle('fit_steps_per_second'):.1f}",
                f"{middle('bare_steps_per_second'):.1f}",
                f"{row['ratio_median']:.2f} ({low:.2f} to {high:.2f})",
                f"{row['seconds_to_first_step']:.1f} s / "
                f"{row['bare_seconds_to_first_step']:.1f} s",
            )
        )
    head = ("model", "batch", "parameters", "`fit`, steps/s", "bare loop, steps/s",
            "ratio (range)", "to the first step, `fit` / bare")  # fmt: skip
    return bench.markdown(head, lines)


def safety(rows):
    lines = []
    for row in rows.where(method="checkpoint"):
        (use,) = rows.where(method="memory", problem=row.problem)
        lines.append(
            (
                LABELS[row.problem],
                f"{row['model_bytes'] / 1e6:.1f} MB",
                f"{row['bytes'] / 1e6:.1f} MB",
                f"{row['write_ms']:.0f} ms",
                f"{row['read_ms']:.0f} ms",
                f"{use['state_over_model']:.1f}",
                f"{use['peak_over_model']:.0f}",
            )
        )
    head = ("model", "weights", "checkpoint", "write", "read", "state / weights",
            "peak of a step / weights")  # fmt: skip
    return bench.markdown(head, lines)


def parallel(rows):
    lines = []
    for places in zip(*(row["rows"] for row in rows), strict=True):
        cells = [
            f"{p['ms_per_step']:.1f} ({p['range'][0]:.1f} to {p['range'][1]:.1f})"
            for p in places
        ]
        lines.append((places[0]["where"], *cells))
    return bench.markdown(["ms a step", *(LABELS[row.problem] for row in rows)], lines)


def quality(rows):
    (row,) = rows.where(method="quality")
    mean = lambda name: float(np.mean(row[name]))
    return (
        f"Two moons, the teacher of `examples/train_teacher.py` ("
        f"{row.cost['seconds']:.0f} s of training): sliced $W_2$ to "
        f"{row['count']:,} held-out samples, mean of {row['draws']} draws, "
        f"{mean('teacher'):.4f}; a second held-out set of that size is at "
        f"{mean('held_out_again'):.4f}, so {row['ratio_of_means']:.2f} times; samples "
        f"of the exact denoiser are at {mean('exact_denoiser'):.4f}."
    )


def reliability(rows):
    (killed,), (full,) = (rows.where(method=m) for m in ("kills", "full disk"))
    same = killed["killed"] == killed["alone"]
    whole = full["resumed_with_room"] == full["alone"]
    kept = len(full["checkpoints_kept_and_whole"])
    return (
        f"Killed with SIGKILL {killed['kills']} times in {killed['steps']:,} steps, at "
        f"random moments of start-up, training and writing, and resumed each time: the "
        f"final state is {'bit for bit' if same else 'NOT'} the state of the run "
        "without kills. "
        f"On a {full['file_system']} with room for {kept} checkpoints "
        f"{full['checkpoints_refused']} later ones were refused, the {kept} stayed "
        f"whole, and resumed with room the run ended "
        f"{'with the same bits' if whole else 'DIFFERENTLY'}."
    )
