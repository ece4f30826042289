"""Hugging Face tokenizers as SeqIO vocabularies: ids, padding, chat templates, bad folders."""

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers

from slm_jax.data import pipeline, preprocessors, vocabularies
from slm_jax.data import tokenizers as ours
from slm_jax.data.tokenizers import TokenizerVocabulary
from slm_jax.data.turns import Turn, turn_of
from slm_jax.resources import gin_folder

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = "<|im_start|>user\n{speech}{instruction}<|im_end|>\n<|im_start|>assistant\n"
TEXT = "Printing, then, is an art: naïve (1) & old."


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tokenizer):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def text_first(tmp_path_factory, write_tokenizer):
    """As in Llama 3 and Qwen: id 0 is a character."""
    return write_tokenizer(tmp_path_factory.mktemp("text_first"), special=[], behind=SPECIAL_TOKENS)


def test_texts_come_back(folder):
    vocabulary = TokenizerVocabulary(folder)
    ids = vocabulary.encode(TEXT)
    assert vocabulary.decode(ids) == TEXT
    assert vocabulary.encode_tf(tf.constant(TEXT)).numpy().tolist() == ids
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == TEXT
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.unk_id) == (2, 0, None)
    vocabularies.check_vocabulary(vocabulary, vocabulary.vocab_size + 100)


def test_decoding_stops_at_the_end_and_writes_no_special_token(folder):
    vocabulary = TokenizerVocabulary(folder)
    ids = vocabulary.encode("an art")
    assert vocabulary.decode([1, *ids, vocabulary.eos_id, *ids]) == "an art"
    assert vocabulary.decode([*ids, vocabulary.vocab_size + 3]) == "an art"


def test_a_text_cannot_write_special_tokens(folder):
    vocabulary = TokenizerVocabulary(folder)
    ids = vocabulary.encode("<|im_end|> is text")
    assert not vocabulary.special & set(ids)
    assert vocabulary.decode(ids) == "<|im_end|> is text"


def test_padding_changes_places_with_a_token_of_text(text_first):
    with pytest.raises(ValueError, match=r"id 0 is '!', which texts have.*one of \d+ \(<\|endoftext\|>\)"):
        TokenizerVocabulary(text_first)
    plain = tokenizers.Tokenizer.from_file(f"{text_first}/tokenizer.json")
    spare = plain.token_to_id("<|endoftext|>")
    for padding_id in (spare, plain.get_vocab_size() + 7):
        vocabulary = TokenizerVocabulary(text_first, padding_id=padding_id)
        ids = vocabulary.encode("old!")
        assert [plain.token_to_id("!"), 0] == [0, plain.encode("!").ids[0]]
        assert padding_id in ids
        assert 0 not in ids
        assert vocabulary.decode(ids) == "old!"
        assert vocabulary.vocab_size == max(plain.get_vocab_size(), padding_id + 1)


def test_what_is_in_use_is_no_padding(text_first):
    end = tokenizers.Tokenizer.from_file(f"{text_first}/tokenizer.json").token_to_id("<|im_end|>")
    with pytest.raises(ValueError, match=f"padding_id {end} stands for a token that is in use"):
        TokenizerVocabulary(text_first, padding_id=end)


def test_a_chat_template_opens_and_closes_turns(folder):
    vocabulary = TokenizerVocabulary(folder, chat=CHATML)
    turn, instruction = turn_of(vocabulary), vocabulary.encode("an art")
    whole = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    text = CHATML.replace(ours.PLACES, "an art")
    assert [*turn.write(instruction), turn.start_id] == whole.encode(text, add_special_tokens=False).ids
    assert turn.opening[0] == 1
    assert turn.closing[0] == 2


def test_a_written_text_may_open_turns_of_its_own(folder):
    vocabulary = TokenizerVocabulary(folder, chat=CHATML)
    ids = ours.written(vocabulary, text="an art<|im_end|>")
    assert ids == (*vocabulary.encode("an art"), vocabulary.eos_id)


def test_chat_templates_of_gin_files_have_a_place_for_the_instruction():
    files = sorted((gin_folder() / "tasks" / "chats").glob("*.gin"))
    assert len(files) >= 3
    for file in files:
        with gin.unlock_config():
            gin.clear_config()
            gin.parse_config_file(str(file))
        assert gin.query_parameter("CHAT/gin.macro.value").count(ours.PLACES) == 1, file.name
        if file.stem == "chatml":
            assert gin.query_parameter("CHAT/gin.macro.value") == CHATML
    gin.clear_config()


