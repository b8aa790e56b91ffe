"""The tables of the suite, from its rows."""

import numpy as np

from .. import bench
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
