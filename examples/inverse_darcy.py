"""The permeability from a few measured pressures: forward, inverse and in between.

Takes the student of examples/darcy.py (trained first, if it is not in outputs/darcy)
and asks it what the fields are, given the whole coefficient, given pressures at a tenth
of the points with noise, and given a few of both. Nothing but the mask differs. Prints
errors against the truth and the spread of the answers, draws outputs/inverse_darcy.png,
and checks itself.

    python examples/inverse_darcy.py [--size 16] [--quick]
"""

import argparse
from pathlib import Path
from typing import Any

import darcy
import jax
import matplotlib.pyplot as plt
import numpy as np

import pidax as px

NOISE = 0.02  # of a field's standard deviation
SLACK = 0.2  # a few times the student's own residual: with less it is too certain


def observations(equation, truth, sizes):
    """What is known in each problem."""
    noise = dict(zip(equation.names, (NOISE * sizes).tolist(), strict=True))
    some = lambda share, *names: px.Observation.at_random(
        equation, truth, share, names=names, noise=noise, key=jax.random.key(2)
    )
    return {
        "forward: all of a": px.Observation.of(equation, coefficient=truth.coefficient),
        "inverse: u at 10%": some(0.1, "solution"),
        "inverse: u at 30%": some(0.3, "solution"),
        "reconstruction: both at 5%": some(0.05, "coefficient", "solution"),
    }


def main(options):
    equation, chart, test, flow, student = darcy.trained(
        darcy.Sizes.of(options.size, options.quick)
    )
    sizes = test.std(axis=(0, 1, 2))
    truth = test[0]
    named = jax.tree.map(np.asarray, equation.unstack(truth))
    constraint = px.Residual(equation, chart)
    prior = np.asarray(chart.restore(jax.vmap(student.sample)(
        flow.process.prior(jax.random.key(5), (options.samples, *chart.shape))
    )))  # fmt: skip
    rows: dict[str, tuple[np.ndarray, Any]] = {"nothing": (prior, None)}
    for name, observation in observations(equation, named, sizes).items():
        found = px.refine(
            student, observation, constraint, samples=options.samples,
            key=jax.random.key(3), slack=SLACK,
        )  # fmt: skip
        rows[name] = np.asarray(found.fields), observation
    print(f"{'':<28}{'error of a':>12}{'spread':>9}{'error of u':>12}{'spread':>9}")
    errors = {}
    for name, (fields, _) in rows.items():
        error = (fields.mean(axis=0) - truth) / sizes
        error = np.sqrt((error**2).mean(axis=(0, 1)))
        spread = np.sqrt((fields.var(axis=0) / sizes**2).mean(axis=(0, 1)))
        errors[name] = error
        print(
            f"{name:<28}{error[0]:>12.3f}{spread[0]:>9.3f}"
            f"{error[1]:>12.3f}{spread[1]:>9.3f}"
        )
    draw(truth, rows, Path("outputs/inverse_darcy.png"))
    return errors


def draw(truth, rows, target):
    """A row for each problem: truth, what is seen, mean and spread, of both fields."""
    figure, axes = plt.subplots(
        len(rows), 8, figsize=(13, 1.8 * len(rows)), layout="constrained"
    )
    heads = ("truth", "measured", "mean", "spread")
    for row, (name, (fields, observation)) in zip(axes, rows.items(), strict=True):
        for i, field in enumerate(("a", "u")):
            real, spread = truth[..., i], fields[..., i].std(axis=0)
            seen = np.full_like(real, np.nan)
            if observation is not None:
                mask = np.asarray(observation.mask[..., i])
                seen[mask] = np.asarray(observation.values[..., i])[mask]
            panels = (real, seen, fields[..., i].mean(axis=0), spread)
            for j, (head, panel) in enumerate(zip(heads, panels, strict=True)):
                ax = row[4 * i + j]
                scale = dict(vmin=real.min(), vmax=real.max()) if j < 3 else {}
                shown = ax.imshow(np.asarray(panel).T, origin="lower", **scale)
                ax.set(xticks=[], yticks=[], title=f"{field}: {head}")
                ax.title.set_fontsize("x-small")
                if j in (2, 3):
                    figure.colorbar(shown, ax=ax, shrink=0.8)
        row[0].set_ylabel(name.replace(": ", "\n"), fontsize="x-small")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=120)
    print(f"saved {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="a minute, to look at it")
    found = main(parser.parse_args())
    known, unknown = found["forward: all of a"], found["nothing"]
    assert known[0] < 1e-5, known  # to the rounding of a mean in float32
    assert known[1] < 0.5 * unknown[1], (known, unknown)
