"""The command line of infer: what it writes, that it goes on where it was killed, and what it refuses."""

import dataclasses
import json

import pytest
import soundfile

from slm_jax import gin_utils
from slm_jax.decoding.beam_search import BeamSearch
from slm_jax.inference import LoadedModel

SAMPLED = ("--temperature=3", "--seed=1")
# What a kill may leave behind the rows that were written whole.
TORN = (b"", b"{", b'{"audio": "x", "predic', '{"audio": "ä'.encode()[:-1], b'{"audio": "x"}', b'{"audio": \n')


@pytest.fixture(scope="module")
def recordings(tiny_sounds, tmp_path_factory):
    """`tiny_sounds` as files."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, sound in zip("abcde", tiny_sounds, strict=True):
        soundfile.write(folder / f"{name}.wav", sound, 16000, subtype="FLOAT")
    return [str(folder / f"{name}.wav") for name in "abcde"]


@pytest.fixture
def infer(run_main, monkeypatch, capsys, tiny_model):
    """Runs infer on the bundle DIR, the tiny model, and gives the rows it prints; `infer.messages` is its stderr."""
    searching = dataclasses.replace(tiny_model, method=BeamSearch(num_beams=3))
    bundles = {"DIR": tiny_model, "DIR_WITH_PROMPTS": with_prompts(tiny_model), "DIR_WITH_BEAMS": searching}
    monkeypatch.setattr(gin_utils, "load_model", bundles.__getitem__)

    def run(*arguments, bundle="DIR"):
        run_main("infer", f"--bundle={bundle}", *arguments)
        printed = capsys.readouterr()
        run.messages = printed.err
        return [json.loads(line) for line in printed.out.split("\n") if line]

    return run


def with_prompts(model: LoadedModel) -> LoadedModel:
    training = dataclasses.replace(model.training, prompts={"first": "say it", "second": "sing it"})
    return dataclasses.replace(model, training=training)


def audio(recordings: list[str], prompt: str = "say it") -> list[str]:
    """The command line of some files: one by the flag, the others behind it."""
    return [f"--prompt={prompt}", f"--audio={recordings[0]}", *recordings[1:]]


def left_by_a_kill(path, whole: bytes, *, rows: int, torn: bytes) -> None:
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:rows]) + torn)


def test_audio_files_are_answered_in_order(infer, recordings, tiny_model):
    rows = infer(*audio(recordings))
    assert [list(row) for row in rows] == [["audio", "prompt", "prediction", "audio_seconds"]] * 5
    assert [row["audio"] for row in rows] == recordings
    assert [row["audio_seconds"] for row in rows] == [0.5, 0.5625, 0.625, 0.6875, 0.75]
    assert rows == [dataclasses.asdict(answer) for answer in tiny_model.answer(recordings, "say it")]
    assert len({row["prediction"] for row in rows}) > 1, "with equal answers these tests would prove nothing"


def test_the_prompt_is_the_bundles_first_if_none_is_given(infer, recordings):
    file = f"--audio={recordings[0]}"
    assert infer(file, bundle="DIR_WITH_PROMPTS")[0]["prompt"] == "say it"
    assert infer(file, "--prompt=hum it", bundle="DIR_WITH_PROMPTS")[0]["prompt"] == "hum it"
    with pytest.raises(ValueError, match="the bundle DIR has no prompt of its own: give one with --prompt"):
        infer(file)


@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("rows", [0, 2])
def test_audio_files_go_on_after_a_kill(infer, recordings, tmp_path, rows, torn):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert infer(*audio(recordings), f"--output={whole}") == []
    left_by_a_kill(killed, whole.read_bytes(), rows=rows, torn=torn)
    infer(*audio(recordings), f"--output={killed}")
    assert killed.read_bytes() == whole.read_bytes()
    assert infer.messages == f"{killed}: {rows} rows were there, {5 - rows} are new\n"


def test_finished_work_is_not_done_again(infer, recordings, tmp_path, monkeypatch):
    output = tmp_path / "whole.jsonl"
    infer(*audio(recordings), f"--output={output}")
    whole = output.read_bytes()
    monkeypatch.setattr("slm_jax.inference.read_audio", None)
    infer(*audio(recordings), f"--output={output}")
    assert output.read_bytes() == whole


def test_more_files_may_be_asked_for_later(infer, recordings, tmp_path):
    output = tmp_path / "rows.jsonl"
    for count in (2, 5):
        infer(*audio(recordings[:count]), f"--output={output}")
    assert list(map(json.loads, output.read_text().splitlines())) == infer(*audio(recordings))


def test_only_newlines_end_a_row(infer, recordings, tmp_path):
    """An answer may hold Unicode's other line ends, which JSON does not escape."""
    output = tmp_path / "rows.jsonl"
    row = {"audio": recordings[0], "prompt": "say it", "prediction": "a\u2028b\x85c"}
    output.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    infer(*audio(recordings[:3]), f"--output={output}")
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows == [row, *infer(*audio(recordings[:3]))[1:]]


