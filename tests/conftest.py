"""What every test needs before jax is imported, and which tests this machine cannot run."""

import hashlib
import importlib.util
import os
import pathlib
import re
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def compilation_cache() -> pathlib.Path:
    """A folder for compiled programs, one for each kind of processor: they hold its machine code."""
    information = pathlib.Path("/proc/cpuinfo")
    flags = re.search(r"^flags.*$", information.read_text(), re.MULTILINE) if information.exists() else None
    return ROOT / ".cache" / "jax" / hashlib.sha256((flags[0] if flags else "").encode()).hexdigest()[:12]


# Tests spend their time compiling tiny programs: do not optimise them, and compile each once for all workers.
# Eight devices for the tests of sharding. What the caller sets wins, being last.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{FAST_COMPILATION} {DEVICES} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compilation_cache()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # tensorflow reads audio and text here, and must not take a GPU's memory
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CAPABILITIES = {
    "flite": (shutil.which("flite"), "apt-get install flite"),
    "t5x": (importlib.util.find_spec("t5x"), "put a checkout of google-research/t5x on PYTHONPATH"),
    "torch": (importlib.util.find_spec("transformers"), "pip install -e '.[parity]'"),
    "tpu_aot": (importlib.util.find_spec("libtpu"), "pip install -e '.[tpu_aot]'"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked with a capability that is not here is skipped, with how to get the capability as the reason."""
    missing = {
        marker: pytest.mark.skip(reason=f"{marker} is not installed: {how}")
        for marker, (found, how) in CAPABILITIES.items()
        if found is None
    }
    for item in items:
        for marker, skip in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)
