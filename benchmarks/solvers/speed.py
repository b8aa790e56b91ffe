"""Samples a second of the samplers of few steps, beside loops that are written by hand.

A bare loop has the formulas of one sampler for EDM ($\\alpha = 1$), `jax.lax.scan` over
Karras's noise levels, and no library. Both are compiled and asked in turns. The
teachers are the mixture in 64 dimensions, which costs little beside the solver, and a
DDPM++ network of 1.75 million random parameters on 32 x 32 images.
"""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px

from .. import bench
from .reference import DATA_RMS, Batch, teacher

STEPS = {True: 2, False: 20}  # by whether it is a trial


def ddim(denoise, carry, pair):
    x, last = carry
    s0, s1 = pair
    return (denoise(x, s0) * (1 - s1 / s0) + x * (s1 / s0), last), None


def two_m(denoise, carry, pair):
    """The denoised sample, extrapolated by half a slope in the logarithm of sigma."""
    x, (before, h0) = carry
    s0, s1 = pair
    h = jnp.log(s0 / s1)
    clean = denoise(x, s0)
    half = jnp.where(h0 > 0, h / (2 * jnp.where(h0 > 0, h0, 1.0)), 0.0)
    held = clean + half * (clean - before)
    return (x * (s1 / s0) + held * (1 - s1 / s0), (clean, h)), None


def heun(denoise, carry, pair):
    x, last = carry
    s0, s1 = pair
    first = (x - denoise(x, s0)) / s0
    there = x + (s1 - s0) * first
    second = (there - denoise(there, s1)) / s1
    return (x + (s1 - s0) * (first + second) / 2, last), None


WAYS = {
    # Without low orders at the end, as the loops have none.
    "DDIM": (px.solver.DDIM(), px.flow.AngleClock(), ddim),
    "DPM-Solver++ 2M": (
        px.solver.DPMSolverPP(2, lower_order_final=False),
        px.flow.AngleClock(),
        two_m,
    ),
    "EDM's Heun": (diffrax.Heun(), px.flow.UnitSignalClock(), heun),
}


def of_problem(problem):
    """The denoiser, its process, and the shape of a batch."""
    if isinstance(problem, Batch):
        mixture = jax.tree.map(lambda a: a.astype(jnp.float32), teacher(problem.d))
        return mixture, px.EDM(sigma_data=DATA_RMS), (problem.batch, problem.d)
    one = problem.teacher()
    return one, one.process, problem.shape(problem.batch)


@dataclasses.dataclass(frozen=True)
class Beside:
    """A sampler beside its bare loop; a method of the suite."""

    name: str

    def configuration_on(self, problem):
        return {"way": self, "steps": STEPS[False]}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        denoiser, process, shape = of_problem(problem)
        solver, clock, body = WAYS[self.name]
        flow = px.ProbabilityFlow(denoiser, process, shape=shape[1:], clock=clock)
        times = px.karras(STEPS[quick] + 1, process)
        z = process.prior(jax.random.key(0), shape)

        @eqx.filter_jit
        def loop(denoiser, z):
            denoise = lambda x, s: jax.vmap(lambda u: denoiser(u, s, 1.0))(x)
            sigmas = process.sigma(times)
            pairs = jnp.stack([sigmas[:-1], sigmas[1:]], axis=1)
            step = lambda carry, pair: body(denoise, carry, pair)
            start = z, (jnp.zeros_like(z), jnp.zeros(()))
            return jax.lax.scan(step, start, pairs)[0][0]

        bare = lambda: loop(denoiser, z)
        ours = lambda: px.solve_batch(flow, z, solver=solver, steps=times).end
        difference = float(jnp.abs(ours() - bare()).max())
        t_bare, t_ours, slower = bench.paired_ratio(bare, ours, problem.repeats)
        return bench.Outcome(
            {
                "samples_per_second": shape[0] / float(np.median(t_ours)),
                "samples_per_second_bare_loop": shape[0] / float(np.median(t_bare)),
                "ratio_to_bare_loop": 1 / slower,
                "largest_difference_to_bare_loop": difference,
            }
        )


for _name in WAYS:
    bench.method(
        "solvers", f"speed: {_name}", on=("batch", "images"), quick=_name == "DDIM"
    )(Beside(_name))
