"""What a frozen speech encoder makes of a task's speech, computed once for all epochs and runs.

    python -m slm_jax.cache_features --gin_file=FILE --output_cache_dir=DIR

FILE is an experiment's gin file. DIR then holds a SeqIO cache of every task of its MIXTURE_OR_TASK_NAME. The same
experiment, started with --gin.USE_CACHED_TASKS=True --seqio_additional_cache_dirs=DIR, trains from it: an epoch costs
what adapter and language model cost. Started again, it goes on where it stopped.
"""

import pathlib
from collections.abc import Sequence

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from slm_jax import gin_utils
from slm_jax.data import feature_cache, pipeline
from slm_jax.data.audio_io import SAMPLE_RATE
from slm_jax.training.run import Training
from slm_jax.typing import Batch, PyTree
from slm_jax.weights import foundation

FLAGS = flags.FLAGS

flags.DEFINE_string("output_cache_dir", None, "The folder of caches.", required=True)
flags.DEFINE_enum("dtype", "float32", list(feature_cache.DTYPES), "What features are stored as.")
flags.DEFINE_integer("encode_batch_size", 16, "Utterances encoded at once.")

ROUND_TO = SAMPLE_RATE
"""Speech is padded to whole seconds, so that utterances of like length share one compiled program."""
COMPONENT = "speech_encoder"


class Encoder:
    """A frozen encoder and reducer over any number of utterances.

    Args:
      model: a speech-and-language model.
      params: those of its speech encoder.
      batch_size: utterances encoded at once.
    """

    def __init__(self, model: nn.Module, params: PyTree, *, batch_size: int) -> None:
        self.params = {COMPONENT: params}
        self.batch_size = batch_size
        self._encode = jax.jit(lambda params, batch: model.apply({"params": params}, batch, method="encode_speech"))

    def __call__(self, speeches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The features [S, D] of every utterance [N], in order."""
        found: dict[int, np.ndarray] = {}
        order = sorted(range(len(speeches)), key=lambda i: len(speeches[i]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            frames = self._encode(self.params, self._batch([speeches[i] for i in chosen]))
            embeddings, mask = np.asarray(frames.embeddings), np.asarray(frames.mask)
            found |= {i: embeddings[row, mask[row]] for row, i in enumerate(chosen)}
        return [found[i] for i in range(len(speeches))]

    def _batch(self, speeches: Sequence[np.ndarray]) -> Batch:
        longest = max(map(len, speeches))
        speech = np.zeros((self.batch_size, max(-(-longest // ROUND_TO), 1) * ROUND_TO), np.float32)
        lengths = np.zeros(self.batch_size, np.int32)
        for row, samples in enumerate(speeches):
            speech[row, : len(samples)], lengths[row] = samples, len(samples)
        return {"speech": jnp.asarray(speech), "speech_length": jnp.asarray(lengths)}


def main(unused: Sequence[str]) -> None:
    """Writes the caches of all tasks.

    Raises:
      FileNotFoundError: the encoder has no source.
      ValueError: a cache of something else is in the way.
    """
    gin_utils.parse_configuration()
    gin_utils.set_up_jax()
    training = gin.get_configurable(Training)()
    if COMPONENT not in training.sources:
        raise FileNotFoundError(
            f"run.Training.sources has no {COMPONENT!r}: only a frozen encoder has features to keep"
        )
    shapes = training.shapes[COMPONENT]
    loaded = foundation.load_component(training.sources[COMPONENT], component=COMPONENT, shapes=shapes)
    identity = training.feature_identity({COMPONENT: loaded.fingerprint})
    encoder = Encoder(training.objective.model, loaded.parameters, batch_size=FLAGS.encode_batch_size)
    for task in feature_cache.tasks_of(pipeline.get_mixture_or_task(gin_utils.macro("MIXTURE_OR_TASK_NAME"))):
        total = sum(feature_cache.num_examples(task, split) for split in task.splits)
        with tqdm.tqdm(total=total, unit=" utterances", desc=task.name, mininterval=1.0) as progress:
            feature_cache.write_task(
                task,
                cache=pathlib.Path(FLAGS.output_cache_dir).expanduser(),
                encode=encoder,
                identity=identity,
                dtype=FLAGS.dtype,
                progress=progress.update,
            )


if __name__ == "__main__":
    gin_utils.run(main, join=gin_utils.stay_alone)
