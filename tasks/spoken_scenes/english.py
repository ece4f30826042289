"""English sentences about scenes: statements, negations and questions, in lower case and without punctuation."""

import dataclasses

from slm_jax.tasks.spoken_scenes import names as names_lib
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
from slm_jax.tasks.spoken_scenes.lexicon import Agreement, Pattern, Tense

_BE = (("am", "is", "are", "are"), ("was", "was", "were", "were"))
_MODALS = {Modal.WANT: ("want", "wants", "wanted"), Modal.HAVE: ("have", "has", "had")}
_TO_BE = ("be", "is", "was")


def _article(next_word: str) -> str:
    return "an" if next_word[0] in "aeiou" else "a"


def noun_phrase(phrase: NounPhrase, *, listener: bool = False) -> str:
    """The words of a noun phrase; with `listener` the speaker's "my" is "your"."""
    noun = phrase.noun.english_plural if phrase.plural else phrase.noun.english
    words = [adjective.english for adjective in phrase.adjectives] + [noun]
    determiner = phrase.determiner.value
    if phrase.determiner is Determiner.A:
        determiner = _article(words[0])
    if phrase.determiner is Determiner.MY and listener:
        determiner = "your"
    return " ".join([determiner, *words])


def participant(who: Participant, *, listener: bool = False) -> str:
    """A participant as subject; with `listener` the speaker ("i", "we") is "you"."""
    match who:
        case Name(spelling=spelling):
            return spelling
        case Pronoun.I | Pronoun.WE if listener:
            return "you"
        case Pronoun():
            return who.value
    return noun_phrase(who, listener=listener)


def subject_pronoun(who: Participant) -> str:
    """The pronoun that takes up a participant: i, we, he, she, it or they."""
    match who:
        case Pronoun():
            return who.value
        case Name(spelling=spelling):
            return names_lib.pronoun(spelling)
        case NounPhrase(plural=True):
            return "they"
    return who.noun.pronoun


def object_pronoun(who: Participant) -> str:
    """The same pronoun in the object case."""
    cases = {"i": "me", "we": "us", "he": "him", "she": "her", "they": "them", "it": "it"}
    return cases[subject_pronoun(who)]


def conjugate(verb: tuple[str, str, str], form: Agreement, tense: Tense) -> str:
    """The finite form of a verb given as base, third person and past ("be" has its own table)."""
    if verb == _TO_BE:
        return _BE[tense][form]
    if tense is Tense.PAST:
        return verb[2]
    return verb[1] if form is Agreement.SHE else verb[0]


def place_phrase(phrase: PlacePhrase) -> str:
    """Preposition, article and noun."""
    return f"{phrase.preposition.english} the {phrase.place.english}"


@dataclasses.dataclass(frozen=True)
class Clause:
    """The parts of an English clause, from which statements, negations and questions are put together.

    Attributes:
      subject: its words.
      form: how the finite verb agrees.
      verb: base, third person and past of the finite verb.
      complements: role -> words, in order; roles: infinitive, object, recipient, quality, place, time.
      tense: of the finite verb.
      time_first: whether a statement opens with the time.
    """

    subject: str
    form: Agreement
    verb: tuple[str, str, str]
    complements: dict[str, str]
    tense: Tense
    time_first: bool

    def _rest(self, *, without: tuple[str, ...] = ()) -> list[str]:
        return [words for role, words in self.complements.items() if role not in without]

    def _finite(self) -> str:
        return conjugate(self.verb, self.form, self.tense)

    def _auxiliary(self) -> tuple[str, list[str]]:
        """The verb that carries negation and inversion, and what remains of the main verb."""
        if self.verb == _TO_BE:
            return self._finite(), []
        return conjugate(("do", "does", "did"), self.form, self.tense), [self.verb[0]]

    def _opening(self) -> tuple[list[str], tuple[str, ...]]:
        if self.time_first and "time" in self.complements:
            return [self.complements["time"]], ("time",)
        return [], ()

    def statement(self) -> str:
        """Subject, verb and complements."""
        opening, used = self._opening()
        return " ".join([*opening, self.subject, self._finite(), *self._rest(without=used)])

    def negation(self) -> str:
        """The statement denied with "not"."""
        opening, used = self._opening()
        auxiliary, main = self._auxiliary()
        return " ".join([*opening, self.subject, auxiliary, "not", *main, *self._rest(without=used)])

    def question(self, word: str, *, without: tuple[str, ...]) -> str:
        """A question with an interrogative in place of the complements named in `without`."""
        auxiliary, main = self._auxiliary()
        return " ".join([word, auxiliary, self.subject, *main, *self._rest(without=without)])

    def subject_question(self) -> str:
        """Who does it: third person singular, whatever the subject is."""
        return " ".join(["who", conjugate(self.verb, Agreement.SHE, self.tense), *self._rest()])


def _verb_group(scene: Scene) -> tuple[tuple[str, str, str], dict[str, str]]:
    if scene.weather and scene.weather.is_verb:
        return scene.weather.english, {}
    if scene.weather:
        return _TO_BE, {"quality": scene.weather.english[0]}
    if scene.quality:
        return _TO_BE, {"quality": ("very " if scene.very else "") + scene.quality.english}
    if scene.verb is None:
        return _TO_BE, {}
    if scene.modal:
        return _MODALS[scene.modal], {"infinitive": f"to {scene.verb.english[0]}"}
    return scene.verb.english, {}


def _subject(scene: Scene, *, listener: bool) -> tuple[str, Agreement]:
    if scene.pattern is Pattern.WEATHER:
        return "it", Agreement.SHE
    if scene.pattern is Pattern.THERE:
        return "there", agreement(scene.object)
    spoken_to = listener and scene.subject in (Pronoun.I, Pronoun.WE)
    form = Agreement.THEY if spoken_to else agreement(scene.subject)
    return participant(scene.subject, listener=listener), form


def clause(scene: Scene, *, listener: bool = False) -> Clause:
    """The clause of a scene; with `listener` it is said to the speaker ("you", "your")."""
    verb, complements = _verb_group(scene)
    if scene.object:
        complements["object"] = participant(scene.object, listener=listener)
    if scene.recipient:
        complements["recipient"] = f"to {participant(scene.recipient, listener=listener)}"
    if scene.place:
        complements["place"] = place_phrase(scene.place)
    if scene.time:
        complements["time"] = scene.time.english
    subject, form = _subject(scene, listener=listener)
    return Clause(subject, form, verb, complements, scene.tense, scene.time_first)


def realise(scene: Scene) -> str:
    """The English sentence of a scene."""
    return clause(scene).statement()
