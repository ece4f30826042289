"""`python -m slm_jax.doctor`: what this machine has, what it lacks, and how to get it. Paste its output in a report."""

import dataclasses
import enum
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

import jax
import rich.console
import rich.markup
import rich.table

import slm_jax
from slm_jax.resources import gin_folder, lock_file

CORE = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "gin-config",
    "tensorflow", "tensorflow-text", "tensorflow-datasets", "numpy",
)  # fmt: skip
SUPPORTED_PYTHON = ((3, 11), (3, 13))
GIB = 2**30


class Status(enum.Enum):
    """How a line of the report is meant."""

    OK = "ok"
    OPTIONAL = "not installed"
    WARNING = "look here"


STYLES = {Status.OK: "green", Status.OPTIONAL: "dim", Status.WARNING: "bold yellow"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
      name: what was looked at.
      value: what was found.
      status: whether that is fine.
      advice: what it is good for, or what to do about it.
    """

    name: str
    value: str
    status: Status = Status.OK
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Optional:
    """A part that slm_jax runs without.

    Attributes:
      modules: all of these make it available, with `commands`.
      purpose: what it is for.
      how: how to get it.
      commands: programs that have to be found.
    """

    modules: tuple[str, ...]
    purpose: str
    how: str
    commands: tuple[str, ...] = ()


OPTIONAL = {
    "voices": Optional(("py_nanotts", "hibari"), "speech of the quickstart", "pip install 'slm_jax[voices]'"),
    "flite": Optional((), "more voices, for spoken_scenes/full", "apt-get install flite", commands=("flite",)),
    "plots": Optional(("matplotlib",), "pictures of a run", "pip install 'slm_jax[plots]'"),
    "tests": Optional(("pytest", "xdist", "beartype", "mypy"), "make test", "pip install 'slm_jax[test]'"),
    "torch": Optional(("torch", "transformers"), "parity tests, torch checkpoints", "pip install 'slm_jax[parity]'"),
    "libtpu": Optional(("libtpu",), "compiling for TPUs without one", "pip install 'slm_jax[tpu_aot]'"),
    "t5x": Optional(("t5x",), "python -m t5x.train", "put a checkout of google-research/t5x on PYTHONPATH"),
}


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_versions() -> Iterator[Finding]:
    """Python and the packages that results depend on."""
    low, high = SUPPORTED_PYTHON
    supported = low <= sys.version_info[:2] < high
    advice = "" if supported else f"slm_jax needs Python {low[0]}.{low[1]} or newer, below {high[0]}.{high[1]}"
    yield Finding("slm_jax", slm_jax.__version__, advice=str(pathlib.Path(slm_jax.__file__).parent))
    yield Finding("python", platform.python_version(), Status.OK if supported else Status.WARNING, advice)
    for name in CORE:
        version = installed_version(name)
        if version is None:
            yield Finding(name, "missing", Status.WARNING, "make env, or pip install slm_jax again")
        else:
            yield Finding(name, version)


def read_pins(path: pathlib.Path) -> dict[str, str]:
    """Package to version, of a file of `name==version` lines.

    Raises:
      ValueError: a line is neither a pin nor a comment.
    """
    pins = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        requirement = line.partition("#")[0].partition(";")[0].strip()
        if not requirement:
            continue
        name, separator, version = requirement.partition("==")
        if not separator:
            raise ValueError(f"{path}:{number}: expected name==version, found {requirement!r}")
        pins[name.strip()] = version.strip()
    return pins


def check_lock(path: pathlib.Path | None) -> Finding:
    """Whether the versions that were tested together are the ones installed."""
    if path is None:
        return Finding("lock file", "none", advice="only a checkout has one")
    pins = read_pins(path)
    different = [
        f"{name} {installed_version(name) or 'missing'} (pinned {version})"
        for name, version in pins.items()
        if installed_version(name) != version
    ]
    if not different:
        return Finding("lock file", f"all {len(pins)} versions match")
    shown = ", ".join(different[:4]) + (f" and {len(different) - 4} more" if len(different) > 4 else "")
    return Finding("lock file", f"{len(different)} of {len(pins)} differ", Status.WARNING, f"make env; {shown}")


def unused_accelerator(platform_name: str) -> str:
    """What to do where the machine has an accelerator that jax does not use; empty if there is none."""
    if platform_name != "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return ""
    if pathlib.Path("/dev/nvidia0").exists():
        return "an NVIDIA GPU is here but jax runs on the CPU: pip install 'slm_jax[gpu]'"
    if pathlib.Path("/dev/accel0").exists() or any(pathlib.Path("/dev").glob("vfio/[0-9]*")):
        return "a TPU seems to be here but jax runs on the CPU: pip install 'slm_jax[tpu]'"
    return ""


def check_devices() -> Iterator[Finding]:
    """What jax computes on, and the memory of devices that tell."""
    devices = jax.devices()
    advice = unused_accelerator(devices[0].platform)
    value = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    yield Finding("devices", value, Status.WARNING if advice else Status.OK, advice)
    if jax.process_count() > 1:
        yield Finding("hosts", f"{jax.process_count()}, this is number {jax.process_index()}")
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        yield Finding("device memory", f"{limit / GIB:.1f} GiB each")


def check_machine() -> Iterator[Finding]:
    """Processor cores this process may use, memory and disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", str(cores))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Finding("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.1f} GiB")
    yield Finding("free disk", f"{shutil.disk_usage('.').free / GIB:.0f} GiB", advice="where this command was run")
    yield Finding("gin files", str(gin_folder()), advice="searched after --gin_search_paths")


def check_optional() -> Iterator[Finding]:
    """Parts that slm_jax runs without."""
    for name, part in OPTIONAL.items():
        missing = [module for module in part.modules if find_spec(module) is None]
        missing += [command for command in part.commands if shutil.which(command) is None]
        if missing:
            yield Finding(name, "not installed", Status.OPTIONAL, f"{part.purpose}: {part.how}")
        else:
            yield Finding(name, "installed", advice=part.purpose)


def examine() -> dict[str, list[Finding]]:
    """All findings, by the heading they are shown under."""
    return {
        "Versions": [*check_versions(), check_lock(lock_file())],
        "Machine": [*check_devices(), *check_machine()],
        "Optional": list(check_optional()),
    }


def render(findings: dict[str, list[Finding]]) -> rich.table.Table:
    """One table, a section for each heading."""
    table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "found", "note"):
        table.add_column(heading, overflow="fold")
    for section, lines in findings.items():
        table.add_row(f"[bold]{section}[/bold]")
        for line in lines:
            value = rich.markup.escape(line.value)
            style = STYLES[line.status]
            table.add_row(f"  {line.name}", f"[{style}]{value}[/{style}]", rich.markup.escape(line.advice))
        table.add_section()
    return table


def main() -> None:
    """Prints the report."""
    findings = examine()
    console = rich.console.Console()
    console.print(render(findings))
    warnings = [line for lines in findings.values() for line in lines if line.status is Status.WARNING]
    if warnings:
        names = ", ".join(line.name for line in warnings)
        console.print(f"\nLook at: [bold yellow]{names}[/bold yellow].")
    else:
        console.print("\n[green]Everything slm_jax needs is here.[/green]")


if __name__ == "__main__":
    main()
