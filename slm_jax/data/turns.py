"""How an instruction stands in a language model's input: what comes before it, and what behind."""

import dataclasses
from collections.abc import Iterable

import seqio


@dataclasses.dataclass(frozen=True)
class Turn:
    """The turn of whoever instructs the model.

    Attributes:
      opening: ids that stand before speech and instruction, whatever their order.
      closing: ids behind them.
      start_id: the decoder's first input, to which it answers.
    """

    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    start_id: int = 0

    def write(self, *parts: Iterable[int]) -> list[int]:
        """The ids of a turn.

        opening (7, 8), closing (1,): [5 6] -> [7 8 5 6 1]
        """
        return [*self.opening, *(i for part in parts for i in part), *self.closing]


def turn_of(vocabulary: seqio.Vocabulary) -> Turn:
    """The turn that a vocabulary asks for (`TokenizerVocabulary.turn`); by default, T5's: the end closes it."""
    own = getattr(vocabulary, "turn", None)
    return Turn(closing=(vocabulary.eos_id,)) if own is None else own


def opening_length(vocabulary: seqio.Vocabulary) -> int:
    """Ids before speech: for `SpeechLanguageModel.opening`."""
    return len(turn_of(vocabulary).opening)


def closing_length(vocabulary: seqio.Vocabulary) -> int:
    """Ids behind speech and instruction: for `SpeechLanguageModel.closing`, where the instruction comes first."""
    return len(turn_of(vocabulary).closing)
