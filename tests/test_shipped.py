"""The weights that ship: small enough, of the sizes that the gin files say, and good at what they are for."""

import gin
import jax
import jiwer
import numpy as np
import pytest

from slm_jax import evaluation, trees
from slm_jax.data.vocabularies import scenes_vocabulary
from slm_jax.decoding.greedy import Greedy
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.resources import gin_folder
from slm_jax.tasks.spoken_scenes import utterances
from slm_jax.tasks.spoken_scenes.corpus import Split
from slm_jax.tasks.spoken_scenes.utterances import Content
from slm_jax.tasks.spoken_scenes.voices import SAMPLE_RATE
from slm_jax.training.bundle import SHIPPED, SHIPPED_BUNDLES, load_bundle
from slm_jax.training.run import Training
from slm_jax.weights import fingerprints, foundation

MAX_BYTES = 12_000_000
EXAMPLES = 16
SAMPLES, TOKENS = 104_000, 32


@pytest.fixture(scope="module")
def model():
    """The quickstart's system, and the parameters of its frozen parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(gin_folder())
        gin.clear_config()
        gin.parse_config_file("experiments/quickstart.gin")
        training = gin.get_configurable(Training)()
        gin.clear_config()
    parameters = {
        name: foundation.load_component("shipped", component=name, shapes=training.shapes[name]).parameters
        for name in ("speech_encoder", "lm")
    }
    return training.objective.model, parameters


def test_they_are_small_and_of_known_origin() -> None:
    assert sum(path.stat().st_size for path in foundation.SHIPPED_FOLDER.iterdir()) <= MAX_BYTES
    manifest = foundation.read_manifest(foundation.SHIPPED_FOLDER)
    for entry in manifest["components"].values():
        assert entry["licence"] == "Apache-2.0" and (gin_folder() / entry["gin_file"]).is_file()
        assert entry["command"] == f"python -m slm_jax.train --gin_file={entry['gin_file']}"


def test_the_adapter_of_whisper_and_smollm2_is_small_and_of_its_experiment() -> None:
    found = load_bundle(f"{SHIPPED}/whisper_base_smollm2")
    folder = SHIPPED_BUNDLES[f"{SHIPPED}/whisper_base_smollm2"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25_000_000
    assert found.manifest.fingerprints.keys() == {"speech_encoder", "lm", "vocabulary", "front_end"}
    assert found.manifest.gin_files == ("experiments/whisper_base_smollm2.gin",)
    assert sum(trees.count(found.trainable).values()) == 5_506_881
    assert found.manifest.metrics["test/wer"] <= 30


def test_the_shipped_adapter_knows_the_front_end(model) -> None:
    """By a fingerprint of the fields of its class: a new field would make the adapter a stranger."""
    system, _ = model
    found = fingerprints.fingerprint_config(repr(system.speech_encoder.front_end))
    assert found == load_bundle(SHIPPED).manifest.fingerprints["front_end"]


def padded(rows: list[list[int]]) -> np.ndarray:
    return np.array([row + [0] * (TOKENS - len(row)) for row in rows], np.int32)


@pytest.mark.parametrize("silence", [0.0, 0.8])
def test_the_speech_encoder_hears_sentences_and_a_voice_it_was_not_trained_on(model, silence: float) -> None:
    """With the silence that a recording has, too, in seconds on either side."""
    system, parameters = model
    made = [example for _, example in utterances.examples(Split.TEST, size=EXAMPLES, content=Content.SPEECH, workers=0)]
    around = int(silence * SAMPLE_RATE)
    spoken = [np.pad(example["speech"] / 32768, (around, around)) for example in made]
    batch = {
        "speech": np.stack([np.pad(speech, (0, SAMPLES - len(speech))) for speech in spoken], dtype="f"),
        "speech_length": np.array([len(speech) for speech in spoken], np.int32),
    }
    tokens = evaluation.make_ctc_predict(system.speech_encoder)(parameters, batch, jax.random.key(0))
    heard = [scenes_vocabulary().decode([int(token) for token in row if token > 0]) for row in np.asarray(tokens)]
    assert jiwer.wer([example["text"] for example in made], heard) < 0.25


def test_the_language_model_repeats_and_translates_sentences_it_was_not_trained_on(model) -> None:
    system, parameters = model
    vocabulary = scenes_vocabulary()
    made = [example for _, example in utterances.examples(Split.TEST, size=EXAMPLES, content=Content.TEXT, workers=0)]
    predict = evaluation.make_predict(
        SpeechLanguageModel(lm=system.lm),
        Greedy(),
        max_decode_length=TOKENS,
        start_token=0,
        eos_id=vocabulary.eos_id,
    )
    for instruction, field in (
        ("transcribe the speech", "text"),
        ("translate the speech into german", "text_de"),
        ("translate the speech into spanish", "text_es"),
    ):
        rows = [[*vocabulary.encode(f"{example['text']} {instruction}"), vocabulary.eos_id] for example in made]
        tokens = np.asarray(predict(parameters, {"encoder_input_tokens": padded(rows)}, jax.random.key(0)))
        written = [vocabulary.decode([int(token) for token in row if token > 1]) for row in tokens]
        assert jiwer.wer([example[field] for example in made], written) < 0.25, instruction
