"""How samples are made: each method answers with fields and what they cost."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from piddm_problems import SOLVE, Problem

import pidax as px
from pidax import inference
from pidax.distill import PIDM, ConFIG, KnowledgeDistillation, Sum

PAIRS = 8192
FEW = 1024
LONG, SHORT = 1.5, 0.5  # of the steps: a PID's cost three times as much
SWEPT: Any = {"scale": SHORT}  # sweeps compare among themselves, with "weight 1000"
WEIGHT = 1000.0  # the teacher's unexplained part is small, and mostly wrong
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One student: how it is distilled. Names are those of the tables."""

    kind: str = "pairs"  # pairs, pid or both
    weight: float | None = None  # None for the problem's own
    pairs: int = PAIRS
    steps: int | None = None  # of the teacher's solver, None for adaptive
    refresh: int | None = None
    fresh: bool = True
    config: bool = False
    scale: float = 1.0  # of the number of training steps


RECIPES = {
    "distillation": Recipe(weight=0.0),
    "PIDDM (a)": Recipe(scale=LONG),
    "PIDDM (b)": Recipe("pid", scale=SHORT),
    "PID alone": Recipe("pid", weight=0.0, scale=SHORT),
    "PIDDM (c)": Recipe("both", pairs=FEW, scale=SHORT),
    **{
        f"weight {w:g}": Recipe(weight=w, **SWEPT)
        for w in (0.0, 10.0, 100.0, WEIGHT, 10_000.0)
    },
    "ConFIG": Recipe(config=True, **SWEPT),
    "residual on the pairs' samples": Recipe(fresh=False, **SWEPT),
    **{f"N_s {n}": Recipe(steps=n, **SWEPT) for n in (2, 5)},
    "1024 pairs": Recipe(pairs=1024, **SWEPT),
    "1024 pairs, refreshed": Recipe(pairs=1024, refresh=100, **SWEPT),
}


def distillation(problem: Problem, recipe: Recipe):
    """The distillation of a recipe, without physics."""
    flow = problem.flow
    ends = jnp.asarray([flow.process.t_max, flow.process.t_min], float)
    options: dict[str, Any] = dict(SOLVE)
    if recipe.steps is not None:
        options = {"steps": recipe.steps}
    pairs = KnowledgeDistillation(
        flow, times=ends, pairs=64 if problem.quick else recipe.pairs, block=2048,
        refresh_every=recipe.refresh, **options,
    )  # fmt: skip
    pid = px.PID(flow)
    kinds = {
        "pairs": pairs,
        "pid": pid,
        "both": Sum([(pid, 1.0), (pairs, 1.0)]),
    }
    return kinds[recipe.kind]


def student(problem: Problem, recipe: Recipe):
    """The student of a recipe, and what its training cost."""
    weight = WEIGHT if recipe.weight is None else recipe.weight
    objective = distillation(problem, recipe)
    if weight:
        objective = px.PIDDM(
            problem.flow, problem.training_constraint, weight=weight,
            distillation=objective,
            fresh=recipe.fresh, combination=ConFIG() if recipe.config else None,
        )  # fmt: skip
    start = _start(problem)
    steps = round(recipe.scale * problem.setting.student_steps)
    result, seconds = problem.fit(start, objective, steps, RATE)
    pairs = inference.Cost.of_training(
        result, seconds=seconds
    ).training.pair_evaluations
    cost = {"seconds": seconds, "steps": steps, "pair_evaluations": pairs}
    return result.ema(), cost


def _start(problem: Problem):
    teacher = problem.teacher[0]
    if isinstance(teacher, px.Preconditioned):
        return px.Student.from_teacher(teacher, problem.process)
    key = jax.random.fold_in(jax.random.key(problem.seed), 11)
    return px.Student(problem.network(key), problem.process)


