"""Sound and text under a base, their combination with the voice, and the gain: what each sees, and that training resumes with it."""
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import SPEAKERS, TARGET, corpus, tiny_features, tiny_model, tiny_optim, train_settings

from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ObjectiveConfig
from gradtts_robust.losses import Objective
from gradtts_robust.training import joint
from gradtts_robust.training.adapt import adapt, prepare_adaptation
from gradtts_robust.training.agreement import biweight
from gradtts_robust.training.gain import GainEstimate, gain_weights, residual_energies
from gradtts_robust.training.history import read_state
from gradtts_robust.training.loop import train
from gradtts_robust.training.loss import build_objective
from gradtts_robust.training.signals import TextFit, _shuffled, measure_text_fit
from gradtts_robust.training.weights import ExampleWeights, read_weights

few = settings(max_examples=60, deadline=None)
ROWS = {name: row for row, name in enumerate(SPEAKERS)}


def signals(n, *, voice=(), sound=(), quiet=(), text=()):
    """A judgement of n utterances that scatter half as much as clean ones may, but for those named, which are dirty by one signal."""
    rng = np.random.default_rng(n)
    odd, heard, still = 0.5 * np.abs(rng.standard_normal(n)), 0.75 + 0.02 * rng.standard_normal(n), 55 + 1.3 * rng.standard_normal(n)
    said = 0.6 + 0.05 * rng.standard_normal(n)
    odd[list(voice)], heard[list(sound)], still[list(quiet)], said[list(text)] = 12.0, 0.3, 20.0, 0.02
    return joint.judge(odd, TextFit(heard, said, still))


@pytest.mark.parametrize("kind", joint.COMBINATIONS)
@few
@given(n=st.integers(7, 20), share=st.floats(0, 0.49), seed=st.integers(0, 99), names=st.lists(
    st.sampled_from(["voice", "sound", "quiet", "text"]), min_size=1, max_size=4, unique=True))
def test_a_minority_that_is_dirty_by_any_signal_loses(kind, n, share, seed, names):
    dirty = np.random.default_rng(seed).permutation(n)[: min(int(share * n), (n - 1) // 2)]
    parts = {name: part for name, part in zip(names, np.array_split(dirty, len(names)))}
    weights = joint.COMBINATIONS[kind](signals(n, **parts))
    clean = np.setdiff1d(np.arange(n), dirty)
    assert weights.max() == 1 and weights.min() >= 0
    assert (weights[dirty] < 0.1).all() and (weights[clean] > 0.5).all() and weights[clean].mean() > 0.8


@few
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(-0.5, 1), st.floats(-0.5, 1), st.floats(10, 90)), min_size=3, max_size=20),
       st.randoms(use_true_random=False))
def test_order_does_not_matter_and_weights_are_shares(rows, random):
    def weigh(values):
        voice, sound, text, quiet = np.array(values).T
        judged = joint.judge(voice - voice.min(), TextFit(sound, text, quiet))
        return [combine(judged) for combine in joint.COMBINATIONS.values()]
    order = list(range(len(rows)))
    random.shuffle(order)
    for plain, mixed in zip(weigh(rows), weigh([rows[i] for i in order])):
        assert ((plain >= 0) & (plain <= 1)).all()
        np.testing.assert_allclose(plain[order], mixed, atol=1e-9)


def test_a_base_that_hears_no_text_judges_by_the_voice_and_the_quiet_alone():
    voice, quiet = np.array([0, 0, 1, 0, 4.0]), np.array([50.0, 50, 50, 20, 50])
    judged = joint.judge(voice, TextFit(np.array([0.1, 0, 0.2, -0.1, 0.1]), np.array([0.05, -0.1, 0, 0.1, 0]), quiet))
    assert set(judged.suspicion) == {"voice", "quiet"} and (judged.believed == 1).all()
    weights = joint.together(judged)
    np.testing.assert_allclose(weights[[0, 1, 3]], [1, 1, 0])
    assert weights[4] == pytest.approx(biweight(4 / 2**0.5)) and weights[2] > 0.9


def test_several_small_oddities_count_as_one_large_one():
    def weights(voice, sound, quiet):
        odd, heard, still = np.zeros(7), np.full(7, 0.75), np.full(7, 50.0)
        odd[0], heard[0], still[0] = voice, 0.75 - sound * joint.SOUND_SCALE[0], 50 - quiet * joint.QUIET_SCALE[0]
        return joint.together(joint.judge(odd, TextFit(heard, np.full(7, 0.6), still)))[0]

    assert weights(3, 3, 3) == pytest.approx(weights(9, 0, 0)) and weights(3, 3, 3) < 0.1
    assert weights(3, 0, 0) > 0.7 and weights(0, 3, 0) == pytest.approx(weights(0, 0, 3))


