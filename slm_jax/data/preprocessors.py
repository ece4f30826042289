"""Steps from a raw example to `speech`, `inputs` and `targets`, as SeqIO preprocessors.

A task is a list of these. The usual order, and where the cache goes (docs of `seqio.CacheDatasetPlaceholder`):

    source            speech (integers or a path), text, ..., training (1 in the train split)
    decode            speech_from_integers, or resample_speech after it
    CacheDatasetPlaceholder: what is above runs once per example, what is below in every epoch
    prompt            attach_prompt: `inputs` is the instruction
    tokens            tokenize_speech_task or tokenize_text_task: `inputs` and `targets` end with the end-of-sequence id
                      (add_teacher_inputs before the former, where a speech task is taught)
"""

import enum
import itertools
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from slm_jax.data import audio_io
from slm_jax.data.prompts import PromptTemplate
from slm_jax.data.turns import Turn, turn_of

Example = dict[str, tf.Tensor]
Features = Mapping[str, seqio.Feature]
Seed = tuple[tf.Tensor, tf.Tensor]
Preprocessor = Callable[..., tf.data.Dataset]


MOST_DROPPED_IN_A_ROW = 10_000
"""So many examples left out one after the other are an error (OverLength.DROP)."""


class Wording(enum.Enum):
    """Which wording of a prompt template an example gets."""

    TRAINED = "trained"
    """Training draws one for each example and epoch; other splits take the first."""
    FIRST = "first"
    UNSEEN = "unseen"
    """The first wording that is never trained on."""


@seqio.map_over_dataset
def rename_features(example: Example, *, names: Mapping[str, str]) -> Example:
    """Keeps only the features named: {new name: name in the example}."""
    return {new: example[old] for new, old in names.items()}


@seqio.map_over_dataset
def lower_case(example: Example, *, names: Sequence[str]) -> Example:
    """Texts in lower case."""
    return example | {name: tf.strings.lower(example[name], encoding="utf-8") for name in names}


@seqio.map_over_dataset
def speech_from_integers(example: Example) -> Example:
    """16-bit samples, in any integer type, to float32 in [-1, 1)."""
    return example | {"speech": tf.cast(example["speech"], tf.float32) / 32768.0}


@seqio.map_over_dataset
def resample_speech(example: Example, *, from_rate: int) -> Example:
    """`speech` from `from_rate` Hz to 16 kHz."""

    def convert(samples: np.ndarray) -> np.ndarray:
        return audio_io.resample(samples, from_rate=from_rate, to_rate=audio_io.SAMPLE_RATE)

    if from_rate == audio_io.SAMPLE_RATE:
        return example
    speech = tf.numpy_function(convert, [example["speech"]], tf.float32, stateful=False)
    return example | {"speech": tf.ensure_shape(speech, [None])}


def read_speech(dataset: tf.data.Dataset, *, on_error: Callable[[str, str], None] | None = None) -> tf.data.Dataset:
    """`speech` from the file at `audio`, by `audio_io.read_audio`.

    Args:
      dataset: examples with `audio` and with `source`, which says where they come from.
      on_error: if given, called with the source and the reason when a file cannot be read; the example is left out.

    Raises:
      tf.errors.InvalidArgumentError: a file cannot be read (when the example is reached, without `on_error`).
    """

    def read(path: bytes, source: bytes) -> tuple[np.ndarray, np.bool_]:
        try:
            return audio_io.read_audio(path.decode()), np.bool_(True)
        except (OSError, audio_io.AudioError) as error:
            if on_error is None:
                raise audio_io.AudioError(f"{source.decode()}: {error}") from error
            on_error(source.decode(), str(error))
            return np.zeros([0], np.float32), np.bool_(False)

    def add(example: Example) -> Example:
        speech, good = tf.numpy_function(read, [example["audio"], example["source"]], (tf.float32, tf.bool))
        return example | {"speech": tf.ensure_shape(speech, [None]), "good": tf.ensure_shape(good, [])}

    dataset = dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)
    if on_error is not None:
        dataset = dataset.filter(lambda example: example["good"])
    return dataset.map(lambda example: {name: value for name, value in example.items() if name != "good"})


@seqio.map_over_dataset
def add_empty_speech(example: Example) -> Example:
    """No speech at all: lets a text task join a mixture of speech tasks."""
    return example | {"speech": tf.zeros([0], tf.float32)}


@seqio.map_over_dataset(num_seeds=1)
def attach_prompt(
    example: Example, *, seed: Seed, template: PromptTemplate, wording: Wording = Wording.TRAINED
) -> Example:
    """The instruction becomes `inputs`; the template's fields are taken from the example.

    Raises:
      ValueError: the example lacks a field, or an unseen wording is asked of a template that has none.
    """
    missing = [name for name in template.fields if name not in example]
    if missing:
        raise ValueError(f"Prompt '{template.kind}' needs the fields {missing}; the example has {sorted(example)}")
    if wording is Wording.UNSEEN and not template.unseen:
        raise ValueError(f"Prompt '{template.kind}' has no unseen wording")
    wordings = template.unseen if wording is Wording.UNSEEN else template.trained
    choice = tf.constant(0)
    if wording is Wording.TRAINED:
        drawn = tf.random.stateless_uniform([], seed, maxval=len(wordings), dtype=tf.int32)
        choice = tf.where(tf.equal(example["training"], 1), drawn, 0)
    return example | {"inputs": tf.stack([_fill(text, example) for text in wordings])[choice]}


def _fill(wording: str, example: Example) -> tf.Tensor:
    parts = []
    for literal, field, _, _ in string.Formatter().parse(wording):
        parts += [tf.constant(literal)] + ([example[field]] if field else [])
    return tf.strings.join(parts)


