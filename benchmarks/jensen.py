"""Jensen's gap against the noise level, as examples/jensen_gap.py computes it.

    python benchmarks/jensen.py

writes benchmarks/results/jensen.json: sizes relative to the source, root mean square
over points and draws, and what each law of samples is worth. Float64, one seed.
"""

import importlib.util
from pathlib import Path

import jax
import record

EXAMPLE = Path(__file__).parent.parent / "examples/jensen_gap.py"


def example():
    spec = importlib.util.spec_from_file_location("jensen_gap", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    gap = example()
    with jax.enable_x64(True):
        on, _ = gap.circle(jax.random.key(0))
        zero = gap.poisson(jax.random.key(1))
        sizes, effective, off = gap.darcy(jax.random.key(2))
        jumps = gap.two_materials(jax.random.key(3))
    known = lambda value: None if value != value else float(value)
    rows = []
    for i, noise in enumerate(gap.LEVELS):
        sets = zip(gap.SETS, sizes[1:, i], effective[1:, i], strict=True)
        row = {"noise": float(noise), "circle": known(on[i]), "Poisson": known(zero[i])}
        row |= {"Darcy, smooth": known(sizes[0, i]), "worth": known(effective[0, i])}
        row |= {"Darcy, 12 or 3": known(jumps[i])}
        for count, size, worth in sets:
            row[f"{count} samples"] = known(size)
            row[f"worth of {count}"] = known(worth)
        rows.append(row)
    columns = ["circle", "Poisson", "Darcy, smooth", "Darcy, 12 or 3", "4000 samples"]
    columns.append("worth of 4000")
    settings = {"dtype": "float64", "seeds": [0], "draws": gap.DRAWS}
    settings |= {"points": list(gap.GRID.shape), "off": float(off)}
    record.save("jensen", {**settings, "columns": columns, "rows": rows})


if __name__ == "__main__":
    main()
