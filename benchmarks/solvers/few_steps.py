"""Samplers of few steps: which preset on which grid, for data of which spectrum?

Three exact teachers, EDM from sigma = 80 to 0.002, 256 starts in float64: the 8 modes
in 64 dimensions of the reference solves; the ring of 8 modes in the plane; and a
Gaussian with the spectrum of images, variances (1 + k^2)^-1.5 on 32 x 32 frequencies,
with the root mean square 0.5. Two learned ones of the suite `pid`, in float32: digits,
and patches of photographs by a U-Net. A row is one preset on one grid, with its
error at each number of evaluations: the median over the starts of the root mean square
per component, against a solve to 1e-10 (1e-6 in float32, in closed form for the
Gaussian), and the worst start.

Methods of several evaluations a step take as many whole steps as the evaluations allow.
"""

import dataclasses
import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

from .. import bench
from ..pid import problems as learned
from .reference import DATA_RMS, teacher

PILOT = 32  # draws of the pilot
BUDGETS = (4, 5, 7, 10, 20, 60, 100)
GRIDS = {
    "angle": px.uniform_angle,
    "log-SNR": px.uniform_log_snr,
    "Karras": px.karras,
}


def image_spectrum(side=32, decay=1.5, scale=0.5):
    """Variances of independent components, (1 + k^2)^-decay, of the mean scale^2."""
    k = np.fft.fftfreq(side, 1 / side)
    variances = (1 + k[:, None] ** 2 + k[None] ** 2) ** -decay
    return variances / variances.mean() * scale**2


def eight_modes():
    return teacher(64), px.EDM(sigma_data=DATA_RMS)


def ring():
    return px.GaussianMixture.ring(), px.EDM()


def image_gaussian():
    variances = jnp.asarray(image_spectrum().ravel())
    return px.Gaussian(jnp.zeros(variances.shape), variances), px.EDM()


def digits():
    flow = learned.digits(False).flow
    return flow.denoiser, flow.process, flow.shape


def photographs():
    flow = learned.patches(False).flow
    return flow.denoiser, flow.process, flow.shape


@dataclasses.dataclass(frozen=True, eq=False)
class FewSteps:
    """A teacher, starts, and their ends; exact teachers are asked in float64."""

    make: Any
    count: int = 256
    rtol: float = 1e-10
    budgets: tuple[int, ...] = BUDGETS
    seed: int = 1
    exact: bool = True
    classes: int | None = None

    @functools.cached_property
    def flow(self):
        denoiser, process, *shape = self.make()
        return px.ProbabilityFlow(denoiser, process, shape=shape[0] if shape else None)

    @functools.cached_property
    def condition(self):
        return None if self.classes is None else jnp.arange(self.count) % self.classes

    @functools.cached_property
    def starts(self):
        shape = self.count, *(self.flow.shape or ())
        draw = np.random.default_rng(self.seed).normal(size=shape)
        process = self.flow.process
        return jnp.asarray(draw) * process.sigma(process.t_max)

    @functools.cached_property
    def ends(self):
        flow, process, data = self.flow, self.flow.process, self.flow.denoiser
        if isinstance(data, px.Gaussian):
            level = [process.level(t) for t in (process.t_max, process.t_min)]
            return jax.vmap(lambda z: data.transport(z, *level))(self.starts)
        options: dict[str, Any] = {"rtol": self.rtol, "solver": diffrax.Dopri8()}
        if not self.exact:
            options = {"rtol": self.rtol}
        path = px.solve_batch(flow, self.starts, condition=self.condition, **options)
        return path.end

    def solved(self, sampler: "Sampler", budget, grid):
        """Evaluations and the error of each start; None if there is no step."""
        steps = sampler.steps(budget)
        if steps < 1:
            return None
        flow = flow_in(self.flow, sampler)
        path = px.solve_batch(
            flow,
            self.starts,
            condition=self.condition,
            solver=sampler.solver(steps, budget),
            steps=GRIDS[grid](steps + 1, flow.process),
            throw=False,
        )
        return path.evaluations()[1], self.errors(path.end)

    def errors(self, ends):
        """The root mean square per component of each start."""
        wrong = np.asarray(ends - self.ends).reshape(self.count, -1)
        return np.sqrt((wrong**2).mean(axis=1))

    def configuration(self):
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def few(name, label, make, quick=True, **options):
    """Put a teacher on the list; a quick one has few starts and one budget."""

    def made(quick):
        return FewSteps(make, 16, 1e-6, (10,)) if quick else FewSteps(make, **options)

    bench.problem("solvers", name, label=label, kind="few steps", quick=quick)(made)


