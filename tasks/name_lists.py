"""Instructions that list names which may occur.

Training lists one to a hundred names, most lists with the one that is spoken. Where a transcript stands in the place of
speech, its name is often misheard: if the list has the right one, so has the target, and the language model learns to
correct what it was told by the list; otherwise the target is what was heard.
"""

import dataclasses
import functools
import random
from collections.abc import Collection, Sequence

import numpy as np
import seqio
import tensorflow as tf

from slm_jax.data.preprocessors import Example, Seed
from slm_jax.tasks.spoken_scenes import names as names_lib
from slm_jax.tasks.spoken_scenes.mishearing import mishear

ALL_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 10, 12, 16, 20, 30, 50, 50, 100)
SHORT_SIZES = (1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10)
WITHOUT_SHARE = 0.5
"""Names spoken in training that their list lacks (docs/decisions.md, 36)."""
DRILLED_NAMES = 5
"""At most, in a drill."""
MISHEARD_SHARE = 0.2
"""Names of written transcripts that are misheard."""


@dataclasses.dataclass(frozen=True)
class NameList:
    """Which names an instruction lists.

    Attributes:
      size: how many, outside training.
      with_name: whether the one that is spoken is among them, outside training.
      trained_sizes: of which training draws.
      drilled: part of the written transcripts of training that are a few names instead of the sentence. They teach to
        look a name up: in sentences it is one word of ten.
    """

    size: int = 10
    with_name: bool = True
    trained_sizes: tuple[int, ...] = ALL_SIZES
    drilled: float = 0.5


SHORT_LISTS = NameList(trained_sizes=SHORT_SIZES, drilled=0.8)
"""What a language model begins with: it learns to choose among two before it can choose among fifty."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """An instruction's names, and the transcript and target that go with them."""

    names: tuple[str, ...]
    transcript: str
    target: str


def list_names(name: str, transcript: str, *, name_list: NameList, training: bool, written: bool, seed: int) -> Listed:
    """Draws the list for an example of the family `bias`, whose target is its transcript.

    Args:
      name: what is spoken; '' if the sentence has no name.
      transcript: the sentence.
      name_list: which names.
      training: draws the size, and whether the name is among the names of the list.
      written: the transcript stands in the place of speech, and may be misheard.
      seed: decides what is drawn.
    """
    rng = random.Random(seed)
    inventory = names_lib.TRAIN_NAMES if training else names_lib.HELD_OUT_NAMES
    if training:
        size, with_name = rng.choice(name_list.trained_sizes), rng.random() >= WITHOUT_SHARE
        name_list = dataclasses.replace(name_list, size=size, with_name=with_name)
        if written and rng.random() < name_list.drilled:
            return _drill(inventory, size=name_list.size, rng=rng)
    listed = names_lib.name_list(
        name, inventory=inventory, size=name_list.size, seed=rng.getrandbits(32), with_name=name_list.with_name
    )
    if not (name and written):
        return Listed(listed, transcript, transcript)
    heard = _hear(name, listed=listed, rng=rng)
    misheard = " ".join(heard if word == name else word for word in transcript.split())
    return Listed(listed, misheard, transcript if name in listed else misheard)


def _hear(name: str, *, listed: Collection[str], rng: random.Random) -> str:
    """The name, often misheard, but never for another one of the list: then no listener could tell."""
    heard = mishear(name, rng=rng) if rng.random() < MISHEARD_SHARE else name
    return name if heard in listed else heard


def _drill(inventory: Sequence[str], *, size: int, rng: random.Random) -> Listed:
    said = rng.sample(inventory, rng.randint(1, DRILLED_NAMES))
    known = [name for name in said if rng.random() >= WITHOUT_SHARE]
    others = [name for name in rng.sample(inventory, size + len(said)) if name not in said]
    listed = [*known, *others[: max(size - len(known), 0)]]
    rng.shuffle(listed)
    heard = [_hear(name, listed=listed, rng=rng) for name in said]
    answers = [name if name in known else other for name, other in zip(said, heard, strict=True)]
    return Listed(tuple(listed), " ".join(heard), " ".join(answers))


@seqio.map_over_dataset(num_seeds=1)
def draw_names(example: Example, *, seed: Seed, name_list: NameList, written: bool) -> Example:
    """`names`, a list as `list_names` draws it, and the transcript and targets that go with it.

    Training draws another list in every epoch; elsewhere the example's id decides.
    """

    def draw(name: bytes, transcript: bytes, training: np.int32, seed: np.int64) -> tuple[bytes, bytes, bytes]:
        listed = _draw(name.decode(), transcript.decode(), training=bool(training), seed=int(seed))
        return " ".join(listed.names).encode(), listed.transcript.encode(), listed.target.encode()

    _draw = functools.partial(list_names, name_list=name_list, written=written)
    fixed = tf.strings.to_hash_bucket_fast(example["id"], 2**31 - 1)
    chosen = tf.where(tf.equal(example["training"], 1), tf.cast(seed[0], tf.int64), fixed)
    inputs = [example["name"], example["transcript"], example["training"], chosen]
    drawn = tf.numpy_function(draw, inputs, (tf.string, tf.string, tf.string))
    fields = zip(("names", "transcript", "targets"), drawn, strict=True)
    return example | {field: tf.ensure_shape(value, []) for field, value in fields}
