"""The numbers of PID as they stand in docs/pid.md, and their figures.

    python benchmarks/pid_tables.py

writes the tables between the page's marks and the figures beside it, from
benchmarks/results/pid_ablation.json and pid_stability.json. A test compares.
"""

import json
from pathlib import Path

import marks
import numpy as np
from pid_settings import ITSELF, SHORT, settings

ROOT = Path(__file__).parent.parent
RECIPES = {"paper": "paper's preset", "ours": "ours", "kd": "knowledge distillation"}


def load():
    results = ROOT / "benchmarks/results"
    names = ("pid_ablation", "pid_stability", "pid_origin", "pid_cost")
    files = {name: results / f"{name}.json" for name in names}
    return {n: json.loads(f.read_text()) for n, f in files.items() if f.exists()}


def grouped(rows):
    """Rows of all seeds by their name, in the order of the settings."""
    groups = {setting.name: [] for setting in settings()}
    for row in rows:
        groups[row["name"]].append(row)
    return {name: group for name, group in groups.items() if group}


def number(group, name, index=-1):
    """The mean over seeds, and their range."""
    values = [row[name][index] for row in group if "diverged" not in row]
    bad = len(group) - len(values)
    text = "" if not values else spread(values)
    return text + (f" ({bad} of {len(group)} diverged)" if bad else "")


def spread(values):
    low, high, mean = min(values), max(values), float(np.mean(values))
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


def distance(group, who="student"):
    some = [row["sliced_wasserstein"][who] for row in group if "diverged" not in row]
    return f"{np.mean(some):.4f}" if some else ""


