"""`python -m pidax.convert info FILE`, and `convert FILE OUT.safetensors`."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .._files import quote
from ._reader import Checkpoint, metadata_of, read_checkpoint
from ._safetensors import write_safetensors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line; 1 if the file was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m pidax.convert",
        description="Other people's checkpoints, read without running them.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="say what a file holds")
    convert = commands.add_parser("convert", help="write its arrays as safetensors")
    for command in (info, convert):
        command.add_argument("file", help="an EDM pickle, a torch file or safetensors")
        command.add_argument(
            "--allow-nonfinite",
            action="store_true",
            help="read weights that are NaN or infinite too",
        )
    convert.add_argument("out", help="the safetensors file to write")
    chosen = parser.parse_args(arguments)
    try:
        checkpoint = read_checkpoint(
            chosen.file, allow_nonfinite=chosen.allow_nonfinite
        )
        if chosen.command == "convert":
            metadata = metadata_of(checkpoint)
            write_safetensors(chosen.out, checkpoint.state, metadata)
            print(f"{chosen.out}: {len(checkpoint.state)} arrays")
        else:
            print(describe(checkpoint))
    except (ValueError, OSError) as error:  # of the reader, and of the writer
        print(error, file=sys.stderr)
        return 1
    return 0


def describe(checkpoint: Checkpoint) -> str:
    """What a checkpoint holds, a line for each fact that its file states."""
    made = checkpoint.configuration
    rows: list[tuple[str, Any]] = [
        ("file", f"{checkpoint.source['file']}, {checkpoint.source['bytes']} bytes"),
        ("sha256", checkpoint.source["sha256"]),
        ("format", checkpoint.format),
    ]
    if "class_name" in made:
        rows += _network(made)
    else:
        rows.append(("network", "not said in the file: arrays only"))
    state = checkpoint.state
    kinds = Counter(array.dtype.name for array in state.values())
    numbers = sum(array.size for array in state.values())
    if checkpoint.parameters is not None:
        own = sum(state[name].size for name in checkpoint.parameters)
        rows.append(("parameters", f"{own}, and {numbers - own} numbers in buffers"))
    else:
        rows.append(("numbers", f"{numbers}, parameters and buffers"))
    listed = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    rows.append(("arrays", listed or "none"))
    return "\n".join(f"{name + ':':18}{quote(str(value))}" for name, value in rows)


def _network(made: dict[str, Any]) -> list[tuple[str, Any]]:
    """The facts in an EDM pickle's configuration; absent ones are left out."""
    kwargs = _dict(made.get("init_kwargs"))
    inner = _dict(_dict(made.get("modules")).get("model"))
    classes = kwargs.get("label_dim")
    data = _dict(made.get("dataset_kwargs"))
    rows = [
        ("network", f"{made['class_name']} of {inner.get('class_name', 'no module')}"),
        ("resolution", kwargs.get("img_resolution")),
        ("channels", kwargs.get("img_channels")),
        ("classes", "none" if classes == 0 else classes),
        ("training data", data.get("path")),
        ("read as", data.get("class_name")),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
