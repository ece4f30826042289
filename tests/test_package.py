"""What an installed slm_jax holds, from a checkout (editable) and from a wheel."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import slm_jax
from slm_jax.resources import gin_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRINT_PLACES = """
import pathlib, gin, slm_jax, slm_jax.tasks, slm_jax.resources
print(pathlib.Path(gin.__file__).parent)
print(pathlib.Path(slm_jax.tasks.__file__).parent)
print(slm_jax.resources.gin_folder())
"""


def places(cwd: pathlib.Path, **environment: str) -> list[pathlib.Path]:
    """Folders of gin-config, of slm_jax.tasks and of our gin files, as a Python started in `cwd` sees them."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT_PLACES], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [pathlib.Path(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Unpacked wheel, built from a copy so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("slm_jax", "tasks", "gin"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = target.glob("*.whl")
    with zipfile.ZipFile(archive) as files:
        files.extractall(target / "unpacked")
    return target / "unpacked"


def relative_files(folder: pathlib.Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


def test_wheel_holds_all_modules_tasks_and_gin_files(wheel: pathlib.Path):
    modules = relative_files(wheel / "slm_jax", "*.py") - {f"tasks/{n}" for n in relative_files(ROOT / "tasks", "*.py")}
    assert modules == relative_files(ROOT / "slm_jax", "*.py")
    assert relative_files(wheel / "slm_jax" / "tasks", "*.py") == relative_files(ROOT / "tasks", "*.py")
    assert relative_files(wheel / "slm_jax" / "gin", "*.gin") == relative_files(ROOT / "gin", "*.gin")
    assert (wheel / "slm_jax" / "py.typed").exists()
    assert not {path.name for path in wheel.iterdir()} & {"gin", "tasks", "tests"}, "only slm_jax goes to site-packages"


@pytest.mark.parametrize("folder", ["foundation", "bundles"])
def test_wheel_holds_the_weights_that_ship(wheel: pathlib.Path, folder: str):
    installed, checkout = wheel / "slm_jax" / folder, ROOT / "slm_jax" / folder
    kept = {name for name in relative_files(checkout, "*.*") if "__pycache__" not in name}
    assert kept and kept <= relative_files(installed, "*.*")


def test_places_in_a_wheel(wheel: pathlib.Path, tmp_path: pathlib.Path):
    config, tasks, files = places(tmp_path, PYTHONPATH=str(wheel))
    assert config.name == "gin" and config != files
    assert tasks == wheel / "slm_jax" / "tasks"
    assert files == wheel / "slm_jax" / "gin"


@pytest.mark.parametrize("where", ["at_the_root", "elsewhere"])
def test_places_in_a_checkout(where: str, tmp_path: pathlib.Path):
    """With the root as the current folder, its gin/ must not hide gin-config: `python -m` puts it first on the path."""
    config, tasks, files = places(ROOT if where == "at_the_root" else tmp_path)
    assert config != ROOT / "gin" and (config / "config.py").exists()
    assert tasks == ROOT / "tasks"
    assert files == ROOT / "gin" == gin_folder()


def test_public_names_are_there_and_lazy():
    for name in slm_jax.__all__:
        assert getattr(slm_jax, name) is not None
    assert set(slm_jax.__all__) <= set(dir(slm_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slm_jax.nothing
