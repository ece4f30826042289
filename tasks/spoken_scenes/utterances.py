"""Examples of the dataset, made one by one or by several processes. Needs no tensorflow."""

import dataclasses
import enum
import functools
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np

from slm_jax.tasks.spoken_scenes import english, families, variation, voices
from slm_jax.tasks.spoken_scenes.corpus import Split, sentences
from slm_jax.tasks.spoken_scenes.grammar import Scene
from slm_jax.tasks.spoken_scenes.pronunciation import name_markup

MAX_SECONDS = 6.5
"""Longer utterances are left out, and the next sentence takes their place."""

Example = dict[str, Any]
Job = TypeVar("Job")
Result = TypeVar("Result")


_CHUNK = 16
_JOBS_A_WORKER = 4
_DRILL_NAME_SHARE = 0.5
_SPLIT_SEEDS = {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2}


class Content(enum.Enum):
    """What the examples of a dataset hold."""

    SPEECH = "speech"
    """Spoken sentences, and the targets of all families."""
    TEXT = "text"
    """The same, not spoken."""
    DRILL = "drill"
    """Words and names in random order, spoken; see `drill_words`."""


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A sentence to be spoken: the number of the draw in its split decides voice and variation."""

    split: Split
    number: int
    scene: Scene
    cast: voices.Cast


def spoken_form(words: Sequence[str], *, names: Container[str], voice: voices.Voice) -> str:
    """Words as a voice reads them best: with capitals, a full stop, and the sounds of names."""
    first, *others = words
    spoken = [first if first in names else first.capitalize(), *others]
    return " ".join(_spoken_word(word, names=names, voice=voice) for word in spoken) + "."


def _spoken_word(word: str, *, names: Container[str], voice: voices.Voice) -> str:
    if word in names:
        return name_markup(word, voice=voice)
    return word.capitalize() if word in ("i", "monday", "sunday") else word


def drill_words(scene: Scene, *, names: Sequence[str], voice: voices.Voice, rng: np.random.Generator) -> list[str]:
    """A few words of a sentence in random order, about half of them replaced by names; all, in a voice without English.

    Where there is no grammar, nothing but the sound tells what a word is.
    """
    words = rng.permutation(english.realise(scene).split())[: rng.integers(3, 6)]
    share = _DRILL_NAME_SHARE if voice.is_english else 1.0
    return [names[int(rng.integers(len(names)))] if rng.random() < share else str(word) for word in words]


def _conditions(utterance: Utterance, rng: np.random.Generator) -> tuple[voices.Voice, variation.Variation]:
    if utterance.split is Split.TEST:
        return voices.HELD_OUT_VOICE, variation.draw_light_variation(rng)
    speakers, shares = zip(*utterance.cast, strict=True)
    voice = speakers[rng.choice(len(speakers), p=shares)]
    return voice, variation.draw_variation(rng, voice=voice)


def make_example(utterance: Utterance, *, content: Content) -> Example | None:
    """Speaks an utterance, or writes it down; None if it lasts longer than MAX_SECONDS."""
    scene = utterance.scene
    if content is Content.TEXT:
        return families.targets(scene)
    rng = np.random.default_rng((_SPLIT_SEEDS[utterance.split], utterance.number))
    voice, varied = _conditions(utterance, rng)
    seed = int(rng.integers(2**31))
    if content is Content.DRILL:
        names = utterance.split.names
        words = drill_words(scene, names=names, voice=voice, rng=rng)
        texts = {"text": " ".join(words)}
    else:
        names, words, texts = (scene.name,), english.realise(scene).split(), families.targets(scene)
    text = spoken_form(words, names=frozenset(names), voice=voice)
    speech = variation.render(text, voice=voice, variation=varied, seed=seed)
    if len(speech) > MAX_SECONDS * voices.SAMPLE_RATE:
        return None
    return {**texts, "speech": variation.to_int16(speech), "voice": voice.name, "speed": np.float32(varied.speed)}


def _make_chunk(chunk: tuple[Utterance, ...], *, content: Content) -> list[Example | None]:
    return [make_example(utterance, content=content) for utterance in chunk]


def bounded_map(function: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int) -> Iterator[Result]:
    """Maps in order over jobs, of which there may be endlessly many, holding few of them at a time.

    Args:
      function: a function of a module (other processes import it).
      jobs: its arguments.
      workers: processes; 0 computes in this one.

    Raises:
      RuntimeError: if a worker dies.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    # Spawned, not forked: a fork of a process that runs tensorflow's threads may hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    pending: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= _JOBS_A_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a speech worker died. In a script, call download_and_prepare under `if __name__ == '__main__':` (workers "
            "import the script anew); if memory ran out, set fewer `workers` in the config"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def examples(
    split: Split,
    *,
    size: int,
    content: Content,
    workers: int,
    first: int = 0,
    cast: voices.Cast = voices.PYPI_CAST,
) -> Iterator[tuple[str, Example]]:
    """Examples of distinct sentences of a split, each with its id; the same whatever the number of workers.

    Args:
      split: whose sentences.
      size: how many.
      content: what they hold.
      workers: processes that speak; 0 for none besides this one.
      first: sentences of the split's endless stream that are passed over.
      cast: who speaks, but for the test split, which has a voice of its own.
    """
    numbered = itertools.islice(enumerate(sentences(split)), first, None)
    stream = (Utterance(split, number, scene, cast) for number, (_, scene) in numbered)
    make = functools.partial(_make_chunk, content=content)
    workers = 0 if content is Content.TEXT else workers  # faster than sending it to another process
    chunks = bounded_map(make, zip(*[stream] * _CHUNK, strict=False), workers=workers)
    made = (example for example in itertools.chain.from_iterable(chunks) if example is not None)
    for index, example in enumerate(itertools.islice(made, size)):
        key = f"{split.value}-{index:06d}"
        yield key, {**example, "id": key}
