"""Evaluations against error of the reference solves: which clock, which solver?

The problem is pinned: 8 equal Gaussians in d = 64 (and 2) dimensions, means drawn
N(0, I) from numpy's default_rng(0) and scaled to a per-component RMS of 0.7, standard
deviation 0.2; EDM from sigma = 80 to 0.002; batches of 256 starts from default_rng(s),
s = 1..5; RMS error per component against float64 Dopri8 at 1e-12. A batch with a start
near the border between two modes has an error of its own size, so each row gives the
median over the batches and the maximum. `sigma_data` is the data's own RMS, 0.728;
rows at EDM's usual 0.5 show what a wrong one costs.

    python benchmarks/reference_solve.py            # all of it, about 20 minutes
    python benchmarks/reference_solve.py --quick    # a few rows, nothing is written
    python benchmarks/reference_solve.py --figure   # figure and table, from the JSON
"""

import argparse
import json

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import record

import pidax as px

BATCH, SEEDS, STD, MEAN_RMS = 256, (1, 2, 3, 4, 5), 0.2, 0.7
DATA_RMS = float(np.hypot(MEAN_RMS, STD))
CLOCKS = {
    "angle": px.flow.AngleClock,
    "time": px.flow.TimeClock,
    "log-time": px.flow.LogTimeClock,
}
FIXED = {
    "Euler": (diffrax.Euler, (16, 32, 64, 128, 256)),
    "Heun": (diffrax.Heun, (8, 17, 35, 64, 128)),
    "Tsit5": (diffrax.Tsit5, (5, 6, 8, 12, 16, 32)),
    "Dopri5": (diffrax.Dopri5, (5, 6, 8, 12, 16, 32)),
    "Dopri8": (diffrax.Dopri8, (3, 4, 5, 6, 8, 16)),
}
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
ADAPTIVE = {"Tsit5": diffrax.Tsit5, "Dopri5": diffrax.Dopri5, "Dopri8": diffrax.Dopri8}


def teacher(d):
    means = np.random.default_rng(0).normal(size=(8, d))
    means *= MEAN_RMS / np.sqrt(np.mean(means**2, axis=1, keepdims=True))
    return px.GaussianMixture(jnp.asarray(means), STD)


class Problem:
    """The starts, their reference ends, and a way to measure any solve."""

    def __init__(self, d):
        self.d, self.teacher = d, teacher(d)
        self.starts = [
            80.0 * jnp.asarray(np.random.default_rng(s).normal(size=(BATCH, d)))
            for s in SEEDS
        ]
        flow = self.flow("angle", DATA_RMS)
        self.ends = [
            px.solve_batch(flow, z, rtol=1e-12, solver=diffrax.Dopri8()).end
            for z in self.starts
        ]

    def flow(self, clock, sigma_data):
        process = px.EDM(sigma_data=sigma_data)
        return px.ProbabilityFlow(self.teacher, process, clock=CLOCKS[clock]())

    def measure(self, clock, sigma_data, **options):
        flow = self.flow(clock, sigma_data)
        paths = [px.solve_batch(flow, z, throw=False, **options) for z in self.starts]
        errors = [
            float(px.metrics.rms_error(path.end, end, per_component=True))
            for path, end in zip(paths, self.ends, strict=True)
        ]
        calls = [int(path.stats["evaluations"]) for path in paths]
        return {
            "d": self.d,
            "clock": clock,
            "sigma_data": round(sigma_data, 4),
            "evaluations": float(np.median(calls)),
            "evaluations_max": max(calls),
            "rms": float(np.median(errors)) if np.isfinite(errors).all() else None,
            "rms_max": max(errors) if np.isfinite(errors).all() else None,
            "rms_by_seed": [e if np.isfinite(e) else None for e in errors],
        }


def nodes(clock, count):
    """Fixed steps: even on the clock; on the time clock at Karras's times."""
    return px.karras(count + 1, px.EDM()) if clock == "time" else count