@pytest.mark.parametrize("end", [b"\n", b'\n{"audio": "tor'])
def test_a_file_of_other_work_is_refused_and_stays(infer, recordings, tmp_path, end):
    output, written = tmp_path / "rows.jsonl", f"--output={tmp_path / 'rows.jsonl'}"
    infer(*audio(recordings[:3]), written)
    whole = output.read_bytes()[:-1] + end
    output.write_bytes(whole)
    a, b, c, *_ = recordings
    for arguments, reason in (
        (audio([a, b, c], "sing it"), "line 1: prompt is 'say it', but 'sing it' is asked for"),
        (audio([a, c, b]), f"line 2: audio is '{b}', but '{c}' is asked for"),
        (audio([a, b]), "line 3: there are more rows than are asked for"),
        (["--task=tiny_letters"], "line 1: task is None, but 'tiny_letters' is asked for"),
    ):
        with pytest.raises(ValueError) as error:
            infer(*arguments, written)
        assert str(error.value).startswith(f"{output}, {reason}")
        assert str(error.value).endswith("choose another --output")
        assert output.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"3\n", b"\n", b'{"a\n{"audio": 1}\n'])
def test_a_file_without_rows_is_refused_and_stays(infer, recordings, tmp_path, content):
    output = tmp_path / "rows.jsonl"
    output.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: this is not a JSON object.*another --output"):
        infer(*audio(recordings), f"--output={output}")
    assert output.read_bytes() == content


