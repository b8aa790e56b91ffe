r"""Draws of noise at which the residual is large, drawn more often than others.

An even draw of noise rarely falls near the border between two modes of the data, where
a student is wrong for longest. `Borders` keeps the draws with the largest losses out of
many candidates, and takes a share of every batch from them. Zero residual is the best
for every law of the draws, so that nothing is corrected; the other draws stay even.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._batches import batch_length, batch_rows
from .._checks import require, whole_number
from ..types import Key, Scalar, WholeLike

_BLOCK = 512  # candidates that are judged at once


class Borders(eqx.Module):
    """A share of every batch from the draws with the largest loss.

    Every `every` steps, `candidates` draws are judged by their weighted loss, and the
    `kept` largest are drawn from until the next time. Judging a candidate costs a pass
    of the student and its teacher's answers, without gradients: with the defaults about
    128 draws a step.

    **Arguments:** `share` of the batch, in (0, 1); `kept`, `candidates`, `every`.
    """

    share: float = 0.5
    kept: WholeLike = eqx.field(static=True, default=2048)
    candidates: WholeLike = eqx.field(static=True, default=8192)
    every: WholeLike = eqx.field(static=True, default=64)

    def __check_init__(self):
        require(
            None,
            0 < self.share < 1,
            "share is the part of a batch that is drawn from the kept draws, in "
            f"(0, 1), got share={self.share}. Even draws must remain: use 0.5, or "
            "borders=None for even draws alone.",
        )
        whole_number("every", self.every)
        kept = whole_number("kept", self.kept)
        candidates = whole_number("candidates", self.candidates)
        require(
            None,
            kept < candidates,
            "borders keep the candidates with the largest losses, expected fewer kept "
            f"than candidates, got kept={kept} of candidates={candidates}. Pass more "
            "candidates.",
        )

    def choose(self, loss: Callable[[Key], Scalar], *, key: Key) -> Key:
        """The keys of the draws with the largest losses, as `kept` keys.

        `loss` is compiled; it is called for blocks of keys.
        """
        keys = jax.random.split(key, int(self.candidates))
        length = batch_length(len(keys), _BLOCK)
        found = [
            np.asarray(_losses(loss, keys[rows]))
            for rows in batch_rows(len(keys), length)
        ]
        losses = np.concatenate(found)[: len(keys)]
        # What is not finite is no border: the run stops there by itself.
        losses = np.where(np.isfinite(losses), losses, -np.inf)
        return keys[np.argsort(-losses, kind="stable")[: self.kept]]

    def swap(self, kept: Key, own: Key, *, key: Key) -> Key:
        """One of the kept keys, with the probability `share`; otherwise `own`."""
        coin, which = jax.random.split(key)
        i = jax.random.randint(which, (), 0, kept.shape[0])
        return jnp.where(jax.random.bernoulli(coin, self.share), kept[i], own)


@eqx.filter_jit
def _losses(loss: Callable[[Key], Scalar], keys: Key) -> Float[Array, " draw"]:
    return jax.vmap(loss)(keys)
