"""The numbers of PIDDM as they stand in docs/piddm.md and the README.

    python benchmarks/piddm_tables.py

writes the tables between the page's marks from benchmarks/results/piddm.json,
piddm_posterior.json and jensen.json. A test compares.
"""

import json
from pathlib import Path

import marks
import numpy as np
import piddm

from pidax.inference import Cost, Training

ROOT = Path(__file__).parent.parent
PROBLEMS = {
    "darcy16": "Darcy, 16 x 16",
    "poisson16": "Poisson, 16 x 16, trained teacher",
    "poisson16-exact": "Poisson, 16 x 16, exact teacher",
    "burgers32": "Burgers, 32 rows of 32 points",
    "darcy32": "Darcy, 32 x 32",
}
TRIVIAL = {
    "u = 0": "u = 0",
    "generate a, then solve": "the teacher's given, then solve",
}
HEAD = (
    "| method | residual | re-solve | boundary | MMSE | SMSE | sliced W | "
    "evaluations | ms a sample | training, s | pays off after |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


BRIEF = {
    "teacher": "diffusion model, by its solver",
    "distillation": "distilled by pairs",
    "PIDDM (a)": "PIDDM, with pairs",
    "PIDDM (b)": "PIDDM, without pairs",
    "PIDDM (a) + refinement, fields held": "PIDDM, with pairs, refined (two seeds)",
    "Gaussian": "Gaussian coordinates, no network",
    "Gaussian + direct optimisation, held": "Gaussian coordinates, optimised",
    "its given, then solve": "Gaussian coefficient, solved for the rest",
    "data": "held-out data",
}


def load():
    results = ROOT / "benchmarks/results"
    names = ("piddm", "piddm_posterior", "piddm_inverse", "jensen")
    files = {name: results / f"{name}.json" for name in names}
    return {n: json.loads(f.read_text()) for n, f in files.items() if f.exists()}


def short(value):
    """Three digits, no leading zero's noise."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def over_seeds(rows, name):
    """The mean over seeds, and their range if they differ."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return short(values[0])
    least, most = short(min(values)), short(max(values))
    mean = short(float(np.mean(values)))
    return mean if least == most else f"{mean} ({least} to {most})"


def pays_off(rows, teacher):
    """Samples after which training has paid off against the trained teacher's."""
    first = rows[0]
    if not (teacher and first.get("training") and first.get("seconds")):
        return "-"
    if first["row"] == "teacher" or first["processor"] != teacher[0]["processor"]:
        return "-"
    spent = Training(seconds=first["training"]["seconds"])
    own = Cost(samples=piddm.COUNT, seconds=first["seconds"], training=spent)
    other = Cost(samples=piddm.COUNT, seconds=teacher[0]["seconds"])
    after = own.pays_off_after(other)
    return "never" if after == float("inf") else f"{after:.2g}"


def cells(rows, teacher=()):
    names = ("residual", "resolve", "boundary", "mean_error", "spread_error")
    found = [over_seeds(rows, n) for n in (*names, "sliced_wasserstein")]
    first = rows[0]
    calls = first.get("evaluations")
    found.append("-" if calls is None else f"{calls:.3g}")
    seconds = [row["seconds"] / piddm.COUNT for row in rows if row.get("seconds")]
    found.append(short(1e3 * float(np.mean(seconds))) if seconds else "-")
    spent = [row["training"]["seconds"] for row in rows if row.get("training")]
    found.append(f"{np.mean(spent):.0f}" if spent else "-")
    found.append(pays_off(rows, teacher))
    return found


def table(rows, problem, names):
    """Rows of one problem, with the trivial answers of the teacher's."""
    lines: list[str] = list(HEAD)
    teacher = [r for r in rows if (r["problem"], r["row"]) == (problem, "teacher")]
    for name in names:
        some = [r for r in rows if (r["problem"], r["row"]) == (problem, name)]
        if not some:
            continue
        lines.append(f"| {name} | " + " | ".join(cells(some, teacher)) + " |")
        if name == "teacher":
            for label, text in TRIVIAL.items():
                trivial = [r["trivial"][label] for r in some if label in r["trivial"]]
                if trivial:
                    lines.append(f"| {text} | " + " | ".join(cells(trivial)) + " |")
    seeds = len({r["seed"] for r in rows if r["problem"] == problem})
    said = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return [f"**{PROBLEMS[problem]}** ({said}, {piddm.COUNT} samples)", "", *lines]


def texts(found):
    """The text between each pair of marks."""
    rows = found["piddm"]["rows"]
    blocks = {"piddm_summary": summary(rows)}
    for problem in PROBLEMS:
        if any(r["problem"] == problem for r in rows):
            lines = table(rows, problem, piddm.MAIN)
        else:
            lines = [f"**{PROBLEMS[problem]}**: not measured yet."]
        blocks[f"piddm {problem}"] = "\n".join(lines)
    sweeps = table(rows, "darcy16", piddm.SWEEPS)
    blocks["piddm sweeps"] = "\n".join(sweeps[2:])
    if "jensen" in found:
        blocks["piddm jensen"] = jensen(found["jensen"])
    if "piddm_posterior" in found:
        blocks["piddm posterior"] = posterior(found["piddm_posterior"])
    if "piddm_inverse" in found:
        blocks["piddm inverse"] = inverse(found["piddm_inverse"])
    return blocks


def summary(rows):
    """Residual and law on Darcy 16 x 16: for the README."""
    lines = [
        "| method | relative residual | sliced W | evaluations |",
        "|---|---|---|---|",
    ]
    for name, label in BRIEF.items():
        some = [r for r in rows if (r["problem"], r["row"]) == ("darcy16", name)]
        if some:
            calls = some[0].get("evaluations")
            found = [over_seeds(some, n) for n in ("residual", "sliced_wasserstein")]
            found.append("-" if calls is None else f"{calls:.3g}")
            lines.append(f"| {label} | {' | '.join(found)} |")
    return "\n".join(lines)


def jensen(found):
    """The gap against the noise level."""
    names = found["columns"]
    lines = ["| noise | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in found["rows"]:
        values = [short(row.get(name)) for name in names]
        lines.append(f"| {row['noise']:.2g} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def inverse(found):
    """Errors beside spreads, by student, measurements and slack."""
    lines = [
        "| student | measured | slack | error of a | spread | error of u | spread | "
        "relative residual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        pairs = zip(row["error"], row["spread"], strict=True)
        cells = [short(value) for pair in pairs for value in pair]
        lines.append(
            f"| {row['student']} | {row['observed']} | {row['slack']:g} | "
            f"{' | '.join(cells)} | {short(row['relative_residual'])} |"
        )
    return "\n".join(lines)


def posterior(found):
    """Errors of mean and spread, over seeds; then one problem by several methods."""
    lines = [
        "| observed | points | noise | error of the mean | of exact samples | spread, "
        "mean ratio | converged |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["problem"], r["share"], r["noise"]) for r in found["rows"])
    for key in keys:
        some = [
            r for r in found["rows"] if (r["problem"], r["share"], r["noise"]) == key
        ]
        name, share, noise = key
        ratios = [r["spread_ratio"] for r in some if r["spread_ratio"] is not None]
        ratio = f"{np.mean(ratios):.3f}" if ratios else "none to compare"
        names = ("mean_error", "sampling_error", "converged")
        error, floor, converged = (np.mean([r[n] for r in some]) for n in names)
        lines.append(
            f"| {name} | {share:.0%} | {noise:.0%} | {error:.1%} | {floor:.1%} | "
            f"{ratio} | {converged:.0%} |"
        )
    lines += [
        "",
        f"Means over {len(found['seeds'])} truths; relative L2, against the exact "
        "posterior. Reconstruction at 10% of points with 10% noise, other ways:",
        "",
        "| solver | error of the mean | spread, mean ratio | objective | network | "
        "seconds |",
        "|---|---|---|---|---|---|",
    ]
    for way in found["ways"]:
        calls = way["network"]
        each = "-" if calls is None else f"{calls / way['samples']:.0f}"
        ratio = way["spread_ratio"]
        lines.append(
            f"| {way['way']} | {way['mean_error']:.1%} | "
            f"{'-' if ratio is None else format(ratio, '.3f')} | "
            f"{way['objective']:.4g} | {each} | {way['seconds']:.3g} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    marks.write(texts(load()))
