"""The converter's worked arrays, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from slm_jax.data.feature_converter import SpeechToTextFeatureConverter, TextToTextFeatureConverter

LENGTHS = {"speech": 6, "inputs": 4, "targets": 5}
TAUGHT_LENGTHS = LENGTHS | {"teacher_inputs": 7}
TOKENS = {"inputs": [7, 8, 1], "targets": [3, 9, 4, 1]}
CONVERTED_TOKENS = {
    "encoder_input_tokens": [7, 8, 1, 0],
    "decoder_target_tokens": [3, 9, 4, 1, 0],
    "decoder_input_tokens": [0, 3, 9, 4, 0],
    "decoder_loss_weights": [1, 1, 1, 1, 0],
}


def dataset(*examples: dict) -> tf.data.Dataset:
    signature = {n: tf.TensorSpec([None], tf.float32 if n == "speech" else tf.int32) for n in examples[0]}
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)


def convert(*examples: dict, lengths: dict = LENGTHS, **options) -> list[dict]:
    converter = SpeechToTextFeatureConverter(**options)
    return list(converter(dataset(*examples), lengths).as_numpy_iterator())


def test_the_drawn_speech_example() -> None:
    (row,) = convert({"speech": [0.1, -0.2, 0.3, 0.4], **TOKENS})
    expected = CONVERTED_TOKENS | {"speech": [0.1, -0.2, 0.3, 0.4, 0, 0], "speech_length": 4}
    assert set(row) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(row[name], value, atol=1e-7, err_msg=name)


def test_the_drawn_taught_example() -> None:
    (row,) = convert({"speech": [0.5], "teacher_inputs": [5, 6, 7, 8, 1], **TOKENS}, lengths=TAUGHT_LENGTHS)
    assert set(row) == {*CONVERTED_TOKENS, "speech", "speech_length", "teacher_input_tokens"}
    for name, value in (CONVERTED_TOKENS | {"teacher_input_tokens": [5, 6, 7, 8, 1, 0, 0]}).items():
        np.testing.assert_array_equal(row[name], value, err_msg=name)


def test_without_a_teacher_a_length_for_it_does_not_matter() -> None:
    example = {"speech": [0.5], **TOKENS}
    (row,), (expected,) = convert(example, lengths=TAUGHT_LENGTHS), convert(example)
    assert set(row) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(row[name], value, err_msg=name)


def test_types() -> None:
    (row,) = convert({"speech": [0.5], "teacher_inputs": [1], **TOKENS}, lengths=TAUGHT_LENGTHS)
    types = {name: np.asarray(value).dtype for name, value in row.items()}
    floats = {"speech", "decoder_loss_weights"}
    assert types == {name: np.float32 if name in floats else np.int32 for name in row}
    assert not any(name.endswith("_segment_ids") for name in row)


@pytest.mark.parametrize("lengths", [LENGTHS, {"inputs": 4, "targets": 5}])
def test_a_text_task_has_no_speech_arrays(lengths: dict) -> None:
    (row,) = convert(TOKENS, lengths=lengths)
    assert set(row) == set(CONVERTED_TOKENS)
    for name, value in CONVERTED_TOKENS.items():
        np.testing.assert_array_equal(row[name], value)


def test_empty_speech_has_length_zero() -> None:
    spoken, written = convert({"speech": [0.5, 0.5], **TOKENS}, {"speech": [], **TOKENS})
    assert (spoken["speech_length"], written["speech_length"]) == (2, 0)
    assert not written["speech"].any()


def test_the_start_id_leads_the_decoder_inputs() -> None:
    (row,) = convert(TOKENS, decoder_start_id=2)
    np.testing.assert_array_equal(row["decoder_input_tokens"], [2, 3, 9, 4, 0])
    (row,) = convert({"speech": [0.5], **TOKENS}, decoder_start_id=2)
    np.testing.assert_array_equal(row["decoder_input_tokens"], [2, 3, 9, 4, 0])


def test_an_id_of_zero_inside_the_targets_counts() -> None:
    (row,) = convert({"inputs": [7], "targets": [3, 0, 1]})
    np.testing.assert_array_equal(row["decoder_loss_weights"], [1, 1, 1, 0, 0])


def test_empty_targets() -> None:
    (row,) = convert({"inputs": [7], "targets": []})
    assert not row["decoder_loss_weights"].any()


@pytest.mark.parametrize("name", ["speech", "inputs", "targets", "teacher_inputs"])
def test_nothing_is_cut(name: str) -> None:
    example = {"speech": [0.5], "teacher_inputs": [1], **TOKENS}
    example[name] = list(range(1, TAUGHT_LENGTHS[name] + 2))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{name}\\\\?' has length not less"):
        convert(example, lengths=TAUGHT_LENGTHS)


@pytest.mark.parametrize("options", [{"pack": True}, {"use_custom_packing_ops": True}])
@pytest.mark.parametrize("converter", [SpeechToTextFeatureConverter, TextToTextFeatureConverter])
def test_packing_is_refused(converter: type, options: dict) -> None:
    with pytest.raises(ValueError, match="does not pack"):
        converter(**options)


def test_a_speech_task_needs_a_length_for_speech() -> None:
    with pytest.raises(ValueError, match="missing features specified in the TASK_FEATURES: {'speech'}"):
        convert({"speech": [0.5], **TOKENS}, lengths={"inputs": 4, "targets": 5})


def test_a_taught_task_needs_a_length_for_the_teacher() -> None:
    with pytest.raises(ValueError, match="missing features specified in the TASK_FEATURES: {'teacher_inputs'}"):
        convert({"speech": [0.5], "teacher_inputs": [1], **TOKENS})
