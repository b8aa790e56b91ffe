"""Samples of a posterior, with the diagnostics that say whether to believe them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ._cost import Cost
from ._diagnostics import bulk_ess, genealogical_ess, r_hat, tail_ess
from ._refine import Refined
from ._sampler import REFERENCE, Draws

AGREE = 1.01  # the largest R-hat of chains that agree
_ENOUGH = 400  # effective samples, for means and for 90% intervals
_QUANTITIES = 4096  # entries of the fields that are judged, evenly spread
_LABEL = 24


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Samples of a posterior, and whether to believe them.

    **Fields:**

    - `fields`: the prior's fields in physical units, solved if the forward map is an
      equation; `predicted`: the outputs of another forward map, otherwise None.
    - `latent`: the unit latents; `log_likelihood` of each sample, without constants
      (of a minimisation, of the values with noise).
    - `weights`: of the samples, with sum 1, or None if they are equal.
    - `r_hat`, `bulk_ess`, `tail_ess`: the worst values over the entries of the fields
      and the log-likelihood; NaN if the method has none.
    - `acceptance`: the share of accepted moves of each chain, or at each temperature;
      `step` that was used.
    - `failures`: of the forward map, by name; `failed`, their number. A chain rejects
      them.
    - `log_evidence`: of `SMC` and `Bank`, otherwise None.
    - `bank_ess`: the effective number of draws of a `Bank`, otherwise NaN.
    - `slack`: of a constraint, in units of its scale; NaN without one.
    - `caution`: why these samples are not of the posterior even with more evaluations;
      empty if they are.
    - `cost`: a `Cost`. `refined`: the result of `refine`, if it made the samples; the
      proposals, if a chain chose among them.

    Print it: the first line is the verdict.
    """

    fields: Float[np.ndarray, "sample *grid channel"]
    latent: Float[np.ndarray, "sample *event"]
    log_likelihood: Float[np.ndarray, " sample"]
    method: str
    caution: str
    cost: Cost
    predicted: Float[np.ndarray, "sample *quantity"] | None = None
    weights: Float[np.ndarray, " sample"] | None = None
    chains: int | None = None
    r_hat: float = np.nan
    bulk_ess: float = np.nan
    tail_ess: float = np.nan
    acceptance: Float[np.ndarray, " part"] | None = None
    step: float | None = None
    slack: float = np.nan
    temperatures: Float[np.ndarray, " stage"] | None = None
    log_evidence: float | None = None
    bank_ess: float = np.nan
    failed: int = 0
    failures: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refined: Refined | None = None
    advice: str = ""

    @property
    def problems(self) -> list[str]:
        """What is wrong with these samples; empty if they can be believed."""
        found = []
        if self.acceptance is not None and self.chains is not None:
            still = int((self.acceptance == 0).sum())
            if still:
                found.append(f"{still} of {self.chains} chains never moved")
        if self.r_hat > AGREE or (self.chains is not None and np.isnan(self.r_hat)):
            found.append(
                f"the chains do not agree (worst R-hat {self.r_hat:.3g}, above {AGREE})"
            )
        if self.bank_ess < REFERENCE:
            return [
                f"the bank is worth {self.bank_ess:.0f} draws for this observation, "
                f"fewer than {REFERENCE}, and is no reference"
            ]
        sizes = [s for s in (self.bulk_ess, self.tail_ess) if not np.isnan(s)]
        if sizes and min(sizes) < _ENOUGH:
            found.append(
                f"worth {min(sizes):.0f} independent samples, fewer than {_ENOUGH}"
            )
        return found

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against these samples, and the method is exact."""
        return not self.caution and not self.problems

    def __str__(self) -> str:
        count = len(self.fields)
        problems = self.problems
        if problems:
            verdict = f"do not believe these samples yet: {'; '.join(problems)}."
            lines = [verdict, f"do: {self.advice}"]
        elif self.caution:
            lines = [f"believe with care: {self.caution}.", f"do: {self.advice}"]
        else:
            lines = ["believe: nothing speaks against these samples."]
        lines.append(f"{count} samples of the posterior by {self.method}")
        cells = [
            ("worst R-hat", f"{self.r_hat:.3f}"),
            ("effective, bulk", f"{self.bulk_ess:.0f}"),
            ("effective, tail", f"{self.tail_ess:.0f}"),
            ("effective draws", f"{self.bank_ess:.0f}"),
        ]
        cells = [(name, text) for name, text in cells if text != "nan"]
        if self.acceptance is not None and len(self.acceptance):
            low, high = self.acceptance.min(), self.acceptance.max()
            step = "" if self.step is None else f", step {self.step:.2g}"
            cells.append(("acceptance", f"{low:.2f} to {high:.2f}{step}"))
        if self.temperatures is not None:
            cells.append(("temperatures", str(len(self.temperatures) - 1)))
        if not np.isnan(self.slack):
            cells.append(("slack", f"{self.slack:.3g} of the residual's scale"))
        if self.log_evidence is not None:
            cells.append(("log evidence", f"{self.log_evidence:.4g}"))
        low, mid, high = np.quantile(self.log_likelihood, [0.05, 0.5, 0.95])
        cells.append(("log-likelihood", f"{mid:.4g} (90%: {low:.4g} to {high:.4g})"))
        if self.failed:
            named = ", ".join(f"{n} x {name}" for name, n in self.failures.items())
            named = f": {named}" if named else ""
            cells.append(("failures", f"{self.failed}, rejected{named}"))
        lines += [f"  {name:<{_LABEL}}{text}" for name, text in cells]
        return "\n".join([*lines, str(self.cost)])

    __repr__ = __str__


def diagnosed(draws: Draws, fields: np.ndarray) -> dict[str, Any]:
    """The worst R-hat and effective sizes, over the entries of fields that vary."""
    flat = np.asarray(fields, np.float64).reshape(len(fields), -1)
    varies = np.flatnonzero(np.ptp(flat, axis=0) > 0)
    count = min(len(varies), _QUANTITIES)
    some = varies[np.linspace(0, len(varies) - 1, count, dtype=int)]
    value = np.asarray(draws.log_likelihood, np.float64)[:, None]
    flat = np.concatenate([flat[:, some], value], axis=1)
    if draws.ancestors is not None:
        return {"bulk_ess": _least(genealogical_ess(flat, draws.ancestors))}
    if not np.isnan(draws.bank_ess):  # of weighting and of drawing again
        return {"bulk_ess": 1 / (1 / draws.bank_ess + 1 / len(fields))}
    if draws.chains is None:
        return {}
    chains = flat.reshape(draws.chains, -1, flat.shape[1])
    worst = r_hat(chains)
    return {
        "r_hat": np.nan if np.isnan(worst).all() else float(np.nanmax(worst)),
        "bulk_ess": _least(bulk_ess(chains)),
        "tail_ess": _least(tail_ess(chains)),
    }


def _least(sizes: Array | np.ndarray) -> float:
    return np.nan if np.isnan(sizes).all() else float(np.nanmin(sizes))
