"""Cached features: what is written is what is read, by whom it was made, and going on where it stopped."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from slm_jax.data import feature_cache, pipeline, vocabularies
from slm_jax.data.feature_cache import FeatureCacheError
from slm_jax.data.prompts import TRANSCRIBE
from slm_jax.tasks.registration import TaskDefinition

IDENTITY = {"speech_encoder": "sha256:a", "front_end": "sha256:b", "reducer": "sha256:c"}
LENGTHS = {"speech": 64, "speech_embeddings": 14, "inputs": 40, "targets": 12}
COUNT = 5


def speech_of(number):
    return np.linspace(-1, 1, 10 + 4 * number, dtype=np.float32)


def encode(speeches):
    """Pairs of samples and their squares: [N // 2, 4]."""
    pairs = [speech[: len(speech) // 2 * 2].reshape(-1, 2) for speech in speeches]
    return [np.concatenate([pair, pair**2 / 3], axis=1) for pair in pairs]


def make_task(name="cached", count=COUNT):
    def examples(split, shuffle_files, seed=None):
        numbers = tf.data.Dataset.range(count)
        speeches = tf.data.Dataset.from_generator(
            lambda: map(speech_of, range(count)), output_signature=tf.TensorSpec([None], tf.float32)
        )
        return tf.data.Dataset.zip((numbers, speeches)).map(
            lambda number, speech: {
                "speech": speech,
                "transcript": tf.strings.join(["text ", tf.strings.as_string(number)]),
                "targets": tf.strings.join(["text ", tf.strings.as_string(number)]),
                "training": tf.constant(0),
            }
        )

    definition = TaskDefinition(
        name=name,
        source=seqio.FunctionDataSource(
            examples, splits=["train", "test"], num_input_examples=dict.fromkeys(("train", "test"), count)
        ),
        decode=(),
        template=TRANSCRIBE,
        vocabulary=vocabularies.byte_vocabulary(),
    )
    return seqio.Task(
        name,
        source=definition.source,
        preprocessors=definition.preprocessors(),
        output_features=definition.output_features(),
    )


@pytest.fixture
def cache(tmp_path):
    """The folder, known to SeqIO for as long as the test runs."""
    before = list(seqio.get_global_cache_dirs())
    seqio.set_global_cache_dirs([str(tmp_path)])
    yield tmp_path
    seqio.set_global_cache_dirs(before)


def write(cache, task=None, **changes):
    task = task or make_task()
    feature_cache.write_task(task, **(dict(cache=cache, encode=encode, identity=IDENTITY, dtype="float32") | changes))
    return task


def batch_of(task, **options):
    (batch,) = pipeline.eval_batches(task, task_feature_lengths=LENGTHS, batch_size=COUNT, split="test", **options)
    order = np.argsort(batch["decoder_target_tokens"][:, 5])
    return {name: values[order] for name, values in batch.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_a_cached_task_has_features_in_place_of_speech(cache, dtype, tolerance):
    write(cache, dtype=dtype)
    plain, cached = batch_of(make_task()), batch_of(make_task(), use_cached=True)
    assert plain.keys() - cached.keys() == {"speech", "speech_length"}
    assert cached.keys() - plain.keys() == {"speech_embeddings", "speech_mask"}
    for name in plain.keys() & cached.keys():
        np.testing.assert_array_equal(plain[name], cached[name])
    for number in range(COUNT):
        (features,) = encode([speech_of(number)])
        assert cached["speech_mask"][number].sum() == len(features)
        np.testing.assert_allclose(cached["speech_embeddings"][number, : len(features)], features, atol=tolerance)
        assert not cached["speech_embeddings"][number, len(features) :].any()


def test_buckets_and_padding_count_frames(cache):
    task = write(cache)
    small = {"speech": 16, "speech_embeddings": 6, "inputs": 40, "targets": 12}
    batches = pipeline.eval_batches(
        task,
        task_feature_lengths=LENGTHS,
        buckets=[pipeline.Bucket(small), pipeline.Bucket(LENGTHS)],
        batch_size=2,
        split="test",
        use_cached=True,
    )
    assert sorted({batch["speech_embeddings"].shape for batch in batches}) == [(2, 6, 4), (2, 14, 4)]
    ratio = batches.padding_ratio()["speech_embeddings"]
    frames = sum(len(features) for features in encode([speech_of(number) for number in range(COUNT)]))
    assert ratio == pytest.approx(1 - frames / (1 * 6 + 4 * 14))


def test_examples_to_decode_may_come_from_the_cache(cache):
    write(cache)
    settings = dict(task_feature_lengths=LENGTHS, batch_size=COUNT, split="test")
    ((plain, texts),) = pipeline.eval_examples(make_task(), **settings)
    ((cached, same),) = pipeline.eval_examples(make_task(), use_cached=True, **settings)
    assert "speech" in plain and "speech_embeddings" in cached
    assert texts == same and len(texts) == COUNT


def test_without_lengths_of_features_a_model_is_shaped_by_speech():
    shapes = pipeline.batch_shapes(task_feature_lengths=LENGTHS, batch_size=2)
    assert "speech" in shapes
    assert "speech_embeddings" not in shapes


def test_an_interrupted_cache_goes_on(cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_EXAMPLES", 2)
    encoded = []

    def interrupted(speeches):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.extend(speeches)
        return encode(speeches)

    with pytest.raises(KeyboardInterrupt):
        write(cache, encode=interrupted)
    with pytest.raises(FeatureCacheError, match="task 'cached' is not cached in"):
        batch_of(make_task(), use_cached=True)
    seen = []
    write(cache, encode=lambda speeches: seen.extend(speeches) or encode(speeches))
    assert len(seen) == 2 * COUNT - 2
    cached = batch_of(make_task(), use_cached=True)
    assert cached["speech_mask"].sum() == sum(len(speech_of(number)) // 2 for number in range(COUNT))


def test_progress_counts_all_examples(cache):
    counts = []
    write(cache, progress=counts.append)
    assert sum(counts) == 2 * COUNT


def test_features_of_another_encoder_are_refused(cache):
    task = write(cache)
    pipeline.check_features(IDENTITY, mixture_or_task=task, use_cached=True)
    other = IDENTITY | {"reducer": "sha256:d"}
    with pytest.raises(FeatureCacheError, match="made by something else: reducer was sha256:c and is sha256:d"):
        pipeline.check_features(other, mixture_or_task=task, use_cached=True)
    pipeline.check_features(other, mixture_or_task=task, use_cached=False)
    with pytest.raises(FeatureCacheError, match="speech_encoder was sha256:a and is sha256:e"):
        write(cache, identity=IDENTITY | {"speech_encoder": "sha256:e"})
    with pytest.raises(FeatureCacheError, match="dtype was float32 and is float16"):
        write(cache, dtype="float16")


def test_a_cache_of_speech_is_no_concern_of_the_encoder(cache):
    task = write(cache)
    with pytest.raises(FeatureCacheError):
        pipeline.check_features({}, mixture_or_task=task, use_cached=True)
    (feature_cache.task_folder(cache, "cached") / feature_cache.ENCODER).unlink()
    pipeline.check_features({}, mixture_or_task=task, use_cached=True)


def test_a_folder_of_something_else_is_left_alone(cache):
    folder = feature_cache.task_folder(cache, "cached")
    folder.mkdir()
    (folder / "COMPLETED").write_text("")
    with pytest.raises(FeatureCacheError, match="holds something else than features"):
        write(cache)


def test_a_task_without_a_place_for_a_cache_is_refused(cache):
    source = make_task().source
    task = seqio.Task("uncached", source=source, preprocessors=[], output_features={})
    with pytest.raises(FeatureCacheError, match="has no seqio.CacheDatasetPlaceholder"):
        write(cache, task)


def test_what_cannot_be_counted_cannot_be_cached(cache):
    task = make_task()
    task.source._num_input_examples = None
    with pytest.raises(FeatureCacheError, match="cannot tell how many examples"):
        write(cache, task)


def test_a_cache_says_who_made_it(cache):
    write(cache)
    folder = feature_cache.task_folder(cache, "cached")
    assert json.loads((folder / "encoder.json").read_text()) == IDENTITY | {"dtype": "float32"}
    assert json.loads((folder / "stats.test.json").read_text()) == {"examples": COUNT}
