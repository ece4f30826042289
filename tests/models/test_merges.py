"""Merging tokens on the device: as the tokenizer itself writes, whatever the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.data import tokenizers
from slm_jax.data.tokenizers import TokenizerVocabulary
from slm_jax.models.merges import Merges, merge

TEXTS = ("Printing, then, is an art: naïve (1) & old.", "the art of printing", "then", "in an inn then", "")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, write_tokenizer):
    return TokenizerVocabulary(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def padded(rows, *, size):
    tokens = np.full((len(rows), size), 7)  # what stands in the padding does not matter
    for tokens_row, row in zip(tokens, rows, strict=True):
        tokens_row[: len(row)] = row
    lengths = np.array([[len(row)] for row in rows])
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(np.arange(size) < lengths)


def test_the_drawing():
    tokens, mask = padded([[1, 2, 3, 1, 2]], size=5)
    merged, real, group = jax.jit(lambda t, m: merge(t, m, Merges(((1, 2, 7), (7, 3, 8)))))(tokens, mask)
    assert merged.tolist() == [[8, 7, 0, 0, 0]]
    assert real.tolist() == [[True, True, False, False, False]]
    assert group.tolist() == [[0, 0, 0, 1, 1]]


def test_the_first_rule_goes_first():
    tokens, mask = padded([[1, 2, 3]], size=3)
    assert merge(tokens, mask, Merges(((2, 3, 8), (1, 2, 7))))[0].tolist() == [[1, 8, 0]]
    assert merge(tokens, mask, Merges(((1, 2, 7), (2, 3, 8))))[0].tolist() == [[7, 3, 0]]


@pytest.mark.parametrize("num_tokens", [259, 275])
@pytest.mark.parametrize("size", [60, 75])
def test_merged_pieces_are_what_the_tokenizer_writes(vocabulary, num_tokens, size):
    table = tokenizers.pieces(vocabulary, num_tokens=num_tokens)
    natural = [vocabulary.encode(text) for text in TEXTS]
    rows = [[piece for token in row for piece in table[token]] for row in natural]
    tokens, mask = padded(rows, size=size)
    merged, real, group = merge(tokens, mask, Merges(tokenizers.merge_rules(vocabulary)))
    assert [row[keep].tolist() for row, keep in zip(np.asarray(merged), np.asarray(real), strict=True)] == natural
    for number, row in enumerate(rows):
        grouped = np.asarray(group)[number, : len(row)]
        assert [vocabulary.decode([t]) for t in natural[number]] == [
            vocabulary.decode([p for p, g in zip(row, grouped, strict=True) if g == place])
            for place in range(len(natural[number]))
        ]


def test_tokens_whose_products_are_too_large_for_32_bits_are_told_apart():
    rules = ((200_000, 150_000, 200_001), (3, 4, 5))
    tokens, mask = padded([[200_000, 150_000, 3, 4], [150_000, 200_000, 4, 3]], size=4)
    assert merge(tokens, mask, Merges(rules))[0].tolist() == [[200_001, 5, 0, 0], [150_000, 200_000, 4, 3]]


def test_rules_are_needed_and_different():
    with pytest.raises(ValueError, match="rules has none"):
        Merges(())
    tokens, mask = padded([[1, 2]], size=2)
    with pytest.raises(ValueError, match="a pair twice"):
        merge(tokens, mask, Merges(((1, 2, 7), (1, 2, 8))))


def test_equal_rules_hash_alike():
    assert hash(Merges(((1, 2, 7),))) == hash(Merges(((1, 2, 7),)))
    assert Merges(((1, 2, 7),)) != Merges(((1, 2, 8),))
