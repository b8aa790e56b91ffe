"""Solvers that are not written in JAX, called on the host.

A foreign solver is any Python function from fields to observed quantities: another
program, a file that is written and read, a laboratory. It has no derivatives. It may
fail for some fields; a failure has the likelihood zero, and is counted by its name.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ..types import Shape, Stacked

_LONGEST = 80  # characters of the name of a failure


class Record:
    """The failures of one solver by name, on the host."""

    def __init__(self):
        self.failures: Counter[str] = Counter()


class Foreign(eqx.Module):
    """`function(fields) -> quantities` in Python, as a forward map for `infer`.

        def heads(coefficient):              # an array "*grid channel" of NumPy
            return my_solver(coefficient[..., 0])[wells]

        forward = px.inference.Foreign(heads, (len(wells),))
        observed = px.Observation(np.ones(len(wells), bool), values, noise=0.05)
        px.infer(prior, observed, forward=forward, key=key)

    An exception, or a result that is not finite or has another shape, is a failure of
    this sample. A chain rejects it, an ensemble leaves it out.

    **Arguments:**

    - `function`: of one sample's fields; of a batch of them with the sample as the
      first axis, if `batched`.
    - `shape`: of the quantities of one sample.
    """

    function: Callable[[np.ndarray], Any] = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)
    batched: bool = eqx.field(static=True, default=False)
    record: Record = eqx.field(static=True, default_factory=Record)

    def __call__(self, fields: Stacked) -> Array:
        run = functools.partial(self._on_host, fields.ndim)
        like = jax.ShapeDtypeStruct(self.shape, np.float32)
        high, low = jax.pure_callback(
            run, (like, like), fields, vmap_method="expand_dims"
        )
        return high.astype(fields.dtype) + low.astype(fields.dtype)

    def check(self, fields: np.ndarray) -> None:
        """Call it with a few samples, before anything compiles, until one succeeds."""
        failed = None
        for one in fields:
            try:
                out = np.asarray(self.function(one[None] if self.batched else one))
            except Exception as error:
                failed = error
                continue
            expected = (1, *self.shape) if self.batched else self.shape
            if out.shape != expected:
                raise ValueError(
                    "the foreign solver was said to return quantities of shape "
                    f"{expected}, got {out.shape}. Pass Foreign(function, shape) with "
                    "the shape of what it returns for one sample."
                )
            return
        assert failed is not None
        raise ValueError(
            "expected the foreign solver to take the fields of a sample of the prior, "
            f"an array of shape {fields.shape[1:]}, got {_name(failed)} for each of "
            f"{len(fields)}. Call it with one such array and see."
        ) from failed

    def _on_host(self, ndim: int, fields: Any) -> tuple[np.ndarray, np.ndarray]:
        """The quantities as sums of two numbers of single precision.

        In a thread that JAX starts there is no `jax.enable_x64` of the caller, and
        numbers of double precision would be refused.
        """
        fields = np.asarray(fields)
        lead, event = fields.shape[: fields.ndim - ndim], fields.shape[-ndim:]
        flat = fields.reshape(-1, *event)
        groups = [flat] if self.batched else list(flat)
        length = len(flat) if self.batched else 1
        parts = [self._one(group, length) for group in groups]
        out = np.concatenate(parts).reshape(*lead, *self.shape)
        high = out.astype(np.float32)
        return high, (out - high).astype(np.float32)

    def _one(self, given: np.ndarray, count: int) -> np.ndarray:
        """The quantities of `count` samples; NaN where it failed."""
        lost = np.full((count, *self.shape), np.nan)
        expected = lost.shape if self.batched else self.shape
        try:
            out = np.asarray(self.function(given), np.float64)
        except Exception as error:  # whatever a foreign program raises
            self.record.failures[_name(error)] += count
            return lost
        if out.shape != expected:
            self.record.failures[f"shape {out.shape}, not {expected}"] += count
            return lost
        out = out.reshape(lost.shape)
        bad = ~np.isfinite(out).reshape(count, -1).all(axis=1)
        if bad.any():
            self.record.failures["a result that is not finite"] += int(bad.sum())
        return out


def _name(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def as_forward(forward: Any) -> Any:
    """A forward map, if it is one."""
    if forward is None or callable(forward) or hasattr(forward, "solve"):
        return forward
    raise ValueError(
        "forward is an equation, whose solver is used, a function of JAX from fields "
        f"to observed quantities, or a Foreign solver; got {type(forward).__name__}."
    )
