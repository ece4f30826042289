"""Gold sentences, written by hand, in three languages."""

import pytest

from slm_jax.tasks.spoken_scenes import english, german, lexicon, spanish
from slm_jax.tasks.spoken_scenes.grammar import Determiner, Modal, Name, NounPhrase, PlacePhrase, Pronoun, Scene
from slm_jax.tasks.spoken_scenes.lexicon import Pattern, Tense

PRESENT, PAST = Tense.PRESENT, Tense.PAST
MIRELA, TOVAN = Name("mirela"), Name("tovan")


def phrase(words: str) -> NounPhrase:
    """The noun phrase of words such as "the red apples"."""
    determiner, *adjectives, noun = words.split()
    plural = noun not in lexicon.NOUN
    found = next(n for n in lexicon.NOUNS if noun == (n.english_plural if plural else n.english))
    return NounPhrase(
        found, Determiner(determiner), plural, tuple(lexicon.ADJECTIVE[adjective] for adjective in adjectives)
    )


def place(words: str) -> PlacePhrase:
    """The phrase of place of words such as "near the river"."""
    preposition, noun = words.split(" the ")
    found = lexicon.PLACE[noun]
    own = found.preposition.english == preposition
    return PlacePhrase(found, found.preposition if own else lexicon.PREPOSITION[preposition])


def scene(pattern: Pattern, tense: Tense = PRESENT, **parts: object) -> Scene:
    readers = {
        "subject": phrase,
        "object": phrase,
        "recipient": phrase,
        "place": place,
        "time": lexicon.TIME.__getitem__,
        "quality": lexicon.ADJECTIVE.__getitem__,
        "verb": lambda base: lexicon.VERB[base, pattern],
    }
    read = {key: readers[key](value) if isinstance(value, str) else value for key, value in parts.items()}
    return Scene(pattern=pattern, tense=tense, **read)


def do(subject: object, verb: str, target: object, tense: Tense = PRESENT, **parts: object) -> Scene:
    pattern = next(p for base, p in lexicon.VERB if base == verb and p.value in ("transitive", "stative", "affect"))
    return scene(pattern, tense, subject=subject, verb=verb, object=target, **parts)


def give(subject: object, verb: str, item: str, recipient: object, tense: Tense = PRESENT, **parts: object) -> Scene:
    return scene(Pattern.GIVE, tense, subject=subject, verb=verb, object=item, recipient=recipient, **parts)


def go(subject: object, verb: str, where: str, tense: Tense = PRESENT, **parts: object) -> Scene:
    return scene(Pattern.MOTION, tense, subject=subject, verb=verb, place=f"to the {where}", **parts)


def stay(subject: object, verb: str, where: str, tense: Tense = PRESENT, **parts: object) -> Scene:
    return scene(Pattern.LOCATION, tense, subject=subject, verb=verb, place=where, **parts)


def be(subject: object, quality: str, tense: Tense = PRESENT, **parts: object) -> Scene:
    kind = lexicon.ADJECTIVE[quality].kind
    pattern = Pattern.FEELING if kind == "feeling" else Pattern.ATTRIBUTE
    return scene(pattern, tense, subject=subject, quality=quality, **parts)


def there(item: str, where: str, tense: Tense = PRESENT, **parts: object) -> Scene:
    return scene(Pattern.THERE, tense, object=item, place=where, **parts)


def weather(english_word: str, where: str, tense: Tense = PRESENT, **parts: object) -> Scene:
    found = next(w for w in lexicon.WEATHER if w.english[0] == english_word)
    return scene(Pattern.WEATHER, tense, weather=found, place=where, **parts)


