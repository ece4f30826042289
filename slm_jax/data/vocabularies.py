"""Vocabularies, and the check that one belongs to a language model."""

import pathlib

import seqio

Vocabulary = seqio.Vocabulary

SCENES_MODEL = pathlib.Path(__file__).resolve().parent.parent / "foundation" / "scenes.model"
"""Written by `python -m slm_jax.tasks.spoken_scenes.train_vocabulary`."""

SCENES_SENTINELS = 24
"""Ids on top of the pieces of SCENES_MODEL that stand for the gaps of span corruption."""

PADDED_TO = 128
"""Embedding tables are rounded up to a multiple of this (T5: 32100 pieces, 32128 rows; mT5: 250100 and 250112)."""


def sentencepiece_vocabulary(path: str, *, extra_ids: int = 0) -> seqio.SentencePieceVocabulary:
    """A SentencePiece model, with `extra_ids` sentinels as its last ids (T5 and mT5: 100).

    Raises:
      FileNotFoundError: no file at `path` (URLs such as gs://... are checked when the vocabulary is first used).
    """
    if "://" not in path and not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"No SentencePiece model at {path}. Set VOCABULARY_PATH to the language model's own.")
    return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)


def byte_vocabulary(*, extra_ids: int = 0) -> seqio.ByteVocabulary:
    """UTF-8 bytes: id 0 pads, 1 ends, 2 is unused, byte b is b + 3, then `extra_ids` sentinels (as ByT5)."""
    return seqio.ByteVocabulary(extra_ids=extra_ids)


def scenes_vocabulary() -> seqio.SentencePieceVocabulary:
    """The vocabulary of the small system: 2024 unigram pieces and 24 sentinels, 2048 ids (pad 0, eos 1, unk 2)."""
    return sentencepiece_vocabulary(str(SCENES_MODEL), extra_ids=SCENES_SENTINELS)


def spellings(vocabulary: seqio.SentencePieceVocabulary) -> tuple[str, ...]:
    """The letters of every id, with "\N{LOWER ONE EIGHTH BLOCK}" where a word begins; "" for ids that write nothing."""
    pieces = vocabulary.tokenizer
    sentinels = range(vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size)
    silent = (pieces.is_control, pieces.is_unknown, pieces.is_unused, sentinels.__contains__)
    return tuple("" if any(test(i) for test in silent) else pieces.id_to_piece(i) for i in range(vocabulary.vocab_size))


def check_vocabulary(vocabulary: seqio.Vocabulary, vocab_size: int) -> None:
    """Refuses a vocabulary that is not the one a language model of `vocab_size` embeddings was made for.

    The language model may have up to 127 unused embeddings, as tables are rounded up to a multiple of 128 (of
    `vocabulary.padded_to`, if it says so).

    Raises:
      ValueError: the sizes differ by more, or the vocabulary does not pad with 0 or has no end-of-sequence id.
    """
    size = vocabulary.vocab_size
    padded_to = getattr(vocabulary, "padded_to", PADDED_TO)
    if not size <= vocab_size <= -(-size // padded_to) * padded_to:
        raise ValueError(
            f"The vocabulary has {size} ids and the language model {vocab_size} embeddings; these do not belong "
            "together. Give the vocabulary that the language model was trained with, sentinels (extra_ids) included."
        )
    if vocabulary.pad_id != 0:
        raise ValueError(f"The vocabulary pads with id {vocabulary.pad_id}; batches are padded with 0")
    if vocabulary.eos_id is None or vocabulary.eos_id < 0:
        raise ValueError("The vocabulary has no end-of-sequence id, so decoding would never end")
