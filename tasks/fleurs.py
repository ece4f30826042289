"""FLEURS (Conneau et al. 2022): sentences read in 102 languages, from TensorFlow Datasets (`xtreme_s`)."""

import functools

import seqio

from slm_jax.data import preprocessors
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import TRANSCRIBE, PromptTemplate
from slm_jax.data.sources import TfdsSource
from slm_jax.tasks.registration import TaskDefinition, register_once

VERSION = "2.0.0"
SPLITS = {"train": "train", "validation": "validation", "test": "test"}


def register_fleurs(
    *,
    vocabulary: seqio.Vocabulary,
    language: str = "en_us",
    name: str | None = None,
    template: PromptTemplate = TRANSCRIBE,
    wording: Wording | str = Wording.TRAINED,
) -> str:
    """Registers transcription of FLEURS in one language and gives the task's name, fleurs_<language>_transcribe.

    The targets are the normalised transcriptions: lower case, no punctuation. Registering the same again is allowed.

    Args:
      vocabulary: the language model's.
      language: FLEURS code such as en_us, de_de, es_419; "all" for all.
      name: to register the task under instead.
      template: the instruction; it may have the field {language}, the English name of the language.
      wording: which of its wordings; in gin 'trained', 'first' or 'unseen'.

    Raises:
      ValueError: the name is taken.
    """
    name = name or f"fleurs_{language}_transcribe"
    config = f"xtreme_s/fleurs.{language}"

    def define() -> TaskDefinition:
        names = {"speech": "audio", "targets": "transcription", "transcript": "transcription"}
        names |= {"language": "language", "training": "training"}
        return TaskDefinition(
            name=name,
            source=TfdsSource(f"{config}:{VERSION}", splits=SPLITS, prepare_command=f"tfds build {config}"),
            decode=(
                functools.partial(preprocessors.rename_features, names=names),
                preprocessors.speech_from_integers,
            ),
            template=template,
            vocabulary=vocabulary,
            wording=wording,
        )

    return register_once(define, name=name, settings=(language, vocabulary, template, wording))
