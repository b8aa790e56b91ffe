"""Importing pidax imports no package and no room that most programs never use."""

import subprocess
import sys

HEAVY = ("torch", "exponax", "matplotlib", "optax", "scipy.stats", "scipy.interpolate")
ROOMS = (
    "pidax.pde",
    "pidax.constraint",
    "pidax.convert",
    "pidax.inference",
    "pidax.solver",
)
IMPORT = f"""
import sys
import jax, equinox, diffrax
before = set(sys.modules)
import pidax
print(*(name for name in {HEAVY + ROOMS} if name in set(sys.modules) - before))
"""

run = subprocess.run(
    [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
)
if pulled := run.stdout.split():
    sys.exit(f"importing pidax must not import {', '.join(pulled)}: import it on use")
print("import pidax: nothing that is only needed later")
