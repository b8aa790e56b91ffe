"""Residual against distance to the data, and what the weight of the residual does.

    python benchmarks/piddm_figure.py

draws docs/figures/piddm.svg from benchmarks/results/piddm.json: on the left each way to
make Darcy's fields, one point a seed, refinements joined to the student they start
from; on the right students of several weights after the same number of steps.
"""

import matplotlib.pyplot as plt
import numpy as np
import piddm_tables

import pidax as px

TARGET = piddm_tables.ROOT / "docs/figures/piddm.svg"
LABELS = {
    "Gaussian": "Gaussian coordinates, no network",
    "teacher": "teacher, by its solver",
    "distillation": "distillation alone",
    "PIDDM (a)": "PIDDM, pairs",
    "PIDDM (b)": "PIDDM, no pairs",
    "direct optimisation": "direct optimisation",
}
MARKS = {"": "o", "refinement": "s", "fields held": "D", "no anchor": "x"}


def points(rows, name):
    """(residual, sliced W), one a seed."""
    some = [r for r in rows if (r["problem"], r["row"]) == ("darcy16", name)]
    return np.array([(r["residual"], r["sliced_wasserstein"]) for r in some])


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
    found = sorted(
        (
            float(r["row"].removeprefix("weight ")),
            r["residual"],
            r["sliced_wasserstein"],
        )
        for r in rows
        if r["problem"] == "darcy16" and r["row"].startswith("weight ")
    )
    ax.set(xlabel="weight of the residual", title="750 steps, one seed")
    if not found:
        return
    weight, residual, distance = np.array(found).T
    ax.set_xscale("symlog", linthresh=1)
    ax.set(ylim=(0, 1.15 * max(residual.max(), distance.max())))
    ax.plot(weight, residual, "o-", color=px.plot.COLOURS[0], label="relative residual")
    ax.plot(weight, distance, "s-", color=px.plot.COLOURS[1], label="sliced W")
    ax.legend(frameon=False, fontsize=8)


def main():
    rows = piddm_tables.load()["piddm"]["rows"]
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.2), width_ratios=(1.5, 1), layout="constrained"
    )
    scatter(axes[0], rows)
    weights(axes[1], rows)
    for ax in axes:
        ax.grid(True, which="both", color="0.92", lw=0.6)
    figure.savefig(TARGET)
    print(f"saved {TARGET}")


if __name__ == "__main__":
    main()
