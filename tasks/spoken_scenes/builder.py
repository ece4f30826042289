"""The TFDS dataset `spoken_scenes`: short invented scenes, spoken, with the answers to twenty kinds of instructions.

Everything is made on the spot, from rules and small speech synthesizers (two of PyPI; `full` needs flite too). Nothing
is downloaded:

    tfds.builder("spoken_scenes/quickstart").download_and_prepare()

after an import of this module.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from slm_jax.tasks.spoken_scenes import families, utterances, voices
from slm_jax.tasks.spoken_scenes.corpus import Split

_DESCRIPTION = """
Short English sentences about small scenes ("yesterday mirela bought a red coat at the market"), spoken by synthetic
voices, with German and Spanish translations and the targets of twenty families of instructions. Validation and test
hold names that never occur in training; test is spoken by a voice that occurs nowhere else.
"""
_QUICKSTART = "A few minutes of work for one CPU; no training sentence of it is one of `full`."
# A pool costs a few seconds to start.
_MIN_SIZE_FOR_WORKERS = 256


@dataclasses.dataclass(eq=False, kw_only=True)
class SpokenScenesConfig(tfds.core.BuilderConfig):
    """What a configuration holds.

    Attributes:
      train, validation, test: how many examples each split has.
      content: what the examples hold.
      first: sentences of the training split that are passed over; of two configurations that take different ones, one
        can test what was trained on the other.
      cast: who speaks in training and validation.
      workers: processes that speak; None for one a core, 0 for none besides this one.
    """

    train: int
    validation: int
    test: int
    content: utterances.Content = utterances.Content.SPEECH
    first: int = 0
    cast: voices.Cast = voices.PYPI_CAST
    workers: int | None = None

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 1:
            raise ValueError(
                f"spoken_scenes/{self.name}: every split needs at least one example, got train={self.train}, "
                f"validation={self.validation}, test={self.test}"
            )
        if self.first < 0:
            raise ValueError(f"spoken_scenes/{self.name}: first is {self.first}, must be 0 or more")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"spoken_scenes/{self.name}: workers is {self.workers}, must be 0 or more, or None")

    def size(self, split: Split) -> int:
        """Examples of a split."""
        return {Split.TRAIN: self.train, Split.VALIDATION: self.validation, Split.TEST: self.test}[split]


def _features(config: SpokenScenesConfig) -> tfds.features.FeaturesDict:
    drill = config.content is utterances.Content.DRILL
    about_scenes = ("text",) if drill else (*families.TARGET_FEATURES, "question", "name")
    features = {name: tfds.features.Text() for name in (*about_scenes, "id")}
    if config.content is not utterances.Content.TEXT:
        # Raw bytes: two a sample on disk, and decoding is a cast. tfds.features.Audio would store 64-bit integers.
        features["speech"] = tfds.features.Tensor(
            shape=(None,), dtype=np.int16, encoding="bytes", doc="16-bit samples at 16 kHz"
        )
        features["voice"] = tfds.features.Text()
        features["speed"] = tfds.features.Scalar(dtype=np.float32, doc="pace, 1 is the voice's own")
    return tfds.features.FeaturesDict(features)


class SpokenScenes(tfds.core.GeneratorBasedBuilder):
    """Builds `spoken_scenes`; the same bytes on every machine with the same synthesizers."""

    # Said here because an editable install maps the folder tasks/ into the package, which tfds cannot follow.
    code_path = epath.Path(__file__)
    pkg_dir_path = code_path.parent
    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {
        "1.2.0": "hibari is the voice of test, and Pico's en-US one of training.",
        "1.1.0": "full and drill are larger; claims.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS = [
        SpokenScenesConfig(name="quickstart", description=_QUICKSTART, train=3000, validation=64, test=200),
        SpokenScenesConfig(
            name="full",
            description="About 20 hours in six voices; needs flite.",
            train=30_000,
            validation=500,
            test=1000,
            first=4000,
            cast=voices.FULL_CAST,
        ),
        SpokenScenesConfig(
            name="drill",
            description="Words and names in random order in nine voices, for the speech encoder; needs flite.",
            train=24_000,
            validation=200,
            test=200,
            first=4000,
            content=utterances.Content.DRILL,
            cast=voices.DRILL_CAST,
        ),
        SpokenScenesConfig(
            name="chorus",
            description="Sentences in sixteen more voices, for the speech encoder; needs espeak-ng.",
            train=8000,
            validation=100,
            test=1,
            first=100_000,
            cast=voices.CHORUS_CAST,
        ),
        SpokenScenesConfig(
            name="chorus_drill",
            description="Words and names in random order in these voices; needs espeak-ng.",
            train=8000,
            validation=100,
            test=1,
            first=120_000,
            content=utterances.Content.DRILL,
            cast=voices.CHORUS_CAST,
        ),
        *(
            # Kokoro takes half an hour of a core for each.
            SpokenScenesConfig(
                name=f"neural_{part}" if part > 1 else "neural",
                description="Sentences in neural voices, for the speech encoder; needs kokoro and piper.",
                train=1200,
                validation=100,
                test=1,
                first=first,
                cast=voices.NEURAL_CAST,
            )
            for part, first in enumerate((150_000, 151_200), start=1)
        ),
        *(
            # Kokoro takes three quarters of an hour of a core for each.
            SpokenScenesConfig(
                name=f"neural_drill_{part}" if part > 1 else "neural_drill",
                description="Words and names in random order in these voices; needs kokoro and piper.",
                train=2000,
                validation=100,
                test=1,
                first=first,
                content=utterances.Content.DRILL,
                cast=voices.NEURAL_CAST,
            )
            for part, first in enumerate((155_000, 190_000, 194_000), start=1)
        ),
        SpokenScenesConfig(
            name="clear_drill",
            description="Words and names in random order in the voices that are clearest; needs rhvoice.",
            train=4000,
            validation=100,
            test=1,
            first=170_000,
            content=utterances.Content.DRILL,
            cast=voices.CLEAR_CAST,
        ),
        SpokenScenesConfig(
            name="study",
            description="For adapters: sentences that the speech encoder was not trained on, in all its voices.",
            train=8000,
            validation=200,
            test=1,
            first=140_000,
            cast=voices.STUDY_CAST,
        ),
        SpokenScenesConfig(
            name="claims",
            description="A test split alone, of which the first examples are those of the quickstart.",
            train=1,
            validation=1,
            test=500,
        ),
        SpokenScenesConfig(
            name="text",
            description="Text alone.",
            train=120_000,
            validation=500,
            test=1000,
            content=utterances.Content.TEXT,
        ),
        SpokenScenesConfig(name="tiny", description="For tests.", train=24, validation=8, test=8, workers=0),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=_DESCRIPTION, features=_features(self.builder_config), license="Apache-2.0"
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, utterances.Example]]]:
        del dl_manager  # nothing is downloaded
        return {split.value: self._generate_examples(split) for split in Split}

    def _generate_examples(self, split: Split) -> Iterator[tuple[str, utterances.Example]]:
        config = self.builder_config
        size = config.size(split)
        workers = len(os.sched_getaffinity(0)) if config.workers is None else config.workers
        workers = workers if size >= _MIN_SIZE_FOR_WORKERS else 0
        first = config.first if split is Split.TRAIN else 0
        yield from utterances.examples(
            split, size=size, content=config.content, workers=workers, first=first, cast=config.cast
        )
