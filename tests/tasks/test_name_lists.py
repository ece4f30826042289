"""Lists of names in instructions, and names that were misheard."""

import random

import pytest

from slm_jax.tasks import name_lists
from slm_jax.tasks.name_lists import NameList, list_names
from slm_jax.tasks.spoken_scenes.mishearing import mishear
from slm_jax.tasks.spoken_scenes.names import HELD_OUT_NAMES, TRAIN_NAMES
from slm_jax.tasks.spoken_scenes.pronunciation import syllables

SEEDS = range(400)
TEN = NameList()


def draw(name: str, *, name_list: NameList = TEN, training: bool = True, written: bool = True, seed: int):
    return list_names(name, f"we saw {name}", name_list=name_list, training=training, written=written, seed=seed)


def share(found) -> float:
    found = list(found)
    return sum(found) / len(found)


@pytest.mark.parametrize("name", ["nemus", "tubifa", "gus", "devepor"])
def test_a_misheard_name_is_another_that_can_be_said(name: str):
    heard = [mishear(name, rng=random.Random(seed)) for seed in range(200)]
    assert len(set(heard)) > 10
    for other in heard:
        assert other != name
        assert syllables(other)
        assert sum(a != b for a, b in zip(name, other, strict=False)) <= 3 or len(other) < len(name)


def test_training_draws_sizes_and_sometimes_leaves_the_name_out():
    name = TRAIN_NAMES[5]
    drawn = [draw(name, written=False, seed=seed) for seed in SEEDS]
    assert {len(listed.names) for listed in drawn} == set(name_lists.ALL_SIZES)
    assert all(
        len(set(listed.names)) == len(listed.names) and set(listed.names) <= set(TRAIN_NAMES) for listed in drawn
    )
    assert share(name not in listed.names for listed in drawn) == pytest.approx(name_lists.WITHOUT_SHARE, abs=0.06)


def test_what_the_list_has_is_corrected_and_nothing_else():
    name = TRAIN_NAMES[5]
    drawn = [listed for seed in SEEDS if "saw" in (listed := draw(name, seed=seed)).transcript]
    misheard = [listed for listed in drawn if name not in listed.transcript]
    assert len(misheard) / len(drawn) == pytest.approx(name_lists.MISHEARD_SHARE, abs=0.1)
    for listed in drawn:
        right = f"we saw {name}"
        assert listed.target == (right if name in listed.names else listed.transcript)
        assert listed.transcript.split()[-1] not in listed.names or listed.transcript == right


@pytest.mark.parametrize("name_list", [TEN, name_lists.SHORT_LISTS], ids=["all", "short"])
def test_part_of_the_training_in_writing_is_nothing_but_names(name_list: NameList):
    drawn = [draw(TRAIN_NAMES[5], name_list=name_list, seed=seed) for seed in SEEDS]
    assert {len(listed.names) for listed in drawn} <= {*name_list.trained_sizes, *range(1, 6)}
    assert max(len(listed.names) for listed in drawn) == max(name_list.trained_sizes)
    drilled = [listed for listed in drawn if "saw" not in listed.transcript]
    assert len(drilled) / len(drawn) == pytest.approx(name_list.drilled, abs=0.06)
    words = []
    for listed in drilled:
        answers, heard = listed.target.split(), listed.transcript.split()
        assert 1 <= len(answers) == len(heard) <= name_lists.DRILLED_NAMES
        words += [(answer, h, listed.names) for answer, h in zip(answers, heard, strict=True)]
    assert all(answer == h or (answer in names and h not in names) for answer, h, names in words)
    known = [(answer, h) for answer, h, names in words if answer in names]
    assert len(known) / len(words) == pytest.approx(1 - name_lists.WITHOUT_SHARE, abs=0.06)
    assert share(answer != h for answer, h in known) == pytest.approx(name_lists.MISHEARD_SHARE, abs=0.06)
    assert share(len(listed.target.split()) == 1 for listed in drilled) == pytest.approx(1 / 5, abs=0.1)


@pytest.mark.parametrize("name_list", [TEN, NameList(1), NameList(100), NameList(50, with_name=False)])
def test_elsewhere_the_list_is_as_asked_for(name_list: NameList):
    name = HELD_OUT_NAMES[3]
    drawn = [draw(name, name_list=name_list, training=False, written=False, seed=seed) for seed in range(20)]
    for listed in drawn:
        assert len(listed.names) == name_list.size
        assert set(listed.names) <= set(HELD_OUT_NAMES)
        assert (name in listed.names) == name_list.with_name
        assert listed.transcript == listed.target == f"we saw {name}"
    assert drawn[0] == draw(name, name_list=name_list, training=False, written=False, seed=0)


def test_a_sentence_without_a_name_stays_as_it_is():
    for seed in range(20):
        for training, written in ((True, False), (False, True)):
            listed = list_names("", "it rained", name_list=TEN, training=training, written=written, seed=seed)
            assert listed.transcript == listed.target == "it rained"
