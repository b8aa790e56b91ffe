"""What a sample of each equation costs, beside SciPy and NumPy, and with the grid.

    python benchmarks/pde_generate.py            # on two cores; let nothing else run
    python benchmarks/pde_generate.py --quick    # small grids, nothing written

Milliseconds a sample in a batch, compiled, float64: drawing and solving as `generate`
does, and solving alone beside the same discretisation in SciPy (sparse direct for
Darcy, sine transforms for Poisson and Helmholtz) and NumPy (Navier-Stokes), in turns;
the largest difference of the two solutions; the relative residual; the exponent of the
cost in the number of points; float32 beside float64. Writes
benchmarks/results/pde_generate.json as it goes.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pde_reference
import record

from pidax import pde

REPEATS = 5
SIZES = (16, 32, 64, 128, 256)
BATCH = {16: 64, 32: 64, 64: 64, 128: 16, 256: 4}


def elliptic(n):
    """The elliptic equations on n x n, and their solves in SciPy."""
    grid = pde.Grid((n, n))
    one = lambda solve: lambda given: np.stack([solve(f) for f in given])
    return {
        "Poisson": (pde.Poisson(grid), one(pde_reference.poisson)),
        "Helmholtz": (
            pde.Helmholtz(grid),
            one(lambda f: pde_reference.poisson(f, 1.0)),
        ),
        "Darcy, lognormal": (pde.Darcy.lognormal(grid), one(pde_reference.darcy)),
        "Darcy, two materials": (pde.Darcy(grid), one(pde_reference.darcy)),
    }


def flow(n):
    """Navier-Stokes on n x n to T = 1, and the same scheme in NumPy."""
    equation = pde.NavierStokes(pde.Grid((n, n), boundary=pde.Periodic()))
    step = float(equation.interval / equation.substeps)
    steps = (equation.rows - 1) * equation.substeps
    scheme = pde_reference.NavierStokes(
        equation.grid.shape, equation.viscosity, np.asarray(equation.forcing), step
    )
    return equation, lambda given: scheme.solve(given, steps)


def others():
    """Those without a counterpart, at the size of their recipe."""
    line = pde.Grid((128,), boundary=pde.Periodic())
    return {
        "Darcy, source and sink": pde.Darcy.source_sink((64, 64)),
        "Burgers": pde.Burgers(line),
        "Burgers, inviscid": pde.InviscidBurgers(),
        "Heat": pde.Heat(),
    }


def compiled(equation):
    """Drawing, solving what is drawn, and residuals, each over a batch."""
    draw = lambda keys: jax.vmap(lambda key: equation.draw(key=key))(keys)
    solve = lambda given: jax.vmap(lambda given: equation.solve(*given))(given)
    residual = lambda fields: jax.vmap(lambda f: equation.relative_residual(f))(fields)
    return eqx.filter_jit(draw), eqx.filter_jit(solve), eqx.filter_jit(residual)


def row_of(name, equation, batch, reference=None, repeats=REPEATS):
    """One equation at one size."""
    keys = jax.random.split(jax.random.key(0), batch)
    draw, solve, residual = compiled(equation)
    given = draw(keys)
    fields = solve(given)
    row = {"equation": name, "grid": list(equation.grid.shape), "batch": batch}
    row["relative_residual"] = float(jnp.max(residual(fields)))
    both = record.seconds(lambda: solve(draw(keys)), repeats)
    row["draw_and_solve_ms"] = ms(both, batch)
    row["solve_ms"] = ms(record.seconds(lambda: solve(given), repeats), batch)
    if reference is not None:
        first = np.asarray(given[0])
        own = np.asarray(fields[-1])
        theirs = reference(first)
        last = own if own.ndim == theirs.ndim else own[:, -1]
        row["largest_difference"] = float(np.abs(last - theirs).max())
        row["size_of_solution"] = float(np.abs(theirs).max())
        us, them, ratio = record.paired_ratio(
            lambda: solve(given), lambda: reference(first), repeats
        )
        row |= {"solve_ms": ms(us, batch), "reference_ms": ms(them, batch)}
        row["times_faster"] = ratio
    with jax.enable_x64(False):
        single = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float32), given)
        _, again, floor = compiled(equation)
        found = again(single)
        error = np.asarray(found[-1], float) - np.asarray(fields[-1])
        size = np.sqrt(np.mean(np.square(np.asarray(fields[-1]))))
        row["float32"] = {
            "relative_error": float(np.sqrt(np.mean(error**2)) / size),
            "relative_residual": float(jnp.max(floor(found))),
            "solve_ms": ms(record.seconds(lambda: again(single), repeats), batch),
        }
    print(
        f"{name} {equation.grid.shape}: {row['solve_ms']['median']:.3f} ms, residual "
        f"{row['relative_residual']:.1e}, {row.get('times_faster', 0):.1f} times",
        flush=True,
    )
    return row


def ms(seconds, batch):
    each = sorted(1e3 * s / batch for s in seconds)
    return {"median": float(np.median(each)), "all": each}


def exponents(rows):
    """The cost a sample as a power of the number of points, from 32 to 256."""
    found = {}
    for name in sorted({row["equation"] for row in rows}):
        mine = [r for r in rows if r["equation"] == name and r["grid"][0] >= 32]
        if len(mine) > 2:
            points = [np.log(np.prod(r["grid"])) for r in mine]
            cost = [np.log(r["solve_ms"]["median"]) for r in mine]
            found[name] = float(np.polyfit(points, cost, 1)[0])
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    record.provenance()
    rows = []

    def keep(row):
        rows.append(row)
        settings = {"dtype": "float64", "seeds": [0]}
        results = {**settings, "exponents": exponents(rows), "rows": rows}
        if not quick:
            record.save("pde_generate", results)

    with jax.enable_x64(True):
        for n in (16,) if quick else (64, 16, 32, 128, 256):
            batch = 4 if quick else BATCH[n]
            for name, (equation, reference) in elliptic(n).items():
                keep(row_of(name, equation, batch, reference))
            equation, reference = flow(n)
            keep(row_of("Navier-Stokes", equation, min(batch, 32), reference))
        for name, equation in others().items():
            keep(row_of(name, equation, 4 if quick else 32))


if __name__ == "__main__":
    main()
