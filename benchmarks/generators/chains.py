r"""Channels by chains, particles and ensembles: priors as functions of normal numbers.

`px.infer` with the exact law, a cut Gaussian field or a one-step student as the prior,
and Darcy's heads at the wells as the forward map, for the first 30 truths of
`problems_steady`; beside them the same truths by banks. A material that is seen wrongly
with the probability $p$ is, as a likelihood, a 0/1 value with the normal noise
$s = (2 \ln(1/p - 1))^{-1/2}$: a disagreement costs $1/(2 s^2) = \ln(1/p - 1)$. So
wells and heads are one `Observation`.

- `SMC, exact law`: a tempered reference: two runs for each truth, scored together. The
  runs `agree` on a share of truths (energy distance and evidence), and pass the `gate`
  of `check_reference` on one: it also asks that each is worth 200 samples.
- `ensemble, exact law`: ES-MDA on the same latent numbers.
- `pCN, cut Gaussian`, `pCN, student`: chains on these priors.
- `nearest`: the one field of the training set with the largest likelihood.

`inside_50` and `inside_90` are the shares of truths in the central intervals; `worth`
is the number of independent samples, the median over truths.
"""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import pidax as px
from pidax import metrics

from .. import bench
from .learned import RECIPES, Recipe, cut_gaussian, distil, root_of
from .problems_steady import (
    SEEDS,
    TRUTHS,
    Channels,
    Reweighted,
    drawn,
    summary,
    weighted_crps,
)

FIRST = 30  # truths


def heads_and_flow(a):
    """As in `problems_steady`, by JAX: rows of cells are eliminated one by one.

    In float32 it is right to four digits, and as fast as a banded factorisation.
    """
    n, m = a.shape
    across = 2 / (1 / a[1:] + 1 / a[:-1]) * n / m
    along = 2 / (1 / a[:, 1:] + 1 / a[:, :-1]) * m / n
    ends = 2 * a * n / m
    diagonal = jnp.pad(across, ((1, 0), (0, 0))) + jnp.pad(across, ((0, 1), (0, 0)))
    diagonal += jnp.pad(along, ((0, 0), (1, 0))) + jnp.pad(along, ((0, 0), (0, 1)))
    diagonal = diagonal.at[0].add(ends[0]).at[-1].add(ends[-1])
    one_row = jax.vmap(lambda d, c: jnp.diag(d) - jnp.diag(c, 1) - jnp.diag(c, -1))
    load = jnp.zeros_like(a).at[0].set(ends[0])

    def down(above, row):
        inverse, partial = above
        matrix, link, right = row
        matrix = matrix - link[:, None] * inverse * link
        inverse = jnp.linalg.inv(matrix)
        partial = inverse @ (right + link * partial)
        return (inverse, partial), (inverse, partial)

    none = jnp.zeros((m, m), a.dtype), jnp.zeros(m, a.dtype)
    rows = one_row(diagonal, along), jnp.pad(across, ((1, 0), (0, 0))), load
    _, (inverses, partials) = jax.lax.scan(down, none, rows)

    def up(below, row):
        inverse, partial, link = row
        u = partial + inverse @ (link * below)
        return u, u

    back = inverses, partials, jnp.pad(across, ((0, 1), (0, 0)))
    _, u = jax.lax.scan(up, none[1], back, reverse=True)
    return u, (ends[0] * (1 - u[0])).sum()


class Looks(eqx.Module):
    """What sensors see of a medium, and the logarithm of its flow: a forward map."""

    wells: tuple[int, ...]

    def __call__(self, a: Array) -> Array:
        u, flow = heads_and_flow(a[..., 0])
        at = np.ix_(self.wells, self.wells)
        inside = (a[..., 0][at] > 10).astype(u.dtype).ravel()
        return jnp.concatenate([inside, u[at].ravel(), jnp.log(flow)[None]])[:, None]


def observed(problem: Channels, said):
    """The sensors' values as an observation of the forward map's output."""
    half = problem.sensors // 2
    doubt = (2 * np.log(1 / problem.wrong - 1)) ** -0.5
    noise = np.repeat([doubt, problem.noise, 1.0], [half, half, 1])[:, None]
    mask = np.arange(2 * half + 1)[:, None] < 2 * half
    values = np.append(said, 0.0)[:, None]
    as_float = lambda x: jnp.asarray(x, jnp.float32)
    return px.Observation(mask, as_float(values), as_float(noise))


