"""How instructions are put: to T5 by default, to a chat model by its template."""

from slm_jax.data import turns, vocabularies
from slm_jax.data.turns import Turn


def test_the_end_closes_a_turn_where_a_vocabulary_says_nothing_else():
    vocabulary = vocabularies.byte_vocabulary()
    assert turns.turn_of(vocabulary) == Turn(closing=(1,))
    assert (turns.opening_length(vocabulary), turns.closing_length(vocabulary)) == (0, 1)
    assert turns.turn_of(vocabulary).start_id == 0


def test_a_turn_is_written_around_its_parts():
    turn = Turn(opening=(7, 8), closing=(9, 1), start_id=3)
    assert turn.write([5], [6, 4]) == [7, 8, 5, 6, 4, 9, 1]
    assert turn.write() == [7, 8, 9, 1]
