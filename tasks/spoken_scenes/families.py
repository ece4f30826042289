"""Families of instructions about a spoken scene, each with its wordings and a target computed from the scene.

Every target is a function of the transcript alone: equal sentences have equal targets. What a family asks for may be
absent from a sentence; the target then says so ("no place", "no name", ...), and rewrites give the sentence unchanged.
Targets are English, lower case, without punctuation (translations excepted).
"""

import dataclasses
from collections.abc import Callable

from slm_jax.tasks.spoken_scenes import english, german, questions, spanish
from slm_jax.tasks.spoken_scenes import lexicon as words
from slm_jax.tasks.spoken_scenes.grammar import Determiner, NounPhrase, Participant, Scene, agreement
from slm_jax.tasks.spoken_scenes.instructions import WORDINGS, Wordings
from slm_jax.tasks.spoken_scenes.lexicon import Agreement, Pattern, Tense


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of instructions.

    Attributes:
      name: what it is called in mixtures and metrics.
      feature: the dataset feature that holds its target.
      wordings: of the instruction; "{question}" and "{names}" stand for the example's question and for a list of names.
      target: the expected answer to a scene.
    """

    name: str
    feature: str
    wordings: Wordings
    target: Callable[[Scene], str]


_NUMBERS = (
    "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
_NUMBER_WORDS = dict(enumerate(_NUMBERS.split(), start=3))
_TOPICS = {
    "person": "people",
    "animal": "animals",
    "food": "food",
    "drink": "drinks",
    "clothes": "clothes",
    "furniture": "furniture",
    "container": "containers",
    "toy": "toys",
    "tool": "tools",
    "vehicle": "vehicles",
    "instrument": "music",
    "reading": "reading",
    "plant": "plants",
}
_PATTERN_TOPICS = {
    Pattern.MOTION: "travel",
    Pattern.LOCATION: "activities",
    Pattern.FEELING: "feelings",
    Pattern.WEATHER: "weather",
}


def _focus(scene: Scene) -> Participant | None:
    return scene.object or scene.subject


def _adjectives(scene: Scene) -> tuple[words.Adjective, ...]:
    phrases = [p for p in (scene.subject, scene.object, scene.recipient) if isinstance(p, NounPhrase)]
    quality = (scene.quality,) if scene.quality else ()
    return tuple(adjective for phrase in phrases for adjective in phrase.adjectives) + quality


def word_count(scene: Scene) -> str:
    """The number of words, spelled out."""
    return _NUMBER_WORDS[len(english.realise(scene).split())]


def summary(scene: Scene) -> str:
    """Subject, verb and object (or what stands for it) without adjectives, place and time."""
    bare = {
        role: dataclasses.replace(phrase, adjectives=())
        for role in ("subject", "object", "recipient")
        if isinstance(phrase := getattr(scene, role), NounPhrase)
    }
    keep_place = scene.pattern in (Pattern.MOTION, Pattern.THERE)
    place = scene.place if keep_place else None
    return english.realise(dataclasses.replace(scene, **bare, place=place, time=None, time_first=False, very=False))


def negation(scene: Scene) -> str:
    """The sentence denied."""
    return english.clause(scene).negation()


def tense_swap(scene: Scene) -> Scene:
    """The scene in the other tense; a time that only fits one tense gives way to its counterpart."""
    other = Tense.PRESENT if scene.tense is Tense.PAST else Tense.PAST
    time = words.TIME[scene.time.other] if scene.time and scene.time.other else scene.time
    return dataclasses.replace(scene, tense=other, time=time)


def tense(scene: Scene) -> str:
    """The sentence in the past if it is in the present, and the other way round."""
    return english.realise(tense_swap(scene))


def _other_number(phrase: NounPhrase) -> NounPhrase:
    if not phrase.noun.countable:
        return phrase
    if phrase.plural:
        determiner = Determiner.A if phrase.determiner.is_number else phrase.determiner
        return dataclasses.replace(phrase, determiner=determiner, plural=False)
    determiner = Determiner.TWO if phrase.determiner is Determiner.A else phrase.determiner
    return dataclasses.replace(phrase, determiner=determiner, plural=True)


def number(scene: Scene) -> str:
    """The sentence with its object (without one: its subject) in the plural if it is singular, and conversely."""
    role = "object" if scene.object else "subject"
    phrase = getattr(scene, role)
    if not isinstance(phrase, NounPhrase):
        return english.realise(scene)
    return english.realise(dataclasses.replace(scene, **{role: _other_number(phrase)}))


def _opposed(adjective: words.Adjective) -> words.Adjective:
    return words.ADJECTIVE[adjective.opposite] if adjective.opposite else adjective


def opposite(scene: Scene) -> str:
    """The sentence with every adjective that has an opposite replaced by it."""
    changes = {
        role: dataclasses.replace(phrase, adjectives=tuple(map(_opposed, phrase.adjectives)))
        for role in ("subject", "object", "recipient")
        if isinstance(phrase := getattr(scene, role), NounPhrase)
    }
    quality = _opposed(scene.quality) if scene.quality else None
    return english.realise(dataclasses.replace(scene, **changes, quality=quality))


def place(scene: Scene) -> str:
    """The place with its preposition."""
    return english.place_phrase(scene.place) if scene.place else "no place"


def time(scene: Scene) -> str:
    """The expression of time."""
    return scene.time.english if scene.time else "no time"


def object_(scene: Scene) -> str:
    """The direct object (what there is, in "there is")."""
    return english.participant(scene.object) if scene.object else "no object"


def subject(scene: Scene) -> str:
    """The subject."""
    return english.participant(scene.subject) if scene.subject else "no subject"


def name(scene: Scene) -> str:
    """The invented name."""
    return scene.name or "no name"


def category(scene: Scene) -> str:
    """The topic: the kind of the object, else what the sentence is about."""
    if scene.pattern in _PATTERN_TOPICS:
        return _PATTERN_TOPICS[scene.pattern]
    focus = _focus(scene)
    return _TOPICS[focus.noun.category] if isinstance(focus, NounPhrase) else "people"


def sentiment(scene: Scene) -> str:
    """Positive, negative or neutral: the event decides, then the adjectives."""
    event = scene.verb or scene.weather
    score = (event.sentiment if event else 0) or sum(adjective.sentiment for adjective in _adjectives(scene))
    return "positive" if score > 0 else "negative" if score < 0 else "neutral"


def reply(scene: Scene) -> str:
    """What a listener answers: joy, pity or a question, with the gist of what was said."""
    gist = dataclasses.replace(scene, time=None, time_first=False)
    said_to_speaker = english.clause(gist, listener=True)
    match sentiment(scene):
        case "positive":
            return f"how nice that {said_to_speaker.statement()}"
        case "negative":
            return f"what a pity that {said_to_speaker.statement()}"
    return f"really {said_to_speaker.question('why', without=())}"


def _follow(scene: Scene, who: Participant, follow_up: words.Continuation, subject_words: str) -> str:
    verb = english.conjugate(follow_up.verb, agreement(who), scene.tense)
    pronoun = english.object_pronoun(scene.object) if scene.object else ""
    return f"{follow_up.adverb} {subject_words} {verb} {follow_up.rest.format(o=pronoun)}".strip()


def _follow_attribute(scene: Scene) -> str:
    verbs = {1: ("want", "wants", "wanted"), -1: ("avoid", "avoids", "avoided")}
    verb = verbs.get(scene.quality.sentiment, ("notice", "notices", "noticed"))
    finite = english.conjugate(verb, Agreement.SHE, scene.tense)
    return f"so everybody {finite} {english.object_pronoun(scene.subject)}"


def _follow_there(scene: Scene) -> str:
    verbs = {"person": ("wait", "waits", "waited"), "animal": ("sleep", "sleeps", "slept")}
    verb = verbs.get(scene.object.noun.category, ("look", "looks", "looked"))
    finite = english.conjugate(verb, agreement(scene.object), scene.tense)
    rest = " there" if scene.object.noun.category in verbs else " nice"
    return f"and {english.subject_pronoun(scene.object)} {finite}{rest}"


def _known(who: Participant) -> Participant:
    """The same participant as it is mentioned again: "a young friend" has become "the friend"."""
    if not isinstance(who, NounPhrase):
        return who
    determiner = who.determiner if who.determiner is Determiner.MY else Determiner.THE
    return dataclasses.replace(who, determiner=determiner, adjectives=())


def continuation(scene: Scene) -> str:
    """The next sentence, which follows from the event, with agreeing pronouns."""
    match scene.pattern:
        case Pattern.WEATHER:
            return scene.weather.continuation[scene.tense]
        case Pattern.ATTRIBUTE:
            return _follow_attribute(scene)
        case Pattern.THERE:
            return _follow_there(scene)
        case Pattern.FEELING:
            follow_up = words.FEELING_CONTINUATION[scene.quality.english]
        case _:
            follow_up = scene.verb.continuation
    if scene.pattern is not Pattern.GIVE:
        return _follow(scene, scene.subject, follow_up, english.subject_pronoun(scene.subject))
    thanks = _follow(scene, scene.recipient, follow_up, english.participant(_known(scene.recipient)))
    return f"{thanks} {english.object_pronoun(scene.subject)}"


_TARGETS: tuple[tuple[str, str, Callable[[Scene], str]], ...] = (
    ("transcribe", "text", english.realise),
    ("bias", "text", english.realise),
    ("translate_de", "text_de", german.realise),
    ("translate_es", "text_es", spanish.realise),
    ("question", "answer", questions.answer),
    ("continuation", "continuation", continuation),
    ("reply", "reply", reply),
    ("tense", "tense", tense),
    ("negation", "negation", negation),
    ("summary", "summary", summary),
    ("number", "number", number),
    ("opposite", "opposite", opposite),
    ("place", "place", place),
    ("time", "time", time),
    ("object", "object", object_),
    ("subject", "subject", subject),
    ("name", "name_answer", name),
    ("category", "category", category),
    ("sentiment", "sentiment", sentiment),
    ("word_count", "word_count", word_count),
)

FAMILIES: tuple[Family, ...] = tuple(
    Family(name=name, feature=feature, wordings=WORDINGS[name], target=target) for name, feature, target in _TARGETS
)
FAMILY = {family.name: family for family in FAMILIES}
TARGET_FEATURES: tuple[str, ...] = tuple(dict.fromkeys(family.feature for family in FAMILIES))
"""The text features of a dataset that hold targets, each once."""


def targets(scene: Scene) -> dict[str, str]:
    """All text features of a scene: the targets of every family and the question."""
    features = {family.feature: family.target(scene) for family in FAMILIES}
    return {**features, "question": questions.question_answer(scene).question, "name": scene.name}
