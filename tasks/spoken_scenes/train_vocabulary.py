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
        yield rng.choice(family.prompts).format(question=targets["question"], names=names)


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
