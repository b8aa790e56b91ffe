"""A class-conditional teacher of 8 by 8 digits, distilled to one evaluation a sample.

A network is trained on two thirds of scikit-learn's digits. A student that predicts the
clean samples of its whole trajectory at once starts from its weights, and is taught by
the residual of its ODE alone (PID, Tee et al. 2024), labels drawn evenly. Prints the
comparison with the adaptive solution for the same noise and
labels, checks it, and saves outputs/digits.png, teacher over student. Needs
scikit-learn for its digits: pip install -e ".[examples]".

    python examples/digits.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import pidax as px

KEY = jax.random.key(0)
TEACHER_STEPS, STUDENT_STEPS, NODES = 1_000, 800, 20


def train_teacher(images, labels):
    """A denoiser of images as vectors of 64 pixels, told the class."""
    process = px.EDM(sigma_data=float(images.std()))
    network = px.nn.ResidualMLP(64, 64, width=256, depth=4, classes=10, key=KEY)
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=(images, labels),
        steps=TEACHER_STEPS,
        batch_size=256,
        optimiser=optax.adam(px.warmup_cosine(2e-3, TEACHER_STEPS)),
        key=jax.random.fold_in(KEY, 1),
    )
    return px.ProbabilityFlow(result.ema(), process)


def distil(flow, pid):
    """A student with the teacher's architecture and weights."""
    some, key = jnp.arange(250) % 10, jax.random.fold_in(KEY, 4)
    times = px.where_it_moves(flow, NODES, key=key, draws=250, condition=some)
    result = px.fit(
        px.IntegralStudent.from_teacher(flow.denoiser, flow.process, times),
        pid,
        steps=STUDENT_STEPS,
        batch_size=256,
        optimiser=optax.adam(px.warmup_cosine(2e-3, STUDENT_STEPS), b2=0.99),
        ema=(0.99,),
        key=jax.random.fold_in(KEY, 2),
    )
    return result.ema()


def draw(report, target):
    """Two rows for each of three draws of the ten digits: teacher over student."""
    figure, axes = plt.subplots(3, 1, figsize=(7, 4.6), layout="constrained")
    for i, ax in enumerate(axes):
        some = slice(10 * i, 10 * i + 10)
        both = [report.reference.end[some], report.student.end[some]]
        images = np.concatenate(both).reshape(-1, 8, 8, 1)
        rows = ["teacher", "student"]
        px.plot.sample_grid(images, columns=10, limits=(-1, 1), rows=rows, ax=ax)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=150)
    print(f"saved {target}")


def main():
    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:1197], order[1197:]
    flow = train_teacher(images[train], labels[train])
    pid = px.PID(flow, classes=10)
    student = distil(flow, pid)
    report = px.compare(
        flow,
        student,
        key=jax.random.fold_in(KEY, 3),
        count=1000,
        condition=jnp.arange(1000) % 10,
        grid=student.times,  # its nodes, on which Euler and Heun step beside it
        clock=px.flow.AngleClock(),
        samples=images[held_out],
        per_component=True,
    )
    print(report)
    draw(report, Path("outputs/digits.png"))
    assert report.endpoint_rms < 0.2, f"expected below 0.2, got {report.endpoint_rms}"


if __name__ == "__main__":
    main()
