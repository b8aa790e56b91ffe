"""The numbers of benchmarks/gpu as they stand in docs/gpu.md.

The bench renders them, as it does the tables of its suites.
"""

import functools
import json
from pathlib import Path

from . import bench

ROOT = Path(__file__).parent.parent


def load():
    """The rows of the suite."""
    return json.loads((ROOT / "benchmarks/results/gpu.json").read_text())


def machine(result):
    of, missing = result["machine"], result.get("not_measured", {})
    text = (
        f"One {of['devices'][0]}, jax {result['versions']['jax']}, "
        f"{result['date']}; `benchmarks/results/gpu.json`, by `{result['command']}`."
    )
    if missing:
        each = "; ".join(f"{part} ({why})" for part, why in missing.items())
        text += f" Not measured: {each}."
    return text


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def peaks(rows):
    made = [
        [r["row"].removeprefix("product "), f"{r['teraflops']:.0f} TFLOP/s",
         f"{r['relative_error']:.0e}"]
        for r in rows if "teraflops" in r
    ] + [
        [r["row"], f"{r['terabytes_per_second']:.1f} TB/s", ""]
        for r in rows if "terabytes_per_second" in r
    ]  # fmt: skip
    return table(["operation", "speed", "relative error"], made)


def smoke(rows):
    made = []
    for r in rows:
        if "relative_l2" in r:
            made.append([r["row"], f"{r['relative_l2']:.1e}"])
        elif "relative_error" in r:
            made.append([r["row"], f"{r['relative_error']:.1e}"])
            error = r["gradient_norm_relative_error"]
            made.append([r["row"].replace("loss", "gradient norm"), f"{error:.1e}"])
        elif "rms_from_cpu" in r:
            made.append([f"{r['row']} (RMS)", f"{r['rms_from_cpu']:.1e}"])
        elif "relative_from_cpu" in r:
            made.append([r["row"], f"{r['relative_from_cpu']:.1e}"])
        elif "resumed_differs_by" in r:
            made.append(
                ["a resumed training (weights)", f"{r['resumed_differs_by']:.1e}"]
            )
    return table(["quantity", "relative difference"], made)


def images(rows, torch, peak):
    made = []
    for r in rows:
        made.append(
            [
                f"{r['preset']}, {r['precision']}, {r['row']}",
                f"{r['seconds']:.3f}",
                f"{r['images_per_second']:.0f}",
                f"{r['teraflops']:.0f}",
                f"{r['teraflops'] / peak:.0%}",
                f"{r['peak_memory'] / 1e9:.1f}",
                f"{r['first_line_with_compiling'] - 10 * r['seconds']:.0f}",
            ]
        )
    for r in torch:
        if "seconds" in r:
            made.append(
                [f"PyTorch {r['torch']}, bf16, {r['row']}", f"{r['seconds']:.3f}",
                 f"{r['images_per_second']:.0f}", "", "",
                 f"{r['peak_memory'] / 1e9:.1f}", ""]
            )  # fmt: skip
    head = ["step of PID", "s", "images/s", "TFLOP/s", "of bf16's peak", "GB"]
    return table([*head, "to the first step, s"], made)


def sampling(rows):
    made = [
        [r["row"], str(r["evaluations"]), f"{r['images_per_second']:,.0f}"]
        for r in rows
    ]
    return table(["sampler, bf16, batch 512", "evaluations", "images/s"], made)


def precision(rows):
    made = []
    for r in rows:
        if "rms" in r:
            speed = f"{r['samples_per_second']:,.0f}"
            made.append([r["row"], speed, f"{r['rms']:.0e}", f"{r['worst']:.0e}"])
        else:
            speed = f"{r['solutions_per_second']:,.0f}"
            errors = r["solve_relative_error"], r["median_relative_residual"]
            made.append([r["row"], speed, *(f"{e:.0e}" for e in errors)])
    head = ["computation", "samples/s", "error (RMS; of the solution)"]
    return table([*head, "worst; relative residual"], made)


def fields(rows):
    made = [
        [r["row"], f"{r['residual']:.2g}", f"{r['sliced_wasserstein']:.3f}"]
        for r in rows
    ]
    return table(["Darcy, 64 x 64", "relative residual", "sliced W"], made)


def pmap(rows):
    row = rows[0]
    more = 1e3 * (row["pmap_seconds"] - row["jit_seconds"])
    return (
        f"`eqx.filter_pmap` on {row['devices']} GPU: weights after a step differ by "
        f"{row['weights_differ_by']:g} from the weights with `eqx.filter_jit`; a step "
        f"takes {more:.0f} ms more on the host. `fit` uses it from two devices on."
    )


def of(part, *names):
    """The rows of some parts."""
    return [r for r in part["rows"] if r["part"].startswith(names)]


def peak(result):
    return next(r for r in of(result, "peaks") if r["row"] == "product bf16")


TABLES = {
    "gpu machine": machine,
    "gpu peaks": lambda r: peaks(of(r, "peaks")),
    "gpu smoke": lambda r: smoke(of(r, "smoke")),
    "gpu images": lambda r: images(
        of(r, "images"), of(r, "torch"), peak(r)["teraflops"]
    ),
    "gpu sampling": lambda r: sampling(of(r, "sampling")),
    "gpu pmap": lambda r: pmap(of(r, "pmap")),
    "gpu precision": lambda r: precision(of(r, "precision")),
    "gpu fields": lambda r: fields(of(r, "darcy")),
}
for _mark, _draw in TABLES.items():
    bench.table(_mark)(functools.partial(lambda draw: draw(load()), _draw))
