"""The engine's numbers as they stand in docs/training.md.

    python benchmarks/engine_table.py

writes them between the page's marks, from benchmarks/results/engine.json and
reliability.json. A test compares.
"""

import json
from pathlib import Path

import marks

ROOT = Path(__file__).parent.parent


def load():
    """Both results."""
    results = ROOT / "benchmarks/results"
    names = ("engine", "reliability")
    return {n: json.loads((results / f"{n}.json").read_text()) for n in names}


def speed(engine):
    lines = [
        "| model | batch | parameters | `fit`, steps/s | bare loop, steps/s | ratio "
        "(range) | to the first step, `fit` / bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in engine["speed"]["rows"]:
        middle = lambda name, row=row: sorted(row[name])[len(row[name]) // 2]
        low, high = row["ratio_range"]
        lines.append(
            f"| {row['case']} | {row['batch_size']:,} | {row['parameters']:,} | "
            f"{middle('fit_steps_per_second'):.1f} | "
            f"{middle('bare_steps_per_second'):.1f} | {row['ratio_median']:.2f} "
            f"({low:.2f} to {high:.2f}) | {row['seconds_to_first_step']:.1f} s / "
            f"{row['bare_seconds_to_first_step']:.1f} s |"
        )
    return "\n".join(lines)


def safety(engine):
    lines = [
        "| model | weights | checkpoint | write | read | state / weights | peak of a "
        "step / weights |",
        "|---|---|---|---|---|---|---|",
    ]
    memory = {row["case"]: row for row in engine["memory"]["rows"]}
    for row in engine["checkpoint"]["rows"]:
        use = memory[row["case"]]
        lines.append(
            f"| {row['case']} | {row['model_bytes'] / 1e6:.1f} MB | "
            f"{row['bytes'] / 1e6:.1f} MB | {row['write_ms']:.0f} ms | "
            f"{row['read_ms']:.0f} ms | {use['state_over_model']:.1f} | "
            f"{use['peak_over_model']:.0f} |"
        )
    return "\n".join(lines)


def parallel(engine):
    lines = ["| ms a step | " + " | ".join(_cases(engine)) + " |", "|---|---|---|"]
    for row in engine["parallel"]["rows"]:
        cells = [
            f"{r['ms_per_step']:.1f} ({r['range'][0]:.1f} to {r['range'][1]:.1f})"
            for r in row["rows"]
        ]
        lines.append(f"| {row['where']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cases(engine):
    return [row["case"] for row in engine["parallel"]["rows"][0]["rows"]]


def quality(engine):
    part = engine["quality"]["rows"]
    (row, *_) = part["rows"]
    mean = lambda name: sum(row[name]) / len(row[name])
    return (
        f"Two moons, the teacher of `examples/train_teacher.py` ("
        f"{row['training_seconds']:.0f} s of training): sliced $W_2$ to "
        f"{part['count']:,} held-out samples, mean of {part['draws']} draws, "
        f"{mean('teacher'):.4f}; a second held-out set of that size is at "
        f"{mean('held_out_again'):.4f}, so {row['ratio_of_means']:.2f} times; samples "
        f"of the exact denoiser are at {mean('exact_denoiser'):.4f}."
    )


def reliability(results):
    killed, full = results["killed"], results["full_disk"]
    same = killed["killed"] == killed["alone"]
    whole = full["resumed_with_room"] == full["alone"]
    kept = len(full["checkpoints_kept_and_whole"])
    return (
        f"Killed with SIGKILL {killed['kills']} times in {killed['steps']:,} steps, at "
        f"random moments of start-up, training and writing, and resumed each time: the "
        f"final state is {'bit for bit' if same else 'NOT'} that of the run left "
        "alone. "
        f"On a {full['file_system']} with room for {kept} checkpoints "
        f"{full['checkpoints_refused']} later ones were refused, the {kept} stayed "
        f"whole, and resumed with room the run ended "
        f"{'with the same bits' if whole else 'DIFFERENTLY'}."
    )


def texts(results):
    """The text between each pair of marks."""
    engine = results["engine"]
    text = "\n\n".join(
        [
            "Measured on 2 CPU cores, float32, by `python benchmarks/engine.py` and "
            "`python benchmarks/reliability.py` (`benchmarks/results/engine.json`, "
            "`reliability.json`). The bare loop is hand-written and jitted, with the "
            "same model, optimiser and average, its data on the device, no checks; the "
            "two run in turns.",
            speed(engine),
            "A checkpoint holds weights, moments and averages. The peak is XLA's own "
            "account of the compiled step, activations of the batch included; the "
            "state is donated, so that it is held once.",
            safety(engine),
            "The same global batch on one device, on two fake devices and in two "
            "processes that share the two cores, so that what is more than the first "
            "row is overhead:",
            parallel(engine),
            quality(engine),
            reliability(results["reliability"]),
            "On a GPU: [On a GPU](gpu.md).",
        ]
    )
    return {"engine": text}


def main():
    marks.write(texts(load()))


if __name__ == "__main__":
    main()
