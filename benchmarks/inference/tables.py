"""The tables of the suite, from its rows."""

import numpy as np

from .. import bench
from .sensors import PROBLEMS as SENSORS
from .toys import METHODS, PROBLEMS


@bench.table("inference toys", "inference")
def toys(rows):
    """Mean and spread of the first number by each method, beside the exact ones."""
    lines = []
    for problem in PROBLEMS:
        for method in METHODS:
            some = rows.where(problem=problem, method=method)
            if not some:
                continue
            mean, std = (bench.with_range(some.values(n)) for n in ("mean", "std"))
            exact = some[0]["exact_mean"], some[0]["exact_std"]
            sizes = some.values("effective")
            size = f"{np.mean(sizes):.0f}" if sizes else "-"
            lines.append(
                (problem, method, mean, std, f"{exact[0]:g}, {exact[1]:.3g}", size)
            )
    head = ("problem", "method", "mean", "standard deviation", "exact", "effective")
    return bench.markdown(head, lines)


def labelled(rows, group):
    """Rows of a group of methods with the methods' labels, in the suite's order."""
    for name, how in bench.SUITES["inference"].methods.items():
        if how.group == group:
            for row in rows.where(method=name):
                yield how.label, row


def beside_chance(row, name):
    """An error, and the one that chance alone gives; marked where it is more."""
    if f"{name}_error" not in row.metrics:
        return "-"
    error, chance = row[f"{name}_error"], row[f"{name}_mc"]
    mark = "" if row[f"{name}_within"] else " \\*"
    return f"{error:.3f} ({chance:.3f}){mark}"


def coverage(row, level):
    """The share of truths, its interval, and a mark where the level is outside."""
    share, (low, high) = row[f"coverage_{level}"], row[f"coverage_{level}_interval"]
    mark = "" if low <= level / 100 <= high else " \\*"
    return f"{share:.0%} ({low:.0%} to {high:.0%}){mark}"


def effective(row):
    """Effective samples: of the number that is worth least, where chains say so."""
    size = row.metrics.get("number_ess", row.metrics.get("bulk_ess"))
    return "-" if size is None else f"{size:.0f}"


@bench.table("inference sensors", "inference")
def sensors(rows):
    """Errors, coverage and scores of every method, problem by problem."""
    lines = []
    for problem in SENSORS:
        for label, row in labelled(rows.where(problem=problem), "sensors"):
            if "crps_skill" in row.metrics:
                lines.append(
                    (problem, label, row["truths"], beside_chance(row, "mean"),
                     beside_chance(row, "std"), coverage(row, 50), coverage(row, 90),
                     f"{row['crps_skill']:.3f}")
                )  # fmt: skip
    head = (
        "problem", "method", "truths", "error of the mean (by chance)",
        "error of the sd (by chance)", "in 50%", "in 90%", "CRPS skill",
    )  # fmt: skip
    return bench.markdown(head, lines) if lines else "No rows."


@bench.table("inference cost", "inference")
def costs(rows):
    """What one truth costs by every method."""
    lines = []
    for problem in SENSORS:
        for label, row in labelled(rows.where(problem=problem), "sensors"):
            if "crps_skill" not in row.metrics:
                continue
            cost, size = row.cost, row.metrics.get("number_ess")
            rate = "-" if size is None else f"{size / cost['processor']:.0f}"
            lines.append(
                (problem, label, row["samples"], effective(row),
                 f"{cost['solves']:.0f}", f"{cost['products']:.0f}",
                 f"{cost['processor']:.2f}", rate,
                 f"{cost['processor_with_compiling']:.0f}")
            )  # fmt: skip
    head = ("problem", "method", "samples", "effective", "solves", "Jacobian products",
            "seconds", "effective a second", "seconds of the first call")  # fmt: skip
    return bench.markdown(head, lines) if lines else "No rows."


@bench.table("inference learned", "inference")
def learned(rows):
    """Chains in the noise of a student and of its teacher's sampler."""
    lines = [
        (label, row["evaluations"], f"{row['number_ess']:.0f}",
         f"{row.cost['processor']:.2f}", f"{row['ess_per_second']:.3g}",
         coverage(row, 90))
        for label, row in labelled(rows, "learned")
    ]  # fmt: skip
    head = ("chains in the noise of", "evaluations a move", "effective", "seconds",
            "effective a second", "in 90%")  # fmt: skip
    return bench.markdown(head, lines) if lines else "Not measured yet."


KNOWN = {  # what the figure of the toys shows of each: the number that methods miss
    "banana, b = 0.2": "std",
    "banana, b = 1": "std",
    "a u = 1, slack on the residual": "mean",
    "a u = 1, slack on the solution": "mean",
}


@bench.figure("inference_toys.svg", "inference")
def known(rows):
    """Mean or spread by every method and seed, beside the exact one."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(KNOWN), figsize=(11, 2.6), sharey=True, layout="constrained"
    )
    some = [name for name in METHODS if rows.where(problem=tuple(KNOWN), method=name)]
    places = dict(zip(some, range(0, -len(some), -1), strict=True))
    for axis, (problem, number) in zip(axes, KNOWN.items(), strict=True):
        found = rows.where(problem=problem)
        axis.axvline(found[0][f"exact_{number}"], color="C1", lw=1)
        for row in found:
            face = "C0" if row["trusted"] else "none"
            place = row[number], places[row.method]
            axis.plot(*place, "o", color="C0", mfc=face, ms=5)
        if number == "mean":  # of the same scale in all panels
            axis.set_xlim(-0.45, 0.15)
        what = "standard deviation" if number == "std" else "mean"
        axis.set_title(problem, fontsize=9)
        axis.set_xlabel(rf"{what} of $\epsilon_1$")
        axis.spines[["top", "right"]].set_visible(False)
    short = [name.replace("RandomisedMaximumLikelihood", "RML") for name in places]
    axes[0].set_yticks(list(places.values()), short, fontsize=8)
    return figure


@bench.figure("inference_coverage.svg", "inference")
def covered(rows):
    """Coverage at both levels with its interval, problem by problem."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(SENSORS), figsize=(10, 2.8), sharex=True, layout="constrained"
    )
    for axis, problem in zip(axes, SENSORS, strict=True):
        some = [
            (label, row)
            for label, row in labelled(rows.where(problem=problem), "sensors")
            if "crps_skill" in row.metrics
        ]
        for level, colour in ((50, "C0"), (90, "C1")):
            axis.axvline(level / 100, color=colour, lw=0.8, ls=":")
            for y, (_, row) in enumerate(some):
                low, high = row[f"coverage_{level}_interval"]
                axis.plot([low, high], [-y, -y], color=colour, lw=1.5)
                axis.plot(row[f"coverage_{level}"], -y, "o", color=colour, ms=4)
        short = [
            label.replace("RandomisedMaximumLikelihood", "RML") for label, _ in some
        ]
        axis.set_yticks(-np.arange(len(some)), short, fontsize=7)
        axis.set(title=problem, xlim=(0.2, 1.02), xlabel="share of truths inside")
        axis.spines[["top", "right"]].set_visible(False)
    return figure
