"""The tasks over spoken scenes, on stand-in data with the dataset's features."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from slm_jax.data.pipeline import eval_batches, eval_texts, train_batches
from slm_jax.tasks import scenes
from slm_jax.tasks.name_lists import ALL_SIZES
from slm_jax.tasks.spoken_scenes import families
from slm_jax.tasks.spoken_scenes.names import HELD_OUT_NAMES, TRAIN_NAMES

LENGTHS = {"speech": 1600, "inputs": 640, "targets": 64}
COUNT = 6


def as_dataset(self: tfds.core.DatasetBuilder, split: str, *args, **kwargs) -> tf.data.Dataset:
    """COUNT examples; every text feature holds its own name, every other example has a name."""
    names = TRAIN_NAMES if split == "train" else HELD_OUT_NAMES

    def example(i: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {}
        for name, feature in self.info.features.items():
            if name == "speech":
                values[name] = tf.fill([800], tf.constant(16384, tf.int16))
            elif feature.tf_dtype == tf.string:
                values[name] = tf.strings.join(["the ", name, " ", tf.strings.as_string(i)])
            else:
                values[name] = tf.ones(feature.shape, feature.tf_dtype)
        return values | {"name": tf.where(i % 2 == 0, tf.gather(tf.constant(names), i), "")}

    return tf.data.Dataset.range(COUNT).map(example)


@pytest.fixture(scope="module", autouse=True)
def mocked():
    with tfds.testing.mock_data(as_dataset_fn=as_dataset, policy=tfds.testing.MockPolicy.USE_CODE):
        yield


def texts(name: str, split: str = "test") -> list[dict[str, str]]:
    return list(eval_texts(name, task_feature_lengths=LENGTHS, split=split))


def training_prompts(name: str, count: int = 16) -> set[str]:
    batches = train_batches(name, task_feature_lengths=LENGTHS, batch_size=8, seed=1)
    ids = np.concatenate([next(batches)["encoder_input_tokens"] for _ in range(count)])
    return {scenes.VOCABULARY.decode([int(i) for i in row if i > 1]) for row in ids}


def test_everything_the_module_promises_is_registered() -> None:
    for family in families.FAMILIES:
        for prefix in ("scenes_quickstart", "scenes_full", "scenes_tiny", "scenes_text", "scenes_tiny_text"):
            for suffix in ("", "_unseen_wording"):
                task = seqio.TaskRegistry.get(f"{prefix}_{family.name}{suffix}")
                assert set(task.splits) == {"train", "validation", "test"} and task.metric_fns
    mixtures = {
        "scenes_quickstart": {"scenes_quickstart_transcribe", "scenes_quickstart_translate_de"},
        "scenes_tiny": {"scenes_tiny_transcribe", "scenes_tiny_translate_de"},
        "scenes_full": {f"scenes_full_{name}" for name in ("transcribe", "translate_de", "translate_es")},
        "scenes_encoder": {
            f"scenes_{config}_transcribe_silence" for config in ("full", "drill", "chorus", "chorus_drill")
        },
        "scenes_text_all": {f"scenes_text_{f.name}" for f in families.FAMILIES} | {"scenes_text_span_corruption"},
    }
    for name, tasks in mixtures.items():
        assert {task.name for task in seqio.MixtureRegistry.get(name).tasks} == tasks


def test_speech_and_its_target() -> None:
    (batch,) = eval_batches("scenes_quickstart_translate_de", task_feature_lengths=LENGTHS, batch_size=6, split="test")
    np.testing.assert_array_equal(batch["speech"], [[0.5] * 800 + [0] * 800] * COUNT)
    found = texts("scenes_quickstart_translate_de")
    prompt = families.FAMILY["translate_de"].wordings.trained[0]
    assert found == [{"inputs": prompt, "targets": f"the text_de {i}"} for i in range(COUNT)]


def test_text_has_the_same_instruction_behind_the_transcript() -> None:
    def inputs(name: str) -> np.ndarray:
        (batch,) = eval_batches(name, task_feature_lengths=LENGTHS, batch_size=6, split="test")
        return batch["encoder_input_tokens"][0]

    spoken, written = inputs("scenes_tiny_tense"), inputs("scenes_tiny_text_tense")
    transcript = scenes.VOCABULARY.encode("the text 0")
    np.testing.assert_array_equal(written[: len(transcript)], transcript)
    np.testing.assert_array_equal(written[len(transcript) :], spoken[: -len(transcript)])


def test_a_teacher_reads_the_inputs_of_the_text_task() -> None:
    def batch(name: str) -> dict[str, np.ndarray]:
        (found,) = eval_batches(name, task_feature_lengths=lengths, batch_size=6, split="test")
        return found

    lengths = LENGTHS | {"teacher_inputs": 640}
    taught, spoken = batch("scenes_tiny_translate_de_taught"), batch("scenes_tiny_translate_de")
    written = batch("scenes_tiny_text_translate_de")
    np.testing.assert_array_equal(taught.pop("teacher_input_tokens"), written["encoder_input_tokens"])
    assert taught.keys() == spoken.keys()
    for name, value in spoken.items():
        np.testing.assert_array_equal(taught[name], value, err_msg=name)


@pytest.mark.parametrize("config", scenes.SPEECH_MIXTURES)
def test_every_speech_mixture_has_one_with_a_teacher(config: str) -> None:
    plain, taught = (seqio.MixtureRegistry.get(f"scenes_{config}{ending}") for ending in ("", "_taught"))
    assert [f"{task.name}_taught" for task in plain.tasks] == [task.name for task in taught.tasks]


def test_a_teacher_reads_the_instruction_that_was_drawn_behind_what_was_said() -> None:
    """The transcripts of training are misheard for text tasks alone."""
    lengths = LENGTHS | {"teacher_inputs": 640}
    batch = next(train_batches("scenes_tiny_taught", task_feature_lengths=lengths, batch_size=32, seed=0))
    transcripts = {tuple(scenes.VOCABULARY.encode(f"the text {i}")) for i in range(COUNT)}
    instructions = set()
    for inputs, read in zip(batch["encoder_input_tokens"], batch["teacher_input_tokens"], strict=True):
        instruction, whole = (tuple(row[row > 0].tolist()) for row in (inputs, read))
        assert whole[-len(instruction) :] == instruction and whole[: -len(instruction)] in transcripts
        instructions.add(instruction)
    assert len(instructions) > 2


def test_training_draws_trained_wordings_only() -> None:
    wordings = families.FAMILY["summary"].wordings
    drawn = training_prompts("scenes_tiny_summary")
    assert drawn <= set(wordings.trained) and len(drawn) > len(wordings.trained) / 2
    assert {text["inputs"] for text in texts("scenes_tiny_summary_unseen_wording")} <= set(wordings.unseen)


def test_questions_are_filled_in() -> None:
    assert texts("scenes_tiny_question")[2]["inputs"].endswith("the question 2")


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_hold_the_spoken_name_once_among_names_of_the_split(split: str) -> None:
    inventory = TRAIN_NAMES if split == "train" else HELD_OUT_NAMES
    found = texts("scenes_tiny_bias", split)
    for i, text in enumerate(found):
        names = [word for word in text["inputs"].split() if word in {*TRAIN_NAMES, *HELD_OUT_NAMES}]
        assert len(set(names)) == len(names) and set(names) <= set(inventory)
        assert len(names) == 10 if split == "test" else len(names) in ALL_SIZES
        if i % 2 == 0 and split == "test":
            assert names.count(inventory[i]) == 1
    if split == "test":
        assert found == list(eval_texts("scenes_tiny_bias", task_feature_lengths=LENGTHS, split=split, seed=5))


def test_training_draws_new_lists() -> None:
    lists = {prompt.split()[-1] for prompt in training_prompts("scenes_tiny_text_bias", count=4)}
    assert len(lists) > 2 * COUNT


def test_mixtures_give_batches() -> None:
    spoken = next(train_batches("scenes_tiny", task_feature_lengths=LENGTHS, batch_size=8, seed=0))
    assert (spoken["speech_length"] == 800).all()
    written = next(train_batches("scenes_tiny_text_all", task_feature_lengths=LENGTHS, batch_size=8, seed=0))
    assert "speech" not in written and written["decoder_loss_weights"].any(axis=1).all()


def test_span_corruption_uses_sentinels() -> None:
    text = texts("scenes_tiny_text_span_corruption")[0]
    assert "<extra_id_0>" in text["inputs"] and "<extra_id_0>" in text["targets"]
