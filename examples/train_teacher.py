"""Teachers trained from data: two moons in the plane, and 8x8 digits by class.

Each is an EDM-preconditioned network trained by denoising score matching, sampled by
solving its ODE, and compared with data that it has not seen. Prints both comparisons,
checks them, and saves outputs/train_teacher.png. Needs scikit-learn for its digits:
pip install -e ".[examples]".

    python examples/train_teacher.py
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


def distances(samples, reference, other):
    """Sliced W2 of samples to a reference, and that of more data as the floor."""
    far = lambda x: np.mean(
        [
            float(px.metrics.sliced_wasserstein(x, reference, key=jax.random.key(i)))
            for i in range(3)
        ]
    )
    return far(samples), far(other)


def moons():
    """Two interleaved half circles; the class is not used."""
    law = px.GaussianMixture.two_moons()
    draw = jax.vmap(lambda key: law.sample(key=key))
    data, held_out, more = (
        draw(jax.random.split(jax.random.fold_in(KEY, i), n))
        for i, n in enumerate((50_000, 4_096, 4_096))
    )
    process = px.EDM(sigma_data=float(data.std()))
    network = px.nn.MLP(2, 2, width=128, depth=4, key=KEY)
    steps = 3_000
    result = px.fit(
        px.Preconditioned(network, process),
        px.DenoisingScoreMatching(process),
        data=data,
        steps=steps,
        batch_size=512,
        optimiser=optax.radam(px.warmup_cosine(2e-3, steps)),
        ema=(0.999,),
        key=KEY,
    )
    flow = px.ProbabilityFlow(result.ema(), process)
    samples = px.sample(flow, 4_096, key=jax.random.key(1))
    return result, samples, held_out, distances(samples, held_out, more)


def digits():
    """Images of 8 by 8 pixels and ten classes, scaled to [-1, 1]."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:1197], order[1197:]
    process = px.EDM(sigma_data=float(images.std()))
    network = px.nn.UNet(1, 1, width=32, classes=10, dropout=0.1, key=KEY)
    steps = 1_000
    result = px.fit(
        px.Preconditioned(network, process, shape=(8, 8, 1)),
        px.DenoisingScoreMatching(process, label_dropout=0.1),
        data=(images[train], labels[train]),
        steps=steps,
        batch_size=64,
        optimiser=optax.radam(px.warmup_cosine(2e-3, steps)),
        ema=(0.99, 0.999),
        key=KEY,
    )
    flow = px.ProbabilityFlow(result.ema(0.999), process)
    wanted = jnp.asarray(labels[held_out])
    samples = px.sample(flow, len(held_out), condition=wanted, key=jax.random.key(1))
    # As many of the training images as there are held out, for the floor.
    floor = images[train[: len(held_out)]]
    return result, samples, wanted, distances(samples, images[held_out], floor)


def draw(histories, sets, images, labels):
    """Losses, ten digits of each class, and the planar samples."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 10), layout="constrained")
    px.plot.loss_curves(histories, ax=axes[0, 0])
    axes[0, 0].set_title("score-matching loss")
    columns = [np.flatnonzero(labels == digit)[:10] for digit in range(10)]
    rows = np.stack(columns, axis=1).ravel()
    px.plot.sample_grid(images[rows], columns=10, limits=(-1, 1), ax=axes[0, 1])
    axes[0, 1].set_title("drawn by the teacher, one class in each column")
    px.plot.samples(sets, axes=axes[1])
    target = Path("outputs/train_teacher.png")
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=150)
    print(f"saved {target}")


def main():
    planar, samples, held_out, moon_distances = moons()
    conditional, images, labels, digit_distances = digits()
    print("\nsliced W2 to held-out data")
    print(f"{'':>10} {'teacher':>9} {'more data':>10}")
    rows = {"two moons": moon_distances, "digits": digit_distances}
    for name, (far, floor) in rows.items():
        print(f"{name:>10} {far:>9.4f} {floor:>10.4f}")
    histories = {"two moons": planar.history, "digits": conditional.history}
    sets = {"two moons, held out": held_out, "two moons, teacher": samples}
    draw(histories, sets, np.asarray(images), np.asarray(labels))
    for far, floor in (moon_distances, digit_distances):
        assert far < 2 * floor, f"expected within twice the floor {floor}, got {far}"


if __name__ == "__main__":
    main()
