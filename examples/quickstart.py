"""A one-step sampler from a teacher's ODE alone: no data, no solved trajectories.

A ring of eight Gaussians, whose denoiser is known exactly, is the teacher. A small
network is taught to be the solution of its probability-flow ODE by that ODE's residual
(PID, Tee et al. 2024), and compared with the adaptive solution for the same noise.
Prints the comparison, checks it, and saves outputs/quickstart.png, .json and
outputs/quickstart_samples.png.

    python examples/quickstart.py
"""

import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import optax

import pidax as px

KEY = jax.random.key(0)
STEPS, NODES = 1_500, 20


def distil(flow, pid):
    """A student of this flow: one evaluation of its network, the whole trajectory."""
    process = flow.process
    times = px.where_it_moves(flow, NODES, key=jax.random.fold_in(KEY, 3))
    network = px.nn.MLP(
        2, NODES * 2, width=128, depth=3, key=jax.random.fold_in(KEY, 0)
    )
    result = px.fit(
        px.IntegralStudent(network, process, times),
        pid,
        steps=STEPS,
        batch_size=256,
        optimiser=optax.contrib.muon(px.warmup_cosine(1.5e-2, STEPS), adam_b2=0.99),
        key=jax.random.fold_in(KEY, 1),
    )
    return result.ema()


def draw(report, folder):
    """Trajectories and errors along the way; the samples of the same noise."""
    folder.mkdir(exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    px.plot.trajectories(report, ax=axes[0])
    px.plot.errors(report, ax=axes[1])
    figure.savefig(folder / "quickstart.png", dpi=150)
    px.plot.side_by_side(report)
    plt.savefig(folder / "quickstart_samples.png", dpi=150)
    print(f"saved {folder}/quickstart.png and {folder}/quickstart_samples.png")


def main():
    start = time.perf_counter()
    print("This takes about 90 seconds on two CPU cores.")
    teacher = px.GaussianMixture.ring()
    flow = px.ProbabilityFlow(teacher, px.EDM())
    # In the plane hardly a sample ends in another mode: late times count in full, and
    # so do large residuals.
    pid = px.PID(flow, weighting=px.distill.Unweighted(), distance=px.distill.L2())
    student = distil(flow, pid)
    # Beside the student: Euler's and Heun's method with the teacher, on 35 times.
    key, clock = jax.random.fold_in(KEY, 2), px.flow.AngleClock()
    # rtol: the reference by the default solver, whose program both solves share.
    report = px.compare(
        flow, student, key=key, count=2048, grid=pid.times, clock=clock, rtol=1e-5
    )
    print(report)
    folder = Path("outputs")
    draw(report, folder)
    report.save(folder / "quickstart.json")
    print(f"finished in {time.perf_counter() - start:.0f} s")
    error = report.endpoint_rms
    assert error < 0.015, f"expected below 0.015, got {error}"


if __name__ == "__main__":
    main()
