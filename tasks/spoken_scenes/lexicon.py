"""The words of the small world with the forms that English, German and Spanish need."""

import dataclasses
import enum
from collections.abc import Iterator

from slm_jax.tasks.spoken_scenes import vocabulary


class Agreement(enum.IntEnum):
    """Person and number of a subject: the column of a conjugation table."""

    I = 0  # noqa: E741 (the English pronoun)
    SHE = 1
    WE = 2
    THEY = 3


class Tense(enum.IntEnum):
    """Present or past: the row of a conjugation table."""

    PRESENT = 0
    PAST = 1


class Pattern(enum.Enum):
    """The shape of a sentence."""

    TRANSITIVE = "transitive"
    STATIVE = "stative"
    AFFECT = "affect"
    GIVE = "give"
    MOTION = "motion"
    LOCATION = "location"
    FEELING = "feeling"
    ATTRIBUTE = "attribute"
    THERE = "there"
    WEATHER = "weather"


@dataclasses.dataclass(frozen=True)
class Noun:
    """A noun with its forms; `german_oblique` is the singular of weak nouns outside the nominative."""

    english: str
    english_plural: str
    german: str
    german_plural: str
    german_gender: str
    german_oblique: str
    spanish: str
    spanish_plural: str
    spanish_gender: str
    classes: frozenset[str]
    category: str
    pronoun: str

    @property
    def countable(self) -> bool:
        return self.english_plural != "-"


@dataclasses.dataclass(frozen=True)
class Adjective:
    """An adjective; `spanish` holds masculine, feminine, masculine plural, feminine plural."""

    english: str
    german: str
    german_stem: str
    spanish: tuple[str, str, str, str]
    kind: str
    opposite: str
    sentiment: int
    classes: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What follows an event: adverb, the English verb (base, third person, past) and the rest of the sentence."""

    adverb: str
    verb: tuple[str, str, str]
    rest: str


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb: English base, third person and past; German and Spanish forms by tense and agreement."""

    english: tuple[str, str, str]
    german_infinitive: str
    german: tuple[tuple[str, ...], tuple[str, ...]]
    german_dative: bool
    spanish_infinitive: str
    spanish: tuple[tuple[str, ...], tuple[str, ...]]
    pattern: Pattern
    classes: frozenset[str]
    sentiment: int
    continuation: Continuation


@dataclasses.dataclass(frozen=True)
class Weather:
    """A state of the weather, told by a verb (`is_verb`) or an adjective; pairs hold present and past."""

    english: tuple[str, ...]
    german: tuple[str, ...]
    spanish: tuple[str, str]
    sentiment: int
    continuation: tuple[str, str]

    @property
    def is_verb(self) -> bool:
        return len(self.english) == 3


@dataclasses.dataclass(frozen=True)
class Place:
    """A place with the preposition it usually takes."""

    english: str
    preposition: "Preposition"
    german: str
    german_gender: str
    spanish: str
    spanish_gender: str
    flags: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Preposition:
    """A preposition of place; the German one governs the dative."""

    english: str
    german: str
    spanish: str
    scope: str


@dataclasses.dataclass(frozen=True)
class Time:
    """An expression of time; `other` is the English of the one that replaces it in the other tense."""

    english: str
    german: str
    spanish: str
    tense: str
    other: str

    def fits(self, tense: Tense) -> bool:
        return self.tense == "both" or self.tense == tense.name.lower()


_SMALL = ("clothes", "container", "toy", "tool", "reading", "food", "plant")
GROUPS = {"goods": (*_SMALL, "furniture", "vehicle", "instrument", "drink"), "small": _SMALL}
"""Names for several classes at once in the verb table."""


def _rows(table: str, columns: int) -> Iterator[list[str]]:
    for line in table.strip().splitlines():
        if line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != columns:
            raise ValueError(f"vocabulary row {line!r} has {len(cells)} columns, expected {columns}")
        yield cells


def _noun(english: str, german: str, spanish: str, classes: str) -> Noun:
    singular, plural = english.split()
    gender, de, de_plural, *oblique = german.split()
    es_gender, es, es_plural = spanish.split()
    tags = classes.split()
    pronoun = tags.pop() if tags[0] == "person" else "it"
    return Noun(
        english=singular,
        english_plural=plural,
        german=de,
        german_plural=de_plural,
        german_gender=gender,
        german_oblique=oblique[0] if oblique else de,
        spanish=es,
        spanish_plural=es_plural,
        spanish_gender=es_gender,
        classes=frozenset(tags),
        category=tags[0],
        pronoun=pronoun,
    )


def spanish_adjective(masculine: str) -> tuple[str, str, str, str]:
    """Masculine, feminine, masculine plural and feminine plural of a regular Spanish adjective."""
    if masculine.endswith("o"):
        stem = masculine[:-1]
        return masculine, stem + "a", stem + "os", stem + "as"
    if masculine.endswith("e"):
        plural = masculine + "s"
    elif masculine.endswith("z"):
        plural = masculine[:-1] + "ces"
    elif masculine.endswith("ón"):
        plural = masculine[:-2] + "ones"
    else:
        plural = masculine + "es"
    return masculine, masculine, plural, plural


