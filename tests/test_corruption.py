"""Corruption: exact counts, the same draw from the same seed, protected utterances untouched."""
import csv

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradtts_robust.config import CorruptionConfig
from gradtts_robust.data import dirty_audio
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
    with pytest.raises(ValueError, match=r"needs 6 utterances of others.* only 5"):
        corrupt(target, [*others, *others, copy, *target], CorruptionConfig("foreign", 0.6))


def test_none_changes_nothing_and_records_that():
    target = speech("T", 3)
    result = corrupt(target[::-1], crowd(2, 2), CorruptionConfig())
    assert result.utterances == target
    assert [list(r.values()) for r in result.records] == [[u.id, False, "none", "T", "", ""] for u in target]
    assert corrupt(target, [], CorruptionConfig("foreign", 0.0)).utterances == target


@pytest.mark.parametrize(("settings", "says"), [
    ({"fraction": 1.0}, r"must be in \[0, 1\)"), ({"fraction": -0.1}, r"must be in \[0, 1\)"), ({"fraction": float("nan")}, r"\[0, 1\)"),
    ({"kind": "mud"}, "choose one of none, foreign, overlay, noise, text, mixed"), ({"noise": "brown"}, "any, white, pink"),
    ({"texts": "mine"}, "own, others"), ({"kind": "text", "mode": "append"}, "append adds foreign.*kind is text"),
    ({"snr": (5, 0)}, r"snr is \(5, 0\)"), ({"snr": (5,)}, "lowest and the highest"), ({"snr": (0, float("nan"))}, "in dB"),
    ({"kind": "noise"}, "needs a folder"), ({"pick": "best"}, "random, nearest, farthest"), ({"mode": "mix"}, "append"),
    ({"kind": "none", "fraction": 0.3}, "kind is none"), ({"seed": -1}, "seed is -1"), ({"speakers": -1}, "speakers is -1"),
    ({"fraction": 0.8}, "needs 8 utterances of others.* only 6"),
    ({"fraction": 0.4, "speakers": 1}, "needs 4 utterances of others.* only 3"),
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


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.floats(0, 0.9), st.floats(0, 0.9), st.sampled_from(["own", "others"]), st.integers(0, 99))
def test_wrong_transcripts_differ_keep_their_audio_and_nest(n, one, other, texts, seed):
    target, others = speech("T", n), crowd(3, 20)
    results = [corrupt(target, others, CorruptionConfig("text", f, texts=texts, seed=seed)) for f in sorted((one, other))]
    for result, fraction in zip(results, sorted((one, other))):
        assert sum(r["corrupted"] for r in result.records) == round(fraction * n)
        for before, after, record in zip(target, result.utterances, result.records, strict=True):
            assert (after.path, after.speaker, after.id) == (before.path, before.speaker, before.id)
            assert (after.text != before.text) == record["corrupted"] == (record["kind"] == "text")
            assert after.text in {u.text for u in (target if texts == "own" else others)} or not record["corrupted"]
            assert record["detail"].startswith("transcript of ") == record["corrupted"]
    assert set(map(repr, results[1].records)) >= {repr(r) for r in results[0].records if r["corrupted"]}


def test_wrong_transcripts_must_fit_and_protected_ones_are_not_read_from():
    target = [Utterance(f"/T/{i}.wav", text, "T", f"T/{i}", phonemes="AA1 B", ends="0.1 0.2") for i, text in enumerate(["a b", "c" * 40])]
    with pytest.raises(ValueError, match="at most 9 characters"):
        for seed in range(9):
            corrupt(target, [], CorruptionConfig("text", 0.5, seed=seed))
    with pytest.raises(ValueError, match="no other transcript"):
        corrupt(speech("T", 2), [], CorruptionConfig("text", 0.5), protected={"T/000"})
    target = [Utterance(f"/T/{i}.wav", text, "T", f"T/{i}", phonemes=f"AA{i} B", ends="0.1 0.2") for i, text in enumerate(["one", "two"])]
    wrong = next(u for u, before in zip(corrupt(target, [], CorruptionConfig("text", 0.5)).utterances, target) if u != before)
    assert (wrong.text, wrong.phonemes, wrong.ends) == (("two", "AA1 B", "") if wrong.id == "T/0" else ("one", "AA0 B", ""))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Six clips of a target and two of each of three others: harmonics of their own pitch, and a little noise."""
    folder, made = tmp_path_factory.mktemp("sounds"), []
    for pitch, (speaker, count) in {101: ("T", 6), 137: ("a", 2), 173: ("b", 2), 197: ("c", 2)}.items():
        for number in range(count):
            rng = np.random.default_rng((pitch, number))
            time = np.arange(16000 + 400 * number) / 22050
            wave = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in range(1, 9))
            soundfile.write(folder / f"{speaker}{number}.wav", 0.1 * wave + 0.01 * rng.normal(size=len(time)), 22050, subtype="PCM_16")
            made.append(Utterance(str(folder / f"{speaker}{number}.wav"), f"{speaker} {number}", speaker, f"{speaker}/{number}"))
    return made[:6], made[6:]


def measured_snr(clean, dirty) -> float:
    voice, mixed = (soundfile.read(path)[0] for path in (clean, dirty))
    assert len(voice) == len(mixed) and np.abs(mixed).max() <= 0.96
    heard = voice * (voice @ mixed / (voice @ voice))
    return 10 * np.log10(np.sum(heard**2) / np.sum((mixed - heard) ** 2))


@pytest.mark.parametrize(("kind", "noise"), [
    ("overlay", "any"), ("noise", "white"), ("noise", "pink"), ("noise", "hum"), ("noise", "babble")])
def test_sound_is_mixed_at_the_ratio_asked_for(sounds, tmp_path, kind, noise):
    target, others = sounds
    config = CorruptionConfig(kind, 0.5, snr=(3, 9), noise=noise)
    result = corrupt(target, others, config, folder=tmp_path / "waves")
    dirty = [(before, after, r) for before, after, r in zip(target, result.utterances, result.records, strict=True) if r["corrupted"]]
    assert len(dirty) == 3 and len({r["detail"] for _, _, r in dirty}) == 3
    for before, after, record in dirty:
        said = float(record["detail"].split()[-2])
        assert 3 <= said <= 9 and abs(measured_snr(before.path, after.path) - said) < 0.5
        assert (after.id, after.text, after.speaker, record["true_speaker"], record["replaced"]) == (before.id, before.text, "T", "T", "")
        assert record["kind"] == kind and "true_speaker" not in after.extra
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "waves").iterdir()}
    assert len(files) == 3
    assert corrupt(target[::-1], others[::-1], config, folder=tmp_path / "waves") == result
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "waves").iterdir()} == files, "made once"
    assert all(soundfile.read(u.path)[0].std() > 0.01 for u in target), "the sources stay"


def test_spectra_of_the_noises():
    rng, length = np.random.default_rng(0), 22050
    power = {name: np.abs(np.fft.rfft(make(length, rng, []))) ** 2 for name, make in dirty_audio.NOISES.items() if name != "babble"}
    low, high = slice(100, 1000), slice(1000, 10000)
    assert abs(power["white"][low].mean() / power["white"][high].mean() - 1) < 0.2
    assert abs(power["pink"][low].sum() / power["pink"][high].sum() - 1) < 0.2, "equal power in every decade"
    assert power["hum"][50:1001:50].sum() > 0.99 * power["hum"].sum()


def test_mixed_dirt_has_every_kind_and_nests(sounds, tmp_path):
    target, others = sounds
    records = {}
    for fraction in (0.2, 0.4, 0.67):
        result = corrupt(target, others, CorruptionConfig("mixed", fraction, seed=3), folder=tmp_path)
        assert {u.speaker for u in result.utterances} == {"T"}
        records[fraction] = {repr(r) for r in result.records if r["corrupted"]}
    assert records[0.2] < records[0.4] < records[0.67]
    assert {r["kind"] for r in result.records} == {"none", "foreign", "overlay", "noise", "text"}
    first = {next(r["kind"] for r in corrupt(target, others, CorruptionConfig("mixed", 0.2, seed=seed), folder=tmp_path).records
                  if r["corrupted"]) for seed in range(12)}
    assert len(first) == 4, "the seed says with which kind it begins"


def test_sound_that_cannot_be_mixed_is_named(sounds, tmp_path):
    target, others = sounds
    config = CorruptionConfig("noise", 0.9, noise="babble")
    with pytest.raises(ValueError, match="babble needs utterances of other speakers"):
        corrupt(target, [], config, folder=tmp_path)
    assert corrupt(target, [], CorruptionConfig("noise", 0.9), folder=tmp_path), "any noise goes without others, then without babble"
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 22050)
    silent = [Utterance(str(tmp_path / "silent.wav"), f"x {i}", "T", f"T/{i}") for i in range(2)]
    with pytest.raises(ValueError, match=r"silent\.wav: only silence"):
        corrupt(silent, others, CorruptionConfig("overlay", 0.5), folder=tmp_path)
    gone = [Utterance(str(tmp_path / "gone.wav"), f"x {i}", "T", f"T/{i}") for i in range(2)]
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        corrupt(gone, others, CorruptionConfig("noise", 0.5, noise="hum"), folder=tmp_path)
