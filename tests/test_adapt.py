"""A new speaker: what is heard, what is kept back, where its row starts and what moves."""
import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from training_data import BASE_VOICES, TARGET, TINY, corpus, tiny_model, tiny_optim

from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ModelConfig, ObjectiveConfig, PretrainConfig, TextConfig
from gradtts_robust.data.manifest import read_manifest, write_manifest
from gradtts_robust.model.gradtts import GradTTS
from gradtts_robust.training.adapt import adapt, prepare_adaptation, with_new_speaker
from gradtts_robust.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gradtts_robust.training.pretrain import pretrain

DIRT = CorruptionConfig(kind="foreign", fraction=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    write_manifest(folder / "base.csv", [u for u in read_manifest(corpus()) if u.speaker in BASE_VOICES])
    return pretrain(PretrainConfig(manifests=[str(folder / "base.csv")], out=str(folder / "base"), model=dict(TINY), iterations=2,
                                   optim=tiny_optim(), cache=str(corpus().parent / "features"), device="cpu"))


def settings(start, out, **changes) -> AdaptConfig:
    return dataclasses.replace(AdaptConfig(
        base=str(start), manifest=str(corpus()), speaker=TARGET, out=str(out), iterations=4, optim=tiny_optim(checkpoint_every=2),
        evaluation=EvaluationConfig(reference_utterances=2), cache=str(corpus().parent / "features"), device="cpu"), **changes)


def test_dirty_adaptation_from_start_to_end(base, tmp_path):
    seen = []
    config = settings(base, tmp_path / "run", corruption=DIRT, objective=ObjectiveConfig(penalty="pseudo_huber"))
    result = adapt(config, on_checkpoint=lambda folder, checkpoint: seen.append((folder.name, checkpoint.default_speaker)))
    assert seen == [("000000", TARGET), ("000002", TARGET), ("000004", TARGET)]
    assert [folder.name for folder in result.training.checkpoints] == ["000000", "000002", "000004"]
    with open(tmp_path / "run" / "corruption.csv", encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert sum(r["corrupted"] == "1" for r in records) == 2 and len(records) == 4
    assert all((r["true_speaker"] != TARGET) == (r["corrupted"] == "1") for r in records)
    heard, reference = (read_manifest(tmp_path / "run" / name) for name in ("train.csv", "reference.csv"))
    assert {u.speaker for u in [*heard, *reference]} == {TARGET}
    assert not {u.path for u in heard} & {u.path for u in reference} and all(TARGET in u.path for u in reference)
    start, end, old = (load_checkpoint(p) for p in (result.training.checkpoints[0], tmp_path / "run", base))
    assert end.speakers == [*old.speakers, TARGET] and end.embeddings.shape == (4, 256) and end.step == 4
    assert torch.equal(end.model.spk_emb.weight[:3], old.model.spk_emb.weight)
    assert not torch.equal(end.model.spk_emb.weight[3], start.model.spk_emb.weight[3])
    assert not torch.equal(end.model.encoder.emb.weight, old.model.encoder.emb.weight)


def test_the_row_starts_between_the_nearest_rows(base):
    old = load_checkpoint(base)
    heard = np.stack([old.embeddings[1].numpy()] * 3)
    model, start = with_new_speaker(old, "new", heard)
    similarity = old.embeddings @ old.embeddings[1]
    expected = (similarity / similarity.sum()) @ old.model.spk_emb.weight.detach()
    torch.testing.assert_close(model.spk_emb.weight[3], expected)
    torch.testing.assert_close(start.embeddings[3], old.embeddings[1])
    unknown = dataclasses.replace(old, embeddings=None)
    model, start = with_new_speaker(unknown, "new", None)
    torch.testing.assert_close(model.spk_emb.weight[3], old.model.spk_emb.weight.mean(dim=0))
    assert start.embeddings is None
    numbered = dataclasses.replace(unknown, speakers=["0", "1", "2"])
    assert with_new_speaker(numbered, "1", None)[1].speakers == ["row-0", "row-1", "row-2", "1"]


def test_the_reference_is_the_same_under_every_condition(base, tmp_path):
    prepared = [prepare_adaptation(settings(base, tmp_path / "run", **changes)) for changes in (
        {}, {"corruption": DIRT}, {"corruption": dataclasses.replace(DIRT, pick="nearest", mode="append")}, {"utterances": 2, "seed": 5})]
    own = sorted(u.id for u in read_manifest(corpus()) if u.speaker == TARGET)
    for one in prepared:
        assert [u.id for u in one.reference] == own[-2:]
        assert [f.id for f in one.features] == [u.id for u in one.utterances] and len(one.records) == len(one.features)
    assert [len(one.features) for one in prepared] == [4, 4, 8, 2]
    assert len({r["true_speaker"] for r in prepared[2].records if r["corrupted"]}) == 1, "the nearest speaker has enough to give"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("train", ["all", "decoder", "speaker"])
def test_what_is_trained_is_a_setting(base, tmp_path, train):
    result = adapt(settings(base, tmp_path / "run", train=train, iterations=2))
    old, new = load_checkpoint(base).model, load_checkpoint(tmp_path / "run").model
    same = {part: all(torch.equal(a, b) for a, b in zip(getattr(old, part).parameters(), getattr(new, part).parameters(), strict=True))
            for part in ("encoder", "decoder")}
    assert same == {"encoder": train != "all", "decoder": train == "speaker"}
    assert not torch.equal(new.spk_emb.weight[3], load_checkpoint(result.training.checkpoints[0]).model.spk_emb.weight[3])


def test_a_finished_run_is_not_done_again(base, tmp_path):
    config = settings(base, tmp_path / "run", iterations=2)
    adapt(config)
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    adapt(config)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    longer = adapt(dataclasses.replace(config, iterations=4))
    assert [f.name for f in longer.training.checkpoints] == ["000000", "000002", "000004"]
    with pytest.raises(ValueError, match=r"holds a run with objective\.penalty='l2', and now it is 'l1'"):
        adapt(dataclasses.replace(config, objective=ObjectiveConfig(penalty="l1")))


def test_a_single_speaker_base(base, tmp_path):
    single = save_checkpoint(tmp_path / "single.safetensors", Checkpoint(tiny_model(n_speakers=1), TextConfig(), ["lj"]))
    adapt(settings(single, tmp_path / "run", iterations=2))
    assert load_checkpoint(tmp_path / "run").speakers == [TARGET]
    with pytest.raises(ValueError, match="single speaker"):
        adapt(settings(single, tmp_path / "other", train="speaker"))
    original = tmp_path / "original.pt"
    with torch.random.fork_rng():
        torch.save(GradTTS(ModelConfig(n_speakers=3, decoder_dim=8)).state_dict(), original)
    assert prepare_adaptation(settings(original, tmp_path / "third")).start.text.frontend == "grad-tts"


@pytest.mark.parametrize(("changes", "named"), [
    ({"speaker": "nobody"}, "no speaker 'nobody'; it has Alex, Annie"), ({"manifest": ""}, "no manifest"),
    ({"manifest": "nowhere.csv"}, r"nowhere\.csv"), ({"base": "nowhere"}, "nowhere"),
    ({"utterances": 5}, "has 6 utterances, but 2 are kept"),
    ({"utterances": -1}, "utterances is -1"), ({"train": "vocoder"}, "train is 'vocoder'"),
    ({"speaker": "Alex"}, "already has a speaker 'Alex'"),
    ({"corruption": CorruptionConfig(kind="foreign", fraction=1.0)}, "fraction is 1"),
    ({"corruption": CorruptionConfig(kind="foreign", fraction=0.9, mode="append")}, "utterances of others"),
    ({"objective": ObjectiveConfig(penalty="cube")}, "cube"), ({"evaluation": EvaluationConfig(reference_utterances=0)}, "at least 1"),
    ({"iterations": 0}, "iterations is 0"),
])
def test_mistakes_leave_no_run_folder(base, tmp_path, changes, named):
    with pytest.raises((ValueError, FileNotFoundError), match=named) as caught:
        adapt(settings(base, tmp_path / "run", **changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_truncated_wave_is_named(base, tmp_path):
    utterances = [u for u in read_manifest(corpus()) if u.speaker == TARGET]
    cut = tmp_path / "cut.wav"
    content = Path(utterances[0].path).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    write_manifest(tmp_path / "manifest.csv", [dataclasses.replace(utterances[0], path=str(cut)), *utterances[1:]])
    with pytest.raises(ValueError, match=r"cut\.wav"):
        adapt(settings(base, tmp_path / "run", manifest=str(tmp_path / "manifest.csv")))
    assert not (tmp_path / "run").exists()


def test_calibrated_delta_is_measured_before_the_first_step_and_kept(base, tmp_path):
    objective = ObjectiveConfig(penalty="pseudo_huber", delta_schedule="calibrated", kappa=0.5)
    whole, parts = (settings(base, tmp_path / name, objective=objective) for name in ("whole", "parts"))
    adapt(whole)
    adapt(dataclasses.replace(parts, iterations=2))
    before = (tmp_path / "parts" / "delta.json").read_bytes()
    adapt(parts)
    assert before == (tmp_path / "parts" / "delta.json").read_bytes() == (tmp_path / "whole" / "delta.json").read_bytes()
    ends = [load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(one, other) for one, other in zip(ends[0].values(), ends[1].values(), strict=True))
