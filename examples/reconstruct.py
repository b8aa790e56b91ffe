"""Fields from a few measurements: samples of a posterior, beside the exact one.

Poisson's equation with a Gaussian source makes Gaussian fields: their denoiser, their
one-step student and the posterior given noisy measurements are known in closed form.
So what refinement makes of sparse observations can be checked and not only looked at.

    python examples/reconstruct.py                      # 16 x 16, a minute on a CPU
    python examples/reconstruct.py --size 32 --samples 256

With a student of your own, call `reconstruct` with it: nothing else changes.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import pidax as px

SHARES = (0.03, 0.1, 0.3)  # of the points of each field
NOISE = 0.05  # of a field's standard deviation


def control(size: int, modes: int = 32):
    """The equation, its exact student, the joint law, and the size of each field."""
    grid = px.pde.Grid((size, size))
    poisson = px.pde.Poisson(grid, px.pde.Matern(grid, alpha=2, tau=3, modes=modes))
    law = poisson.law()
    teacher = px.Gaussian(law.mean, px.denoiser.Covariance.low_rank(law.factor))
    variances = (np.asarray(law.factor) ** 2).sum(axis=-1)
    sizes = np.sqrt(variances.mean(axis=(0, 1)))
    return poisson, px.ExactStudent(teacher, px.EDM()), law, sizes


def exact(law, observation):
    """Mean and standard deviation of the posterior, by Bayes' rule for Gaussians."""
    modes = law.factor.shape[-1]
    seen = np.flatnonzero(np.asarray(observation.noisy))
    noise = np.asarray(observation.noise).ravel()[seen]
    rows = np.asarray(law.factor).reshape(-1, modes)[seen] / noise[:, None]
    apart = (observation.values - law.mean).ravel()[seen] / noise
    prior = px.Gaussian(jnp.zeros(modes), 1.0)  # of the coefficients of the modes
    given = prior.posterior(rows, apart, 1.0)
    std = jnp.asarray(law.factor) @ given.covariance.factor((modes,))
    mean = law.mean + law.factor @ given.mean
    return np.asarray(mean), np.sqrt((np.asarray(std) ** 2).sum(axis=-1))


def reconstruct(student, equation, normaliser, observation, *, samples, key):
    """Posterior samples of the fields: of any student, for any equation.

    In antithetic pairs: the sampling error of their mean nearly cancels.
    """
    constraint = px.Residual(equation, normaliser)
    return px.refine(
        student, observation, constraint, samples=samples, key=key, antithetic=True
    )


def errors(fields, mean, std, sizes):
    """Of the mean in the 2-norm, relative; of the spread as a mean of ratios."""
    apart = np.linalg.norm((fields.mean(axis=0) - mean) / sizes)
    known = std > 1e-3 * std.max(axis=(0, 1))  # prescribed values have no spread
    ratio = (fields.std(axis=0, ddof=1)[known] / std[known]).mean()
    return apart / np.linalg.norm(mean / sizes), ratio


def figure(axes, truth, observation, fields, mean, std):
    """One row: the source, what is measured of it, and both answers."""
    seen = np.where(observation.mask[..., 0], observation.values[..., 0], np.nan)
    limit = np.abs(truth.source).max()
    panels = [truth.source, seen, fields.mean(axis=0)[..., 0], mean[..., 0]]
    for ax, panel in zip(axes[:4], panels, strict=True):
        ax.imshow(np.asarray(panel).T, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for ax, panel in zip(
        axes[4:], [fields.std(axis=0)[..., 0], std[..., 0]], strict=True
    ):
        ax.imshow(panel.T, cmap="viridis", vmin=0, vmax=std[..., 0].max())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()

    poisson, student, law, sizes = control(options.size)
    physical = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))  # as this student speaks
    truth = poisson.sample(key=jax.random.key(1))
    noise = dict(zip(poisson.names, (NOISE * sizes).tolist(), strict=True))
    figures, rows = plt.subplots(3, 6, figsize=(12, 6.2), layout="constrained")
    heads = ("truth", "measured", "mean", "exact mean", "spread", "exact spread")
    results, off, ratios = [], [], []
    print(f"{'observed':>9}{'mean':>9}{'spread':>9}{'residual':>10}{'calls':>7}")
    for i, share in enumerate(SHARES):
        observation = px.Observation.at_random(
            poisson, truth, share, noise=noise, key=jax.random.key(2)
        )
        refined = reconstruct(
            student,
            poisson,
            physical,
            observation,
            samples=options.samples,
            key=jax.random.key(3),
        )
        results.append(refined)
        mean, std = exact(law, observation)
        error, ratio = errors(refined.fields, mean, std, sizes)
        off.append(error)
        ratios.append(ratio)
        calls = refined.cost.network / refined.cost.samples
        print(
            f"{share:>8.0%} {error:>8.1%} {ratio:>8.3f} "
            f"{np.median(refined.relative):>9.1e}{calls:>7.1f}"
        )
        figure(rows[i], truth, observation, refined.fields, mean, std)
        rows[i][0].set_ylabel(f"{share:.0%} of the points")
    for ax, head in zip(rows[0], heads, strict=True):
        ax.set_title(head, fontsize=9)
    for ax in rows.ravel():
        ax.set(xticks=[], yticks=[])
    Path("outputs").mkdir(exist_ok=True)
    figures.savefig("outputs/reconstruct.png", dpi=120)
    print("figure: outputs/reconstruct.png")
    print(results[-1])

    assert max(off) < 0.05, f"the mean is off by {max(off):.0%}"
    worst = max(abs(ratio - 1) for ratio in ratios)
    assert worst < 0.15, f"the spread is off by {worst:.0%}"
    print(f"Mean and spread are the posterior's to within {max(off):.1%}, {worst:.1%}.")


if __name__ == "__main__":
    main()
