"""Error against iteration, as the paper's Figure 6, where the truth is known.

    python benchmarks/pid_figure.py

draws docs/figures/pid_curves.svg from benchmarks/results/pid_ablation.json: for each
number of nodes, the paper's preset and ours on the ring, mean over seeds.
"""

import matplotlib.pyplot as plt
import numpy as np
import pid_tables
from pid_settings import SHORT

import pidax as px

TARGET = pid_tables.ROOT / "docs/figures/pid_curves.svg"


def curves(groups, recipe):
    """By N, (steps, mean RMS) of the rows that differ in N alone, N ascending."""
    found = {}
    for name, group in groups.items():
        where, of, change, steps = name.split("/")
        nodes = {"paper": 250, "ours": 35}[recipe] if change == "-" else None
        if change.startswith("N = "):
            nodes = int(change.removeprefix("N = "))
        if (where, of, int(steps)) == ("ring", recipe, SHORT) and nodes is not None:
            every = np.array([row["curve"] for row in group if "diverged" not in row])
            found[nodes] = every[..., 0].mean(axis=0), every[..., 1].mean(axis=0)
    return dict(sorted(found.items()))


def main():
    rows = pid_tables.load()["pid_ablation"]["rows"]
    groups = pid_tables.grouped(rows)
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.6), sharey=True, layout="constrained"
    )
    for ax, recipe in zip(axes, ("paper", "ours"), strict=True):
        for colour, (nodes, curve) in zip(
            px.plot.COLOURS, curves(groups, recipe).items(), strict=False
        ):
            ax.semilogy(*curve, color=colour, label=f"N = {nodes}")
        ax.set(xlabel="step", title=pid_tables.RECIPES[recipe])
        ax.grid(True, which="both", color="0.9", lw=0.6)
    axes[0].set_ylabel("RMS error of the sample")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(TARGET)
    print(f"saved {TARGET}")


if __name__ == "__main__":
    main()
