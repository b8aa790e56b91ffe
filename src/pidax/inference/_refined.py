"""What a refinement returns: samples, how each came about, and what it cost."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from .._table import number, row
from ._cost import Cost

_WIDTHS = (12, 12)
_LABEL = 34
_KINDS = {
    "draw": "samples of the posterior (randomise, then optimise)",
    "norm": "MAP: the most probable latent, whose spread is zero",
    None: "no anchor: the draws leave the prior, and their law is not the posterior",
}


@dataclasses.dataclass(frozen=True)
class History:
    """The terms of the objective, [sample, step], from the start on.

    Each is half a sum of squares. A sample that has stopped keeps its last values; a
    value that was not finite is the one before it.
    """

    anchor: Float[np.ndarray, "sample step"]
    misfit: Float[np.ndarray, "sample step"]
    residual: Float[np.ndarray, "sample step"]

    @property
    def objective(self) -> Float[np.ndarray, "sample step"]:
        """The sum of the terms."""
        return self.anchor + self.misfit + self.residual


@dataclasses.dataclass(frozen=True)
class Refined:
    """Refined samples, one for each draw.

    **Fields:**

    - `fields`: in physical units, the noise-free observations to the last bit, and
      what was held as it was drawn.
    - `x`: the student's sample, in the model's coordinates: the same fields without
      either put in. `latent` is the unit latent that it comes from, `start` the one it
      was drawn with.
    - `best`: the terms of the objective at `latent`: anchor, misfit, residual.
    - `history`: a `History`, of every step; `steps`: how many each sample took.
    - `converged`: whether it stopped by tolerance, and not by the number of steps.
    - `failed`: whether the solver broke down (an entry not finite, or no better point
      however short the step). The sample is then the best point before.
    - `relative`: the residual of `fields` relative to its scale, root mean square,
      and `relative_start` before refinement; NaN without a constraint.
    - `cost`: the ledger. `anchor`, `weight`, `method` and `held`, how many entries of
      each were, say how it was made.

    Print it.
    """

    fields: Float[np.ndarray, "sample *grid channel"]
    x: Float[np.ndarray, "sample *event"]
    latent: Float[np.ndarray, "sample *event"]
    start: Float[np.ndarray, "sample *event"]
    best: Float[np.ndarray, "sample 3"]
    history: History
    steps: Int[np.ndarray, " sample"]
    converged: Bool[np.ndarray, " sample"]
    failed: Bool[np.ndarray, " sample"]
    relative: Float[np.ndarray, " sample"]
    relative_start: Float[np.ndarray, " sample"]
    cost: Cost
    anchor: str | None
    weight: float
    method: str
    held: int = 0

    @property
    def kind(self) -> str:
        """What these samples are samples of, in words."""
        if self.anchor is not None and self.held:
            return (
                f"{self.held} entries of each held as drawn, the others made to agree "
                "with them (their law given these as slack goes to 0)"
            )
        if self.anchor is not None and self.weight != 1:
            return (
                f"{_KINDS[self.anchor].split(' (')[0].split(':')[0]} only with an "
                f"anchor of weight 1, here {self.weight:g}"
            )
        return _KINDS[self.anchor]

    def __str__(self) -> str:
        count, done = len(self.fields), int(self.converged.sum())
        lines = [
            f"{count} refined by {self.method}: {self.kind}",
            row("median over samples", "start", "end", widths=_WIDTHS, label=_LABEL),
        ]
        for i, name in enumerate(("anchor", "misfit", "residual")):
            start = np.median(getattr(self.history, name)[:, 0])
            ends = number(start), number(np.median(self.best[:, i]))
            lines.append(row(f"  {name}", *ends, widths=_WIDTHS, label=_LABEL))
        if not np.isnan(self.relative).all():
            ends = [number(np.median(r)) for r in (self.relative_start, self.relative)]
            label = "  relative residual"
            lines.append(row(label, *ends, widths=_WIDTHS, label=_LABEL))
        lines.append(
            f"{done} of {count} stopped by tolerance, {int(self.failed.sum())} failed; "
            f"steps: {self.steps.mean():.1f}, at most {self.steps.max()}"
        )
        return "\n".join([*lines, str(self.cost)])
