"""Refinement against the exact posterior: Poisson's equation with its exact student.

    python benchmarks/piddm_posterior.py            # seven minutes on a busy core
    python benchmarks/piddm_posterior.py --quick    # one seed, nothing written

The fields are Gaussian, so the posterior given measurements is known
(`Gaussian.posterior`, in float64). Forward (of the source), inverse (of the solution)
and reconstruction (of both) differ by the mask alone. Written down are the error of the
mean of the samples, beside the error that as many independent exact samples would have
on average (these are drawn in antithetic pairs), and the mean over points of the ratio
of their standard deviation to the exact one; and for one problem other anchors and
other solvers.
Writes benchmarks/results/piddm_posterior.json.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import record

import pidax as px
from pidax.inference import LBFGS, Adam, GaussNewton

SIZE, MODES, SAMPLES = 16, 128, 512
SHARES, NOISES, SEEDS = (0.03, 0.1, 0.3), (0.0, 0.01, 0.1), (0, 1, 2)
OBSERVED = {
    "forward": ("source",),
    "inverse": ("solution",),
    "reconstruction": ("source", "solution"),
}
WAYS = {
    "Gauss-Newton": {},
    "Gauss-Newton, anchored to zero (MAP)": {"anchor": "norm"},
    "Gauss-Newton, no anchor": {"anchor": None},
    "L-BFGS, 200 steps": {"solver": LBFGS(200)},
    "L-BFGS, 1000 steps": {"solver": LBFGS(1000, rtol=1e-6, atol=1e-6)},
    "Adam, 50 steps of 0.02": {"solver": Adam(0.02, 50)},
    "Adam, 500 steps of 0.02": {"solver": Adam(0.02, 500)},
    "Gauss-Newton, once more": {"solver": GaussNewton()},
}


class Problem:
    """The equation, its student, its law, and the size of its fields."""

    def __init__(self):
        grid = px.pde.Grid((SIZE, SIZE))
        source = px.pde.Matern(grid, alpha=2, tau=3, modes=MODES)
        self.equation = px.pde.Poisson(grid, source)
        with jax.enable_x64(True):
            law = self.equation.law()
            self.mean, self.factor = np.asarray(law.mean), np.asarray(law.factor)
        factor = jnp.asarray(self.factor, float)
        teacher = px.Gaussian(
            jnp.asarray(self.mean, float), px.denoiser.Covariance.low_rank(factor)
        )
        self.student = px.ExactStudent(teacher, px.EDM())
        identity = px.pde.Normaliser((0.0, 0.0), (1.0, 1.0))
        self.constraint = px.Residual(self.equation, identity)
        self.sizes = np.sqrt((self.factor**2).sum(axis=-1).mean(axis=(0, 1)))

    def observe(self, names, share, noise, seed):
        """Measurements of a truth of this seed."""
        truth, where = jax.random.split(jax.random.key(seed))
        fields = self.equation.sample(key=truth)
        sizes = dict(zip(self.equation.names, noise * self.sizes, strict=True))
        return px.Observation.at_random(
            self.equation, fields, share, names=names, noise=sizes, key=where
        )

    def posterior(self, observation):
        """Exact mean and standard deviation, by the coefficients of the modes."""
        seen = np.flatnonzero(np.asarray(observation.mask))
        noise = np.asarray(observation.noise, np.float64).ravel()[seen]
        weight = 1 / noise if noise.any() else np.ones_like(noise)
        rows = self.factor.reshape(-1, MODES)[seen] * weight[:, None]
        values = np.asarray(observation.values, np.float64) - self.mean
        with jax.enable_x64(True):
            prior = px.Gaussian(jnp.zeros(MODES), 1.0)
            given = prior.posterior(
                rows, values.ravel()[seen] * weight, float(noise.any())
            )
            factor = self.factor @ np.asarray(given.covariance.factor((MODES,)))
            mean = self.mean + self.factor @ np.asarray(given.mean)
        return mean, np.sqrt((factor**2).sum(axis=-1))

    def row(self, observation, seed, samples, **options):
        """What refinement makes of it, beside what is exact."""
        refined = px.refine(
            self.student,
            observation,
            self.constraint,
            key=jax.random.key(100 + seed),
            samples=samples,
            batch_size=samples,
            antithetic=True,
            **options,
        )
        mean, std = (a / self.sizes for a in self.posterior(observation))
        fields = refined.fields / self.sizes
        norm = np.linalg.norm(mean)
        spread, some = fields.std(axis=0, ddof=1), std.mean() > 1e-2
        known = std > 1e-3 * std.max()  # prescribed and observed values have no spread
        return {
            "mean_error": float(np.linalg.norm(fields.mean(axis=0) - mean) / norm),
            "sampling_error": float(np.linalg.norm(std) / np.sqrt(samples) / norm),
            "spread_ratio": float((spread / std)[known].mean()) if some else None,
            "ratio_of_means": float(spread.mean() / std.mean()) if some else None,
            "spread": float(spread.mean()),
            "exact_spread": float(std.mean()),
            "relative_residual": float(np.median(refined.relative)),
            "objective": float(np.median(refined.best.sum(axis=1))),
            "converged": float(refined.converged.mean()),
            "failed": int(refined.failed.sum()),
            "steps": float(refined.steps.mean()),
            **refined.cost.as_dict(),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    seeds, samples = (SEEDS[:1], 64) if quick else (SEEDS, SAMPLES)
    problem, rows, ways = Problem(), [], []
    head = f"{'':<38}{'mean':>8}{'(sampling)':>11}{'spread':>8}{'residual':>10}"
    print(head)
    for name, names in OBSERVED.items():
        for share in SHARES:
            for noise in NOISES:
                for seed in seeds:
                    observation = problem.observe(names, share, noise, seed)
                    row = problem.row(observation, seed, samples)
                    said = {"problem": name, "share": share, "noise": noise}
                    rows.append({**said, "seed": seed, **row})
                    show(f"{name}, {share:.0%}, noise {noise:.0%}", row)
    observation = problem.observe(OBSERVED["reconstruction"], 0.1, 0.1, 0)
    for name, options in list(WAYS.items())[: 2 if quick else None]:
        row = problem.row(observation, 0, samples, **options)
        ways.append({"way": name, **row})
        show(name, row)
    if not quick:
        found = {
            "dtype": "float32",
            "seeds": list(seeds),
            "grid": [SIZE, SIZE],
            "modes": MODES,
            "samples": samples,
            "rows": rows,
            "ways": ways,
        }
        print(record.save("piddm_posterior", found))


def show(name, row):
    ratio = row["spread_ratio"]
    print(
        f"{name:<38}{row['mean_error']:>8.2%}{row['sampling_error']:>11.2%}"
        f"{'' if ratio is None else format(ratio, '.3f'):>8}"
        f"{row['relative_residual']:>10.1e}"
    )


if __name__ == "__main__":
    main()