def test_what_is_usual_is_learnt_from_those_whose_voice_and_text_are_trusted():
    sound, text = np.array([0.8, 0.8, 0.8, 0.8, 0.99, 0.99, 0.99]), np.full(7, 0.5)
    judged = joint.judge(np.array([0.0, 0, 0, 0, 20, 20, 20]), TextFit(sound, text, np.full(7, 50.0)))
    assert judged.usual["sound"] == 0.8 and (judged.factors["sound"] == 1).all()
    judged = joint.judge(np.zeros(7), TextFit(1.2 - sound, np.where(np.arange(7) < 4, 0.5, 0.01), np.full(7, 50.0)))
    assert judged.usual["sound"] == pytest.approx(0.4) and (judged.believed == [1, 1, 1, 1, 0, 0, 0]).all()


@pytest.mark.parametrize(("usual", "wrong"), [(0.15, 0.02), (0.6, 0.1), (1.2, 0.1)])
def test_a_wrong_text_has_no_weight_however_much_the_base_hears(usual, wrong):
    said = np.full(7, usual)
    said[:3] = wrong
    weights = joint.together(joint.judge(np.array([0, 0, 0, 0, 6, 6, 0.0]), TextFit(np.full(7, 0.7), said, np.full(7, 50.0))))
    assert (weights[:3] == 0).all() and weights[3] == 1, "though the voices take its side"


def test_silence_deeper_than_any_room_is_no_suspicion_of_other_clips():
    quiet = np.array([90, 90, 90, 90, 58, 57, 40.0])
    factors = joint.judge(np.zeros(7), TextFit(np.full(7, 0.7), np.full(7, 0.6), quiet)).factors
    assert (factors["quiet"][:6] == 1).all() and factors["quiet"][6] < 0.5


@pytest.mark.parametrize("corruption", [
    CorruptionConfig("text", 0.4), CorruptionConfig("text", 0.4, texts="others"), CorruptionConfig("noise", 0.4, snr=(0, 6)),
    CorruptionConfig("overlay", 0.4, snr=(0, 6)), CorruptionConfig("foreign", 0.4, speakers=1), CorruptionConfig()])
def test_dirt_of_every_kind_is_found_under_the_shipped_base(corruption, tmp_path):
    config = AdaptConfig(manifest=str(corpus()), speaker=TARGET, out=str(tmp_path / "run"), corruption=corruption, device="cpu",
                         objective=ObjectiveConfig(example_weights="joint"), evaluation=EvaluationConfig(reference_utterances=1),
                         cache=str(corpus().parent / "features"))
    prepared = prepare_adaptation(config)
    dirty = np.array([r["corrupted"] for r in prepared.records])
    weights = prepared.weights.values
    assert dirty.sum() == round(5 * corruption.fraction)
    assert (weights[dirty] < 0.1).all() and (weights[~dirty] > 0.5).all()


def test_fit_restores_the_model_and_does_not_depend_on_the_others_order():
    model, features = tiny_model().train(), tiny_features(5)
    fit = measure_text_fit(model, features, row=1)
    assert model.training and fit.sound.shape == fit.text.shape == (5,)
    again = measure_text_fit(model, features[::-1], row=1)
    np.testing.assert_allclose(again.sound[::-1], fit.sound, atol=1e-5)
    np.testing.assert_allclose(again.text[::-1], fit.text, atol=1e-5)
    counted = []
    np.testing.assert_allclose(again.quiet[::-1], fit.quiet)
    alone = measure_text_fit(tiny_model(n_speakers=1), features[:1], row=None, progress=lambda done, total: counted.append((done, total)))
    assert np.isfinite(alone.text).all() and counted == [(1, 1)]


def test_the_loudness_of_a_frame_is_no_misfit():
    model, features = tiny_model(), tiny_features(3)
    plain = measure_text_fit(model, features, row=1)
    rng = np.random.default_rng(0)

    def changed(feature):
        mel = feature.mel.float()
        louder = torch.from_numpy(rng.standard_normal((1, mel.shape[1]))).float()
        return dataclasses.replace(feature, mel=mel + louder)

    again = measure_text_fit(model, [changed(f) for f in features], row=1)
    np.testing.assert_allclose(again.sound, plain.sound, atol=1e-3)
    np.testing.assert_allclose(again.text, plain.text, atol=1e-3)


def test_quiet_is_what_lies_below_the_whole_and_knows_no_level():
    feature = tiny_features(1)[0]
    mel = torch.zeros(80, 100)
    mel[:, :30] = -4.0
    features = [dataclasses.replace(feature, mel=mel + level, ids=feature.ids[:20]) for level in (0.0, -3.0)]
    found = measure_text_fit(tiny_model(), features, row=1).quiet
    expected = 20 * np.log10(np.e) * (4 + 0.5 * np.log(80 * (0.7 + 0.3 * np.exp(-8))))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@few
