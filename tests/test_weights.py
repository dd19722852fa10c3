"""Weights of the examples: who has the majority, what a minority gets, and that they reach the training and its resuming."""
import csv
import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from study_base import check_page, tiny_adaptation, tiny_base
from training_data import BASE_VOICES, SPEAKERS, TARGET, TINY, corpus, tiny_features, tiny_model, tiny_optim, train_settings

from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ObjectiveConfig, PretrainConfig
from gradtts_robust.data.corpora import CORPORA
from gradtts_robust.data.manifest import read_manifest, write_manifest
from gradtts_robust.losses import Objective
from gradtts_robust.study.experiment import run_adaptation
from gradtts_robust.training.adapt import adapt
from gradtts_robust.training.agreement import agreement
from gradtts_robust.training.loop import train
from gradtts_robust.training.loss import Loss, build_objective
from gradtts_robust.training.pretrain import pretrain
from gradtts_robust.training.speakers import embed_utterances
from gradtts_robust.training.weights import ExampleWeights, read_weights, weights_line, write_weights

DIMENSIONS = 256
WITHIN, BETWEEN = 0.87, 0.58  # cosines of two clips of one speaker and of two speakers, LibriSpeech test-other
few = settings(max_examples=30, deadline=None)


def voice(rng, count, common, centre=None):
    """Clips of one speaker: pairwise cosine about WITHIN, to other speakers about BETWEEN."""
    own = rng.standard_normal(DIMENSIONS) / DIMENSIONS ** 0.5 if centre is None else centre
    scatter = rng.standard_normal((count, DIMENSIONS)) / DIMENSIONS ** 0.5
    return BETWEEN ** 0.5 * common + (WITHIN - BETWEEN) ** 0.5 * own + (1 - WITHIN) ** 0.5 * scatter


def mixture(seed, own, foreign, speakers):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(DIMENSIONS)
    common /= np.linalg.norm(common)
    shares = [len(part) for part in np.array_split(np.arange(foreign), speakers)]
    return np.concatenate([voice(rng, count, common) for count in (own, *shares) if count])


@few
@given(seed=st.integers(0, 10**6), n=st.integers(7, 20), fraction=st.sampled_from([0.15, 0.3, 0.45]), single=st.booleans())
def test_a_minority_loses_however_it_is_made(seed, n, fraction, single):
    foreign = round(fraction * n)
    if 2 * foreign >= n:
        foreign -= 1
    found = agreement(mixture(seed, n - foreign, foreign, 1 if single else max(1, foreign)))
    assert found.weights.shape == found.distance.shape == found.excess.shape == (n,)
    assert (found.weights >= 0).all() and found.weights.max() == 1
    assert (found.weights[n - foreign:] < 0.05).all()
    assert (found.weights[: n - foreign] > 0.5).mean() >= 0.7 and found.weights[: n - foreign].mean() > 0.8


@few
@given(seed=st.integers(0, 10**6))
def test_a_tight_minority_does_not_win_over_a_wider_majority(seed):
    rng = np.random.default_rng(seed)
    clips = mixture(seed, 11, 9, 1)
    clips[11:] = clips[11] + 0.1 * rng.standard_normal((9, DIMENSIONS)) / DIMENSIONS ** 0.5
    weights = agreement(clips).weights
    assert (weights[11:] < 0.05).all() and weights[:11].mean() > 0.8


@few
@given(seed=st.integers(0, 10**6), direction=st.integers(0, DIMENSIONS - 1), sign=st.sampled_from([-1.0, 1.0]))
def test_a_minority_in_any_direction_gets_nothing(seed, direction, sign):
    clips = mixture(seed, 11, 0, 1)
    stray = np.zeros((9, DIMENSIONS))
    stray[:, direction] = sign
    weights = agreement(np.concatenate([clips, stray])).weights
    assert (weights[11:] == 0).all() and weights[:11].mean() > 0.8


