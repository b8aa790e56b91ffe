"""The table of channels and shocks, from the rows of the suite."""

from .. import bench
from .finer import WAYS as FINER
from .learned import WAYS
from .problems_steady import METHODS, PROBLEMS

TARGETS = {"channels": "ln of the flow", "shocks": "the initial field"}


@bench.table("generators_steady", "generators")
def steady(results):
    """The score of each method with its seeds, and what its weights are worth."""
    lines = []
    for problem in PROBLEMS:
        for method in (*METHODS, *FINER, *WAYS):
            rows = results.where(problem=problem, method=method)
            if not rows:
                continue
            brier = rows.values("brier") if "brier" in rows[0].metrics else []
            sizes = [row["effective_median"] for row in rows]
            least = min(row["effective_least"] for row in rows)
            half = max(row["crps_half_width"] for row in rows)
            crps = bench.with_range(rows.values("crps"))
            lines.append(
                (problem, TARGETS[problem], f"{method}, {rows[0]['draws']} draws",
                 len(rows), f"{crps} ± {half:.2g}",
                 bench.with_range(brier) if brier else "-",
                 f"{sorted(sizes)[len(sizes) // 2]:.0f} ({least:.0f})")
            )  # fmt: skip
    head = (
        "problem", "target", "method", "seeds", "CRPS ± 95% over truths",
        "Brier of the connection", "effective, median (least)",
    )  # fmt: skip
    return bench.markdown(head, lines) if lines else "Not measured yet."
