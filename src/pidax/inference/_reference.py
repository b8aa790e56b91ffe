r"""When a posterior is known well enough to judge others by it.

A reference is two independent runs, best by two methods (`Bank` and `SMC`, `SMC` and
long chains), of which each is worth enough samples and which agree: the squared energy
distance of their fields is below twice the distance of the halves of a run, and the
logarithms of their evidences are within 0.2. Whether a method is calibrated is seen
over many truths: the rank of each truth among its samples is uniform if prior,
likelihood and samples belong together (Talts et al. 2018).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._checks import whole_number
from .._progress import advance, progress_bar
from ..constraint import AbstractConstraint, All
from ..metrics import RankHistogram, energy_distance, rank_histogram
from ..pde import AbstractEquation, AbstractNormaliser
from ..types import Condition, Key, WholeLike, typed
from ._infer import infer
from ._posterior import AGREE, Posterior
from ._prior import as_prior
from ._problem import Problem
from ._sampler import REFERENCE

_EVIDENCE = 0.2  # nats between runs that agree
_TIMES = 2.0  # the distance of the halves of one run
_MOST = 2000  # samples of each run that are compared


class Agreement(NamedTuple):
    r"""Whether runs are samples of one law.

    `distance` is the largest squared energy distance of two of the runs, with each
    entry of the fields in units of its standard deviation. `by_chance` is the mean
    distance between the halves of each of these two runs. `log_evidence` is the range
    of the logarithms of the evidence over the runs that have one; NaN if fewer than two
    have.
    """

    distance: float
    by_chance: float
    log_evidence: float

    @property
    def agrees(self) -> bool:
        """Distance below twice that of halves, evidences within 0.2 nats."""
        near = self.distance < _TIMES * self.by_chance
        return near and not self.log_evidence > _EVIDENCE

    def __str__(self) -> str:
        verdict = "the runs agree" if self.agrees else "the runs do not agree"
        text = f"{verdict}: energy distance {self.distance:.3g}, of the halves of a "
        text = f"{text}run {self.by_chance:.3g}"
        if np.isnan(self.log_evidence):
            return text
        return f"{text}; log evidence within {self.log_evidence:.2g}"


@typed
def agreement(*runs: Posterior) -> Agreement:
    """Compare runs of `infer` for the same observations, pair by pair.

    Samples must not be weighted. Their order has to be that of `infer`, whose halves
    are of different chains, particles or draws. At most 2000 samples of each are
    compared, evenly spread.
    """
    if len(runs) < 2 or any(run.weights is not None for run in runs):
        weighted = sum(run.weights is not None for run in runs)
        raise ValueError(
            "runs are compared by their samples: expected at least two runs without "
            f"weights, got {len(runs)}, {weighted} of them weighted. Run another "
            "method or key; metropolis=True makes samples of weights."
        )
    worst = None
    flat = [_rows(run) for run in runs]
    for i, x in enumerate(flat):
        for y in flat[:i]:
            pair = _compared(x, y)
            if worst is None or pair[0] * worst[1] > worst[0] * pair[1]:
                worst = pair
    assert worst is not None
    known = [r.log_evidence for r in runs if r.log_evidence is not None]
    return Agreement(*worst, float(np.ptp(known)) if len(known) > 1 else np.nan)


@typed
def check_reference(*runs: Posterior, least: WholeLike = REFERENCE) -> Agreement:
    """Refuse runs that are no reference; return how well they agree.

        bank = px.infer(darcy, observation, key=first, method=Bank(1_000_000))
        particles = px.infer(darcy, observation, key=second, method=SMC())
        print(check_reference(bank, particles))

    Each run has to be of an exact method and worth at least `least` independent
    samples, and all have to agree (`agreement`). The error says what is missing and
    what would pass.
    """
    least = whole_number("least", least)
    for run in runs:
        worth = float(np.nanmin([run.bank_ess, run.bulk_ess, run.tail_ess, np.inf]))
        if run.caution:
            got = f"samples that are not exact: {run.caution}"
        elif run.r_hat > AGREE:
            got = f"chains with R-hat {run.r_hat:.3g}"
        elif worth < least or np.isinf(worth):
            got = f"samples worth {worth:.0f}" if worth < least else "no such number"
        else:
            continue
        raise ValueError(
            f"{run.method} is refused as a reference: expected exact samples worth at "
            f"least {least}, got {got}. To do: {run.advice}"
        )
    found = agreement(*runs)
    if not found.agrees:
        raise ValueError(
            "runs that disagree are no reference: expected an energy distance below "
            f"{_TIMES:g} times that of halves, and evidences within {_EVIDENCE}, got: "
            f"{found}. Run all for longer; if they stay apart, one of them has missed "
            "a mode."
        )
    return found


def _rows(run: Posterior) -> np.ndarray:
    every = np.asarray(run.fields, np.float64).reshape(len(run.fields), -1)
    index = np.linspace(0, len(every) - 1, min(len(every), _MOST), dtype=int)
    return every[index]


def _compared(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The squared distance of two sets, and the mean one of their halves."""
    both = np.concatenate([x, y])
    std = both.std(axis=0)
    some = std > 1e-6 * std.max()
    x, y = x[:, some] / std[some], y[:, some] / std[some]
    distance = lambda a, b: float(energy_distance(a, b, unbiased=False))
    halves = [distance(a[: len(a) // 2], a[len(a) // 2 :]) for a in (x, y)]
    return distance(x, y), float(np.mean(halves))


@typed
def simulated_ranks(
    prior: Any,
    observations: AbstractConstraint,
    quantity: Callable[[np.ndarray], Any],
    *,
    key: Key,
    truths: WholeLike = 200,
    ranks: WholeLike = 20,
    forward: Any = None,
    normaliser: AbstractNormaliser | None = None,
    condition: Condition = None,
    progress: bool = True,
    **options: Any,
) -> RankHistogram:
    """Simulation-based calibration: ranks of many truths among their samples.

        mean = lambda fields: fields[..., 1].mean(axis=(-2, -1))
        found = simulated_ranks(darcy, observation, mean, key=key, method=bank)
        print(found.chi_squared, found.degrees)     # alike, if it is calibrated

    Each truth is drawn from the prior and observed with a draw of the noise, and
    `infer` is asked for its posterior. The ranks are uniform if the samples are exact.

    **Arguments:**

    - `prior`, `forward`, `normaliser`, `condition`, and `options`: as for `infer`.
    - `observations`: say what is observed and with which noise; their values are
      replaced.
    - `quantity`: one number of each of the fields, of which the sample is the first
      axis.
    - `truths`: their number. `ranks` are counted among `ranks - 1` samples, evenly
      spread; a chain has to be long enough that these are independent.

    **Cost:** `truths` calls of `infer`; a filled `Bank` makes them cheap. Talts et al.
    2018, "Validating Bayesian inference algorithms with simulation-based calibration".
    """
    truths = whole_number("truths", truths, least=2)
    ranks = whole_number("ranks", ranks, least=3)
    if forward is None and isinstance(prior, AbstractEquation):
        forward = prior
    own: dict[str, Any] = {"forward": forward, "normaliser": normaliser}
    law = as_prior(prior)
    problem = Problem(law, observations, **own)
    shape = problem.shape
    assert shape is not None
    first, second, third = jax.random.split(key, 3)

    @eqx.filter_jit
    def simulated(problem: Problem, condition: Condition, key: Key) -> tuple[Any, Any]:
        draw, noise = jax.random.split(key)
        latent = jax.random.normal(draw, shape)
        fields, predicted = problem.outputs(latent, condition)
        seen = fields if predicted is None else predicted
        return fields, problem.simulate(seen, noise)

    samples, values = [], []
    with progress_bar(truths, "calibrate", "truth", progress) as bar:
        for i in range(truths):
            fields, parts = simulated(problem, condition, jax.random.fold_in(first, i))
            values.append(float(np.asarray(quantity(np.asarray(fields)[None]))[0]))
            found = infer(
                law, All(parts), key=jax.random.fold_in(second, i), progress=False,
                condition=condition, **own, **options,
            )  # fmt: skip
            every = np.asarray(quantity(found.fields), np.float64)
            index = np.linspace(0, len(every) - 1, ranks - 1, dtype=int)
            samples.append(every[index])
            advance(bar, 1)
    return rank_histogram(np.stack(samples, axis=1), np.array(values), key=third)
