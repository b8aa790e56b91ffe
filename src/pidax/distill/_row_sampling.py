r"""The probability and the weight of each time of a residual.

A grid has one residual for each row, from noise (row 0) to data. A *sampling* gives the
probability of each row; a *weighting* multiplies its loss. Both may depend on the
running losses of the rows and on the progress of the run.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import require, require_positive
from ..types import Scalar, Times

Rows = Float[Array, " row"]
_MEMORY = 0.99  # of the running losses, for each step that sees the row


class AbstractSampling(eqx.Module):
    """The probability of each row of the grid."""

    @property
    def watches(self) -> bool:
        """Whether it needs the running losses; by default no."""
        return False

    @property
    def compensates(self) -> bool:
        """Whether a loss is divided by the probability of its row; by default no.

        The mean loss is then the mean for even draws.
        """
        return False

    @abc.abstractmethod
    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        """The probabilities of the rows, up to a common factor.

        **Arguments:** the process `times` of the rows, their running `losses` (ones if
        they are not needed), the `progress` of the run.
        """


class Uniform(AbstractSampling):
    """All rows with the same probability: the uniform index of the paper."""

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        return jnp.ones_like(losses)


class ByLoss(AbstractSampling):
    r"""Rows with a large loss more often, with a smaller weight.

    $p_i \propto (1 - u)\, L_i^a / \sum_k L_k^a + u / rows$ with the running losses $L$.
    The expected loss is that for even draws; its variance is smaller. The variance is
    least for $p$ proportional to the size of the gradient, which for a squared distance
    is about $\sqrt L$: hence `power` $a = 1/2$.

    **Arguments:** `power` $a$; `even` $u$, the share drawn evenly, in (0, 1].
    """

    power: float = 0.5
    even: float = 0.2

    def __check_init__(self):
        require_positive(power=self.power)
        require(
            None,
            0 < self.even <= 1,
            f"even is the share drawn evenly, in (0, 1], got even={self.even}: with "
            "none, a row whose loss was small once is never seen again.",
        )

    @property
    def watches(self) -> bool:
        return True

    @property
    def compensates(self) -> bool:
        return True

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        raised = jnp.maximum(losses, jnp.finfo(losses.dtype).tiny) ** self.power
        return (1 - self.even) * raised / raised.sum() + self.even / losses.size


class Curriculum(AbstractSampling):
    """Noisy rows first; the others follow in the course of the run.

    At the share $s$ of the run, the first row and a share `s / by` of all rows are
    drawn evenly, because the right value at a later time depends on the earlier ones.
    """

    by: float = 0.5

    def __check_init__(self):
        require(
            None,
            0 < self.by <= 1,
            f"by is the share of the run after which all rows are open, in (0, 1], got "
            f"by={self.by}.",
        )

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        open_rows = 1 + losses.size * jnp.minimum(progress / self.by, 1.0)
        i = jnp.arange(losses.size, dtype=open_rows.dtype)
        return (i < open_rows).astype(losses.dtype)


class PowerLaw(AbstractSampling):
    r"""Rows near the data more often: $p_i \propto (1 + i)^a$ for row `i` from noise.

    It changes the objective, not only its variance: the end of the trajectory has a
    larger weight. Negative powers prefer noise.
    """

    power: float = 1.0

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        return (1.0 + jnp.arange(losses.size, dtype=losses.dtype)) ** self.power


class AbstractWeighting(eqx.Module):
    """The factor of the loss of each row."""

    @property
    def watches(self) -> bool:
        """Whether it needs the running losses; by default no."""
        return False

    @abc.abstractmethod
    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        """The weights of the rows."""


class Unweighted(AbstractWeighting):
    """One for every row, as in the paper."""

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        return jnp.ones_like(losses)


class Causal(AbstractWeighting):
    r"""A row has weight when the losses of the rows before it are small.

    $w_i = e^{-\epsilon\sum_{k<i} L_k}$, from noise to data, with running losses $L$.
    Wang, Sankaran & Perdikaris 2022, "Respecting causality is all you need for training
    physics-informed neural networks"; their $\epsilon$ is `strictness`: the inverse of
    the sum of losses at which the next row begins to count.
    """

    strictness: float = 1.0

    def __check_init__(self):
        require_positive(strictness=self.strictness)

    @property
    def watches(self) -> bool:
        return True

    def __call__(self, times: Times, losses: Rows, progress: Scalar) -> Rows:
        before = jnp.cumsum(losses) - losses
        return jnp.exp(-self.strictness * before)


class RunningMeans(eqx.Module):
    """Means over about the last hundred draws, such as losses of rows; at first 1."""

    total: Rows
    count: Rows

    @staticmethod
    def start(count: int) -> "RunningMeans":
        small = jnp.full(count, 1e-3)
        return RunningMeans(small, small)

    def means(self) -> Rows:
        return self.total / self.count

    def update(self, total: Rows, count: Rows) -> "RunningMeans":
        """The means after a step, from the batch means of (value, 1)."""
        # A row that was not drawn keeps its value: decaying, it would end as 0 / 0.
        fade = jnp.where(count > 0, _MEMORY, 1.0).astype(self.total.dtype)
        keep = lambda old, new: fade * old + new.astype(old.dtype)
        return RunningMeans(keep(self.total, total), keep(self.count, count))


def draw_row(
    sampling: AbstractSampling,
    weighting: AbstractWeighting,
    times: Times,
    losses: Rows,
    progress: Scalar,
    key: Array,
) -> tuple[Array, Scalar]:
    """The index of a row, and the factor of its loss."""
    weights = weighting(times, losses, progress)
    chances = sampling(times, losses, progress)
    i = jax.random.categorical(key, jnp.log(chances))
    if not sampling.compensates:
        return i, weights[i]
    return i, weights[i] * chances.mean() / chances[i]
