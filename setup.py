"""Packaging: slm_jax, with tasks/ installed as slm_jax.tasks and gin/ as the data of slm_jax.gin."""

import pathlib
import re

from setuptools import find_namespace_packages, find_packages, setup

ROOT = pathlib.Path(__file__).parent

INSTALL_REQUIRES = [
    "absl-py>=2.3,<3",
    "clu>=0.0.12,<0.1",
    "flax>=0.12.8,<0.13",
    "gin-config>=0.5,<0.6",
    "jax>=0.10.2,<0.11",
    "jaxtyping>=0.3.2,<0.4",
    "jiwer>=4,<5",
    "numpy>=2.1,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "rapidfuzz>=3.14,<4",
    "rich>=14,<16",
    "sacrebleu>=2.5,<3",
    "safetensors>=0.6,<0.9",
    "scipy>=1.15,<2",
    "sentencepiece>=0.2.1,<0.3",
    "seqio>=0.0.20,<0.1",
    "soundfile>=0.13,<0.15",
    "soxr>=1,<2",
    "tensorboard>=2.20,<2.22",
    # seqio leaves both unbounded; tensorflow-text must be of the same minor version as tensorflow.
    "tensorflow>=2.21,<2.22",
    "tensorflow-text>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10,<5",
    "tokenizers>=0.22,<0.24",
]

QUICKSTART = ["hibari-tts>=0.2.1,<0.3", "matplotlib>=3.10,<4", "py-nanotts>=0.1.1,<0.2"]

EXTRAS_REQUIRE = {
    # Voices that speak the quickstart's corpus (both ship their voices inside the package), and its picture.
    "quickstart": QUICKSTART,
    "voices": [name for name in QUICKSTART if "tts" in name],
    "plots": [name for name in QUICKSTART if "matplotlib" in name],
    # `seqio_cache_tasks`. Needs older versions than the lock file has of some packages: an environment of its own.
    "cache": ["apache-beam[tfrecord]>=2.72,<3", "sentencepiece>=0.2.1,<0.2.2"],
    # Reference implementations, only for tests marked `torch` and for converting torch checkpoints.
    "parity": ["torch>=2.8,<3", "transformers>=4.56,<6"],
    # Run on GPUs and TPUs; compile for a TPU topology on a machine without one.
    "gpu": ["jax[cuda13]>=0.10.2,<0.11"],
    "tpu": ["jax[tpu]>=0.10.2,<0.11"],
    "tpu_aot": ["libtpu>=0.0.42,<0.0.43"],
    "test": [
        "beartype>=0.22,<0.24",
        "mypy>=2.4,<3",
        "pre-commit>=4.3,<5",
        "pytest>=9,<10",
        "pytest-xdist>=3.8,<4",
        "ruff>=0.17,<0.18",
    ],
}


def read_version() -> str:
    """The one place a version is written: slm_jax/__init__.py."""
    source = (ROOT / "slm_jax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('slm_jax/__init__.py must hold a line __version__ = "..."')
    return match[1]


def installed_as(name: str, folder: str, packages: list[str]) -> list[str]:
    """`folder` at the root and the packages below it, by the name they are installed under."""
    return [name, *(f"{name}.{package}" for package in packages)]


def read_readme() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# Folders of gin files hold no __init__.py, so they are namespace packages that carry data only.
GIN_PACKAGES = installed_as("slm_jax.gin", "gin", find_namespace_packages("gin"))
TASK_PACKAGES = installed_as("slm_jax.tasks", "tasks", find_packages("tasks"))

setup(
    name="slm_jax",
    version=read_version(),
    description="Speech and language models in JAX: a frozen speech encoder, a trained adapter, a frozen LM",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="The slm_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    package_dir={"slm_jax": "slm_jax", "slm_jax.tasks": "tasks", "slm_jax.gin": "gin"},
    packages=[*find_packages(include=["slm_jax", "slm_jax.*"]), *TASK_PACKAGES, *GIN_PACKAGES],
    package_data={"slm_jax": ["py.typed", "foundation/**/*", "bundles/**/*"], **{p: ["*.gin"] for p in GIN_PACKAGES}},
    include_package_data=False,
    zip_safe=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
