"""Classifier-free guidance (Ho & Salimans 2022): a denoiser around a denoiser."""

import equinox as eqx

from .._checks import as_float
from ..types import Condition, Key, Sample, SampleLike, ScalarLike, Shape, typed
from ._denoiser import AbstractDenoiser


class Guided(AbstractDenoiser):
    r"""$D_{guided} = D(\varnothing) + w\,(D(c) - D(\varnothing))$.

    `scale` is $w$: 0 ignores the condition, 1 is the conditional model, and a larger
    value exaggerates the condition. A call with a condition costs two calls of the
    denoiser.
    """

    denoiser: AbstractDenoiser
    scale: ScalarLike = eqx.field(converter=as_float)

    @property
    def shape(self) -> Shape | None:
        return self.denoiser.shape

    @property
    def interval(self) -> tuple[float, float]:
        return self.denoiser.interval

    def evaluations(self, condition: Condition = None) -> int:
        free = self.denoiser.evaluations(None)
        if condition is None:
            return free
        return free + self.denoiser.evaluations(condition)

    @typed
    def __call__(
        self,
        x: SampleLike,
        sigma: ScalarLike,
        alpha: ScalarLike = 1.0,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Sample:
        free = self.denoiser(x, sigma, alpha, None, augment=augment, key=key)
        if condition is None:
            return free
        bound = self.denoiser(x, sigma, alpha, condition, augment=augment, key=key)
        return free + self.scale * (bound - free)
