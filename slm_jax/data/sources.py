"""Where raw examples come from: prepared TensorFlow Datasets, and a user's own manifest files.

Both add `training` to every example (1 in splits whose name starts with "train", else 0): instructions vary in training
and stay the same in evaluation.
"""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from slm_jax.data.audio_io import SAMPLE_RATE
from slm_jax.data.manifest import BadRows, Columns, Row, parse_manifest

# Otherwise small datasets stay in memory, once for every task that reads them.
seqio.set_tfds_read_config_override(tfds.ReadConfig(try_autocache=False))


def training_flag(split: str) -> tf.Tensor:
    """1 for splits that are there to be trained on, else 0 (an integer, since SeqIO's cache stores no booleans)."""
    return tf.constant(int(split.startswith("train")), tf.int32)


def use_tfds_folder(folder: str) -> None:
    """Prepared TensorFlow Datasets are read from `folder` from now on."""
    seqio.set_tfds_data_dir_override(folder)


def tfds_folder() -> str | None:
    """The folder that `use_tfds_folder` has set; None for TensorFlow Datasets' own choice."""
    return seqio.LazyTfdsLoader("any:1.0.0").data_dir


def use_cache_folders(folders: Sequence[str]) -> None:
    """Cached tasks are looked for in these folders too, from now on."""
    seqio.add_global_cache_dirs(list(folders))


class Splits(dict[str, str]):
    """{split of a task: split of a dataset}; a slice of a split is a split too, though not listed.

    {"train": "clean + other"}:  "train[:10%]" -> "clean[:10%]+other[:10%]"
    """

    def __contains__(self, split: object) -> bool:
        return super().__contains__(str(split).partition("[")[0])

    def __missing__(self, split: str) -> str:
        name, bracket, part = split.partition("[")
        if not bracket:
            raise KeyError(split)
        return "+".join(whole.strip() + bracket + part for whole in self[name].split("+"))


class TfdsSource(seqio.TfdsDataSource):
    """A TensorFlow Dataset that has been prepared.

    It is looked up when it is read, not before; it is never downloaded or built on the way, since on a pod every host
    would do so. Slices such as "train[:10%]" can be read too, always the same examples.
    """

    def __init__(
        self, tfds_name: str, *, splits: Mapping[str, str], prepare_command: str, sample_rate: int = SAMPLE_RATE
    ) -> None:
        """`tfds_name` is name/config:version, `splits` {split of the task: split of the dataset}.

        `sample_rate`, in Hz, is what the task takes the dataset's audio to have.
        """
        super().__init__(tfds_name=tfds_name, splits=Splits(splits), read_only=True)
        self._task_splits = Splits(splits)
        self._prepare_command = prepare_command
        self._sample_rate = sample_rate

    @property
    def splits(self) -> Splits:
        """Those of the task."""
        return self._task_splits

    def get_dataset(self, split: str = "train", *args: Any, **kwargs: Any) -> tf.data.Dataset:
        """The split's examples.

        Raises:
          FileNotFoundError: the dataset has not been prepared; the message says how to.
          ValueError: the dataset says that its audio has another rate than the task takes it to have.
        """
        try:
            dataset = super().get_dataset(split, *args, **kwargs)
        except (AssertionError, ValueError, KeyError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"Cannot read {self.tfds_dataset.name} ({split}) in {self._folder()}. If it has not been prepared: "
                f"{self._prepare_command} ({error})"
            ) from error
        self._check_rates()
        return dataset.map(lambda example: example | {"training": training_flag(split)})

    def _check_rates(self) -> None:
        for name, feature in self.tfds_dataset.info.features.items():
            rate = getattr(feature, "sample_rate", None)
            if rate not in (None, self._sample_rate):
                raise ValueError(
                    f"{self.tfds_dataset.name}: {name} has {rate} samples a second, but the task takes it to have "
                    f"{self._sample_rate}: register the task with the dataset's rate"
                )

    def _folder(self) -> str:
        return str(self.tfds_dataset.data_dir or "the default folder of TensorFlow Datasets, ~/tensorflow_datasets")


class ManifestSource(seqio.DataSource):
    """Rows of manifest files, one file a split; see `slm_jax.data.manifest`.

    Features: audio (path), text, target, prompt and language (empty strings where there is none), source ("file:line").
    A shuffled epoch is a full shuffle, since only rows are shuffled, not audio.

    Attributes:
      report: with BadRows.SKIP_AND_REPORT, why a row was left out, by "file:line". Rows that do not parse are in it
        from the first use of their split on, rows whose audio cannot be read when they are reached.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        *,
        columns: Columns | None = None,
        audio_folder: str | None = None,
        required: tuple[str, ...] = (),
        bad_rows: BadRows = BadRows.ERROR,
    ) -> None:
        """`paths` is {split: file}; the rest is as in `parse_manifest`."""
        super().__init__(splits=tuple(paths), caching_permitted=True)
        self._paths = dict(paths)
        self._columns = columns
        self._audio_folder = audio_folder
        self._required = required
        self._bad_rows = bad_rows
        self.report: dict[str, str] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Rows can be dealt out to any number of hosts."""
        return True

    def list_shards(self, split: str) -> list[str]:
        """The split's file."""
        return [self._paths[split]]

    def num_input_examples(self, split: str) -> int:
        """Rows that parse."""
        return len(self._rows(split))

    def add_to_report(self, source: str, reason: str) -> None:
        """Notes a bad row, once however often it is met."""
        if source not in self.report:
            self.report[source] = reason
            logging.warning("Left out: %s: %s", source, reason)

    @functools.cache  # noqa: B019  sources live as long as the registry that holds them
    def _rows(self, split: str) -> tuple[Row, ...]:
        rows, bad = parse_manifest(
            self._paths[split],
            columns=self._columns,
            audio_folder=self._audio_folder,
            required=self._required,
            bad_rows=self._bad_rows,
        )
        for source, reason in bad.items():
            self.add_to_report(source, reason)
        return tuple(rows)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """The split's rows.

        Raises:
          FileNotFoundError: no manifest there.
          ValueError: a row does not parse (unless BadRows.SKIP_AND_REPORT), or none does.
        """
        columns = collections.defaultdict(list)
        for row in self._rows(split):
            for name, value in row.features().items():
                columns[name].append(value)
        dataset = tf.data.Dataset.from_tensor_slices(dict(columns))
        if shard_info is not None:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            dataset = dataset.shuffle(len(self._rows(split)), seed=seed, reshuffle_each_iteration=True)
        return dataset.map(lambda example: example | {"training": training_flag(split)})
