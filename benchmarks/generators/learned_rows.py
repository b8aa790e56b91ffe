r"""Late Cahn-Hilliard states and rows of Kuramoto-Sivashinsky in one evaluation.

One state, $32^2$ or 64 numbers, of which the solver makes many before it has this one:
a teacher by denoising score matching on the states of the training set, and a one-step
student of it by `PID`, which sees no state. Against the last rows of the truths are set
as many of the held-out solutions, of a Gaussian field, of a copula as in
`problems_evolution`, of the teacher (24 evaluations a state) and of the student. The
model of Cahn-Hilliard sees each state in 64 images under symmetries of the law, in
patches of 4 x 4 points; it has 500 states to learn from, that of Kuramoto-Sivashinsky
64,000 rows.
"""

import dataclasses
from typing import Any

import diffrax
import jax
import numpy as np

import pidax as px

from .. import bench
from .learned import Recipe, distilled, recipe_for, taught
from .problems_evolution import SEEDS, Late, replaced, samples_of

RECIPES = {
    "Chaotic": Recipe(384, 12, teacher_steps=6000, student_steps=3000, batch_size=256),
    "Late": Recipe(48, 12, teacher_steps=4000, student_steps=1500, batch_size=32),
    "Late 64": Recipe(96, 12, 40_000, 20_000, 128),  # for a GPU
}


def samples_in(problem, name):
    found, _ = bench.kept("fields", samples_of, problem, problem.count, SEEDS[name])
    return found


def network_of(problem, recipe: Recipe, key):
    """A U-Net on patches of a torus, a perceptron for a circle."""
    shape, width = problem.patched, recipe.width
    if isinstance(problem, Late):
        levels = (1, 2) if shape[0] <= 8 else (1, 2, 2)
        options: Any = {"multipliers": levels, "padding": "periodic"}
        return px.nn.UNet(shape[-1], shape[-1], width=width, **options, key=key)
    return px.nn.ResidualMLP(*shape, *shape, width=width, depth=4, key=key)


def teach_rows(problem, recipe: Recipe, seed):
    states = problem.states(samples_in(problem, "training"))
    data = problem.to_model(problem.images(states, seed))
    first, second = jax.random.split(jax.random.key(seed))
    return taught(network_of(problem, recipe, first), data, recipe, second)


def distil_rows(problem, recipe: Recipe, seed):
    teacher, _ = bench.kept("teacher", teach_rows, problem, recipe, seed)
    flow = px.ProbabilityFlow(teacher, teacher.process, shape=problem.patched)
    return distilled(flow, recipe, *jax.random.split(jax.random.key(seed + 1)))


@dataclasses.dataclass(frozen=True)
class OneRow:
    """As many single states as there are truths, against their last rows: a method."""

    kind: str
    recipes: dict[str, Recipe] | None = None  # by the class of the problem

    def recipe_on(self, problem) -> Recipe | None:
        if self.recipes is None:
            return None
        return recipe_for(problem, self.recipes)

    def configuration_on(self, problem):
        recipe = self.recipe_on(problem)
        recipe = recipe and dataclasses.asdict(recipe)
        return {"set": self.kind, "of": dict(SEEDS), "recipe": recipe}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        recipe = self.recipe_on(problem)
        recipe = recipe.smaller() if recipe and quick else recipe
        truths = problem.last(samples_in(problem, "truths"))
        states, cost = self.made(problem, recipe, seed)
        found = {"count": len(states)} | problem.compared(states, truths)
        return bench.Outcome(found, cost)

    def made(self, problem, recipe, seed):
        """States of this kind, and what a network's cost."""
        if recipe is None:
            if self.kind == "held-out":
                return problem.last(samples_in(problem, "held-out")), {}
            data = problem.states(samples_in(problem, "training"))
            found = problem.gaussian(data, problem.count, 3 + seed)
            return (replaced(found, data) if self.kind == "copula" else found), {}
        teacher, note = bench.kept("teacher", teach_rows, problem, recipe, seed)
        z = teacher.process.prior(
            jax.random.key(seed + 2), (problem.count, *problem.patched)
        )
        cost = {"teacher_seconds": note["seconds"]}
        if self.kind == "teacher":
            flow = px.ProbabilityFlow(teacher, teacher.process)
            steps = px.karras(9, teacher.process)
            path = px.solve_batch(flow, z, solver=diffrax.Bosh3(), steps=steps)
            return problem.to_states(path.end), cost
        student, note = bench.kept("student", distil_rows, problem, recipe, seed)
        make = jax.jit(jax.vmap(student.sample))
        cost["student_seconds"] = note["seconds"]
        for name, some in (("seconds_a_sample", z), ("seconds_alone", z[:1])):
            spent = bench.seconds(lambda some=some: make(some), problem.repeats)
            cost[name] = float(np.median(spent)) / len(some)
        return problem.to_states(make(z)), cost


WAYS = {
    "held-out": OneRow("held-out"),
    "Gaussian": OneRow("Gaussian"),
    "copula": OneRow("copula"),
    "teacher": OneRow("teacher", RECIPES),
    "student": OneRow("student", RECIPES),
}


NUMBERS = {
    "late Cahn-Hilliard": {
        "kurtosis": "kurtosis",
        "increment_kurtosis": "kurtosis of increments",
        "interface_share": "interface share",
        "density": "density",
        "covariance": "two-point",
        "euler": "Euler",
        "lineal_path": "lineal path",
    },
    "Kuramoto-Sivashinsky": {
        "kurtosis": "kurtosis",
        "increment_skewness": "skewness of increments",
        "increment_kurtosis": "kurtosis of increments",
        "density": "density",
        "density_of_increments": "density of increments",
        "covariance": "covariance",
    },
}


def _register():
    for name, way in WAYS.items():
        bench.method(
            "generators",
            f"one row, {name}",
            on=(*NUMBERS, "late Cahn-Hilliard, 64 x 64"),
            seeds=(0, 1, 2) if way.recipes else (0,),
            quick=False,
        )(way)


_register()


@bench.table("generators_rows", "generators")
def rows(results):
    """Each set of states: its numbers, its distances to the truths, its cost."""
    parts = []
    for problem, names in NUMBERS.items():
        lines = []
        for name in WAYS:
            some = results.where(problem=problem, method=f"one row, {name}")
            if not some:
                continue
            spent = some[0].cost.get("seconds_a_sample")
            lines.append((
                name, len(some),
                *(bench.with_range(some.values(key)) for key in names),
                f"{1e6 * spent:.0f} µs" if spent else "",
            ))  # fmt: skip
        if lines:
            head = f"**{problem}**, one row", "seeds", *names.values(), "time a sample"
            parts.append(bench.markdown(head, lines))
    return "\n\n".join(parts) or "Not measured yet."
