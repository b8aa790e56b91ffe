"""Errors: what was expected, what came, what to do.

A known value raises `ValueError` at once. A traced value raises the same message when
the compiled program runs (`equinox.error_if`).
"""

import functools
import inspect
import operator
import types
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PyTree

from .types import ScalarLike

_UNKNOWN = object()


def is_traced(*values: object) -> bool:
    """Whether any leaf of `values` is known only when the compiled program runs."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def settled(value: Any) -> Any:
    """A known array as NumPy's, in which a check compiles nothing; a traced one as it
    is.
    """
    return value if is_traced(value) else np.asarray(value)


def require(value: PyTree, ok: ArrayLike, message: str) -> PyTree:
    """Return `value`, having checked `ok`. The returned value must be used.

    A traced `ok` needs an array in `value`; without one nothing is checked.
    """
    if is_traced(ok):
        if not any(eqx.is_array(leaf) for leaf in jax.tree.leaves(value)):
            return value
        return eqx.error_if(value, ~jnp.asarray(ok), message)
    if not bool(ok):
        raise ValueError(message)
    return value


def show(value: object) -> str:
    """`value` in a message: its number when known, or that it is not known yet."""
    return "not known while tracing" if is_traced(value) else str(value)


def whole_number(name: str, value: Any, *, least: int = 1, cure: str = "") -> int:
    """`value` as a Python `int`, if it is a whole number of at least `least`.

    Whole numbers of NumPy and of JAX pass, if they are known; truth values and
    fractions do not.
    """
    truth = getattr(value, "dtype", type(value)) in (bool, np.dtype(bool))
    try:
        number = None if truth else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}, got "
            f"{name}={value!r}. {cure or f'Pass an integer, {least} or more.'}"
        )
    return number


def require_whole(*, least: int = 1, **numbers: Any) -> None:
    """Each named number is a whole one of at least `least`: see `whole_number`."""
    for name, number in numbers.items():
        whole_number(name, number, least=least)


def check_interval(
    name: str,
    pair: Any,
    *,
    positive: bool = False,
    least: float | None = None,
    most: float | None = None,
    cure: str = "Pass the smaller number first.",
) -> tuple[float, float]:
    """`pair` as two floats, if it is an interval `(low, high)` with `low < high`.

    The ends are finite, and `positive` if so asked; or else `least <= low` and
    `high <= most`, which may be infinite. Numbers of NumPy and of JAX pass; traced
    ones are checked when the program runs.
    """
    bottom = "0 < " if positive else "" if least is None else f"{least} <= "
    top = "" if most is None else f" <= {most}"
    message = (
        f"{name} must be an interval (low, high) of numbers with {bottom}low < high"
        f"{top or ' and finite ends'}, got {show(pair)}. {cure}"
    )
    try:
        low, high = (x if is_traced(x) else float(x) for x in pair)
    except (TypeError, ValueError):
        raise ValueError(message) from None
    infinity = float("inf")
    above = low > 0 if positive else low > -infinity if least is None else low >= least
    below = high < infinity if most is None else high <= most
    return require((low, high), above & (low < high) & below, message)


def as_float(value: ScalarLike) -> float:
    """NumPy's number as Python's, which takes the dtype of what it meets.

    An array of JAX, which may be traced or differentiated, stays one.
    """
    return value if isinstance(value, Array) else float(value)  # type: ignore[return-value]


def require_positive(**numbers: Any) -> None:
    """Each named number is positive and finite."""
    for name, number in numbers.items():
        require(
            number,
            (number > 0) & (number < float("inf")),
            f"{name} must be positive and finite, got {name}={number}. Pass a number "
            "above zero.",
        )


def require_finite(name: str, value: Array, cure: str) -> Array:
    """Every entry of `value` is finite; a NaN must not travel on as a sample."""
    known = not is_traced(value)
    finite = np.isfinite(np.asarray(value)) if known else jnp.isfinite(value)
    bad = f" in {int((~finite).sum())} of {finite.size}" if known else ""
    return require(
        value,
        finite.all(),
        f"{name} must be finite, got NaN or infinite entries{bad}. {cure}",
    )


def check_condition(condition: PyTree, count: int) -> PyTree:
    """With the sample as the first axis of every array; scalars are repeated.

    The arrays are returned as they are, of any library.
    """

    def spread(leaf: ArrayLike) -> ArrayLike:
        if np.ndim(leaf) == 0:
            return jnp.broadcast_to(jnp.asarray(leaf), (count,))
        if np.shape(leaf)[0] != count:
            raise ValueError(
                "arrays in condition carry the sample as their first axis: expected "
                f"length {count}, got shape {np.shape(leaf)}. To share one condition, "
                "repeat it with jnp.broadcast_to."
            )
        return leaf

    return jax.tree.map(spread, condition)


@functools.partial(jax.jit, inline=True)
def not_negative(alpha: Array) -> Array:
    """`alpha`, and zero where it rounds below, with the derivative of `alpha`."""
    return alpha + jax.lax.stop_gradient(jnp.maximum(-alpha, 0))


def check_network(network: Any) -> Any:
    """The network, if it can be called as `network(x, c_noise)`.

    The other arguments, `condition`, `augment=` and `key=`, are passed to a network
    that takes them: see `call_network`.
    """
    cure = (
        "A network is called as network(x, c_noise, condition, augment=, key=) on one "
        "sample, as pidax.nn.MLP is, and may leave out the last three; wrap yours in "
        "an equinox.Module that is."
    )
    name = type(network).__name__
    if inspect.isclass(network):
        raise ValueError(
            f"expected a network, got the class {network.__name__}. Make one of it. "
            f"{cure}"
        )
    if not callable(network):
        raise ValueError(f"expected a network, got an object of type {name}. {cure}")
    try:
        signature = inspect.signature(network)
    except ValueError:  # not written in Python; it shows when it is called
        return network
    takes = arguments_of(network)
    positional = (None,) * (3 if "condition" in takes else 2)
    try:
        signature.bind(*positional, **dict.fromkeys(takes - {"condition"}))
    except TypeError as error:
        listed = ", ".join(signature.parameters)
        raise ValueError(
            f"expected another network, got a {name} that takes ({listed}): {error}. "
            f"{cure}"
        ) from None
    return network


def call_network(
    network: Any, x: Array, c_noise: Array, condition: PyTree, **keywords: Any
) -> Any:
    """`network(x, c_noise, condition, augment=, key=)`, of these what it takes.

    A key that it does not take is left out: it has no dropout. A condition or labels of
    an augmentation that it does not take are refused.
    """
    takes = arguments_of(network)
    for name, value in (("condition", condition), ("augment", keywords.get("augment"))):
        if value is not None and name not in takes:
            raise ValueError(
                f"the network {type(network).__name__} takes no {name}, got "
                f"{type(value).__name__}. Leave it out, or give its __call__ an "
                f"argument `{name}`."
            )
    given = {name: value for name, value in keywords.items() if name in takes}
    positional = (condition,) if "condition" in takes else ()
    return network(x, c_noise, *positional, **given)


_ARGUMENTS = frozenset({"condition", "augment", "key"})
_WRITTEN = types.FunctionType, types.MethodType, functools.partial
_found: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def arguments_of(network: Any) -> frozenset[str]:
    """Which of `condition`, `augment` and `key` a network takes, by its signature.

    Looked up once for each class of networks.
    """
    own = isinstance(network, _WRITTEN) or hasattr(network, "__wrapped__")
    if own or type(network) not in _found:
        found = _arguments(network)
        if own:
            return found
        _found[type(network)] = found
    return _found[type(network)]


def _arguments(network: Any) -> frozenset[str]:
    try:
        parameters = inspect.signature(network).parameters.values()
    except ValueError:  # not written in Python: it takes what pidax's own take
        return _ARGUMENTS
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, _EITHER)]
    named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, _EITHER)}
    any_named = any(p.kind == p.VAR_KEYWORD for p in parameters)
    any_more = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    takes = {name for name in ("augment", "key") if any_named or name in named}
    third = positional[2].name if len(positional) > 2 else None
    if any_more or third not in (None, "augment", "key"):
        takes.add("condition")
    return frozenset(takes)


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def classes_of_network(network: Any) -> Any:
    """The number of classes that a network says, and None for one of no condition."""
    if "condition" not in arguments_of(network):
        return None
    return network.classes


def one_sample(out: Array, x: Array, who: str, cure: str) -> Array:
    """`out`, if it is one array of the shape of the sample `x`."""
    shape = getattr(out, "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"{who} must return one array of the shape {x.shape} of its sample, got "
            f"{type(out).__name__ if shape is None else shape}. {cure}"
        )
    return out


def classes_of(model: Any) -> Any:
    """Its classes: a number, None, or unknown for a model that does not say.

    A wrapper of a denoiser (such as `Guided`) has the classes of this denoiser.
    """
    while model is not None:
        classes = getattr(model, "classes", _UNKNOWN)
        if classes is not _UNKNOWN:
            return classes
        model = getattr(model, "denoiser", None)
    return _UNKNOWN


def is_known(classes: Any) -> bool:
    """Whether `classes_of` found a model that says."""
    return classes is not _UNKNOWN
