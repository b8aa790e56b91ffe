"""A second noise level for a network: of the time to which a flow map goes."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from .._checks import require_whole
from ..types import Condition, Number, typed
from ._base import AbstractFeatures
from ._embedding import Embedding, Fourier
from ._image_unets import NoiseEmbedding
from ._layers import Linear

Network = TypeVar("Network")
_EMBEDDINGS = (Embedding, NoiseEmbedding)


class TwoTimesEmbedding(eqx.Module):
    r"""An embedding of two noise levels: $e(c_1, \text{class}) + W f(c_2) + b$.

    `c_noise` is an array of the two. $W$ and $b$ are zero at the start.
    """

    embedding: Any
    features: AbstractFeatures
    second: Linear

    @property
    def classes(self) -> int | None:
        """The number of class labels, or None."""
        return self.embedding.classes

    @typed
    def __call__(
        self, c_noise: Real[Number, "..."], *labels: Condition
    ) -> Float[Array, " size"]:
        if jnp.shape(c_noise) != (2,):
            raise ValueError(
                "this network is told two noise levels, expected c_noise of the shape "
                f"(2,), got {jnp.shape(c_noise)}. Use it in a FlowMap; a Student or a "
                "denoiser takes the network without two_times."
            )
        e = self.embedding(c_noise[0], *labels)  # type: ignore[index]
        more = self.second(self.features(c_noise[1]))  # type: ignore[index]
        return e + more.astype(e.dtype)


def two_times(network: Network, *, features: int | AbstractFeatures = 32) -> Network:
    r"""The same network, told a second noise level, which it does not use yet.

        network = px.nn.two_times(px.nn.MLP(2, 2, key=key))
        px.FlowMap(network, process)

    Its `c_noise` is then an array of two numbers. At the start the result is the
    network's own for the first of them: so a `FlowMap` can begin with a teacher.
    `network` is one of `pidax.nn`; `features` as in `pidax.nn.MLP`, of the second.
    """
    if not isinstance(features, AbstractFeatures):
        require_whole(features=features)
        features = Fourier(features)
    inside = _embeddings(network)
    if not inside or any(isinstance(node, TwoTimesEmbedding) for node in inside):
        told = "is told two noise levels already" if inside else "has no embedding"
        raise ValueError(
            "two_times takes a network of pidax.nn, with an embedding of c_noise, got "
            f"a {type(network).__name__} that {told}. A network of your own can take "
            "c_noise of two numbers as it is."
        )

    def change(node: Any) -> Any:
        if not _is_embedding(node):
            return node
        last = node.layers[-1] if node.layers else node.noise
        size = last.weight.shape[1]
        made = Linear(features.size, size, key=jax.random.key(0))
        zero = jax.tree.map(jnp.zeros_like, made)
        return TwoTimesEmbedding(node, features, zero)

    return jax.tree.map(change, network, is_leaf=_is_embedding)


def require_two_times(network: Network) -> Network:
    """The network, if it is not one of `pidax.nn` that is told one noise level."""
    if any(isinstance(node, _EMBEDDINGS) for node in _embeddings(network)):
        raise ValueError(
            "a FlowMap tells its network two noise levels, got a "
            f"{type(network).__name__} that is told one. Pass "
            "px.nn.two_times(network)."
        )
    return network


def _is_embedding(node: Any) -> bool:
    return isinstance(node, (*_EMBEDDINGS, TwoTimesEmbedding))


def _embeddings(network: Any) -> list[Any]:
    leaves = jax.tree.leaves(network, is_leaf=_is_embedding)
    return [node for node in leaves if _is_embedding(node)]
