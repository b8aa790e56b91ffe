"""The tables of docs/pde.md and the README, from the rows of the suite."""

from typing import NamedTuple

import numpy as np

from .. import bench

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
             "preconditioned conjugate gradients (Lineax)",
             "bilinear (nonlinear with harmonic means)",
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
    Equation("the same on a circle", "PeriodicInviscidBurgers", "1",
             "the same; exact by Lax-Oleinik", "nonlinear", None),
    Equation(r"$-\epsilon^2\Delta u + u^3 - u = s\,g$", "Bistable", "1 to 3",
             "gradient flow, then Newton (Optimistix)", "nonlinear", None),
    Equation(r"$\omega_t + u\cdot\nabla\omega = \nu\Delta\omega + f$",
             "NavierStokes", "2", "Fourier; ETDRK4 (Diffrax)", "nonlinear",
             "Navier-Stokes"),
    Equation(r"the same, $f = -\kappa\cos\kappa y$, its attractor", "Kolmogorov", "2",
             "the same", "nonlinear", None),
    Equation(r"$u_t + u\,u_x + u_{xx} + u_{xxxx} = 0$, its attractor",
             "KuramotoSivashinsky", "1", "the same", "nonlinear", None),
    Equation(r"$\phi_t = \Delta(\phi^3 - \phi - w^2\Delta\phi)$, late",
             "CahnHilliard", "1 to 3", "the same", "nonlinear", None),
)  # fmt: skip


def find(rows, name, size=64):
    """The measurement of one equation, at this size where there are several."""
    square = f"{name}, {size} x {size}"
    found = rows.where(method="cost", problem=(square, str(name)))
    return found[0] if found else None


def milliseconds(row):
    if row is None:
        return ABSENT
    points = " x ".join(map(str, row["grid"]))
    return f"{row['draw_and_solve_ms']['median']:.3g} ({points})"


@bench.table("pde_equations", "pde")
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
    return bench.markdown(head, rows)


@bench.table("pde_summary", "pde")
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
    return bench.markdown(head, rows)


@bench.table("pde_cost", "pde")
def cost(results):
    """Solving alone by the size of the grid, and beside the reference at 64^2."""
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
        cells.append(exponent([row for row in found[1:] if row is not None]))
        middle = find(results, name)
        cells.append(single(middle))
        lines.append((name, *cells))  # type: ignore[arg-type]
    beside = [
        ("at 64 x 64", "pidax", "reference", "times faster", "largest difference")
    ]
    for name in names:
        row = find(results, name)
        if row is None or "reference_ms" not in row.metrics:
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
    first = bench.markdown(lines[0], lines[1:])
    return first + "\n\n" + bench.markdown(beside[0], beside[1:])


def exponent(rows):
    """The cost a sample as a power of the number of points, from 32 an axis on."""
    if len(rows) < 3:
        return ABSENT
    points = [np.log(np.prod(row["grid"])) for row in rows]
    cost = [np.log(row["solve_ms"]["median"]) for row in rows]
    return f"{np.polyfit(points, cost, 1)[0]:.2f}"


def single(row):
    """What float32 makes of a solve: time, error, residual."""
    if row is None:
        return ABSENT
    found = row["float32"]
    return (
        f"{found['solve_ms']['median']:.3g}, error {found['relative_error']:.0e}, "
        f"residual {found['relative_residual']:.0e}"
    )


@bench.table("pde_steppers", "pde")
def steppers(results):
    """Our ETDRK4 beside exponax's: time and error of a step, in both precisions."""
    head = ("equation, precision", "pidax", "exponax", "exponax, in Fourier space",
            "times faster", "error: pidax", "exponax")  # fmt: skip
    lines = []
    for row in results.where(method="beside exponax"):
        name = row.problem.removesuffix(", stepper")
        for dtype in ("float32", "float64"):
            one = row[dtype]
            cells = [f"{1e3 * one[k]:.3g} µs" for k in
                     ("ours_ms", "exponax_ms", "exponax_in_waves_ms")]  # fmt: skip
            factors = one["times_faster"], one["times_faster_than_in_waves"]
            errors = [number(one[k]) for k in ("ours_error", "exponax_error")]
            faster = f"{factors[0]:.2g}, {factors[1]:.2g}"
            lines.append((f"{name}, {dtype}", *cells, faster, *errors))
    return bench.markdown(head, lines)


@bench.table("pde_metrics", "pde")
def metrics(results):
    """Each published metric and our columns, set by set."""
    parts = []
    for part in results.where(method="published metric"):
        name = f"**{part.problem}**"
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
        parts.append(bench.markdown(head, rows))
    return "\n\n".join(parts)


def number(value):
    """Four digits; what is only rounding as its power of ten."""
    if value is None:
        return "no solution"
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) < 1e-4 else f"{value:.4g}"


@bench.table("pde_resolutions", "pde")
def resolutions(results):
    """True data by several stencils."""
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
        for row in results.where(method="true data")[0]["rows"]
    ]
    return bench.markdown(head, rows)
