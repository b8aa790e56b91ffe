r"""The solution $x(z, t)$ of the probability-flow ODE as a function and as a network.

$$ x(z, t_{max}) = z, \qquad z = \sigma_T \epsilon, \quad \epsilon \sim N(0, I), $$

so that `sample(z)`, its value at the end of the trajectory, is a sample. For every
noise process

$$ x(z, t) = \sigma_t\, \epsilon
     + \Bigl(\alpha_t - \alpha_T \frac{\sigma_t}{\sigma_T}\Bigr)\, F(\epsilon, t,
     \text{condition}), \qquad
   F = c_{skip}(T)\, z + c_{out}(T)\, N\bigl(c_{in}(T)\, z,\ c_{noise}(t)\bigr): $$

where the denoised sample is constant in time, $F = x_0$ solves the ODE. The boundary
condition $x(z, T) = z$ holds exactly. For EDM and a network $N$ that is $F$
itself ($c_{skip} = 0$, $c_{out} = 1$) it reads

$$ x(z, t) = \tfrac tT z + \tfrac{T - t}T N\bigl(z/\sqrt{\sigma_{data}^2 + T^2},\
    \tfrac14 \ln t\bigr), $$

eq. 7 of Tee, Zhang et al. 2024, "Physics informed distillation for diffusion models".

With a soft boundary condition the second term is $\alpha_t F$, and $x(z, T) = z$ must
be learned (by `PID(..., boundary_weight=)`), as PINNs usually do. It is meant for
comparisons.
"""

import abc
import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar

from .._checks import (
    call_network,
    check_network,
    classes_of_network,
    is_traced,
    one_sample,
    require,
)
from .._table import network_title, samples_line, screen
from ..denoiser import (
    AbstractCoefficients,
    AbstractDenoiser,
    Preconditioned,
    log_ratio,
)
from ..process import AbstractProcess
from ..types import (
    Condition,
    Elementwise,
    Key,
    Sample,
    SampleLike,
    Scalar,
    ScalarLike,
    Shape,
    typed,
)

_MOST_AMPLIFIED = 4.0  # of the network's error, in units of sigma_data


