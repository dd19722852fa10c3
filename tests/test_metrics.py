import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradtts_robust.speech.audio import save_wav
from gradtts_robust.study.metrics import (
    bootstrap_interval,
    damage_ratio,
    file_similarity,
    leave_one_out,
    resilience,
    threshold_counts,
)


def test_threshold_counts_are_strict_and_pass_over_missing_ones():
    counts = threshold_counts([0.5, 0.6, 0.7, math.nan], [0.5, 0.6, 0.65, 1.0])
    assert counts.to_dict() == {0.5: 0, 0.6: 1, 0.65: 2, 1.0: 3}


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_threshold_counts_grow_with_the_threshold(values):
    counts = threshold_counts(values, np.linspace(-1, 1.1, 8)).to_list()
    assert counts == sorted(counts) and counts[-1] == len(values)


def test_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(0.7, 0.1, size=400)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_over_groups_is_that_of_the_groups_not_of_the_values():
    # 2 speakers at 0 and 1, 200 values each: the mean of two drawn speakers is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4
    values, groups = np.repeat([0.0, 1.0], 200), np.repeat(["a", "b"], 200)
    grouped, alone = bootstrap_interval(values, groups), bootstrap_interval(values)
    assert (grouped.mean, grouped.low, grouped.high) == (0.5, 0.0, 1.0)
    assert alone.high - alone.low < 0.12


def test_interval_is_seeded_narrows_with_the_level_and_knows_its_edges():
    values = [0.1, 0.5, 0.6, 0.9]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide.low < narrow.low <= narrow.high < wide.high
    same = bootstrap_interval([0.4, 0.4, math.nan])
    assert same.mean == same.low == same.high == pytest.approx(0.4)
    assert math.isnan(bootstrap_interval([]).low)
    with pytest.raises(ValueError, match="level 1 "):
        bootstrap_interval(values, level=1)
    with pytest.raises(ValueError, match="4 values but 1 groups"):
        bootstrap_interval(values, ["a"])


def test_resilience_and_damage_ratio_in_closed_form():
    clean, dirty, robust = np.full(6, 0.9), np.full(6, 0.7), np.full(6, 0.85)
    assert resilience(dirty, clean) == pytest.approx(-0.2)
    assert damage_ratio(robust, dirty, clean).value == pytest.approx(0.25)
    assert damage_ratio(dirty, dirty, clean).value == pytest.approx(1)
    assert damage_ratio(clean, dirty, clean).value == pytest.approx(0)
    assert damage_ratio(np.full(6, 0.6), dirty, clean).value == pytest.approx(1.5)


def test_damage_ratio_refuses_damage_that_is_absent_negative_or_unsure():
    clean = np.array([0.9, 0.8, 0.7, 0.6])
    for dirty, reason in ((clean, "costs plain training 0.000"), (clean + 0.1, "costs plain training -0.100"),
                          (clean - np.array([0.4, -0.3, 0.3, -0.3]), "not clear"), (np.array([math.nan]), "missing")):
        ratio = damage_ratio(clean, dirty, clean)
        assert math.isnan(ratio.value) and reason in ratio.reason
    unpaired = damage_ratio(clean, np.array([0.1, 0.9]), np.array([0.5, 0.6, 0.7]))
    assert math.isnan(unpaired.value) and "not clear" in unpaired.reason


def test_leave_one_out_compares_with_the_others_alone():
    rows = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert leave_one_out(rows) == pytest.approx([0, 1 / math.sqrt(2), 1 / math.sqrt(2)])
    assert leave_one_out(rows, judged=rows[[1, 1, 1]]) == pytest.approx([1, 1 / math.sqrt(2), 1 / math.sqrt(2)])
    assert len(leave_one_out(rows[:1])) == 0


def test_file_similarity_of_files_and_folders(tmp_path):
    rng, time = np.random.default_rng(0), np.arange(22050) / 22050
    for name in ("a", "b"):
        save_wav(tmp_path / "reference" / f"{name}.wav", 0.3 * np.sin(2 * np.pi * 200 * time) + rng.normal(0, 0.02, 22050), 22050)
    save_wav(tmp_path / "noise.wav", rng.normal(0, 0.2, 22050), 22050)
    same, other = tmp_path / "reference" / "a.wav", tmp_path / "noise.wav"
    rows = dict(file_similarity([same, other], [tmp_path / "reference"], device="cpu"))
    assert rows[str(same)] > 0.9 > rows[str(other)]
    with pytest.raises(FileNotFoundError, match="nobody"):
        file_similarity([same], [tmp_path / "nobody"], device="cpu")
