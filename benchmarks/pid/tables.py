"""The tables and the figure of the suite, from its rows."""

import numpy as np

from .. import bench
from .students import ITSELF, RECIPES, SHORT

TITLES = {
    "ring": "The ring of eight in the plane, an exact teacher",
    "mixture": "A mixture of eight Gaussians in 64 dimensions, exact",
    "digits": "Digits by class, a learned teacher",
    "learned": "The mixture in 64 dimensions, learned from samples",
    "patches": "Colour patches of photographs, 16 by 16, a learned teacher",
}


def suite():
    return bench.SUITES["pid"]


def by_method(rows, group):
    """Rows of the methods of a group, in the order of the suite; others last."""
    known = suite().methods
    names = [name for name, how in known.items() if how.group == group]
    names += [n for n in dict(rows.by("method")) if n not in known and not group]
    parts = {name: rows.where(method=name) for name in names}
    return {name: some for name, some in parts.items() if some}


def label(name):
    known = suite().methods
    return known[name].label if name in known else name


def number(rows, name, index=-1):
    """The mean over seeds, and their range."""
    values = [row[name] for row in rows if name in row.metrics]
    values = [v[index] if isinstance(v, list) else v for v in values]
    bad = sum("diverged" in row.metrics for row in rows)
    text = "" if not values else spread(values)
    return text + (f" ({bad} of {len(rows)} diverged)" if bad else "")


def spread(values):
    low, high, mean = min(values), max(values), float(np.mean(values))
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


def share(rows, name):
    """The mean over seeds, in per cent."""
    values = [row[name] for row in rows if name in row.metrics]
    return f"{100 * np.mean(values):.1f}%" if values else ""


def mean(rows, name):
    return number(rows, name).split(" ")[0]


def distance(rows, who="student"):
    some = [row["sliced_wasserstein"] for row in rows
            if "sliced_wasserstein" in row.metrics]  # fmt: skip
    return f"{np.mean([s[who] for s in some]):.4f}" if some else ""


def steps(row):
    return row.configuration["method"].get("steps")


@bench.table("pid_ablation", "pid")
def ablation(rows):
    """Every problem by itself; then one change at a time."""
    parts = []
    for problem in dict.fromkeys([*TITLES, *suite().problems]):
        kind = suite().problems[problem].kind
        some = by_method(rows.where(problem=problem), "") if not kind else {}
        if some:
            title = TITLES.get(problem, suite().problems[problem].label)
            parts += [f"### {title}", heads(some)]
    for problem in TITLES:
        some = by_method(rows.where(problem=problem), "parts")
        if some:
            title = f"{TITLES[problem]}: the integral student, one part at a time"
            parts += [f"### {title}", heads(some)]
    short = by_method(rows.where(problem="ring"), "short")
    parts += [
        f"### One change at a time (ring, {SHORT:,} steps of Muon)",
        changes(short),
    ]
    return "\n\n".join(parts)


def heads(parts):
    """The methods of one problem."""
    head = ("method", "seeds", "steps", "RMS at $t_{min}$ (range of seeds)")
    head += ("median", "99%", "elsewhere", "sliced W2")
    lines = [
        (
            label(name),
            len(some),
            f"{steps(some[0]):,}" if steps(some[0]) else "",
            number(some, "rms"),
            mean(some, "median"),
            mean(some, "p99"),
            share(some, "elsewhere"),
            distance(some),
        )
        for name, some in parts.items()
    ]
    some = next(iter(parts.values()))
    last = f"Sliced W2 of the teacher: {distance(some, 'teacher')}; "
    return bench.markdown(head, lines) + f"\n\n{last}floor: {distance(some, 'floor')}."


def changes(parts):
    """Each change alone, to the recipes trained by Muon; seeds in the last column."""
    table = {}
    for name, some in parts.items():
        how = suite().methods[name].run
        table.setdefault(how.change, {})[how.recipe] = some
    lines = []
    for change, found in table.items():
        cells = [change or "nothing"]
        for recipe in RECIPES:
            absent = "as it is" if change in ITSELF.get(recipe, ()) else ""
            some = found.get(recipe)
            cells.append(absent if some is None else number(some, "rms"))
        seeds = sorted({len(some) for some in found.values()})
        lines.append((*cells, ", ".join(map(str, seeds))))
    head = ("changed", "the paper's preset", "ours", "knowledge distillation", "seeds")
    return bench.markdown(head, lines)


