"""One test session: two fake devices, strict promotion, and both precisions."""

import gc
import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
# What one test or an earlier session has compiled is not compiled again;
# `pytest --cache-clear` empties it.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).parent.parent / ".pytest_cache/d/compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

PRECISION = {"x64", "x32", "dtype"}  # the fixtures of tests that set their own
NO_ARRAYS = ("architecture", "convert", "docs", "plot", "reliability", "store")


def depends_on_precision(item):
    """Whether the session's default changes what a test does."""
    room = item.path.stem.removeprefix("test_").split("_")[0]
    return room not in NO_ARRAYS and not PRECISION & set(item.fixturenames)


def pytest_collection_modifyitems(config, items):
    """In a float64 session run what the session's default changes, once is enough."""
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    fixed = [item for item in items if not depends_on_precision(item)]
    config.hook.pytest_deselected(items=fixed)
    items[:] = [item for item in items if depends_on_precision(item)]


@pytest.fixture(autouse=True, scope="module")
def programs_are_dropped():
    """A compiled program holds some eight memory maps, of 65,530 that Linux allows.

    A process that keeps those of all modules ends in a segmentation fault.
    """
    yield
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
