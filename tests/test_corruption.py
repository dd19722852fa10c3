"""Corruption: exact counts, the same draw from the same seed, protected utterances untouched."""
import csv

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradtts_robust.config import CorruptionConfig
from gradtts_robust.data.corruption import RECORD_FIELDS, corrupt, write_records
from gradtts_robust.data.manifest import Utterance


def speech(speaker, count):
    return [Utterance(f"/{speaker}/{i}.wav", f"{speaker} says {i}", speaker, f"{speaker}/{i:03d}") for i in range(count)]


def crowd(speakers, each):
    return [u for i in range(speakers) for u in speech(f"s{i}", each)]


def at_angles(**degrees):
    return {name: np.array([np.cos(np.radians(a)), np.sin(np.radians(a))]) for name, a in degrees.items()}


cases = st.fixed_dictionaries({
    "n": st.integers(1, 40), "fraction": st.floats(0, 0.75), "mode": st.sampled_from(["replace", "append"]), "seed": st.integers(0, 2**32),
    "pick": st.sampled_from(["random", "nearest", "farthest"]), "shuffle": st.randoms(use_true_random=False)})


@settings(max_examples=150, deadline=None)
@given(cases)
def test_counts_labels_records_and_order(case):
    target, others = speech("T", case["n"]), crowd(7, 20)
    embeddings = at_angles(T=0, **{f"s{i}": 10 + 20 * i for i in range(7)})
    config = CorruptionConfig("foreign", case["fraction"], case["pick"], case["mode"], seed=case["seed"])
    result = corrupt(target, others, config, embeddings=embeddings)
    foreign = [u for u in result.utterances if "true_speaker" in u.extra]
    n, f = case["n"], case["fraction"]
    assert len(foreign) == round(f * n if config.mode == "replace" else f / (1 - f) * n)
    assert len(result.utterances) == (n if config.mode == "replace" else n + len(foreign))
    assert abs(len(foreign) / len(result.utterances) - f) <= 0.5 / n + 1e-9
    assert {u.speaker for u in result.utterances} == {"T"}
    assert len({u.id for u in result.utterances}) == len(result.utterances)
    originals = {u.id: u for u in others}
    for u in foreign:
        assert (u.path, u.text, u.extra["true_speaker"]) == (originals[u.id].path, originals[u.id].text, originals[u.id].speaker)
    assert [r["id"] for r in result.records] == [u.id for u in result.utterances]
    kept = {r["id"] for r in result.records if not r["corrupted"]}
    replaced = [r["replaced"] for r in result.records if r["replaced"]]
    assert kept | set(replaced) == {u.id for u in target} and not kept & set(replaced)
    assert len(replaced) == (len(foreign) if config.mode == "replace" else 0)
    for record in result.records:
        assert record["kind"] == ("foreign" if record["corrupted"] else "none")
        assert record["true_speaker"] == (originals[record["id"]].speaker if record["corrupted"] else "T")
    case["shuffle"].shuffle(target)
    case["shuffle"].shuffle(others)
    assert corrupt(target, others, config, embeddings=embeddings) == result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["replace", "append"]), st.floats(0, 0.6), st.floats(0, 0.6))
def test_more_dirt_contains_less(seed, mode, one, other):
    target, others = speech("T", 20), crowd(5, 10)
    less, more = (
        {(r["id"], r["replaced"])
         for r in corrupt(target, others, CorruptionConfig("foreign", f, mode=mode, seed=seed)).records if r["corrupted"]}
        for f in sorted((one, other)))
    assert less <= more


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["replace", "append"]), st.sets(st.integers(0, 19)), st.sets(st.integers(0, 59)))
def test_protected_utterances_are_neither_replaced_nor_taken(seed, mode, held_target, held_others):
    target, others = speech("T", 20), crowd(6, 10)
    protected = {target[i].id for i in held_target} | {others[i].id for i in held_others}
    assume(len(held_target) <= 14 and len(held_others) <= 50)
    result = corrupt(target, others, CorruptionConfig("foreign", 0.3, mode=mode, seed=seed), protected=protected)
    dirty = [r for r in result.records if r["corrupted"]]
    assert len(dirty) == (6 if mode == "replace" else round(0.3 / 0.7 * 20))
    assert not protected & ({r["id"] for r in dirty} | {r["replaced"] for r in dirty})


def test_seeds_differ_and_places_do_not_depend_on_the_others():
    target = speech("T", 30)
    draws = {seed: corrupt(target, crowd(5, 10), CorruptionConfig("foreign", 0.3, seed=seed)) for seed in range(5)}
    assert len({tuple(r["id"] for r in d.records) for d in draws.values()}) == 5
    more = corrupt(target, crowd(9, 10), CorruptionConfig("foreign", 0.3, seed=0))
    assert {r["replaced"] for r in more.records} == {r["replaced"] for r in draws[0].records}