@given(st.integers(1, 60))
def test_shuffled_transcripts_have_the_same_symbols(count):
    feature = dataclasses.replace(tiny_features(1)[0], ids=torch.arange(count))
    made = _shuffled(feature)
    assert bool(made) == (count > 10)
    for ids in made:
        assert sorted(ids.tolist()) == list(range(count)) and ids.tolist() != list(range(count))
        assert (int(ids[0]), int(ids[-1])) == (0, count - 1)


@few
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20), st.floats(-2, 2))
def test_gains_are_judged_by_their_distance_from_most(gains, shift):
    gains = np.round(np.array(gains), 3)
    weights, usual = gain_weights(gains)
    assert ((weights >= 0) & (weights <= 1)).all() and gains.min() <= usual <= gains.max()
    moved, _ = gain_weights(np.round(gains + np.round(shift, 3), 3))
    np.testing.assert_allclose(moved, weights, atol=1e-6)
    with_outlier, _ = gain_weights(np.append(np.full(4, 0.3), [5.0, -5.0, 0.31]))
    np.testing.assert_allclose(with_outlier, [1, 1, 1, 1, 0, 0, 1], atol=0.05)


def test_energies_are_the_same_for_the_same_seed_and_fall_as_a_model_learns(tmp_path):
    features, model = tiny_features(5), tiny_model().train()
    before = residual_energies(model, features, ROWS, seed=3)
    torch.manual_seed(9)
    np.testing.assert_array_equal(residual_energies(model, features, ROWS, seed=3), before)
    assert model.training and not np.allclose(residual_energies(model, features, ROWS, seed=4), before)
    train(model, features, ROWS, objective=Objective(), optim=tiny_optim(), out=tmp_path, **train_settings(iterations=8))
    assert (residual_energies(model, features, ROWS, seed=3) < before).all()


def test_weights_by_gain_are_estimated_when_due_and_resume_bit_equal(tmp_path):
    features, told = tiny_features(6), []
    start = ExampleWeights([f.id for f in features], np.array([1, 1, 1, 0.5, 1, 1]), {"voice": np.array([1, 1, 1, 0.5, 1, 1])})

    def run(name, iterations):
        model = tiny_model()
        gain = GainEstimate(start, 3, 2, features, ROWS, 0, residual_energies(model, features, ROWS, seed=0), told.append)
        train(model, features, ROWS, objective=Objective(), optim=tiny_optim(checkpoint_every=2), out=tmp_path / name, weights=start,
              gain=gain, **train_settings(iterations=iterations))
        return read_state(tmp_path / name / "checkpoints" / f"{iterations:06d}")

    whole = run("whole", 6)
    assert len(told) == 2 and all(w.values.max() == 1 and "log_gain" in w.signals for w in told)
    np.testing.assert_array_equal(whole.examples["values"].numpy(), told[-1].values)
    first = run("cut", 2)
    np.testing.assert_array_equal(first.examples["values"].numpy(), start.values)
    run("cut", 4)
    again = run("cut", 6)
    assert all(torch.equal(whole.model[name], again.model[name]) for name in whole.model)
    assert all(torch.equal(whole.examples[name], again.examples[name]) for name in whole.examples)


@pytest.mark.parametrize("kind", ["gain", "both"])
def test_an_adaptation_by_gain_writes_what_it_found(kind, tmp_path):
    settings = {"objective": ObjectiveConfig(example_weights=kind, gain_warmup=1, gain_every=2), "iterations": 2, "device": "cpu",
                "manifest": str(corpus()), "speaker": TARGET, "evaluation": EvaluationConfig(reference_utterances=1),
                "optim": tiny_optim(), "corruption": CorruptionConfig("foreign", 0.4), "cache": str(corpus().parent / "features")}
    adapt(AdaptConfig(out=str(tmp_path / "run"), **settings))
    rows = read_weights(tmp_path / "run" / "weights.csv")
    assert len(rows) == 5 and all({"gain", "log_gain", "usual_gain"} <= set(row) for row in rows)
    assert ("voice" in rows[0]) == (kind == "both")
    assert all(bool(row["reason"]) == (row["weight"] < 0.5) for row in rows)


@pytest.mark.parametrize(("settings", "told"), [({"gain_warmup": 0}, "gain_warmup is 0"), ({"gain_every": -1}, "gain_every is -1")])
def test_bad_settings_are_named(settings, told):
    with pytest.raises(ValueError, match=told):
        build_objective(ObjectiveConfig(**settings), tiny_model().config)
