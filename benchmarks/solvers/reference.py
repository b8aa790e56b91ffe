"""Evaluations against error of the reference solves: which clock, which solver?

The problem is pinned: 8 equal Gaussians in d = 64 (and 2) dimensions, means drawn
N(0, I) from numpy's default_rng(0) and scaled to a per-component RMS of 0.7, standard
deviation 0.2; EDM from sigma = 80 to 0.002; batches of 256 starts from default_rng(s),
s = 1..5; RMS error per component against float64 Dopri8 at 1e-12. A batch with a start
near the border between two modes has an error of its own size, so each row gives the
median over the batches and the maximum. `sigma_data` is the data's own RMS, 0.728;
rows at EDM's usual 0.5 show what a wrong one costs.
"""

import dataclasses
import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

from .. import bench

STD, MEAN_RMS = 0.2, 0.7
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
SOLVERS = {"EDM's Heun": diffrax.Heun, **{name: s for name, (s, _) in FIXED.items()}}


def teacher(d):
    means = np.random.default_rng(0).normal(size=(8, d))
    means *= MEAN_RMS / np.sqrt(np.mean(means**2, axis=1, keepdims=True))
    return px.GaussianMixture(jnp.asarray(means), STD)


@dataclasses.dataclass(frozen=True, eq=False)
class Starts:
    """Batches of starts, and their ends by a fine solve, in float64."""

    d: int
    batch: int = 256
    batches: tuple[int, ...] = (1, 2, 3, 4, 5)
    rtol: float = 1e-12

    @functools.cached_property
    def starts(self):
        draw = lambda s: np.random.default_rng(s).normal(size=(self.batch, self.d))
        return [80.0 * jnp.asarray(draw(s)) for s in self.batches]

    @functools.cached_property
    def ends(self):
        flow = self.flow("angle", DATA_RMS)
        options = {"rtol": self.rtol, "solver": diffrax.Dopri8()}
        return [px.solve_batch(flow, z, **options).end for z in self.starts]

    def flow(self, clock, sigma_data):
        process = px.EDM(sigma_data=sigma_data)
        return px.ProbabilityFlow(teacher(self.d), process, clock=CLOCKS[clock]())


@bench.problem("solvers", "mixture64", label="8 modes, d = 64")
def mixture64(quick):
    return Starts(64, batch=16, batches=(1,), rtol=1e-8) if quick else Starts(64)


@bench.problem("solvers", "mixture2", label="8 modes, d = 2", quick=False)
def mixture2(quick):
    return Starts(2, batch=16, batches=(1,), rtol=1e-8) if quick else Starts(2)


@dataclasses.dataclass(frozen=True)
class Solve:
    """One solver on one clock, with fixed steps or a tolerance; a method."""

    clock: str
    solver: str  # or "default"
    mode: str  # fixed or adaptive
    setting: float  # steps or rtol
    sigma_data: float = DATA_RMS

    @property
    def options(self):
        """Fixed steps are even on the clock; on the time clock at Karras's times."""
        if self.solver == "default":
            return {}
        solver = SOLVERS[self.solver]()
        if self.mode == "adaptive":
            return {"rtol": self.setting, "solver": solver}
        count = int(self.setting)
        karras = px.karras(count + 1, px.EDM()) if self.clock == "time" else count
        return {"steps": karras, "solver": solver}

    def configuration_on(self, problem: Starts):
        return self

    def __call__(self, problem: Starts, seed, quick) -> bench.Outcome:
        with jax.enable_x64(True):
            flow, ends = self.flow(problem), problem.ends
            paths = [
                px.solve_batch(flow, z, throw=False, **self.options)
                for z in problem.starts
            ]
            errors = [
                float(px.metrics.rms_error(path.end, end, per_component=True))
                for path, end in zip(paths, ends, strict=True)
            ]
            calls = [int(path.stats["evaluations"]) for path in paths]
        finite = bool(np.isfinite(errors).all())
        return bench.Outcome(
            {
                "rms": float(np.median(errors)) if finite else None,
                "rms_max": max(errors) if finite else None,
                "evaluations": float(np.median(calls)),
                "evaluations_max": max(calls),
                "rms_by_batch": [e if np.isfinite(e) else None for e in errors],
            },
            dtype="float64",
        )

    def flow(self, problem):
        return problem.flow(self.clock, self.sigma_data)


def name_of(solve):
    """Such as `angle, Dopri5, fixed, 6`; EDM's usual sigma_data is said."""
    name = f"{solve.clock}, {solve.solver}, {solve.mode}, {solve.setting:g}"
    return name + (f", sigma_data {solve.sigma_data:g}" * (solve.sigma_data < 0.7))


def solves():
    """Every row of a problem."""
    yield Solve("angle", "default", "adaptive", 1e-4)
    for count in (17, 35):
        yield Solve("time", "EDM's Heun", "fixed", count)
    for clock in CLOCKS:
        for sigma_data in (DATA_RMS,) if clock != "angle" else (DATA_RMS, 0.5):
            for solver, (_, counts) in FIXED.items():
                for count in counts:
                    yield Solve(clock, solver, "fixed", count, sigma_data)
            for solver in ("Tsit5", "Dopri5", "Dopri8"):
                for rtol in TOLERANCES:
                    yield Solve(clock, solver, "adaptive", rtol, sigma_data)


QUICK = "angle, default, adaptive, 0.0001", "angle, Dopri5, fixed, 6"
for _solve in solves():
    _name = name_of(_solve)
    bench.method("solvers", _name, on=("",), quick=_name in QUICK)(_solve)


# --- throughput ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of one size, and the fixed steps that it is solved with."""

    batch: int = 4096
    d: int = 64
    steps: int = 8
    repeats: int = 15


@bench.problem("solvers", label="one batch, d = 64", kind="batch")
def batch64(quick):
    return Batch(64, steps=4, repeats=1) if quick else Batch()


@bench.method("solvers", label="Dopri5 beside a bare loop", on=("batch64",))
def throughput(problem: Batch, seed, quick):
    """Fixed steps in float32: pidax against a bare loop of the same evaluations."""
    mixture = jax.tree.map(lambda a: a.astype(jnp.float32), teacher(problem.d))
    process = px.EDM(sigma_data=DATA_RMS)
    flow = px.ProbabilityFlow(mixture, process)
    z = process.prior(jax.random.key(0), (problem.batch, problem.d))
    bare = jax.jit(lambda z: bare_dopri5(mixture, process, z, problem.steps))
    ours = lambda: px.solve_batch(flow, z, steps=problem.steps).end
    difference = float(jnp.abs(ours() - bare(z)).max())
    t_bare, t_ours, slower = bench.paired_ratio(lambda: bare(z), ours, problem.repeats)
    calls = int(px.solve_batch(flow, z, steps=problem.steps).stats["evaluations"])
    return bench.Outcome(
        {
            "samples_per_second": problem.batch / float(np.median(t_ours)),
            "samples_per_second_bare_loop": problem.batch / float(np.median(t_bare)),
            "ratio_to_bare_loop": 1 / slower,
            "evaluations": calls,
            "largest_difference_to_bare_loop": difference,
        }
    )


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
