"""The figure and the tables of benchmarks/results/reference_solve.json.

Writes docs/figures/work_precision.svg, and the tables between their marks.
"""

import json
from pathlib import Path

import marks
import record

ROOT = Path(__file__).parent.parent
# What a table shows: a title, and the row of the JSON (clock, solver, mode, setting).
SHORT = [
    ("pidax, default", ("angle", "default", "adaptive", 1e-4)),
    ("pidax, `steps=6`", ("angle", "Dopri5", "fixed", 6)),
    ("pidax, `steps=12`", ("angle", "Dopri5", "fixed", 12)),
    ("the default, `sigma_data=0.5`", ("angle", "Tsit5", "adaptive", 1e-4, 0.5)),
    ("`steps=6`, `sigma_data=0.5`", ("angle", "Dopri5", "fixed", 6, 0.5)),
    ("`steps=12`, `sigma_data=0.5`", ("angle", "Dopri5", "fixed", 12, 0.5)),
    ("EDM's Heun, 18 nodes", ("time", "EDM's Heun", "fixed", 17)),
    ("EDM's Heun, 36 nodes", ("time", "EDM's Heun", "fixed", 35)),
]
LONG = [
    *SHORT,
    *[
        (
            f"adaptive {solver}, 1e-{digits}, {clock} clock",
            (clock, solver, "adaptive", 10.0**-digits),
        )
        for solver, digits in (("Tsit5", 4), ("Tsit5", 6), ("Dopri8", 8))
        for clock in ("angle", "log-time", "time")
    ],
    *[
        (f"{count} steps of {solver}, angle clock", ("angle", solver, "fixed", count))
        for solver, counts in (
            ("Euler", (32, 256)),
            ("Heun", (17, 35)),
            ("Tsit5", (6, 8, 16)),
            ("Dopri5", (8, 16)),
            ("Dopri8", (4, 8)),
        )
        for count in counts
    ],
]


def load():
    return json.loads((record.RESULTS / "reference_solve.json").read_text())


def find(rows, d, row):
    clock, solver, mode, setting, *sigma_data = row
    wanted = (d, clock, solver, mode, setting, *(sigma_data or [0.728]))
    names = ("d", "clock", "solver", "mode", "setting", "sigma_data")
    (found,) = [r for r in rows if tuple(r[name] for name in names) == wanted]
    return found


def cell(row):
    calls = f"{row['evaluations']:.0f}"
    if row["evaluations_max"] != row["evaluations"]:
        calls += f" (max {row['evaluations_max']})"
    return f"{calls} | {row['rms']:.1e} | {row['rms_max']:.1e}"


def table(results, titles):
    """Markdown: evaluations, median and worst RMS error over the batches."""
    head = "| solver | evaluations | RMS, d = 64 | worst batch | evaluations |"
    lines = [head + " RMS, d = 2 | worst batch |", "|---" * 7 + "|"]
    for title, row in titles:
        cells = " | ".join(cell(find(results["rows"], d, row)) for d in (64, 2))
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines)


def speed(results):
    """One sentence on throughput."""
    t = results["throughput"]
    return (
        f"Throughput: {t['samples_per_second']:,.0f} samples per second in "
        f"d = {t['d']} ({t['dtype']}, batch {t['batch']}, {t['evaluations']} "
        f"evaluations each, {results['machine']['cores']} CPU cores), "
        f"{t['ratio_to_bare_loop']:.2f} times the speed of a hand-written jitted loop "
        "of the same evaluations."
    )


def texts(results):
    """The text between each pair of marks."""
    figure = "![Error against evaluations](work_precision.svg)"
    long = f"{table(results, LONG)}\n\n{speed(results)}\n\n{figure}"
    short = f"{table(results, SHORT)}\n\n{speed(results)}"
    return {"reference_solve": long, "reference_solve_summary": short}


def draw():
    import matplotlib.pyplot as plt

    import pidax as px

    results = load()
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    rows = [r for r in results["rows"] if r["d"] == 64 and r["sigma_data"] > 0.7]
    heun = [
        {**r, "label": "EDM's Heun"}
        for r in rows
        if r["solver"] == "Heun" and r["clock"] == "time"
    ]
    fixed = [
        {**r, "label": r["solver"]}
        for r in rows
        if r["mode"] == "fixed" and r["clock"] == "angle"
    ]
    px.plot.work_precision([*heun, *fixed], ax=axes[0])
    axes[0].set_title("d = 64: fixed steps, angle clock")
    clocks = [
        {**r, "label": f"Tsit5, {r['clock']} clock"}
        for r in rows
        if r["solver"] == "Tsit5" and r["mode"] == "adaptive"
    ]
    px.plot.work_precision([*heun, *clocks], ax=axes[1])
    axes[1].set_title("d = 64: adaptive Tsit5, by clock")
    solvers = [
        {**r, "label": f"{r['solver']}, adaptive"}
        for r in rows
        if r["mode"] == "adaptive"
        and r["clock"] == "angle"
        and r["solver"] != "default"
    ]
    px.plot.work_precision([*heun, *solvers], ax=axes[2])
    axes[2].set_title("d = 64: adaptive, angle clock")
    for ax in axes:
        ax.set(xlim=(12, 900), ylim=(1e-10, 1))
    target = ROOT / "docs/figures/work_precision.svg"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None})
    marks.write(texts(results))


if __name__ == "__main__":
    draw()