@pytest.mark.parametrize("num_tokens", [259, 270, 400])
def test_pieces_write_the_same_with_fewer_tokens(folder, num_tokens):
    vocabulary = TokenizerVocabulary(folder)
    table = ours.pieces(vocabulary, num_tokens=num_tokens)
    assert len(table) == vocabulary.vocab_size
    assert max(map(max, filter(None, table))) == min(num_tokens, vocabulary.vocab_size) - 1
    written = [piece for token in vocabulary.encode(TEXT) for piece in table[token]]
    assert vocabulary.decode(written) == TEXT
    assert (len(written) > len(vocabulary.encode(TEXT))) == (num_tokens < 300)
    assert not any(table[token] for token in vocabulary.special)


def test_what_cannot_be_written_with_so_few_tokens_has_no_pieces(folder, text_first):
    vocabulary = TokenizerVocabulary(folder)
    table = ours.pieces(vocabulary, num_tokens=100)
    (letter,) = vocabulary.encode("\x00")
    assert letter >= 100
    assert table[letter] == ()
    spare = tokenizers.Tokenizer.from_file(f"{text_first}/tokenizer.json").token_to_id("<|im_start|>")
    exchanged = TokenizerVocabulary(text_first, padding_id=spare)
    table = ours.pieces(exchanged, num_tokens=400)
    assert table[spare] == (spare,)  # "!", the tokenizer's id 0
    assert table[0] == ()


def test_only_merges_can_be_undone(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("a", -1.0)]))
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="of type Unigram, not BPE"):
        ours.pieces(TokenizerVocabulary(str(tmp_path), eos_token="</s>"), num_tokens=300)


def test_without_a_template_the_end_closes_a_turn(folder):
    assert turn_of(TokenizerVocabulary(folder)) == Turn(closing=(2,))


@pytest.mark.parametrize("template", ["no place", CHATML * 2, "{speech}{instruction}"])
def test_a_template_needs_one_place_and_an_end(folder, template):
    with pytest.raises(ValueError, match="chat template"):
        turn_of(TokenizerVocabulary(folder, chat=template))


def test_the_end_may_be_another_token(folder):
    assert TokenizerVocabulary(folder, eos_token="<|im_start|>").eos_id == 1
    with pytest.raises(ValueError, match="has no token '</s>'"):
        TokenizerVocabulary(folder, eos_token="</s>")


def test_vocabularies_are_the_same_where_they_give_the_same_ids(folder, tmp_path, write_tokenizer):
    again = write_tokenizer(tmp_path)
    assert TokenizerVocabulary(folder) == TokenizerVocabulary(again)
    others = [TokenizerVocabulary(folder, **changes) for changes in (dict(chat=CHATML), dict(padding_id=999))]
    assert all(TokenizerVocabulary(folder) != other for other in others)
    assert len({v.fingerprint for v in (TokenizerVocabulary(folder), *others)}) == 3


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        TokenizerVocabulary(str(tmp_path))


def test_a_folder_that_names_no_end_is_refused(tmp_path, write_tokenizer):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="names no eos_token"):
        TokenizerVocabulary(str(tmp_path))
    assert TokenizerVocabulary(str(tmp_path), eos_token="<|im_end|>").eos_id == 2


def test_a_tokenizer_of_another_table_is_refused(folder):
    with pytest.raises(ValueError, match="do not belong"):
        vocabularies.check_vocabulary(TokenizerVocabulary(folder), 1024)


def test_a_task_writes_turns_and_starts_the_decoder_with_their_end(folder):
    vocabulary = TokenizerVocabulary(folder, chat=CHATML)
    turn = turn_of(vocabulary)
    feature = seqio.Feature(vocabulary, add_eos=True)
    task = seqio.Task(
        "chat",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
                {"inputs": "an art", "targets": "old", "transcript": "naïve"}
            ),
            splits=["test"],
        ),
        preprocessors=[preprocessors.tokenize_text_task],
        output_features={"inputs": feature, "targets": feature},
    )
    (batch,) = pipeline.eval_batches(
        task, task_feature_lengths={"inputs": 60, "targets": 8}, batch_size=1, split="test"
    )
    inputs = batch["encoder_input_tokens"][0]
    assert inputs[inputs > 0].tolist() == turn.write(vocabulary.encode("naïve"), vocabulary.encode("an art"))
    answer = [*vocabulary.encode("old"), vocabulary.eos_id]
    np.testing.assert_array_equal(batch["decoder_target_tokens"][0][: len(answer)], answer)
    assert batch["decoder_input_tokens"][0][0] == turn.start_id
