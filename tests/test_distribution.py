"""Distances of sets of embeddings, and verification, against closed forms and other implementations."""
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from gradtts_robust.study.distribution import coverage, frechet_distance, relative_mahalanobis, spectral_entropy
from gradtts_robust.study.summary import distribution_table, thresholds_of
from gradtts_robust.study.table import Loaded, Note
from gradtts_robust.study.verification import accepted_share, area_below, calibrate, equal_error


def rows(count: int, width: int = 5, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) + shift


def test_frechet_distance_is_the_formula_with_a_matrix_root():
    real, samples = rows(40), 1.5 * rows(30, seed=1, shift=0.3)
    c1, c2 = np.cov(real.T), np.cov(samples.T)
    expected = np.square(real.mean(0) - samples.mean(0)).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(real, samples) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    # fewer rows than dimensions: the covariances have no inverse, the distance is there
    wide, moved = rows(6, 50), rows(6, 50) + 1
    assert frechet_distance(wide, moved) == pytest.approx(50, rel=1e-6)


def test_precision_and_recall_tell_what_is_missing():
    real = np.concatenate([rows(40, 2), rows(40, 2, seed=1, shift=50)])
    half = coverage(real, rows(40, 2, seed=2))
    assert half.precision > 0.8 and 0.35 < half.recall < 0.55
    away = coverage(real, rows(40, 2, seed=3, shift=500))
    assert (away.precision, away.recall) == (0, 0)
    same = coverage(real, real)
    assert (same.precision, same.recall) == (1, 1)


def test_a_set_is_compared_with_its_twins_alone():
    """A speaker whose clean run is not finished is no sign of a wider distribution."""
    def one(condition: str, speaker: str, *, shift: float) -> Loaded:
        run = {"condition": condition, "objective": "squares", "speaker": speaker, "seed": 0, "method": "plain"}
        return Loaded(run, {4: {"said/e": rows(8, seed=len(speaker), shift=shift)}}, {"reference/e": rows(4, seed=9, shift=shift)}, {}, {})

    note = Note(Path(), "squares", "clean", [], "", [])
    pair = [one("clean", "a", shift=1), one("dirty", "a", shift=1)]
    alone = distribution_table(note, pair, ["e"]).set_index("condition").loc["dirty"]
    more = distribution_table(note, [*pair, one("dirty", "bb", shift=40)], ["e"]).set_index("condition").loc["dirty"]
    names = ["frechet", "precision", "recall"]
    assert more[names].tolist() == alone[names].tolist() == pytest.approx([0, 1, 1], abs=1e-9)
    assert (alone["samples"], more["samples"]) == (8, 16)
    unpaired = distribution_table(note, pair[1:], ["e"]).iloc[0]
    assert unpaired[names].isna().all()


def test_relative_mahalanobis_prefers_ones_own_speaker():
    real = np.concatenate([rows(20, 3), rows(20, 3, seed=1, shift=6)])
    owners = np.array(["a"] * 20 + ["b"] * 20)
    near = relative_mahalanobis(rows(10, 3, seed=2), np.array(["a"] * 10), real, owners)
    other = relative_mahalanobis(rows(10, 3, seed=2), np.array(["b"] * 10), real, owners)
    assert np.median(near) < 1 < 20 < np.median(other) and (near < other).all()
    assert np.isnan(relative_mahalanobis(rows(1, 3), np.array(["c"]), real, owners)).all()


def test_entropy_between_one_voice_and_none_alike():
    assert spectral_entropy(np.ones((7, 4))) == pytest.approx(0, abs=1e-9)
    assert spectral_entropy(3 * np.eye(5)) == pytest.approx(math.log(5))
    assert spectral_entropy(np.repeat(np.eye(2), 3, axis=0)) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: frechet_distance(rows(1), rows(5)), "too few to compare; at least 2"),
    (lambda: coverage(rows(3), rows(9)), "at least 4"), (lambda: frechet_distance(rows(5, 3), rows(5, 4)), "cannot be compared"),
])
def test_sets_that_cannot_be_compared(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_equal_error():
    assert equal_error([0.9, 0.8], [0.1, 0.2]) == (0.0, pytest.approx(0.5))
    error, threshold = equal_error([0.9, 0.7, 0.5, 0.3], [0.1, 0.2, 0.4, 0.6])
    assert error == pytest.approx(0.25) and 0.4 <= threshold <= 0.5
    assert all(map(math.isnan, equal_error([], [0.1])))
    assert accepted_share([0.4, 0.6, math.nan, 0.5], 0.5) == pytest.approx(2 / 3) and math.isnan(accepted_share([], 0.5))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_equal_error_is_a_rate_and_does_not_depend_on_order(own, others):
    error, threshold = equal_error(own, others)
    assert 0 <= error <= 1 and equal_error(own[::-1], others[::-1]) == (error, threshold)


def test_calibration_on_two_voices():
    rng = np.random.default_rng(0)
    voices = {name: centre + 0.1 * rng.normal(size=(6, 8)) for name, centre in (("a", np.eye(8)[0]), ("b", np.eye(8)[1]))}
    found = calibrate(voices)
    assert found.within > 0.9 > 0.3 > found.between and found.error == 0 and found.between < found.threshold < found.within
    assert (found.clips, found.speakers) == (12, 2)
    assert math.isnan(calibrate({"a": voices["a"]}).threshold) and math.isnan(calibrate({}).within)
    assert thresholds_of("resemblyzer", found, (0.6, 0.7)) == [0.6, 0.7] == thresholds_of("other", calibrate({}), (0.6, 0.7))
    assert thresholds_of("other", found, (0.6, 0.7, 0.8))[::2] == [round(found.between, 2), round(found.within, 2)]


def test_area_below_is_the_integral_of_the_counts():
    values, fine = [0.55, 0.72, 0.9], np.linspace(0.6, 0.8, 20001)
    integral = np.mean([(np.array(values) < edge).mean() for edge in fine])
    assert area_below(values, [0.6, 0.7, 0.8]) == pytest.approx(integral, abs=1e-3)
    assert area_below([0.9], [0.6, 0.8]) == 0 and area_below([0.1], [0.6, 0.8]) == 1 and math.isnan(area_below([], [0.6, 0.8]))
