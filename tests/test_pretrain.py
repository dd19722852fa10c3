"""Pretraining from manifests and from packed features."""
import dataclasses
import json

import numpy as np
import pytest
import torch
from training_data import BASE_VOICES, TARGET, TINY, corpus, tiny_optim

from gradtts_robust.config import PretrainConfig, TextConfig
from gradtts_robust.data.manifest import read_manifest, write_manifest
from gradtts_robust.speech.text import SYMBOLS
from gradtts_robust.training.adapt import with_new_speaker
from gradtts_robust.training.checkpoint import load_checkpoint
from gradtts_robust.training.pretrain import mel_statistics, pack, pretrain, read_corpus, speakers_path


def settings(out, **changes) -> PretrainConfig:
    base = PretrainConfig(manifests=[str(corpus())], out=str(out), model=dict(TINY), iterations=2, device="cpu",
                          optim=tiny_optim(checkpoint_every=2, warmup=2, decay=True, ema=0.9), cache=str(corpus().parent / "features"))
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pretrain(settings(tmp_path_factory.mktemp("pretrain") / "base"))


def test_a_base_knows_its_speakers_and_its_mels(base):
    checkpoint = load_checkpoint(base)
    assert checkpoint.speakers == sorted([*BASE_VOICES, TARGET]) and checkpoint.step == 2 and checkpoint.default_speaker is None
    assert checkpoint.embeddings.shape == (4, 256)
    torch.testing.assert_close(checkpoint.embeddings.norm(dim=1), torch.ones(4))
    similar = checkpoint.embeddings @ checkpoint.embeddings.T
    assert similar.fill_diagonal_(0).max() < 0.95, "every speaker has an embedding of its own"
    features = read_corpus(settings(base)).features
    values = np.concatenate([f.mel.double().numpy().ravel() for f in features])
    config = checkpoint.model.config
    assert (config.mel_mean, config.mel_std) == (pytest.approx(values.mean(), abs=1e-3), pytest.approx(values.std(), abs=1e-3))
    assert mel_statistics(features) == (config.mel_mean, config.mel_std)
    assert {"config.yaml", "environment.json", "metrics.csv", "log.jsonl", "checkpoints"} <= {path.name for path in base.iterdir()}
    assert json.loads((base / "environment.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]


def test_packed_features_train_the_same_base(base, tmp_path):
    config = settings(tmp_path / "packed")
    packed = pack(config.manifests, tmp_path / "features.safetensors", text=TextConfig(), cache=config.cache)
    assert speakers_path(packed).exists()
    said = []
    again = pretrain(dataclasses.replace(config, manifests=[str(packed)], cache=str(tmp_path / "unused")),
                     progress=lambda stage, done, total, detail="": said.append((stage, done, total)))
    one, other = load_checkpoint(base), load_checkpoint(again)
    assert one.speakers == other.speakers and torch.equal(one.embeddings, other.embeddings)
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True))
    assert said == [("pretrain", 1, 2), ("pretrain", 2, 2)] and not (tmp_path / "unused").exists()


def test_settings_of_the_model_win_over_what_is_measured(tmp_path):
    out = pretrain(settings(tmp_path / "run", model={**TINY, "mel_mean": -4.0, "speaker_dim": 4}, iterations=1))
    config = load_checkpoint(out).model.config
    assert config.mel_mean == -4.0 and config.speaker_dim == 4 and config.mel_std != 2.0


def test_a_folder_holds_one_run(base):
    with pytest.raises(ValueError, match=r"holds a run with optim\.batch_size=2, and now it is 3"):
        pretrain(settings(base, optim=tiny_optim(checkpoint_every=2, warmup=2, decay=True, ema=0.9, batch_size=3)))
    with pytest.raises(ValueError, match="iterations=2, and now it is 3"):
        pretrain(settings(base, iterations=3))
    before = (base / "metrics.csv").read_bytes()
    assert pretrain(settings(base)) == base and (base / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(("changes", "named"), [
    ({"manifests": []}, "no manifest"), ({"preset": "huge"}, "preset is 'huge'"), ({"model": {"width": 3}}, "unknown setting 'width'"),
    ({"iterations": 0}, "iterations is 0"), ({"manifests": ["nowhere.csv"]}, r"nowhere\.csv"),
    ({"manifests": ["nowhere.safetensors"]}, r"nowhere\.safetensors"), ({"keep_alignments": True}, "--init"), ({"device": "tpu"}, "device"),
])
def test_mistakes_leave_no_run_folder(tmp_path, changes, named):
    with pytest.raises((ValueError, FileNotFoundError), match=named) as caught:
        pretrain(settings(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_missing_wave_is_named_before_anything_is_written(tmp_path):
    utterances = read_manifest(corpus())
    broken = dataclasses.replace(utterances[3], path=str(tmp_path / "gone.wav"))
    write_manifest(tmp_path / "manifest.csv", [*utterances[:3], broken])
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        pretrain(settings(tmp_path / "run", manifests=[str(tmp_path / "manifest.csv")]))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_learnt_is_left_out_and_named(tmp_path):
    utterances = [dataclasses.replace(u, phonemes="", ends="") for u in read_manifest(corpus())[:3]]
    hopeless = dataclasses.replace(utterances[2], text=" ".join([utterances[2].text] * 40))
    write_manifest(tmp_path / "manifest.csv", [*utterances[:2], hopeless])
    out = pretrain(settings(tmp_path / "run", manifests=[str(tmp_path / "manifest.csv")], iterations=1))
    assert hopeless.id in (out / "skipped.csv").read_text() and utterances[0].id not in (out / "skipped.csv").read_text()
    checkpoint = load_checkpoint(out)
    assert checkpoint.model.config.n_speakers == 1 and checkpoint.speakers == [utterances[0].speaker]


def test_a_base_conditioned_on_embeddings_gives_an_unheard_voice_its_projection(base, tmp_path):
    """Started from a table's run; the new speaker's row is the projection of what is heard, and packed data must know the embeddings."""
    changes = {"model": {**TINY, "speaker_conditioning": "embedding"}, "init": str(base)}
    out = pretrain(settings(tmp_path / "run", **changes))
    trained, table = load_checkpoint(out), load_checkpoint(base)
    assert trained.model.config.speaker_conditioning == "embedding"
    torch.testing.assert_close(trained.model.spk_emb.embeddings, table.embeddings)
    heard = table.embeddings[1:3].numpy()
    target = torch.nn.functional.normalize(torch.from_numpy(heard.mean(0)), dim=0)
    model, start = with_new_speaker(trained, "new", heard)
    torch.testing.assert_close(model.spk_emb.weight[4], trained.model.spk_emb.row(target))
    torch.testing.assert_close(start.embeddings[4], target)
    packed = pack([str(corpus())], tmp_path / "features.safetensors", text=TextConfig(), cache=settings(out).cache)
    speakers_path(packed).unlink()
    with pytest.raises(ValueError, match="pack the manifests again"):
        pretrain(settings(tmp_path / "other", manifests=[str(packed)], **changes))


def test_an_init_keeps_its_shape(base, tmp_path):
    with pytest.raises(ValueError, match=r"model\.speaker_dim is 4, but .* was trained with 8; leave it out"):
        pretrain(settings(tmp_path / "run", init=str(base), model={**TINY, "speaker_dim": 4}))
    assert load_checkpoint(base).model.config.pause_symbol == SYMBOLS.index(" ")
