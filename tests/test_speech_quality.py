"""Word errors, cepstral distortion and pitch: against what is known by construction."""
import builtins
import math

import numpy as np
import pytest
import soundfile
from study_grid import tiny_corpus, tiny_study

from gradtts_robust.study import task
from gradtts_robust.study.grid import run_study
from gradtts_robust.study.plan import make_plan
from gradtts_robust.study.speech_quality import (
    Words,
    aligned,
    cepstral_distortion,
    cepstrum,
    error_rate,
    heard,
    pitch,
    pitch_error,
    recogniser,
    words_of,
)


@pytest.mark.parametrize(("found", "text", "errors", "words"), [
    ("the cat sat", "The cat sat.", 0, 3), ("the cat", "The cat sat.", 1, 3), ("a cat sat down", "The cat sat.", 2, 3),
    ("", "One two!", 2, 2), ("one two", "", 2, 0), ("don't", "Don't", 0, 1), ("b a", "a b", 2, 2),
])
def test_errors_are_the_least_edits(found, text, errors, words):
    assert heard(found.split(), text) == Words(errors, words)


def test_rates_and_words():
    assert error_rate([Words(1, 3), Words(3, 1)]) == 1.0 and math.isnan(error_rate([Words(1, 0)]))
    assert words_of("<s> The [NOISE] cat(2), it's \"gone\"!") == ["the", "cat", "it's", "gone"]


def test_a_cepstrum_gives_back_its_cosines():
    bands = np.arange(80) + 0.5
    mel = (0.3 * np.cos(np.pi * 2 * bands / 80) - 0.1 * np.cos(np.pi * 5 * bands / 80) + 4)[:, None]
    expected = np.zeros(13)
    expected[[1, 4]] = 0.3, -0.1
    np.testing.assert_allclose(cepstrum(mel)[:, 0], expected, atol=1e-12)
    louder = np.repeat(mel, 4, axis=1) + 2
    path = np.stack([np.zeros(4, int), np.arange(4)], axis=1)
    assert cepstral_distortion(mel, louder, path) == pytest.approx(0, abs=1e-9)
    # one cosine of 1 in natural log is 20 / ln 10 dB at its top, 1 / sqrt 2 of it in the mean square
    assert cepstral_distortion(mel, mel + np.cos(np.pi * bands / 80)[:, None], path[:1]) == pytest.approx(20 / math.log(10) / math.sqrt(2))


def test_alignment_follows_a_slower_copy():
    rng = np.random.default_rng(0)
    mel = rng.normal(size=(80, 12))
    path = aligned(mel, np.repeat(mel, 2, axis=1))
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [11, 23] and (path[:, 1] // 2 == path[:, 0]).all()


def test_pitch_of_a_tone_and_an_octave():
    time = np.arange(11025) / 22050
    tones = [np.sin(2 * np.pi * f * time).astype(np.float32) * 0.5 for f in (150, 300)]
    low, high = map(pitch, tones)
    path = np.stack([np.arange(len(low))] * 2, axis=1)
    assert np.nanmedian(low) == pytest.approx(150, rel=0.02)
    assert pitch_error(low, high, path) == pytest.approx(12, abs=0.5) and pitch_error(low, low, path) == 0
    assert math.isnan(pitch_error(np.full(5, np.nan), low, path[:5]))


def test_real_speech_is_recognised(librispeech):
    pytest.importorskip("pocketsphinx")
    folder = librispeech / "test-other" / "367" / "130732"
    texts = dict(line.split(" ", 1) for line in (folder / "367-130732.trans.txt").read_text().splitlines())
    wave, rate = soundfile.read(folder / "367-130732-0001.flac", dtype="float32")
    recognise, text = recogniser(), texts["367-130732-0001"]
    natural, backwards = (error_rate([heard(recognise(sound, rate), text)]) for sound in (wave, wave[::-1]))
    assert natural < 0.7 < backwards


def test_a_missing_recogniser_is_told(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "pocketsphinx":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"not installed: pip install 'gradtts-robust\[asr\]'"):
        recogniser()


def test_a_study_measures_them(tmp_path):
    pytest.importorskip("pocketsphinx")
    manifest = tiny_corpus(tmp_path)
    config = tiny_study(manifest, tmp_path / "study", conditions={"clean": {}}, objectives={"squares": {}}, iterations=2,
                        fidelity=True, asr=True)
    result = run_study(config)
    assert result.failed == []
    facts = task.done_facts(make_plan(config).runs[0])["quality"]
    # a random model says no words
    assert facts["word_error"] > 0.7 and 0 < facts["word_error_natural"] < 1.2 and facts["mcd"] > 3
    assert "Intelligibility and fidelity" in result.report.read_text(encoding="utf-8")
