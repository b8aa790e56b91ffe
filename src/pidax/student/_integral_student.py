r"""The trajectory as the integral of the clean samples that a network predicts.

With $\rho = \alpha/\sigma$ the probability-flow ODE is $d(x/\sigma)/d\rho = D(x, t)$ in
every chart, so that

$$ x(z, t) = \frac{\sigma_t}{\sigma_T} z + \sigma_t(\rho_t - \rho_T)\, F(z, t), \qquad
   F(z, t) = \frac{1}{\rho_t - \rho_T} \int_{\rho_T}^{\rho_t} D\, d\rho : $$

$F$ is the mean of the denoiser along the trajectory. Here a network sees the noise once
and answers with the clean samples $\hat D_1, \ldots, \hat D_n$ at $n$ nodes;
$F(z, t) = \sum_j B_j(t)\, \hat D_j$ is the exact mean of their interpolant. One
evaluation of the network is the whole trajectory, and the residual of the ODE,

$$ R_j = \hat D_j - D(x(z, t_j), t_j), $$

has no derivative in it (`integral_residual`). If all $R_j$ vanish, $x$ is the solution
of the ODE by this quadrature: an implicit collocation method of order 2 (linear in
$\rho$) or 4 (a not-a-knot cubic spline in $\ln(\rho + \rho_0)$, with $\rho_0$ the
least finite $\rho$ of the process, so that a process without signal at $T$ has a
finite variable too).

An error $e$ of the network in every $\hat D_j$ moves $F$ by at most
`amplification` $e$ $= \max_i \sum_j |B_{ij}|\, e$.

The same network can be asked at a later time: from the state $x_s$ at a node $s$ it
predicts the clean samples at the nodes after $s$, and

$$ x_t = \frac{\sigma_t}{\sigma_s} x_s + \sigma_t(\rho_t - \rho_s) \sum_j B^{(s)}_j(t)\,
   \hat D_j(x_s, s) $$

is a map between two times. A student with such `starts` samples in several steps.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import call_network, check_network, is_traced, whole_number
from .._compatibility import check_grid
from .._table import network_title, samples_line, screen
from ..denoiser import AbstractCoefficients, AbstractDenoiser, Preconditioned
from ..flow import ProbabilityFlow
from ..process import AbstractProcess
from ..types import (
    Condition,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    Times,
    TimesLike,
    WholeLike,
    typed,
)
from ._in_steps import InSteps, in_steps
from ._student import (
    AbstractNetworkStudent,
    coefficients_of,
    usable_teacher,
)

Interpolant = Literal["cubic", "linear"]
Clean = Float[Array, "node *event"]  # predicted clean samples
_FEWEST = {"cubic": 4, "linear": 2}
_GAUSS = 8  # points inside a part of an interval: exact to rounding


class IntegralStudent(AbstractNetworkStudent):
    r"""A network that predicts the clean samples of a trajectory at `n` nodes.

        times = px.where_it_moves(flow, 20, key=key)
        network = px.nn.MLP(2, 20 * 2, key=key)
        student = px.IntegralStudent(network, process, times)

    `student(z, t)` is $x(z, t)$ at any time, `student.path(z)` the states at all nodes,
    and `student.sample(z)` the sample: each is one evaluation of the network. $x(z, T)$
    is `z` to the last bit. `PID(flow)` trains it without a derivative in time.

    **Arguments:**

    - `network`: called as `network(c_in z, c_noise, condition, key=)` on one sample,
      with $c_{in}$ and $c_{noise}$ of `t_max`. It answers with `n` times the channels
      of its input: `(n * d,)` for a vector of `d` components, `(*grid, n * channels)`
      for an image or a field.
    - `process`: in whose `(x, t)` the student answers.
    - `times`: the `n` nodes, from `t_max` to `t_min`.
    - `interpolant`: of the clean samples between the nodes: `"cubic"` (order 4, at
      least 4 nodes) or `"linear"` (order 2).
    - `starts`: the number of nodes from which the network can be asked: the first, and
      others after equal numbers of nodes. With 4, `PID` trains the maps between them,
      and `student.in_steps(1)`, `in_steps(2)`, `in_steps(4)` sample in so many steps.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.
    - `teacher`: the denoiser whose network this is; see `from_teacher`.
    """

    network: Any
    process: AbstractProcess
    coefficients: AbstractCoefficients
    trained_for: AbstractProcess
    event: Shape | None = eqx.field(static=True)
    boundary: str = eqx.field(static=True)
    interpolant: str = eqx.field(static=True)
    starts: int = eqx.field(static=True)
    nodes: tuple[float, ...] = eqx.field(static=True)
    levels: tuple[tuple[float, float], ...] = eqx.field(static=True)
    shift: float = eqx.field(static=True)

    @typed
    def __init__(
        self,
        network: Any,
        process: AbstractProcess,
        times: TimesLike,
        *,
        interpolant: str = "cubic",
        starts: WholeLike = 1,
        shape: Shape | None = None,
        teacher: Preconditioned | None = None,
    ):
        if is_traced(times, process):
            raise ValueError(
                "the nodes of an IntegralStudent are numbers, got times or a process "
                "that are not known while tracing. Make the student outside jit."
            )
        self.network = check_network(network)
        self.process = process
        self.coefficients, self.trained_for = coefficients_of(teacher, process)
        self.event = getattr(network, "shape", None) if shape is None else shape
        self.boundary = "hard"
        self.interpolant = interpolant
        self.starts = whole_number("starts", starts)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            nodes = np.array(check_grid(jnp.asarray(times), process), np.float64)
            # The ends are the process's own numbers, whatever the dtype of the times.
            nodes[0], nodes[-1] = process.t_max, process.t_min
            sigma, alpha = process.level(jnp.asarray(nodes))
            self.shift = 1 / float(process.ratio_ends()[1])
        self.nodes = tuple(nodes.tolist())
        self.levels = tuple(zip(sigma.tolist(), alpha.tolist(), strict=True))

    def __check_init__(self):
        if self.interpolant not in get_args(Interpolant):
            raise ValueError(
                f"interpolant must be one of {get_args(Interpolant)}, got "
                f"{self.interpolant!r}. 'cubic' is more accurate for smooth paths."
            )
        least = _FEWEST[self.interpolant]
        if len(self.nodes) < least:
            raise ValueError(
                f"interpolant={self.interpolant!r} needs at least {least} nodes, got "
                f"{len(self.nodes)} times. Pass more times, or interpolant='linear', "
                "which needs 2."
            )
        left = len(self.nodes) - self.start_nodes[-1]
        if left < least:
            raise ValueError(
                f"starts={self.starts} of {len(self.nodes)} nodes leave {left} after "
                f"the last start, expected at least {least} for interpolant="
                f"{self.interpolant!r}. Use fewer starts, or more times."
            )

    @staticmethod
    @typed
    def from_teacher(
        denoiser: AbstractDenoiser,
        process: AbstractProcess,
        times: TimesLike,
        *,
        interpolant: str = "cubic",
        starts: WholeLike = 1,
    ) -> "IntegralStudent":
        r"""A student that starts from a teacher's weights.

        Its network is a copy of the teacher's with its last layer repeated for every
        node (in a U-Net with output skips, the last layer of each level): at the start
        all $\hat D_j$ are the teacher's own $D(z, T)$, and the first residual is zero.
        `denoiser` is a `Preconditioned` network of `pidax.nn`.
        """
        teacher = usable_teacher(denoiser, process)
        count = len(np.asarray(times))
        if not _last_layers(teacher.network):
            raise ValueError(
                "from_teacher repeats the teacher's last layer for every node, "
                "expected a network of pidax.nn, with that layer in its field `out` or "
                f"in its decoder, got a {type(teacher.network).__name__}. Make a "
                f"network with {count} times the channels: "
                "IntegralStudent(network, process, times)."
            )
        repeat = lambda a: None if a is None else jnp.concatenate([a] * count, axis=-1)
        where = lambda network: [
            array
            for layer in _last_layers(network)
            for array in (layer.weight, layer.bias)
        ]
        network = eqx.tree_at(
            where,
            teacher.network,
            list(map(repeat, where(teacher.network))),
            is_leaf=lambda leaf: leaf is None,
        )
        return IntegralStudent(
            network,
            process,
            times,
            interpolant=interpolant,
            starts=starts,
            shape=teacher.shape,
            teacher=teacher,
        )

    def __repr__(self) -> str:
        starts = ", ".join(f"{t:.3g}" for t in self.start_times)
        return screen(
            network_title("IntegralStudent", self.network),
            process=self.process,
            nodes=f"{len(self.nodes)} from {self.nodes[0]:g} to {self.nodes[-1]:g}, "
            f"{self.interpolant}",
            starts=starts,
            samples=samples_line(self.shape, self.classes),
        )

    @property
    def times(self) -> Times:
        """The nodes, process times from `t_max` to `t_min`."""
        return jnp.asarray(self.nodes, float)

    @property
    def amplification(self) -> float:
        r"""$\max_i \sum_j |B_{ij}|$: how much of an error in all $\hat D_j$ is in F."""
        return float(np.abs(self.weights).sum(1).max())

    @property
    def weights(self) -> np.ndarray:
        r"""The weights $B_j(t_i)$ at the nodes, in float64; each row adds up to 1."""
        return self._rule().mean

    @property
    def start_nodes(self) -> tuple[int, ...]:
        """The indices of the nodes from which the network can be asked."""
        return tuple(k * len(self.nodes) // self.starts for k in range(self.starts))

    @property
    def start_times(self) -> tuple[float, ...]:
        """The times from which the network can be asked; the first is `t_max`."""
        return tuple(self.nodes[i] for i in self.start_nodes)

    def _rule(self, start: int = 0) -> "_Rule":
        """The quadrature over the nodes from a start on."""
        node = self.start_nodes[start]
        return _rule(self.levels[node:], self.shift, self.interpolant)

    @typed
    def path(self, z: Sample, condition: Condition = None) -> Clean:
        """The states at all nodes, the first of them `z`; one evaluation."""
        unit = z / jnp.asarray(self.levels[0][0], z.dtype)
        states = self.states(unit, self.predicted(unit, condition))
        return states.at[0].set(z)

    @typed
    def transport(
        self,
        x: SampleLike,
        s: ScalarLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at `t` of the trajectory with the state `x` at `s`; one evaluation.

        `s` is one of `start_times`, and `t` lies between it and `t_min`.
        """
        if is_traced(s):
            raise ValueError(
                "transport starts from one of the student's start_times, expected a "
                "number s, got one that is not known while tracing. Close over it."
            )
        near = np.isclose(self.start_times, float(s))
        if not near.any():
            raise ValueError(
                f"transport starts from one of the times {self.start_times}, got s={s}."
                " Make the student with more starts, or with a node at s."
            )
        start = int(near.argmax())
        s = self.start_times[start]
        x = jnp.asarray(x)
        t = jnp.asarray(t, x.dtype)
        if not is_traced(t):
            self._require_inside(t)
            if t > s * (1 + 1e-6):
                raise ValueError(
                    f"t must not be larger than s: a student goes from noise to data, "
                    f"got t={t} for s={s}. Start at a larger s."
                )
        unit = self._unit(x, start)
        predicted = self.predicted(unit, condition, start=start, key=key)
        return self._state(x, predicted, start, t)

    def _unit(self, x: Sample, start: int) -> Sample:
        return x / jnp.asarray(self.levels[self.start_nodes[start]][0], x.dtype)

    def _state(self, x: Sample, predicted: Clean, start: int, t: Scalar) -> Sample:
        """The state at `t`, from the state `x` at a start and what is predicted."""
        first, signal = self.levels[self.start_nodes[start]]
        sigma, alpha = self.process.level(t)
        gap = alpha - sigma * jnp.asarray(signal / first, x.dtype)
        mean = jnp.tensordot(self._means_up_to(t, start), predicted, axes=1)
        moved = sigma * self._unit(x, start) + gap * mean
        return jnp.where(t < self._start_times(t.dtype)[start], moved, x)

    @typed
    def in_steps(self, steps: WholeLike) -> InSteps:
        """This student, sampling in so many steps: a divisor of `starts`."""
        return in_steps(self, steps)

    def predicted(
        self,
        unit: Sample,
        condition: Condition = None,
        *,
        start: int | Array = 0,
        key: Key | None = None,
    ) -> Clean:
        r"""The network's clean samples $\hat D_j$ at the nodes.

        `unit` is $x/\sigma$ in the state from which the network is asked: the number
        `start` of the `start_nodes`. By default it is $\epsilon = z/\sigma_T$, of
        variance one. Predictions for nodes before the start mean nothing.
        """
        count = len(self.nodes)
        at = self.process.level(self._start_times(unit.dtype)[start])
        c_skip, c_out, c_in, c_noise = self.coefficients(*at, self.trained_for)
        x = (c_in * at[0]) * unit
        out = call_network(self.network, x, c_noise, condition, key=key)
        expected = (*unit.shape[:-1], count * unit.shape[-1])
        if jnp.shape(out) != expected:
            raise ValueError(
                f"the network must return {count} clean samples of the shape "
                f"{unit.shape}, one for each node, as one array of the shape "
                f"{expected}, got {jnp.shape(out)}. Its last layer must have {count} "
                "times as many channels as its input."
            )
        apart = out.reshape(*unit.shape[:-1], count, unit.shape[-1])
        clean = jnp.moveaxis(apart, -2, 0).astype(unit.dtype)
        return (c_skip * at[0]) * unit + c_out * clean

    def _start_times(self, dtype: Any) -> Array:
        return jnp.asarray(self.start_times, dtype)

    def states(
        self, unit: Sample, predicted: Clean, *, start: int | Array = 0
    ) -> Clean:
        """The states at the nodes, as the integral of the predictions."""
        sigma = jnp.asarray(np.array(self.levels)[:, 0], unit.dtype)
        moved = jnp.tensordot(self._moved_by(unit.dtype)[start], predicted, axes=1)
        return sigma.reshape(-1, *[1] * unit.ndim) * unit + moved

    def _moved_by(self, dtype: Any) -> Float[Array, "start node node"]:
        """How much of each prediction is in the state at each node; zero before."""
        sigma, alpha = np.array(self.levels).T
        moved = np.zeros((self.starts, len(sigma), len(sigma)))
        for k, i in enumerate(self.start_nodes):
            gap = alpha[i:] - sigma[i:] * (alpha[i] / sigma[i])
            moved[k, i:, i:] = gap[:, None] * self._rule(k).mean
        return jnp.asarray(moved, dtype)

    def clean(
        self, unit: Sample, t: Scalar, condition: Condition, *, key: Key | None = None
    ) -> Sample:
        r"""$F(z, t) = \sum_j B_j(t)\, \hat D_j$, the mean of the clean samples."""
        predicted = self.predicted(unit, condition, key=key)
        return jnp.tensordot(self._means_up_to(t), predicted, axes=1)

    def _means_up_to(self, t: Scalar, start: int = 0) -> Array:
        """The row $B(t)$: the mean up to the node before, and on from there."""
        rule, dtype = self._rule(start), t.dtype
        rho, polynomials = (jnp.asarray(a, dtype) for a in (rule.rho, rule.polynomials))
        sigma, alpha = self.process.level(t)
        now = alpha / sigma
        i = jnp.clip(jnp.searchsorted(rho, now) - 1, 0, len(rule.rho) - 2)
        points, weights = (jnp.asarray(a, dtype) for a in _gauss(_GAUSS))
        if self.interpolant == "linear":
            inside = points * (now - rho[i])
        else:
            width = jnp.log1p((now - rho[i]) / (rho[i] + rule.shift))
            inside = points * width
            weights = weights * jnp.exp(inside)  # d rho = (rho + rho_0) dv
        basis = _powers(inside, polynomials.shape[1], jnp) @ polynomials[i]
        on = weights @ basis / weights.sum()
        first = i == 0
        span = jnp.where(first, 1.0, now - rho[0])
        share = jnp.where(first, 0.0, (rho[i] - rho[0]) / span)
        row = share * jnp.asarray(rule.mean, dtype)[i] + (1 - share) * on
        return jnp.pad(row, (self.start_nodes[start], 0))