@bench.table("pid_summary", "pid")
def summary(rows):
    """The recipes on all problems, RMS alone: for the README."""
    problems = ("ring", "mixture", "digits", "learned")
    lines = []
    more = {"integral": "integral student", "kd, fresh pairs": "fresh pairs"}
    for recipe, said in (RECIPES | more).items():
        found = [rows.where(problem=p, method=recipe) for p in problems]
        lines.append((said, *map(error_and_steps, found)))
    return bench.markdown(
        ["method", *(suite().problems[p].label for p in problems)], lines
    )


def error_and_steps(rows):
    """The mean error, the steps, and the seeds if there are fewer than three."""
    if not rows:
        return "not measured"
    seeds = "" if len(rows) > 2 else ", one seed" if len(rows) == 1 else ", two seeds"
    return f"{mean(rows, 'rms')} ({steps(rows[0]):,} steps{seeds})"


@bench.table("pid_steps", "pid")
def several_steps(rows):
    """The error of an integral student in 1, 2 and 4 evaluations, and who is astray."""
    found = [row for row in rows if "in_2_steps" in row.metrics]
    known = suite().problems
    lines = []
    for row in found:
        cells = [
            f"{way['rms'][-1]:.4f} "
            f"({100 * way['elsewhere']:.1f}%; {way['rms_of_others']:.4f})"
            for way in (row.metrics, row["in_2_steps"], row["in_4_steps"])
        ]
        lines.append((known[row.problem].label, label(row.method), *cells))
    head = ["problem", "method", "1 step", "2 steps", "4 steps"]
    return bench.markdown(head, lines) if lines else "Not measured."


@bench.table("pid_stability", "pid")
def stability(rows):
    """Least eigenvalues of A and of its symmetric part."""
    shown = (0.5, 1.0, 1.1, 1.2, 2.0)
    head = ["derivative", "nodes", *(f"$a = {a:g}$" for a in shown)]
    head += ["eigenvalue, $a = 1$", "$a = 2$", "largest / least, $a = 1$"]
    lines = []
    for row in rows.where(problem="linear"):
        nodes = {}
        for one in row["eigenvalues"]:
            nodes.setdefault(one["n"], {})[one["slope"]] = one
        for n, found in nodes.items():
            cells = [f"{found[a]['least_symmetric']:.2f}" for a in shown]
            cells += [f"{found[a]['least_real_part']:.3f}" for a in (1.0, 2.0)]
            one = found[1.0]
            cells.append(f"{one['largest'] / one['least_real_part']:,.0f}")
            cells.append(f"{one['amplification']:.1f}")
            lines.append((label(row.method), n, *cells))
    return bench.markdown([*head, "amplification"], lines)


@bench.table("pid_quadrature", "pid")
def quadrature(rows):
    """The error of the trajectory at zero residual, by the number of nodes."""
    found = [row for row in rows if row.method.startswith("quadrature")]
    sizes = [one["nodes"] for one in found[0]["rows"]] if found else []
    lines = [
        (
            row.problem,
            label(row.method),
            *(
                f"{one['rms']:.5f} ({100 * one['elsewhere']:.1f}%)"
                for one in row["rows"]
            ),
        )
        for row in sorted(found, key=lambda row: row.problem)
    ]
    return bench.markdown(["problem", "nodes", *map(str, sizes)], lines)


@bench.table("pid_origin", "pid")
def origin(rows):
    """What the teacher's ODE makes of the student's state at each time."""
    found = [(suite().methods[row.method].run.recipe, row["times"])
             for row in rows if "origin" in row.method]  # fmt: skip
    lines = []
    for times in zip(*(part for _, part in found), strict=True):
        cells = [f"{one['rms_at_end']:.3f} ({100 * one['share_elsewhere']:.1f}%)"
                 for one in times]  # fmt: skip
        lines.append((f"{times[0]['time']:.3g}", *cells))
    head = ["the student's state at $t$", *(RECIPES[recipe] for recipe, _ in found)]
    return bench.markdown(head, lines)


