"""Scenes: what the sentences of the small world say, before any language, and how to draw one at random."""

import dataclasses
import enum
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from slm_jax.tasks.spoken_scenes import lexicon
from slm_jax.tasks.spoken_scenes.lexicon import (
    Adjective,
    Agreement,
    Noun,
    Pattern,
    Place,
    Preposition,
    Tense,
    Time,
    Verb,
    Weather,
)

NAME_SHARE = 0.4
"""The share of sentences that hold an invented name."""


class Determiner(enum.Enum):
    """Article, possessive or numeral."""

    THE = "the"
    A = "a"
    MY = "my"
    TWO = "two"
    THREE = "three"
    FOUR = "four"
    FIVE = "five"

    @property
    def is_number(self) -> bool:
        return self.value in lexicon.NUMBERS


class Pronoun(enum.Enum):
    """Pronouns that occur as subjects."""

    I = "i"  # noqa: E741 (the English pronoun)
    WE = "we"
    HE = "he"
    SHE = "she"
    THEY = "they"


class Modal(enum.Enum):
    """Wish and duty: "wants to" and "has to"."""

    WANT = "want"
    HAVE = "have"


@dataclasses.dataclass(frozen=True)
class NounPhrase:
    """A determiner, adjectives (size before color, as in English) and a noun."""

    noun: Noun
    determiner: Determiner
    plural: bool = False
    adjectives: tuple[Adjective, ...] = ()


@dataclasses.dataclass(frozen=True)
class Name:
    """An invented proper name."""

    spelling: str


Participant = NounPhrase | Name | Pronoun


