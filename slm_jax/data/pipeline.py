"""Batches out of SeqIO tasks and mixtures: seeded, resumable at any batch, the same on every host.

Every host reads the same examples in the same order and forms the same global batches, of which its devices take what
they hold (`Partitioner.shard_batch`). So the shape of a batch (its bucket) is the same on all hosts, a mesh may lie
over them in any way, and a run may be resumed on another number of hosts. The price is that each host reads all the
data. Where batches have one shape, examples can be dealt to shards instead (`data_shards`), of which a host reads those
that its devices hold.

A run is resumed by rebuilding the pipeline from its seed and leaving out the batches that were seen
(`skip_batches`). Left out batches are read and bucketed, but neither copied to Python nor sent to a device.
"""

import collections
import ctypes
import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from slm_jax.data import data_sharding, feature_cache
from slm_jax.data.buckets import Bucket, HostBatch, bucketed_batches, check_buckets, real_and_padded
from slm_jax.data.feature_converter import SpeechToTextFeatureConverter
from slm_jax.data.preprocessors import OverLength, check_lengths
from slm_jax.data.turns import turn_of

MixtureOrTask: TypeAlias = str | seqio.Task | seqio.Mixture

_PREFETCH = 2
_DATA_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.UnknownError)


class BatchIterator(Iterator[HostBatch]):
    """Global batches of numpy arrays.

    Attributes:
      position: batches given so far, the skipped ones included: pass it as `skip_batches` to go on from here.
      dropped: examples left out for their length (OverLength.DROP), by the feature that was too long.
      unknown: ids of unknown pieces in the batches given so far, by model feature; the first one is logged, since
        characters that the vocabulary lacks can neither be read nor learned.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        *,
        position: int,
        batch_size: int,
        dropped: collections.Counter[str],
        unknown_id: int | None,
    ) -> None:
        self.position = position
        self.dropped = dropped
        self.unknown: collections.Counter[str] = collections.Counter()
        self._unknown_id = unknown_id
        self._batches = elements(dataset)
        self._batch_size = batch_size
        self._real: collections.Counter[str] = collections.Counter()
        self._padded: collections.Counter[str] = collections.Counter()

    def __next__(self) -> HostBatch:
        try:
            batch = next(self._batches)
        except _DATA_ERRORS as error:
            raise ValueError(_reason(error)) from error
        for name, (real, padded) in real_and_padded(batch).items():
            self._real[name] += real
            self._padded[name] += padded
        self._count_unknown(batch)
        self.position += 1
        return {name: fill_rows(value, self._batch_size) for name, value in batch.items()}

    def _count_unknown(self, batch: HostBatch) -> None:
        names = {"encoder_input_tokens", "decoder_target_tokens", "teacher_input_tokens"}
        for name in sorted(names & set(batch)) if self._unknown_id is not None else ():
            count = int(np.count_nonzero(batch[name] == self._unknown_id))
            if count and not self.unknown[name]:
                logging.warning("Batch %d: %s have characters that the vocabulary lacks.", self.position, name)
            self.unknown += collections.Counter({name: count})

    def padding_ratio(self) -> dict[str, float]:
        """By model feature, the part of all elements given so far that is padding."""
        return {name: 1.0 - self._real[name] / total for name, total in self._padded.items() if total}


def train_batches(
    mixture_or_task: MixtureOrTask,
    *,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    split: str = "train",
    buckets: Sequence[Bucket] = (),
    converter: seqio.FeatureConverter | None = None,
    num_epochs: int | None = None,
    skip_batches: int = 0,
    over_length: OverLength | str = OverLength.ERROR,
    use_cached: bool = False,
    data_shards: int = 1,
    shards: Sequence[int] | None = None,
) -> BatchIterator:
    """Shuffled batches to train on.

    Examples may be dealt to several shards: shard i of N fills the rows from i * batch_size / N on of every batch.
    Batches are the same then whoever reads which shards; those of another N have the examples in another order.

    Args:
      mixture_or_task: a registered name, or the thing itself.
      task_feature_lengths: the largest length of speech (samples), inputs, targets and, of tasks with a teacher,
        teacher_inputs (tokens).
      batch_size: rows of the global batch.
      seed: decides the order of examples, their prompts and any other randomness.
      split: of the task; of prepared TensorFlow Datasets also a slice, such as 'train[:10%]'.
      buckets: shapes of batches, smallest first; none for one shape, the full lengths.
      converter: to the model's features; by default SpeechToTextFeatureConverter, with the start of the vocabulary.
      num_epochs: None repeats for ever. Otherwise what is left at the end comes in batches filled up with empty rows
        (all zeros, loss weight 0), so that no example is lost.
      skip_batches: how many batches a resumed run has seen.
      over_length: what happens to examples longer than `task_feature_lengths`; in gin 'error' or 'drop'.
      use_cached: read SeqIO's cache, written by `seqio_cache_tasks`; see `sources.use_cache_folders`.
      data_shards: into how many shards the examples are dealt.
      shards: those to read, in ascending order, None for all; a batch has their rows only.

    Raises:
      ValueError: an unknown task or split, buckets or shards that do not fit; while iterating, an example that is too
        long, that cannot be read or that fits no bucket.
    """
    reader = _Reader(mixture_or_task, task_feature_lengths, converter, over_length)
    settings: dict[str, Any] = dict(split=split, shuffle=True, seed=seed, num_epochs=num_epochs, use_cached=use_cached)
    if data_shards == 1:
        parts = [reader.examples(**settings)]
    else:
        data_sharding.check_shards(data_shards, batch_size=batch_size, buckets=buckets, num_epochs=num_epochs)
        chosen = range(data_shards) if shards is None else shards
        parts = [reader.examples(**settings, shard=seqio.ShardInfo(i, data_shards)) for i in chosen]
    rows = batch_size // data_shards
    return reader.batches(*parts, buckets=buckets, batch_size=rows, skip_batches=skip_batches)


def eval_batches(
    mixture_or_task: MixtureOrTask,
    *,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    split: str,
    seed: int = 0,
    buckets: Sequence[Bucket] = (),
    converter: seqio.FeatureConverter | None = None,
    over_length: OverLength | str = OverLength.ERROR,
    use_cached: bool = False,
) -> BatchIterator:
    """Every example of a split once, in the split's order; the last batch is filled up with empty rows.

    Empty rows are all zeros; only they have no decoder_loss_weights. The arguments and errors are those of
    `train_batches`.
    """
    reader = _Reader(mixture_or_task, task_feature_lengths, converter, over_length)
    dataset = reader.examples(split=split, shuffle=False, seed=seed, num_epochs=1, use_cached=use_cached)
    return reader.batches(dataset, buckets=buckets, batch_size=batch_size)


def eval_texts(
    mixture_or_task: MixtureOrTask,
    *,
    task_feature_lengths: Mapping[str, int],
    split: str,
    seed: int = 0,
    over_length: OverLength | str = OverLength.ERROR,
    use_cached: bool = False,
) -> Iterator[dict[str, str]]:
    """{"inputs": instruction, "targets": reference} of each example, in the order of the split.

    Raises:
      ValueError: as `eval_batches`.
    """
    reader = _Reader(mixture_or_task, task_feature_lengths, None, over_length)
    dataset = reader.examples(split=split, shuffle=False, seed=seed, num_epochs=1, use_cached=use_cached)
    return _texts(dataset)


def eval_examples(
    mixture_or_task: MixtureOrTask,
    *,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    split: str,
    use_cached: bool = False,
) -> Iterator[tuple[HostBatch, list[dict[str, str]]]]:
    """The batches of `eval_batches`, each with the texts of its real rows.

    Returns:
      Pairs of a batch and, of each row but the empty ones, {"inputs": instruction, "targets": reference}.

    Raises:
      ValueError: as `eval_batches`.
    """
    reader = _Reader(mixture_or_task, task_feature_lengths, None, OverLength.ERROR)
    dataset = reader.examples(split=split, shuffle=False, seed=0, num_epochs=1, use_cached=use_cached)
    texts = _texts(dataset)
    for batch in reader.batches(dataset, buckets=(), batch_size=batch_size):
        real = np.count_nonzero(batch["decoder_loss_weights"].sum(axis=1))
        yield batch, list(itertools.islice(texts, int(real)))


def check_features(identity: Mapping[str, str], *, mixture_or_task: MixtureOrTask, use_cached: bool = False) -> None:
    """Refuses cached features of another speech encoder than the one that is loaded; see `feature_cache`.

    Args:
      identity: of the loaded one.
      mixture_or_task: a registered name, or the thing itself.
      use_cached: whether caches are read at all.

    Raises:
      feature_cache.FeatureCacheError: a cache is missing, or of another encoder.
    """
    if use_cached:
        feature_cache.check_encoder(get_mixture_or_task(mixture_or_task), identity)


def batch_shapes(
    *, task_feature_lengths: Mapping[str, int], batch_size: int, converter: seqio.FeatureConverter | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a global batch of the full lengths, without reading data; no length, no feature.

    Where there are lengths of speech and of its cached features, the batch has speech: it tells all that a model needs.
    """
    converter = converter or SpeechToTextFeatureConverter()
    from_speech = {name: n for name, n in task_feature_lengths.items() if name != "speech_embeddings"}
    lengths = converter.get_model_feature_lengths(from_speech if "speech" in from_speech else task_feature_lengths)
    specs = {name: converter.MODEL_FEATURES[name] for name in lengths}
    return {
        name: jax.ShapeDtypeStruct((batch_size, lengths[name])[: spec.rank + 1], spec.dtype.as_numpy_dtype)
        for name, spec in specs.items()
    }


