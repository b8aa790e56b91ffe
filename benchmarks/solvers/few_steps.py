"""Samplers of few steps: which preset on which grid, for data of which spectrum?

Three exact teachers, EDM from sigma = 80 to 0.002, 256 starts in float64: the 8 modes
in 64 dimensions of the reference solves; the ring of 8 modes in the plane; and a
Gaussian with the spectrum of images, variances (1 + k^2)^-1.5 on 32 x 32 frequencies,
with the root mean square 0.5. A row is one preset on one grid, with its
error at each number of evaluations: the median over the starts of the root mean square
per component, against a solve to 1e-10 (in closed form for the Gaussian), and the worst
start.

Runge-Kutta methods take as many whole steps as the evaluations allow.
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
from .reference import DATA_RMS, teacher

BUDGETS = (5, 10, 20, 60)
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


@dataclasses.dataclass(frozen=True, eq=False)
class FewSteps:
    """An exact teacher, starts, and their ends."""

    make: Any
    count: int = 256
    rtol: float = 1e-10
    budgets: tuple[int, ...] = BUDGETS
    seed: int = 1

    @functools.cached_property
    def flow(self):
        return px.ProbabilityFlow(*self.make())

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
        options = {"rtol": self.rtol, "solver": diffrax.Dopri8()}
        return px.solve_batch(flow, self.starts, **options).end

    def errors(self, ends):
        """The root mean square per component of each start."""
        wrong = np.asarray(ends - self.ends).reshape(self.count, -1)
        return np.sqrt((wrong**2).mean(axis=1))

    def configuration(self):
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def few(name, label, make):
    """Put a teacher on the list; a quick one has few starts and one budget."""

    def made(quick):
        return FewSteps(make, 16, 1e-6, (10,)) if quick else FewSteps(make)

    bench.problem("solvers", name, label=label, kind="few steps")(made)


few("few_steps_modes", "8 modes, d = 64", eight_modes)
few("few_steps_ring", "ring, d = 2", ring)
few("few_steps_images", "image spectrum", image_gaussian)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How a preset is made, and what its steps and its start cost."""

    make: Any
    order: int = 1
    each: int = 1
    first: int = 0
    always_low: bool = False  # it chooses its last orders by itself

    def solver(self, steps):
        """With low orders at the end below 10 steps, as most published samplers."""
        if self.order == 1 or self.each > 1 or self.always_low or steps >= 10:
            return self.make()
        return self.make(lower_order_final=True)


PRESETS = {
    "DDIM": Sampler(px.solver.DDIM),
    "DPM-Solver++ 2M": Sampler(
        functools.partial(px.solver.DPMSolverPP, 2), always_low=True
    ),
    "UniPC-3": Sampler(functools.partial(px.solver.UniPC, 3), always_low=True),
    "iPNDM-4": Sampler(px.solver.IPNDM, order=4),
    "noise in log-SNR, 3": Sampler(
        functools.partial(px.solver.Multistep, 3, "noise", "log_snr"), order=3
    ),
    "Adams in the angle, 3": Sampler(functools.partial(px.solver.Adams, 3), order=3),
    "Dopri5 in the angle": Sampler(diffrax.Dopri5, order=5, each=6, first=1),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset on a grid; a method of the suite."""

    name: str
    grid: str

    def configuration_on(self, problem):
        return {"preset": self, "sampler": PRESETS[self.name], "grid": GRIDS[self.grid]}

    def __call__(self, problem: FewSteps, seed, quick) -> bench.Outcome:
        sampler, rows = PRESETS[self.name], []
        with jax.enable_x64(True):
            for budget in problem.budgets:
                steps = (budget - sampler.first) // sampler.each
                if steps < 1:
                    continue
                path = px.solve_batch(
                    problem.flow,
                    problem.starts,
                    solver=sampler.solver(steps),
                    steps=GRIDS[self.grid](steps + 1, problem.flow.process),
                    throw=False,
                )
                rows.append((path.evaluations()[1], problem.errors(path.end)))
        number = lambda x: float(x) if np.isfinite(x) else None
        return bench.Outcome(
            {
                "evaluations": [calls for calls, _ in rows],
                "median": [number(np.median(errors)) for _, errors in rows],
                "worst": [number(errors.max()) for _, errors in rows],
            },
            dtype="float64",
        )


for _name in PRESETS:
    for _grid in GRIDS:
        _quick = (_name, _grid) == ("DDIM", "Karras")
        bench.method("solvers", f"{_name}, {_grid}", on=("few steps",), quick=_quick)(
            Preset(_name, _grid)
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

    def configuration(self):
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def held_out(name, label, make):
    made = lambda quick: HeldOut(make, (10,), 1) if quick else HeldOut(make)
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
