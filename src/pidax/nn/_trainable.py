"""Which of a model's arrays are weights."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from ._embedding import AbstractFeatures


def trainable(model: PyTree, fixed: tuple[type, ...] = (AbstractFeatures,)) -> PyTree:
    """The weights of a model, as a filter specification for `equinox.partition`.

    All floating-point arrays but those inside an instance of `fixed`: by default of
    `AbstractFeatures`, which are drawn once. No gradient reaches them, but the weight
    decay of an optimiser would.
    """

    def one(node: PyTree) -> PyTree:
        if isinstance(node, fixed):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return jax.tree.map(one, model, is_leaf=lambda x: isinstance(x, fixed))