def get_mixture_or_task(name: MixtureOrTask) -> seqio.Task | seqio.Mixture:
    """What is registered under `name`; a task or mixture is passed through.

    Raises:
      ValueError: nothing is registered under it; the message has the nearest names.
    """
    if not isinstance(name, str):
        return name
    known = sorted(set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names()))
    if name in known:
        return seqio.get_mixture_or_task(name)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}?" if near else f"There are {len(known)} registered names."
    raise ValueError(
        f"No task or mixture is called '{name}'. {hint} Tasks exist once their module is imported: "
        "`import slm_jax.tasks.scenes` in the gin file."
    )


def elements(dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
    """The elements of a dataset as numpy arrays; may be left before its end.

    TensorFlow frees an iterator under Python's lock and then waits for the functions that read ahead. If one of them is
    Python's (decoding a file), it waits for that lock, and the process stands still for ever. So an iterator that is
    left early is never freed; it holds what it has read ahead, and does no more.
    """
    iterator = dataset.as_numpy_iterator()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(iterator))
    yield from iterator
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(iterator))


def fill_rows(values: np.ndarray, rows: int) -> np.ndarray:
    """`values` with rows of zeros appended up to `rows`."""
    missing = rows - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What training and evaluation share."""

    name: MixtureOrTask
    lengths: Mapping[str, int]
    own_converter: seqio.FeatureConverter | None
    over_length: OverLength | str
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def vocabulary(self) -> seqio.Vocabulary:
        return get_mixture_or_task(self.name).output_features["targets"].vocabulary

    @property
    def converter(self) -> seqio.FeatureConverter:
        """To the model's features; the decoder starts with what the vocabulary's turns end with."""
        start_id = turn_of(self.vocabulary).start_id
        return self.own_converter or SpeechToTextFeatureConverter(decoder_start_id=start_id)

    def examples(
        self,
        *,
        split: str,
        shuffle: bool,
        seed: int,
        num_epochs: int | None,
        use_cached: bool,
        shard: seqio.ShardInfo | None = None,
    ) -> tf.data.Dataset:
        """Task features, none longer than allowed; they are never trimmed."""
        provider = get_mixture_or_task(self.name)
        for task in seqio.get_subtasks(provider):
            if split not in task.splits:
                raise ValueError(f"Task '{task.name}' has no split '{split}'; it has {sorted(task.splits)}")
            if shard is not None:
                data_sharding.check_examples(task, split, shard)
        if use_cached and "[" in split:
            raise ValueError(f"SeqIO's cache holds whole splits only, not '{split}': read it with use_cached False")
        if use_cached:
            feature_cache.check_cached(provider)
        keep_texts = {"copy_pretokenized": True} if isinstance(provider, seqio.Mixture) else {}
        dataset = provider.get_dataset(
            self.lengths,
            split=split,
            shuffle=shuffle,
            seed=seed,
            num_epochs=num_epochs,
            use_cached=use_cached,
            shard_info=shard,
            trim_output_features=False,
            try_in_mem_cache=False,
            **keep_texts,
        )
        return check_lengths(
            dataset,
            self.lengths,
            over_length=OverLength(self.over_length),
            count_dropped=lambda name: self.dropped.update([name]),
        )

    def batches(
        self, *parts: tf.data.Dataset, buckets: Sequence[Bucket], batch_size: int, skip_batches: int = 0
    ) -> BatchIterator:
        """Batches with `batch_size` rows of each part."""
        buckets = check_buckets(buckets, self.lengths)
        converted = [self.converter(part, self.lengths) for part in parts]
        batches = data_sharding.one_above_the_other(
            bucketed_batches(part, buckets, converter=self.converter, batch_size=batch_size) for part in converted
        )
        options = tf.data.Options()
        options.deterministic = True
        batches = batches.skip(skip_batches).prefetch(_PREFETCH).with_options(options)
        return BatchIterator(
            batches,
            position=skip_batches,
            batch_size=batch_size * len(parts),
            dropped=self.dropped,
            unknown_id=self.vocabulary.unk_id,
        )


def _texts(dataset: tf.data.Dataset) -> Iterator[dict[str, str]]:
    names = ("inputs", "targets")
    texts = dataset.map(lambda example: {name: example[f"{name}_pretokenized"] for name in names})
    try:
        for example in elements(texts):
            yield {name: example[name].decode("utf-8") for name in names}
    except _DATA_ERRORS as error:
        raise ValueError(_reason(error)) from error


def _reason(error: tf.errors.OpError) -> str:
    """What went wrong, without the graph nodes, escapes and tracebacks that TensorFlow wraps it in."""
    message = str(error.message)
    asserted = re.search(r"assertion failed: \[(.*?)\]\s*(?:\[\[|$)", message, re.DOTALL)
    if asserted:
        return _unescape(asserted[1])
    raised = re.search(r"(?:ValueError|AudioError): (.*?)\nTraceback", message, re.DOTALL)
    return raised[1] if raised else message


def _unescape(text: str) -> str:
    """Undoes C escapes: quotes, and other than ASCII characters as octal bytes."""
    plain = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), text.encode("utf-8"))
    return re.sub(rb"\\(.)", rb"\1", plain).decode("utf-8", errors="replace")
