"""The tables and the figure of the suite, from its rows."""

from .. import bench
from .few_steps import BUDGETS, GRIDS, PRESETS
from .reference import Batch, Solve, name_of

# What a table shows: a title, and the solve.
SHORT = {
    "pidax, default": Solve("angle", "default", "adaptive", 1e-4),
    "pidax, `steps=6`": Solve("angle", "Dopri5", "fixed", 6),
    "pidax, `steps=12`": Solve("angle", "Dopri5", "fixed", 12),
    "the default, `sigma_data=0.5`": Solve("angle", "Tsit5", "adaptive", 1e-4, 0.5),
    "`steps=6`, `sigma_data=0.5`": Solve("angle", "Dopri5", "fixed", 6, 0.5),
    "`steps=12`, `sigma_data=0.5`": Solve("angle", "Dopri5", "fixed", 12, 0.5),
    "EDM's Heun, 18 nodes": Solve("time", "EDM's Heun", "fixed", 17),
    "EDM's Heun, 36 nodes": Solve("time", "EDM's Heun", "fixed", 35),
}
LONG = {
    **SHORT,
    **{
        f"adaptive {solver}, 1e-{digits}, {clock} clock": Solve(
            clock, solver, "adaptive", 10.0**-digits
        )
        for solver, digits in (("Tsit5", 4), ("Tsit5", 6), ("Dopri8", 8))
        for clock in ("angle", "log-time", "time")
    },
    **{
        f"{count} steps of {solver}, angle clock": Solve(
            "angle", solver, "fixed", count
        )
        for solver, counts in (
            ("Euler", (32, 256)),
            ("Heun", (17, 35)),
            ("Tsit5", (6, 8, 16)),
            ("Dopri5", (8, 16)),
            ("Dopri8", (4, 8)),
        )
        for count in counts
    },
}


def cells(rows, solve, problem):
    (row,) = rows.where(problem=problem, method=name_of(solve))
    calls = f"{row['evaluations']:.0f}"
    if row["evaluations_max"] != row["evaluations"]:
        calls += f" (max {row['evaluations_max']})"
    return calls, f"{row['rms']:.1e}", f"{row['rms_max']:.1e}"


def table(rows, titles):
    """Evaluations, median and worst RMS error over the batches."""
    lines = [
        (title, *cells(rows, solve, "mixture64"), *cells(rows, solve, "mixture2"))
        for title, solve in titles.items()
    ]
    head = ("solver", "evaluations", "RMS, d = 64", "worst batch", "evaluations")
    return bench.markdown((*head, "RMS, d = 2", "worst batch"), lines)


def speed(rows):
    """One sentence on throughput."""
    (row,) = rows.where(method="throughput")
    return (
        f"Throughput: {row['samples_per_second']:,.0f} samples per second in "
        f"d = {Batch.d} ({row.provenance['dtype']}, batch {Batch.batch}, "
        f"{row['evaluations']} evaluations each, "
        f"{row.provenance['machine']['cores']} CPU cores), "
        f"{row['ratio_to_bare_loop']:.2f} times the speed of a hand-written jitted "
        "loop of the same evaluations."
    )


@bench.table("reference_solve", "solvers")
def long(rows):
    figure = "![Error against evaluations](work_precision.svg)"
    return f"{table(rows, LONG)}\n\n{speed(rows)}\n\n{figure}"


@bench.table("reference_solve_summary", "solvers")
def short(rows):
    return f"{table(rows, SHORT)}\n\n{speed(rows)}"


@bench.figure("work_precision.svg", "solvers")
def work_precision(rows):
    """Error against evaluations: fixed steps, clocks, adaptive solvers."""
    import matplotlib.pyplot as plt

    import pidax as px

    known = bench.SUITES["solvers"].methods
    points = []
    for row in rows.where(problem="mixture64"):
        solve = known[row.method].run
        if solve.sigma_data > 0.7:
            points.append({**vars(solve), **row.metrics})
    of = lambda label, **wanted: [
        {**p, "label": label(p)}
        for p in points
        if all(p[name] == value for name, value in wanted.items())
    ]
    heun = of(lambda p: "EDM's Heun", solver="Heun", clock="time")
    fixed = of(lambda p: p["solver"], mode="fixed", clock="angle")
    clocks = of(lambda p: f"Tsit5, {p['clock']} clock", solver="Tsit5", mode="adaptive")
    solvers = of(lambda p: f"{p['solver']}, adaptive", mode="adaptive", clock="angle")
    solvers = [p for p in solvers if p["solver"] != "default"]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    titles = ("fixed steps, angle clock", "adaptive Tsit5, by clock",
              "adaptive, angle clock")  # fmt: skip
    for ax, part, title in zip(axes, (fixed, clocks, solvers), titles, strict=True):
        px.plot.work_precision([*heun, *part], ax=ax)
        ax.set(title=f"d = 64: {title}", xlim=(12, 900), ylim=(1e-10, 1))
    return figure


# --- few steps ------------------------------------------------------------------------

