"""SeqIO's cache with what a frozen speech encoder makes of the speech in place of the speech.

A cached task lies in FOLDER/NAME, as `seqio_cache_tasks` would write it: TFRecords, info and stats of every split, and
the file COMPLETED; encoder.json says who made the features. An example holds what the task has before its
CacheDatasetPlaceholder, but for `speech`:

    speech_embeddings_float16    [S, D] as bytes
    speech_embeddings_shape      [S, D]

`restore_embeddings`, right behind the placeholder, makes `speech_embeddings` of them.
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

ENCODER, COMPLETED = "encoder.json", "COMPLETED"
DTYPES: Mapping[str, tf.DType] = {"float16": tf.float16, "float32": tf.float32}
SHARD_EXAMPLES = 512
_NAME = "speech_embeddings"

Encode = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""From waveforms, [N] each, to their features, [S, D] each."""


class FeatureCacheError(ValueError):
    """A cache is missing, or was made by another encoder."""


@seqio.map_over_dataset
def restore_embeddings(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`speech_embeddings`, float32 [S, D], of an example out of a cache of features; any other stays as it is."""
    found = [name for name in DTYPES if f"{_NAME}_{name}" in example]
    if not found:
        return example
    (dtype,) = found
    values = tf.cast(tf.io.decode_raw(example[f"{_NAME}_{dtype}"], DTYPES[dtype]), tf.float32)
    frames = tf.reshape(values, tf.ensure_shape(example[f"{_NAME}_shape"], [2]))
    return {name: value for name, value in example.items() if not name.startswith(_NAME)} | {_NAME: frames}


def task_folder(cache: pathlib.Path, task: str) -> pathlib.Path:
    """Where a task's cache lies in a folder of caches."""
    return cache / seqio.get_task_dir_from_name(task)


def write_task(
    task: seqio.Task,
    *,
    cache: pathlib.Path,
    encode: Encode,
    identity: Mapping[str, str],
    dtype: str,
    progress: Callable[[int], None] = lambda examples: None,
) -> None:
    """Writes the cache of a task, all splits; started again, it goes on behind the last whole file.

    Args:
      task: its speech has to be there before its placeholder.
      cache: the folder of caches.
      encode: the frozen speech encoder.
      identity: fingerprints of what decides the features, as `Training.feature_identity` gives them.
      dtype: what features are stored as, float16 or float32.
      progress: called with the number of examples of every file that is there.

    Raises:
      FeatureCacheError: the folder holds a cache of another encoder, or the task has no place for a cache.
    """
    if not task.supports_caching:
        raise FeatureCacheError(
            f"task '{task.name}' has no seqio.CacheDatasetPlaceholder, or its source forbids caches"
        )
    folder = task_folder(cache, task.name)
    folder.mkdir(parents=True, exist_ok=True)
    made_by = dict(identity) | {"dtype": dtype}
    _check_same(folder, made_by)
    (folder / ENCODER).write_text(json.dumps(made_by, indent=1) + "\n")
    for split in task.splits:
        _write_split(task, split, folder=folder, encode=encode, dtype=dtype, progress=progress)
    (folder / COMPLETED).write_text("")


def tasks_of(provider: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
    """The tasks of a mixture, or the task itself."""
    return list(seqio.get_subtasks(provider))


def num_examples(task: seqio.Task, split: str) -> int:
    """Examples of a split's source.

    Raises:
      FeatureCacheError: the source cannot tell.
    """
    found = task.source.num_input_examples(split)
    if found is None:
        raise FeatureCacheError(f"task '{task.name}': its source cannot tell how many examples {split!r} has")
    return int(found)


def check_cached(provider: seqio.Task | seqio.Mixture) -> None:
    """Refuses tasks that are not in any folder of caches.

    Raises:
      FeatureCacheError: one is not.
    """
    for task in tasks_of(provider):
        if not task.cache_dir:
            raise FeatureCacheError(
                f"task '{task.name}' is not cached in {list(seqio.get_global_cache_dirs())}: write a cache with "
                "python -m slm_jax.cache_features and name its folder in --seqio_additional_cache_dirs, or set "
                "USE_CACHED_TASKS = False"
            )


def check_encoder(provider: seqio.Task | seqio.Mixture, identity: Mapping[str, str]) -> None:
    """Refuses cached features of another encoder than the one that is loaded.

    Args:
      provider: of cached tasks.
      identity: of what is loaded now.

    Raises:
      FeatureCacheError: a cache was made by another one, or there is none.
    """
    check_cached(provider)
    for task in tasks_of(provider):
        path = pathlib.Path(task.cache_dir) / ENCODER
        if path.is_file():  # else it holds speech
            made_by = json.loads(path.read_text())
            made_by.pop("dtype")
            _compare(path, made_by, identity)


def _check_same(folder: pathlib.Path, made_by: Mapping[str, str]) -> None:
    path = folder / ENCODER
    if path.is_file():
        _compare(path, json.loads(path.read_text()), made_by)
    elif any(folder.iterdir()):
        raise FeatureCacheError(f"{folder} holds something else than features: choose another folder of caches")


def _compare(path: pathlib.Path, made_by: Mapping[str, str], identity: Mapping[str, str]) -> None:
    differ = sorted(name for name in made_by.keys() | identity.keys() if made_by.get(name) != identity.get(name))
    if differ:
        parts = "; ".join(f"{name} was {made_by.get(name)} and is {identity.get(name)}" for name in differ)
        raise FeatureCacheError(f"{path}: the features were made by something else: {parts}. Cache them again")


def _write_split(
    task: seqio.Task,
    split: str,
    *,
    folder: pathlib.Path,
    encode: Encode,
    dtype: str,
    progress: Callable[[int], None],
) -> None:
    total = num_examples(task, split)
    shards = -(-total // SHARD_EXAMPLES)
    source = task.source.get_dataset(split=split, shuffle=False)
    written = 0
    info: dict[str, Any] = {}
    for shard in range(shards):
        path = folder / f"{split}.tfrecord-{shard:05d}-of-{shards:05d}"
        if not path.is_file() or shard == shards - 1:  # the last one again: it tells what examples look like
            part = source.skip(shard * SHARD_EXAMPLES).take(SHARD_EXAMPLES)
            examples = list(_examples(task, part, encode=encode, dtype=dtype))
            info = {name: _description(value) for name, value in examples[-1].items()}
            _write_records(path, examples)
        found = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        written += found
        progress(found)
    details = {"num_shards": shards, "features": info, "seqio_version": seqio.__version__}
    (folder / f"info.{split}.json").write_text(json.dumps(details, indent=1) + "\n")
    (folder / f"stats.{split}.json").write_text(json.dumps({"examples": written}) + "\n")


def _examples(task: seqio.Task, source: tf.data.Dataset, *, encode: Encode, dtype: str) -> Iterator[dict[str, Any]]:
    examples = list(task.preprocess_precache(source, seed=0).as_numpy_iterator())
    for example, features in zip(examples, encode([example.pop("speech") for example in examples]), strict=True):
        stored = np.ascontiguousarray(features, np.dtype(dtype))
        bytes_and_shape = {f"{_NAME}_{dtype}": np.array(stored.tobytes(), object)}
        yield example | bytes_and_shape | {f"{_NAME}_shape": np.array(stored.shape, np.int32)}


def _description(value: Any) -> dict[str, Any]:
    tensor = tf.constant(value)
    shape = tensor.shape.as_list()
    return {"shape": [None, *shape[1:]] if shape else [], "dtype": tensor.dtype.name}


def _write_records(path: pathlib.Path, examples: Sequence[Mapping[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for example in examples:
            writer.write(seqio.dict_to_tfexample(example).SerializeToString())
    partial.rename(path)