def one_step(problem: Problem, model, z):
    """Samples of a student and the seconds that they take, compiled."""
    sample = eqx.filter_jit(lambda model, z: jax.vmap(model.sample)(z))
    blocks = [z[at : at + 2048] for at in range(0, len(z), 2048)]
    jax.block_until_ready(sample(model, blocks[0]))
    start = time.perf_counter()
    x = np.concatenate([np.asarray(sample(model, block)) for block in blocks])
    return x, time.perf_counter() - start


def solve(problem: Problem, stacked):
    """What is given of these fields, solved for the rest, and the seconds of that."""
    equation = problem.equation
    with jax.enable_x64(True):
        fields = jax.vmap(equation.unstack)(jnp.asarray(stacked))
        given = [getattr(fields, name) for name in equation.given]
        cost = inference.Cost.of_solver(equation, *given)
        made = jax.jit(jax.vmap(lambda *g: equation.stack(equation.solve(*g))))(*given)
        return np.asarray(made), cost.seconds


def pidm(problem: Problem):
    """A flow whose denoiser was trained with the residual on posterior means."""
    data = np.asarray(problem.normaliser.normalise(problem.train), np.float32)
    net = problem.network(jax.random.fold_in(jax.random.key(problem.seed), 3))
    objective = PIDM(problem.process, problem.constraint, weight=1e-3)
    model = px.Preconditioned(net, problem.process)
    steps = problem.setting.teacher_steps
    result, seconds = problem.fit(model, objective, steps, data=data)
    return px.ProbabilityFlow(result.ema(), problem.process), seconds


SLACK = 0.01
GAUSS_NEWTON = inference.GaussNewton(4, products=20)
ADAM = inference.Adam(steps=100)  # where no anchor makes the problem quadratic


@dataclasses.dataclass(frozen=True)
class Refinement:
    """Where samples start, what may move, and what holds it back."""

    start: str | None  # a student's recipe; None for the Gaussian
    anchor: str | None = "draw"
    held: str | None = "latents"  # or "fields": what is given stays as it was drawn
    direct: bool = False  # the sample itself moves, in place of a student's latent


_FIELDS: Any = {"held": "fields"}
_FREE: Any = {"held": None}
_LOOSE: Any = {"held": None, "anchor": None}
REFINEMENTS = {
    **{
        f"{name} + refinement{suffix}": Refinement(name, **options)
        for name in ("PIDDM (a)", "PIDDM (b)", "distillation")
        for suffix, options in (
            ("", {}), (", fields held", _FIELDS),
            (", all latents", _FREE), (", no anchor", _LOOSE),
        )
    },
    "direct optimisation": Refinement("distillation", direct=True, **_LOOSE),
    "direct optimisation, anchored": Refinement("distillation", direct=True, **_FREE),
    "direct optimisation, held": Refinement("distillation", direct=True),
    "Gaussian + direct optimisation, held": Refinement(None, direct=True),
}  # fmt: skip


def refine(problem: Problem, model, z, how: Refinement):
    """These draws, moved until the equation holds."""
    given, fields = problem.normaliser.given, problem.equation.given_mask
    cut = how.held == "latents" and not given.all()
    return px.refine(
        model, constraint=problem.constraint, z=z, key=jax.random.key(3),
        anchor=how.anchor, slack=SLACK, free=~given if cut else None,
        hold=fields if how.held == "fields" else None,
        solver=GAUSS_NEWTON if how.anchor else ADAM,
    )  # fmt: skip


class Identity(px.student.AbstractStudent):
    """The sample is the latent: what is optimised is the sample itself."""

    process: px.AbstractProcess
    event: tuple[int, ...] = eqx.field(static=True)

    @property
    def shape(self):
        return self.event

    @property
    def classes(self):
        return None

    @property
    def end(self):
        return self.process.t_min

    def __call__(self, z, t, condition=None, *, key=None) -> Any:
        return z / self.process.t_max


def with_flow(problem: Problem, flow):
    """The same problem with another teacher's flow."""
    other = dataclasses.replace(problem)
    other.__dict__["flow"] = flow
    return other