class _Rule(NamedTuple):
    """The quadrature in float64: `mean` is $B$ at the nodes.

    `polynomials[i, k]` are the coefficients of $(v - v_i)^k$ on the interval `i`, of
    the interpolant of each node's value.
    """

    rho: np.ndarray
    shift: float
    polynomials: np.ndarray
    mean: np.ndarray


@functools.lru_cache(maxsize=64)
def _rule(
    levels: tuple[tuple[float, float], ...], shift: float, interpolant: str
) -> _Rule:
    from scipy.interpolate import CubicSpline

    sigma, alpha = np.array(levels).T
    rho, count = alpha / sigma, len(levels)
    one = np.eye(count)
    if interpolant == "linear":
        widths = np.diff(rho)
        slopes = np.diff(one, axis=0) / widths[:, None]
        polynomials = np.stack([one[:-1], slopes], axis=1)
    else:
        v = np.log(rho + shift)
        widths = np.diff(v)
        spline = CubicSpline(v, one, bc_type="not-a-knot")
        polynomials = np.moveaxis(spline.c[::-1], 1, 0)
    points, weights = _gauss(24)
    total, mean = np.zeros(count), np.zeros((count, count))
    mean[0, 0] = 1.0
    for i, width in enumerate(widths):
        inside = points * width
        rate = 1.0 if interpolant == "linear" else (rho[i] + shift) * np.exp(inside)
        basis = _powers(inside, polynomials.shape[1], np) @ polynomials[i]
        total = total + width * (weights * rate) @ basis
        mean[i + 1] = total / (rho[i + 1] - rho[0])
    return _Rule(rho, shift, polynomials, mean)


