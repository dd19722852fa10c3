"""Equal error rates against hand-counted ones, and the calibration of encoders whose errors are known."""
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.data.manifest import Utterance
from gradtts_robust.speech.audio import save_wav
from gradtts_robust.study.encoder_calibration import calibrate_encoder, equal_error, pair_scores

RATE = 16000
SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30)


def test_rates_counted_by_hand():
    assert equal_error([0.8, 0.9], [0.1, 0.2]).rate == 0
    assert 0.2 < equal_error([0.8, 0.9], [0.1, 0.2]).threshold <= 0.8
    assert equal_error([0.1, 0.2], [0.8, 0.9]).rate == 1
    # one of four is refused, one of four accepted, between 0.4 and 0.5
    found = equal_error([0.3, 0.5, 0.6, 0.7], [0.1, 0.2, 0.25, 0.4])
    assert found.rate == pytest.approx(0.25) and 0.3 < found.threshold <= 0.5
    assert equal_error([0.5] * 3, [0.5] * 7).rate == pytest.approx(0.5)


def test_rates_that_cross_without_meeting_are_joined():
    # at 0.5 one of two is refused but none of three accepted; below it none is refused and one accepted
    found = equal_error([0.4, 0.6], [0.1, 0.2, 0.5])
    assert 0 < found.rate < 0.5 and 0.4 < found.threshold <= 0.6


@settings(max_examples=200, deadline=None)
@given(SCORES, SCORES)
def test_the_rate_lies_between_what_any_threshold_gives(same, different):
    found = equal_error(same, different)
    for threshold in np.unique(same + different + [2.0]):
        refused, accepted = np.mean(np.array(same) < threshold), np.mean(np.array(different) >= threshold)
        assert min(refused, accepted) - 1e-9 <= found.rate <= max(refused, accepted) + 1e-9
    assert equal_error(-np.array(different), -np.array(same)).rate == pytest.approx(found.rate, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES, st.floats(0.1, 10), st.floats(-5, 5))
def test_another_scale_of_scores_changes_nothing_but_the_threshold(same, different, scale, shift):
    moved = [np.round(np.array(scores, dtype=np.float64), 3) * scale + shift for scores in (same, different)]
    found = equal_error(*(np.round(np.array(scores, dtype=np.float64), 3) for scores in (same, different)))
    assert equal_error(*moved).rate == pytest.approx(found.rate, abs=1e-9)


def test_two_normal_distributions():
    rng = np.random.default_rng(0)
    found = equal_error(rng.normal(1, 0.5, 20000), rng.normal(0, 0.5, 20000))
    assert found.rate == pytest.approx(0.1587, abs=0.01) and found.threshold == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("same", "different", "message"), [
    ([], [0.1], "0 scores of pairs of one speaker"), ([0.1], [], "0 scores of pairs of two speakers"),
    ([0.1, float("nan")], [0.1], "one speaker, 1 of them not finite"),
])
def test_scores_that_give_no_rate(same, different, message):
    with pytest.raises(ValueError, match=message):
        equal_error(same, different)


def test_pairs():
    rows = np.eye(5)[[0, 0, 1, 2, 2]]
    pairs = pair_scores(rows, ["a", "a", "a", "b", "b"])
    assert sorted(pairs.same) == [0, 0, 0, 0, 1, 1, 1, 1] and len(pairs.different) == 12 and not pairs.different.any()
    assert sorted(pairs.speaker) == [0] * 6 + [1] * 2
    apart = pair_scores(rows, ["a", "a", "a", "b", "b"], utterances=["u", "u", "v", "w", "w"])
    assert list(apart.same) == [0] * 4 and set(apart.speaker) == {0}
    turned = pair_scores(rows, ["a", "a", "a", "b", "b"], others=rows[::-1])
    assert turned.same.sum() == 0 and turned.different.sum() == 8


@dataclass
class Hears:
    """Tells a clip by its mean: speakers of these tests say a constant, with some error."""

    name: str = "hears"
    dim: int = 2

    def embed(self, waves, *, sample_rate, names=None):
        angles = np.array([wave[len(wave) // 4: -len(wave) // 4].mean() for wave in waves]) * np.pi
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture
def people(tmp_path):
    """Four speakers of two utterances of 2.5 s each, apart from one another."""
    rows = []
    for speaker, value in enumerate((0.0, 0.3, 0.6, 0.9)):
        for number in range(2):
            path = tmp_path / f"{speaker}-{number}.wav"
            save_wav(path, np.full(int(2.5 * RATE), value + 0.02 * number, dtype=np.float32), RATE)
            rows.append(Utterance(str(path), "words", f"speaker {speaker}", id=path.stem))
    return rows


def test_an_encoder_that_is_always_right(people):
    found = calibrate_encoder(Hears(), people, seconds=1.0, samples=50)
    assert (found.encoder, found.speakers, found.clips, found.error.mean, found.error.high) == ("hears", 4, 16, 0, 0)
    assert found.within.mean == pytest.approx(np.cos(0.02 * np.pi), abs=1e-3) and found.between.mean < found.threshold
    assert found.between.low < found.between.mean < found.between.high


def test_an_encoder_that_confuses_two(people):
    twins = [Utterance(people[0].path, u.text, u.speaker, id=u.id) if u.speaker == "speaker 1" else u for u in people]
    found = calibrate_encoder(Hears(), twins, seconds=1.0, same_recording=True, samples=50)
    assert 0.02 < found.error.mean < 0.3 and found.error.low <= found.error.mean <= found.error.high and found.error.low < found.error.high
    assert found == calibrate_encoder(Hears(), twins, seconds=1.0, same_recording=True, samples=50)


def test_against_a_vocoders_clips(people):
    class Silent:
        name, sample_rate = "silent", 22050

        def __call__(self, mel):
            return mel.new_zeros(len(mel), 256 * mel.shape[2])

    found = calibrate_encoder(Hears(), people, seconds=1.0, vocoder=Silent(), samples=50)
    # all voiced clips sound like speaker 0
    assert found.error.mean == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda rows: rows, {"seconds": 0}, "seconds is 0"), (lambda rows: rows, {"seconds": 3}, "none of 8 utterances is 3 s long"),
    (lambda rows: rows[::2], {"seconds": 1}, "0 speakers have two recordings of 1 s"),
    (lambda rows: rows[:2], {"seconds": 1, "same_recording": True}, "1 speakers have two recordings"),
])
def test_speech_that_calibrates_nothing(people, change, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate_encoder(Hears(), change(people), **options)


def test_a_missing_file_is_named(people, tmp_path):
    gone = [*people, Utterance(str(tmp_path / "gone.wav"), "words", "speaker 0", id="gone")]
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        calibrate_encoder(Hears(), gone, seconds=1.0)
