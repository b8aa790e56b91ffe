"""The names a file may hold: of classes, functions and dtypes already loaded.

A name is looked up, never imported, and only in the modules listed here.
"""

import inspect
import sys
from typing import Any

import equinox as eqx
import jax.numpy as jnp

# Where names may come from; a dot at the end includes the modules inside.
CLASSES = ("pidax.", "equinox.nn.", "diffrax.")
FUNCTIONS = ("jax.nn", "jax.numpy", "jax.lax", "jax", "pidax.")
_FILE_FUNCTIONS = ("load", "save", "savez")  # of those modules, and not of arrays
# Equinox's default for the last activation is a function without a name of its own.
_IDENTITY = inspect.signature(eqx.nn.MLP).parameters["final_activation"].default
NAMELESS = {"equinox.nn:MLP(final_activation)": _IDENTITY}
_JAX_TYPES = [t for t in vars(jnp).values() if isinstance(t, type(jnp.float32))]
DTYPES = {t.dtype.name: t.dtype.newbyteorder("<") for t in _JAX_TYPES}
TYPES = {  # the three forms in which a field may hold a dtype
    "jax": {t.dtype.name: t for t in _JAX_TYPES},
    "numpy": {name: dtype.type for name, dtype in DTYPES.items()},
    "dtype": DTYPES,
}


def public_name(value: Any, homes: tuple[str, ...]) -> str | None:
    """The shortest `module:name` at which `value` is found in one of the homes."""
    parts = str(getattr(value, "__module__", "")).split(".")
    modules = [home for home in homes if not home.endswith(".")]
    modules += [".".join(parts[: i + 1]) for i in range(len(parts))]
    names = [f"{module}:{getattr(value, '__name__', '')}" for module in modules]
    return next((name for name in names if find(name, homes) is value), None)


def find(name: str, homes: tuple[str, ...]) -> Any:
    """What `module:name` is, or None: nothing is imported and no hook is run."""
    module, _, member = name.partition(":")
    inside = [(module + ".").startswith(h) for h in homes if h.endswith(".")]
    if not (module in homes or any(inside)) or module not in sys.modules:
        return None
    value = vars(sys.modules[module]).get(member)
    # A module also holds what it imports, `os` for one: only its own package counts.
    owner = str(getattr(value, "__module__", ""))
    return value if owner.split(".")[0] == module.split(".")[0] else None


def is_function(value: Any) -> bool:
    """A public function, and not one of the few that read and write files."""
    name = str(getattr(value, "__name__", "_"))
    public = not name.startswith("_") and name not in _FILE_FUNCTIONS
    return public and callable(value) and not isinstance(value, type | eqx.Module)
