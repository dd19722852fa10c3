"""Damage, intervals and tests on made-up runs whose answers are known."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.study import robustness
from gradtts_robust.study.robustness import (
    Grid,
    compare,
    courses,
    damage_ratio,
    draw,
    expanded_tail,
    holm,
    interval,
    paired_t_test,
    sign_flip_test,
)

SPEAKERS, SEEDS = [f"s{i}" for i in range(6)], [0, 1, 2]


def made_up(effects: dict, *, noise: float = 0.002, speaker_spread: float = 0.05) -> pd.DataFrame:
    """Rows like a study's: effects of (condition, objective) on similarity 0.8, speakers that differ much, little noise within."""
    rng, rows = np.random.default_rng(0), []
    own = dict(zip(SPEAKERS, rng.normal(scale=speaker_spread, size=len(SPEAKERS))))
    for (condition, objective), effect in effects.items():
        for speaker in SPEAKERS:
            for seed in SEEDS:
                for sentence in (1, 2):
                    value = 0.8 + own[speaker] + effect + rng.normal(scale=noise)
                    rows.append({"condition": condition, "objective": objective, "speaker": speaker, "seed": seed, "sentence": sentence,
                                 "iteration": 10, "selected": True, "encoder": "e", "similarity": value,
                                 "pollution_similarity": 0.6 - effect if condition != "clean" else math.nan,
                                 "control_pollution_similarity": 0.6 if condition != "clean" else math.nan})
    return pd.DataFrame(rows)


EFFECTS = {("clean", "squares"): 0.0, ("clean", "robust"): -0.01, ("dirty", "squares"): -0.1, ("dirty", "robust"): -0.03}


def test_damage_ratio_recovery_and_resilience():
    table = compare(made_up(EFFECTS), baseline="squares", clean="clean", encoder="e").set_index(["condition", "objective"])
    robust, plain = table.loc[("dirty", "robust")], table.loc[("dirty", "squares")]
    assert robust["ratio"] == pytest.approx(0.3, abs=0.02) and robust["recovery"] == pytest.approx(1 - robust["ratio"])
    assert robust["ratio_low"] < robust["ratio"] < robust["ratio_high"] and robust["ratio_high"] - robust["ratio_low"] < 0.1
    assert robust["R"] == pytest.approx(-0.02, abs=0.003) and plain["R"] == pytest.approx(-0.1, abs=0.003)
    assert robust["own_ratio"] == pytest.approx(0.2, abs=0.03)
    # minus what it moved towards the foreign speakers: 0.03 more than the control
    assert robust["differential"] == pytest.approx(-0.05, abs=0.003)
    assert robust["difference"] == pytest.approx(0.07, abs=0.003) and robust["p_holm"] < 0.01 and robust["p_signs"] == pytest.approx(2 / 64)
    assert math.isnan(plain["ratio"]) and math.isnan(table.loc[("clean", "robust")]["R"])
    assert (table["runs"] == 18).all()


def test_courses_hold_the_comparison_at_every_iteration():
    early = made_up({key: effect / 2 for key, effect in EFFECTS.items()}).assign(iteration=5, selected=False)
    table = pd.concat([early, made_up(EFFECTS)])
    found = courses(table, baseline="squares", clean="clean", encoder="e").set_index(["condition", "objective", "iteration"])
    assert len(found) == 8
    assert found.loc[("dirty", "robust", 5), "R"] == pytest.approx(-0.01, abs=0.003)
    final = compare(table, baseline="squares", clean="clean", encoder="e").set_index(["condition", "objective"])
    for name in ("mean", "R", "ratio"):
        assert found.loc[("dirty", "robust", 10), name] == pytest.approx(final.loc[("dirty", "robust"), name])


def test_an_interval_over_speakers_is_wider_than_one_over_runs():
    """Speakers differ: 18 runs of 6 speakers say less of other speakers than 18 speakers would."""
    grid = Grid(made_up({("clean", "squares"): 0.0}))
    values = grid.get("clean", "squares")
    found = interval(draw(*values.shape), values)
    assert found.high - found.low > 2.5 * values.std() / math.sqrt(values.size) * 1.5
    alone = interval(draw(1, values.size), values.reshape(1, -1))
    assert alone.high - alone.low < 0.75 * (found.high - found.low)


def test_intervals_hold_what_they_promise_with_six_speakers():
    """500 studies of 3 seeds: plain percentiles would hold the truth in less than 90 of 100, where speakers differ most."""
    rng, draws, held = np.random.default_rng(0), draw(6, 3, draws=2000), {0.025: 0, expanded_tail(6): 0}
    for _ in range(500):
        values = 0.4 + rng.normal(0, 0.02, (6, 1)) + rng.normal(0, 0.01, (6, 3))
        means = draws.means(values)
        for tail in held:
            low, high = np.quantile(means, [tail, 1 - tail])
            held[tail] += low <= 0.4 <= high
        expected = np.quantile(means, [expanded_tail(6), 1 - expanded_tail(6)])
        found = interval(draws, values)
        np.testing.assert_allclose([found.low, found.high], expected)
    plain, expanded = (count / 500 for count in held.values())
    assert plain < 0.91 < 0.93 < expanded < 0.975