@bench.table("pid_cost", "pid")
def cost(rows):
    """Milliseconds a step, the pairs' solves, and samples a second."""
    found = rows.where(method="cost: steps")
    head = ["ms a step", *(f"{row.problem}, batch {row['batch']}" for row in found)]
    lines = [
        (cases[0]["case"], *(f"{case['ms_median']:.1f}" for case in cases))
        for cases in zip(*(row["rows"] for row in found), strict=True)
    ]
    pairs = [f"{row['pairs_seconds']:.1f} s" for row in found]
    lines.append(("its 16,384 pairs, once", *pairs))
    some = rows.where(method="cost: samples")
    speeds = [
        (
            ways[0]["way"],
            *(
                f"{way['samples_per_second']:,.0f} ({way['evaluations']:g} evaluations)"
                for way in ways
            ),
        )
        for ways in zip(*(row["rows"] for row in some), strict=True)
    ]
    more = ["samples a second, batch 1024", *(row.problem for row in some)]
    return bench.markdown(head, lines) + "\n\n" + bench.markdown(more, speeds)


@bench.figure("pid_curves.svg", "pid")
def curves(rows):
    """Error against iteration, as the paper's Figure 6, for each number of nodes."""
    import matplotlib.pyplot as plt

    import pidax as px

    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.6), sharey=True, layout="constrained"
    )
    parts = by_method(rows.where(problem="ring"), "short")
    for ax, recipe in zip(axes, ("paper", "ours"), strict=True):
        found = {}
        for name, some in parts.items():
            how = suite().methods[name].run
            if how.recipe == recipe and set(how.choices) <= {"times"}:
                grid = some[0].configuration["method"]["choices"]["times"]
                alone = not (how.optimiser != "Muon" or how.scale > 1)
                if grid["kind"] == "karras" and alone:
                    curve = np.array([r["curve"] for r in some if "curve" in r.metrics])
                    found[grid["nodes"]] = curve[..., :2].mean(axis=0).T
        for colour, (nodes, curve) in zip(
            px.plot.COLOURS, sorted(found.items()), strict=False
        ):
            ax.semilogy(*curve, color=colour, label=f"N = {nodes}")
        ax.set(xlabel="step", title=RECIPES[recipe])
        ax.grid(True, which="both", color="0.9", lw=0.6)
    axes[0].set_ylabel("RMS error of the sample")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


@bench.figure("pid_yardstick.svg", "pid")
def yardstick(rows):
    """Error against work: the integral student beside regression on solved pairs.

    Work is processor time, with the solves of the pairs; rows that lack it are left
    out, and problems on which one of the two has none.
    """
    import matplotlib.pyplot as plt

    import pidax as px

    said = {
        "integral": "PID, integral student: no answers",
        "kd, fresh pairs": "regression on solved pairs, each seen once",
        "kd, 4,096 pairs": "regression on 4,096 solved pairs",
    }
    found: dict[str, dict[str, list]] = {}
    for row in rows:
        if row.method in said and "cpu_seconds" in row.cost:
            found.setdefault(row.problem, {}).setdefault(row.method, []).append(row)
    problems = [p for p in TITLES if len(found.get(p, {})) > 1]
    size = (max(5.5, 3.4 * len(problems)), 3.6)
    figure, axes = plt.subplots(
        1, len(problems), figsize=size, layout="constrained", squeeze=False
    )
    colours = dict(zip(said, px.plot.COLOURS, strict=False))
    labels = {}
    for ax, problem in zip(axes[0], problems, strict=True):
        for method, some in found[problem].items():
            for row in some:
                step, error, *_ = np.array(row["curve"]).T
                minutes = row.cost["cpu_seconds"] / 60 * step / step[-1]
                (line,) = ax.semilogy(minutes, error, color=colours[method])
                labels[said[method]] = line
        ax.set(xlabel="processor minutes", title=suite().problems[problem].label)
        ax.grid(True, which="both", color="0.9", lw=0.6)
    axes[0][0].set_ylabel("RMS error of the sample")
    figure.legend(
        list(labels.values()), list(labels), loc="outside lower center", frameon=False
    )
    return figure
