r"""States of the Kuramoto-Sivashinsky equation in one evaluation of a network.

One row of the chaotic solution, 64 numbers: a teacher by denoising score matching on
the rows of the training set, and a one-step student of it by `PID`, which sees no row.
Against the last rows of the truths are set as many of the held-out solutions, of a
Gaussian field, of a copula as in `problems_evolution`, of the teacher (24 evaluations
a row) and of the student.
"""

import dataclasses

import diffrax
import jax
import numpy as np

import pidax as px
from pidax import metrics

from .. import bench
from .learned import Recipe, distilled, taught
from .problems_evolution import (
    SEEDS,
    covariance_error,
    gaussian_like,
    replaced,
    samples_of,
)

RECIPE = Recipe(384, 12, teacher_steps=6000, student_steps=3000, batch_size=256)


def rows_of(problem, name):
    """All rows of a set, and its last ones."""
    samples, _ = bench.kept("fields", samples_of, problem, problem.count, SEEDS[name])
    rows = problem.rows(samples)
    return rows.reshape(-1, problem.points), rows[:, -1]


def teach_rows(problem, recipe: Recipe, seed):
    data, _ = rows_of(problem, "training")
    first, second = jax.random.split(jax.random.key(seed))
    size, width = problem.points, recipe.width
    network = px.nn.ResidualMLP(size, size, width=width, depth=4, key=first)
    return taught(network, data, recipe, second)


def distil_rows(problem, recipe: Recipe, seed):
    teacher, _ = bench.kept("teacher", teach_rows, problem, recipe, seed)
    flow = px.ProbabilityFlow(teacher, teacher.process, shape=(problem.points,))
    return distilled(flow, recipe, *jax.random.split(jax.random.key(seed + 1)))


@dataclasses.dataclass(frozen=True)
class OneRow:
    """As many single rows as there are truths, against their last rows: a method."""

    kind: str
    recipe: Recipe | None = None

    def configuration_on(self, problem):
        recipe = self.recipe and dataclasses.asdict(self.recipe)
        return {"set": self.kind, "of": dict(SEEDS), "recipe": recipe}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        recipe = self.recipe.smaller() if self.recipe and quick else self.recipe
        _, truths = rows_of(problem, "truths")
        rows, cost = self.made(problem, recipe, seed)
        values, slopes = rows - rows.mean(), np.roll(rows, -1, axis=-1) - rows
        true_slopes = np.roll(truths, -1, axis=-1) - truths
        found = {
            "count": len(rows),
            "kurtosis": float((values**4).mean() / (values**2).mean() ** 2),
            "increment_skewness": float(metrics.increment_skewness(rows)),
            "increment_kurtosis": float(metrics.increment_kurtosis(rows)),
            "density": float(metrics.density_distance(rows, truths)),
            "density_of_increments": float(
                metrics.density_distance(slopes, true_slopes)
            ),
            "covariance": covariance_error(rows, truths, axes=(1,)),
        }
        return bench.Outcome(found, cost)

    def made(self, problem, recipe, seed):
        """Rows of this kind, and what a network's cost."""
        if recipe is None:
            if self.kind == "held-out":
                return rows_of(problem, "held-out")[1], {}
            data, _ = rows_of(problem, "training")
            image = data[:, None, :, None]
            rows = gaussian_like(image, problem.count, 3 + seed, line=True)[:, 0, :, 0]
            return (replaced(rows, data) if self.kind == "copula" else rows), {}
        teacher, note = bench.kept("teacher", teach_rows, problem, recipe, seed)
        z = teacher.process.prior(
            jax.random.key(seed + 2), (problem.count, problem.points)
        )
        cost = {"teacher_seconds": note["seconds"]}
        if self.kind == "teacher":
            flow = px.ProbabilityFlow(teacher, teacher.process)
            steps = px.karras(9, teacher.process)
            path = px.solve_batch(flow, z, solver=diffrax.Bosh3(), steps=steps)
            return np.asarray(path.end), cost
        student, note = bench.kept("student", distil_rows, problem, recipe, seed)
        make = jax.jit(jax.vmap(student.sample))
        spent = bench.seconds(lambda: make(z), problem.repeats)
        cost |= {
            "student_seconds": note["seconds"],
            "seconds_a_sample": float(np.median(spent)) / len(z),
        }
        return np.asarray(make(z)), cost


WAYS = {
    "held-out": OneRow("held-out"),
    "Gaussian": OneRow("Gaussian"),
    "copula": OneRow("copula"),
    "teacher": OneRow("teacher", RECIPE),
    "student": OneRow("student", RECIPE),
}


def _register():
    for name, way in WAYS.items():
        bench.method(
            "generators",
            f"one row, {name}",
            on=("Kuramoto-Sivashinsky",),
            seeds=(0, 1, 2) if way.recipe else (0,),
            quick=False,
        )(way)


_register()


@bench.table("generators_rows", "generators")
def rows(results):
    """Each set of rows: its numbers, its distances to the truths, its cost."""
    names = {
        "kurtosis": "kurtosis",
        "increment_skewness": "skewness of increments",
        "increment_kurtosis": "kurtosis of increments",
        "density": "density",
        "density_of_increments": "density of increments",
        "covariance": "covariance",
    }
    lines = []
    for name in WAYS:
        some = results.where(method=f"one row, {name}")
        if not some:
            continue
        spent = [row.cost.get("seconds_a_sample") for row in some]
        lines.append((
            name, len(some),
            *(bench.with_range(some.values(key)) for key in names),
            f"{1e6 * spent[0]:.0f} µs" if spent[0] else "",
        ))  # fmt: skip
    head = ("one row", "seeds", *names.values(), "time a sample")
    return bench.markdown(head, lines) if lines else "Not measured yet."
