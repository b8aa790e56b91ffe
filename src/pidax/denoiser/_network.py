"""How a network is called, checked when it is given and not when it is compiled."""

import inspect
from typing import Any


def check_network(network: Any, *keywords: str) -> Any:
    """The network, if it can be called as `network(x, c_noise, condition, key=)`.

    `keywords` are the names of the arguments passed by keyword.
    """
    call = ", ".join(["x, c_noise, condition", *(f"{name}=" for name in keywords)])
    cure = (
        f"A network is called as network({call}) on one sample, as pidax.nn.MLP is; "
        "wrap yours in an equinox.Module that takes these arguments."
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
    try:
        signature.bind(None, None, None, **dict.fromkeys(keywords))
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise ValueError(
            f"expected another network, got a {name} that takes ({takes}): {error}. "
            f"{cure}"
        ) from None
    return network
