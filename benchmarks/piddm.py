"""PIDDM and what it is compared with, where fields can be solved for; docs/piddm.md.

    python benchmarks/piddm.py                    # what is missing, row by row
    python benchmarks/piddm.py --only darcy16     # rows whose name has this in it
    python benchmarks/piddm.py --quick            # twenty steps, nothing written

Each row is one way to make samples, on one problem (`piddm_problems.py`), with one
seed: judged by `px.pde.report` against held-out fields, with what it cost. Rows are
written to benchmarks/results/piddm.json as they come, and those that are there are not
made again; students are kept in outputs/piddm/.
"""

import argparse
import json
import time

import jax
import numpy as np
import piddm_methods as methods
import piddm_problems as problems
import record

import pidax as px
from pidax import pde

NAME = "piddm"
COUNT = 2048
COLUMNS = (
    "residual", "resolve", "boundary", "amplitude", "mean_error", "spread_error",
    "sliced_wasserstein",
)  # fmt: skip
MAIN = (
    "data", "data through the coordinates", "Gaussian", "its given, then solve",
    "teacher", "distillation",
    "PIDDM (a)", "PIDDM (a) + refinement", "PIDDM (a) + refinement, fields held",
    "PIDDM (a) + refinement, all latents", "PIDDM (a) + refinement, no anchor",
    "distillation + refinement", "distillation + refinement, fields held",
    "distillation + refinement, all latents", "distillation + refinement, no anchor",
    "PIDDM (b)", "PIDDM (b) + refinement", "PIDDM (b) + refinement, fields held",
    "PIDDM (b) + refinement, no anchor",
    "direct optimisation", "direct optimisation, anchored",
    "direct optimisation, held", "Gaussian + direct optimisation, held",
    "PIDDM (c)", "PID alone", "PIDM teacher",
)  # fmt: skip
SEEDED = (
    "data", "Gaussian", "its given, then solve", "teacher", "distillation",
    "PIDDM (a)", "PIDDM (a) + refinement", "PIDDM (a) + refinement, fields held",
    "PIDDM (a) + refinement, no anchor",
    "distillation + refinement", "distillation + refinement, no anchor",
    "direct optimisation, held", "Gaussian + direct optimisation, held",
    "PIDDM (b)", "PIDDM (b) + refinement", "PIDDM (b) + refinement, no anchor",
)  # fmt: skip
QUICK = (
    "data", "teacher", "PIDDM (a)", "PIDDM (a) + refinement",
    "PIDDM (a) + refinement, fields held", "PIDDM (b)", "direct optimisation, held",
)  # fmt: skip
OTHERS = tuple(
    row
    for row in MAIN
    if not row.endswith("all latents") and row not in ("PIDDM (c)", "PID alone")
)
SWEEPS = tuple(name for name in methods.RECIPES if name not in MAIN)


def settings(quick):
    """(problem, row, seed), in the order in which they are made."""
    if quick:
        yield from (("darcy16", row, 0) for row in QUICK)
        return
    exact = [row for row in OTHERS if row != "PIDM teacher"]
    yield from (("poisson16-exact", row, 0) for row in exact)
    yield from (("darcy16", row, 0) for row in (*MAIN, *SWEEPS))
    for name in ("burgers32", "poisson16", "darcy32"):
        yield from ((name, row, 0) for row in OTHERS)
    yield from (("darcy16", row, seed) for seed in (1, 2) for row in SEEDED)


def judge(problem, fields):
    """The numbers of the report: of these fields, and of the trivial answers."""
    count = len(problem.test) // 2
    found = pde.report(
        problem.equation, fields[:count], problem.test, key=jax.random.key(1),
        resamples=20, projections=256,
    )  # fmt: skip
    one = lambda row: (
        {
            name: None if getattr(row, name) is None else float(getattr(row, name)[0])
            for name in COLUMNS
        }
        | {"unsolved": row.unsolved}
    )
    rows = {label: one(row) for label, row in found.rows.items()}
    return rows.pop("samples"), rows


