"""Trains the small system's vocabulary: `python -m slm_jax.tasks.spoken_scenes.train_vocabulary --output=PATH`.

Takes about a minute on one core and gives the same file every time. Names are invented anew for the corpus: no name
of the dataset is seen often enough to become a piece, so names of the training split and held out ones are cut alike.
"""

import argparse
import io
import itertools
import pathlib
import random
import string
from collections.abc import Iterator

import sentencepiece

from slm_jax.data.vocabularies import SCENES_MODEL
from slm_jax.tasks.spoken_scenes import english, families, grammar
from slm_jax.tasks.spoken_scenes.corpus import MAX_WORDS, MIN_WORDS

NUM_PIECES = 2024
NUM_SCENES = 60_000
WITH_COMMAS = 49
"""One in so many lines comes again with a comma behind each word; not a multiple of the lines of a scene.

SentencePiece takes only strings of two different words at least for pieces: "near" becomes one by way of "near,".
"""
LETTERS = string.ascii_letters + string.digits + "äöüßÄÖÜáéíóúñÁÉÍÓÚÑ¿¡.,;:!?'\"()-"
"""Characters that are pieces even where the corpus lacks them, for text of the user's own."""

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "transcribe": (
        "transcribe the speech",
        "write down what is said",
        "what does the speaker say",
        "give the transcript",
        "recognize the speech",
        "type the words you hear",
    ),
    "bias": (
        "transcribe the speech these names may occur {names}",
        "write down what is said names to expect {names}",
        "give the transcript possible names are {names}",
        "recognize the speech with the name list {names}",
        "type the words you hear one of these names may be in it {names}",
        "transcribe with these names in mind {names}",
    ),
    "translate_de": (
        "translate the speech into german",
        "say it in german",
        "give a german translation",
        "what is it in german",
        "write the german for what you hear",
        "put the sentence into german",
    ),
    "translate_es": (
        "translate the speech into spanish",
        "say it in spanish",
        "give a spanish translation",
        "what is it in spanish",
        "write the spanish for what you hear",
        "put the sentence into spanish",
    ),
    "question": (
        "answer the question {question}",
        "{question}",
        "listen and answer {question}",
        "please tell me {question}",
        "question {question} answer",
        "i would like to know {question}",
    ),
    "continuation": (
        "continue the story",
        "what happens next",
        "say the next sentence",
        "go on from what is said",
        "write what follows",
        "how does it go on",
    ),
    "reply": (
        "reply to the speaker",
        "answer the speaker",
        "what would you say back",
        "respond to what is said",
        "give a friendly reply",
        "continue the dialog",
    ),
    "tense": (
        "change the tense",
        "swap past and present",
        "put it in the other tense",
        "rewrite the sentence with the tense changed",
        "turn past into present or present into past",
        "switch the tense of the sentence",
    ),
    "negation": (
        "negate the sentence",
        "say that it is not so",
        "deny what is said",
        "make the sentence negative",
        "put a not into the sentence",
        "rewrite it as a negation",
    ),
    "summary": (
        "summarize the speech",
        "give the gist",
        "say it in short",
        "give a short summary",
        "shorten the sentence",
        "leave out the details",
    ),
    "number": (
        "swap singular and plural",
        "change the number of the object",
        "turn one into many or many into one",
        "rewrite with singular and plural exchanged",
        "put the noun in the other number",
        "switch between singular and plural",
    ),
    "opposite": (
        "use the opposite adjectives",
        "replace each adjective by its opposite",
        "say it with opposite adjectives",
        "turn the adjectives around",
        "rewrite with the opposite adjective",
        "swap the adjectives for their opposites",
    ),
    "place": (
        "name the place",
        "which place is mentioned",
        "where is it",
        "tell me the place only",
        "extract the location",
        "what is the location",
    ),
    "time": (
        "name the time",
        "which time is mentioned",
        "when is it",
        "tell me the time only",
        "extract the time expression",
        "what is the time given",
    ),
    "object": (
        "name the object",
        "what is the object of the sentence",
        "tell me the object only",
        "extract the direct object",
        "which object is mentioned",
        "give the object",
    ),
    "subject": (
        "name the subject",
        "what is the subject of the sentence",
        "tell me the subject only",
        "extract the subject",
        "who or what is it about",
        "give the subject",
    ),
    "name": (
        "which name is mentioned",
        "name the person by name",
        "tell me the proper name",
        "extract the name",
        "is there a name and which",
        "give the name you hear",
    ),
    "category": (
        "what is the topic",
        "name the topic",
        "which category is it",
        "classify the sentence by topic",
        "what is the sentence about",
        "give the category",
    ),
    "sentiment": (
        "is it positive negative or neutral",
        "what is the sentiment",
        "classify the sentiment",
        "how does the sentence feel",
        "name the mood of the sentence",
        "judge the feeling of what is said",
    ),
    "word_count": (
        "count the words",
        "how many words are there",
        "how many words do you hear",
        "tell me the number of words",
        "give the word count",
        "how long is the sentence in words",
    ),
}
"""Instructions of the corpus, by family.

Not `instructions.WORDINGS`: new wordings must not change the vocabulary, on whose ids models were trained.
"""

_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_VOWELS = "aeiouy"


def invented_names(rng: random.Random, count: int) -> list[str]:
    """Words of 3 to 8 letters that alternate between consonants and vowels."""
    names = []
    for _ in range(count):
        first = rng.randrange(2)
        kinds = [(_CONSONANTS, _VOWELS)[(first + i) % 2] for i in range(rng.randint(3, 8))]
        names.append("".join(rng.choice(kind) for kind in kinds))
    return names


def corpus(num_scenes: int) -> Iterator[str]:
    """What the vocabulary is trained on: `lines`, some of them again with commas."""
    for number, line in enumerate(lines(num_scenes)):
        yield line
        if number % WITH_COMMAS == 0:
            yield line.replace(" ", ", ") + ","


def lines(num_scenes: int) -> Iterator[str]:
    """Sentences in three languages, one more target and one instruction of each scene, and lists of names."""
    rng = random.Random("vocabulary")
    drawn = grammar.draw_scenes("vocabulary", names=invented_names(rng, 20_000))
    fitting = (s for s in drawn if MIN_WORDS <= len(english.realise(s).split()) <= MAX_WORDS)
    for scene in itertools.islice(fitting, num_scenes):
        targets = families.targets(scene)
        family = rng.choice(families.FAMILIES)
        names = " ".join(invented_names(rng, 4))
        yield from (targets["text"], targets["text_de"], targets["text_es"], targets[family.feature])
        yield rng.choice(INSTRUCTIONS[family.name]).format(question=targets["question"], names=names)


def train(*, num_scenes: int = NUM_SCENES, num_pieces: int = NUM_PIECES) -> bytes:
    """A unigram SentencePiece model (Kudo 2018): pad 0, eos 1, unk 2; NFKC, and spaces kept as they are."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(num_scenes),
        model_writer=model,
        model_type="unigram",
        vocab_size=num_pieces,
        character_coverage=1.0,
        required_chars=LETTERS,
        normalization_rule_name="nfkc",
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Writes the model to the place that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=SCENES_MODEL, help="where the model is written")
    parser.add_argument("--num_scenes", type=int, default=NUM_SCENES, help="scenes to learn from")
    arguments = parser.parse_args()
    path = arguments.output
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(train(num_scenes=arguments.num_scenes))
    print(f"Wrote {path} ({path.stat().st_size} bytes, {NUM_PIECES} pieces)")


if __name__ == "__main__":
    main()
