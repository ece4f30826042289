"""German translations of scenes by rule: case, gender, adjective declension, conjugation, verb-second order.

Lower case, without punctuation. Order after the finite verb: subject (when something else opens the sentence), dative,
time, accusative, place, predicate, infinitive.
"""

import enum

from slm_jax.tasks.spoken_scenes.grammar import (
    Determiner,
    Modal,
    Name,
    NounPhrase,
    Participant,
    PlacePhrase,
    Pronoun,
    Scene,
    agreement,
)
from slm_jax.tasks.spoken_scenes.lexicon import NUMBERS, Agreement, Noun, Pattern, german_forms


class Case(enum.IntEnum):
    """The cases that occur: the column of a declension table."""

    NOMINATIVE = 0
    ACCUSATIVE = 1
    DATIVE = 2


_DEFINITE = {
    "m": ("der", "den", "dem"),
    "f": ("die", "die", "der"),
    "n": ("das", "das", "dem"),
    "pl": ("die", "die", "den"),
}
_EIN_ENDINGS = {"m": ("", "en", "em"), "f": ("e", "e", "er"), "n": ("", "", "em"), "pl": ("e", "e", "en")}
_WEAK = {"m": ("e", "en", "en"), "f": ("e", "e", "en"), "n": ("e", "e", "en"), "pl": ("en", "en", "en")}
_MIXED = {"m": ("er", "en", "en"), "f": ("e", "e", "en"), "n": ("es", "es", "en"), "pl": ("en", "en", "en")}
_STRONG_PLURAL = ("e", "e", "en")
_CONTRACTIONS = {"in dem": "im", "an dem": "am", "bei dem": "beim", "zu dem": "zum", "zu der": "zur"}
_SEIN = (("bin", "ist", "sind", "sind"), ("war", "war", "waren", "waren"))
_MODALS = {
    Modal.WANT: german_forms("wollen", "will", "wollte"),
    Modal.HAVE: german_forms("müssen", "muss", "musste"),
}
_PRONOUNS = {Pronoun.I: "ich", Pronoun.WE: "wir", Pronoun.HE: "er", Pronoun.SHE: "sie", Pronoun.THEY: "sie"}


def _noun(noun: Noun, case: Case, *, plural: bool) -> str:
    if not plural:
        return noun.german if case is Case.NOMINATIVE else noun.german_oblique
    ending = "n" if case is Case.DATIVE and noun.german_plural[-1] not in "ns" else ""
    return noun.german_plural + ending


def _determiner(determiner: Determiner, gender: str, case: Case) -> str:
    if determiner.is_number:
        return NUMBERS[determiner.value][0]
    if determiner is Determiner.THE:
        return _DEFINITE[gender][case]
    stem = "ein" if determiner is Determiner.A else "mein"
    return stem + _EIN_ENDINGS[gender][case]


def _ending(determiner: Determiner, gender: str, case: Case) -> str:
    if determiner.is_number:
        return _STRONG_PLURAL[case]
    return (_WEAK if determiner is Determiner.THE else _MIXED)[gender][case]


def noun_phrase(phrase: NounPhrase, case: Case) -> str:
    """Determiner, declined adjectives and noun in a case."""
    gender = "pl" if phrase.plural else phrase.noun.german_gender
    ending = _ending(phrase.determiner, gender, case)
    return " ".join(
        [
            _determiner(phrase.determiner, gender, case),
            *(adjective.german_stem + ending for adjective in phrase.adjectives),
            _noun(phrase.noun, case, plural=phrase.plural),
        ]
    )


def participant(who: Participant, case: Case) -> str:
    """A participant in a case; pronouns occur as subjects only."""
    match who:
        case Name(spelling=spelling):
            return spelling
        case Pronoun():
            return _PRONOUNS[who]
    return noun_phrase(who, case)


def place_phrase(phrase: PlacePhrase) -> str:
    """Preposition, article in the dative (contracted where German does) and noun."""
    preposition = f"{phrase.preposition.german} {_DEFINITE[phrase.place.german_gender][Case.DATIVE]}"
    return f"{_CONTRACTIONS.get(preposition, preposition)} {phrase.place.german}"


def _subject(scene: Scene) -> tuple[str, Agreement]:
    if scene.subject is None:
        return "es", Agreement.SHE
    return participant(scene.subject, Case.NOMINATIVE), agreement(scene.subject)


def _finite(scene: Scene, form: Agreement) -> str:
    tense = scene.tense
    if scene.weather and scene.weather.is_verb:
        return scene.weather.german[tense]
    if scene.pattern is Pattern.THERE:
        return ("gibt", "gab")[tense]
    if scene.verb is None:
        return _SEIN[tense][form]
    return (_MODALS[scene.modal] if scene.modal else scene.verb.german)[tense][form]


def _predicate(scene: Scene) -> str:
    if scene.weather:
        return "" if scene.weather.is_verb else scene.weather.german[0]
    if scene.quality is None:
        return ""
    return ("sehr " if scene.very else "") + scene.quality.german


def realise(scene: Scene) -> str:
    """The German sentence of a scene."""
    subject, form = _subject(scene)
    dative_object = scene.verb is not None and scene.verb.german_dative
    target = participant(scene.object, Case.DATIVE if dative_object else Case.ACCUSATIVE) if scene.object else ""
    recipient = participant(scene.recipient, Case.DATIVE) if scene.recipient else ""
    time = scene.time.german if scene.time else ""
    opening, inner_subject, inner_time = (time, subject, "") if scene.time_first else (subject, "", time)
    words = [
        opening,
        _finite(scene, form),
        inner_subject,
        target if dative_object else recipient,
        inner_time,
        "" if dative_object else target,
        place_phrase(scene.place) if scene.place else "",
        _predicate(scene),
        scene.verb.german_infinitive if scene.modal else "",
    ]
    return " ".join(word for word in words if word)