class Cut(eqx.Module):
    """Two materials by the sign of a Gaussian field."""

    level: Array
    root: Array
    materials: tuple[float, float]

    def __call__(self, latent: Array) -> Array:
        low, high = self.materials
        side = int(len(self.level) ** 0.5)
        inside = (self.level + self.root @ latent > 0).reshape(side, side, 1)
        return jnp.where(inside, high, low).astype(latent.dtype)


class Rounded(eqx.Module):
    """The nearer material of a student's sample."""

    student: Any
    materials: tuple[float, float]

    def __call__(self, latent: Array) -> Array:
        process, (low, high) = self.student.process, self.materials
        z = process.sigma(jnp.asarray(process.t_max, latent.dtype)) * latent
        return jnp.where(self.student.sample(z) > 0, high, low).astype(latent.dtype)


def materials(problem):
    law: Any = problem.equation.coefficient
    return law.low, law.high


def exact_law(problem, recipe, seed):
    return px.inference.LatentPrior.of(problem.equation)


def of_cut(problem, recipe, seed):
    level, correlations = cut_gaussian(problem, seed)
    root = root_of(correlations)
    as_float = lambda x: jnp.asarray(x, jnp.float32)
    prior = Cut(as_float(level), as_float(root), materials(problem))
    return px.inference.LatentPrior(prior, (root.shape[1],))


def of_student(problem, recipe, seed):
    student, _ = bench.kept("student", distil, problem, recipe, seed)
    shape = (problem.size, problem.size, 1)
    return px.inference.LatentPrior(Rounded(student, materials(problem)), shape)


def first_truths(problem):
    """What would be seen of the first truths, and what the sensors say."""
    truth, _ = bench.kept("bank", drawn, problem, problem.truths, TRUTHS)
    said = problem.measured(truth, np.random.default_rng(TRUTHS))
    return truth[:FIRST], said[:FIRST]


def scored(samples, events, truth, problem, worth):
    """The scores of one truth by unweighted samples of ln Q and of the connection."""
    y = problem.targets(truth[None])[0]
    even = np.full(len(samples), 1 / len(samples))
    event = bool(problem.events(truth[None])[0])
    return {
        "crps": float(weighted_crps(samples[:, None], even, y)[0]),
        "brier": float((events.mean() - event) ** 2),
        "effective": worth,
    } | covered(samples, even, y[0])