@seqio.map_over_dataset
def prefer_own_prompt(example: Example) -> Example:
    """The example's `prompt`, where it is not empty, instead of the template's."""
    return example | {"inputs": tf.where(tf.equal(example["prompt"], ""), example["inputs"], example["prompt"])}


@seqio.map_over_dataset
def tokenize_speech_task(example: Example, output_features: Features) -> Example:
    """`inputs` (the instruction) and `targets` to ids with the end-of-sequence id; the texts stay as *_pretokenized."""
    return example | _tokens(example["inputs"], example["targets"], prefix=None, features=output_features)


@seqio.map_over_dataset
def tokenize_text_task(example: Example, output_features: Features) -> Example:
    """The same task in writing: the ids of `transcript` stand where a speech task has speech.

    Transcript and instruction are tokenized apart, so the instruction has the ids that it has after speech:

        speech task   speech "red ball"     inputs [Write it] eos
        text task                           inputs [red ball] [Write it] eos
    """
    return example | _tokens(
        example["inputs"], example["targets"], prefix=example["transcript"], features=output_features
    )


@seqio.map_over_dataset
def add_teacher_inputs(example: Example, output_features: Features) -> Example:
    """`teacher_inputs`: the ids that tokenize_text_task would make `inputs` of, for whoever teaches a speech task.

        speech task   speech "red ball"     inputs [Write it] eos
        text task                           inputs [red ball] [Write it] eos
        taught task   speech "red ball"     inputs [Write it] eos     teacher_inputs [red ball] [Write it] eos

    Raises:
      ValueError: the example has no `transcript`.
    """
    if "transcript" not in example:
        raise ValueError(f"A taught speech task needs a `transcript`; the example has {sorted(example)}")
    written = _tokens(example["inputs"], example["targets"], prefix=example["transcript"], features=output_features)
    return example | {"teacher_inputs": written["inputs"]}


def _tokens(inputs: tf.Tensor, targets: tf.Tensor, *, prefix: tf.Tensor | None, features: Features) -> Example:
    vocabulary = features["inputs"].vocabulary
    written = [vocabulary.encode_tf(text) for text in ([] if prefix is None else [prefix]) + [inputs]]
    turn = turn_of(vocabulary) if features["inputs"].add_eos else Turn()
    opening, closing = (tf.constant(ids, tf.int32, shape=[len(ids)]) for ids in (turn.opening, turn.closing))
    if prefix is not None:
        inputs = tf.strings.join([prefix, inputs], separator=" ")
    return {
        "inputs": tf.concat([opening, *written, closing], axis=0),
        "targets": with_eos(features["targets"].vocabulary.encode_tf(targets), features["targets"]),
        "inputs_pretokenized": inputs,
        "targets_pretokenized": targets,
    }


def with_eos(tokens: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    """`tokens` and the end-of-sequence id, if the feature wants one."""
    return tf.concat([tokens, [feature.vocabulary.eos_id]], axis=0) if feature.add_eos else tokens


class OverLength(enum.Enum):
    """What happens to an example longer than the feature lengths allow. It is never cut."""

    ERROR = "error"
    DROP = "drop"
    """Left out and counted."""


def check_lengths(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    *,
    over_length: OverLength = OverLength.ERROR,
    count_dropped: Callable[[str], None] | None = None,
) -> tf.data.Dataset:
    """Refuses, or with OverLength.DROP leaves out, examples with a feature longer than `sequence_length` says.

    Args:
      dataset: task features, before any trimming.
      sequence_length: the largest length of each feature.
      over_length: which of the two.
      count_dropped: called with the name of the feature that is too long, once an example left out.

    Raises:
      tf.errors.InvalidArgumentError: when the example is read, or when nothing but too long examples come;
        `slm_jax.data.pipeline` makes a ValueError of it.
    """
    names = [name for name in sequence_length if name in dataset.element_spec]

    def refuse(example: Example) -> Example:
        for name in names:
            length, limit = tf.shape(example[name])[0], sequence_length[name]
            tf.debugging.Assert(length <= limit, [_too_long(example, name, length, limit)])
        return example

    in_a_row = itertools.count(1)

    def keep(too_long: np.ndarray) -> np.bool_:
        nonlocal in_a_row
        if not too_long.any():
            in_a_row = itertools.count(1)
            return np.bool_(True)
        name = names[int(np.argmax(too_long))]
        if count_dropped is not None:
            count_dropped(name)
        if next(in_a_row) >= MOST_DROPPED_IN_A_ROW:  # of a repeated dataset nothing might ever come
            raise ValueError(
                f"{MOST_DROPPED_IN_A_ROW} examples in a row were left out, the last for {name} of more than "
                f"{sequence_length[name]}: raise TASK_FEATURE_LENGTHS"
            )
        return np.bool_(False)

    def fits(example: Example) -> tf.Tensor:
        too_long = tf.stack([tf.shape(example[name])[0] > sequence_length[name] for name in names])
        return tf.ensure_shape(tf.numpy_function(keep, [too_long], tf.bool), [])

    if over_length is OverLength.DROP:
        return dataset.filter(fits)
    return dataset.map(refuse, num_parallel_calls=tf.data.AUTOTUNE)


def _too_long(example: Example, name: str, length: tf.Tensor, limit: int) -> tf.Tensor:
    about = example.get("source", example.get("targets_pretokenized", tf.constant("")))
    return tf.strings.join(
        [
            f"An example has {name} of length ",
            tf.strings.as_string(length),
            f", but TASK_FEATURE_LENGTHS allows {limit}. Raise it, or choose OverLength.DROP to leave such examples "
            "out and count them. The example: ",
            tf.strings.substr(about, 0, 200),
        ]
    )