@dataclasses.dataclass(frozen=True)
class PlacePhrase:
    """Where it happens, or where to (the preposition is then "to")."""

    place: Place
    preposition: Preposition


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene, which each language realises by its own rules.

    Attributes:
      pattern: the shape of the sentence; it decides which other fields are set.
      tense: present or past.
      subject: who acts; None for the weather and for "there is".
      verb: what happens; None for feelings, attributes, "there is" and the weather.
      modal: "wants to" or "has to" before the verb.
      object: whom or what it happens to; what there is.
      recipient: to whom something is given.
      quality: the predicate of feelings and attributes.
      very: whether the quality is intensified.
      weather: the state of the weather.
      place, time: where and when, if told.
      time_first: whether the sentence opens with the time.
    """

    pattern: Pattern
    tense: Tense
    subject: Participant | None = None
    verb: Verb | None = None
    modal: Modal | None = None
    object: NounPhrase | Name | None = None
    recipient: NounPhrase | Name | None = None
    quality: Adjective | None = None
    very: bool = False
    weather: Weather | None = None
    place: PlacePhrase | None = None
    time: Time | None = None
    time_first: bool = False

    @property
    def name(self) -> str:
        """The invented name in the scene, '' if there is none."""
        found = [p.spelling for p in (self.subject, self.object, self.recipient) if isinstance(p, Name)]
        return found[0] if found else ""


def agreement(participant: Participant) -> Agreement:
    """Which form of a verb goes with a subject."""
    match participant:
        case Pronoun.I:
            return Agreement.I
        case Pronoun.WE:
            return Agreement.WE
        case Pronoun.THEY:
            return Agreement.THEY
        case NounPhrase(plural=True):
            return Agreement.THEY
    return Agreement.SHE


_PATTERN_WEIGHTS = {
    Pattern.TRANSITIVE: 44,
    Pattern.STATIVE: 5,
    Pattern.AFFECT: 7,
    Pattern.GIVE: 12,
    Pattern.MOTION: 8,
    Pattern.LOCATION: 10,
    Pattern.FEELING: 6,
    Pattern.ATTRIBUTE: 3,
    Pattern.THERE: 4,
    Pattern.WEATHER: 1,
}
_NAMELESS = (Pattern.ATTRIBUTE, Pattern.THERE, Pattern.WEATHER)
_NAMED_SHARE = (
    NAME_SHARE
    * sum(_PATTERN_WEIGHTS.values())
    / (sum(_PATTERN_WEIGHTS.values()) - sum(_PATTERN_WEIGHTS[p] for p in _NAMELESS))
)
_ANIMAL_VERBS = frozenset(["see", "watch", "chase", "catch", "find", "eat", "steal", "follow", "hear"])
_NUMERALS = tuple(d for d in Determiner if d.is_number)
_TO = lexicon.PREPOSITION["to"]
_LIVE = lexicon.VERB["live", Pattern.LOCATION]


@functools.cache
def _nouns(classes: frozenset[str]) -> tuple[Noun, ...]:
    return tuple(noun for noun in lexicon.NOUNS if noun.classes & classes)


@functools.cache
def _adjectives(classes: frozenset[str]) -> tuple[Adjective, ...]:
    return tuple(adjective for adjective in lexicon.ADJECTIVES if adjective.classes & classes)


@functools.cache
def _verbs(pattern: Pattern) -> tuple[Verb, ...]:
    return tuple(verb for verb in lexicon.VERBS if verb.pattern is pattern)


@functools.cache
def _prepositions(place: Place) -> tuple[Preposition, ...]:
    general = [p for p in lexicon.PREPOSITIONS if p.scope == "all" or p.scope in place.flags]
    return (place.preposition, place.preposition, *general)


@functools.cache
def _times(tense: Tense) -> tuple[Time, ...]:
    return tuple(time for time in lexicon.TIMES if time.fits(tense))


def _draw_determiner(rng: random.Random, noun: Noun, allowed: Sequence[Determiner]) -> tuple[Determiner, bool]:
    if not noun.countable:
        return rng.choice([d for d in allowed if d in (Determiner.THE, Determiner.MY)]), False
    determiner = rng.choice(allowed)
    if determiner.is_number:
        return rng.choice(_NUMERALS), True
    return determiner, determiner is not Determiner.A and rng.random() < 0.2


def _draw_adjectives(rng: random.Random, noun: Noun, share: float) -> tuple[Adjective, ...]:
    choices = _adjectives(noun.classes)
    if not noun.countable:
        choices = tuple(a for a in choices if a.kind != "size")
    if not choices or rng.random() >= share:
        return ()
    first = rng.choice(choices)
    colors = [a for a in choices if a.kind == "color"]
    if first.kind == "color" or not colors or rng.random() >= 0.2:
        return (first,)
    return first, rng.choice(colors)


_ANY_DETERMINER = (Determiner.THE, Determiner.THE, Determiner.A, Determiner.A, Determiner.MY, Determiner.TWO)
_DEFINITE = (Determiner.THE, Determiner.THE, Determiner.MY)
_INDEFINITE = (Determiner.A, Determiner.A, Determiner.TWO)


def _draw_phrase(
    rng: random.Random,
    classes: frozenset[str],
    *,
    allowed: Sequence[Determiner] = _ANY_DETERMINER,
    adjective_share: float = 0.5,
) -> NounPhrase:
    nouns = _nouns(classes)
    if allowed is _INDEFINITE:
        nouns = tuple(noun for noun in nouns if noun.countable)
    noun = rng.choice(nouns)
    determiner, plural = _draw_determiner(rng, noun, allowed)
    return NounPhrase(noun, determiner, plural, _draw_adjectives(rng, noun, adjective_share))


_PERSON = frozenset({"person"})
_ANIMATE = frozenset({"person", "animal"})
_PRONOUNS = (Pronoun.I, Pronoun.I, Pronoun.WE, Pronoun.HE, Pronoun.SHE, Pronoun.THEY)


def _draw_subject(rng: random.Random, *, animals: bool) -> Participant:
    if rng.random() < 0.4:
        return rng.choice(_PRONOUNS)
    classes = _ANIMATE if animals and rng.random() < 0.5 else _PERSON
    return _draw_phrase(rng, classes, allowed=(*_DEFINITE, Determiner.A, Determiner.TWO), adjective_share=0.25)


def _draw_place(rng: random.Random, *, only: str = "") -> PlacePhrase:
    place = rng.choice([p for p in lexicon.PLACES if not only or only in p.flags])
    return PlacePhrase(place, rng.choice(_prepositions(place)))


def _draw_name(rng: random.Random, names: Sequence[str]) -> Name:
    return Name(rng.choice(names))


def _draw_event(rng: random.Random, pattern: Pattern, name: Name | None) -> dict[str, Any]:
    """Subject, verb and object of the patterns with a direct object; the name takes one of the two roles."""
    verbs = _verbs(pattern)
    named_object = name is not None and rng.random() < 0.3
    if named_object:
        verbs = tuple(verb for verb in verbs if "person" in verb.classes) or verbs
    verb = rng.choice(verbs)
    named_object = named_object and "person" in verb.classes
    allowed = _DEFINITE if pattern is Pattern.AFFECT else _ANY_DETERMINER
    animals = pattern is Pattern.TRANSITIVE and verb.english[0] in _ANIMAL_VERBS
    subject = name if name and not named_object else _draw_subject(rng, animals=animals)
    target = name if named_object else _draw_phrase(rng, verb.classes, allowed=allowed)
    return {"subject": subject, "verb": verb, "object": target}


def _draw_give(rng: random.Random, name: Name | None) -> dict[str, Any]:
    verb = rng.choice(_verbs(Pattern.GIVE))
    named_recipient = name is not None and rng.random() < 0.4
    subject = name if name and not named_recipient else _draw_subject(rng, animals=False)
    recipient = (
        name
        if named_recipient
        else _draw_phrase(rng, _PERSON, allowed=(*_DEFINITE, Determiner.A, Determiner.TWO), adjective_share=0.3)
    )
    item = _draw_phrase(rng, verb.classes, adjective_share=0.4)
    return {"subject": subject, "verb": verb, "object": item, "recipient": recipient}


def _draw_simple(rng: random.Random, pattern: Pattern, name: Name | None) -> dict[str, Any]:
    """Subject and verb of the patterns without an object."""
    verb = rng.choice(_verbs(pattern))
    subject = name or _draw_subject(rng, animals="any" in verb.classes)
    if pattern is Pattern.LOCATION:
        return {"subject": subject, "verb": verb, "place": _draw_place(rng)}
    far = "far" if verb.english[0] == "travel" else ""
    return {"subject": subject, "verb": verb, "place": PlacePhrase(_draw_place(rng, only=far).place, _TO)}


def _draw_feeling(rng: random.Random, name: Name | None) -> dict[str, Any]:
    qualities = [a for a in lexicon.ADJECTIVES if a.kind == "feeling"]
    subject = name or _draw_subject(rng, animals=False)
    place = _draw_place(rng) if rng.random() < 0.4 else None
    return {"subject": subject, "quality": rng.choice(qualities), "very": rng.random() < 0.4, "place": place}


_THINGS = frozenset(lexicon.GROUPS["goods"]) - {"plant"}


def _draw_attribute(rng: random.Random) -> dict[str, Any]:
    phrase = _draw_phrase(rng, _THINGS, allowed=_DEFINITE, adjective_share=0.5)
    taken = {*phrase.adjectives, *(lexicon.ADJECTIVE.get(a.opposite) for a in phrase.adjectives)}
    kinds = {a.kind for a in phrase.adjectives}
    qualities = [a for a in _adjectives(phrase.noun.classes) if a not in taken and not kinds & {a.kind}]
    if not qualities:
        return _draw_attribute(rng)
    quality = rng.choice(qualities)
    place = _draw_place(rng) if rng.random() < 0.3 else None
    return {
        "subject": phrase,
        "quality": quality,
        "very": quality.kind != "color" and rng.random() < 0.4,
        "place": place,
    }


def _draw_there(rng: random.Random) -> dict[str, Any]:
    everything = _ANIMATE | _THINGS | {"plant"}
    return {"object": _draw_phrase(rng, everything, allowed=_INDEFINITE), "place": _draw_place(rng)}


def _draw_fields(rng: random.Random, pattern: Pattern, name: Name | None) -> dict[str, Any]:
    match pattern:
        case Pattern.TRANSITIVE | Pattern.STATIVE | Pattern.AFFECT:
            return _draw_event(rng, pattern, name)
        case Pattern.GIVE:
            return _draw_give(rng, name)
        case Pattern.MOTION | Pattern.LOCATION:
            return _draw_simple(rng, pattern, name)
        case Pattern.FEELING:
            return _draw_feeling(rng, name)
        case Pattern.ATTRIBUTE:
            return _draw_attribute(rng)
        case Pattern.THERE:
            return _draw_there(rng)
        case _:
            return {"weather": rng.choice(lexicon.WEATHER), "place": _draw_place(rng)}


def draw_scene(rng: random.Random, *, names: Sequence[str]) -> Scene:
    """Draws a scene; about `NAME_SHARE` of the scenes hold one of the names.

    Raises:
      ValueError: if there are no names to draw from.
    """
    if not names:
        raise ValueError("draw_scene needs at least one name; take names.TRAIN_NAMES or names.HELD_OUT_NAMES")
    pattern = rng.choices(tuple(_PATTERN_WEIGHTS), weights=tuple(_PATTERN_WEIGHTS.values()))[0]
    named = pattern not in _NAMELESS and rng.random() < _NAMED_SHARE
    fields = _draw_fields(rng, pattern, _draw_name(rng, names) if named else None)
    tense = Tense.PAST if rng.random() < 0.5 else Tense.PRESENT
    lasting = pattern is Pattern.AFFECT or fields.get("verb") is _LIVE
    with_time = not lasting and rng.random() < (0.3 if pattern is Pattern.GIVE else 0.5)
    time = rng.choice(_times(tense)) if with_time else None
    if pattern is Pattern.TRANSITIVE:
        willing = fields["verb"].sentiment >= 0 and rng.random() < 0.25
        fields["modal"] = rng.choice(tuple(Modal)) if willing else None
        fields["place"] = _draw_place(rng) if rng.random() < 0.45 else None
    first = time is not None and rng.random() < 0.35
    return Scene(pattern=pattern, tense=tense, time=time, time_first=first, **fields)


def draw_scenes(seed: str, *, names: Sequence[str]) -> Iterator[Scene]:
    """An endless, reproducible stream of scenes; they may repeat."""
    rng = random.Random(seed)
    while True:
        yield draw_scene(rng, names=names)
