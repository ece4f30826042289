r"""Manifests: a user's own data as one text file, tab-separated or JSON lines.

    audio           text                prompt              language    target
    clips/1.flac    a red ball                              German      ein roter Ball
    clips/2.wav     what time is it     Answer.                         half past two

Only `audio` and `text` are needed; `target` is what the model shall write, by default the text; `prompt` is the
instruction, by default a template's; `language` fills {language} in a template. Other columns are ignored, blank lines
too. A JSON line is an object with the same keys. Text is UTF-8; tab-separated files have a header and no quoting.
Relative paths of audio start at the manifest's folder and may not leave it; absolute paths are taken as they are.
"""

import dataclasses
import enum
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

_CELLS = ("audio", "text", "target", "prompt", "language")


class BadRows(enum.Enum):
    """What happens to a row that does not parse or whose audio cannot be read."""

    ERROR = "error"
    SKIP_AND_REPORT = "skip_and_report"
    """Left out, logged, and kept in the source's report."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """How the columns (or JSON keys) of a manifest are called.

    Attributes:
      audio: path of the recording.
      text: what is said.
      target: what the model shall write; the text where the column is missing or empty.
      prompt: the instruction; a template's where missing or empty.
      language: name of the target's language, for templates.
      escape: a character that stands before a quote or another escape in tab-separated files, to be taken away.
    """

    audio: str = "audio"
    text: str = "text"
    target: str = "target"
    prompt: str = "prompt"
    language: str = "language"
    escape: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A parsed row; `source` is "file:line"."""

    audio: str
    text: str
    target: str
    prompt: str
    language: str
    source: str

    def features(self) -> dict[str, str]:
        """The row as an example."""
        return dataclasses.asdict(self)


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names file and line."""


def parse_manifest(
    path: str,
    *,
    columns: Columns | None = None,
    audio_folder: str | None = None,
    required: tuple[str, ...] = (),
    bad_rows: BadRows = BadRows.ERROR,
) -> tuple[list[Row], dict[str, str]]:
    """The rows of a manifest, and why others were left out, by "file:line".

    Args:
      path: ends in .tsv, .jsonl or .json.
      columns: how the columns are called.
      audio_folder: where relative paths of audio start and stay; by default the manifest's folder.
      required: attributes of Row that rows without a prompt must fill.
      bad_rows: what happens to rows that do not parse.

    Raises:
      FileNotFoundError: no manifest there.
      ManifestError: an unknown kind of file, a header that lacks a column, no good row at all, or (with
        BadRows.ERROR) a row that does not parse.
    """
    columns = columns or Columns()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No manifest at {path}")
    folder = audio_folder or os.path.dirname(path)
    rows, bad = [], {}
    for number, cells in _read(path, columns):
        source = f"{path}:{number}"
        try:
            rows.append(_parse_row(cells, columns=columns, required=required, folder=folder, source=source))
        except ValueError as error:
            if bad_rows is BadRows.ERROR:
                raise ManifestError(f"{source}: {error}") from error
            bad[source] = str(error)
    if not rows:
        raise ManifestError(f"{path} has no good rows ({len(bad)} bad ones{_first(bad)})")
    return rows, bad


def _first(bad: Mapping[str, str]) -> str:
    return f", the first: {next(iter(bad.values()))}" if bad else ""


Cells = Mapping[str, object] | ValueError
"""A row's cells by column, or what was wrong with the line."""


def _read(path: str, columns: Columns) -> Iterator[tuple[int, Cells]]:
    suffix = pathlib.Path(path).suffix
    if suffix not in (".tsv", ".jsonl", ".json"):
        raise ManifestError(f"{path}: the name of a manifest must end in .tsv, .jsonl or .json")
    with open(path, "rb") as file:
        lines = enumerate(file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    filled = [(number, line.rstrip(b"\r")) for number, line in lines if line.strip()]
    yield from _read_json(filled) if suffix != ".tsv" else _read_tsv(path, filled, columns)


def _read_json(lines: list[tuple[int, bytes]]) -> Iterator[tuple[int, Cells]]:
    for number, line in lines:
        try:
            cells = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            yield number, ValueError(f"not a line of JSON: {error}")
            continue
        yield number, cells if isinstance(cells, dict) else ValueError("not a JSON object")


def _read_tsv(path: str, lines: list[tuple[int, bytes]], columns: Columns) -> Iterator[tuple[int, Cells]]:
    if not lines:
        return
    header = lines[0][1].decode("utf-8", errors="replace").split("\t")
    missing = [name for name in (columns.audio, columns.text) if name not in header]
    if missing:
        raise ManifestError(f"{path}:{lines[0][0]}: the header lacks the columns {missing}; it has {header}")
    for number, line in lines[1:]:
        try:
            cells = [_unescape(cell, columns.escape) for cell in line.decode("utf-8").split("\t")]
        except UnicodeDecodeError as error:
            yield number, ValueError(f"not UTF-8: {error}")
            continue
        if len(cells) != len(header):
            yield number, ValueError(f"{len(cells)} columns, the header has {len(header)}")
        else:
            yield number, dict(zip(header, cells, strict=True))


def _unescape(cell: str, escape: str) -> str:
    return re.sub(re.escape(escape) + "(.)", r"\1", cell) if escape else cell


def _parse_row(cells: Cells, *, columns: Columns, required: tuple[str, ...], folder: str, source: str) -> Row:
    if isinstance(cells, ValueError):
        raise cells
    values = {name: _cell(cells, getattr(columns, name)) for name in _CELLS}
    for name in ("audio", "text"):
        if not values[name]:
            raise ValueError(f"no {getattr(columns, name)}")
    if not values["prompt"]:
        for name in required:
            if not values[name]:
                raise ValueError(f"no {getattr(columns, name)}, which the prompt needs")
    audio = _audio_path(values["audio"], folder)
    return Row(**(values | {"audio": audio, "target": values["target"] or values["text"]}), source=source)


def _cell(cells: Mapping[str, object], name: str) -> str:
    value = cells.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}")
    return (value or "").strip()


def _audio_path(written: str, folder: str) -> str:
    path = os.path.normpath(os.path.join(folder, written))
    if not os.path.isabs(written) and os.path.relpath(path, folder or ".").split(os.sep)[0] == os.pardir:
        raise ValueError(f"audio {written} is outside {folder or '.'}; write an absolute path if that is meant")
    if not os.path.isfile(path):
        raise ValueError(f"no audio file at {path}")
    return path
