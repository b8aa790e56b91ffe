"""Chains in the noise of a one-step student, and of its teacher's sampler.

The student and the teacher are small networks on Darcy's fields; EDM's sampler of 18
steps (35 evaluations) makes the same fields from the same noise. So both chains explore
nearly the same posterior with the same moves, and differ in what a move costs. Truths
come from the exact law: what the intervals of the student do not cover is the student's
error.
"""

import dataclasses
import functools
from typing import Any

import diffrax
import equinox as eqx
import jax

import pidax as px
from pidax import pde
from pidax.flow import TimeClock
from pidax.inference import PCN, LatentPrior

from .. import bench
from ..piddm.methods import STUDENTS, student
from ..piddm.problems import Chart, Data, Fields, Training
from .sensors import Sensors, Tally, answered, darcy

STEPS = 18
MOVES = PCN(chains=16, warmup=100, thin=5)


@dataclasses.dataclass(frozen=True)
class Learned:
    """What is measured, and the networks that are asked."""

    sensors: Sensors
    fields: Fields

    @property
    def student(self):
        return student(self.fields, STUDENTS["distillation"], 0)[0]

    @property
    def sampler(self):
        """The teacher's fields of a latent, in `STEPS` steps."""
        teacher, _ = self.fields.at(0).teacher
        flow = px.ProbabilityFlow(teacher, self.fields.process, clock=TimeClock())
        return LatentPrior(Sampled(flow), self.fields.shape)


class Sampled(eqx.Module):
    """EDM's sampler, a function of the unit latent."""

    flow: px.ProbabilityFlow

    def __call__(self, e):
        process = self.flow.process
        times = px.karras(STEPS, process)
        z = process.sigma(times[0]) * e
        heun: Any = {"solver": diffrax.Heun(), "steps": times}
        ends = times[[0, -1]]
        return px.solve(self.flow, z, times=ends, denoise=True, **heun).end


@dataclasses.dataclass(frozen=True)
class Chained:
    """Chains in the noise of the student or of the sampler; a method of the suite.

    With `solved` the equation's solver finds the solution for the given field of the
    prior; without it the observations are of the prior's own solution.
    """

    prior: str
    solved: bool
    truths: int
    samples: int = 640
    evaluations: int = 1

    def configuration_on(self, problem: Learned):
        return vars(self) | {"method": repr(MOVES), "steps": STEPS}

    def __call__(self, problem: Learned, seed, quick) -> bench.Outcome:
        forward = problem.sensors.equation if self.solved else None
        infer = functools.partial(
            px.infer,
            getattr(problem, self.prior),
            method=MOVES,
            samples=self.samples,
            forward=forward,
            normaliser=problem.fields.normaliser,
            progress=False,
        )
        tally = Tally(problem.sensors)
        for i in range(self.truths):
            tally.add(i, *answered(infer, problem.sensors, i, seed, 1))
        metrics, cost = tally.outcome()
        metrics["ess_per_second"] = metrics["number_ess"] / cost["processor"]
        return bench.Outcome(metrics | {"evaluations": self.evaluations}, cost)


@dataclasses.dataclass(frozen=True)
class Moves:
    """What a move of 16 chains costs, with networks as they are initialised.

    The number of moves that an effective sample takes is not measured: it is the same
    for both as far as the student makes the sampler's fields.
    """

    moves: int = 40

    def configuration_on(self, problem: Learned):
        return vars(self) | {"steps": STEPS}

    def __call__(self, problem: Learned, seed, quick) -> bench.Outcome:
        sensors, process = problem.sensors, problem.fields.process
        chart = pde.Whitened.fit(
            sensors.prior_draws, positive=(0,), given=sensors.equation.given_mask
        )
        network = problem.fields.training.network(chart, jax.random.key(seed))
        teacher = px.Preconditioned(network, process)
        flow = px.ProbabilityFlow(teacher, process, clock=TimeClock())
        priors = {
            "student": px.Student.from_teacher(teacher, process),
            "sampler": LatentPrior(Sampled(flow), chart.shape),
        }
        costs = {}
        for name, prior in priors.items():
            found = px.infer(
                prior, sensors.observation(0), key=jax.random.key(seed),
                method=PCN(chains=16, warmup=0, thin=1, step=0.01),
                samples=16 * self.moves, forward=sensors.equation, normaliser=chart,
                progress=False,
            )  # fmt: skip
            # `solves` counts the evaluations of the prior with the solver.
            costs[name] = found.cost.seconds / found.cost.solves
        metrics = {f"{name}_seconds": each for name, each in costs.items()}
        metrics["ratio"] = costs["sampler"] / costs["student"]
        size = sum(a.size for a in jax.tree.leaves(eqx.filter(network, eqx.is_array)))
        return bench.Outcome(metrics | {"parameters": size})


@bench.problem("inference", "darcy16, learned", kind="learned", seeds=(0,), quick=False)
def learned(quick):
    equation = functools.partial(darcy, 16)
    fields = Fields(
        Data(equation, train=4096, test=256),
        Chart((0,)),
        Training(width=256, depth=3, teacher_steps=300, student_steps=300),
        pairs=2048,
    )
    return Learned(Sensors(darcy, 16, truths=2, referenced=0), fields)


def _register():
    every = 2 * (STEPS - 1) + 1
    ways = {
        "student's given field, solved": Chained("student", True, 2),
        "student's own fields": Chained("student", False, 2),
        "sampler's given field, solved": Chained("sampler", True, 2, evaluations=every),
        "sampler's own fields": Chained("sampler", False, 2, evaluations=every),
    }
    bench.method(
        "inference", "chains: cost of a move", on=("learned",), quick=False
    )(Moves())  # fmt: skip
    for name, way in ways.items():
        bench.method(
            "inference", f"chains: {name}", label=name, on=("learned",), quick=False,
            group="learned",
        )(way)  # fmt: skip


_register()
