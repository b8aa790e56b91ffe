r"""A network computed in low precision, its parameters kept in their own.

Parameters stay in float32, so that small steps of an optimiser and averages are not
lost to rounding (Micikevicius et al. 2018). At each call they are converted together
with the sample, and the output is converted back.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from .._checks import call_network
from ..types import Condition, Elementwise, Key, NoiseLike, SampleLike, Shape, typed
from ._base import AbstractFeatures, AbstractNetwork
from ._embedding import Embedding
from ._image_unets import NoiseEmbedding
from ._layers import GroupNorm, as_float

# These compute in float32 at least, and convert what they return, not what they are.
FULL = (AbstractFeatures, Embedding, NoiseEmbedding, GroupNorm)


class LowPrecision(AbstractNetwork):
    """`network` computed in `dtype`, by default bfloat16.

    It needs less memory and, on suitable hardware, less time. bfloat16 keeps eight
    binary digits, an error of up to one in 256 for each rounding. Sensitive parts stay
    in float32: the features of `c_noise` and their embedding, the statistics of
    normalisations, the softmax of attention. Gradients have the dtype of the
    parameters. Differences of a network multiply its rounding error: by thirty for a
    student on the paper's 250 times, by two for the long steps of `PID`.

    The output has the dtype of `x`; `classes` and `shape` are the network's. A network
    of your own gets its floating parameters and `x` in `dtype` (except `Embedding`,
    `NoiseEmbedding`, `AbstractFeatures` and `GroupNorm` inside it), and `c_noise` in
    float32 at least. Integers do not change.
    """

    network: AbstractNetwork
    dtype: np.dtype = eqx.field(static=True)

    def __init__(self, network: AbstractNetwork, dtype: DTypeLike = jnp.bfloat16):
        self.network = network
        self.dtype = jnp.dtype(dtype)

    def __check_init__(self):
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise ValueError(
                "dtype must be a floating one, such as jax.numpy.bfloat16, got "
                f"{self.dtype}. Networks are not quantised."
            )

    @property
    def classes(self) -> int | None:
        return self.network.classes

    @property
    def shape(self) -> Shape | None:
        return self.network.shape

    @typed
    def __call__(
        self,
        x: SampleLike,
        c_noise: NoiseLike,
        condition: Condition = None,
        *,
        augment: Condition = None,
        key: Key | None = None,
    ) -> Elementwise:
        network = jax.tree.map(self._convert, self.network, is_leaf=_is_full)
        low = jnp.asarray(x, self.dtype)
        given = {"augment": augment, "key": key}
        out = call_network(network, low, as_float(c_noise), condition, **given)
        return out.astype(x.dtype)

    def _convert(self, leaf: Any) -> Any:
        floating = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(self.dtype) if floating else leaf


def _is_full(node: Any) -> bool:
    return isinstance(node, FULL)
