r"""A corpus out of sentences: python -m slm_jax.tasks.speak --sentences=FILE --folder=DIR

Speaks every line of a text file several times, in several voices, at varied pace, pitch and loudness, with noise and in
rooms; nothing is downloaded. DIR then holds FLAC files and manifests for `tasks/manifest.gin`:

    DIR/train.tsv  validation.tsv  test.tsv     audio, text, voice, seconds
    DIR/audio/train/00/000012.flac

The splits share no sentence, and the voice of the test split is heard nowhere else. Started again, it goes on where it
stopped. Needs no tensorflow.
"""

import argparse
import collections
import dataclasses
import enum
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile
import tqdm

from slm_jax.tasks.spoken_scenes import variation, voices
from slm_jax.tasks.spoken_scenes.utterances import bounded_map

_PEOPLE = (
    *(voices.PICO_US, voices.PICO_GB, voices.HIBARI),
    *(voices.FLITE_SLT, voices.FLITE_RMS, voices.FLITE_AWB, voices.FLITE_KAL),
    *(voices.PIPER_JOE, voices.KOKORO, voices.KOKORO_EN, *voices.RHVOICES),
)
KNOWN = {voice.name: voice for voice in (*_PEOPLE, *voices.ESPEAKS)}
"""Voices that read English, by name."""
_ROOM_SHARE = 0.5
_REVERBERATION = 0.1, 0.6  # seconds
_FILES_A_FOLDER = 1000
_CHUNK = 8


class Split(enum.Enum):
    """Of a corpus."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclasses.dataclass(frozen=True)
class Reading:
    """A sentence to be read.

    Attributes:
      split: where it belongs.
      number: of the reading in its split; decides voice and variation.
      text: the sentence.
      voices: who may read it.
    """

    split: Split
    number: int
    text: str
    voices: tuple[voices.Voice, ...]

    @property
    def audio(self) -> str:
        """The file, relative to the corpus."""
        return f"audio/{self.split.value}/{self.number // _FILES_A_FOLDER:02d}/{self.number:06d}.flac"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a manifest."""

    audio: str
    text: str
    voice: str
    seconds: float


