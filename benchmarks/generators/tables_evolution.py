"""The table of late and chaotic states, from the rows of the suite."""

from .. import bench

NUMBERS = {
    "late Cahn-Hilliard": {
        "kurtosis": "kurtosis",
        "increment_kurtosis": "of increments",
        "interface_share": "interface share",
        "euler_mean": "Euler number",
        "density": "density",
        "euler": "Euler",
    },
    "Kuramoto-Sivashinsky": {
        "kurtosis": "kurtosis",
        "increment_skewness": "skewness of increments",
        "increment_kurtosis": "kurtosis of increments",
        "skewness_in_time": "skewness in time",
        "density": "density",
        "density_of_increments": "density of increments",
    },
    "Kolmogorov": {
        "kurtosis": "kurtosis",
        "increment_kurtosis": "kurtosis of increments",
        "enstrophy_deviation": "deviation of the enstrophy",
        "density": "density",
        "density_of_increments": "density of increments",
        "enstrophy": "enstrophy",
    },
}
SHARED = {"covariance": "covariance", "residual": "residual"}


@bench.table("generators_evolution", "generators")
def evolution(results):
    """Each set of samples, its numbers and its distances to the truths."""
    parts = []
    for problem, names in NUMBERS.items():
        names = names | SHARED
        rows = results.where(problem=problem, method=tuple(LABELS))
        if not rows:
            continue
        lines = [
            (LABELS[row.method], *(f"{row[name]:.3g}" for name in names))
            for row in rows
        ]
        parts.append(bench.markdown((f"**{problem}**", *names.values()), lines))
    return "\n\n".join([*parts, solver(results)])


LABELS = {
    "held-out": "held-out truths",
    "Gaussian": "Gaussian, same covariance",
    "copula": "copula, same density",
}


def solver(results):
    head = ("ms a sample of the solver", "steps", "float32, batch", "float32, alone",
            "float64, batch", "float64, alone")  # fmt: skip
    lines = []
    for row in results.where(method="solver"):
        cells = [
            f"{1e3 * row[dtype][name]:.3g}"
            for dtype in ("float32", "float64")
            for name in ("seconds_a_sample", "seconds_alone")
        ]
        lines.append((row.problem, row["steps"], *cells))
    return bench.markdown(head, lines)