@few
@given(seed=st.integers(0, 10**6), own=st.integers(4, 12), foreign=st.integers(0, 3), timed=st.booleans())
def test_order_and_length_of_the_embeddings_do_not_matter(seed, own, foreign, timed):
    rng = np.random.default_rng(seed)
    clips = mixture(seed, own, foreign, 1)
    order = rng.permutation(len(clips))
    seconds = rng.uniform(1.5, 9, len(clips)) if timed else None
    plain = agreement(clips, seconds).weights
    mixed = agreement(rng.uniform(0.1, 9, (len(clips), 1)) * clips[order], None if seconds is None else seconds[order]).weights
    np.testing.assert_allclose(mixed, plain[order], atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_clips_that_are_all_alike_weigh_the_same(n):
    found = agreement(np.tile(np.random.default_rng(0).standard_normal(DIMENSIONS), (n, 1)))
    np.testing.assert_array_equal(found.weights, 1)
    np.testing.assert_allclose(found.distance, 0, atol=1e-9)


def test_a_short_clip_may_lie_further_off():
    clips = mixture(1, 12, 0, 1)
    clips[0] += np.random.default_rng(5).standard_normal(DIMENSIONS) * 0.5 / DIMENSIONS ** 0.5
    long, short = np.full(12, 6.0), np.full(12, 6.0)
    short[0] = 1.5
    assert agreement(clips, long).weights[0] < 0.3 < 0.6 < agreement(clips, short).weights[0]


@pytest.mark.parametrize(("embeddings", "seconds", "named"), [
    (np.ones(4), None, r"shape \(4,\)"), (np.zeros((3, 8)), None, "utterance 0 has length 0"),
    (np.array([[1.0, 0], [np.nan, 1], [1, 1]]), None, "utterance 1 has length nan"),
    (np.ones((3, 2)), np.array([1.0, 0, 1]), "3 lengths above 0"), (np.ones((3, 2)), np.ones(2), "3 lengths above 0"),
])
def test_embeddings_that_cannot_be_used(embeddings, seconds, named):
    with pytest.raises(ValueError, match=named):
        agreement(embeddings, seconds)


def weights_of(features, values):
    values = np.asarray(values, dtype=np.float64)
    return ExampleWeights([f.id for f in features], values, {
        "voice": values, "distance": 1 - values, "excess": 0.5 - values, "seconds": np.ones(len(values))})


def test_weights_scale_every_term_and_keep_the_learning_rate():
    from gradtts_robust.data.dataset import collate

    features, model = tiny_features(4), tiny_model()
    weights = weights_of(features, [1, 1, 0, 0])
    np.testing.assert_allclose(weights.of([f.id for f in features]), [2, 2, 0, 0])
    batch = collate(features, {name: row for row, name in enumerate(SPEAKERS)})
    loss = Loss(model.eval(), Objective(), tiny_optim(), None)
    plain, weighted = (loss(batch, torch.Generator().manual_seed(0), w) for w in (None, weights.of(batch.keys)))
    each = model.training_terms(batch, objective=Objective(), segment_frames=16, generator=torch.Generator().manual_seed(0))
    for name, value in weighted.items():
        torch.testing.assert_close(value, each[name][:2].mean())
        assert not torch.isclose(value, plain[name])


def test_an_utterance_without_weight_teaches_nothing(tmp_path):
    features = tiny_features(6)
    trained = []
    for number, strange in enumerate((0.0, 5.0)):
        changed = [dataclasses.replace(f, mel=f.mel + strange) if i == 2 else f for i, f in enumerate(features)]
        model = tiny_model()
        train(model, changed, {name: row for row, name in enumerate(SPEAKERS)}, objective=Objective(), out=tmp_path / str(number),
              optim=tiny_optim(), weights=weights_of(features, [1, 1, 0, 1, 1, 1]), **train_settings(iterations=4))
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_manifest(folder / "base.csv", [u for u in read_manifest(corpus()) if u.speaker in BASE_VOICES])
    return pretrain(PretrainConfig(manifests=[str(folder / "base.csv")], out=str(folder / "base"), model=dict(TINY), iterations=2,
                                   optim=tiny_optim(), cache=str(corpus().parent / "features"), device="cpu"))


def run_settings(base, out, **changes) -> AdaptConfig:
    return dataclasses.replace(AdaptConfig(
        base=str(base), manifest=str(corpus()), speaker=TARGET, out=str(out), iterations=4, optim=tiny_optim(checkpoint_every=2),
        objective=ObjectiveConfig(example_weights="agreement"), evaluation=EvaluationConfig(reference_utterances=1),
        corruption=CorruptionConfig(kind="foreign", fraction=0.4, speakers=1), cache=str(corpus().parent / "features"), device="cpu"),
        **changes)


def test_a_weighted_run_says_whom_it_distrusted_and_resumes_bit_equal(base, tmp_path):
    whole = adapt(run_settings(base, tmp_path / "whole"))
    rows = read_weights(tmp_path / "whole" / "weights.csv")
    assert [row["id"] for row in rows] == [u.id for u in whole.prepared.utterances]
    assert all((row["weight"] < 0.5) == (row["corrupted"] == "1") == bool(row["reason"]) for row in rows)
    assert weights_line(rows) == "weights: 2 of 5 clips got a weight below 0.5; of the 2 dirty ones 2"
    adapt(run_settings(base, tmp_path / "cut", iterations=2))
    adapt(run_settings(base, tmp_path / "cut"))
    files = [tmp_path / name / "checkpoints" / "000004" / "model.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    target = whole.prepared.start.embeddings[-1].numpy()
    clean = adapt(run_settings(base, tmp_path / "clean", corruption=CorruptionConfig(), iterations=1)).prepared.start.embeddings[-1].numpy()
    assert target @ clean > 0.97, "the foreign clips do not move the start of the speaker's row"


def test_the_report_and_the_terminal_say_whom_a_run_distrusted(tmp_path):
    config = tiny_adaptation(tiny_base(tmp_path / "base.safetensors"), corpus(), tmp_path / "run", **{
        "speaker": TARGET, "utterances": 5, "iterations": 2, "cache": str(corpus().parent / "features"),
        "corruption": CorruptionConfig(kind="foreign", fraction=0.4, speakers=1), "objective": ObjectiveConfig(example_weights="agreement"),
        "evaluation": EvaluationConfig(sentences="1", reference_utterances=1, steps=2)})
    summary = run_adaptation(config)
    assert summary.text.splitlines()[-1] == "weights: 2 of 5 clips got a weight below 0.5; of the 2 dirty ones 2"
    assert set(summary.table["condition"]) == {"dirty-l2-agreement"}
    text = " ".join(check_page(summary.report).text.split())
    assert "dirty-l2-agreement: clips distrusted, 2 of 5" in text and text.count("another voice: ") == 2


def test_the_table_of_weights(tmp_path):
    features = tiny_features(3)
    write_weights(tmp_path / "weights.csv", weights_of(features, [1, 0.2, 0.7]), [])
    with open(tmp_path / "weights.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["weight"] for row in rows] == ["1", "0.2", "0.7"] and {row["corrupted"] for row in rows} == {""}
    assert "another voice: 0.80" in rows[1]["reason"] and not rows[0]["reason"]
    line = "weights: 1 of 3 clips got a weight below 0.5"
    assert weights_line(read_weights(tmp_path / "weights.csv")).startswith(line)
    assert read_weights(tmp_path / "nowhere.csv") == []
    (tmp_path / "weights.csv").write_text("id,weight\na,none\n")
    with pytest.raises(ValueError, match=r"weights\.csv: not a table of weights"):
        read_weights(tmp_path / "weights.csv")


@pytest.mark.parametrize(("own", "foreign", "warned"), [(12, 0, False), (7, 5, False), (1, 11, True)])
def test_clips_that_share_no_voice_are_told(tmp_path, own, foreign, warned):
    found, seconds = agreement(mixture(3, own, foreign, max(1, foreign)), np.full(12, 6.0)), np.full(12, 6.0)
    weights = ExampleWeights([str(i) for i in range(12)], found.weights, {
        "voice": found.weights, "distance": found.distance, "excess": found.excess, "seconds": seconds})
    write_weights(tmp_path / "weights.csv", weights, [])
    assert ("share no voice" in weights_line(read_weights(tmp_path / "weights.csv"))) == warned


@pytest.mark.parametrize("foreign", [1, 3])
def test_real_voices(librispeech, foreign):
    utterances = CORPORA["librispeech"](librispeech, subset="test-other")
    first, second = sorted({u.speaker for u in utterances})[:2]
    chosen = [[u for u in utterances if u.speaker == name][:count] for name, count in ((first, 7 - foreign), (second, foreign))]
    together = [u for part in chosen for u in part]
    weights = agreement(embed_utterances(together, None), np.array([soundfile.info(u.path).duration for u in together])).weights
    assert (weights[7 - foreign:] < 0.05).all() and (weights[: 7 - foreign] > 0.5).sum() >= 6 - foreign


def test_unknown_kinds_and_pretraining_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"example_weights is 'magic'; choose one of none, agreement, gain, both, joint, em"):
        build_objective(ObjectiveConfig(example_weights="magic"), tiny_model().config)
    with pytest.raises(ValueError, match="weighs one target's utterances"):
        pretrain(PretrainConfig(manifests=["x.csv"], out=str(tmp_path / "run"), objective=ObjectiveConfig(example_weights="agreement")))
