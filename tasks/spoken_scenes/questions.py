"""Questions about a scene, put to the speaker, with answers in words of the sentence."""

import dataclasses
import hashlib

from slm_jax.tasks.spoken_scenes import english
from slm_jax.tasks.spoken_scenes.grammar import Name, NounPhrase, Scene
from slm_jax.tasks.spoken_scenes.lexicon import Pattern


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
    """A question about a scene, put to the speaker, and its answer in words of the sentence."""

    question: str
    answer: str


def _phrase_questions(phrase: NounPhrase) -> list[QuestionAnswer]:
    """The color of a thing."""
    colors = [adjective.english for adjective in phrase.adjectives if adjective.kind == "color"]
    if not colors:
        return []
    be, noun = ("are", phrase.noun.english_plural) if phrase.plural else ("is", phrase.noun.english)
    return [QuestionAnswer(f"what color {be} the {noun}", colors[0])]


def _object_questions(scene: Scene, clause: english.Clause) -> list[QuestionAnswer]:
    target = scene.object
    is_person = isinstance(target, Name) or target.noun.category == "person"
    found = [
        QuestionAnswer(
            clause.question("who" if is_person else "what", without=("object",)), english.participant(target)
        )
    ]
    if isinstance(target, NounPhrase):
        found += _phrase_questions(target)
        if target.determiner.is_number:
            counted = clause.question(f"how many {target.noun.english_plural}", without=("object",))
            found.append(QuestionAnswer(counted, target.determiner.value))
    return found


def questions(scene: Scene) -> list[QuestionAnswer]:
    """All questions the family draws from, in a fixed order."""
    clause = english.clause(scene, listener=True)
    found = []
    if isinstance(scene.subject, NounPhrase | Name) and scene.pattern is not Pattern.ATTRIBUTE:
        found.append(QuestionAnswer(clause.subject_question(), english.participant(scene.subject)))
    if scene.pattern is Pattern.ATTRIBUTE:
        found += _phrase_questions(scene.subject)
    if scene.object:
        found += _object_questions(scene, clause)
    if scene.recipient:
        asked = clause.question("to whom", without=("recipient",))
        found.append(QuestionAnswer(asked, english.participant(scene.recipient)))
    if "quality" in clause.complements:
        found.append(QuestionAnswer(clause.question("how", without=("quality",)), clause.complements["quality"]))
    if scene.place:
        found.append(QuestionAnswer(clause.question("where", without=("place",)), english.place_phrase(scene.place)))
    if scene.time:
        found.append(QuestionAnswer(clause.question("when", without=("time",)), scene.time.english))
    return found


def question_answer(scene: Scene) -> QuestionAnswer:
    """The question of a scene: one of `questions`, chosen by a hash of the sentence."""
    choices = questions(scene)
    digest = hashlib.blake2b(english.realise(scene).encode(), digest_size=8).digest()
    return choices[int.from_bytes(digest) % len(choices)]


def answer(scene: Scene) -> str:
    """The answer to the question of a scene."""
    return question_answer(scene).answer