class AbstractStudent(eqx.Module):
    """The trajectory from a prior draw, as a function of the draw and the time.

    A final class has `process`, `shape`, `classes`, the time `end` of its samples, and
    `__call__`.
    """

    process: AbstractVar[AbstractProcess]

    @property
    @abc.abstractmethod
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""

    @property
    @abc.abstractmethod
    def classes(self) -> int | None:
        """The number of classes; None without classes."""

    @property
    @abc.abstractmethod
    def end(self) -> float:
        """The process time of its samples."""

    @abc.abstractmethod
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at time `t` of the trajectory that starts from `z` at `t_max`."""

    @typed
    def sample(self, z: SampleLike, condition: Condition = None) -> Sample:
        """The sample at the end of the trajectory from `z`."""
        return self(z, self.end, condition)


class CleanCoefficients(AbstractCoefficients):
    r"""The network predicts the clean sample, from $x$ scaled to size one.

    $D = N(x/\sqrt{\alpha^2\sigma_{data}^2 + \sigma^2},\ \tfrac14\ln(\sigma/\alpha))$.
    The target of a student's new network then has the same size at all times.

    With `tells="angle"` the network is told $\varphi$ in place of the logarithm. A loss
    with a derivative in the time of pure noise needs it: there the logarithm moves much
    faster than the solution (Lu and Song 2025).
    """

    tells: Literal["logarithm", "angle"] = eqx.field(static=True, default="logarithm")

    def __check_init__(self):
        known = ("logarithm", "angle")
        require(
            None,
            self.tells in known,
            f"tells is one of {known}, got {self.tells!r}.",
        )

    def __call__(
        self, sigma: Scalar, alpha: Scalar, process: AbstractProcess
    ) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        scale = jnp.hypot(alpha * process.sigma_data, sigma)
        if self.tells == "angle":
            c_noise = jnp.arctan2(sigma, alpha * process.sigma_data)
        else:
            c_noise = 0.25 * log_ratio(sigma, alpha, process)
        return jnp.zeros_like(scale), jnp.ones_like(scale), 1 / scale, c_noise


class AbstractNetworkStudent(AbstractStudent):
    r"""A student whose clean sample $F$ comes from a network, and can be trained.

    A final class implements $F$, by `clean`. The state and the boundary condition
    $x(z, T) = z$ are implemented here.
    """

    network: AbstractVar[Any]
    event: AbstractVar[Shape | None]
    boundary: AbstractVar[str]

    @property
    def shape(self) -> Shape | None:
        """The shape of one sample, or None if any will do."""
        return self.event

    @property
    def classes(self) -> int | None:
        """The number of classes of the network; None without classes."""
        return classes_of_network(self.network)

    @property
    def end(self) -> float:
        """`t_min`, the last time of the training."""
        return self.process.t_min

    @abc.abstractmethod
    def clean(
        self, unit: Sample, t: Scalar, condition: Condition, *, key: Key | None = None
    ) -> Sample:
        r"""The network's part $F$ at time `t`, of the size of a clean sample.

        `unit` is $\epsilon = z/\sigma_T$, of variance one.
        """

    @typed
    def __call__(
        self,
        z: SampleLike,
        t: ScalarLike,
        condition: Condition = None,
        *,
        key: Key | None = None,
    ) -> Sample:
        """The state at time `t` of the trajectory that starts from `z` at `t_max`."""
        z = jnp.asarray(z)
        if self.shape is not None and z.shape != self.shape:
            raise ValueError(
                f"z must be one sample of the shape {self.shape}, got {z.shape}. For a "
                "batch use jax.vmap(student, in_axes=(0, None))."
            )
        t = jnp.asarray(t, z.dtype)
        if not is_traced(t, self.process):  # traced in training
            self._require_inside(t)
        last = jnp.asarray(self.process.t_max, z.dtype)
        sigma, start = self.process.sigma(t), self.process.sigma(last)
        # At T exactly 1 and 0, with their derivatives in time.
        end = t == last
        noise = exactly(1.0, sigma / start, where=end)
        gap = self.gap(*self.process.level(t))
        gap = exactly(0.0, gap, where=end & (self.boundary == "hard"))
        return noise * z + gap * self.clean(z / start, t, condition, key=key)

    def _require_inside(self, t: Scalar) -> None:
        first, last = self.process.t_min, self.process.t_max
        slack = 1e-4 * first
        require(
            None,
            (t >= first - slack) & (t <= last * (1 + 1e-6)),
            f"t must lie in the process's interval [{first}, {last}], where the "
            f"student is taught, got t={t}. Sample at t_min, or make another process.",
        )

    def gap(self, sigma: Elementwise, alpha: Elementwise) -> Elementwise:
        r"""The factor of `F` in a state with the noise level `(sigma, alpha)`.

        $\alpha - \alpha_T\sigma/\sigma_T$, or $\alpha$ with a soft boundary condition.
        """
        if self.boundary == "soft":
            return alpha
        noise, signal = self.process.level(jnp.asarray(self.process.t_max, sigma.dtype))
        return alpha - sigma * (signal / noise)


class Student(AbstractNetworkStudent):
    r"""A network for the trajectory from the prior draw `z`: one evaluation for any
    time.

    `student(z, t)` is $x(z, t)$, and `student.sample(z)` its value at `t_min`, the
    sample. Each costs one evaluation of the network. $x(z, T)$ is `z` to the last bit.
    Train it with `PID`, `KnowledgeDistillation` or `PIDDM`. Tee et al. 2024, eq. 7.

    **Arguments:**

    - `network`: called as `network(c_in z, c_noise, condition, key=)` on one sample;
      returns an array of the same shape. It may leave out the last two arguments if it
      has no use for them. Its target has the size of a clean sample at
      all times. $c_{noise} = \tfrac14 \ln(\sigma/\alpha)$, which is finite for every
      process (`pidax.denoiser.log_ratio`), as for a teacher with `EDMCoefficients`,
      whose architecture and weights may be used.
    - `process`: the noise process of `(x, t)`.
    - `shape`: the shape of one sample; by default `network.shape` if it has one.
    - `boundary`: `"hard"`, the formula above, or `"soft"`: $x = (\sigma_t/\sigma_T) z +
      \alpha_t F$, whose `F` must learn to vanish at $T$. Both are equal for a process
      without signal at $T$.
    - `teacher`: the denoiser whose network this is; its coefficients map the output to
      a clean sample. See `from_teacher`.
    """

    network: Any
    process: AbstractProcess
    coefficients: AbstractCoefficients
    trained_for: AbstractProcess
    event: Shape | None = eqx.field(static=True)
    boundary: str = eqx.field(static=True)

    @typed
    def __init__(
        self,
        network: Any,
        process: AbstractProcess,
        *,
        shape: Shape | None = None,
        boundary: str = "hard",
        teacher: Preconditioned | None = None,
    ):
        if boundary not in ("hard", "soft"):
            raise ValueError(
                f"boundary must be 'hard' or 'soft', got {boundary!r}. 'hard' gives "
                "x(z, T) = z by construction."
            )
        self.network = check_network(network)
        self.process = process
        self.coefficients, self.trained_for = coefficients_of(teacher, process)
        self.event = getattr(network, "shape", None) if shape is None else shape
        self.boundary = boundary

    def __repr__(self) -> str:
        return screen(
            network_title("Student", self.network),
            process=self.process,
            boundary=self.boundary,
            samples=samples_line(self.shape, getattr(self, "classes", None)),
        )

    @staticmethod
    @typed
    def from_teacher(
        denoiser: AbstractDenoiser,
        process: AbstractProcess,
        *,
        boundary: str = "hard",
    ) -> "Student":
        r"""A student that starts from a teacher's weights.

        `denoiser` is a `Preconditioned` network. The student's network is a copy of the
        teacher's. Its inputs are $c_{in}(T)\,z$ and the teacher's $c_{noise}(t)$, and
        the teacher's coefficients at $T$ map its output to a clean sample:

        $$ F = c_{skip}(T)\, z + c_{out}(T)\, N(c_{in}(T)\,z,\ c_{noise}(t)). $$

        At $T$ the student's $F$ equals the teacher's $D(z, T)$, so with the exact
        derivative the residual there is zero from the start. (The authors' code omits
        the map and starts from $N$.) With `EDMCoefficients` $c_{out}(T) \approx
        \sigma_{data}$. A network that predicts the noise has $c_{out}(T) =
        -\sigma_T/\alpha_T$, 80 for EDM; it is refused, because its error would be
        amplified by this factor. A score function of your own has no network: use
        `Student(network, process)` with a new network.
        """
        teacher = usable_teacher(denoiser, process)
        return Student(
            teacher.network,
            process,
            shape=teacher.shape,
            boundary=boundary,
            teacher=teacher,
        )

    def clean(
        self, unit: Sample, t: Scalar, condition: Condition, *, key: Key | None = None
    ) -> Sample:
        r"""The network's part $F$, of the size of a clean sample.

        `unit` is $\epsilon = z/\sigma_T$, of variance one.
        """
        last = jnp.asarray(self.process.t_max, unit.dtype)
        start, now = self.process.level(last), self.process.level(t)
        c_skip, c_out, c_in, _ = self.coefficients(*start, self.trained_for)
        c_noise = self.coefficients(*now, self.trained_for)[3]
        x = (c_in * start[0]) * unit
        out = call_network(self.network, x, c_noise, condition, key=key)
        cure = "The network's last layer must have as many channels as its input."
        out = one_sample(out, unit, "the network", cure).astype(unit.dtype)
        return (c_skip * start[0]) * unit + c_out * out


def coefficients_of(
    teacher: Preconditioned | None, process: AbstractProcess
) -> tuple[AbstractCoefficients, AbstractProcess]:
    """What maps a network to a clean sample: the teacher's, or a new network's own."""
    if teacher is None:
        return CleanCoefficients(), process
    return teacher.coefficients, teacher.process


def usable_teacher(
    denoiser: AbstractDenoiser, process: AbstractProcess
) -> Preconditioned:
    """The teacher, if its network's output at T is close to a clean sample."""
    if not isinstance(denoiser, Preconditioned):
        raise ValueError(
            "from_teacher takes over the network of a Preconditioned denoiser, got a "
            f"{type(denoiser).__name__}, whose output cannot be mapped to a clean "
            "sample without amplifying its error (a predicted noise or score), or "
            "which has no single network. Pass the Preconditioned inside it, or start "
            "from a new network: Student(network, process)."
        )
    scale = float(process.sigma_data)
    if not math.isclose(float(denoiser.process.sigma_data), scale, rel_tol=1e-6):
        raise ValueError(
            "teacher and student must measure the data alike, got sigma_data="
            f"{denoiser.process.sigma_data} and {scale}. Make both with one process."
        )
    last = jnp.asarray(process.t_max, float)
    c_out = denoiser.coefficients(*process.level(last), denoiser.process)[1]
    factor = float(jnp.abs(c_out)) / scale
    require(
        None,
        factor <= _MOST_AMPLIFIED,
        f"the teacher's network is multiplied by {factor:.3g} sigma_data to give the "
        "clean sample at t_max, and so is its error: it predicts the noise or what is "
        "mostly noise, and is no start for a student, whose network predicts the clean "
        "sample. Start from a new network: Student(network, process).",
    )
    return denoiser


def exactly(number: float, value: Scalar, *, where: Scalar) -> Scalar:
    """`value`, corrected to `number` where `where` is true.

    Its derivative in time does not change; a bare `jnp.where` would make it zero.
    """
    error = jax.lax.stop_gradient(jnp.where(where, number - value, 0.0))
    return value + error
