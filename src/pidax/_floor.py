"""The oldest JAX that pidax works with, which is checked before anything is imported.

Where packages are installed without their requirements, as on machines without network
access, nobody else checks it.
"""

import jax as _jax

FLOOR = (0, 10)  # of pyproject.toml


def require_jax(version: tuple[int, ...]) -> None:
    """Raise if this version of JAX is older."""
    if version[:2] < FLOOR:
        got, least = (".".join(map(str, v)) for v in (version, FLOOR))
        raise ImportError(
            f"pidax needs jax of at least {least}, got {got}. Install a newer one: "
            f"pip install --upgrade 'jax>={least}', and 'jax[cuda12]>={least}' for a "
            "GPU."
        )


require_jax(_jax.__version_info__)