def covered(samples, weights, truth):
    """Whether the truth is in the central intervals of 50% and 90%."""
    below = weights @ ((samples < truth) + 0.5 * (samples == truth))
    inside = lambda share: float(abs(below - 0.5) <= share / 2)
    return {"inside_50": inside(0.5), "inside_90": inside(0.9)}


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Samples by a method of `px.infer`: a method."""

    prior: Any
    by: str
    options: tuple[tuple[str, Any], ...] = ()
    samples: int = 1000
    runs: int = 1
    recipe: Recipe | None = None

    def configuration_on(self, problem):
        return {
            "prior": self.prior.__name__,
            "by": [self.by, dict(self.options)],
            "samples": [self.samples, self.runs],
            "truths": FIRST,
            "recipe": self.recipe and dataclasses.asdict(self.recipe),
        }

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        prior = self.prior(problem, self.recipe, seed)
        method = getattr(px.inference, self.by)(**dict(self.options))
        forward, scores, gates, spent, solves = Looks(problem.wells), [], [], 0.0, 0.0
        inside = jax.jit(jax.vmap(lambda a: metrics.connects(a[..., 0] > 10)))
        for i, (truth, said) in enumerate(zip(*first_truths(problem), strict=True)):
            start = time.perf_counter()
            found = [
                px.infer(
                    prior,
                    observed(problem, said),
                    key=jax.random.fold_in(jax.random.key(seed), 100 * i + run),
                    method=method,
                    samples=self.samples,
                    forward=forward,
                    progress=False,
                )
                for run in range(self.runs)
            ]
            spent += (time.perf_counter() - start) * (i > 0)  # the first compiles
            solves += sum(one.cost.solves for one in found)
            flow = np.concatenate(
                [np.asarray(one.predicted)[:, -1, 0] for one in found]
            )
            joins = np.concatenate([np.asarray(inside(one.fields)) for one in found])
            sizes = [min(one.bulk_ess, len(one.fields)) for one in found]
            worth = np.nan if np.isnan(sizes).all() else float(np.nansum(sizes))
            scores.append(scored(flow, joins, truth, problem, worth))
            if self.runs > 1:
                gates.append((passes(found), agrees(found)))
        count = len(scores)
        found = summary(scores) | {"draws": self.samples * self.runs}
        if np.isnan(found["effective_median"]):  # no number is known of an ensemble
            found = {k: v for k, v in found.items() if "effective" not in k}
        found |= coverage(scores)
        if gates:
            found["gate"], found["agree"] = map(float, np.mean(gates, axis=0))
        cost = {"answer_seconds": spent / max(count - 1, 1), "solves": solves / count}
        return bench.Outcome(found, cost)


def coverage(scores):
    """The shares of the truths that are in each interval."""
    names = "inside_50", "inside_90"
    return {name: float(np.mean([s[name] for s in scores])) for name in names}


def passes(found):
    """Whether the runs are a reference by the gate of the package."""
    try:
        px.inference.check_reference(*found)
    except ValueError:
        return False
    return True


def agrees(found):
    """Whether the runs are alike, whatever each is worth."""
    return px.inference.agreement(*found).agrees


@dataclasses.dataclass(frozen=True)
class First(Reweighted):
    """Banks on the first truths alone: a method."""

    only: bool = False  # the draw with the largest likelihood

    def configuration_on(self, problem):
        return super().configuration_on(problem) | {"truths": FIRST, "only": self.only}

    def __call__(self, problem, seed, quick) -> bench.Outcome:
        rows, note = self.rows(problem, self.count_on(problem), seed, quick)
        every = zip(*first_truths(problem), strict=True)
        scores = [self.answer(problem, rows, truth, said) for truth, said in every]
        found = summary(scores) | coverage(scores) | {"draws": len(rows)}
        return bench.Outcome(found, {"bank_seconds": note["seconds"]})

    def answer(self, problem, rows, truth, said):
        if self.only:
            rows = rows[[problem.log_likelihood(rows, said).argmax()]]
        log = problem.log_likelihood(rows, said) * self.weigh
        weights = np.exp(log - log.max())
        samples, y = (problem.targets(one)[:, 0] for one in (rows, truth[None]))
        found = super().answer(problem, rows, truth, said)
        return found | covered(samples, weights / weights.sum(), y[0])


SMC = (("moves", 10),)
SHORT = (("warmup", 300), ("thin", 5))
WAYS = {
    "prior": First("training", weigh=False),
    "bank": First("bank"),
    "training set": First("training"),
    "nearest": First("training", only=True),
    "SMC, exact law": Inferred(exact_law, "SMC", SMC, samples=1000, runs=2),
    "ensemble, exact law": Inferred(exact_law, "Ensemble"),
    "pCN, cut Gaussian": Inferred(of_cut, "PCN"),
    "pCN, student": Inferred(
        of_student, "PCN", SHORT, samples=400, recipe=RECIPES["Channels"]
    ),
}


def _register():
    for name, way in WAYS.items():
        dear = isinstance(way, Inferred)
        bench.method(
            "generators", f"30 truths, {name}", on=("channels",),
            seeds=(0,) if dear else SEEDS, quick=False,
        )(way)  # fmt: skip


_register()


def worth(row):
    size = row.metrics.get("effective_median")
    return "-" if size is None else f"{size:.0f}"


@bench.table("generators_chains", "generators")
def chains(results):
    """The score of each method on the first truths, and what its samples are worth."""
    lines = []
    for name in WAYS:
        some = results.where(problem="channels", method=f"30 truths, {name}")
        if not some:
            continue
        half = max(row["crps_half_width"] for row in some)
        known = lambda key, some=some: (
            bench.short(some[0][key]) if key in some[0].metrics else "-"
        )
        lines.append((
            f"{name}, {some[0]['draws']} draws", len(some),
            f"{bench.with_range(some.values('crps'))} ± {half:.2g}",
            bench.with_range(some.values("brier")),
            known("inside_50"), known("inside_90"),
            worth(some[0]), known("agree"), known("gate"),
        ))  # fmt: skip
    head = (
        "method", "seeds", "CRPS ± 95% over truths", "Brier of the connection",
        "in the 50% interval", "in the 90% interval", "worth, median",
        "runs agree", "pass the gate",
    )  # fmt: skip
    return bench.markdown(head, lines) if lines else "Not measured yet."
