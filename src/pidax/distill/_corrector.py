r"""A corrector: what is wrong with the law of a student's samples pulls them right.

A sample $x$ of the student is noised to $x_r = \alpha_r x + \sigma_r n$. An auxiliary
denoiser $D_\psi$, trained beside the student on nothing but its samples, knows
$E[x | x_r]$ under the student's law; the teacher knows it under its own. Where the laws
agree the two are equal, and elsewhere

$$ \nabla_\theta L = \lambda\, E_{z, r, n}\; \Bigl(\frac{\partial x_\theta(z)}
   {\partial\theta}\Bigr)^{\!T}
   \frac{D_\psi(x_r, r) - D(x_r, r)}{\operatorname{mean} |x - D(x_r, r)|} $$

moves the samples along the difference of the two scores: down the Kullback-Leibler
divergence of the noised laws. Luo et al. 2023, "Diff-Instruct"; Yin et al. 2024,
"One-step diffusion with distribution matching distillation", whose eq. 8 is the
normalisation. With `divergence="fisher"` it is score identity distillation,

$$ L = E\ \frac{(D - D_\psi) \cdot [(D - x) - a\,(D - D_\psi)]}
      {\operatorname{mean} |x - D|}, $$

differentiated through $x_r$ in both denoisers (Zhou et al. 2024, "Score identity
distillation"). Both correct the law and not the pairing of noise and samples: a sample
that ended in another mode stays there.
"""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .. import nn
from .._checks import require
from .._compatibility import check_classes, check_same_shape
from ..denoiser import AbstractDenoiser, Preconditioned
from ..flow import ProbabilityFlow
from ..types import Key, Sample, Scalar, WholeLike, at_least_float32, typed
from ._combine import Ramp, Sum, Weight, as_weight, weight_at
from ._denoising import AbstractTimeLaw, DenoisingScoreMatching, LogNormal
from ._distillation import (
    AbstractDistillation,
    Draw,
    check_condition_draw,
    dtype_of,
)
from ._knowledge import KnowledgeDistillation
from ._objective import FIXED, Terms, Update
from ._slow_copy import copy_of

# Noise levels around twice the size of the data, where samples of all modes mix.
_MEAN, _STD = 0.8, 1.0


Divergence = Literal["kl", "fisher"]


class CorrectorState(eqx.Module):
    """The auxiliary denoiser of a `Corrector`, trained with the student."""

    auxiliary: AbstractDenoiser


