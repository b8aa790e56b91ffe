"""The numbers of physics as they stand in docs/pde.md and the README.

    python benchmarks/pde_tables.py

writes the tables between the pages' marks, from benchmarks/results/pde_generate.json
and pde_metrics.json. What has no file yet is said to be not measured. A test compares.
"""

import json
from pathlib import Path
from typing import NamedTuple

import marks

ROOT = Path(__file__).parent.parent
ABSENT = "not measured"
SIZES = (16, 32, 64, 128, 256)
SPLIT = "by sine and cosine transforms"


class Equation(NamedTuple):
    """One line of the table; `measured` is its name in pde_generate.json."""

    formula: str
    maker: str
    dimensions: str
    solver: str
    kind: str
    measured: str | None


EQUATIONS = (
    Equation(r"$\Delta u = f$", "Poisson", "1 to 3", f"direct, {SPLIT}", "linear",
             "Poisson"),
    Equation(r"$\Delta u + k^2 u = f$", "Helmholtz", "1 to 3", f"direct, {SPLIT}",
             "linear", "Helmholtz"),
    Equation(r"$-\nabla\cdot(a\nabla u) = f$", "Darcy", "1 to 3",
             "preconditioned conjugate gradients (Lineax)", "bilinear",
             "Darcy, two materials"),
    Equation("the same, $a$ smooth", "Darcy.lognormal", "1 to 3", "the same",
             "bilinear", "Darcy, lognormal"),
    Equation("the same, a well and a sink", "Darcy.source_sink", "2", "the same",
             "bilinear", "Darcy, source and sink"),
    Equation(r"$u_t = \nu\Delta u$", "Heat", "1 to 3", f"exact in time, {SPLIT}",
             "linear", "Heat"),
    Equation(r"the same, $\nu$ of each sample its own", "RandomHeat", "1 to 3",
             "the same", "nonlinear", None),
    Equation(r"$u_t + u\,u_x = \nu u_{xx}$", "Burgers", "1",
             "Fourier; ETDRK4 (Diffrax)", "nonlinear", "Burgers"),
    Equation(r"$u_t + (u^2/2)_x = 0$", "InviscidBurgers", "1", "Godunov's scheme",
             "nonlinear", "Burgers, inviscid"),
    Equation(r"$\omega_t + u\cdot\nabla\omega = \nu\Delta\omega + f$",
             "NavierStokes", "2", "Fourier; ETDRK4 (Diffrax)", "nonlinear",
             "Navier-Stokes"),
)  # fmt: skip


def load():
    results = ROOT / "benchmarks/results"
    files = {n: results / f"{n}.json" for n in ("pde_generate", "pde_metrics")}
    return {n: json.loads(f.read_text()) for n, f in files.items() if f.exists()}


def find(results, name, size=64):
    """The measurement of one equation, at this size where there are several."""
    rows = [] if results is None else results["rows"]
    mine = [row for row in rows if row["equation"] == name]
    fitting = [row for row in mine if row["grid"][0] == size]
    return (fitting or (mine if len(mine) == 1 else []) or [None])[0]


def table(*lines):
    """Rows of cells, the first of which is the head."""
    rows = ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def milliseconds(row):
    if row is None:
        return ABSENT
    points = " x ".join(map(str, row["grid"]))
    return f"{row['draw_and_solve_ms']['median']:.3g} ({points})"


def equations(results):
    """Equation, class, dimensions, solver, residual, cost of a sample."""
    head = ("equation", "class", "dimensions", "solver", "residual", "ms a sample")
    rows = [
        (
            e.formula,
            f"[`{e.maker}`][pidax.pde.{e.maker}]",
            e.dimensions,
            e.solver,
            e.kind,
            milliseconds(find(results, e.measured)),
        )
        for e in EQUATIONS
    ]
    return table(head, *rows)


def summary(results):
    """The same, short: for the README."""
    head = ("equation", "class", "solver", "ms a sample")
    rows = [
        (
            e.formula,
            f"`{e.maker}`",
            e.solver,
            milliseconds(find(results, e.measured)),
        )
        for e in EQUATIONS
    ]
    return table(head, *rows)


def cost(results):
    """Solving alone by the size of the grid, and beside the reference at 64^2."""
    if results is None:
        return "Not measured yet."
    names = ["Poisson", "Helmholtz", "Darcy, lognormal", "Darcy, two materials"]
    names.append("Navier-Stokes")
    head = (
        "ms a solve",
        *(f"{n} x {n}" for n in SIZES),
        "exponent",
        "float32, 64 x 64",
    )
    lines = [head]
    for name in names:
        found = [find(results, name, n) for n in SIZES]
        cells = [
            ABSENT if row is None else f"{row['solve_ms']['median']:.3g}"
            for row in found
        ]
        exponent = results["exponents"].get(name)
        cells.append(ABSENT if exponent is None else f"{exponent:.2f}")
        middle = find(results, name)
        cells.append(single(middle))
        lines.append((name, *cells))  # type: ignore[arg-type]
    beside = [
        ("at 64 x 64", "pidax", "reference", "times faster", "largest difference")
    ]
    for name in names:
        row = find(results, name)
        if row is None or "reference_ms" not in row:
            continue
        beside.append(
            (
                name,
                f"{row['solve_ms']['median']:.3g} ms",
                f"{row['reference_ms']['median']:.3g} ms",
                f"{row['times_faster']:.1f}",
                f"{row['largest_difference'] / row['size_of_solution']:.0e}",
            )
        )
    return table(*lines) + "\n\n" + table(*beside)


def single(row):
    """What float32 makes of a solve: time, error, residual."""
    if row is None:
        return ABSENT
    found = row["float32"]
    return (
        f"{found['solve_ms']['median']:.3g}, error {found['relative_error']:.0e}, "
        f"residual {found['relative_residual']:.0e}"
    )


def metrics(results):
    """Each published metric and our columns, set by set."""
    if results is None:
        return "Not measured yet."
    parts = []
    for part in results["metrics"]:
        name = f"**{part['problem']}**"
        head = (name, "published", "residual", "re-solve", "sliced W")
        rows = [
            (
                row["set"],
                number(row["published"]),
                number(row["residual"]),
                number(row["resolve"]),
                number(row["sliced_wasserstein"]),
            )
            for row in part["rows"]
        ]
        parts.append(table(head, *rows))
    return "\n\n".join(parts)


def number(value):
    """Four digits; what is only rounding as its power of ten."""
    if value is None:
        return "no solution"
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) < 1e-4 else f"{value:.4g}"


def resolutions(results):
    """True data by several stencils."""
    if results is None:
        return "Not measured yet."
    head = (
        "relative residual of true data",
        "points an axis",
        "in pixels",
        "with $1/h$",
        "with $1/h$, away from walls",
        "the equation's own",
    )
    rows = [
        (
            row["data"],
            row["n"],
            number(row["pixels"]),
            number(row["wide"]),
            number(row["wide_inside"]) if "wide_inside" in row else "",
            number(row["own"]),
        )
        for row in results["resolutions"]
    ]
    return table(head, *rows)


def texts(results):
    """The text between each pair of marks."""
    generated, judged = results.get("pde_generate"), results.get("pde_metrics")
    return {
        "pde_equations": equations(generated),
        "pde_cost": cost(generated),
        "pde_metrics": metrics(judged),
        "pde_resolutions": resolutions(judged),
        "pde_summary": summary(generated),
    }


def main():
    marks.write(texts(load()))


if __name__ == "__main__":
    main()
