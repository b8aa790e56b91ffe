r"""PIDM: the residual on the posterior mean, during the training of the teacher.

$$ L = L_{DSM} + \lambda\, E\, \frac{\operatorname{mean} |R(D(x_t))|^2}{s^2}\,
       \frac{\sigma_{data}^2}{v(t)}, \qquad
   v = \frac{\sigma^2 \sigma_{data}^2}{\sigma^2 + \alpha^2 \sigma_{data}^2}. $$

$R$ is evaluated at the posterior mean $D(x_t) = E[x_0 | x_t]$, which solves a nonlinear
equation only without noise, so the model learns to remove Jensen's gap. $v$ is the
variance of $x_0$ given $x_t$ for Gaussian data; noisy samples have a small weight.
Bastek et al. 2025, "Physics-informed diffusion models", the mean estimate. Implemented
for comparison.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..process import AbstractProcess
from ..types import Batch, Key, Scalar, at_least_float32
from ._combine import Weight, as_weight, weight_at
from ._denoising import DenoisingScoreMatching
from ._objective import AbstractObjective, State, Terms, Update

if TYPE_CHECKING:
    from ..constraint import AbstractConstraint

_PROBES = 16  # answers of the untrained model, for the check of the constraint


class PIDM(AbstractObjective):
    r"""Train a denoiser from data, and its posterior means on the residual.

    **Arguments:** `matching`, the denoising score matching; the `constraint`; `weight`
    $\lambda$, a number or a function of the progress.

    Reported terms: the terms of the matching, and `physics`, the mean square of the
    relative residual of $D(x_t)$.
    """

    matching: DenoisingScoreMatching
    constraint: "AbstractConstraint"
    weight: Scalar | Callable[[Scalar], Scalar]

    def __init__(
        self,
        process: AbstractProcess,
        constraint: "AbstractConstraint",
        *,
        weight: Weight = 1e-3,
        matching: DenoisingScoreMatching | None = None,
    ):
        self.matching = (
            DenoisingScoreMatching(process) if matching is None else matching
        )
        self.constraint = constraint
        self.weight = as_weight(weight)

    def check(self, model: PyTree, data: PyTree) -> None:
        self.matching.check(model, data)
        samples = data[0] if isinstance(data, tuple) else data
        self.constraint.check(jnp.shape(samples)[1:])
        self.constraint.check_start(self._answers(model, data))

    def loss(
        self, model: PyTree, state: State, sample: PyTree, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, tuple[Update, Terms]]:
        loss, x0, t, terms = self.matching.denoise(model, sample, key=key)
        process = self.matching.process
        sigma, scale = process.sigma(t), process.scale(t)
        certainty = (scale / sigma) ** 2  # sigma_data^2 / v
        cost = self.constraint.cost(x0)
        cost = cost.astype(at_least_float32(cost.dtype))
        weight = weight_at(self.weight, progress) * certainty
        total = loss + weight.astype(loss.dtype) * cost
        return total, ((), {**terms, "physics": cost})

    def _answers(self, model: PyTree, data: PyTree) -> Batch:
        """The untrained model's clean samples, for some data and their noise."""
        some = jax.tree.map(lambda a: jnp.asarray(a[:_PROBES]), data)
        count = len(jax.tree.leaves(some)[0])
        keys = jax.random.split(jax.random.key(0), count)

        @eqx.filter_jit
        def asked(model: PyTree, some: PyTree, keys: Key) -> Batch:
            one = lambda sample, key: self.matching.denoise(model, sample, key=key)[1]
            return jax.vmap(one)(some, keys)

        return asked(model, some, keys)
