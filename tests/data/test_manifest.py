"""Manifests: both formats, every kind of bad row with file and line, and paths that stay where they belong."""

import json
import pathlib

import pytest

from slm_jax.data.manifest import BadRows, Columns, ManifestError, parse_manifest


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with clips/a.wav and clips/b.wav; manifests only look whether audio is there."""
    (tmp_path / "data" / "clips").mkdir(parents=True)
    for name in ("clips/a.wav", "clips/b.wav", "../outside.wav"):
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def write(folder: pathlib.Path, text: str | bytes, name: str = "m.tsv") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_table(folder: pathlib.Path) -> None:
    path = write(
        folder,
        "audio\ttext\tprompt\tlanguage\ttarget\tspeaker\n"
        "clips/a.wav\ta red ball\t\tGerman\tein roter Ball\tx\n"
        "\n"
        'clips/b.wav\t "what" time \tAnswer.\t\t\ty\r\n',
    )
    first, second = parse_manifest(path)[0]
    assert (first.audio, first.text, first.target) == (str(folder / "clips/a.wav"), "a red ball", "ein roter Ball")
    assert (first.prompt, first.language, first.source) == ("", "German", f"{path}:2")
    assert (second.text, second.target, second.prompt) == ('"what" time', '"what" time', "Answer.")
    assert second.source == f"{path}:4"


def test_json_lines_hold_the_same(folder: pathlib.Path) -> None:
    table = write(folder, "audio\ttext\ttarget\nclips/a.wav\tä\tb\n")
    lines = write(folder, json.dumps({"audio": "clips/a.wav", "text": "ä", "target": "b"}), "m.jsonl")
    (row,), (other,) = parse_manifest(table)[0], parse_manifest(lines)[0]
    assert row.features() | {"source": ""} == other.features() | {"source": ""}


def test_a_byte_order_mark_is_no_part_of_the_header(folder: pathlib.Path) -> None:
    assert len(parse_manifest(write(folder, b"\xef\xbb\xbfaudio\ttext\nclips/a.wav\ta\n"))[0]) == 1


def test_columns_audio_folder_and_escapes(folder: pathlib.Path) -> None:
    path = write(folder, 'path\tsentence\ttranslation\na.wav\tsay \\"a\\"\tx\\\\y\n')
    columns = Columns(audio="path", text="sentence", target="translation", escape="\\")
    ((row,), _) = parse_manifest(path, columns=columns, audio_folder=str(folder / "clips"))
    assert (row.text, row.target, row.audio) == ('say "a"', "x\\y", str(folder / "clips/a.wav"))


GOOD = "clips/a.wav\tgood"
BAD_ROWS = {
    "clips/a.wav": "1 columns, the header has 2",
    "clips/a.wav\ta\tb": "3 columns, the header has 2",
    "\ta": "no audio",
    "clips/a.wav\t ": "no text",
    "clips/nowhere.wav\ta": "no audio file at .*nowhere.wav",
    "../outside.wav\ta": "outside.wav is outside .*absolute path",
    "clips/../../outside.wav\ta": "is outside",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_an_error_with_file_and_line(folder: pathlib.Path, row: str) -> None:
    path = write(folder, f"audio\ttext\n{GOOD}\n{row}\n")
    with pytest.raises(ManifestError, match=f"m.tsv:3: .*{BAD_ROWS[row]}"):
        parse_manifest(path)


def test_bad_rows_are_left_out_and_reported_if_asked(folder: pathlib.Path) -> None:
    path = write(folder, "\n".join(["audio\ttext", GOOD, *BAD_ROWS, GOOD]))
    rows, report = parse_manifest(path, bad_rows=BadRows.SKIP_AND_REPORT)
    assert [row.source for row in rows] == [f"{path}:2", f"{path}:{3 + len(BAD_ROWS)}"]
    assert list(report) == [f"{path}:{line}" for line in range(3, 3 + len(BAD_ROWS))]
    assert report[f"{path}:5"] == "no audio"


def test_text_that_is_not_utf_8(folder: pathlib.Path) -> None:
    with pytest.raises(ManifestError, match="m.tsv:2: not UTF-8"):
        parse_manifest(write(folder, b"audio\ttext\nclips/a.wav\t\xff\n"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"audio": "clips/a.wav", "text": ', "not a line of JSON"),
        ('["clips/a.wav", "a"]', "not a JSON object"),
        ('{"audio": "clips/a.wav", "text": 3}', "text must be text, not 3"),
        ('{"audio": "clips/a.wav"}', "no text"),
    ],
)
def test_bad_json(folder: pathlib.Path, line: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=f"m.jsonl:1: {reason}"):
        parse_manifest(write(folder, line, "m.jsonl"))


def test_an_absolute_path_is_taken_as_it_is(folder: pathlib.Path) -> None:
    outside = (folder.parent / "outside.wav").resolve()
    ((row,), _) = parse_manifest(write(folder, f"audio\ttext\n{outside}\ta\n"))
    assert row.audio == str(outside)


def test_required_columns_may_only_lack_where_there_is_a_prompt(folder: pathlib.Path) -> None:
    header = "audio\ttext\tlanguage\tprompt\n"
    good = write(folder, header + "clips/a.wav\ta\tGerman\t\nclips/a.wav\ta\t\tSay it.\n")
    assert len(parse_manifest(good, required=("language",))[0]) == 2
    bad = write(folder, header + "clips/a.wav\ta\t\t\n")
    with pytest.raises(ManifestError, match="m.tsv:2: no language, which the prompt needs"):
        parse_manifest(bad, required=("language",))


def test_manifests_that_cannot_be_used_at_all(folder: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="No manifest at .*nowhere.tsv"):
        parse_manifest(str(folder / "nowhere.tsv"))
    with pytest.raises(ManifestError, match="must end in .tsv, .jsonl or .json"):
        parse_manifest(write(folder, "audio,text", "m.csv"))
    with pytest.raises(ManifestError, match=r"m.tsv:1: the header lacks the columns \['text'\]"):
        parse_manifest(write(folder, "audio\tsentence\nclips/a.wav\ta\n"))
    for empty in ("", "audio\ttext\n"):
        with pytest.raises(ManifestError, match="has no good rows"):
            parse_manifest(write(folder, empty))
    with pytest.raises(ManifestError, match="no good rows .1 bad ones, the first: no text"):
        parse_manifest(write(folder, "audio\ttext\nclips/a.wav\t\n"), bad_rows=BadRows.SKIP_AND_REPORT)
