"""Flow in a porous medium: fields, a teacher, a one-step student, its refinement.

Draws permeabilities and solves for the pressures, trains a diffusion model of both,
distils it into a student that makes a sample in one evaluation and is held to Darcy's
equation (PIDDM), and moves its samples' latents until the residual is small. Prints a
report with the trivial answers beside them, saves it with figures in outputs/darcy/,
and checks itself. About six minutes on two cores; --size 64 is for a GPU.

    python examples/darcy.py [--size 16] [--quick]
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import pidax as px
from pidax import pde

KEY = jax.random.key(0)
STORE = Path("outputs/darcy")
KEPT = ("chart", "teacher", "student")
SOLVE: Any = {"rtol": 1e-2, "atol": 1e-2}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    size: int = 16
    fields: int = 8192
    held_out: int = 2048
    teacher_steps: int = 1000
    student_steps: int = 1200
    pairs: int = 8192
    samples: int = 512
    width: int = 384
    rank: int | None = None
    batch: int = 256
    weight: float = 1000.0

    @staticmethod
    def of(size: int, quick: bool) -> "Sizes":
        if quick:
            return Sizes(
                size, fields=512, held_out=128, teacher_steps=60, student_steps=60,
                pairs=256, samples=64, width=64, rank=64, batch=64, weight=10.0,
            )  # fmt: skip
        return Sizes(size, rank=None if size <= 16 else 512)


def coordinates(equation, fields, sizes):
    """The logarithm of a, whitened, and what it leaves unexplained in u."""
    return pde.Whitened.fit(
        fields,
        positive=[0],
        given=equation.given_mask,
        rough={1: equation.grid},
        damping=0.1,
        rank=sizes.rank,
    )


def teach(chart, data, process, sizes):
    """A denoiser of whitened fields, by denoising score matching."""
    network = px.nn.blockwise(chart.blocks, width=sizes.width, depth=4, key=KEY)
    steps = sizes.teacher_steps
    return px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=steps,
        batch_size=sizes.batch,
        optimiser=optax.adam(px.warmup_cosine(1e-3, steps), b2=0.99),
        ema=(0.99,),
        key=KEY,
    ).ema()


def distil(flow, constraint, sizes):
    """A student of the teacher's ODE, held to the equation."""
    steps = sizes.student_steps
    objective = px.PIDDM(
        flow, constraint, weight=sizes.weight, fresh=True, pairs=sizes.pairs, **SOLVE
    )
    return px.fit(
        px.Student.from_teacher(flow.denoiser, flow.process),
        objective,
        steps=steps,
        batch_size=sizes.batch,
        optimiser=optax.adam(px.warmup_cosine(1e-3, steps), b2=0.99),
        ema=(0.99,),
        key=jax.random.key(1),
    ).ema()


def trained(sizes):
    """Equation, chart, held-out fields, the teacher's ODE, and its student.

    Trained once, and kept in outputs/darcy: delete it to train anew.
    """
    equation = pde.Darcy.lognormal(pde.Grid((sizes.size, sizes.size)))
    clock = time.perf_counter()
    said = lambda what: print(f"{what}: {time.perf_counter() - clock:.0f} s")
    drawn = pde.draw(equation, sizes.fields + sizes.held_out, key=KEY)
    fields = np.asarray(jax.vmap(equation.stack)(drawn))
    train, test = np.split(fields, [sizes.fields])
    said("fields")
    process = px.EDM(sigma_data=1.0)
    kept = STORE / f"{sizes.size}-{sizes.fields}"
    if (kept / "student.px").exists():
        print(f"coordinates, teacher and student of {kept}")
        chart, teacher, student = (px.load(kept / f"{n}.px") for n in KEPT)
    else:
        chart = coordinates(equation, train, sizes)
        data = np.asarray(chart.normalise(train), np.float32)
        teacher = teach(chart, data, process, sizes)
        said("teacher")
        constraint = px.Residual(equation, chart, adjust="unknowns")
        student = distil(px.ProbabilityFlow(teacher, process), constraint, sizes)
        said("student")
        kept.mkdir(parents=True, exist_ok=True)
        for name, what in zip(KEPT, (chart, teacher, student), strict=True):
            px.save(kept / f"{name}.px", what)
    return equation, chart, test, px.ProbabilityFlow(teacher, process), student


def main(sizes):
    equation, chart, test, flow, student = trained(sizes)
    constraint = px.Residual(equation, chart)
    z = flow.process.prior(jax.random.key(2), (sizes.samples, *chart.shape))
    ends = jnp.asarray([flow.process.t_max, flow.process.t_min])
    slow = px.solve_batch(flow, z, times=ends, **SOLVE)
    refined = px.refine(
        student, constraint=constraint, z=z, hold=equation.given_mask,
        key=jax.random.key(3), solver=px.inference.GaussNewton(4, products=20),
    )  # fmt: skip
    print(refined)
    sets = {
        "teacher": chart.restore(slow.xs[:, -1]),
        "one step": chart.restore(jax.vmap(student.sample)(z)),
        "refined": refined.fields,
    }
    report = pde.report(equation, sets, test, key=jax.random.key(4))
    print(report)
    STORE.mkdir(parents=True, exist_ok=True)
    report.save(STORE / "report.json")
    draw(equation, test, sets, STORE / "fields.png")
    return report


def draw(equation, test, sets, target):
    """One sample of each: coefficient, solution, and its residual."""
    rows = {"held-out data": test, **sets}
    figure = plt.figure(figsize=(9, 2.7 * len(rows)), layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1)
    for part, (name, some) in zip(parts, rows.items(), strict=True):
        one = np.asarray(some)[0]
        axes = part.subplots(1, 3)
        px.plot.fields(equation, one, axes=list(axes[:2]))
        px.plot.residuals(equation, one, axes=[axes[2]])
        part.suptitle(name, fontsize="medium")
    figure.savefig(target, dpi=110)
    print(f"saved {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="a minute, to look at it")
    arguments = parser.parse_args()
    found = main(Sizes.of(arguments.size, arguments.quick))
    rows: Any = found.rows
    residual = {name: rows[name].residual[0] for name in ("teacher", "refined")}
    assert residual["refined"] < 0.5 * residual["teacher"], residual
