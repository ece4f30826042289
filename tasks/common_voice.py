"""Common Voice (Ardila et al. 2020): sentences read by volunteers in many languages.

Two ways in: release 6.1 from TensorFlow Datasets, and any release as it is downloaded (a folder with train.tsv,
dev.tsv, test.tsv and clips/).
"""

import functools
import os

import seqio

from slm_jax.data import preprocessors
from slm_jax.data.manifest import BadRows, Columns
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import TRANSCRIBE, PromptTemplate
from slm_jax.data.sources import TfdsSource
from slm_jax.tasks.manifest import register_manifest_task
from slm_jax.tasks.registration import TaskDefinition, register_once

VERSION = "2.0.0"
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
COLUMNS = Columns(audio="path", text="sentence")


def register_common_voice(
    *,
    vocabulary: seqio.Vocabulary,
    language: str = "en",
    name: str | None = None,
    template: PromptTemplate = TRANSCRIBE,
    wording: Wording | str = Wording.TRAINED,
    sample_rate: int = 48000,
) -> str:
    """Registers transcription of release 6.1 and gives the task's name, common_voice_<language>_transcribe.

    Registering the same again is allowed.

    Args:
      vocabulary: the language model's.
      language: Common Voice code such as en, de, sv-SE.
      name: to register the task under instead.
      template: the instruction.
      wording: which of its wordings; in gin 'trained', 'first' or 'unseen'.
      sample_rate: Hz of the recordings, which the prepared dataset does not say.

    Raises:
      ValueError: the name is taken.
    """
    name = name or f"common_voice_{language}_transcribe".replace("-", "_")
    config = f"common_voice/{language}"

    def define() -> TaskDefinition:
        names = {"speech": "voice", "targets": "sentence", "transcript": "sentence", "training": "training"}
        return TaskDefinition(
            name=name,
            source=TfdsSource(
                f"{config}:{VERSION}",
                splits=SPLITS,
                prepare_command=f"tfds build {config}",
                sample_rate=sample_rate,
            ),
            decode=(
                functools.partial(preprocessors.rename_features, names=names),
                preprocessors.speech_from_integers,
                functools.partial(preprocessors.resample_speech, from_rate=sample_rate),
            ),
            template=template,
            vocabulary=vocabulary,
            wording=wording,
        )

    return register_once(define, name=name, settings=(language, vocabulary, template, wording, sample_rate))


def register_common_voice_release(
    *,
    folder: str,
    vocabulary: seqio.Vocabulary,
    name: str = "common_voice_transcribe",
    template: PromptTemplate = TRANSCRIBE,
    wording: Wording | str = Wording.TRAINED,
    bad_rows: BadRows | str = BadRows.ERROR,
) -> str:
    """Registers transcription of a downloaded release and gives the task's name.

    Args:
      folder: of one language: holds train.tsv, dev.tsv, test.tsv and clips/.
      vocabulary: the language model's.
      name: to register the task under.
      template: the instruction.
      wording: which of its wordings; in gin 'trained', 'first' or 'unseen'.
      bad_rows: what happens to rows that do not parse or whose audio cannot be read.

    Raises:
      ValueError: the name is taken.
    """
    return register_manifest_task(
        path=os.path.join(folder, "train.tsv"),
        validation_path=os.path.join(folder, "dev.tsv"),
        test_path=os.path.join(folder, "test.tsv"),
        audio_folder=os.path.join(folder, "clips"),
        vocabulary=vocabulary,
        name=name,
        template=template,
        wording=wording,
        columns=COLUMNS,
        bad_rows=bad_rows,
    )
