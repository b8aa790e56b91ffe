"""One test session: two fake devices, strict promotion, and both precisions."""

import gc
import os
import shutil
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

# Compiling takes most of a session, and a test runs its programs a few times only: few
# optimisations and XLA's older emitters halve the session. Set both variables for what
# users run. XLA ends the process at a flag that it does not know.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
# What one test of this session has compiled its others, on either process, need not:
# in a directory of the session's own, so that no earlier one can hide a failure.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp("-of-pidax")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

PRECISION = {"x64", "x32", "dtype"}  # the fixtures of tests that set their own
NO_ARRAYS = (
    "architecture", "bench", "convert", "docs", "gpu", "plot", "reliability", "store"
)  # fmt: skip


def depends_on_precision(item):
    """Whether the session's default changes what a test does."""
    room = item.path.stem.removeprefix("test_").split("_")[0]
    return room not in NO_ARRAYS and not PRECISION & set(item.fixturenames)


def pytest_unconfigure(config):
    directory = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if directory.endswith("-of-pidax") and not hasattr(config, "workerinput"):
        shutil.rmtree(directory, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """In a float64 session run what the session's default changes, once is enough."""
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    fixed = [item for item in items if not depends_on_precision(item)]
    config.hook.pytest_deselected(items=fixed)
    items[:] = [item for item in items if depends_on_precision(item)]


BUDGET = 8  # seconds of a file, as CI's machine runs it
seconds: Counter[str] = Counter()


def pytest_runtest_logreport(report):
    seconds[report.nodeid.split("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter):
    """The ten slowest files, and which are over their budget."""
    terminalreporter.section("the slowest files")
    for file, spent in seconds.most_common(10):
        over = f"  over the budget of {BUDGET} s" if spent > BUDGET else ""
        terminalreporter.line(f"{spent:7.1f} s  {file}{over}")


def nearly_out_of_memory_maps() -> bool:
    """A compiled program holds some eight of the 65,530 that Linux allows a process.

    A process that comes to the limit ends in a segmentation fault.
    """
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps) > 0.6 * limit
    except OSError:  # not Linux
        return False


@pytest.fixture(autouse=True, scope="module")
def programs_are_dropped():
    """Only where they must be: the next module may call the same ones."""
    yield
    if nearly_out_of_memory_maps():
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Float64 inside this test, whatever the session's default."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def x32():
    """Float32 inside this test, whatever the session's default."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def dtype(request):
    """Run the test in float32 and in float64; the value is the NumPy dtype."""
    with jax.enable_x64(request.param):
        yield jax.numpy.zeros(()).dtype


@pytest.fixture
def key():
    return jax.random.key(20220601)
