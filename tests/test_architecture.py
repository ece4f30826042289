"""The rules of the house that a program can check: who imports whom, sizes, docstrings, words."""

import ast
import dataclasses
import pathlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
MEDIAN_FUNCTION_LINES = 15
P90_FUNCTION_LINES = 45

MAINS = (
    "train",
    "eval",
    "infer",
    "answers",
    "cache_features",
    "claims",
    "convert",
    "precompile",
    "launch",
    "doctor",
    "gin_utils",
)
# What several mains share: they compose components, and are handed models.
APPLICATIONS = ("cascade", "evaluation", "inference", "report")
ANYTHING = None
# Component -> the parts of slm_jax it may import; `a.b` allows that module only. Its own part and typing always.
MAY_IMPORT: dict[str, tuple[str, ...] | None] = {
    "__init__": ("models", "resources"),
    "typing": (),
    "resources": (),
    "cloud_tpu": (),
    "audio": (),
    "layers": (),
    "trees": (),
    "models": ("layers", "audio", "trees"),
    "pretraining": ("models", "layers", "audio", "trees", "training.objective"),
    "weights": ("models", "layers", "audio", "trees"),
    "decoding": ("models", "layers", "trees"),
    "data": ("audio",),
    "training": ("models.interfaces", "trees", "weights"),
    "aot": ("models.interfaces", "training", "trees"),
    **dict.fromkeys(APPLICATIONS, ("models.interfaces", "decoding", "data", "training", "trees", *APPLICATIONS)),
    "t5x_bridge": ("models.interfaces", "decoding", "data", "training", "trees", "evaluation"),
    "tasks": ("data", "audio"),
    **dict.fromkeys(MAINS, ANYTHING),
}
# External package -> the only components that may import it anywhere.
ONLY_IN = {
    "gin": (*MAINS, "t5x_bridge"),  # which is configured by T5X's mains
    "t5x": ("t5x_bridge",),
    "seqio": ("data", "tasks", "t5x_bridge"),
    "tensorflow": ("data", "tasks"),
    "tensorflow_datasets": ("data", "tasks"),
    "tensorflow_text": ("data", "tasks"),
    "torch": ("weights", "convert"),
    "transformers": ("weights", "convert"),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
    "importlib": ("__init__", "doctor"),
}
NEVER_AT_MODULE_LEVEL = ("torch", "transformers")
WITHOUT = {"audio": ("flax", "optax", "orbax")}
LEFTOVERS = re.compile(
    r"\b(TODO|FIXME|XXX)\b|\b(?:this|an?|the|next|previous|later) (?:AI |coding )?(?:agent|session)s?\b"
)
OWN_PATHS = re.compile(r"/(?:work|root)/\w")


@dataclasses.dataclass(frozen=True)
class Source:
    """A Python file, parsed once.

    Attributes:
      path: relative to the repository.
      module: dotted, as installed.
      component: the part of slm_jax it belongs to: its first folder, or its own name at the top.
    """

    path: pathlib.Path
    module: str
    component: str
    text: str
    tree: ast.Module

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def read_source(path: pathlib.Path) -> Source:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    parts = ("slm_jax", *parts) if parts[0] == "tasks" else parts
    component = parts[1] if len(parts) > 1 else parts[0]
    module = ".".join(part for part in parts if part != "__init__")
    text = path.read_text(encoding="utf-8")
    return Source(relative, module, component, text, ast.parse(text, str(relative)))


def read_folder(folder: str) -> list[Source]:
    return [read_source(path) for path in sorted((ROOT / folder).rglob("*.py"))]


