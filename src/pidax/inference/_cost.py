r"""The cost of results: evaluations, seconds, and when training pays off.

A distilled student is expensive to train and cheap to use. With $T$ the seconds of
training and $c$ the seconds of one sample, it pays off against another method at

$$ n = \frac{T_a - T_b}{c_b - c_a} $$

samples.
"""

import dataclasses
import math
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._table import row
from ..pde import AbstractEquation

_WIDTHS = (12, 12, 12, 12, 12)


class Clock:
    """Seconds of running a compiled function, and seconds of compiling it."""

    def __init__(self):
        self.running = self.compiling = 0.0

    def run(self, fn: Any, *args: Any) -> Any:
        """The result of a `filter_jit`ted function, on the host."""
        start = time.perf_counter()
        compiled = fn.lower(*args).compile()
        ready = time.perf_counter()
        out = jax.block_until_ready(compiled(*args))
        self.running += time.perf_counter() - ready
        self.compiling += ready - start
        return jax.tree.map(np.asarray, out)


@dataclasses.dataclass(frozen=True)
class Training:
    """The cost before the first sample.

    `seconds` and `steps` of training; `pair_evaluations` of the teacher, and
    `pair_seconds`, for the pairs that were solved for the training.
    """

    seconds: float = 0.0
    steps: int = 0
    pair_evaluations: float = 0.0
    pair_seconds: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of training, including its pairs."""
        return self.seconds + self.pair_seconds

    def __add__(self, other: "Training") -> "Training":
        return _sum(self, other)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a result, summed over its samples; NaN means "not known".

    **Fields:**

    - `samples`: the number of samples.
    - `network`: evaluations of the network (forward passes).
    - `jvp`, `vjp`: products with the Jacobian of the objective, and with its transpose:
      a forward and a backward pass through network and residual.
    - `residual`: evaluations of the equation's residual, without those inside products.
    - `solves`: calls of a forward map or of the equation's own solver, without those
      inside products. There are none without a forward map and with slack on the
      residual.
    - `seconds`: of the compiled run; `compiling`: seconds of compilation, once.
    - `training`: the cost of the network, if it was passed: by `refine(...,
      training=)`, or by adding `of_training`.

    Each sample's needs are counted. A batch waits for its slowest sample, so the
    machine may have computed more; the seconds include it.
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
        """The cost of a training, from the result of `px.fit` and measured seconds.

        Steps are taken from the result, and evaluations spent on pairs from the
        objective's state. `seconds` include the pairs unless their seconds are passed
        separately. Add it to the cost of samples, or pass its `training` to `refine`.
        """
        pairs = _evaluations(result.state.objective)
        training = Training(seconds, int(result.step), pairs, pair_seconds)
        return cls(training=training)

    @classmethod
    def of_solver(cls, equation: AbstractEquation, *given: PyTree) -> "Cost":
        """The cost of solving the equation for given fields, measured now.

            Cost.of_solver(darcy, fields.coefficient)
            drawn.then(Cost.of_solver(darcy, x[..., 0]))  # generate a, then solve

        `given` are the fields of `equation.given`, with the sample as the first axis.
        They are solved as one batch, compiled, in the precision of the session.
        """
        count = _same_number(equation, given)
        clock = Clock()
        clock.run(_solved, equation, given)
        return cls(
            samples=count,
            solves=float(count),
            seconds=clock.running,
            compiling=clock.compiling,
        )

    def then(self, other: "Cost") -> "Cost":
        """The cost of samples that need both: generate, then solve.

        The sum for the same samples; `+` is for further samples.
        """
        if self.samples != other.samples:
            raise ValueError(
                "what is spent one after the other is spent on the same samples, got "
                f"{self.samples} and {other.samples} of them. Add, with +, what was "
                "spent on others."
            )
        return dataclasses.replace(self + other, samples=self.samples)

    @property
    def per_sample(self) -> float:
        """Seconds of one sample, compiled; NaN without samples."""
        return self.seconds / self.samples if self.samples else math.nan

    def pays_off_after(self, other: "Cost") -> float:
        """The number of samples from which on this is cheaper than `other`.

        By seconds, with training and without compilation. Infinite if it never is, 0 if
        it is cheaper from the first sample.
        """
        ahead = self.training.total - other.training.total
        gained = other.per_sample - self.per_sample
        if math.isnan(gained):
            raise ValueError(
                "both must be costs of sampling, got "
                f"{self.samples} and {other.samples} samples. Add the cost of drawing "
                "some samples to the cost of training."
            )
        if gained <= 0:
            return 0.0 if ahead <= 0 and gained == 0 else math.inf
        return float(max(0, math.ceil(ahead / gained)))

    def __add__(self, other: "Cost") -> "Cost":
        return _sum(self, other)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; unknown values are None."""
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


def _evaluations(state: PyTree) -> float:
    """All evaluations counted in an objective's state, or in the states
    of its parts.
    """
    counts = lambda leaf: getattr(leaf, "evaluations", None) is not None
    leaves = jax.tree.leaves(state, is_leaf=counts)
    return sum((float(leaf.evaluations) for leaf in leaves if counts(leaf)), 0.0)


def _same_number(equation: AbstractEquation, given: PyTree) -> int:
    """The number of samples, the same for each of the given fields."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(given)]
    numbers = {shape[:1] for shape in shapes}
    if len(given) != len(equation.given) or len(numbers) != 1 or () in numbers:
        raise ValueError(
            f"{type(equation).__name__} is solved for the fields "
            f"{', '.join(equation.given)}: expected {len(equation.given)} batches of "
            f"them with the sample as the first axis, got {len(given)}, of shapes "
            f"{shapes}. For one sample, field[None]."
        )
    return shapes[0][0]


@eqx.filter_jit
def _solved(equation: AbstractEquation, given: PyTree) -> PyTree:
    return jax.vmap(equation.solve)(*given)


def _count(total: float, samples: int) -> str:
    if math.isnan(total):
        return "unknown"
    each = total / max(samples, 1)
    return f"{each:.0f}" if each == round(each) else f"{each:.1f}"


def _sum(a: Any, b: Any) -> Any:
    names = [field.name for field in dataclasses.fields(a)]
    return type(a)(**{name: getattr(a, name) + getattr(b, name) for name in names})
