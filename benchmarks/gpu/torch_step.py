"""The PID step of the image network in PyTorch, compiled, beside ours of parts.py.

Without PyTorch it says so and measures nothing.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDE: dict[str, Any] = dict(width=128, multipliers=(2, 2, 2), blocks=4)
SMALL: dict[str, Any] = dict(
    width=8, multipliers=(1,), blocks=1, attention=0, resolution=4
)


def main():
    path, dry = Path(sys.argv[2]), "--dry" in sys.argv
    try:
        import torch  # type: ignore[import]

        from benchmarks.train import _torch_step
    except ImportError:
        print("torch is not installed: its rows are not measured")
        return
    device = "cpu" if dry else "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    cases = [(128, False), (128, True), (512, True)] if not dry else [(2, False)]
    for batch, compiled in cases:
        found = json.loads(path.read_text()) if path.exists() else {}
        row = f"batch {batch}{', compiled' * compiled}"
        rows = found.get("rows", [])
        if any((r["part"], r["row"]) == ("torch", row) for r in rows):
            continue
        sizes = _torch_step.Sizes(batch=batch, **(SMALL if dry else WIDE))
        start = time.perf_counter()
        try:
            step = _torch_step.Step(sizes, device=device, low=True, compiled=compiled)
            for _ in range(3):
                step()
            wait()
        except RuntimeError as error:  # out of memory: said, and the next size tried
            new = {"error": str(error).splitlines()[0]}
        else:
            first = time.perf_counter() - start
            seconds, loss = [], float("nan")
            for _ in range(3):
                begun = time.perf_counter()
                for _ in range(5):
                    loss = step()
                wait()
                seconds.append((time.perf_counter() - begun) / 5)
            took = float(np.median(seconds))
            new = {
                "torch": torch.__version__,
                "precision": "bf16 by autocast, channels last, RAdam foreach",
                "compiled": compiled,
                "seconds": took,
                "images_per_second": batch / took,
                "three_steps_with_compiling": first,
                "peak_memory": None if dry else torch.cuda.max_memory_allocated(),
                "parameters": step.parameters,
                "loss": float(loss),
            }
            del step
        if not dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        name = "cpu" if dry else torch.cuda.get_device_name()
        new = {"part": "torch", "row": row, "device": name, **new}
        print(new, flush=True)
        path.write_text(json.dumps({**found, "rows": [*rows, new]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