def sources(result):
    return [r["true_speaker"] for r in result.records if r["corrupted"]]


@pytest.mark.parametrize(("pick", "speakers", "expected"), [
    ("nearest", 0, {"near": 4, "mid": 2}), ("farthest", 0, {"far": 4, "mid": 2}), ("nearest", 2, {"near": 4, "mid": 2})])
def test_picks_by_similarity_use_up_the_first_speaker_before_the_next(pick, speakers, expected):
    others = speech("mid", 4) + speech("far", 4) + speech("near", 4)
    embeddings = {name: 3 * vector for name, vector in at_angles(T=0, near=20, mid=60, far=170).items()}
    result = corrupt(speech("T", 20), others, CorruptionConfig("foreign", 0.3, pick, speakers=speakers), embeddings=embeddings)
    assert {name: sources(result).count(name) for name in set(sources(result))} == expected


def test_random_pick_draws_from_all_or_from_as_many_speakers_as_asked():
    target, others = speech("T", 40), crowd(10, 20)
    assert len(set(sources(corrupt(target, others, CorruptionConfig("foreign", 0.5))))) > 5
    pairs = {frozenset(sources(corrupt(target, others, CorruptionConfig("foreign", 0.5, speakers=2, seed=s)))) for s in range(8)}
    assert all(len(pair) == 2 for pair in pairs) and len(pairs) > 3


def test_the_target_and_copies_among_the_others_are_passed_over():
    target, others = speech("T", 10), crowd(1, 5)
    copy = Utterance(others[0].path, "other words", "s9", "s9/copy")
    result = corrupt(target, [*others, *others, copy, *target], CorruptionConfig("foreign", 0.5))
    assert len({u.path for u in result.utterances}) == 10
    with pytest.raises(ValueError, match=r"needs 6 foreign utterances.* only 5"):
        corrupt(target, [*others, *others, copy, *target], CorruptionConfig("foreign", 0.6))


def test_none_changes_nothing_and_records_that():
    target = speech("T", 3)
    result = corrupt(target[::-1], crowd(2, 2), CorruptionConfig())
    assert result.utterances == target
    assert [list(r.values()) for r in result.records] == [[u.id, False, "none", "T", ""] for u in target]
    assert corrupt(target, [], CorruptionConfig("foreign", 0.0)).utterances == target


@pytest.mark.parametrize(("settings", "says"), [
    ({"fraction": 1.0}, r"must be in \[0, 1\)"), ({"fraction": -0.1}, r"must be in \[0, 1\)"), ({"fraction": float("nan")}, r"\[0, 1\)"),
    ({"kind": "overlay"}, "choose one of none, foreign"), ({"pick": "best"}, "random, nearest, farthest"), ({"mode": "mix"}, "append"),
    ({"kind": "none", "fraction": 0.3}, "kind is none"), ({"seed": -1}, "seed is -1"), ({"speakers": -1}, "speakers is -1"),
    ({"fraction": 0.8}, "needs 8 foreign utterances.* only 6"), ({"fraction": 0.4, "speakers": 1}, "needs 4 foreign utterances.* only 3"),
    ({"pick": "nearest"}, "embedding of 'T'")])
def test_bad_settings_are_named(settings, says):
    config = CorruptionConfig(**{"kind": "foreign", "fraction": 0.3, **settings})
    with pytest.raises(ValueError, match=says) as caught:
        corrupt(speech("T", 10), crowd(2, 3), config)
    assert "\n" not in str(caught.value)


def test_bad_data_is_named():
    config = CorruptionConfig("foreign", 0.3, "nearest")
    target, others = speech("T", 10), crowd(2, 3)
    for arguments, says in [((target, speech("T", 4)), "none to spare"), ((target + others, others), "one target"),
                            (([], others), "not of 0 speakers"), (([*target, target[0]], others), "stands twice")]:
        with pytest.raises(ValueError, match=says):
            corrupt(*arguments, config, embeddings={})
    with pytest.raises(ValueError, match="embedding of 's1'"):
        corrupt(target, others, config, embeddings=at_angles(T=0, s0=1))
    with pytest.raises(ValueError, match="length 0"):
        corrupt(target, others, config, embeddings={**at_angles(T=0, s0=1), "s1": np.zeros(2)})
    with pytest.raises(ValueError, match="only 2 are not kept"):
        corrupt(target, others, CorruptionConfig("foreign", 0.3), protected={u.id for u in target[2:]})


def test_records_file(tmp_path):
    result = corrupt(speech("T", 4), crowd(1, 4), CorruptionConfig("foreign", 0.5))
    write_records(tmp_path / "run" / "corruption.csv", result.records)
    with open(tmp_path / "run" / "corruption.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == RECORD_FIELDS
    assert [{**row, "corrupted": row["corrupted"] == "1"} for row in rows] == result.records
    assert sum(row["corrupted"] == "1" for row in rows) == 2
