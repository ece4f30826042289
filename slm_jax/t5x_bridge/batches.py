"""The native batches as T5X reads them."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from clu.data import dataset_iterator
from t5x import utils

from slm_jax.data import pipeline
from slm_jax.data.buckets import HostBatch


class Batches(dataset_iterator.DatasetIterator):
    """The native batches, or one shard of them; a checkpoint holds how many there have been, not what was read ahead.

    Attributes:
      open_at: gives the batches from one number on.
      position: batches given so far.
    """

    _next: HostBatch | None

    def __init__(self, open_at: Callable[..., pipeline.BatchIterator]) -> None:
        self.open_at = open_at
        self._go_to(0)
        first = next(self._batches)
        self._next = first
        # Kept: T5X asks for it while another thread reads the next batch.
        self._element_spec = {name: dataset_iterator.ArraySpec(x.dtype, x.shape) for name, x in first.items()}

    def _go_to(self, position: int) -> None:
        self.position = position
        self._batches = self.open_at(skip_batches=position)
        self._next = None

    def __next__(self) -> HostBatch:
        batch = next(self._batches) if self._next is None else self._next
        self._next = None
        self.position += 1
        return batch

    @property
    def element_spec(self) -> dict[str, dataset_iterator.ArraySpec]:
        """Shapes and types of this host's rows."""
        return self._element_spec

    def reset(self) -> None:
        """Back to the first batch."""
        self._go_to(0)

    def save(self, filename: Any) -> None:
        """Writes the place in the data."""
        pathlib.Path(filename).write_text(json.dumps({"batches": self.position}))

    def restore(self, filename: Any) -> None:
        """Goes to the place that `save` wrote."""
        self._go_to(json.loads(pathlib.Path(filename).read_text())["batches"])


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., Any],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
) -> Batches:
    """For T5X's `train.get_dataset_fn`: the batches of the native loop of the same seed, in one shape.

    Of several hosts each reads a shard; the native loop has the same batches with as many `Training.data_shards`.

    Raises:
      ValueError: examples should be packed, the batch is no multiple of the shards, or there is no such task.
    """
    del continue_from_last_checkpoint
    feature_converter_cls(pack=cfg.pack)  # refuses to pack
    open_at = functools.partial(
        pipeline.train_batches,
        cfg.mixture_or_task_name,
        task_feature_lengths=cfg.task_feature_lengths,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        split=cfg.split,
        num_epochs=num_epochs,
        use_cached=cfg.use_cached,
        data_shards=num_shards,
        shards=(shard_id,),
    )
    return Batches(open_at)