# (scene, English, German, Spanish)
GOLD = [
    (
        do(MIRELA, "buy", "a red coat", PAST, place="at the market", time="yesterday", time_first=True),
        "yesterday mirela bought a red coat at the market",
        "gestern kaufte mirela einen roten mantel auf dem markt",
        "ayer mirela compró un abrigo rojo en el mercado",
    ),
    (
        do("the elderly teacher", "open", "the big white box"),
        "the elderly teacher opens the big white box",
        "der alte lehrer öffnet die große weiße kiste",
        "el maestro viejo abre la caja blanca grande",
    ),
    (
        do(Pronoun.WE, "eat", "a sweet cake", PAST, time="on sunday"),
        "we ate a sweet cake on sunday",
        "wir aßen am sonntag einen süßen kuchen",
        "comimos un pastel dulce el domingo",
    ),
    (
        do(Pronoun.I, "see", MIRELA, PAST, place="in the garden"),
        "i saw mirela in the garden",
        "ich sah mirela im garten",
        "vi a mirela en el jardín",
    ),
    (
        do(TOVAN, "help", "the poor farmer"),
        "tovan helps the poor farmer",
        "tovan hilft dem armen bauern",
        "tovan ayuda al granjero pobre",
    ),
    (
        do("a student", "follow", "my friendly neighbors", PAST, time="on monday"),
        "a student followed my friendly neighbors on monday",
        "ein student folgte meinen freundlichen nachbarn am montag",
        "un estudiante siguió a mis vecinos amables el lunes",
    ),
    (
        do("the girls", "visit", "a famous queen"),
        "the girls visit a famous queen",
        "die mädchen besuchen eine berühmte königin",
        "las niñas visitan a una reina famosa",
    ),
    (
        do("the boy", "hear", "the wild lion"),
        "the boy hears the wild lion",
        "der junge hört den wilden löwen",
        "el niño oye el león salvaje",
    ),
    (
        do(Pronoun.SHE, "repair", "my expensive bicycle", PAST),
        "she repaired my expensive bicycle",
        "sie reparierte mein teures fahrrad",
        "ella reparó mi bicicleta cara",
    ),
    (
        do(Pronoun.THEY, "wash", "four dirty shirts", time="every week"),
        "they wash four dirty shirts every week",
        "sie waschen jede woche vier schmutzige hemden",
        "ellos lavan cuatro camisas sucias todas las semanas",
    ),
    (
        do(MIRELA, "buy", "two brown shoes", modal=Modal.WANT, place="in the city"),
        "mirela wants to buy two brown shoes in the city",
        "mirela will zwei braune schuhe in der stadt kaufen",
        "mirela quiere comprar dos zapatos marrones en la ciudad",
    ),
    (
        do(Pronoun.I, "help", "the doctor", PAST, modal=Modal.HAVE, time="last night"),
        "i had to help the doctor last night",
        "ich musste dem arzt gestern nacht helfen",
        "tenía que ayudar al médico anoche",
    ),
    (
        do(Pronoun.WE, "meet", "a young pilot", modal=Modal.WANT, time="today", time_first=True),
        "today we want to meet a young pilot",
        "heute wollen wir einen jungen piloten treffen",
        "hoy queremos encontrar a un piloto joven",
    ),
    (
        do(TOVAN, "like", "the green apples"),
        "tovan likes the green apples",
        "tovan mag die grünen äpfel",
        "a tovan le gustan las manzanas verdes",
    ),
    (
        do("the kings", "like", "the soup", PAST),
        "the kings liked the soup",
        "die könige mochten die suppe",
        "a los reyes les gustaba la sopa",
    ),
    (do(Pronoun.I, "like", "my dogs"), "i like my dogs", "ich mag meine hunde", "me gustan mis perros"),
    (
        do(Pronoun.SHE, "like", "the book"),
        "she likes the book",
        "sie mag das buch",
        "a ella le gusta el libro",
    ),
    (
        do("the pilot", "like", "the coffee"),
        "the pilot likes the coffee",
        "der pilot mag den kaffee",
        "al piloto le gusta el café",
    ),
    (
        do(Pronoun.WE, "love", "my grandmother"),
        "we love my grandmother",
        "wir lieben meine großmutter",
        "adoramos a mi abuela",
    ),
    (
        do("three soldiers", "need", "a knife", PAST),
        "three soldiers needed a knife",
        "drei soldaten brauchten ein messer",
        "tres soldados necesitaban un cuchillo",
    ),
    (
        give("the mother", "give", "a small doll", "my strong brother"),
        "the mother gives a small doll to my strong brother",
        "die mutter gibt meinem starken bruder eine kleine puppe",
        "la madre le da una muñeca pequeña a mi hermano fuerte",
    ),
    (
        give(Pronoun.I, "send", "five letters", "the rich queens", PAST, time="last week"),
        "i sent five letters to the rich queens last week",
        "ich schickte den reichen königinnen letzte woche fünf briefe",
        "les envié cinco cartas a las reinas ricas la semana pasada",
    ),
    (
        give(Pronoun.THEY, "bring", "the cheap guitar", MIRELA, PAST, time="two days ago", time_first=True),
        "two days ago they brought the cheap guitar to mirela",
        "vor zwei tagen brachten sie mirela die billige gitarre",
        "hace dos días ellos le trajeron la guitarra barata a mirela",
    ),
    (
        give(TOVAN, "show", "the picture", "two friends"),
        "tovan shows the picture to two friends",
        "tovan zeigt zwei freunden das bild",
        "tovan les muestra el cuadro a dos amigos",
    ),
    (
        give("my sister", "give", "the books", "the baker"),
        "my sister gives the books to the baker",
        "meine schwester gibt dem bäcker die bücher",
        "mi hermana le da los libros al panadero",
    ),
    (
        go("the cats", "run", "kitchen"),
        "the cats run to the kitchen",
        "die katzen rennen zur küche",
        "los gatos corren a la cocina",
    ),
    (
        go(Pronoun.I, "go", "market", PAST, time="in the morning"),
        "i went to the market in the morning",
        "ich ging am morgen zum markt",
        "fui al mercado por la mañana",
    ),
    (
        go(Pronoun.WE, "travel", "island", time="in summer", time_first=True),
        "in summer we travel to the island",
        "im sommer reisen wir zur insel",
        "en verano viajamos a la isla",
    ),
    (
        stay("a elderly soldier", "work", "behind the hospital"),
        "an elderly soldier works behind the hospital",
        "ein alter soldat arbeitet hinter dem krankenhaus",
        "un soldado viejo trabaja detrás del hospital",
    ),
    (
        stay(MIRELA, "sleep", "near the river", PAST),
        "mirela slept near the river",
        "mirela schlief beim fluss",
        "mirela durmió cerca del río",
    ),
    (
        stay("four dancers", "sing", "in front of the station", time="tonight"),
        "four dancers sing in front of the station tonight",
        "vier tänzerinnen singen heute abend vor dem bahnhof",
        "cuatro bailarinas cantan delante de la estación esta noche",
    ),
    (
        stay(Pronoun.HE, "wait", "on the bridge", time="now", time_first=True),
        "now he waits on the bridge",
        "jetzt wartet er auf der brücke",
        "ahora él espera en el puente",
    ),
    (
        be(MIRELA, "tired", very=True, time="today"),
        "mirela is very tired today",
        "mirela ist heute sehr müde",
        "mirela está muy cansada hoy",
    ),
    (
        be("the queens", "nervous", PAST),
        "the queens were nervous",
        "die königinnen waren nervös",
        "las reinas estaban nerviosas",
    ),
    (be(Pronoun.WE, "happy"), "we are happy", "wir sind glücklich", "estamos felices"),
    (be("my cups", "empty"), "my cups are empty", "meine tassen sind leer", "mis tazas están vacías"),
    (
        be("the old car", "expensive", PAST),
        "the old car was expensive",
        "das alte auto war teuer",
        "el coche viejo era caro",
    ),
    (
        there("a white horse", "on the farm"),
        "there is a white horse on the farm",
        "es gibt ein weißes pferd auf dem bauernhof",
        "hay un caballo blanco en la granja",
    ),
    (
        there("three heavy tables", "in the tower", PAST, time="yesterday", time_first=True),
        "yesterday there were three heavy tables in the tower",
        "gestern gab es drei schwere tische im turm",
        "ayer había tres mesas pesadas en la torre",
    ),
    (
        weather("cold", "on the mountain", time="in winter", time_first=True),
        "in winter it is cold on the mountain",
        "im winter ist es auf dem berg kalt",
        "en invierno hace frío en la montaña",
    ),
    (
        weather("rain", "at the lake", PAST, time="last night"),
        "it rained at the lake last night",
        "es regnete gestern nacht am see",
        "llovió en el lago anoche",
    ),
]


