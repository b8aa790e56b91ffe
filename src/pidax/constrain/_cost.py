r"""What results cost: counted evaluations, measured seconds, and when training pays.

A distilled student is dear to make and cheap to use. With $T$ the seconds of training
and $c$ those of one sample, it has paid off against another way at

$$ n = \frac{T_a - T_b}{c_b - c_a} $$

samples.
"""

import dataclasses
import math
from typing import Any

from .._table import row

_WIDTHS = (12, 12, 12, 12, 12)


@dataclasses.dataclass(frozen=True)
class Training:
    """What was spent before the first sample.

    `seconds` and `steps` of training; `pair_evaluations` of the teacher, and the
    `pair_seconds` they took, for pairs solved to be learned from.
    """

    seconds: float = 0.0
    steps: int = 0
    pair_evaluations: float = 0.0
    pair_seconds: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of training and of the pairs for it."""
        return self.seconds + self.pair_seconds

    def __add__(self, other: "Training") -> "Training":
        return _sum(self, other)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The ledger of a result, summed over its samples; NaN is "not known".

    **Fields:**

    - `samples`: how many there are.
    - `network`: evaluations of the network (a step's forward pass).
    - `jvp`, `vjp`: products with the Jacobian of the objective, and with its
      transpose: a forward and a backward sweep through network and residual.
    - `residual`: evaluations of the equation's residual, those inside products not
      counted again.
    - `solves`: solutions of the equation by its own solver.
    - `seconds`: of the run, compiled; `compiling`: seconds of compilation, once.
    - `training`: what the network had cost before.

    What each sample needed is counted. A batch waits for its slowest sample, so that
    the machine may have computed more: that is in the seconds.
    """

    samples: int = 0
    network: float = 0.0
    jvp: float = 0.0
    vjp: float = 0.0
    residual: float = 0.0
    solves: float = 0.0
    seconds: float = 0.0
    compiling: float = 0.0
    training: Training = Training()

    @classmethod
    def of_training(
        cls, result: Any, *, seconds: float, pair_seconds: float = 0.0
    ) -> "Cost":
        """The cost of a training, from what `px.fit` returned and a clock.

        The steps are the result's, and so are the evaluations spent on pairs if the
        objective kept count of them. `seconds` include those of the pairs unless
        these are given apart. Add it to what was spent on samples.
        """
        pairs = getattr(result.state.objective, "evaluations", 0.0)
        pairs = 0.0 if pairs is None else float(pairs)
        training = Training(seconds, int(result.step), pairs, pair_seconds)
        return cls(training=training)

    @property
    def per_sample(self) -> float:
        """Seconds of one sample, compiled; NaN before there is one."""
        return self.seconds / self.samples if self.samples else math.nan

    def pays_off_after(self, other: "Cost") -> float:
        """The number of samples at which this has become cheaper than `other`.

        By seconds, training included, compilation not. Infinite if it never does, 0 if
        it is cheaper from the first.
        """
        ahead = self.training.total - other.training.total
        gained = other.per_sample - self.per_sample
        if math.isnan(gained):
            raise ValueError(
                "both costs must be those of samples, got "
                f"{self.samples} and {other.samples} samples. Add the cost of drawing "
                "some to that of training."
            )
        if gained <= 0:
            return 0.0 if ahead <= 0 and gained == 0 else math.inf
        return float(max(0, math.ceil(ahead / gained)))

    def __add__(self, other: "Cost") -> "Cost":
        return _sum(self, other)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; what is not known is None."""
        known = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
        plain = dataclasses.asdict(self)
        training = {name: known(v) for name, v in plain.pop("training").items()}
        return {name: known(v) for name, v in plain.items()} | {"training": training}

    def __str__(self) -> str:
        heads = ("network", "jvp", "vjp", "residual", "solves")
        each = [_count(getattr(self, h), self.samples) for h in heads]
        lines = [
            row("a sample", *heads, widths=_WIDTHS, label=12),
            row("", *each, widths=_WIDTHS, label=12),
            f"{self.samples} samples in {self.seconds:.3g} s, compiled in "
            f"{self.compiling:.3g} s",
        ]
        if self.training != Training():
            t = self.training
            lines.append(
                f"trained for {t.steps} steps in {t.total:.3g} s, "
                f"{t.pair_evaluations:.3g} evaluations of the teacher for pairs"
            )
        return "\n".join(lines)


def _count(total: float, samples: int) -> str:
    if math.isnan(total):
        return "unknown"
    each = total / max(samples, 1)
    return f"{each:.0f}" if each == round(each) else f"{each:.1f}"


def _sum(a: Any, b: Any) -> Any:
    names = [field.name for field in dataclasses.fields(a)]
    return type(a)(**{name: getattr(a, name) + getattr(b, name) for name in names})