def read_sentences(path: pathlib.Path) -> list[str]:
    """The different lines of a file, in an order that depends on nothing but each line.

    Raises:
      ValueError: there are none.
    """
    lines = {" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    if not lines:
        raise ValueError(f"{path} has no sentences: it should hold one a line")
    return sorted(lines, key=lambda line: hashlib.sha256(line.encode("utf-8")).digest())


def readings(
    sentences: Sequence[str],
    *,
    cast: tuple[voices.Voice, ...],
    held_out: voices.Voice,
    validation: int,
    test: int,
    times: int,
) -> Iterator[Reading]:
    """What is read: test and validation sentences once, the others `times` times, each time by another voice.

    Args:
      sentences: all of them; the first are the test split, the next the validation split.
      cast: voices of training and validation, who take turns.
      held_out: the voice of the test split.
      validation, test: sentences of these splits.
      times: readings of a sentence of the train split.

    Raises:
      ValueError: nothing is left to train on, or the voice of the test split is one of the cast.
    """
    if held_out in cast:
        raise ValueError(f"{held_out.name} is to be heard in the test split alone, but is one of the other voices too")
    if len(sentences) <= test + validation:
        raise ValueError(f"{len(sentences)} sentences are too few: {test} + {validation} are held back")
    for number, text in enumerate(sentences[:test]):
        yield Reading(Split.TEST, number, text, (held_out,))
    for number, text in enumerate(sentences[test : test + validation]):
        yield Reading(Split.VALIDATION, number, text, cast)
    left = sentences[test + validation :]
    for time in range(times):
        for i, text in enumerate(left):
            number = time * len(left) + i
            yield Reading(Split.TRAIN, number, text, (cast[(i + time) % len(cast)],))


def conditions(reading: Reading) -> tuple[voices.Voice, variation.Variation, int]:
    """Who reads, how, and the seed of all noise; the same for the same reading."""
    rng = np.random.default_rng((list(Split).index(reading.split), reading.number))
    voice = reading.voices[int(rng.integers(len(reading.voices)))]
    varied = variation.draw_light_variation(rng)
    if reading.split is Split.TRAIN:
        varied = variation.draw_variation(rng, voice=voice)
        if rng.random() < _ROOM_SHARE:
            varied = dataclasses.replace(varied, reverberation=float(rng.uniform(*_REVERBERATION)))
    return voice, varied, int(rng.integers(2**31))


def speak_to_file(reading: Reading, *, folder: pathlib.Path) -> Row:
    """Writes the reading's file, unless it is there, and gives its line of the manifest."""
    voice, varied, seed = conditions(reading)
    path = folder / reading.audio
    if not path.is_file():
        # & and < would be read as markup by some synthesizers.
        text = reading.text.replace("&", " and ").replace("<", " ").replace(">", " ")
        speech = variation.render(text, voice=voice, variation=varied, seed=seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        soundfile.write(partial, variation.to_int16(speech), voices.SAMPLE_RATE, format="FLAC")
        partial.rename(path)
    return Row(reading.audio, reading.text, voice.name, round(soundfile.info(path).duration, 3))


def speak_chunk(chunk: Sequence[Reading], *, folder: pathlib.Path) -> list[Row]:
    """Several readings, one after the other."""
    return [speak_to_file(reading, folder=folder) for reading in chunk]


def write_manifest(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Tab-separated, with a header."""
    names = [field.name for field in dataclasses.fields(Row)]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(names) + "\n")
        file.writelines("\t".join(str(getattr(row, name)) for name in names) + "\n" for row in rows)


def speak(planned: Sequence[Reading], *, folder: pathlib.Path, workers: int) -> None:
    """Writes all files and the manifests of a corpus, with a progress bar; tells how many hours each voice speaks."""
    chunks = [planned[i : i + _CHUNK] for i in range(0, len(planned), _CHUNK)]
    rows: dict[Split, list[Row]] = collections.defaultdict(list)
    made = bounded_map(functools.partial(speak_chunk, folder=folder), chunks, workers=workers)
    with tqdm.tqdm(total=len(planned), unit=" utterances", mininterval=1.0) as progress:
        for chunk, spoken in zip(chunks, made, strict=True):
            for reading, row in zip(chunk, spoken, strict=True):
                rows[reading.split].append(row)
            progress.update(len(chunk))
    for split, lines in rows.items():
        write_manifest(lines, folder / f"{split.value}.tsv")
        hours: dict[str, float] = collections.defaultdict(float)
        for row in lines:
            hours[row.voice] += row.seconds / 3600
        shares = ", ".join(f"{voice} {share:.1f}" for voice, share in sorted(hours.items()))
        print(f"{folder / split.value}.tsv: {len(lines)} utterances, {sum(hours.values()):.1f} hours ({shares})")


def main() -> None:
    """Speaks what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--sentences", required=True, type=pathlib.Path, help="a text file, one sentence a line")
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="where the corpus goes")
    known = ", ".join(KNOWN)
    parser.add_argument("--voices", default="pico_en_us,pico_en_gb,hibari", help=f"of training, from: {known}")
    parser.add_argument("--held_out", default="flite_slt", help="the voice of the test split alone")
    parser.add_argument("--times", type=int, default=3, help="readings of each sentence of the train split")
    parser.add_argument("--validation", type=int, default=300, help="sentences of the validation split")
    parser.add_argument("--test", type=int, default=500, help="sentences of the test split")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that speak")
    arguments = parser.parse_args()
    names = [*arguments.voices.split(","), arguments.held_out]
    if unknown := sorted(set(names) - KNOWN.keys()):
        parser.error(f"there is no voice {', '.join(unknown)}; there are {known}")
    *cast, held_out = (KNOWN[name] for name in names)
    sentences = read_sentences(arguments.sentences)
    sizes = {"validation": arguments.validation, "test": arguments.test, "times": arguments.times}
    planned = list(readings(sentences, cast=tuple(cast), held_out=held_out, **sizes))
    speak(planned, folder=arguments.folder, workers=arguments.workers)


if __name__ == "__main__":
    main()
