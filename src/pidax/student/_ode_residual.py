r"""The residual of the probability-flow ODE, as a difference of clean samples.

$$ R(z, t) = \hat D(z, t) - D(x(z, t), t) $$

Here $\hat D$ is the clean sample that the student's time derivative implies, and $D$
the teacher's denoised sample at the student's state. For EDM, $R = x - t\,dx/dt - D(x,
t)$: eq. 9 of Tee et al. 2024. $R$ is zero for the solution, for every noise process,
and has the size of a clean sample at every time.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..flow import ProbabilityFlow
from ..types import Condition, Key, Sample
from ._stencil import Row
from ._student import Student
from ._time_derivatives import AbstractDerivative


def residual(
    student: Student,
    flow: ProbabilityFlow,
    derivative: AbstractDerivative,
    row: Row,
    unit: Sample,
    condition: Condition = None,
    *,
    inside: Student | None = None,
    key: Key | None = None,
) -> tuple[Sample, Sample]:
    r"""The two sides for one sample: `(implied, denoised)`. The residual is their
    difference.

    `row` is a row of `derivative.stencil(process, times)`, and `unit` the unit latent
    $z/\sigma_T$. `inside` is another student, at whose state the teacher is evaluated
    (a slow copy of the first). All nodes get the same `key`, because differences
    between nodes matter.
    """
    row = jax.tree.map(lambda a: a.astype(unit.dtype), row)
    values, slopes = _network(student, row, unit, condition, key)
    implied = _implied(student, row, unit, values, slopes)
    if inside is not None:
        student, values = inside, _network(inside, row, unit, condition, None)[0]
    spread = lambda a: a.reshape(-1, *[1] * unit.ndim)
    gaps = student.gap(row.sigma, row.alpha)
    states = spread(row.sigma) * unit + spread(gaps) * values
    return implied, derivative.target(flow, row, states, condition)


def _network(
    student: Student, row: Row, unit: Sample, condition: Condition, key: Key | None
) -> tuple[Array, dict[int, Sample]]:
    """F at the nodes, and dF/dtau at the nodes where the row needs it."""
    of = lambda t: student.clean(unit, t, condition, key=key)
    count = row.times.shape[0]
    plain = [j for j in range(count) if j not in row.differentiated]
    values: list[Any] = [None] * count
    slopes = {}
    if plain:
        some = jax.vmap(of)(row.times[jnp.array(plain)])
        for place, j in enumerate(plain):
            values[j] = some[place]
    for j in row.differentiated:
        values[j], slopes[j] = jax.jvp(of, (row.times[j],), (row.rates[j, 2],))
    return jnp.stack(values), slopes


def _implied(
    student: Student, row: Row, unit: Sample, values: Array, slopes: dict[int, Sample]
) -> Sample:
    """The clean sample implied by the student's time derivative."""
    r = row.reference
    total = row.noise * unit + student.gap(row.noise, row.signal) * values[r]
    gaps = student.gap(row.sigma, row.alpha)
    for j in range(values.shape[0]):
        if j != r:
            total = total + row.value[j] * gaps[j] * (values[j] - values[r])
    for j, slope in slopes.items():
        gap_rate = student.gap(row.rates[j, 0], row.rates[j, 1])
        other = gap_rate * (values[j] - values[r]) if j != r else 0.0
        total = total + row.slope[j] * (other + gaps[j] * slope)
    return total
