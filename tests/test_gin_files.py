"""Every gin file that ships: a header that says what to set, valid syntax, and names that exist."""

import pathlib
import re
from collections.abc import Iterator

import gin
import pytest
from gin import config_parser

from slm_jax.resources import gin_folder

GIN = gin_folder()
FILES = sorted(GIN.rglob("*.gin"))
# One of these words opens the part of a header that a reader needs.
HEADER_WORDS = {
    "experiments": ("command",),
    **dict.fromkeys(("models", "tasks", "runs"), ("required", "commonly overridden", "defines")),
}


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(GIN))


def needs_t5x(path: pathlib.Path) -> bool:
    return name_of(path).startswith("runs/t5x/") or bool(re.search(r"^\s*(from|import) t5x\b", path.read_text(), re.M))


def parsed_where_possible(path: pathlib.Path):
    marks = [pytest.mark.t5x] if needs_t5x(path) else []
    return pytest.param(path, id=name_of(path), marks=marks)


class Anything(config_parser.ParserDelegate):
    """Accepts any reference and any macro: what is left is gin's grammar."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return scoped_configurable_name, evaluate

    def macro(self, macro_name):
        return macro_name


@pytest.fixture
def clean_gin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty gin configuration, with includes relative to the folder of gin files."""
    monkeypatch.chdir(GIN)
    gin.clear_config()
    yield
    gin.clear_config()


def header(path: pathlib.Path) -> str:
    """The comment lines at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first_other = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:first_other])


def test_there_are_gin_files():
    assert FILES, f"no gin files below {GIN}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_header_says_what_to_set(path: pathlib.Path):
    text = header(path).lower()
    assert text, "open the file with a comment: what it configures, what is required, what is commonly overridden"
    words = HEADER_WORDS.get(path.relative_to(GIN).parts[0], ("",))
    assert any(word in text for word in words), f"the header mentions none of {words}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_syntax(path: pathlib.Path):
    with path.open(encoding="utf-8") as file:
        assert list(config_parser.ConfigParser(file, Anything())), "the file has no statements"


@pytest.mark.parametrize("path", [parsed_where_possible(path) for path in FILES])
def test_every_name_exists(path: pathlib.Path, clean_gin: None):
    """Parsing imports the modules named, follows includes, and refuses unknown configurables and parameters."""
    gin.parse_config_file(str(path))
