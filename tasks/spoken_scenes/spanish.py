"""Spanish translations of scenes by rule: gender and number agreement, personal a, al and del, conjugation.

Lower case, without punctuation. Adjectives follow their noun. Subjects in the first person are left out. "To like" is
gustar: the liked thing is the subject and the person a dative.
"""

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
from slm_jax.tasks.spoken_scenes.lexicon import NUMBERS, Adjective, Pattern, spanish_forms

_ARTICLES = {
    (Determiner.THE, "m", False): "el",
    (Determiner.THE, "f", False): "la",
    (Determiner.THE, "m", True): "los",
    (Determiner.THE, "f", True): "las",
    (Determiner.A, "m", False): "un",
    (Determiner.A, "f", False): "una",
}
_ESTAR = (("estoy", "está", "estamos", "están"), ("estaba", "estaba", "estábamos", "estaban"))
_SER = (("soy", "es", "somos", "son"), ("era", "era", "éramos", "eran"))
_MODALS = {
    Modal.WANT: spanish_forms("querer", imperfect=True),
    Modal.HAVE: tuple(tuple(f"{form} que" for form in forms) for forms in spanish_forms("tener", imperfect=True)),
}
_PRONOUNS = {Pronoun.I: "", Pronoun.WE: "", Pronoun.HE: "él", Pronoun.SHE: "ella", Pronoun.THEY: "ellos"}


def _adjective(adjective: Adjective, *, feminine: bool, plural: bool) -> str:
    return adjective.spanish[2 * plural + feminine]


def _determiner(phrase: NounPhrase) -> str:
    if phrase.determiner.is_number:
        return NUMBERS[phrase.determiner.value][1]
    if phrase.determiner is Determiner.MY:
        return "mis" if phrase.plural else "mi"
    return _ARTICLES[phrase.determiner, phrase.noun.spanish_gender, phrase.plural]


def noun_phrase(phrase: NounPhrase) -> str:
    """Determiner, noun and agreeing adjectives; the color, nearest to the noun in English, is so in Spanish."""
    feminine = phrase.noun.spanish_gender == "f"
    noun = phrase.noun.spanish_plural if phrase.plural else phrase.noun.spanish
    adjectives = [_adjective(a, feminine=feminine, plural=phrase.plural) for a in reversed(phrase.adjectives)]
    return " ".join([_determiner(phrase), noun, *adjectives])


def participant(who: Participant) -> str:
    """A participant's words; '' for the first person, which the verb expresses."""
    match who:
        case Name(spelling=spelling):
            return spelling
        case Pronoun():
            return _PRONOUNS[who]
    return noun_phrase(who)


def _contract(words: str) -> str:
    return f" {words} ".replace(" a el ", " al ").replace(" de el ", " del ").strip()


def _to(who: Participant) -> str:
    return _contract(f"a {participant(who)}")


def _is_person(who: Participant) -> bool:
    return not isinstance(who, NounPhrase) or who.noun.category == "person"


def direct_object(who: NounPhrase | Name) -> str:
    """A direct object, with the personal "a" before persons."""
    return _to(who) if _is_person(who) else participant(who)


def place_phrase(phrase: PlacePhrase) -> str:
    """Preposition, article (contracted where Spanish does) and noun."""
    article = _ARTICLES[Determiner.THE, phrase.place.spanish_gender, False]
    return _contract(f"{phrase.preposition.spanish} {article} {phrase.place.spanish}")


def _is_feminine(who: Participant) -> bool:
    match who:
        case Name(spelling=spelling):
            return spelling.endswith("a")
        case Pronoun():
            return who is Pronoun.SHE
    return who.noun.spanish_gender == "f"


def _is_plural(who: Participant) -> bool:
    return who in (Pronoun.WE, Pronoun.THEY) or (isinstance(who, NounPhrase) and who.plural)


def _predicate(scene: Scene) -> list[str]:
    who, quality = scene.subject, scene.quality
    copula = _ESTAR if quality.kind in ("feeling", "state") else _SER
    adjective = _adjective(quality, feminine=_is_feminine(who), plural=_is_plural(who))
    return [participant(who), copula[scene.tense][agreement(who)], "muy" if scene.very else "", adjective]


def _liking(scene: Scene) -> list[str]:
    clitics = {Pronoun.I: "me", Pronoun.WE: "nos"}
    liked = scene.verb.spanish[scene.tense][agreement(scene.object)]
    if scene.subject in clitics:
        return [clitics[scene.subject], liked, participant(scene.object)]
    clitic = "les" if _is_plural(scene.subject) else "le"
    return [_to(scene.subject), clitic, liked, participant(scene.object)]


def _event(scene: Scene) -> list[str]:
    form = agreement(scene.subject)
    finite = (_MODALS[scene.modal] if scene.modal else scene.verb.spanish)[scene.tense][form]
    words = [participant(scene.subject)]
    if scene.recipient:
        words.append("les" if _is_plural(scene.recipient) else "le")
    words += [finite, scene.verb.spanish_infinitive if scene.modal else ""]
    words.append(direct_object(scene.object) if scene.object else "")
    words.append(_to(scene.recipient) if scene.recipient else "")
    return words


def _core(scene: Scene) -> list[str]:
    if scene.weather:
        return [scene.weather.spanish[scene.tense]]
    if scene.pattern is Pattern.THERE:
        return [("hay", "había")[scene.tense], participant(scene.object)]
    if scene.quality:
        return _predicate(scene)
    if scene.verb.spanish_infinitive == "gustar":
        return _liking(scene)
    return _event(scene)


def realise(scene: Scene) -> str:
    """The Spanish sentence of a scene."""
    place = place_phrase(scene.place) if scene.place else ""
    time = scene.time.spanish if scene.time else ""
    words = [time, *_core(scene), place] if scene.time_first else [*_core(scene), place, time]
    return " ".join(word for word in words if word)