def test_many_speakers_have_plain_percentiles():
    assert expanded_tail(10**6) == pytest.approx(0.025, rel=1e-4)
    tails = [expanded_tail(count) for count in range(2, 40)]
    assert tails == sorted(tails) and tails[0] < 1e-6
    # one speaker's seeds take the speakers' place
    values = np.random.default_rng(0).normal(size=(1, 5))
    low, high = np.quantile(draw(1, 5).means(values), [expanded_tail(5), 1 - expanded_tail(5)])
    assert (interval(draw(1, 5), values).low, interval(draw(1, 5), values).high) == (low, high)


def test_a_ratio_of_noise_is_told_and_not_given():
    small = {**EFFECTS, ("dirty", "squares"): -0.005, ("dirty", "robust"): 0.0}
    table = compare(made_up(small), baseline="squares", clean="clean", encoder="e")
    row = table.query("condition == 'dirty' and objective == 'robust'").iloc[0]
    assert math.isnan(row["ratio"]) and "too little to divide by" in row["remark"]
    rng = np.random.default_rng(1)
    clean = rng.normal(0.8, 0.01, size=(6, 3))
    dirty = clean - 0.02 + rng.normal(scale=0.15, size=(6, 1))
    dirty += (clean.mean() - 0.02) - dirty.mean()
    found = damage_ratio(draw(6, 3), robust=clean, dirty=dirty, clean=clean)
    assert found.value == pytest.approx(0, abs=1e-9) and "includes 0" in found.remark


def test_objectives_are_compared_on_the_runs_that_both_have():
    table = made_up(EFFECTS, noise=0.0)
    missing = table[~((table["objective"] == "robust") & (table["condition"] == "dirty") & (table["speaker"] == "s0"))]
    row = compare(missing, baseline="squares", clean="clean", encoder="e").query("condition == 'dirty' and objective == 'robust'").iloc[0]
    assert row["runs"] == 15 and row["ratio"] == pytest.approx(0.3) and row["difference"] == pytest.approx(0.07)
    nothing = interval(draw(2, 1), np.full((2, 1), np.nan))
    assert math.isnan(nothing.value) and nothing.remark == "no runs to compare"
    alone = interval(draw(1, 1), np.full((1, 1), 0.7))
    assert alone.value == 0.7 and math.isnan(alone.low) and alone.remark == "a single run has no interval"


def test_damage_is_judged_on_the_runs_that_the_ratio_is_of():
    """One speaker is hurt much, the others hardly; the robust objective has not learnt that one yet."""
    clean = np.full((6, 3), 0.8)
    dirty, robust = clean - 0.001, clean - 0.0005
    dirty[0], robust[0] = 0.6, math.nan
    found = damage_ratio(draw(6, 3), robust=robust, dirty=dirty, clean=clean)
    assert math.isnan(found.value) and found.remark == "the dirt costs plain training 0.001, too little to divide by"
    nothing = damage_ratio(draw(6, 3), robust=np.full((6, 3), math.nan), dirty=dirty, clean=clean)
    assert math.isnan(nothing.value) and nothing.remark == "no runs to compare"


def test_selected_checkpoints_are_what_counts():
    table = made_up(EFFECTS)
    late = table.assign(iteration=20, selected=False, similarity=0.0)
    both = pd.concat([table, late])
    assert np.nanmean(Grid(both).get("clean", "squares")) == pytest.approx(np.nanmean(Grid(table).get("clean", "squares")))
    assert (Grid(both, iteration=20).get("clean", "squares") == 0).all()
    assert np.isnan(Grid(both).get("no", "such")).all()


@pytest.mark.parametrize(("differences", "p"), [
    ([1, 1, 1, 1, 1, 1], 2 / 64), ([1, -1], 1.0), ([], math.nan), ([0.0], 1.0), ([2, 1, -0.5], 0.5)])
def test_changes_of_signs(differences, p):
    assert sign_flip_test(differences) == pytest.approx(p, nan_ok=True)


def test_changes_of_signs_of_many_speakers_are_drawn():
    rng = np.random.default_rng(0)
    assert sign_flip_test(rng.normal(size=30)) > 0.05 and sign_flip_test(rng.normal(1.0, size=30)) < 0.001
    assert robustness.EXACT_SPEAKERS < 30


def test_t_test():
    from scipy.stats import ttest_1samp

    values = [0.1, 0.3, -0.05, 0.2]
    assert paired_t_test([*values, math.nan]) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert math.isnan(paired_t_test([0.1])) and math.isnan(paired_t_test([0.1, 0.1]))


def test_holm_by_hand():
    # Holm (1979): the smallest times 4, the next times 3, ..., never falling
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, math.nan, 0.005]), [0.03, 0.06, 0.06, math.nan, 0.02])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_only_raises_and_keeps_the_order(p):
    found = holm(p)
    assert (found >= np.array(p) - 1e-12).all() and (found <= 1).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= -1e-12).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.floats(-2, 2), st.integers(0, 99))
def test_intervals_follow_a_shift_and_hold_the_mean(speakers, seeds, shift, seed):
    values = np.random.default_rng(seed).normal(size=(speakers, seeds))
    draws = draw(speakers, seeds, draws=200)
    assert draws.weights.sum((1, 2)) == pytest.approx(np.full(200, speakers * seeds))
    one, moved = interval(draws, values), interval(draws, values + shift)
    assert one.value == pytest.approx(values.mean())
    assert (moved.low, moved.high) == pytest.approx((one.low + shift, one.high + shift))