OF_NETWORKS = {"rtol": 1e-6, "exact": False, "quick": False}
few("few_steps_modes", "8 modes, d = 64", eight_modes)
few("few_steps_ring", "ring, d = 2", ring)
few("few_steps_images", "image spectrum", image_gaussian)
few("few_steps_digits", "digits, learned", digits, classes=10, **OF_NETWORKS)
few(
    "few_steps_photographs", "photographs, learned", photographs,
    count=32, budgets=(5, 10, 20), **OF_NETWORKS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How a preset is made, and what its steps and its start cost."""

    make: Any
    order: int = 1
    each: int = 1
    first: int = 0  # evaluations more than the steps'
    always_low: bool = False  # it chooses its last orders by itself
    clock: Any = None
    for_budget: bool = False  # it is made for a number of evaluations

    def steps(self, budget):
        """As many as the evaluations allow."""
        if self.for_budget:
            return self.make(budget).steps
        return (budget - self.first) // self.each

    def solver(self, steps, budget):
        """With low orders at the end below 10 steps, as most published samplers."""
        if self.for_budget:
            return self.make(budget)
        if self.order == 1 or self.each > 1 or self.always_low or steps >= 10:
            return self.make()
        return self.make(lower_order_final=True)


SOLVER, ASK = px.solver, functools.partial
PRESETS = {
    "DDIM": Sampler(SOLVER.DDIM),
    "DPM-Solver 2M": Sampler(ASK(SOLVER.DPMSolver, 2), always_low=True),
    "DPM-Solver 3M": Sampler(ASK(SOLVER.DPMSolver, 3), always_low=True),
    "DPM-Solver-2": Sampler(ASK(SOLVER.ExponentialRK, 2), each=2),
    "DPM-Solver-3": Sampler(ASK(SOLVER.ExponentialRK, 3), each=3),
    "DPM-Solver-fast": Sampler(SOLVER.DPMSolverFast, for_budget=True),
    "DPM-Solver++ 2S": Sampler(ASK(SOLVER.ExponentialRK, 2, "data"), each=2),
    "DPM-Solver++ 2M": Sampler(ASK(SOLVER.DPMSolverPP, 2), always_low=True),
    "DPM-Solver++ 3M": Sampler(ASK(SOLVER.DPMSolverPP, 3), always_low=True),
    "DPM-Solver++ 3M, as coded": Sampler(SOLVER.DPMSolverPP3MCode, always_low=True),
    "UniPC-2": Sampler(ASK(SOLVER.UniPC, 2), always_low=True),
    "UniPC-3": Sampler(ASK(SOLVER.UniPC, 3), always_low=True),
    "DEIS rhoAB-3": Sampler(ASK(SOLVER.DEISrhoAB, 3), order=3),
    "LMS-4": Sampler(SOLVER.LMS, order=4),
    "PNDM": Sampler(SOLVER.PNDM, first=9, always_low=True),
    "iPNDM-4": Sampler(SOLVER.IPNDM, order=4),
    "momentum 0.8, 4": Sampler(SOLVER.GHVB, order=4),
    "Taylor-2 (GENIE)": Sampler(SOLVER.Taylor2, each=2),
    "EDM's Heun": Sampler(diffrax.Heun, each=2, clock=px.flow.UnitSignalClock),
    "noise in log-SNR, 3": Sampler(
        ASK(SOLVER.Multistep, 3, "noise", "log_snr"), order=3
    ),
    "Adams in the angle, 3": Sampler(ASK(SOLVER.Adams, 3), order=3),
    "Bosh3 in the angle": Sampler(diffrax.Bosh3, order=3, each=3, first=1),
    "Dopri5 in the angle": Sampler(diffrax.Dopri5, order=5, each=6, first=1),
}


def flow_in(flow, sampler: Sampler):
    """The flow, in the clock of the sampler if it has one."""
    if sampler.clock is None:
        return flow
    return px.ProbabilityFlow(
        flow.denoiser, flow.process, shape=flow.shape, clock=sampler.clock()
    )


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset on a grid; a method of the suite."""

    name: str
    grid: str

    def configuration_on(self, problem):
        return {"preset": self, "sampler": PRESETS[self.name], "grid": GRIDS[self.grid]}

    def __call__(self, problem: FewSteps, seed, quick) -> bench.Outcome:
        sampler = PRESETS[self.name]
        with jax.enable_x64(problem.exact):
            solved = (problem.solved(sampler, n, self.grid) for n in problem.budgets)
            rows = [row for row in solved if row is not None]
        return _outcome(problem, rows)


for _name in PRESETS:
    for _grid in GRIDS:
        _quick = (_name, _grid) == ("DDIM", "Karras")
        bench.method("solvers", f"{_name}, {_grid}", on=("few steps",), quick=_quick)(
            Preset(_name, _grid)
        )


@bench.method("solvers", label="`evaluations=`", on=("few steps",), quick=False)
def chosen(problem: FewSteps, seed, quick):
    """What `px.sample(flow, n, evaluations=k)` would take, on the same starts."""
    names, rows = [], []
    with jax.enable_x64(problem.exact):
        for budget in problem.budgets:
            condition = problem.condition
            some = None if condition is None else condition[:PILOT]
            key = jax.random.key(seed)
            choice = px.solver.choose(
                problem.flow, budget, key=key, draws=PILOT, condition=some
            )
            path = px.solve_batch(
                problem.flow, problem.starts, condition=condition, **choice.options
            )
            names.append(choice.name)
            rows.append((path.evaluations()[1], problem.errors(path.end)))
    return _outcome(problem, rows, chosen=names)


def _outcome(problem, rows, **more):
    number = lambda x: float(x) if np.isfinite(x) else None
    return bench.Outcome(
        {
            "evaluations": [calls for calls, _ in rows],
            "median": [number(np.median(errors)) for _, errors in rows],
            "worst": [number(errors.max()) for _, errors in rows],
            **more,
        },
        dtype="float64" if problem.exact else "float32",
    )


# --- the rule of px.sample(evaluations=), on teachers that it was not made on ---------


def sixteen_clusters():
    means = np.random.default_rng(3).normal(size=(16, 16))
    return px.GaussianMixture(jnp.asarray(0.5 * means), 0.1), px.EDM(sigma_data=0.51)


def rough_field():
    variances = jnp.asarray(image_spectrum(12, decay=1.0).ravel())
    return px.Gaussian(jnp.zeros(variances.shape), variances), px.VP()


def patches():
    """Four modes, each with a mean and deviations of the spectrum of images."""
    variances = image_spectrum(8).ravel()
    draws = np.random.default_rng(4).normal(size=(4, variances.size))
    means, scales = draws * np.sqrt(0.7 * variances), np.sqrt(0.3 * variances)
    scales = np.broadcast_to(scales, means.shape)
    return px.GaussianMixture(jnp.asarray(means), jnp.asarray(scales)), px.EDM()


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A teacher on which the rule chooses, and is judged on other draws."""

    make: Any
    budgets: tuple[int, ...] = (10, 20)
    judged: int = 8  # times the pilot's 32 draws
    draws: int = 256  # on which every preset is judged

    def configuration(self):
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def held_out(name, label, make):
    made = lambda quick: HeldOut(make, (10,), 1, 16) if quick else HeldOut(make)
    bench.problem("solvers", name, label=label, kind="held out", quick=False)(made)


held_out("held_out_clusters", "16 clusters, d = 16", sixteen_clusters)
held_out("held_out_field", "rough field, VP", rough_field)
held_out("held_out_patches", "4 modes with image spectrum", patches)


@bench.method("solvers", label="evaluations=, chosen by a pilot", on=("held out",))
def rule(problem: HeldOut, seed, quick):
    """The choice, and its error beside the best candidate's, on draws of other keys."""
    names, errors, best = [], [], []
    with jax.enable_x64(True):
        flow = px.ProbabilityFlow(*problem.make())
        for budget in problem.budgets:
            name = px.solver.choose(flow, budget, key=jax.random.key(seed)).name
            tables = [
                dict(px.solver.choose(flow, budget, key=jax.random.key(100 + i)).table)
                for i in range(problem.judged)
            ]
            mean = {
                each: float(np.exp(np.mean([np.log(t[each]) for t in tables])))
                for each in tables[0]
            }
            names.append(name)
            errors.append(mean[name])
            best.append(min(mean.values()))
    budgets = list(problem.budgets)
    metrics = {"evaluations": budgets, "chosen": names, "error": errors, "best": best}
    return bench.Outcome(metrics, dtype="float64")


@bench.method("solvers", label="every preset", on=("held out",))
def table(problem: HeldOut, seed, quick):
    """The error of every preset on every grid, as the rule judges its candidates."""
    with jax.enable_x64(True):
        flow = px.ProbabilityFlow(*problem.make())
        z = flow.process.prior(
            jax.random.key(200 + seed), (problem.draws, *(flow.shape or ()))
        )
        end = px.solve_batch(flow, z, rtol=1e-8).end
        found = {budget: _errors(flow, z, end, budget) for budget in problem.budgets}
    budgets = list(problem.budgets)
    errors = [found[budget] for budget in budgets]
    return bench.Outcome({"evaluations": budgets, "errors": errors}, dtype="float64")


def _errors(flow, z, end, budget):
    """The geometric mean over the starts, by preset and grid."""
    found = {}
    for name, sampler in PRESETS.items():
        steps = sampler.steps(budget)
        if steps < 1:
            continue
        for grid, times in GRIDS.items():
            path = px.solve_batch(
                flow_in(flow, sampler),
                z,
                solver=sampler.solver(steps, budget),
                steps=times(steps + 1, flow.process),
                throw=False,
            )
            square = ((path.end - end) ** 2).reshape(len(z), -1).mean(axis=1)
            error = float(jnp.exp(jnp.log(square).mean() / 2))
            found[f"{name}, {grid}"] = error if np.isfinite(error) else None
    return found