@pytest.mark.parametrize(("what", "en", "de", "es"), GOLD, ids=[row[1].replace(" ", "_") for row in GOLD])
def test_gold_sentences(what: Scene, en: str, de: str, es: str):
    assert english.realise(what) == en
    assert german.realise(what) == de
    assert spanish.realise(what) == es


@pytest.mark.parametrize(
    ("words", "nominative", "accusative", "dative"),
    [
        ("the big dog", "der große hund", "den großen hund", "dem großen hund"),
        ("a big dog", "ein großer hund", "einen großen hund", "einem großen hund"),
        ("my big dogs", "meine großen hunde", "meine großen hunde", "meinen großen hunden"),
        ("two big dogs", "zwei große hunde", "zwei große hunde", "zwei großen hunden"),
        ("the old bag", "die alte tasche", "die alte tasche", "der alten tasche"),
        ("a old bag", "eine alte tasche", "eine alte tasche", "einer alten tasche"),
        ("a new book", "ein neues buch", "ein neues buch", "einem neuen buch"),
        ("the new books", "die neuen bücher", "die neuen bücher", "den neuen büchern"),
        ("a young lion", "ein junger löwe", "einen jungen löwen", "einem jungen löwen"),
        ("the expensive cars", "die teuren autos", "die teuren autos", "den teuren autos"),
    ],
)
def test_german_declension(words: str, nominative: str, accusative: str, dative: str):
    cases = [german.noun_phrase(phrase(words), case) for case in german.Case]
    assert cases == [nominative, accusative, dative]


