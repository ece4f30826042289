"""Real weights against transformers: hidden states of a speech encoder, greedy answers of a language model.

    python benchmarks/open_weights.py --speech_encoder=whisper-base --audio=a.wav --audio=b.flac
    python benchmarks/open_weights.py --lm=SmolLM2-135M-Instruct --chat=chatml

Needs `pip install -e '.[parity]'`. Both compute in float32. Prints one JSON line; docs/open_weights.md keeps the table.
"""

import copy
import json
import time
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from slm_jax.data.audio_io import read_audio
from slm_jax.data.tokenizers import PLACES, TokenizerVocabulary
from slm_jax.data.turns import turn_of
from slm_jax.decoding.greedy import Greedy
from slm_jax.evaluation import make_predict, pack_rows
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.resources import gin_folder
from slm_jax.typing import PyTree
from slm_jax.weights import foundation
from slm_jax.weights.huggingface import components

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
    "List three fruits.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
    "How do I boil an egg?",
    "Give me a name for a cat.",
    "Summarize: The printing press was invented in Mainz by Gutenberg.",
    "What is 12 plus 30?",
    "Tell me a joke.",
    "Describe a horse in one sentence.",
    "What is photosynthesis?",
    "Correct this sentence: He go to school.",
    "Name a planet with rings.",
    "What does a baker do?",
    "Write a greeting for a birthday card.",
    "Is water wet?",
    "Continue: Once upon a time there was",
    "Give an antonym of happy.",
)

_SPEECH_ENCODER = flags.DEFINE_string("speech_encoder", None, "A Hugging Face folder of a speech encoder.")
_AUDIO = flags.DEFINE_multi_string("audio", [], "Audio files for it.")
_LM = flags.DEFINE_string("lm", None, "A Hugging Face folder of a decoder-only language model.")
_CHAT = flags.DEFINE_string("chat", "chatml", "How it wants to be asked: a file of gin/tasks/chats.")
_PADDING_ID = flags.DEFINE_integer("padding_id", 0, "As in tasks/tokenizer.gin.")
_TOKENS = flags.DEFINE_integer("tokens", 64, "Tokens of an answer.")


def load(model: Any, folder: str, component: str, *, padding_id: int = 0) -> PyTree:
    """The parameters of a model out of its folder."""
    source = components.Checkpoint(folder, padding_id=padding_id)
    shapes = components.parameter_shapes(model)
    return foundation.load_component(source, component=component, shapes=shapes).parameters


def compare_speech_encoder(folder: str, paths: list[str]) -> dict[str, Any]:
    """The largest differences of hidden states over all files: to the reference, and of both to it in float64."""
    import torch
    import transformers

    speeches = [read_audio(path) for path in paths]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    features = extractor(speeches, sampling_rate=16_000, return_tensors="pt").input_features
    reference = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference.get_encoder()(features).last_hidden_state.numpy()
        exact = reference.double().get_encoder()(features.double()).last_hidden_state.numpy()
    encoder = components.speech_encoder(folder)
    lengths = np.array([len(speech) for speech in speeches], np.int32)
    padded = np.zeros((len(speeches), max(lengths)), np.float32)
    for row, speech in enumerate(speeches):
        padded[row, : len(speech)] = speech
    params = load(encoder, folder, "speech_encoder")
    found = jax.jit(encoder.apply)({"params": params}, jnp.asarray(padded), jnp.asarray(lengths))
    mask, hidden = np.asarray(found.mask), np.asarray(found.embeddings)

    def largest(found: Any, wanted: np.ndarray) -> float:
        return float(max(np.abs(found[i][: m.sum()] - wanted[i][: m.sum()]).max() for i, m in enumerate(mask)))

    return {
        "utterances": len(speeches),
        "frames": int(mask.sum()),
        "to_reference": largest(hidden, expected),
        "to_float64": largest(hidden, exact),
        "reference_to_float64": largest(expected, exact),
    }


def compare_language_model(folder: str) -> dict[str, Any]:
    """How many of the prompts are answered with the same tokens."""
    import torch
    import transformers

    gin.parse_config_file(str(gin_folder() / "tasks" / "chats" / f"{_CHAT.value}.gin"))
    chat = copy.deepcopy(gin.query_parameter("CHAT/gin.macro.value"))
    vocabulary = TokenizerVocabulary(folder, chat=chat, padding_id=_PADDING_ID.value)
    turn, model = turn_of(vocabulary), components.language_model(folder)
    params = {"lm": load(model, folder, "lm", padding_id=_PADDING_ID.value)}
    rows = [turn.write(vocabulary.encode(prompt)) for prompt in PROMPTS]
    batch = {"encoder_input_tokens": pack_rows(rows, length=max(map(len, rows)))}
    slm = SpeechLanguageModel(lm=model)
    settings = {"max_decode_length": _TOKENS.value, "start_token": turn.start_id, "eos_id": vocabulary.eos_id}
    predict = make_predict(slm, Greedy(), **settings)
    start = time.monotonic()
    answers = np.asarray(predict(params, batch, jax.random.key(0))).tolist()
    seconds = time.monotonic() - start
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    same, tokens = 0, 0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        asked = tokenizer(chat.replace(PLACES, prompt), return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            written = reference.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=_TOKENS.value, do_sample=False
            )
        expected = vocabulary.exchange(written[0, asked.shape[1] :].tolist())
        same += answer[: len(expected)] == expected
        tokens += len(expected)
    return {
        "prompts": len(PROMPTS),
        "answered_alike": same,
        "tokens": tokens,
        "seconds_with_compilation": round(seconds, 1),
    }


def main(unused: list[str]) -> None:
    """Compares what the command line names."""
    if _SPEECH_ENCODER.value:
        print(
            json.dumps({"folder": _SPEECH_ENCODER.value} | compare_speech_encoder(_SPEECH_ENCODER.value, _AUDIO.value))
        )
    if _LM.value:
        print(json.dumps({"folder": _LM.value} | compare_language_model(_LM.value)))


if __name__ == "__main__":
    app.run(main)