def _powers(x: Any, count: int, numpy: Any) -> Any:
    return numpy.stack([x**k for k in range(count)], axis=-1)


@functools.lru_cache(maxsize=4)
def _gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2


def _last_layers(network: Any) -> list[Any]:
    """The layers whose sum is the network's answer, if it is one of `pidax.nn`."""
    levels = getattr(getattr(network, "decoder", None), "levels", None)
    if levels is not None:
        layers = [getattr(level, "out", None) for level in levels]
    else:
        layers = [getattr(network, "out", None)]
    return [layer for layer in layers if hasattr(layer, "weight")]


def integral_residual(
    student: IntegralStudent,
    flow: ProbabilityFlow,
    unit: Sample,
    condition: Condition = None,
    *,
    start: int | Array = 0,
    predicted: Clean | None = None,
    which: Array | None = None,
    inside: IntegralStudent | None = None,
    hold: bool = True,
) -> tuple[Clean, Clean]:
    r"""The two sides at the nodes `which`, by default all: `(predicted, denoised)`.

    The residual $\hat D_j - D(x(z, t_j), t_j)$ is their difference. `unit` and `start`
    are passed to `student.predicted`; if its answer is known, pass it as `predicted`.
    `inside` is another student, in whose states the teacher is asked. With `hold` no
    gradient flows through the states.

    Indices with two axes are *runs*, one in each row: consecutive nodes along which the
    teacher's answers are carried. In the state at a node of a run, the predictions at
    the nodes before it in the run are replaced by the teacher's answers there. If all
    residuals are zero the two are equal, so that the trajectory at zero residual does
    not depend on the runs. A run over all nodes solves the trajectory; runs of one node
    leave the student's states as they are. An index smaller than the one before it
    begins a new run.
    """
    count = len(student.nodes)
    which = jnp.arange(count) if which is None else which
    if predicted is None:
        predicted = student.predicted(unit, condition, start=start)
    source, asked = student, predicted
    if inside is not None:
        source, asked = inside, inside.predicted(unit, condition, start=start)
    if hold:
        asked = jax.lax.stop_gradient(asked)
    states = source.states(unit, asked, start=start)
    moved = source._moved_by(unit.dtype)[start]
    sigma, alpha = (jnp.asarray(a, unit.dtype) for a in np.array(student.levels).T)

    def along(run: Array) -> Clean:
        answers, changes = [], []
        for i, node in enumerate(run):
            x = states[node]
            for before, change in zip(run[:i], changes, strict=True):
                share = jnp.where(before < node, moved[node, before], 0.0)
                x = x + share.astype(x.dtype) * change
            answer = flow.denoiser(x, sigma[node], alpha[node], condition)
            answers.append(answer)
            changes.append(answer - asked[node])
        return jnp.stack(answers)

    runs = which if which.ndim == 2 else which[:, None]
    denoised = jax.vmap(along)(runs)
    return predicted[which], denoised.reshape(*which.shape, *unit.shape)
