"""The tables and the figure of the suite, from its rows."""

import functools

import numpy as np

from pidax.inference import Cost, Training

from .. import bench
from .jensen import COLUMNS
from .problems import Fields

COUNT = Fields.samples
TRIVIAL = {
    "u = 0": "u = 0",
    "generate a, then solve": "the teacher's given, then solve",
}
HEAD = (
    "method", "residual", "re-solve", "boundary", "MMSE", "SMSE", "sliced W",
    "evaluations", "ms a sample", "training, s", "pays off after",
)  # fmt: skip
METRICS = (
    "residual", "resolve", "boundary", "mean_error", "spread_error",
    "sliced_wasserstein",
)  # fmt: skip
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


def suite():
    return bench.SUITES["piddm"]


def values(rows, name):
    return [row[name] for row in rows if row.get(name) is not None]


def pays_off(rows, teacher):
    """Samples after which training has paid off against the trained teacher's."""
    first = rows[0]
    training, seconds = first.cost.get("training"), first.cost.get("seconds")
    if not (teacher and training and seconds) or first.method == "teacher":
        return "-"
    if first.processor != teacher[0].processor:
        return "-"
    spent = Training(seconds=training["seconds"])
    own = Cost(samples=COUNT, seconds=seconds, training=spent)
    other = Cost(samples=COUNT, seconds=teacher[0].cost["seconds"])
    after = own.pays_off_after(other)
    return "never" if after == float("inf") else f"{after:.2g}"


def cells(rows, teacher):
    found = [bench.with_range(values([r.metrics for r in rows], n)) for n in METRICS]
    costs = [row.cost for row in rows]
    calls = costs[0].get("evaluations")
    found.append("-" if calls is None else f"{calls:.3g}")
    seconds = [cost["seconds"] / COUNT for cost in costs if cost.get("seconds")]
    found.append(bench.short(1e3 * float(np.mean(seconds))) if seconds else "-")
    spent = [cost["training"]["seconds"] for cost in costs if cost.get("training")]
    found.append(f"{np.mean(spent):.0f}" if spent else "-")
    found.append(pays_off(rows, teacher))
    return found


def lines(rows, group):
    """The methods of a group on one problem, and the trivial answers."""
    teacher = rows.where(method="teacher")
    named = {m.name: m.label for m in suite().methods.values() if m.group == group}
    if not group:
        more = [n for n in dict(rows.by("method")) if n not in suite().methods]
        named |= {name: name for name in more}
    for name, label in named.items():
        some = rows.where(method=name)
        if not some:
            continue
        yield (label, *cells(some, teacher))
        if name == "teacher":
            for trivial, text in TRIVIAL.items():
                found = [r["trivial"][trivial] for r in some
                         if trivial in r["trivial"]]  # fmt: skip
                if found:
                    short = (bench.with_range(values(found, n)) for n in METRICS)
                    yield (text, *short, "-", "-", "-", "-")


def problem_table(problem, rows):
    """Every method on one problem."""
    label = suite().problems[problem].label
    some = rows.where(problem=problem)
    if not some:
        return f"**{label}**: not measured yet."
    seeds = len({row.seed for row in some})
    said = f"{seeds} seed{'s' if seeds > 1 else ''}"
    table = bench.markdown(HEAD, lines(some, ""))
    return f"**{label}** ({said}, {COUNT} samples)\n\n{table}"


for _name in ("darcy16", "poisson16", "poisson16-exact", "burgers32", "darcy32"):
    bench.table(f"piddm {_name}", "piddm")(functools.partial(problem_table, _name))


@bench.table("piddm sweeps", "piddm")
def sweeps(rows):
    return bench.markdown(HEAD, lines(rows.where(problem="darcy16"), "sweep"))


@bench.table("piddm_summary", "piddm")
def summary(rows):
    """Residual and law on Darcy 16 x 16: for the README."""
    found = []
    for name, label in BRIEF.items():
        some = rows.where(problem="darcy16", method=name)
        if some:
            calls = some[0].cost.get("evaluations")
            both = [some.values(n) for n in ("residual", "sliced_wasserstein")]
            shown = "-" if calls is None else f"{calls:.3g}"
            found.append((label, *map(bench.with_range, both), shown))
    head = ("method", "relative residual", "sliced W", "evaluations")
    return bench.markdown(head, found)


@bench.table("piddm jensen", "piddm")
def jensen(rows):
    """The gap against the noise level."""
    (row,) = rows.where(problem="jensen")
    lines = [
        (f"{one['noise']:.2g}", *(bench.short(one.get(name)) for name in COLUMNS))
        for one in row["rows"]
    ]
    return bench.markdown(("noise", *COLUMNS), lines)


@bench.table("piddm inverse", "piddm")
def inverse(rows):
    """Errors beside spreads, by student, measurements and slack."""
    lines = []
    for name, how in suite().methods.items():
        for row in rows.where(method=name) if how.group == "inverse" else ():
            pairs = zip(row["error"], row["spread"], strict=True)
            said = how.run.student, how.run.observed, f"{how.run.slack:g}"
            found = [bench.short(value) for pair in pairs for value in pair]
            lines.append((*said, *found, bench.short(row["relative_residual"])))
    head = ("student", "measured", "slack", "error of a", "spread", "error of u")
    return bench.markdown((*head, "spread", "relative residual"), lines)


