"""Images a second of a teacher and of its student.

The network of the suite `train` (DDPM++, 1.75 million parameters, 32 by 32 images) in
batches of 16, float32. Random weights: the speed of fixed steps is that of trained
ones; the adaptive solver's number of evaluations is the random network's, and is given
beside its time. Let nothing else run.
"""

import dataclasses

import equinox as eqx
import jax
import numpy as np

import pidax as px

from .. import bench
from ..train._images import SMALL, Images


@bench.problem("solvers", label="images, 32 x 32", kind="images")
def images32(quick):
    return SMALL if quick else Images(repeats=3)


def student(teacher, z):
    one = px.Student.from_teacher(teacher, teacher.process)
    return eqx.filter_jit(lambda z: jax.vmap(one.sample)(z)), 1


def edm_heun(teacher, z):
    flow = px.ProbabilityFlow(teacher, teacher.process)
    keys = jax.random.split(jax.random.key(2), len(z))
    one = lambda z, key: px.sample_with_churn(flow, z, key=key)
    return eqx.filter_jit(lambda z: jax.vmap(one)(z, keys)), 35


def adaptive(teacher, z):
    flow = px.ProbabilityFlow(teacher, teacher.process)
    solve = eqx.filter_jit(lambda z: px.solve_batch(flow, z))
    calls = int(np.max(solve(z).stats["evaluations"]))
    return lambda z: solve(z).end, calls


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to sample; a method of the suite."""

    name: str

    def configuration_on(self, problem):
        return self

    def __call__(self, problem: Images, seed, quick) -> bench.Outcome:
        teacher = problem.teacher()
        z = teacher.process.prior(jax.random.key(1), problem.shape(problem.batch))
        run, calls = WAYS[self.name](teacher, z)
        seconds = sorted(bench.seconds(lambda: run(z), problem.repeats))
        speed = problem.batch / float(np.median(seconds))
        metrics = {"images_per_second": speed, "evaluations": calls}
        return bench.Outcome(metrics, {"all_seconds": seconds})


WAYS = {
    "student": student,
    "EDM's sampler, 18 steps": edm_heun,
    "adaptive solver": adaptive,
}
for _name in WAYS:
    _quick = _name == "student"
    bench.method("solvers", _name, on=("images",), quick=_quick)(Way(_name))
