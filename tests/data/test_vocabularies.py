"""The shipped vocabulary keeps every text and cuts unseen names like seen ones; wrong vocabularies are refused."""

import statistics

import pytest

from slm_jax.data import vocabularies
from slm_jax.tasks.spoken_scenes import train_vocabulary
from slm_jax.tasks.spoken_scenes.names import HELD_OUT_NAMES, TRAIN_NAMES


@pytest.fixture(scope="module")
def scenes():
    return vocabularies.scenes_vocabulary()


def test_special_ids_and_size(scenes) -> None:
    assert (scenes.pad_id, scenes.eos_id, scenes.unk_id) == (0, 1, 2)
    assert (scenes.vocab_size, scenes.extra_ids) == (2048, 24)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday mirela bought a red coat at the market",
        "él mañana vendió una manzana",
        "der große bär heult über der straße",
        "What's this? It's 10 (ten) - \"fine\"; isn't it, Zoë-free!",
        " two  spaces ",
        train_vocabulary.LETTERS,
    ],
)
def test_texts_come_back_unchanged(scenes, text: str) -> None:
    if "ë" in text:
        text = text.replace("ë", "e")
    ids = scenes.encode(text)
    assert scenes.unk_id not in ids
    assert scenes.decode(ids) == text
    assert scenes.encode_tf(text).numpy().tolist() == ids


def test_every_letter_is_a_piece(scenes) -> None:
    for letter in train_vocabulary.LETTERS:
        assert scenes.tokenizer.PieceToId(letter) != scenes.unk_id, letter


def test_names_are_cut_alike_whether_seen_or_not(scenes) -> None:
    seen, unseen = ([len(scenes.encode(name)) for name in names] for names in (TRAIN_NAMES, HELD_OUT_NAMES))
    assert min(unseen) >= 2
    assert statistics.mean(seen) == pytest.approx(statistics.mean(unseen), rel=0.1)
    assert sum(pieces == 1 for pieces in seen) <= 0.005 * len(seen)


def test_training_is_reproducible_and_honours_its_options() -> None:
    small = train_vocabulary.train(num_scenes=300, num_pieces=300)
    assert small == train_vocabulary.train(num_scenes=300, num_pieces=300)
    assert small != train_vocabulary.train(num_scenes=300, num_pieces=310)


def test_check_vocabulary(scenes) -> None:
    vocabularies.check_vocabulary(scenes, 2048)
    bytes_and_sentinels = vocabularies.byte_vocabulary(extra_ids=10)  # 269 ids
    vocabularies.check_vocabulary(bytes_and_sentinels, 384)
    for size in (268, 385, 32128):
        with pytest.raises(ValueError, match=f"has 269 ids and the language model {size} embeddings"):
            vocabularies.check_vocabulary(bytes_and_sentinels, size)


def test_a_missing_model_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="No SentencePiece model at .*nowhere.model"):
        vocabularies.sentencepiece_vocabulary(str(tmp_path / "nowhere.model"))


def test_sentinels_are_the_last_ids() -> None:
    vocabulary = vocabularies.sentencepiece_vocabulary(str(vocabularies.SCENES_MODEL), extra_ids=3)
    assert vocabulary.vocab_size == 2027
    assert vocabulary.decode([2026]).strip() == "<extra_id_0>"


def test_spellings_join_to_the_text_and_leave_out_what_is_not_spoken(scenes) -> None:
    spelled = vocabularies.spellings(scenes)
    assert len(spelled) == scenes.vocab_size
    assert spelled[:3] == ("", "", "") and not any(spelled[-scenes.extra_ids :])
    text = "mirela bought a red coat"
    assert "".join(spelled[token] for token in scenes.encode(text)) == "▁" + text.replace(" ", "▁")