@bench.table("piddm posterior", "piddm")
def posterior(rows):
    """Errors of mean and spread, over seeds; then one problem by several methods."""
    known = suite().methods
    group = lambda name: tuple(m for m, how in known.items() if how.group == name)
    found = []
    for (problem, method), some in rows.where(method=group("posterior")).by(
        "problem", "method"
    ):
        how = known[method].run
        ratios = some.values("spread_ratio")
        ratio = f"{np.mean(ratios):.3f}" if ratios else "none to compare"
        names = ("mean_error", "sampling_error", "converged")
        error, floor, converged = (np.mean(some.values(n)) for n in names)
        found.append((problem, f"{how.share:.0%}", f"{how.noise:.0%}", f"{error:.1%}",
                      f"{floor:.1%}", ratio, f"{converged:.0%}"))  # fmt: skip
    head = ("observed", "points", "noise", "error of the mean", "of exact samples")
    first = bench.markdown((*head, "spread, mean ratio", "converged"), found)
    seeds = len({row.seed for row in rows.where(method=group("posterior"))})
    ways = []
    for row in rows.where(method=group("ways")):
        calls, ratio = row.cost.get("network"), row["spread_ratio"]
        each = "-" if calls is None else f"{calls / row.cost['samples']:.0f}"
        ways.append((known[row.method].label, f"{row['mean_error']:.1%}",
                     "-" if ratio is None else format(ratio, ".3f"),
                     f"{row['objective']:.4g}", each,
                     f"{row.cost['seconds']:.3g}"))  # fmt: skip
    head = ("solver and anchor", "error of the mean", "spread, mean ratio", "objective")
    second = bench.markdown((*head, "network", "seconds"), ways)
    text = (
        f"Means over {seeds} truths; relative L2, against the exact posterior. "
        "Reconstruction at 10% of points with 10% noise, other ways:"
    )
    return f"{first}\n\n{text}\n\n{second}"


# --- the figure ----------------------------------------------------------------------

LABELS = {
    "Gaussian": "Gaussian coordinates, no network",
    "teacher": "teacher, by its solver",
    "distillation": "distillation alone",
    "PIDDM (a)": "PIDDM, pairs",
    "PIDDM (b)": "PIDDM, no pairs",
    "direct optimisation": "direct optimisation",
}
MARKS = {"": "o", "refinement": "s", "fields held": "D", "no anchor": "x"}


def points(rows, method):
    """(residual, sliced W), one a seed."""
    some = rows.where(problem="darcy16", method=method)
    return np.array([(row["residual"], row["sliced_wasserstein"]) for row in some])


def variants(name):
    """The rows of a method: plain, refined in two ways, refined without an anchor."""
    if name == "direct optimisation":
        return {"refinement": f"{name}, held", "no anchor": name}
    if name == "Gaussian":
        return {"": name, "refinement": "Gaussian + direct optimisation, held"}
    return {
        "": name,
        "refinement": f"{name} + refinement",
        "fields held": f"{name} + refinement, fields held",
        "no anchor": f"{name} + refinement, no anchor",
    }


def scatter(ax, rows):
    """Every method; what they would reach at best is the line of the data."""
    import pidax as px

    for colour, (name, label) in zip(px.plot.COLOURS, LABELS.items(), strict=False):
        path = []
        for kind, row in variants(name).items():
            found = points(rows, row)
            if not len(found):
                continue
            style = {"color": colour, "marker": MARKS[kind], "ls": "none", "ms": 6}
            if name == "teacher":  # its own student lies on it
                style |= {"mfc": "none", "ms": 11}
            ax.plot(*found.T, label=label if not path else None, **style)
            path.append(found.mean(axis=0))
        ax.plot(*np.array(path).T, color=colour, lw=0.7, alpha=0.6)
    floor = points(rows, "data")
    if len(floor):
        level = floor[:, 1].mean()
        ax.axhline(level, color="0.5", lw=1, ls="--")
        ax.annotate("held-out data", (0.01, level), fontsize=8, color="0.4",
                    xycoords=ax.get_yaxis_transform(), va="bottom")  # fmt: skip
    for kind, label in (
        ("s", "refined, coefficient's latents held"),
        ("D", "refined, coefficient held"),
        ("x", "refined, no anchor"),
    ):
        ax.plot([], [], kind, color="0.4", label=label)
    ax.set(xscale="log", yscale="log", xlabel="relative residual, median",
           ylabel="sliced W to the data", title="Darcy, 16 × 16")  # fmt: skip
    ax.set_yticks([0.05, 0.1, 0.2, 0.4], labels=["0.05", "0.1", "0.2", "0.4"])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=7.5)


def weights(ax, rows):
    """Residual and distance against the weight; the first is without."""
    import pidax as px

    found = sorted(
        (suite().methods[row.method].run.recipe.weight, row["residual"],
         row["sliced_wasserstein"])
        for row in rows.where(problem="darcy16")
        if row.method.startswith("weight ")
    )  # fmt: skip
    ax.set(xlabel="weight of the residual", title="750 steps, one seed")
    if not found:
        return
    weight, residual, distance = np.array(found).T
    ax.set_xscale("symlog", linthresh=1)
    ax.set(ylim=(0, 1.15 * max(residual.max(), distance.max())))
    ax.plot(weight, residual, "o-", color=px.plot.COLOURS[0], label="relative residual")
    ax.plot(weight, distance, "s-", color=px.plot.COLOURS[1], label="sliced W")
    ax.legend(frameon=False, fontsize=8)


@bench.figure("piddm.svg", "piddm")
def figure(rows):
    """Residual against distance to the data, and what the residual's weight does.

    On the left each way to make Darcy's fields, one point a seed, refinements joined to
    the student they start from; on the right students of several weights after the same
    number of steps.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.2), width_ratios=(1.5, 1), layout="constrained"
    )
    scatter(axes[0], rows)
    weights(axes[1], rows)
    for ax in axes:
        ax.grid(True, which="both", color="0.92", lw=0.6)
    return figure
