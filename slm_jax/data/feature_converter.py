"""From task features to the arrays a speech-and-language model is fed with."""

import copy
from collections.abc import Mapping

import seqio
import tensorflow as tf

FeatureSpec = seqio.FeatureConverter.FeatureSpec
Tensors = dict[str, tf.Tensor]


class TextToTextFeatureConverter(seqio.FeatureConverter):
    """`inputs` and `targets` to padded encoder and decoder arrays.

    With {"inputs": 4, "targets": 5} and decoder_start_id 0:

        inputs                   [7, 8, 1]
        targets                  [3, 9, 4, 1]

        encoder_input_tokens     [7, 8, 1, 0]
        decoder_target_tokens    [3, 9, 4, 1, 0]
        decoder_input_tokens     [0, 3, 9, 4, 0]     targets shifted right, behind decoder_start_id
        decoder_loss_weights     [1, 1, 1, 1, 0]     1 for every real target

    Examples are padded, never cut: one that is too long is an error. Packing is refused.

    Raises:
      ValueError: packing is asked for.
    """

    TASK_FEATURES = {"inputs": FeatureSpec(dtype=tf.int32), "targets": FeatureSpec(dtype=tf.int32)}
    MODEL_FEATURES = {
        "encoder_input_tokens": FeatureSpec(dtype=tf.int32),
        "decoder_target_tokens": FeatureSpec(dtype=tf.int32),
        "decoder_input_tokens": FeatureSpec(dtype=tf.int32),
        "decoder_loss_weights": FeatureSpec(dtype=tf.float32),
    }
    PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {}

    def __init__(self, *, pack: bool = False, use_custom_packing_ops: bool = False, decoder_start_id: int = 0) -> None:
        """`pack` and `use_custom_packing_ops` are there because T5X passes them; both must be False."""
        if pack or use_custom_packing_ops:
            raise ValueError(
                f"{type(self).__name__} does not pack: every example is one row. Set DatasetConfig.pack = False "
                "and use length buckets against padding (slm_jax.data.buckets)."
            )
        super().__init__(pack=False, bos_id=decoder_start_id)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Lengths of the model's arrays."""
        targets = task_feature_lengths["targets"]
        return {
            "encoder_input_tokens": task_feature_lengths["inputs"],
            "decoder_target_tokens": targets,
            "decoder_input_tokens": targets,
            "decoder_loss_weights": targets,
        }

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        return ds.map(
            lambda example: self.convert_example(example, task_feature_lengths), num_parallel_calls=tf.data.AUTOTUNE
        )

    def convert_example(self, example: Tensors, lengths: Mapping[str, int]) -> Tensors:
        """One example's arrays; see the class."""
        targets = example["targets"]
        shifted = tf.concat([tf.constant([self.bos_id], targets.dtype), targets[:-1]], axis=0)
        return {
            "encoder_input_tokens": pad(example["inputs"], lengths["inputs"]),
            "decoder_target_tokens": pad(targets, lengths["targets"]),
            "decoder_input_tokens": pad(shifted[: tf.size(targets)], lengths["targets"]),
            "decoder_loss_weights": pad(tf.ones_like(targets, tf.float32), lengths["targets"]),
        }


class SpeechToTextFeatureConverter(TextToTextFeatureConverter):
    """`speech` or `speech_embeddings`, `inputs`, `targets` and, of taught tasks, `teacher_inputs` to padded arrays.

    See TextToTextFeatureConverter for the tokens. With {"speech": 6, "inputs": 4, "targets": 5, "teacher_inputs": 7}:

        speech                  [.1, -.2, .3, .4]
        inputs, targets         as above
        teacher_inputs          [5, 6, 7, 8, 1]

        speech                  [.1, -.2, .3, .4, 0, 0]
        speech_length           4
        the tokens              as above
        teacher_input_tokens    [5, 6, 7, 8, 1, 0, 0]

    Cached features of a speech encoder come with a mask: with {"speech_embeddings": 3}

        speech_embeddings       [[.5, .6], [.7, .8]]

        speech_embeddings       [[.5, .6], [.7, .8], [0, 0]]
        speech_mask             [True, True, False]

    A dataset without either is a text task: the arrays are those of TextToTextFeatureConverter. A length given for what
    a dataset does not have does not matter. In a mixture of both kinds the text tasks have empty speech
    (`preprocessors.add_empty_speech`), so their rows have speech_length 0. A dataset without `teacher_inputs` has no
    teacher_input_tokens.
    """

    TASK_FEATURES = TextToTextFeatureConverter.TASK_FEATURES | {
        "speech": FeatureSpec(dtype=tf.float32),
        "speech_embeddings": FeatureSpec(dtype=tf.float32, rank=2),
        "teacher_inputs": FeatureSpec(dtype=tf.int32),
    }
    MODEL_FEATURES = TextToTextFeatureConverter.MODEL_FEATURES | {
        "speech": FeatureSpec(dtype=tf.float32),
        "speech_length": FeatureSpec(dtype=tf.int32, rank=0),
        "speech_embeddings": FeatureSpec(dtype=tf.float32, rank=2),
        "speech_mask": FeatureSpec(dtype=tf.bool),
        "teacher_input_tokens": FeatureSpec(dtype=tf.int32),
    }

    def __call__(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        """The dataset of model features."""
        absent = {"speech", "speech_embeddings", "teacher_inputs"} - set(ds.element_spec)
        lengths = {name: length for name, length in task_feature_lengths.items() if name not in absent}
        fitting = copy.copy(self)  # SeqIO asks a converter for all features that it names
        fitting.TASK_FEATURES = {name: spec for name, spec in self.TASK_FEATURES.items() if name not in absent}
        fitting.MODEL_FEATURES = {name: self.MODEL_FEATURES[name] for name in self.get_model_feature_lengths(lengths)}
        return super(SpeechToTextFeatureConverter, fitting).__call__(ds, lengths)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Lengths of the model's arrays; 1 stands for the scalar speech_length."""
        lengths = super().get_model_feature_lengths(task_feature_lengths)
        if "speech" in task_feature_lengths:
            lengths |= {"speech": task_feature_lengths["speech"], "speech_length": 1}
        if "speech_embeddings" in task_feature_lengths:
            frames = task_feature_lengths["speech_embeddings"]
            lengths |= {"speech_embeddings": frames, "speech_mask": frames}
        if "teacher_inputs" in task_feature_lengths:
            lengths |= {"teacher_input_tokens": task_feature_lengths["teacher_inputs"]}
        return lengths

    def convert_example(self, example: Tensors, lengths: Mapping[str, int]) -> Tensors:
        """One example's arrays; see the class."""
        arrays = super().convert_example(example, lengths)
        if "speech" in lengths:
            arrays |= {"speech": pad(example["speech"], lengths["speech"]), "speech_length": tf.size(example["speech"])}
        if "speech_embeddings" in lengths:
            frames, room = example["speech_embeddings"], lengths["speech_embeddings"]
            padded = tf.pad(frames, [[0, room - tf.shape(frames)[0]], [0, 0]])
            mask = tf.range(room) < tf.shape(frames)[0]
            arrays |= {"speech_embeddings": tf.ensure_shape(padded, [room, None]), "speech_mask": mask}
        if "teacher_inputs" in lengths:
            arrays |= {"teacher_input_tokens": pad(example["teacher_inputs"], lengths["teacher_inputs"])}
        return arrays


def pad(values: tf.Tensor, length: int) -> tf.Tensor:
    """`values` [L] with zeros up to `length`; longer ones fail."""
    return tf.ensure_shape(tf.pad(values, [[0, length - tf.size(values)]]), [length])
