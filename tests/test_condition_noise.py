"""Wrong conditions in pretraining data: how many, which, and that everything is written down."""
import csv
import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import BASE_VOICES, TINY, corpus, tiny_optim

from gradtts_robust.config import ConditionNoiseConfig, PretrainConfig
from gradtts_robust.data.condition_noise import corrupt_conditions
from gradtts_robust.data.manifest import Utterance, read_manifest, write_manifest
from gradtts_robust.training.pretrain import pretrain

# speakers lie on a circle, so that the two neighbours of each are its nearest
NAMES = "abcdef"
EMBEDDINGS = {name: np.array([np.cos(i * np.pi / 3), np.sin(i * np.pi / 3)]) for i, name in enumerate(NAMES)}
KINDS = ("symmetric", "asymmetric", "transcripts")


def utterances(each=(40, 40, 40, 40, 40, 200)) -> list[Utterance]:
    return [Utterance(f"/{name}{i}.wav", f"text {name} {i}", name, f"{name}-{i}", phonemes="HH AH0", ends="0.1 0.2")
            for name, count in zip(NAMES, each) for i in range(count)]


def corrupted(kind, eta, *, seed=0, data=None, **changes):
    return corrupt_conditions(data or utterances(), ConditionNoiseConfig(kind, eta, seed=seed, **changes), embeddings=EMBEDDINGS)


@pytest.mark.parametrize("kind", KINDS)
@given(eta=st.sampled_from([0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.6]), seed=st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_share_and_records(kind, eta, seed):
    before, result = utterances(), corrupted(kind, eta, seed=seed)
    assert [u.id for u in result.utterances] == [u.id for u in before] == [r["id"] for r in result.records]
    changed = [(old, new, r) for old, new, r in zip(before, result.utterances, result.records) if new != old]
    assert len(changed) == (2 * round(eta * 400 / 2) if kind == "transcripts" else round(eta * 400))
    assert [r["id"] for r in result.records if r["corrupted"]] == [old.id for old, _, _ in changed]
    for old, new, record in changed:
        assert record["kind"] == kind and record["true_speaker"] == old.speaker and record["speaker"] == new.speaker
        if kind == "transcripts":
            source = next(u for u in before if u.id == record["text_of"])
            assert new == dataclasses.replace(old, text=source.text, phonemes="", ends="") and old.text != new.text
            assert next(r for r in result.records if r["id"] == source.id)["text_of"] == old.id, "swapped in pairs"
        else:
            assert new.speaker != old.speaker and new.extra["true_speaker"] == old.speaker
            assert dataclasses.replace(new, speaker=old.speaker, extra={}) == old


def test_symmetric_labels_follow_the_prior_and_asymmetric_ones_similarity():
    pairs = {kind: [(r["true_speaker"], r["speaker"]) for r in corrupted(kind, 0.9, similar=2).records if r["corrupted"]]
             for kind in ("symmetric", "asymmetric")}
    labels = Counter(label for true, label in pairs["symmetric"] if true != "f")
    assert labels["f"] / labels.total() == pytest.approx(200 / 360, abs=0.12)
    assert {label for true, label in pairs["symmetric"] if true == "f"} == set("abcde")
    ring = {(a, b) for a, b in zip(NAMES, NAMES[1:] + NAMES[0])}
    assert set(pairs["asymmetric"]) == ring | {(b, a) for a, b in ring}


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_nested_and_blind_to_order(kind):
    data = utterances()
    one = corrupted(kind, 0.1).utterances
    assert corrupted(kind, 0.1).utterances == one != corrupted(kind, 0.1, seed=1).utterances
    assert sorted(corrupted(kind, 0.1, data=data[::-1]).utterances, key=lambda u: u.id) == sorted(one, key=lambda u: u.id)
    more = corrupted(kind, 0.2).utterances
    assert all(new == large for old, new, large in zip(data, one, more) if new != old)
    assert corrupt_conditions(data, ConditionNoiseConfig()).utterances == data


@pytest.mark.parametrize(("kind", "eta", "changes", "named"), [
    ("swap", 0.1, {}, "choose one of none, symmetric, asymmetric, transcripts"), ("symmetric", 1.0, {}, r"eta is 1; it must be in \[0"),
    ("none", 0.1, {}, "corruption.kind is none"), ("asymmetric", 0.1, {"similar": 0}, "similar is 0"),
    ("symmetric", 0.1, {"data": utterances((20,))}, "at least two speakers"),
    ("transcripts", 0.9, {"data": [dataclasses.replace(u, text="same") for u in utterances()]}, "only 0 pairs differ"),
    ("transcripts", 0.1, {"data": utterances((2,)) * 2}, "stands 2 times"),
])
def test_mistakes(kind, eta, changes, named):
    with pytest.raises(ValueError, match=named) as caught:
        corrupted(kind, eta, **changes)
    assert "\n" not in str(caught.value)


def test_a_base_of_wrong_labels(tmp_path):
    write_manifest(tmp_path / "base.csv", [u for u in read_manifest(corpus()) if u.speaker in BASE_VOICES])
    out = pretrain(PretrainConfig(manifests=[str(tmp_path / "base.csv")], out=str(tmp_path / "run"), model=dict(TINY), iterations=1,
                                  corruption=ConditionNoiseConfig("asymmetric", 0.2, similar=1), device="cpu",
                                  optim=tiny_optim(checkpoint_every=1), cache=str(corpus().parent / "features")))
    with open(out / "corruption.csv", encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 18 and sum(r["corrupted"] == "1" for r in records) == 4
    assert all((r["speaker"] != r["true_speaker"]) == (r["corrupted"] == "1") for r in records)
    with pytest.raises(ValueError, match="packed features cannot be given wrong conditions"):
        pretrain(PretrainConfig(manifests=["x.safetensors"], corruption=ConditionNoiseConfig("symmetric", 0.1), device="cpu"))