PACKAGE = read_folder("slm_jax") + read_folder("tasks")
TESTS = read_folder("tests")
EVERYTHING = PACKAGE + TESTS + read_folder("benchmarks") + [read_source(ROOT / "setup.py")]


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Dotted names an import statement brings in: `from a.b import c` gives a.b.c, which may be a module or a name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
        origin = ".".join(part for part in (base, node.module) if part)
        return [f"{origin}.{alias.name}" for alias in node.names]
    return []


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, those under TYPE_CHECKING and in functions too."""
    package = source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        for name in imported_names(node, package):
            yield node.lineno, name


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_imports_are_read_from_every_form_of_statement():
    tree = ast.parse("import a.b\nfrom c.d import e, f\nfrom . import g\nfrom .h import i\nfrom ..j import k\n")
    names = [name for node in tree.body for name in imported_names(node, "p.q")]
    assert names == ["a.b", "c.d.e", "c.d.f", "p.q.g", "p.q.h.i", "p.j.k"]


def test_every_component_has_an_import_rule():
    report([f"{s.path}: add {s.component!r} to MAY_IMPORT" for s in PACKAGE if s.component not in MAY_IMPORT])


def test_components_import_only_what_they_may():
    problems = []
    for source in PACKAGE:
        allowed = MAY_IMPORT.get(source.component, ())
        for line, name in imports(source):
            if allowed is ANYTHING or not name.startswith("slm_jax.") or name == "slm_jax.__version__":
                continue
            part = name.removeprefix("slm_jax.")
            if not any(is_within(part, prefix) for prefix in (*allowed, "typing", source.component)):
                problems.append(f"{source.path}:{line}: {source.component} may not import slm_jax.{part}")
    report(problems)


def test_training_reaches_no_concrete_model_by_any_route():
    imported = {source.module: [name for _, name in imports(source)] for source in PACKAGE}
    reached, waiting = set(), [module for module in imported if is_within(module, "slm_jax.training")]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        targets = {m for name in imported[module] for m in (name, name.rpartition(".")[0]) if m in imported}
        waiting += sorted(targets - reached - {"slm_jax"})
    concrete = {m for m in reached if is_within(m, "slm_jax.models")} - {"slm_jax.models", "slm_jax.models.interfaces"}
    report([f"training reaches {module}: let gin inject it" for module in sorted(concrete)])


def test_external_packages_stay_where_they_belong():
    problems = []
    for source in PACKAGE:
        for line, name in imports(source):
            top = name.partition(".")[0]
            if name.startswith(("importlib.resources", "importlib.metadata")):
                continue
            if source.component not in ONLY_IN.get(top, (source.component,)):
                problems.append(f"{source.path}:{line}: {top} is for {ONLY_IN[top] or 'nobody'}")
            if top in WITHOUT.get(source.component, ()):
                problems.append(f"{source.path}:{line}: {source.component} does without {top}")
    report(problems)


def test_tasks_is_never_imported_as_a_top_level_package():
    problems = [f"{s.path}:{n}: write slm_jax.{m}" for s in EVERYTHING for n, m in imports(s) if is_within(m, "tasks")]
    pattern = re.compile(r"^\s*(?:import|from) tasks\b", re.MULTILINE)
    problems += [str(p.relative_to(ROOT)) for p in (ROOT / "gin").rglob("*.gin") if pattern.search(p.read_text())]
    report(problems)


def test_torch_is_never_imported_at_module_level():
    problems = []
    for source in EVERYTHING:
        for node in source.tree.body:
            for name in imported_names(node, source.module):
                if name.partition(".")[0] in NEVER_AT_MODULE_LEVEL:
                    problems.append(f"{source.path}:{node.lineno}: import {name} inside the function that needs it")
    report(problems)


IMPORT_WITHOUT = """
import pkgutil, sys
banned = {banned!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ImportError(f"{{name}} is not needed here")
sys.meta_path.insert(0, Refuse())
import importlib
for part in {parts!r}:
    module = importlib.import_module("slm_jax." + part)
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + "."):
        importlib.import_module(info.name)
"""


def import_without(banned: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Imports all modules of `parts` in a fresh Python where importing a banned package fails."""
    code = IMPORT_WITHOUT.format(banned=banned, parts=parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_models_need_only_jax_and_flax():
    banned = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "gin", "clu", "torch", "transformers")
    import_without((*banned, "sentencepiece", "soundfile", "soxr", "tensorboard"), ("audio", "layers", "models"))


def test_the_package_itself_imports_nothing_heavy():
    import_without(("jax", "flax", "numpy", "tensorflow", "seqio", "gin"), ("resources",))


@pytest.mark.parametrize("source", EVERYTHING, ids=lambda source: str(source.path))
def test_files_and_functions_stay_small(source: Source):
    lines = source.text.count("\n")
    problems = [f"{source.path}: {lines} lines, at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []
    for function in source.functions():
        length = function.end_lineno - function.lineno + 1
        if length > MAX_FUNCTION_LINES:
            problems.append(f"{source.path}:{function.lineno}: {function.name} has {length} lines")
    report(problems)


def test_functions_are_short_on_the_whole():
    lengths = sorted(f.end_lineno - f.lineno + 1 for source in PACKAGE for f in source.functions())
    assert statistics.median(lengths) <= MEDIAN_FUNCTION_LINES
    assert lengths[int(0.9 * len(lengths))] <= P90_FUNCTION_LINES


def test_public_names_have_docstrings():
    problems = []
    for source in PACKAGE:
        if source.text.strip() and not ast.get_docstring(source.tree):
            problems.append(f"{source.path}: the file says nothing about itself")
        for node in source.tree.body:
            is_named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if is_named and not node.name.startswith("_") and not ast.get_docstring(node):
                problems.append(f"{source.path}:{node.lineno}: {node.name} has no docstring")
    report(problems)


def test_nothing_unfinished_and_no_private_places_in_the_text():
    this_file = pathlib.Path(__file__).resolve()
    texts = [*(s.path for s in EVERYTHING), *(p.relative_to(ROOT) for p in ROOT.glob("*.md"))]
    texts += [p.relative_to(ROOT) for folder in ("docs", "gin") for p in (ROOT / folder).rglob("*.[mg][di]*")]
    problems = []
    for path in texts:
        if ROOT / path == this_file:
            continue
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if LEFTOVERS.search(line) or OWN_PATHS.search(line):
                problems.append(f"{path}:{number}: {line.strip()}")
    report(problems)


def test_gin_folders_hold_no_python():
    report([f"{p.relative_to(ROOT)}: would shadow gin-config" for p in (ROOT / "gin").rglob("*.py")])
