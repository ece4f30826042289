"""Vocabularies of Hugging Face folders (tokenizer.json), and the chat templates of instruction models."""

import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf
import tokenizers

from slm_jax.data.turns import Turn

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
PLACES = "{speech}{instruction}"


class TokenizerVocabulary(seqio.Vocabulary):
    """The tokenizer of a language model's folder, as SeqIO wants it.

    Batches are padded with 0, and what is 0 counts as padding. Where the tokenizer has a token of text there (Llama 3,
    Qwen), it changes places with `padding_id`; `components.Checkpoint.padding_id` exchanges the rows of the table of
    embeddings in the same way. Texts never give special tokens, whatever is written in them.

    Args:
      folder: with tokenizer.json and tokenizer_config.json.
      padding_id: the tokenizer's id of what texts never have: a special token, or a number above all its tokens.
      eos_token: ends an answer; by default the one that tokenizer_config.json names.
      chat: how an instruction is written, with `{speech}{instruction}` in it; "" for the instruction alone.

    Raises:
      FileNotFoundError: the folder has no tokenizer.json.
      ValueError: padding_id stands for a token of text or for the end, there is no such eos_token, or the chat template
        has no place for the instruction.
    """

    padded_to = 512
    """Tables of embeddings are rounded up to a multiple of this, or less (Qwen 2: 151665 tokens, 151936 rows)."""

    def __init__(self, folder: str, *, padding_id: int = 0, eos_token: str | None = None, chat: str = "") -> None:
        super().__init__()
        self.path = pathlib.Path(folder).expanduser() / TOKENIZER
        if not self.path.is_file():
            raise FileNotFoundError(f"{folder} has no {TOKENIZER}: give the language model's own folder")
        self.padding_id = padding_id
        self.size = self._tokenizer.get_vocab_size()
        self.special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self.eos_token = eos_token or self._settings("eos_token")
        self.chat = chat
        self._check()

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_file(str(self.path))

    @functools.cached_property
    def _text_tokenizer(self) -> tokenizers.Tokenizer:
        """The same, to which special tokens are text."""
        tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _settings(self, name: str) -> str:
        path = self.path.with_name(SETTINGS)
        value = json.loads(path.read_text(encoding="utf-8")).get(name) if path.is_file() else None
        value = value.get("content") if isinstance(value, dict) else value
        if not value:
            raise ValueError(f"{path} names no {name}: give it to the vocabulary")
        return value

    def _check(self) -> None:
        if self._tokenizer.token_to_id(self.eos_token) is None:
            raise ValueError(f"{self.path} has no token {self.eos_token!r} to end with")
        if self.padding_id < self.size and self.padding_id not in self.special:
            token = self._tokenizer.id_to_token(self.padding_id)
            free = ", ".join(f"{i} ({self._tokenizer.id_to_token(i)})" for i in sorted(self.special)[:8])
            raise ValueError(
                f"{self.path}: id {self.padding_id} is {token!r}, which texts have, so it cannot be padding. Set "
                f"padding_id to what the model has no use for: one of {free}, or a row of its table above all tokens"
            )
        if 0 in (self.eos_id, *self.turn.opening, *self.turn.closing):
            raise ValueError(
                f"{self.path}: padding_id {self.padding_id} stands for a token that is in use, not padding"
            )

    @functools.cached_property
    def turn(self) -> Turn:
        """How an instruction is written."""
        return chat_turn(self) if self.chat else Turn(closing=(self.eos_id,))

    @property
    def bos_id(self) -> int | None:
        """None: a chat template writes what a text begins with."""
        return None

    @property
    def eos_id(self) -> int:
        """The end of an answer."""
        return self.encode_template(self.eos_token)[0]

    @property
    def unk_id(self) -> int | None:
        """None: byte-level tokenizers write everything."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return max(self.size, self.padding_id + 1)

    def exchange(self, ids: Iterable[int]) -> list[int]:
        """0 for padding_id and padding_id for 0: from the tokenizer's ids to ours, and back."""
        swap = {0: self.padding_id, self.padding_id: 0}
        return [swap.get(i, i) for i in ids]

    def encode_template(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are meant."""
        return self.exchange(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _encode(self, s: str) -> list[int]:
        return self.exchange(self._text_tokenizer.encode(s, add_special_tokens=False).ids)

    def _decode(self, ids: Sequence[int]) -> str:
        known = [i for i in self.exchange(ids) if i < self.size]
        return self._tokenizer.decode(known, skip_special_tokens=True)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._encode_bytes, [s], tf.int32), [None])

    def _encode_bytes(self, text: bytes | np.ndarray) -> np.ndarray:
        return np.array(self.encode(bytes(text.item() if isinstance(text, np.ndarray) else text).decode()), np.int32)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda row: self.decode(row.tolist()), [ids], tf.string)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything that decides ids."""
        settings = repr((self.padding_id, self.eos_token, self.chat))
        return f"sha256:{hashlib.sha256(self.path.read_bytes() + settings.encode('utf-8')).hexdigest()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerVocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def fingerprint_vocabulary(vocabulary: TokenizerVocabulary) -> str:
    """What a bundle keeps to know a vocabulary by, its chat template included."""
    return vocabulary.fingerprint


def written(vocabulary: TokenizerVocabulary, *, text: str) -> tuple[int, ...]:
    """The ids of a text in which special tokens are meant (for `models.prompted_adapter.PromptedAdapter`)."""
    return tuple(vocabulary.encode_template(text))


def merge_rules(vocabulary: TokenizerVocabulary) -> tuple[tuple[int, int, int], ...]:
    """The merges of a tokenizer in their order: left, right and merged token (for `models.merges.Merges`).

    Those that padding takes part in are left out.

    Raises:
      ValueError: the tokenizer does not merge pairs of tokens (byte-pair encoding).
    """
    model = json.loads(vocabulary.path.read_text(encoding="utf-8"))["model"]
    if model.get("type") != "BPE":
        raise ValueError(
            f"{vocabulary.path} is of type {model.get('type')}, not BPE: its tokens are no pairs of others"
        )
    ids = model["vocab"]
    rules: dict[tuple[int, int], int] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        first, second, merged = vocabulary.exchange([ids[left], ids[right], ids[left + right]])
        rules.setdefault((first, second), merged)
    return tuple((*pair, merged) for pair, merged in rules.items() if 0 not in (*pair, merged))


def pieces(vocabulary: TokenizerVocabulary, *, num_tokens: int) -> tuple[tuple[int, ...], ...]:
    """What each token is written with where only ids below `num_tokens` may be used, by undoing merges.

    " incurred", with ids that are low enough for " inc", "ur" and "red" -> the three

    Returns:
      For each id its pieces; () for special tokens, padding, and what cannot be written so.

    Raises:
      ValueError: the tokenizer does not merge pairs of tokens (byte-pair encoding).
    """
    pairs: dict[int, tuple[int, int]] = {}
    for left, right, merged in merge_rules(vocabulary):
        pairs.setdefault(merged, (left, right))
    silent = {0, *vocabulary.exchange(vocabulary.special)}

    @functools.cache
    def split(token: int) -> tuple[int, ...]:
        if token in silent:
            return ()
        if token < num_tokens:
            return (token,)
        parts = [split(part) for part in pairs.get(token, ())]
        return tuple(itertools.chain(*parts)) if all(parts) else ()

    return tuple(split(token) for token in range(vocabulary.vocab_size))


def chat_turn(vocabulary: TokenizerVocabulary) -> Turn:
    """How a template has an instruction written: in ChatML a turn opens with "<|im_start|>user" and a new line.

    Raises:
      ValueError: the template has not exactly one `{speech}{instruction}`, or nothing stands behind it.
    """
    if vocabulary.chat.count(PLACES) != 1:
        raise ValueError(f"a chat template has one place {PLACES}, but this is {vocabulary.chat!r}")
    before, after = vocabulary.chat.split(PLACES)
    closing = vocabulary.encode_template(after)
    if not closing:
        raise ValueError(f"in a chat template something stands behind {PLACES}, but this is {vocabulary.chat!r}")
    # What is written last is what the decoder is given first.
    return Turn(opening=tuple(vocabulary.encode_template(before)), closing=tuple(closing[:-1]), start_id=closing[-1])
