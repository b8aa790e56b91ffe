"""The numbers of train_step.py and sample.py as they stand in docs/training.md.

    python benchmarks/train_tables.py

writes them between the page's marks. A test compares.
"""

import json
import statistics
from pathlib import Path

import marks

ROOT = Path(__file__).parent.parent


def load():
    """Both results."""
    results = ROOT / "benchmarks/results"
    return {
        name: json.loads((results / f"{name}.json").read_text())
        for name in ("train_step", "sample")
    }


def steps(result):
    median = statistics.median
    lines = [
        "| setting | step, s | PyTorch, s | ratio | forward | forward and backward | "
        "teacher | to the first step, s | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        own = row["pidax"]
        step, torch = median(own["step"]), median(row["torch"]["seconds"])
        parts = (
            "forward, 32 images",
            "forward and backward, 32 images",
            "teacher, 16 images",
        )
        times = " | ".join(f"{median(own[part]):.2f}" for part in parts)
        peak = own["peak memory of the process, MB"] / 1e3
        lines.append(
            f"| {row['case']} | {step:.2f} | {torch:.2f} | {step / torch:.2f} | "
            f"{times} | {own['first step, compiling']:.0f} | {peak:.1f} |"
        )
    return "\n".join(lines)


def samples(result):
    lines = ["| sampler | evaluations | images/s |", "|---|---|---|"]
    lines += [
        f"| {row['way']} | {row['evaluations']} | {row['images_per_second']:.2f} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def texts(results):
    """The text between each pair of marks."""
    step = results["train_step"]
    parameters = step["rows"][0]["pidax"]["parameters"]
    version = step["rows"][0]["torch"]["torch"]
    text = "\n\n".join(
        [
            f"A step of PID for a DDPM++ of {parameters / 1e6:.2f} million parameters "
            f"(3x32x32, width 32, batch {step['batch']}, N = 250, RAdam, one average, "
            f"float32), beside the same step in PyTorch {version}, in turns and in the "
            "same environment (`python benchmarks/train_step.py`, "
            "`benchmarks/results/train_step.json`). Seconds; forward and backward of "
            "the 32 images of a step by themselves on the one device, or the first.",
            steps(step),
            "The same network on two cores (`python benchmarks/sample.py`, "
            "`sample.json`), with random weights; of the adaptive solver the number of "
            "evaluations is theirs:",
            samples(results["sample"]),
            "The full CIFAR-10 network in bf16, on a GPU: [On a GPU](gpu.md).",
        ]
    )
    return {"train step": text}


def main():
    marks.write(texts(load()))


if __name__ == "__main__":
    main()
