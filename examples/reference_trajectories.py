"""Reference trajectories of the probability-flow ODE, with their errors.

A correlated Gaussian, whose trajectories are known in closed form, is solved from
noise to data in five processes; then a ring of eight Gaussians, whose density is.
Prints a table, checks it, and saves outputs/reference_trajectories.png.

    python examples/reference_trajectories.py
"""

from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from tqdm import tqdm

import pidax as px

jax.config.update("jax_enable_x64", True)

PROCESSES = [px.EDM(), px.VE(), px.VP(), px.SubVP(), px.RectifiedFlow()]
COUNT = 64  # trajectories


def closed_form(gaussian, process, z, times):
    """The exact states at every time, for every start."""

    def one(start, t):
        begin, end = process.level(process.t_max), process.level(t)
        return gaussian.transport(start, begin, end)

    along = jax.vmap(one, in_axes=(None, 0))
    return jax.vmap(along, in_axes=(0, None))(z, times)


def relative_error(process, xs, exact, times):
    """RMS over the trajectories at each time, in units of the state's size."""
    distance = jnp.linalg.norm(xs - exact, axis=-1)
    return jnp.sqrt(jnp.mean(distance**2, axis=0)) / process.scale(times)


def solve_the_gaussian(gaussian, z_unit):
    """One row per process: evaluations and error of the default and a tight solve."""
    rows = []
    for process in tqdm(PROCESSES, desc="solving in five processes"):
        flow = px.ProbabilityFlow(gaussian, process)
        z = z_unit * process.sigma(process.t_max)
        ends = jnp.array([process.t_max, process.t_min])
        exact = closed_form(gaussian, process, z, ends)[:, -1]
        row = [type(process).__name__]
        for rtol in (1e-4, 1e-10):
            path = px.solve_batch(flow, z, rtol=rtol)
            error = px.metrics.rms_error(path.end, exact)
            row += [int(path.stats["evaluations"]), float(error)]
        rows.append(row)
    return rows


def errors_along_the_path(gaussian, z_unit, times):
    """The error at every time of three ways to solve EDM's ODE."""
    process = px.EDM()
    z = z_unit * process.t_max
    exact = closed_form(gaussian, process, z, times)
    angle = px.ProbabilityFlow(gaussian, process)
    own = px.ProbabilityFlow(gaussian, process, clock=px.flow.TimeClock())
    ways = {
        "adaptive, 1e-8": (angle, {"rtol": 1e-8}),
        "adaptive, 1e-4 (default)": (angle, {}),
        "EDM's Heun, 18 nodes": (
            own,
            {"steps": px.karras(18, process), "solver": diffrax.Heun()},
        ),
    }
    errors, paths = {}, {}
    for name, (flow, options) in ways.items():
        paths[name] = px.solve_batch(flow, z, times=times, **options)
        label = f"{name}: {int(paths[name].stats['evaluations'])} evaluations"
        errors[label] = relative_error(process, paths[name].xs, exact, times)[1:]
    return errors, paths["adaptive, 1e-8"].xs, exact


def main():
    gaussian = px.Gaussian(
        jnp.array([0.4, 0.1]), jnp.array([[0.30, 0.17], [0.17, 0.12]])
    )
    z_unit = jax.random.normal(jax.random.key(0), (COUNT, 2))
    rows = solve_the_gaussian(gaussian, z_unit)
    print("\nGaussian data, RMS error against the closed form")
    print(f"{'':>8} {'default tolerance 1e-4':>26} {'tolerance 1e-10':>26}")
    for name, calls, error, tight_calls, tight in rows:
        print(f"{name:>8} {calls:>8} evals {error:>11.1e}", end="")
        print(f" {tight_calls:>8} evals {tight:>11.1e}")

    process, ring = px.EDM(), px.GaussianMixture.ring()
    times = px.uniform_angle(33, process)
    errors, xs, exact = errors_along_the_path(gaussian, z_unit, times)
    flow = px.ProbabilityFlow(ring, process)
    path = px.solve_batch(flow, z_unit * process.t_max, times=times, rtol=1e-8)
    x0 = path.end[0]
    logp = px.log_density(flow, x0, rtol=1e-8, terminal=ring.log_density).value
    gap = float(abs(logp - ring.log_density(x0, process.t_min)))
    print(f"\nring of 8: log-density {float(logp):.6f}, off by {gap:.1e} nats")

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    scale, few = process.scale(times), slice(0, 24)
    px.plot.paths(
        times[::4], xs[few, ::4], scale=scale[::4], exact=exact[few, ::4], ax=axes[0]
    ).set_title("Gaussian data: solver and closed form")
    px.plot.error_along_path(times[1:], errors, ax=axes[1])
    axes[1].set_title("error along the path, Gaussian data")
    axes[1].set_ylim(bottom=1e-14)  # room for the legend
    px.plot.paths(times, path.xs, scale=scale, ax=axes[2])
    axes[2].set_title("a ring of eight Gaussians")
    target = Path("outputs/reference_trajectories.png")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=150)
    print(f"saved {target}")

    worst = max(row[4] for row in rows)
    assert worst < 1e-8, f"expected every tight solve within 1e-8, got {worst}"
    assert gap < 1e-6, f"expected the density within 1e-6 nats, got {gap}"


if __name__ == "__main__":
    main()