def heads(groups, problem):
    """The recipes of one problem and what else was run at their length."""
    lines = [
        "| method | seeds | steps | RMS at $t_{min}$ (range of seeds) | median | 99% | "
        "sliced W2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        where, recipe, change, steps = name.split("/")
        if where != problem or (problem == "ring" and int(steps) == SHORT):
            continue
        label = RECIPES[recipe] + ("" if change == "-" else f", {change}")
        lines.append(
            f"| {label} | {len(group)} | {int(steps):,} | {number(group, 'rms')} | "
            f"{number(group, 'median').split(' ')[0]} | "
            f"{number(group, 'p99').split(' ')[0]} | {distance(group)} |"
        )
    some = next(g for n, g in groups.items() if n.startswith(problem + "/"))
    last = f"Sliced W2 of the teacher: {distance(some, 'teacher')}; "
    return "\n".join(lines) + f"\n\n{last}floor: {distance(some, 'floor')}."


def summary(results):
    """The recipes on all problems, RMS alone: for the README."""
    groups = grouped(row for row in results["rows"] if "/-/" in row["name"])
    long = {n: g for n, g in groups.items() if not n.endswith(f"/{SHORT}")}
    problems = {
        "ring": "ring of 8, d = 2",
        "mixture": "8 modes, d = 64",
        "digits": "digits, learned",
        "learned": "8 modes, d = 64, learned",
    }
    lines = [f"| method | {' | '.join(problems.values())} |"]
    lines.append("|---" * (len(problems) + 1) + "|")
    for recipe, label in RECIPES.items():
        cells = []
        for problem in problems:
            name = next(n for n in long if n.startswith(f"{problem}/{recipe}/"))
            steps = int(name.rsplit("/", 1)[1])
            mean = number(long[name], "rms").split(" ")[0]
            cells.append(f"{mean} ({steps:,} steps)")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def changes(groups):
    """Each change alone, to the recipes trained by Muon; seeds in the last column."""
    table = {}
    for name, group in groups.items():
        where, recipe, change, steps = name.split("/")
        if where == "ring" and int(steps) == SHORT:
            table.setdefault(change, {})[recipe] = group
    lines = [
        "| changed | the paper's preset | ours | knowledge distillation | seeds |",
        "|---|---|---|---|---|",
    ]
    for change, found in table.items():
        cells = ["nothing" if change == "-" else change]
        for recipe in RECIPES:
            itself = change in ITSELF.get(recipe, ())
            group = found.get(recipe)
            absent = "as it is" if itself else ""
            cells.append(absent if group is None else number(group, "rms"))
        seeds = sorted({len(group) for group in found.values()})
        lines.append(f"| {' | '.join(cells)} | {', '.join(map(str, seeds))} |")
    return "\n".join(lines)


def stability(results):
    """Least eigenvalues of A and of its symmetric part."""
    table = {}
    for row in results["rows"]:
        table.setdefault((row["derivative"], row["n"]), {})[row["slope"]] = row
    shown = (0.5, 1.0, 1.1, 1.2, 2.0)
    lines = [
        "| derivative | nodes | "
        + " | ".join(f"$a = {a:g}$" for a in shown)
        + " | eigenvalue, $a = 1$ | $a = 2$ | largest / least, $a = 1$ | "
        "$\\max\\kappa + 1$ |",
        "|---" * (len(shown) + 6) + "|",
    ]
    for (name, n), rows in table.items():
        cells = [f"{rows[a]['least_symmetric']:.2f}" for a in shown]
        cells += [f"{rows[a]['least_real_part']:.3f}" for a in (1.0, 2.0)]
        one = rows[1.0]
        cells.append(f"{one['largest'] / one['least_real_part']:,.0f}")
        cells.append(f"{one['amplification']:.1f}")
        lines.append(f"| {name} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation(results):
    groups = grouped(results["rows"])
    parts = []
    titles = {
        "ring": "The ring of eight in the plane, an exact teacher",
        "mixture": "A mixture of eight Gaussians in 64 dimensions, exact",
        "digits": "Digits by class, a learned teacher",
        "learned": "The mixture in 64 dimensions, learned from samples",
    }
    for problem, title in titles.items():
        if any(name.startswith(problem + "/") for name in groups):
            parts += [f"### {title}", heads(groups, problem)]
    if any(n.startswith("ring/") and n.endswith(f"/{SHORT}") for n in groups):
        parts += [
            f"### One change at a time (ring, {SHORT:,} steps of Muon)",
            changes(groups),
        ]
    return "\n\n".join(parts)


def origin(results):
    """What the teacher's ODE makes of the student's state at each time."""
    if results is None:
        return "Not measured yet."
    names = [RECIPES[part["recipe"]] for part in results["students"]]
    lines = [f"| the student's state at $t$ | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for rows in zip(*(part["rows"] for part in results["students"]), strict=True):
        cells = [
            f"{row['rms_at_end']:.3f} ({100 * row['share_elsewhere']:.1f}%)"
            for row in rows
        ]
        lines.append(f"| {rows[0]['time']:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(results):
    """Milliseconds a step, the pairs' solves, and samples a second."""
    if results is None:
        return "Not measured yet."
    names = [part["problem"] for part in results["steps"]]
    titles = [f"{part['problem']}, batch {part['batch']}" for part in results["steps"]]
    lines = [f"| ms a step | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    by_case = zip(*(part["rows"] for part in results["steps"]), strict=True)
    for rows in by_case:
        cells = " | ".join(f"{row['ms_median']:.1f}" for row in rows)
        lines.append(f"| {rows[0]['case']} | {cells} |")
    seconds = [f"{part['pairs_seconds']:.1f} s" for part in results["steps"]]
    lines.append(f"| its 16,384 pairs, once | {' | '.join(seconds)} |")
    lines += ["", f"| samples a second, batch 1024 | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for rows in zip(*(part["rows"] for part in results["samples"]), strict=True):
        cells = [
            f"{row['samples_per_second']:,.0f} ({row['evaluations']:g} evaluations)"
            for row in rows
        ]
        lines.append(f"| {rows[0]['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def texts(results):
    """The text between each pair of marks."""
    return {
        "pid_stability": stability(results["pid_stability"]),
        "pid_ablation": ablation(results["pid_ablation"]),
        "pid_origin": origin(results.get("pid_origin")),
        "pid_cost": cost(results.get("pid_cost")),
        "pid_summary": summary(results["pid_ablation"]),
    }


def main():
    marks.write(texts(load()))


if __name__ == "__main__":
    main()