class Work:
    """One problem and seed: what its rows share, made when first asked for."""

    def __init__(self, name, seed, quick):
        self.problem = problems.make(name, seed, quick)
        self.count = 32 if quick else COUNT
        self.quick = quick
        self.students = {}
        self.z = self.problem.noise(self.count)

    def student(self, name):
        """By the name of its recipe: trained, or read from an earlier run."""
        if name in self.students:
            return self.students[name]
        plain = f"{self.problem.name}-{self.problem.seed}-{name}".replace(" ", "_")
        file = problems.STORE / f"{plain}.px"
        note = file.with_suffix(".json")
        if note.exists() and not self.quick:
            found = px.load(file), json.loads(note.read_text())
        else:
            found = methods.student(self.problem, methods.RECIPES[name])
            if not self.quick:
                px.save(file, found[0])
                note.write_text(json.dumps(found[1]))
        self.students[name] = found
        return found

    def make(self, row):
        """Fields in physical units, and what they cost."""
        problem, z = self.problem, self.z
        if row == "data":
            return problem.test[-self.count :], {}
        if row == "data through the coordinates":
            y = problem.normaliser.normalise(problem.test[-self.count :])
            return problem.restore(y), {}
        if row == "Gaussian":
            return problem.restore(self.gaussian()), {"evaluations": 0}
        if row == "its given, then solve":
            made, seconds = methods.solve(problem, problem.restore(self.gaussian()))
            return made, {"evaluations": 0, "seconds": seconds}
        if row in ("teacher", "PIDM teacher"):
            return self.teach(row)
        if row in methods.RECIPES:
            model, training = self.student(row)
            x, seconds = methods.one_step(problem, model, z)
            cost = {"evaluations": 1, "seconds": seconds, "training": training}
            return problem.restore(x), cost
        return self.refined(row)

    def gaussian(self):
        """Independent normal coordinates, each of its variance over the fields."""
        data = np.asarray(self.problem.normaliser.normalise(self.problem.train))
        return self.z / self.problem.process.t_max * data.std(axis=0)

    def teach(self, row):
        problem = self.problem
        seconds = problem.teacher[1]
        if row == "PIDM teacher":
            flow, seconds = methods.pidm(problem)
            problem = methods.with_flow(problem, flow)
        problem.solved(self.z)  # compiles
        start = time.perf_counter()
        x, calls = problem.solved(self.z)
        cost = {"evaluations": calls, "seconds": time.perf_counter() - start}
        return problem.restore(x), cost | {"training": {"seconds": seconds}}

    def refined(self, row):
        """On the latent of a student, or on the sample itself."""
        problem, z = self.problem, self.z
        how = methods.REFINEMENTS[row]
        model, training = self.student(how.start) if how.start else (None, None)
        before = 1 if model else 0  # evaluations for the sample that is to move
        if how.direct:
            x = methods.one_step(problem, model, z)[0] if model else self.gaussian()
            z = x * problem.process.t_max
            model = methods.Identity(problem.process, problem.shape)
        found = methods.refine(problem, model, z, how)
        ledger = found.cost.as_dict()
        each = before if how.direct else ledger["network"] / self.count
        cost = {"evaluations": each, "seconds": ledger["seconds"], "ledger": ledger}
        return np.asarray(found.fields, np.float64), cost | {"training": training}


def keep(row):
    head = {"dtype": "float32", "samples": COUNT, "seeds": [0, 1, 2]}
    record.append(NAME, row, head | {"command": "python benchmarks/piddm.py"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--problem", default="")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    record.provenance()
    works = {}
    for name, row, seed in settings(arguments.quick):
        if arguments.only not in f"{name}/{row}" or arguments.problem not in ("", name):
            continue
        if arguments.seed not in (None, seed):
            continue
        done = {(r["problem"], r["row"], r["seed"]) for r in record.rows(NAME)}
        if (name, row, seed) in done and not arguments.quick:
            continue
        if (name, seed) not in works:
            works = {(name, seed): Work(name, seed, arguments.quick)}
        fields, cost = works[name, seed].make(row)
        numbers, trivial = judge(works[name, seed].problem, fields)
        shown = {k: v if v is None else round(v, 4) for k, v in numbers.items()}
        print(name, row, seed, shown, flush=True)
        if not arguments.quick:
            trivial = trivial if row in ("teacher", "PIDDM (a)") else {}
            keep({"problem": name, "row": row, "seed": seed, **numbers, **cost}
                 | {"trivial": trivial})  # fmt: skip


if __name__ == "__main__":
    main()
