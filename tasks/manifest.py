"""A task out of a user's own recordings, listed in a manifest (see `slm_jax.data.manifest`). In gin:

include 'tasks/manifest.gin'
MANIFEST = '/data/train.tsv'

"""

import functools
import os
from collections.abc import Mapping

import seqio

from slm_jax.data import preprocessors
from slm_jax.data.manifest import BadRows, Columns
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import TRANSCRIBE, PromptTemplate
from slm_jax.data.sources import ManifestSource
from slm_jax.tasks.registration import TaskDefinition, metrics_for, register_once

SPLITS, ENDINGS = ("train", "validation", "test"), (".tsv", ".jsonl")
_FEATURES = ("audio", "source", "prompt", "language", "training")


def register_manifest_task(
    *,
    path: str,
    vocabulary: seqio.Vocabulary,
    name: str = "manifest",
    validation_path: str | None = None,
    test_path: str | None = None,
    template: PromptTemplate = TRANSCRIBE,
    wording: Wording | str = Wording.TRAINED,
    columns: Columns | None = None,
    audio_folder: str | None = None,
    bad_rows: BadRows | str = BadRows.ERROR,
    shuffle_buffer_size: int = 256,
) -> str:
    """Registers a task over manifest files and gives its name; the files are read when the task is first used.

    Registering the same again is allowed. The template's kind decides the metrics: word and character error rate for
    transcription, BLEU and chrF for translation, else exact match and word error rate.

    Args:
      path: the manifest of the train split, or a folder with manifests of splits: train.tsv, validation.tsv, test.tsv
        (or .jsonl), as `slm_jax.tasks.speak` writes them.
      vocabulary: the language model's.
      name: to register the task under.
      validation_path: the manifest of the validation split.
      test_path: the manifest of the test split.
      template: the instruction of rows that bring none of their own; each of its fields must be `language` or `text`.
      wording: which of the template's wordings; in gin 'trained', 'first' or 'unseen'.
      columns: how the columns are called.
      audio_folder: where relative paths of audio start; by default each manifest's folder.
      bad_rows: what happens to rows that do not parse or whose audio cannot be read; see `bad_rows_of`.
        In gin 'error' or 'skip_and_report'.
      shuffle_buffer_size: decoded examples held in memory to be shuffled; rows are fully shuffled before decoding.

    Raises:
      ValueError: a template with other fields, or the name is taken.
    """
    unknown = sorted(set(template.fields) - {"language", "text"})
    if unknown:
        raise ValueError(f"A manifest has no columns for the fields {unknown} of the prompt '{template.kind}'")
    bad_rows = BadRows(bad_rows)
    given = {"train": path, "validation": validation_path, "test": test_path}
    found = manifests_in(path) if os.path.isdir(path) else {}
    paths = {split: found.get(split, file) or "" for split, file in given.items() if file or split in found}
    settings = (paths, vocabulary, template, wording, columns, audio_folder, bad_rows, shuffle_buffer_size)

    def define() -> TaskDefinition:
        source = ManifestSource(
            paths, columns=columns, audio_folder=audio_folder, required=template.fields, bad_rows=bad_rows
        )
        return TaskDefinition(
            name=name,
            source=source,
            decode=_decode(source, bad_rows),
            template=template,
            vocabulary=vocabulary,
            wording=wording,
            after_prompt=(preprocessors.prefer_own_prompt,),
            metric_fns=metrics_for(template.kind),
            shuffle_buffer_size=shuffle_buffer_size,
        )

    return register_once(define, name=name, settings=settings)


def manifests_in(folder: str) -> dict[str, str]:
    """The manifests of a folder, by split.

    Raises:
      FileNotFoundError: it has none of the train split.
    """
    candidates = [(split, os.path.join(folder, split + ending)) for ending in ENDINGS for split in SPLITS]
    found = {split: path for split, path in candidates if os.path.isfile(path)}
    if "train" not in found:
        raise FileNotFoundError(f"{folder} has neither {' nor '.join('train' + ending for ending in ENDINGS)}")
    return found


def _decode(source: ManifestSource, bad_rows: BadRows) -> tuple[preprocessors.Preprocessor, ...]:
    names = {name: name for name in _FEATURES} | {"transcript": "text", "text": "text", "targets": "target"}
    on_error = source.add_to_report if bad_rows is BadRows.SKIP_AND_REPORT else None
    return (
        functools.partial(preprocessors.rename_features, names=names),
        functools.partial(preprocessors.read_speech, on_error=on_error),
    )


def bad_rows_of(name: str) -> Mapping[str, str]:
    """Rows of a manifest task left out so far (BadRows.SKIP_AND_REPORT): the reason by "file:line".

    Raises:
      ValueError: the task is not over manifests.
    """
    source = seqio.TaskRegistry.get(name).source
    if not isinstance(source, ManifestSource):
        raise ValueError(f"Task '{name}' does not read manifests")
    return source.report
