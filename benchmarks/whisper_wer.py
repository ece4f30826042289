"""What Whisper itself makes of a manifest, its decoder included.

    python benchmarks/whisper_wer.py --whisper=DIR --manifest=FILE

transformers computes, greedily and in float32, from 30 s of padded speech; needs `pip install -e '.[parity]'`. Writes
the record of the ledger, docs/ledger/whisper_base_alone.json, and prints it.
"""

import csv
import pathlib
import time
from typing import Any

import numpy as np
import tokenizers
import tqdm
from absl import app, flags

from slm_jax.claims.ledger import head
from slm_jax.claims.measures import measured, metric
from slm_jax.claims.records import Number, Record
from slm_jax.data.audio_io import read_audio
from slm_jax.evaluation import Prediction

_WHISPER = flags.DEFINE_string("whisper", None, "A Hugging Face folder of Whisper.", required=True)
_MANIFEST = flags.DEFINE_string("manifest", None, "A tab-separated manifest with audio and text.", required=True)
_NAME = flags.DEFINE_string("name", "whisper_base_alone", "Of the record.")
_OUT = flags.DEFINE_string("out", "docs/ledger", "Where the record goes.")
_BATCH = 10
_LONGEST = 100
_START = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def transcribe(model: Any, extractor: Any, tokenizer: tokenizers.Tokenizer, paths: list[pathlib.Path]) -> list[str]:
    """What greedy decoding writes of a few files."""
    import torch

    speeches = [read_audio(path) for path in paths]
    features = extractor(speeches, sampling_rate=16_000, return_tensors="pt").input_features
    end = tokenizer.token_to_id("<|endoftext|>")
    tokens = torch.tensor([[tokenizer.token_to_id(token) for token in _START]] * len(paths))
    given, cache, written = tokens, None, []
    with torch.no_grad():
        encoded = model.get_encoder()(features)
        while len(written) < _LONGEST and not (written and all((np.array(written) == end).any(axis=0))):
            output = model(encoder_outputs=encoded, decoder_input_ids=given, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            chosen = output.logits[:, -1, : end + 1].argmax(dim=-1)
            written.append(chosen.tolist())
            given = chosen[:, None]
    rows = np.array(written).T.tolist()
    return [tokenizer.decode(row[: row.index(end)] if end in row else row).strip() for row in rows]


def main(unused: list[str]) -> None:
    """Transcribes, scores and records."""
    import torch
    import transformers

    folder, manifest = _WHISPER.value, pathlib.Path(_MANIFEST.value)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    start, answers = time.monotonic(), []
    for i in tqdm.trange(0, len(rows), _BATCH):
        some = rows[i : i + _BATCH]
        texts = transcribe(model, extractor, tokenizer, [manifest.parent / row["audio"] for row in some])
        answers += [Prediction("", row["text"], text) for row, text in zip(some, texts, strict=True)]
    _, score = metric(answers, "transcribe")
    claim = measured("wer", "wer", score, n=len(answers))
    record = Record(
        name=_NAME.value,
        gin_file="alone",
        command="python benchmarks/whisper_wer.py --whisper=whisper-base --manifest=corpus/test.tsv",
        seed=0,
        commit=head(),
        seconds=round(time.monotonic() - start, 1),
        steps=0,
        scores={
            "test/wer": Number(round(claim.score, 2), round(claim.low or 0.0, 2), round(claim.high or 0.0, 2), claim.n)
        },
        speeds={},
        curve=[],
        held_out={},
    )
    print(record.save(pathlib.Path(_OUT.value)).read_text())


if __name__ == "__main__":
    app.run(main)
