"""The tables of the suite, from its rows."""

import numpy as np

from .. import bench

PLACES = {
    "noisy": "linear Gaussian, noise 0.1",
    "exact": "linear Gaussian, exact values",
}


def lines(rows, problem):
    """One line of each method, over its seeds."""
    for name in bench.SUITES["constrained"].methods:
        some = rows.where(problem=problem, method=name)
        if not some:
            continue
        number = lambda key, some=some: bench.with_range(some.values(key))
        cost = [row.cost for row in some if "network" in row.cost]
        each = lambda key, cost=cost: np.mean([c[key] / c["samples"] for c in cost])
        spent = (
            ("-", "-", "-")
            if not cost
            else (
                f"{each('network'):.0f}",
                f"{each('vjp') + each('jvp'):.0f}",
                f"{1e3 * each('seconds'):.2g}",
            )
        )
        sizes = some.values("effective")
        size = f"{np.mean(sizes):.0f}" if sizes else "-"
        yield name, number, spent, size


@bench.table("constrained noisy", "constrained")
def noisy(rows):
    """Bias of every method where the values have noise."""
    found = [
        (name, number("w2"), number("mean_error"), number("std_ratio"),
         number("seen_ratio"), size, *spent)
        for name, number, spent, size in lines(rows, PLACES["noisy"])
    ]  # fmt: skip
    head = ("method", "W2", "error of the mean", "spread / exact", "spread of the seen",
            "effective", "evaluations", "products", "ms")  # fmt: skip
    return bench.markdown(head, found) if found else "Not measured yet."


@bench.table("constrained exact", "constrained")
def exact(rows):
    """Bias and misfit of every method where the values are exact."""
    found = [
        (name, number("w2"), number("mean_error"), number("std_ratio"),
         number("misfit"), *spent)
        for name, number, spent, _ in lines(rows, PLACES["exact"])
    ]  # fmt: skip
    head = ("method", "W2", "error of the mean", "spread / exact", "misfit",
            "evaluations", "products", "ms")  # fmt: skip
    return bench.markdown(head, found) if found else "Not measured yet."
