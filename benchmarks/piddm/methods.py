"""How fields are made, and what `pde.report` says of them.

Each row is one way to make samples, judged against held-out fields, with what it cost.
"""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pidax as px
from pidax import inference, pde
from pidax.distill import PIDM, ConFIG, KnowledgeDistillation, Sum

from .. import bench
from .problems import SOLVE, Fields, Seeded, coordinates, solved

COLUMNS = (
    "residual", "resolve", "boundary", "amplitude", "mean_error", "spread_error",
    "sliced_wasserstein",
)  # fmt: skip
FEW = 1024
LONG, SHORT = 1.5, 0.5  # of the steps: a PID's cost three times as much
SWEPT: Any = {"scale": SHORT}  # sweeps compare among themselves, with "weight 1000"
WEIGHT = 1000.0  # the teacher's unexplained part is small, and mostly wrong
SLACK = 0.01
GAUSS_NEWTON = inference.GaussNewton(4, products=20)
ADAM = inference.Adam(steps=100)  # where no anchor makes the problem quadratic


def judged(problem: Fields, fields, cost, *, trivial=False) -> bench.Outcome:
    """The numbers of the report: of these fields, and of the trivial answers."""
    count = len(problem.test) // 2
    found = pde.report(
        problem.equation, fields[:count], problem.test, key=jax.random.key(1),
        resamples=problem.resamples, projections=256, progress=False,
    )  # fmt: skip
    one = lambda row: (
        {
            name: None if getattr(row, name) is None else float(getattr(row, name)[0])
            for name in COLUMNS
        }
        | {"unsolved": row.unsolved}
    )
    rows = {label: one(row) for label, row in found.rows.items()}
    metrics = rows.pop("samples")
    if trivial:
        metrics["trivial"] = rows
    return bench.Outcome(metrics, cost)


# --- without a student ---------------------------------------------------------------


WAYS: dict[str, Any] = {}


def way(name):
    """Put on the list a function of `(problem, seeded)`: fields and their cost."""
    return lambda run: WAYS.setdefault(name, run)


@way("data")
def held_out(problem, at):
    return problem.test[-problem.samples :], {}


@way("data through the coordinates")
def through_coordinates(problem, at):
    y = problem.normaliser.normalise(problem.test[-problem.samples :])
    return problem.restore(y), {}


@way("Gaussian")
def gaussian(problem, at):
    return problem.restore(at.gaussian()), {"evaluations": 0}


@way("its given, then solve")
def given_then_solve(problem, at):
    """What is given of Gaussian fields, solved for the rest."""
    equation, stacked = problem.equation, problem.restore(at.gaussian())
    with jax.enable_x64(True):
        fields = jax.vmap(equation.unstack)(jnp.asarray(stacked))
        given = [getattr(fields, name) for name in equation.given]
        cost = inference.Cost.of_solver(equation, *given)
        made = jax.jit(jax.vmap(lambda *g: equation.stack(equation.solve(*g))))(*given)
        return np.asarray(made), {"evaluations": 0, "seconds": cost.seconds}


@way("teacher")
def teacher(problem, at):
    return by_solver(problem, at.flow, at.z, at.teacher[1])


@way("PIDM teacher")
def pidm_teacher(problem, at):
    """Of a denoiser that was trained with the residual on posterior means."""
    model, note = bench.kept("teacher", teach_pidm, problem, at.seed)
    flow = px.ProbabilityFlow(model, problem.process)
    return by_solver(problem, flow, at.z, note["training_seconds"])


def teach_pidm(problem: Fields, seed: int):
    training = problem.training
    y, normaliser = coordinates(problem.data, problem.chart)
    key = jax.random.fold_in(jax.random.key(seed), 3)
    objective = PIDM(problem.process, problem.constraint, weight=1e-3)
    model = px.Preconditioned(training.network(normaliser, key), problem.process)
    result, seconds = training.fit(
        model, objective, training.teacher_steps, seed, data=y
    )
    return result.ema(), {"training_seconds": seconds}


def by_solver(problem, flow, z, training_seconds):
    """A teacher's samples by the adaptive solver."""
    solved(flow, z)  # compiles
    start = time.perf_counter()
    x, calls = solved(flow, z)
    cost = {"evaluations": calls, "seconds": time.perf_counter() - start}
    return problem.restore(x), cost | {"training": {"seconds": training_seconds}}


# --- students ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a student is distilled."""

    kind: str = "pairs"  # pairs, pid or both
    weight: float = WEIGHT
    pairs: int | None = None  # None for the problem's
    steps: int | None = None  # of the teacher's solver, None for adaptive
    refresh: int | None = None
    fresh: bool = True
    config: bool = False
    scale: float = 1.0  # of the number of training steps


