"""Names of a catalogue found by how they are spelled."""

import pytest

from slm_jax.data.retrieval import retrieve

CATALOGUE = ("nemus", "tubifa", "devepor", "rota fina", "kato")


@pytest.mark.parametrize(
    ("heard", "first"),
    [
        ("yesterday memus bought a coat", "nemus"),
        ("the cat saw tu bifa", "tubifa"),
        ("we met rotafina there", "rota fina"),
        ("we met rota vina there", "rota fina"),
        ("kato", "kato"),
    ],
)
def test_the_phrase_most_like_what_was_heard_comes_first(heard: str, first: str):
    assert retrieve(heard, CATALOGUE, limit=2)[0] == first


def test_the_limit_and_the_size_of_the_catalogue_bound_what_is_found():
    assert len(retrieve("nemus", CATALOGUE, limit=3)) == 3
    assert sorted(retrieve("", CATALOGUE, limit=10)) == sorted(CATALOGUE)
    assert retrieve("nemus", (), limit=10) == []
    with pytest.raises(ValueError, match="limit is 0"):
        retrieve("nemus", CATALOGUE, limit=0)
