"""Targets and wordings of the instruction families."""

import collections
import itertools
import re

import pytest

from slm_jax.data.vocabularies import scenes_vocabulary
from slm_jax.tasks.spoken_scenes import english, families, grammar, lexicon, names, questions, train_vocabulary
from slm_jax.tasks.spoken_scenes.grammar import Determiner, Name, NounPhrase, PlacePhrase, Pronoun, Scene
from slm_jax.tasks.spoken_scenes.instructions import WORDINGS, Wordings, expand
from slm_jax.tasks.spoken_scenes.lexicon import ADJECTIVE, NOUN, PLACE, PREPOSITION, TIME, VERB, Pattern, Tense

MARKET = PLACE["market"]
BUY = Scene(
    pattern=Pattern.TRANSITIVE,
    tense=Tense.PAST,
    subject=Name("mirela"),
    verb=VERB["buy", Pattern.TRANSITIVE],
    object=NounPhrase(NOUN["coat"], Determiner.A, adjectives=(ADJECTIVE["old"], ADJECTIVE["white"])),
    place=PlacePhrase(MARKET, MARKET.preposition),
    time=TIME["yesterday"],
    time_first=True,
)
GIVE = Scene(
    pattern=Pattern.GIVE,
    tense=Tense.PRESENT,
    subject=Pronoun.I,
    verb=VERB["give", Pattern.GIVE],
    object=NounPhrase(NOUN["key"], Determiner.TWO, plural=True),
    recipient=NounPhrase(NOUN["sister"], Determiner.MY, adjectives=(ADJECTIVE["young"],)),
)
SAD = Scene(
    pattern=Pattern.FEELING,
    tense=Tense.PRESENT,
    subject=NounPhrase(NOUN["boy"], Determiner.THE, plural=True),
    quality=ADJECTIVE["sad"],
    very=True,
    place=PlacePhrase(PLACE["house"], PREPOSITION["behind"]),
)
EXPECTED = {
    "transcribe": (
        "yesterday mirela bought an old white coat at the market",
        "i give two keys to my young sister",
        "the boys are very sad behind the house",
    ),
    "tense": (
        "today mirela buys an old white coat at the market",
        "i gave two keys to my young sister",
        "the boys were very sad behind the house",
    ),
    "negation": (
        "yesterday mirela did not buy an old white coat at the market",
        "i do not give two keys to my young sister",
        "the boys are not very sad behind the house",
    ),
    "summary": ("mirela bought a coat", "i give two keys to my sister", "the boys are sad"),
    "number": (
        "yesterday mirela bought two old white coats at the market",
        "i give a key to my young sister",
        "the boy is very sad behind the house",
    ),
    "opposite": (
        "yesterday mirela bought a new black coat at the market",
        "i give two keys to my elderly sister",
        "the boys are very happy behind the house",
    ),
    "continuation": ("then she carried it home", "then my sister thanks me", "so they cry"),
    "reply": (
        "really why did mirela buy an old white coat at the market",
        "how nice that you give two keys to your young sister",
        "what a pity that the boys are very sad behind the house",
    ),
    "place": ("at the market", "no place", "behind the house"),
    "time": ("yesterday", "no time", "no time"),
    "object": ("an old white coat", "two keys", "no object"),
    "subject": ("mirela", "i", "the boys"),
    "name": ("mirela", "no name", "no name"),
    "category": ("clothes", "tools", "feelings"),
    "sentiment": ("neutral", "positive", "negative"),
    "word_count": ("ten", "eight", "eight"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_targets(name: str):
    assert tuple(families.FAMILY[name].target(scene) for scene in (BUY, GIVE, SAD)) == EXPECTED[name]


def asked(scene: Scene) -> dict[str, str]:
    return {pair.question: pair.answer for pair in questions.questions(scene)}


def test_questions_and_answers():
    assert asked(BUY) == {
        "who bought an old white coat at the market yesterday": "mirela",
        "what did mirela buy at the market yesterday": "an old white coat",
        "what color is the coat": "white",
        "where did mirela buy an old white coat yesterday": "at the market",
        "when did mirela buy an old white coat at the market": "yesterday",
    }
    assert asked(GIVE) == {
        "what do you give to your young sister": "two keys",
        "how many keys do you give to your young sister": "two",
        "to whom do you give two keys": "my young sister",
    }
    assert asked(SAD) == {
        "who is very sad behind the house": "the boys",
        "how are the boys behind the house": "very sad",
        "where are the boys very sad": "behind the house",
    }
    assert questions.question_answer(BUY) in questions.questions(BUY)


def test_every_family_has_wordings_and_its_own_name():
    assert len({family.name for family in families.FAMILIES}) == len(families.FAMILIES) == 20
    assert {family.name: family.wordings for family in families.FAMILIES} == WORDINGS


def test_expand_multiplies_the_alternatives_in_order():
    assert expand("(give|show) me (the|) words") == (
        "give me the words",
        "give me words",
        "show me the words",
        "show me words",
    )
    assert expand("(please|) stop (it|)") == ("please stop it", "please stop", "stop it", "stop")
    assert expand("{question}") == ("{question}",)


def both(wordings: Wordings) -> tuple[str, ...]:
    return wordings.trained + wordings.unseen


def test_no_wording_is_in_two_places():
    times = collections.Counter(text for wordings in WORDINGS.values() for text in both(wordings))
    assert [text for text, count in times.items() if count > 1] == []


@pytest.mark.parametrize("name", WORDINGS)
def test_wordings_are_many_and_plain_and_hold_the_slot_once(name: str):
    assert 25 <= len(WORDINGS[name].trained) <= 90
    assert len(WORDINGS[name].unseen) == 10
    slots = {"question": ["{question}"], "bias": ["{names}"]}.get(name, [])
    for text in both(WORDINGS[name]):
        words = text.split(" ")
        assert [word for word in words if not re.fullmatch("[a-z]+", word)] == slots, text


@pytest.mark.parametrize("name", WORDINGS)
def test_unseen_wordings_have_at_most_one_word_that_is_not_trained(name: str):
    trained = {word for text in WORDINGS[name].trained for word in text.split()}
    for text in WORDINGS[name].unseen:
        assert len(set(text.split()) - trained) <= 1, text


@pytest.mark.parametrize("name", WORDINGS)
def test_wordings_fit_the_buckets_of_training(name: str):
    vocabulary = scenes_vocabulary()
    longest = 10 if name == "question" else 16
    for text in both(WORDINGS[name]):
        length = len(vocabulary.encode(text.format(question="", names=""))) + 1
        assert length <= longest, (length, text)


@pytest.mark.parametrize("name", WORDINGS)
def test_instructions_of_the_vocabulary_are_still_trained(name: str):
    *trained, _ = train_vocabulary.INSTRUCTIONS[name]
    assert trained[0] == WORDINGS[name].trained[0]
    assert set(trained) <= set(WORDINGS[name].trained)


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    """Scenes with few names, so that sentences repeat."""
    return list(itertools.islice(grammar.draw_scenes("families", names=names.TRAIN_NAMES[:3]), 8000))


def test_targets_are_functions_of_the_sentence(drawn: list[Scene]):
    by_text: dict[str, list[Scene]] = {}
    for scene in drawn:
        by_text.setdefault(english.realise(scene), []).append(scene)
    repeated = [scenes for scenes in by_text.values() if len(scenes) > 1]
    assert len(repeated) > 50
    for first, *others in repeated:
        assert all(families.targets(other) == families.targets(first) for other in others)


def test_targets_are_plain_words(drawn: list[Scene]):
    for scene in drawn[:800]:
        found = families.targets(scene)
        found.pop("name")
        for feature, text in found.items():
            assert text, feature
            assert text == " ".join(text.split()) == text.lower(), (feature, text)
            assert all(word.isalpha() for word in text.split()), (feature, text)


def test_changing_the_tense_changes_every_sentence_but_not_its_words_beyond_verb_and_time(drawn: list[Scene]):
    for scene in drawn[:800]:
        other = families.tense_swap(scene)
        assert other.time is None or other.time.fits(other.tense)
        assert english.realise(other) != english.realise(scene)


def test_topics_cover_the_categories_of_nouns():
    assert {noun.category for noun in lexicon.NOUNS} == set(families._TOPICS)
