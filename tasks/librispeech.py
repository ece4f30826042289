"""LibriSpeech (Panayotov et al. 2015; openslr.org/12): 960 h of read English books, from TensorFlow Datasets."""

import functools

import seqio

from slm_jax.data import preprocessors
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import TRANSCRIBE, PromptTemplate
from slm_jax.data.sources import TfdsSource
from slm_jax.tasks.registration import TaskDefinition, register_once

TFDS_NAME = "librispeech/default:2.1.1"
SPLITS = {
    "train": "train_clean100+train_clean360+train_other500",
    "train_clean100": "train_clean100",
    "validation": "dev_clean",
    "validation_other": "dev_other",
    "test": "test_clean",
    "test_other": "test_other",
}
"""Splits of the task, and what they are in the dataset."""


def register_librispeech(
    *,
    vocabulary: seqio.Vocabulary,
    name: str = "librispeech_transcribe",
    template: PromptTemplate = TRANSCRIBE,
    wording: Wording | str = Wording.TRAINED,
) -> str:
    """Registers transcription of LibriSpeech in lower case and gives the task's name.

    The transcripts are published in capitals without punctuation. Registering the same again is allowed.

    Args:
      vocabulary: the language model's.
      name: to register the task under.
      template: the instruction.
      wording: which of its wordings; in gin 'trained', 'first' or 'unseen'.

    Raises:
      ValueError: the name is taken.
    """

    def define() -> TaskDefinition:
        names = {"speech": "speech", "targets": "text", "transcript": "text", "id": "id", "training": "training"}
        return TaskDefinition(
            name=name,
            source=TfdsSource(TFDS_NAME, splits=SPLITS, prepare_command="tfds build librispeech/default"),
            decode=(
                functools.partial(preprocessors.rename_features, names=names),
                functools.partial(preprocessors.lower_case, names=("targets", "transcript")),
                preprocessors.speech_from_integers,
            ),
            template=template,
            vocabulary=vocabulary,
            wording=wording,
        )

    return register_once(define, name=name, settings=(vocabulary, template, wording))