def student(problem: Fields, recipe: Recipe, seed: int):
    """The student of a recipe, and what its training cost."""
    model, note = bench.kept("student", distil, problem, recipe, seed)
    return model, note["training"]


def distil(problem: Fields, recipe: Recipe, seed: int):
    """A student, and what its training cost."""
    at = problem.at(seed)
    objective = without_physics(problem, recipe, at)
    if recipe.weight:
        objective = px.PIDDM(
            at.flow, problem.training_constraint, weight=recipe.weight,
            distillation=objective,
            fresh=recipe.fresh, combination=ConFIG() if recipe.config else None,
        )  # fmt: skip
    steps = round(recipe.scale * problem.training.student_steps)
    result, seconds = problem.training.fit(start(problem, at), objective, steps, seed)
    spent = inference.Cost.of_training(result, seconds=seconds).training
    cost = {"seconds": seconds, "steps": steps}
    cost["pair_evaluations"] = spent.pair_evaluations
    return result.ema(), {"training": cost}


def without_physics(problem: Fields, recipe: Recipe, at: Seeded):
    """The distillation of a recipe alone."""
    flow = at.flow
    ends = jnp.asarray([flow.process.t_max, flow.process.t_min], float)
    options: Any = dict(SOLVE) if recipe.steps is None else {"steps": recipe.steps}
    pairs = KnowledgeDistillation(
        flow, times=ends, pairs=min(recipe.pairs or problem.pairs, problem.pairs),
        block=2048, refresh_every=recipe.refresh, **options,
    )  # fmt: skip
    pid = px.PID(flow)
    kinds = {"pairs": pairs, "pid": pid, "both": Sum([(pid, 1.0), (pairs, 1.0)])}
    return kinds[recipe.kind]


def start(problem: Fields, at: Seeded):
    """A student with the teacher's weights, where it has any."""
    if isinstance(at.teacher[0], px.Preconditioned):
        return px.Student.from_teacher(at.teacher[0], problem.process)
    key = jax.random.fold_in(jax.random.key(at.seed), 11)
    network = problem.training.network(problem.normaliser, key)
    return px.Student(network, problem.process)


def one_step(problem: Fields, model, z):
    """Samples of a student and the seconds that they take, compiled."""
    sample = eqx.filter_jit(lambda model, z: jax.vmap(model.sample)(z))
    blocks = [z[at : at + 2048] for at in range(0, len(z), 2048)]
    jax.block_until_ready(sample(model, blocks[0]))
    start = time.perf_counter()
    x = np.concatenate([np.asarray(sample(model, block)) for block in blocks])
    return x, time.perf_counter() - start


STUDENTS = {
    "distillation": Recipe(weight=0.0),
    "PIDDM (a)": Recipe(scale=LONG),
    "PIDDM (b)": Recipe("pid", scale=SHORT),
    "PID alone": Recipe("pid", weight=0.0, scale=SHORT),
    "PIDDM (c)": Recipe("both", pairs=FEW, scale=SHORT),
}
SWEEPS = {
    **{
        f"weight {w:g}": Recipe(weight=w, **SWEPT)
        for w in (0.0, 10.0, 100.0, WEIGHT, 10_000.0)
    },
    "ConFIG": Recipe(config=True, **SWEPT),
    "residual on the pairs' samples": Recipe(fresh=False, **SWEPT),
    **{f"N_s {n}": Recipe(steps=n, **SWEPT) for n in (2, 5)},
    "1024 pairs": Recipe(pairs=FEW, **SWEPT),
    "1024 pairs, refreshed": Recipe(pairs=FEW, refresh=100, **SWEPT),
}


# --- refined samples -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Refinement:
    """Where samples start, what may move, and what holds it back."""

    start: Recipe | None  # None for the Gaussian
    anchor: str | None = "draw"
    held: str | None = "latents"  # or "fields": what is given stays as it was drawn
    direct: bool = False  # the sample itself moves, in place of a student's latent

    @property
    def solver(self):
        return GAUSS_NEWTON if self.anchor else ADAM


