"""Importing pidax pulls in no torch, matplotlib or Optax, and is quick.

Under 0.3 CPU seconds beyond what it stands on; beside other work the same takes longer,
so that the least of six counts.
"""

import subprocess
import sys

IMPORT = """
import sys, time
import jax, equinox, diffrax
start = time.process_time()
import pidax
print(time.process_time() - start)
print(*sorted(m for m in ("torch", "matplotlib", "optax") if m in sys.modules))
"""

spent = [float("inf")]
while min(spent) >= 0.3 and len(spent) <= 6:
    run = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    seconds, pulled = run.stdout.split("\n")[:2]
    if pulled:
        sys.exit(f"importing pidax must not import {pulled}: import it on use")
    spent.append(float(seconds))
if min(spent) >= 0.3:
    sys.exit(f"importing pidax must take under 0.3 CPU seconds, got {min(spent)}")
print(f"{min(spent):.2f} CPU seconds beyond what it stands on")