TEACHERS = {
    "few_steps_modes": "8 modes, d = 64",
    "few_steps_ring": "ring, d = 2",
    "few_steps_images": "image spectrum",
    "few_steps_digits": "digits, learned",
    "few_steps_photographs": "photographs, learned",
}
COLUMNS = (5, 10, 20, 60)
DRAWN = (
    "DDIM", "EDM's Heun", "DPM-Solver++ 2M", "UniPC-3", "iPNDM-4",
    "noise in log-SNR, 3", "Adams in the angle, 3",
)  # fmt: skip


def best_on_a_grid(rows, problem, preset, budget):
    """Median, evaluations, grid and worst start, on the grid with the least median."""
    found = []
    for grid in GRIDS:
        for row in rows.where(problem=problem, method=f"{preset}, {grid}"):
            found += [(*cell, grid) for cell in _cells(row, budget)]
    return min(found, default=None)


def _cells(row, budget):
    """Median, evaluations and worst of the most evaluations within the budget."""
    cells = zip(row["median"], row["evaluations"], row["worst"], strict=True)
    return [c for c in cells if 0.7 * budget < c[1] <= budget and c[0]][-1:]


@bench.table("few_steps", "solvers")
def few_steps(rows):
    """The median of the best grid, its grid, and its worst start; the best in bold."""
    head = "sampler", *(f"{budget} evaluations" for budget in COLUMNS)
    parts = []
    for problem, title in TEACHERS.items():
        found = {
            p: [best_on_a_grid(rows, problem, p, n) for n in COLUMNS] for p in PRESETS
        }
        found = {p: cells for p, cells in found.items() if any(cells)}
        if not found:
            continue
        best = [
            min(filter(None, column))
            for column in zip(*found.values(), strict=True)
            if any(column)
        ]
        best += [None] * (len(COLUMNS) - len(best))
        lines = [
            (p, *(_shown(c, c == b) for c, b in zip(cells, best, strict=True)))
            for p, cells in found.items()
        ]
        for row in rows.where(problem=problem, method="chosen"):
            cells = [(_cells(row, budget) or [None])[0] for budget in COLUMNS]
            texts = [_against(c, b) for c, b in zip(cells, best, strict=True)]
            lines.append(("`evaluations=`", *texts))
        parts.append(f"**{title}**\n\n{bench.markdown(head, lines)}")
    return "\n\n".join([*parts, "![Error against evaluations](few_steps.svg)"])


def _against(cell, best):
    if cell is None or best is None:
        return "-"
    median, _, worst = cell
    return f"{median:.1e} ({worst:.0e}), {median / best[0]:.2f} times the best"


def _shown(cell, best):
    if cell is None:
        return "-"
    median, _, worst, grid = cell
    number = f"**{median:.1e}**" if best else f"{median:.1e}"
    return f"{number} {grid[0].lower()} ({worst:.0e})"


@bench.table("few_steps_rule", "solvers")
def rule(rows):
    """What `evaluations=` chooses on teachers that it was not made on."""
    head = (
        "teacher", "evaluations", "choice", "its error", "best candidate's",
        "best of the table", "its error", "ratio to it",
    )  # fmt: skip
    lines = []
    for row in rows.where(method="rule"):
        label = bench.SUITES["solvers"].problems[row.problem].label
        others = rows.where(problem=row.problem, method="table")
        for i, calls in enumerate(row["evaluations"]):
            error, best = row["error"][i], row["best"][i]
            line = label, calls, row["chosen"][i], f"{error:.1e}", f"{best:.1e}"
            for other in others:
                errors = {k: v for k, v in other["errors"][i].items() if v}
                name = min(errors, key=errors.__getitem__)
                least = errors[name]
                line += name, f"{least:.1e}", f"{error / least:.2f}"
            lines.append(line + ("-",) * (len(head) - len(line)))
    return bench.markdown(head, lines)


@bench.table("few_steps_speed", "solvers")
def few_steps_speed(rows):
    """Samples a second beside bare loops."""
    head = "sampler", "teacher", "samples a second", "of a bare loop's speed"
    lines = [
        (
            row.method.removeprefix("speed: "),
            bench.SUITES["solvers"].problems[row.problem].label,
            f"{row['samples_per_second']:,.3g}",
            f"{row['ratio_to_bare_loop']:.2f}",
        )
        for row in rows
        if row.method.startswith("speed: ")
    ]
    return bench.markdown(head, lines) if lines else "Not measured yet."


@bench.figure("few_steps.svg", "solvers")
def few_steps_figure(rows):
    """Error against evaluations of each sampler on its best grid."""
    import matplotlib.pyplot as plt

    import pidax as px

    teachers = [p for p in TEACHERS if any(row.problem == p for row in rows)]
    wide = 3
    tall = -(-len(teachers) // wide)
    size = 13, 4.4 * tall
    figure, axes = plt.subplots(tall, wide, figsize=size, layout="constrained")
    for ax in axes.flat[len(teachers) :]:
        ax.remove()
    for ax, problem in zip(axes.flat, teachers, strict=False):
        points = []
        for preset in DRAWN:
            cells = {best_on_a_grid(rows, problem, preset, n) for n in BUDGETS}
            points += [
                {"label": preset, "evaluations": calls, "rms": median}
                for median, calls, *_ in filter(None, cells)
            ]
        px.plot.work_precision(points, ax=ax)
        ax.set(title=TEACHERS[problem], ylabel="median RMS error per component")
    return figure