class Corrector(AbstractDistillation):
    r"""Correct the law of a student's samples, beside a loss that teaches the ODE.

        corrected = px.distill.Sum([
            (px.PID(flow), 1.0),
            (px.distill.Corrector(flow, weight=px.distill.Ramp(0.3, 0.5, 0.6)), 1.0),
        ])

    For learned teachers, where the errors of a trajectory accumulate. It needs no data
    and no solves. A step costs, for each sample, one evaluation of the student and of
    the teacher, and one of the auxiliary denoiser with its gradient.

    **Arguments:**

    - `flow`: the teacher's ODE.
    - `auxiliary`: a denoiser of which training begins; by default a copy of the
      teacher, if that is a `Preconditioned` network. It should have the teacher's size:
      it learns a law that is nearly the teacher's.
    - `weight` $\lambda$ of the pull: a number, or a function of the progress. With the
      default, `Ramp(1.0, 0.5, 0.6)`, the auxiliary denoiser alone is trained in the
      first half of a run.
    - `divergence`: `"kl"`, or `"fisher"` for score identity distillation, which costs
      one more evaluation of the auxiliary denoiser and derivatives of both denoisers in
      the state; `alpha` is its $a$, 1.2 as published.
    - `law`: of the noise level $r$; by default `LogNormal(0.8, 1.0)`. Without high
      levels a mode that the student lacks is not seen.
    - `classes`, `condition`: as in `PID`.

    The reported terms are `denoising_error` of the auxiliary denoiser, and `gap`, the
    mean squared difference of the two denoisers.
    """

    flow: ProbabilityFlow
    auxiliary: AbstractDenoiser
    weight: PyTree
    denoising: DenoisingScoreMatching
    alpha: float
    divergence: Divergence = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)
    condition: Draw | None

    @typed
    def __init__(
        self,
        flow: ProbabilityFlow,
        auxiliary: AbstractDenoiser | None = None,
        *,
        weight: Weight | None = None,
        law: AbstractTimeLaw | None = None,
        divergence: str = "kl",
        alpha: float | int = 1.2,
        classes: WholeLike | None = None,
        condition: Draw | None = None,
    ):
        if auxiliary is None:
            auxiliary = flow.denoiser
            if not isinstance(auxiliary, Preconditioned):
                raise ValueError(
                    "the auxiliary denoiser is a network: expected a Preconditioned "
                    f"teacher to copy, got a {type(auxiliary).__name__}. Pass one, "
                    "Corrector(flow, px.Preconditioned(network, process))."
                )
        self.flow, self.auxiliary = flow, auxiliary
        self.weight = as_weight(Ramp(1.0, 0.5, 0.6) if weight is None else weight)
        law = LogNormal(_MEAN, _STD) if law is None else law
        self.divergence, self.alpha = divergence, float(alpha)  # type: ignore[assignment]
        self.denoising = DenoisingScoreMatching(flow.process, law=law)
        self.classes = check_condition_draw(classes, condition)
        self.condition = condition

    def __check_init__(self):
        known = get_args(Divergence)
        require(
            None,
            self.divergence in known,
            f"divergence is one of {known}, got {self.divergence!r}.",
        )

    def check(self, model: PyTree, data: PyTree) -> None:
        self.check_student(model, data)
        check_same_shape(model.shape, getattr(self.auxiliary, "shape", None))
        check_classes(self.classes, self.condition, self.auxiliary, model)
        require(
            None,
            bool(self._trained(self.auxiliary)),
            "the auxiliary denoiser is trained: expected floating-point weights in it, "
            f"got none in a {type(self.auxiliary).__name__}. Pass "
            "px.Preconditioned(network, process).",
        )

    def init(self, model: PyTree, *, key: Key) -> CorrectorState:
        return CorrectorState(copy_of(self.auxiliary))

    def trainable(self, state: CorrectorState) -> PyTree:
        return self._trained(state.auxiliary)

    def _trained(self, auxiliary: AbstractDenoiser) -> list:
        """The weights of its networks, without frequencies and processes."""
        marks = jax.tree.leaves(nn.trainable(self.auxiliary, FIXED))
        leaves = jax.tree.leaves(auxiliary)
        return [a for a, mark in zip(leaves, marks, strict=True) if mark]

    def answer(
        self, model: PyTree, state: CorrectorState, progress: Scalar, *, key: Key
    ) -> tuple[Scalar, Sample, tuple[Update, Terms]]:
        z_key, condition_key, time_key, noise_key = jax.random.split(key, 4)
        process = self.flow.process
        unit = jax.random.normal(z_key, self.shape_of(model)).astype(dtype_of(model))
        condition = self.draw_condition(condition_key)
        last = jnp.asarray(process.t_max, unit.dtype)
        x = model.sample(process.sigma(last) * unit, condition)
        x = x.astype(at_least_float32(x.dtype))
        held = jax.lax.stop_gradient(x)
        r = self.denoising.law(process, key=time_key).astype(held.dtype)
        noised, _ = process.perturb(held, r, key=noise_key)
        levels = process.level(r)
        known = state.auxiliary(noised, *levels, condition).astype(held.dtype)
        taught = self.flow.denoiser(noised, *levels, condition).astype(held.dtype)
        error = known - held
        loss = jnp.mean((self.denoising.factor(r) * error) ** 2)
        gap = jax.lax.stop_gradient(known - taught)
        size = jnp.mean(jnp.abs(jax.lax.stop_gradient(held - taught)))
        size = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        weight = weight_at(self.weight, progress).astype(loss.dtype)
        if self.divergence == "kl":
            # It is zero, and its gradient is the pull.
            pull = jnp.mean((x - held) * gap)
        else:
            pull = self._fisher(state.auxiliary, x, held, noised, levels, condition)
        loss = loss + weight * pull / size
        terms = {"denoising_error": jnp.mean(error**2), "gap": jnp.mean(gap**2)}
        return loss, x, ((), terms)

    def _fisher(
        self,
        auxiliary: AbstractDenoiser,
        x: Sample,
        held: Sample,
        noised: Sample,
        levels: tuple[Scalar, Scalar],
        condition: Any,
    ) -> Scalar:
        """$(D - D_\\psi) \\cdot [(D - x) - a (D - D_\\psi)]$, with fixed denoisers."""
        moved = noised + levels[1] * (x - held)
        fixed = jax.tree.map(
            lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf,
            auxiliary,
        )
        taught = self.flow.denoiser(moved, *levels, condition).astype(x.dtype)
        known = fixed(moved, *levels, condition).astype(x.dtype)
        apart = taught - known
        return jnp.mean(apart * ((taught - x) - self.alpha * apart))


def DiffInstruct(flow: ProbabilityFlow, **options: Any) -> Corrector:
    """The correction alone, from the first step: Luo et al. 2023, "Diff-Instruct"."""
    return Corrector(flow, **{"weight": 1.0, **options})


def ScoreIdentity(flow: ProbabilityFlow, **options: Any) -> Corrector:
    """SiD: Zhou et al. 2024, "Score identity distillation". No data, no solves."""
    return Corrector(flow, **{"weight": 1.0, "divergence": "fisher", **options})


def DistributionMatching(
    flow: ProbabilityFlow,
    regression: float | int = 0.25,
    *,
    pairs: WholeLike = 16_384,
    **options: Any,
) -> AbstractDistillation:
    """DMD: Yin et al. 2024, "One-step diffusion with distribution matching
    distillation".

    The correction, and `regression` times the regression on the ends of solved pairs,
    which keeps modes. With 0 it is `DiffInstruct`.
    """
    law = DiffInstruct(flow, **options)
    if regression == 0:
        return law
    process = flow.process
    same = {name: options[name] for name in ("classes", "condition") if name in options}
    ends = KnowledgeDistillation(
        flow, pairs=pairs, times=(process.t_max, process.t_min), endpoint=1.0, **same
    )
    return Sum([(law, 1.0), (ends, float(regression))])
