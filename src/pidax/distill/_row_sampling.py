r"""The probability and the weight of each time of a residual.

A grid has one residual for each row, from noise (row 0) to data. A *sampling* gives the
probability of each row; a *weighting* multiplies its loss. Both may depend on the
running losses of the rows and on the progress of the run; a weighting also on what it
measured of the teacher before the run (`Slope`).
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import require, require_positive, whole_number
from ..denoiser import log_ratio
from ..flow import ProbabilityFlow, steepest_slopes, trajectories
from ..student import IntegralStudent
from ..types import Condition, Key, Sample, Scalar, Shape, Times, WholeLike

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

    @property
    def per_draw(self) -> bool:
        """Whether `measured` is what `measure` found times the `steepness` of the draw;
        by default it is what `measure` found.
        """
        return False

    @property
    def asks_who_disagrees(self) -> bool:
        """Whether `eased` needs the share of draws that disagree; by default no."""
        return False

    def eased(self, measured: Rows, disagree: Scalar) -> Rows:
        """What is left of `measured` if this share of draws disagrees with the teacher.

        A draw disagrees at a row if the two sides of the residual are further apart
        than a quarter of `sigma_data`, per component; the share is the largest of the
        rows, a running mean.
        """
        return measured

    def measure(
        self,
        flow: ProbabilityFlow,
        times: Times,
        shape: Shape,
        draw: Callable[[Key], Condition],
        *,
        key: Key,
    ) -> Rows:
        """A number for each row, found out before the first step; by default ones.

        `draw` makes the condition of one trajectory from a key.
        """
        return jnp.ones(times.size)

    @abc.abstractmethod
    def __call__(
        self, times: Times, losses: Rows, progress: Scalar, measured: Rows
    ) -> Rows:
        """The weights of the rows; `measured` is what `measure` found."""


class Unweighted(AbstractWeighting):
    """One for every row, as in the paper."""

    def __call__(
        self, times: Times, losses: Rows, progress: Scalar, measured: Rows
    ) -> Rows:
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

    def __call__(
        self, times: Times, losses: Rows, progress: Scalar, measured: Rows
    ) -> Rows:
        before = jnp.cumsum(losses) - losses
        return jnp.exp(-self.strictness * before)


class Slope(AbstractWeighting):
    r"""A row counts less after times at which neighbouring trajectories part.

    $$ w_i = \max\Bigl(f, \exp\bigl(-2c\int_{t_i}^{T} (a(t) - 1)_+\, d\ln
       (\sigma/\alpha)\bigr)\Bigr), $$

    where $a(t)$ is a quantile, over trajectories of the teacher, of the largest
    eigenvalue of $\alpha\,\partial D/\partial x$. Where $a > 1$ an error grows on
    its way to the data, so that a late row mostly repeats what an early row did wrong.
    Weights that fall as the error grows let the early row decide (docs/pid.md). They
    are measured once, when training starts, along `draws` solved trajectories.

    Where no draw can end elsewhere, they only slow down the late rows. So they ease as
    the student learns: to the power $s/(s + q)$, with $s$ the share of draws that still
    disagree with the teacher at the row where most do (`eased`). In few dimensions $s$
    falls to zero, and the weights to one; near many borders it does not.

    **Arguments:** `strength` $c$; `least` $f$; `quantile` of the slopes; `draws`;
    `tolerated` $q$, with 0 the weights stay as they are.
    """

    strength: float = 1.0
    least: float = 1e-3
    quantile: float = 0.95
    draws: WholeLike = 256
    tolerated: float = 1e-3

    def __check_init__(self):
        require_positive(strength=self.strength)
        whole_number("draws", self.draws)
        require(
            None,
            (0 < self.least <= 1) & (0 < self.quantile <= 1),
            "least and quantile must be in (0, 1], got least="
            f"{self.least}, quantile={self.quantile}. The defaults are least=1e-3 and "
            "quantile=0.95; least=1.0 means no weights.",
        )
        require(
            None,
            0 <= self.tolerated < 1,
            "tolerated is a share of draws, in [0, 1), got tolerated="
            f"{self.tolerated}. The default is 1e-3; with 0 the weights do not ease.",
        )

    @property
    def asks_who_disagrees(self) -> bool:
        return self.tolerated > 0

    def eased(self, measured: Rows, disagree: Scalar) -> Rows:
        return measured ** (disagree / (disagree + self.tolerated))

    def measure(
        self,
        flow: ProbabilityFlow,
        times: Times,
        shape: Shape,
        draw: Callable[[Key], Condition],
        *,
        key: Key,
    ) -> Rows:
        z_key, condition_key, slope_key = jax.random.split(key, 3)
        count = whole_number("draws", self.draws)
        condition = jax.vmap(draw)(jax.random.split(condition_key, count))
        # Rows may begin after t_max, where trajectories do.
        grid, last = times, jnp.asarray(flow.process.t_max, times.dtype)
        if times[0] < last:
            grid = jnp.append(last, times)
        xs = trajectories(
            flow, grid, key=z_key, draws=count, condition=condition, shape=shape
        )
        slopes = steepest_slopes(flow, xs, grid, key=slope_key, condition=condition)
        steep = jnp.quantile(slopes, self.quantile, axis=0)
        if not bool(jnp.isfinite(steep).all()):
            at = grid[jnp.argmin(jnp.isfinite(steep))]
            raise ValueError(
                "Slope measures the derivative of the teacher's denoiser, expected "
                f"finite numbers, got one that is not at t={at}. Use another "
                "weighting, or write the denoiser so that it can be differentiated."
            )
        sigma, alpha = flow.process.level(grid)
        when = log_ratio(sigma, alpha, flow.process)
        above = jnp.maximum(steep - 1, 0)
        pieces = (above[1:] + above[:-1]) / 2 * (when[:-1] - when[1:])
        grown = jnp.append(jnp.zeros(1, pieces.dtype), jnp.cumsum(pieces))
        return jnp.exp(-2 * grown)[-times.size :]

    def __call__(
        self, times: Times, losses: Rows, progress: Scalar, measured: Rows
    ) -> Rows:
        return jnp.maximum(measured**self.strength, self.least).astype(losses.dtype)


class SlopeAlongDraws(AbstractWeighting):
    r"""The weights of `Slope`, for each draw its own: for an `IntegralStudent`.

    $$ w_i = \max\bigl(f, (d_i\, s_i^p)^c\bigr), $$

    where $d_i$ is measured along the draw's own trajectory, by the student's map in one
    random direction (`steepness`), and changes as the student learns; $s_i$ are the
    weights of `Slope`, the same for all draws. Draws far from every border have $d_i =
    1$ and soon learn their late rows; $s$ lets the early rows of all draws decide
    first. A step costs a derivative of the student's pass more, in forward mode.

    **Arguments:** `strength` $c$; `least` $f$; `shared` $p$: with 0 nothing is solved.
    """

    strength: float = 1.0
    least: float = 1e-3
    shared: float = 0.5

    def __check_init__(self):
        require_positive(strength=self.strength)
        require(
            None,
            0 < self.least <= 1 and self.shared >= 0,
            "least is the smallest weight, in (0, 1], and shared a power, at least 0: "
            f"got least={self.least}, shared={self.shared}. The defaults are 1e-3 and "
            "0.5.",
        )

    @property
    def per_draw(self) -> bool:
        return True

    def measure(
        self,
        flow: ProbabilityFlow,
        times: Times,
        shape: Shape,
        draw: Callable[[Key], Condition],
        *,
        key: Key,
    ) -> Rows:
        if self.shared == 0:
            return jnp.ones(times.size)
        return Slope().measure(flow, times, shape, draw, key=key) ** self.shared

    def __call__(
        self, times: Times, losses: Rows, progress: Scalar, measured: Rows
    ) -> Rows:
        return jnp.maximum(measured**self.strength, self.least).astype(losses.dtype)


def steepness(
    student: IntegralStudent, unit: Sample, condition: Condition, *, key: Key
) -> Rows:
    r"""How much less two close draws were apart before, at each node of a student.

    $$ \min\Bigl(1, \min_{j \le i} \frac{q_j}{q_i}\Bigr)^2, \qquad
       q = |\partial_v x| / \alpha, $$

    with the derivative of the student's state in a random direction $v$ of the noise.
    Since $d\ln q = (1 - a)\, d\ln(\sigma/\alpha)$ for two draws that part by a slope
    $a$ of the denoiser, this is $\exp(-2\int (a - 1)\, d\ln(\sigma/\alpha))$ from the
    time on at which they began to part. No gradient flows through it.
    """
    v = jax.random.normal(key, unit.shape, unit.dtype)
    _, moved = jax.jvp(lambda u: student.predicted(u, condition), (unit,), (v,))
    apart = student.states(v, moved).reshape(len(student.nodes), -1)
    alpha = jnp.asarray(np.array(student.levels)[:, 1], unit.dtype)
    tiny = jnp.finfo(unit.dtype).tiny
    size = jnp.log(jnp.maximum(jnp.sum(apart**2, axis=1), tiny))
    size = size - 2 * jnp.log(jnp.maximum(alpha, tiny))
    return jax.lax.stop_gradient(jnp.exp(jax.lax.cummin(size) - size))


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
    measured: Rows,
    key: Array,
    first: int | Array = 0,
) -> tuple[Array, Scalar]:
    """The index of a row from the `first` on, and the factor of its loss."""
    weights = weighting(times, losses, progress, measured)
    chances = sampling(times, losses, progress)
    allowed = jnp.arange(times.size) >= first
    i = jax.random.categorical(key, jnp.where(allowed, jnp.log(chances), -jnp.inf))
    if not sampling.compensates:
        return i, weights[i]
    return i, weights[i] * chances.mean(where=allowed) / chances[i]


def draw_rows(
    count: int,
    reach: int,
    sampling: AbstractSampling,
    weighting: AbstractWeighting,
    times: Times,
    losses: Rows,
    progress: Scalar,
    measured: Rows,
    key: Array,
    first: int | Array = 0,
) -> tuple[Int[Array, "run reach"], Float[Array, "run reach"]]:
    r"""The indices of about `count` rows, and what their losses are multiplied by.

    Rows before the `first` have the probability zero.

    They come in runs of `reach` consecutive rows; after the last row a run goes on with
    the first. The starts are drawn systematically, at $u, u + 1/k, \ldots$ of the
    cumulative probabilities with one uniform $u$: the runs lie apart, and evenly drawn
    runs that are as many as fit do not overlap. A factor corrects for the probability
    with which a row is in a run. All rows one by one, and a run over all rows, are in
    their order.
    """
    weights = weighting(times, losses, progress, measured)
    size, reach = times.size, min(reach, times.size)
    allowed = jnp.arange(size) >= first
    chances = jnp.where(allowed, sampling(times, losses, progress), 0.0)
    even = size * chances / chances.sum()
    if sampling.compensates:
        share = jnp.mean(allowed.astype(weights.dtype))
        wanted = jnp.where(allowed, weights / share, 0.0)
    else:
        wanted = weights * even
    if count >= size and reach in (1, size):
        return jnp.arange(size).reshape(-1, reach), wanted.reshape(-1, reach)
    runs = max(1, min(count, size) // reach)
    begin = jax.random.uniform(key, (), chances.dtype)
    points = (begin + jnp.arange(runs, dtype=chances.dtype)) / runs
    starts = jnp.searchsorted(jnp.cumsum(even) / size, points)
    starts = jnp.minimum(starts, size - 1)[:, None]
    rows = (starts + jnp.arange(reach, dtype=starts.dtype)) % size
    inside = sum(jnp.roll(even, i) for i in range(reach)) / reach
    factors = jnp.where(inside > 0, wanted / jnp.where(inside > 0, inside, 1.0), 0.0)
    return rows, factors[rows]