def rows_of(problem, quick):
    yield {
        **problem.measure("angle", DATA_RMS),
        "solver": "default",
        "mode": "adaptive",
        "setting": 1e-4,
    }
    for count in (18, 36):
        grid = px.karras(count, px.EDM())
        row = problem.measure("time", DATA_RMS, steps=grid, solver=diffrax.Heun())
        yield {**row, "solver": "EDM's Heun", "mode": "fixed", "setting": count - 1}
    for clock in ("angle",) if quick else CLOCKS:
        for sigma_data in (DATA_RMS,) if clock != "angle" else (DATA_RMS, 0.5):
            for name, (solver, counts) in FIXED.items():
                for count in counts[:2] if quick else counts:
                    row = problem.measure(
                        clock, sigma_data, steps=nodes(clock, count), solver=solver()
                    )
                    yield {**row, "solver": name, "mode": "fixed", "setting": count}
            for name, solver in ADAPTIVE.items():
                for rtol in TOLERANCES[:1] if quick else TOLERANCES:
                    row = problem.measure(clock, sigma_data, rtol=rtol, solver=solver())
                    yield {**row, "solver": name, "mode": "adaptive", "setting": rtol}


def throughput(batch=4096, d=64, steps=8, repeats=15):
    """Fixed steps in float32: pidax against a bare loop of the same evaluations."""
    with jax.enable_x64(False):
        mixture = jax.tree.map(lambda a: a.astype(jnp.float32), teacher(d))
        process = px.EDM(sigma_data=DATA_RMS)
        flow = px.ProbabilityFlow(mixture, process)
        z = process.prior(jax.random.key(0), (batch, d))
        bare = jax.jit(lambda z: bare_dopri5(mixture, process, z, steps))
        ours = lambda: px.solve_batch(flow, z, steps=steps).end
        difference = float(jnp.abs(ours() - bare(z)).max())
        t_bare, t_ours, slower = record.paired_ratio(lambda: bare(z), ours, repeats)
        calls = int(px.solve_batch(flow, z, steps=steps).stats["evaluations"])
    return {
        "batch": batch,
        "d": d,
        "dtype": "float32",
        "solver": "Dopri5",
        "steps": steps,
        "evaluations": calls,
        "samples_per_second": batch / float(np.median(t_ours)),
        "samples_per_second_bare_loop": batch / float(np.median(t_bare)),
        "ratio_to_bare_loop": 1 / slower,
        "repeats": repeats,
        "largest_difference_to_bare_loop": difference,
    }


def bare_dopri5(mixture, process, z, steps):
    """Dormand-Prince 5 by hand on (y, phi), first-same-as-last: no library."""
    tableau, sd = diffrax.Dopri5.tableau, process.sigma_data
    a_rows, c = tableau.a_lower, tableau.c

    def field(phi, y):
        sin, cos = jnp.sin(phi), jnp.cos(phi)
        d = jax.vmap(lambda u: mixture(u, sin, cos / sd))(y)
        return (y * cos - d / sd) / sin

    nodes = jnp.linspace(process.angle(80.0), process.angle(0.002), steps + 1)
    y0 = z / process.scale(80.0)

    def step(carry, ends):
        y, first = carry
        h, k, stage = ends[1] - ends[0], [first], y
        for row, fraction in zip(a_rows, c, strict=True):
            stage = y + h * sum(float(a) * s for a, s in zip(row, k, strict=True))
            k.append(field(ends[0] + float(fraction) * h, stage))
        return (stage, k[-1]), None

    pairs = jnp.stack([nodes[:-1], nodes[1:]], axis=1)
    (y, _), _ = jax.lax.scan(step, (y0, field(nodes[0], y0)), pairs)
    return y * process.scale(0.002)


def main():
    parser = argparse.ArgumentParser(description="work and precision of solves")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figure", action="store_true")
    arguments = parser.parse_args()
    if arguments.figure:
        import reference_figure

        return reference_figure.draw()
    record.provenance()
    speed = throughput(repeats=3 if arguments.quick else 15)
    print(json.dumps(speed), flush=True)
    rows = []
    with jax.enable_x64(True):
        for d in (64,) if arguments.quick else (64, 2):
            for row in rows_of(Problem(d), arguments.quick):
                rows.append(row)
                print(json.dumps(row), flush=True)
                if not arguments.quick:  # kept as they come
                    results = {"dtype": "float64", "batch": BATCH, "seeds": SEEDS}
                    save = {**results, "throughput": speed, "rows": rows}
                    record.save("reference_solve", save)


if __name__ == "__main__":
    main()