def test_samples_depend_on_the_seed_and_not_on_a_kill(infer, recordings, tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    infer(*audio(recordings), *SAMPLED, f"--output={whole}")
    left_by_a_kill(killed, whole.read_bytes(), rows=2, torn=b"{")
    infer(*audio(recordings), *SAMPLED, f"--output={killed}")
    assert killed.read_bytes() == whole.read_bytes()
    rows = list(map(json.loads, whole.read_text().split("\n")[:-1]))
    assert rows == infer(*audio(recordings), *SAMPLED)
    assert rows != infer(*audio(recordings), "--temperature=3", "--seed=2")


@pytest.mark.parametrize("cut", ["--top_k=1", "--top_p=1e-6"])
def test_sampling_among_one_token_is_greedy(infer, recordings, cut):
    assert infer(*audio(recordings), *SAMPLED, cut) == infer(*audio(recordings))


def test_beams_are_those_of_beam_search(infer, recordings, tiny_model):
    expected = tiny_model.answer(recordings, "say it", method=BeamSearch(num_beams=3))
    rows = infer(*audio(recordings), "--beams=3")
    assert [row["prediction"] for row in rows] == [answer.prediction for answer in expected]
    assert rows != infer(*audio(recordings))


@pytest.mark.parametrize("files", [True, False], ids=["files", "task"])
def test_by_default_answers_are_written_as_the_experiment_does(infer, recordings, tiny_task, files):
    asked = audio(recordings) if files else [f"--task={tiny_task}", "--batch_size=2"]
    assert infer(*asked, bundle="DIR_WITH_BEAMS") == infer(*asked, "--beams=3") != infer(*asked)
    assert infer(*asked, "--beams=1", bundle="DIR_WITH_BEAMS") == infer(*asked)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either audio files .* or a SeqIO task"),
        (["--audio=a.wav", "--task=tiny_letters"], "give either audio files .* or a SeqIO task"),
        (["a.wav", "--task=tiny_letters"], "give either audio files .* or a SeqIO task"),
        (["--task=tiny_letters", "--prompt=say it"], "--prompt is about audio files"),
        (["--audio=a.wav", "--beams=2", "--temperature=0.5"], "--beams=2 searches and --temperature=0.5 samples"),
        (["--audio=a.wav", "--top_k=3"], "give a --temperature above 0"),
        (["--audio=a.wav", "--top_p=0.5"], "give a --temperature above 0"),
        (["--audio=a.wav", "--temperature=-1"], "temperature must be positive, got -1"),
        (["--audio=a.wav", "--temperature=1", "--top_p=2"], "top_p must be above 0 and at most 1, got 2"),
        (["--audio=a.wav", "--beams=0"], "num_beams must be at least 1, got 0"),
    ],
)
def test_flags_that_do_not_go_together(infer, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        infer(*arguments)


def test_the_examples_of_a_task_are_answered_in_order(infer, tiny_task, recordings):
    rows = infer(f"--task={tiny_task}", "--batch_size=2")
    assert [list(row) for row in rows] == [["task", "split", "number", "inputs", "target", "prediction"]] * 5
    assert {(row["task"], row["split"], row["inputs"]) for row in rows} == {(tiny_task, "test", "which letter?")}
    assert [(row["number"], row["target"]) for row in rows] == list(enumerate("abcde"))
    from_files = infer(*audio(recordings, "which letter?"))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in from_files]
    assert len({row["prediction"] for row in rows}) > 1


@pytest.mark.parametrize(("method", "kept"), [((), (1, 2, 5)), (SAMPLED, (3,))], ids=["greedy", "sampled"])
def test_a_task_goes_on_after_a_kill(infer, tiny_task, tmp_path, method, kept):
    """Between two batches, within one, and when all was done."""
    arguments = [f"--task={tiny_task}", "--batch_size=2", *method]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    infer(*arguments, f"--output={whole}")
    assert whole.read_bytes().count(b"\n") == 5
    for rows in kept:
        left_by_a_kill(killed, whole.read_bytes(), rows=rows, torn=b'{"task": "tiny_le')
        infer(*arguments, f"--output={killed}")
        assert killed.read_bytes() == whole.read_bytes()
        assert infer.messages == f"{killed}: {rows} rows were there, {5 - rows} are new\n"


def test_samples_of_a_task_depend_on_the_seed(infer, tiny_task):
    arguments = [f"--task={tiny_task}", "--batch_size=2", "--temperature=3"]
    assert infer(*arguments, "--seed=1") != infer(*arguments, "--seed=2")


def test_a_file_of_another_task_split_or_place_is_refused(infer, tiny_task, tmp_path):
    output = tmp_path / "rows.jsonl"
    rows = [json.dumps({"task": tiny_task, "split": "test", "number": number}) + "\n" for number in range(3)]
    for content, arguments, reason in (
        (rows, ["--task=other"], "line 1: task is 'tiny_letters', but 'other' is asked for"),
        (rows, [f"--task={tiny_task}", "--split=validation"], "line 1: split is 'test', but 'validation' is asked for"),
        (rows[::2], [f"--task={tiny_task}"], "line 2: number is 2, but 1 is asked for"),
    ):
        output.write_text("".join(content))
        with pytest.raises(ValueError) as error:
            infer(*arguments, f"--output={output}")
        assert str(error.value).startswith(f"{output}, {reason}")
        assert output.read_text() == "".join(content)