def refine(problem: Fields, model, z, how: Refinement):
    """These draws, moved until the equation holds."""
    given, fields = problem.normaliser.given, problem.equation.given_mask
    cut = how.held == "latents" and not given.all()
    return px.refine(
        model, constraint=problem.constraint, z=z, key=jax.random.key(3),
        anchor=how.anchor, slack=SLACK, free=~given if cut else None,
        hold=fields if how.held == "fields" else None, solver=how.solver,
        progress=False,
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


# --- the methods, in the order of the tables -----------------------------------------


@dataclasses.dataclass(frozen=True)
class Made:
    """Samples made in one of the `WAYS`; a method of the suite."""

    name: str

    def configuration_on(self, problem: Fields):
        return {"way": self.name, "samples": problem.samples, "solve": SOLVE}

    def __call__(self, problem: Fields, seed, quick):
        fields, cost = WAYS[self.name](problem, problem.at(seed))
        return judged(problem, fields, cost, trivial=self.name == "teacher")


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Samples of a student in one evaluation; a method of the suite."""

    recipe: Recipe
    trivial: bool = False  # whether the row judges the trivial answers, too

    def configuration_on(self, problem: Fields):
        return {"student": self.recipe, "samples": problem.samples, "solve": SOLVE}

    def __call__(self, problem: Fields, seed, quick):
        at = problem.at(seed)
        model, training = student(problem, self.recipe, seed)
        x, seconds = one_step(problem, model, at.z)
        cost = {"evaluations": 1, "seconds": seconds, "training": training}
        return judged(problem, problem.restore(x), cost, trivial=self.trivial)


@dataclasses.dataclass(frozen=True)
class Refined:
    """Samples moved until the equation holds; a method of the suite."""

    how: Refinement

    def configuration_on(self, problem: Fields):
        return {"refinement": self.how, "samples": problem.samples, "slack": SLACK,
                "solver": self.how.solver, "solve": SOLVE}  # fmt: skip

    def __call__(self, problem: Fields, seed, quick):
        how, at = self.how, problem.at(seed)
        model, training, z = None, None, at.z
        if how.start is not None:
            model, training = student(problem, how.start, seed)
        before = 1 if model else 0  # evaluations for the sample that is to move
        if how.direct:
            x = one_step(problem, model, z)[0] if model else at.gaussian()
            z = x * problem.process.t_max
            model = Identity(problem.process, problem.shape)
        found = refine(problem, model, z, how)
        ledger = found.cost.as_dict()
        each = before if how.direct else ledger["network"] / problem.samples
        cost = {"evaluations": each, "seconds": ledger["seconds"], "ledger": ledger}
        fields = np.asarray(found.fields, np.float64)
        return judged(problem, fields, cost | {"training": training})


def refined(name, *, all_latents=True):
    """A student's samples refined in several ways, by name."""
    ways = {"": {}, ", fields held": {"held": "fields"}}
    ways |= {", all latents": {"held": None}} if all_latents else {}
    ways |= {", no anchor": {"held": None, "anchor": None}}
    return {
        f"{name} + refinement{suffix}": Refined(Refinement(STUDENTS[name], **how))
        for suffix, how in ways.items()
    }


DIRECT = Refinement(STUDENTS["distillation"], direct=True)
METHODS = {
    "data": Made("data"),
    "data through the coordinates": Made("data through the coordinates"),
    "Gaussian": Made("Gaussian"),
    "its given, then solve": Made("its given, then solve"),
    "teacher": Made("teacher"),
    "distillation": Distilled(STUDENTS["distillation"]),
    "PIDDM (a)": Distilled(STUDENTS["PIDDM (a)"], trivial=True),
    **refined("PIDDM (a)"),
    **refined("distillation"),
    "PIDDM (b)": Distilled(STUDENTS["PIDDM (b)"]),
    **refined("PIDDM (b)", all_latents=False),
    "direct optimisation": Refined(dataclasses.replace(DIRECT, held=None, anchor=None)),
    "direct optimisation, anchored": Refined(dataclasses.replace(DIRECT, held=None)),
    "direct optimisation, held": Refined(DIRECT),
    "Gaussian + direct optimisation, held": Refined(
        dataclasses.replace(DIRECT, start=None)
    ),
    "PIDDM (c)": Distilled(STUDENTS["PIDDM (c)"]),
    "PID alone": Distilled(STUDENTS["PID alone"]),
    "PIDM teacher": Made("PIDM teacher"),
}
QUICK = ()  # `python -m benchmarks.gpu --dry` makes eleven of these rows as small
ONCE = (  # one seed, even where there are three
    "data through the coordinates", "distillation + refinement, fields held",
    "PIDDM (b) + refinement, fields held", "direct optimisation",
    "direct optimisation, anchored", "PIDM teacher",
)  # fmt: skip


def _register():
    for name, how in METHODS.items():
        alone = name.endswith("all latents") or name in ("PIDDM (c)", "PID alone")
        on = ("",) if name == "PIDM teacher" else ("", "exact")
        on = ("darcy16",) if alone else on
        seeds = (0,) if alone or name in ONCE else (0, 1, 2)
        bench.method("piddm", name, on=on, seeds=seeds, quick=name in QUICK)(how)
    for name, recipe in SWEEPS.items():
        register = bench.method(
            "piddm", name, on=("darcy16",), group="sweep", quick=False
        )
        register(Distilled(recipe))


_register()
