"""CoVoST 2 (Wang et al. 2020): translations of Common Voice recordings.

TensorFlow Datasets does not have it. The task reads what the publishers' get_covost_splits.py writes:
covost_v2.<source>_<target>.{train,dev,test}.tsv, next to or apart from the clips of Common Voice 4.0.
"""

import os

import seqio

from slm_jax.data.manifest import BadRows, Columns
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import TRANSLATE, PromptTemplate
from slm_jax.tasks.manifest import register_manifest_task

COLUMNS = Columns(audio="path", text="sentence", target="translation", escape="\\")
LANGUAGE_NAMES = {
    "ar": "Arabic", "ca": "Catalan", "cy": "Welsh", "de": "German", "en": "English", "es": "Spanish",
    "et": "Estonian", "fa": "Persian", "fr": "French", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "lv": "Latvian", "mn": "Mongolian", "nl": "Dutch", "pt": "Portuguese", "ru": "Russian", "sl": "Slovenian",
    "sv-SE": "Swedish", "ta": "Tamil", "tr": "Turkish", "zh-CN": "Chinese",
}  # fmt: skip
"""English names of CoVoST 2's languages, for prompts."""


def register_covost2(
    *,
    folder: str,
    clips_folder: str,
    vocabulary: seqio.Vocabulary,
    source_language: str,
    target_language: str = "en",
    name: str | None = None,
    template: PromptTemplate = TRANSLATE,
    wording: Wording | str = Wording.TRAINED,
    bad_rows: BadRows | str = BadRows.ERROR,
) -> str:
    """Registers translation of one pair of languages and gives the task's name, covost2_<source>_<target>.

    Registering the same again is allowed.

    Args:
      folder: holds covost_v2.<source>_<target>.{train,dev,test}.tsv.
      clips_folder: holds the recordings that these name.
      vocabulary: the language model's.
      source_language: code of what is spoken.
      target_language: code of what is written.
      name: to register the task under instead.
      template: the instruction; {language} is the target language's English name.
      wording: which of its wordings; in gin 'trained', 'first' or 'unseen'.
      bad_rows: what happens to rows that do not parse or whose audio cannot be read.

    Raises:
      ValueError: CoVoST 2 does not have one of the languages, or the name is taken.
    """
    for code in (source_language, target_language):
        if code not in LANGUAGE_NAMES:
            raise ValueError(f"CoVoST 2 has no language '{code}'; it has {', '.join(LANGUAGE_NAMES)}")
    pair = f"{source_language}_{target_language}"
    files = {split: os.path.join(folder, f"covost_v2.{pair}.{split}.tsv") for split in ("train", "dev", "test")}
    return register_manifest_task(
        path=files["train"],
        validation_path=files["dev"],
        test_path=files["test"],
        audio_folder=clips_folder,
        vocabulary=vocabulary,
        name=name or f"covost2_{pair}".replace("-", "_"),
        template=template.bind(language=LANGUAGE_NAMES[target_language]),
        wording=wording,
        columns=COLUMNS,
        bad_rows=bad_rows,
    )