@pytest.mark.parametrize(
    ("masculine", "forms"),
    [
        ("rojo", ("rojo", "roja", "rojos", "rojas")),
        ("grande", ("grande", "grande", "grandes", "grandes")),
        ("azul", ("azul", "azul", "azules", "azules")),
        ("marrón", ("marrón", "marrón", "marrones", "marrones")),
        ("feliz", ("feliz", "feliz", "felices", "felices")),
    ],
)
def test_spanish_adjectives(masculine: str, forms: tuple[str, ...]):
    assert lexicon.spanish_adjective(masculine) == forms


@pytest.mark.parametrize("row", ["a b | c", "a b | c | d | e | f"])
def test_a_broken_row_of_the_vocabulary_is_named(row: str):
    with pytest.raises(ValueError, match="columns, expected 4"):
        list(lexicon._rows(row, 4))


def test_every_word_of_a_table_refers_to_a_word_that_exists():
    assert all(a.opposite in lexicon.ADJECTIVE for a in lexicon.ADJECTIVES if a.opposite)
    assert all(t.other in lexicon.TIME for t in lexicon.TIMES if t.other)
    feelings = {a.english for a in lexicon.ADJECTIVES if a.kind == "feeling"}
    assert feelings == set(lexicon.FEELING_CONTINUATION)
    known = {c for noun in lexicon.NOUNS for c in noun.classes} | {"any"}
    assert all(verb.classes <= known for verb in lexicon.VERBS)
    assert all(a.classes <= known for a in lexicon.ADJECTIVES)