def _adjective(
    english: str, german: str, spanish: str, kind: str, opposite: str, sentiment: str, classes: str
) -> Adjective:
    forms = tuple(spanish.split())
    base, *stem = german.split()
    return Adjective(
        english=english,
        german=base,
        german_stem=stem[0] if stem else base,
        spanish=forms if len(forms) == 4 else spanish_adjective(spanish),
        kind=kind,
        opposite="" if opposite == "-" else opposite,
        sentiment=int(sentiment),
        classes=frozenset(classes.split()),
    )


def german_forms(infinitive: str, third: str, past: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Present and past of a German verb (first, third person; first, third plural) from its principal parts."""
    stem = infinitive[:-2] if infinitive.endswith("en") else infinitive[:-1]
    first = stem + "e" if third.endswith("t") else third  # modal verbs: ich will, ich mag
    plural = past + ("n" if past.endswith("e") else "en")
    return (first, third, infinitive, infinitive), (past, past, plural, plural)


_SPANISH_ENDINGS = {
    "ar": ("o a amos an", "é ó amos aron", "aba aba ábamos aban"),
    "er": ("o e emos en", "í ió imos ieron", "ía ía íamos ían"),
    "ir": ("o e imos en", "í ió imos ieron", "ía ía íamos ían"),
}


def spanish_forms(infinitive: str, *, imperfect: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Present and past (yo, ella, nosotros, ellas); the past is the preterite, or the imperfect (for states)."""
    present, preterite, past = (
        tuple(infinitive[:-2] + ending for ending in endings.split())
        for endings in _SPANISH_ENDINGS[infinitive[-2:].replace("í", "i")]
    )
    listed, listed_past = _SPANISH_IRREGULAR.get(infinitive, ("", ""))
    present = tuple(listed.split()) or present
    preterite = tuple(listed_past.split()) or preterite
    return present, past if imperfect else preterite


def _continuation(spec: str) -> Continuation:
    adverb, base, third, past, *rest = spec.split()
    return Continuation(adverb=adverb, verb=(base, third, past), rest=" ".join(rest))


def _classes(spec: str) -> frozenset[str]:
    return frozenset(name for word in spec.split() for name in GROUPS.get(word, [word]))


def _verb(english: str, german: str, spanish: str, pattern: str, classes: str, sentiment: str) -> Verb:
    base, third, past = english.split()
    infinitive, de_third, de_past, *dative = german.split()
    es_infinitive, *imperfect = spanish.split()
    return Verb(
        english=(base, third, past),
        german_infinitive=infinitive,
        german=german_forms(infinitive, de_third, de_past),
        german_dative=bool(dative),
        spanish_infinitive=es_infinitive,
        spanish=spanish_forms(es_infinitive, imperfect=bool(imperfect)),
        pattern=Pattern(pattern),
        classes=_classes(classes),
        sentiment=int(sentiment),
        continuation=_CONTINUATIONS[f"{base} {pattern}"],
    )


def _weather(english: str, german: str, spanish: str, sentiment: str, continuation: str) -> Weather:
    present, past = spanish.split("; ")
    follows, followed = continuation.split("; ")
    return Weather(tuple(english.split()), tuple(german.split()), (present, past), int(sentiment), (follows, followed))


def _place(english: str, german: str, spanish: str, flags: str) -> Place:
    preposition, noun = english.split()
    de_preposition, gender, de = german.split()
    es_gender, es = spanish.split()
    own = Preposition(english=preposition, german=de_preposition, spanish="en", scope="own")
    return Place(noun, own, de, gender, es, es_gender, frozenset(flags.split()))


def _time(english: str, german: str, spanish: str, tense: str, other: str) -> Time:
    return Time(english, german, spanish, tense, "" if other == "-" else other)


_SPANISH_IRREGULAR = {row[0]: (row[1], row[2]) for row in _rows(vocabulary.SPANISH_IRREGULAR, 3)}
_CONTINUATIONS = {key: _continuation(spec) for key, spec in _rows(vocabulary.CONTINUATIONS, 2)}

NOUNS = tuple(_noun(*row) for row in _rows(vocabulary.NOUNS, 4))
ADJECTIVES = tuple(_adjective(*row) for row in _rows(vocabulary.ADJECTIVES, 7))
VERBS = tuple(_verb(*row) for row in _rows(vocabulary.VERBS, 6))
WEATHER = tuple(_weather(*row) for row in _rows(vocabulary.WEATHER, 5))
PLACES = tuple(_place(*row) for row in _rows(vocabulary.PLACES, 4))
PREPOSITIONS = tuple(Preposition(*row) for row in _rows(vocabulary.PREPOSITIONS, 4))
TIMES = tuple(_time(*row) for row in _rows(vocabulary.TIMES, 5))

NOUN = {noun.english: noun for noun in NOUNS}
ADJECTIVE = {adjective.english: adjective for adjective in ADJECTIVES}
VERB = {(verb.english[0], verb.pattern): verb for verb in VERBS}
PLACE = {place.english: place for place in PLACES}
PREPOSITION = {preposition.english: preposition for preposition in PREPOSITIONS}
TIME = {time.english: time for time in TIMES}
FEELING_CONTINUATION = {name: _continuation(rest) for name, rest in _rows(vocabulary.FEELING_CONTINUATIONS, 2)}
NUMBERS = {"two": ("zwei", "dos"), "three": ("drei", "tres"), "four": ("vier", "cuatro"), "five": ("fünf", "cinco")}
"""English numerals with their German and Spanish, which are not declined."""
