"""The GPU suite without a GPU: what it refuses, and how it resumes."""

import json
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import jax
import pytest
from benchmarks.gpu import NO_GPU, __main__, parts

from pidax import _floor

ROOT = Path(__file__).parents[1]


def run_parts(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["parts.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        parts.main()
    return ended.value.code


def rows(file):
    return json.loads(file.read_text())["rows"]


def test_a_part_without_a_gpu_says_what_jax_sees(monkeypatch, tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert run_parts(monkeypatch, "peaks", file) == NO_GPU
    said = capsys.readouterr().err
    assert f"expected a GPU, got JAX's devices {jax.devices()}" in said
    assert "Install pidax[cuda], or use --dry" in said
    assert not file.exists()


class Runner:
    """Stands for the processes of the parts: notes them, and ends each in its way."""

    def __init__(self, monkeypatch, tmp_path, *words, ends=()):
        self.asked, self.ends = [], dict(ends)
        self.file = tmp_path / "gpu.json"
        monkeypatch.setattr(__main__, "STORE", tmp_path / "store")
        monkeypatch.setattr(__main__, "TARGET", self.file)
        monkeypatch.setattr(sys, "argv", ["gpu", *words])
        child = types.SimpleNamespace(wait=lambda limit: None, kill=lambda: None)
        started = lambda *_, **__: child
        end = subprocess.TimeoutExpired
        mine = types.SimpleNamespace(run=self, Popen=started, TimeoutExpired=end)
        monkeypatch.setattr(__main__, "subprocess", mine)

    def __call__(self, command, timeout, **_):
        name = command[2]
        self.asked.append(name)
        end = self.ends.get(name, 0)
        if isinstance(end, str):
            parts.Target(self.file, name, False).fail(name, end)
            return types.SimpleNamespace(returncode=1)
        if end is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return types.SimpleNamespace(returncode=end)


def test_without_a_gpu_the_suite_stops_at_once(monkeypatch, tmp_path):
    runner = Runner(monkeypatch, tmp_path, ends={"peaks": NO_GPU})
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == NO_GPU
    assert runner.asked == ["peaks"]
    assert not runner.file.exists()


def test_the_file_says_what_was_not_measured_and_why(monkeypatch, tmp_path, capsys):
    ends = {"sampling": "MemoryError: got one that takes 90 GB", "torch": None}
    runner = Runner(monkeypatch, tmp_path, "--minutes", "4.2", ends=ends)
    parts.Target(runner.file, "peaks", False).put("copy", seconds=1.0)
    __main__.main()
    found = json.loads(runner.file.read_text())
    assert [row["row"] for row in found["rows"]] == ["copy"]
    missing = found["not_measured"]
    assert missing["sampling"] == "MemoryError: got one that takes 90 GB"
    assert missing["torch"].startswith("stopped after 25")
    assert set(missing) == {"sampling", "torch"}
    assert "failed" not in found
    assert "90 GB" in capsys.readouterr().out
    runner.ends = {}
    __main__.main()  # what it says is of the last run
    assert json.loads(runner.file.read_text())["not_measured"] == {}


def test_parts_that_there_is_no_time_for_are_named(monkeypatch, tmp_path):
    runner = Runner(monkeypatch, tmp_path, "--minutes", "1.1")
    parts.Target(runner.file, "peaks", False).put("copy", seconds=1.0)
    __main__.main()
    missing = json.loads(runner.file.read_text())["not_measured"]
    assert set(missing) == {name for name, _, least in __main__.PARTS if least > 66}
    assert missing["darcy"] == "not begun: 66 s were left, it needs 90"
    assert "peaks" in runner.asked


def test_a_word_of_no_part_is_refused(monkeypatch, tmp_path):
    Runner(monkeypatch, tmp_path, "--only", "image of")
    with pytest.raises(SystemExit, match="in the name of a part, got 'image of'"):
        __main__.main()


def test_an_interrupted_part_keeps_its_rows_and_goes_on(monkeypatch, tmp_path):
    file, calls = tmp_path / "gpu.json", []

    def seconds(fn, repeats=10):
        calls.append(fn)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return float(len(calls))

    monkeypatch.setattr(parts, "seconds", seconds)
    target = parts.Target(file, "peaks", True)
    with pytest.raises(KeyboardInterrupt):
        parts.peaks(target, parts.DRY)
    before = rows(file)
    assert [row["seconds"] for row in before] == [1.0, 2.0]
    again = parts.Target(file, "peaks", True)
    parts.peaks(again, parts.DRY)
    assert rows(file)[:2] == before
    assert [row["row"] for row in rows(file)] == [
        "product bf16", "product f32 as it comes", "product f32 highest",
        "product f64", "copy",
    ]  # fmt: skip
    assert len(calls) == 6
    parts.peaks(again, parts.DRY)
    assert len(calls) == 6


def test_a_kill_while_a_row_is_written_leaves_the_others(monkeypatch, tmp_path):
    file = tmp_path / "gpu.json"
    target = parts.Target(file, "peaks", True)
    target.put("copy", seconds=1.0)

    def killed(path, text):
        with path.open("w") as opened:
            opened.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            target.put("product bf16", seconds=2.0)
    assert [row["row"] for row in rows(file)] == ["copy"]
    target.put("product bf16", seconds=2.0)
    assert [row["row"] for row in rows(file)] == ["copy", "product bf16"]


def test_a_part_that_fails_leaves_its_reason_and_the_next_part_runs(
    monkeypatch, tmp_path, capsys
):
    def full(target, sizes):
        raise MemoryError("expected a step that fits")

    made = {"smoke": full, "pmap": lambda target, sizes: target.put("one", devices=1)}
    monkeypatch.setattr(parts, "PARTS", made)
    file = tmp_path / "gpu.json"
    assert run_parts(monkeypatch, "smoke,pmap", file, "--dry") == 1
    found = json.loads(file.read_text())
    assert found["failed"] == {"smoke": "MemoryError: expected a step that fits"}
    assert [row["row"] for row in found["rows"]] == ["one"]


def test_every_part_has_its_limits():
    names = [name for name, _, _ in __main__.PARTS]
    assert sorted(names) == sorted({"torch", *parts.PARTS} - {"darcy data"})
    assert all(least <= most for _, most, least in __main__.PARTS)


def test_an_older_jax_is_named_with_the_cure():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = ".".join(map(str, _floor.FLOOR))
    assert f"jax>={least}" in project["dependencies"]
    _floor.require_jax(_floor.FLOOR)
    _floor.require_jax((1, 0, 0))
    with pytest.raises(ImportError, match=r"at least 0\.10, got 0\.9\.2.*pip install"):
        _floor.require_jax((0, 9, 2))
