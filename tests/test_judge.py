"""The small ECAPA judge: its file, what it hears, the shipped one, and a tiny training that is killed and goes on."""
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gradtts_robust import cli, files
from gradtts_robust.data.manifest import Utterance, read_manifest
from gradtts_robust.speech.audio import save_wav
from gradtts_robust.speech.ecapa_small import EcapaSmall, EcapaSmallConfig, load_judge, save_judge, shipped_judge
from gradtts_robust.speech.speaker import centroid, similarity, speaker_encoder
from gradtts_robust.study.encoder_calibration import calibrate_encoder
from gradtts_robust.study.metrics import embed_files

RATE = 16000
TINY = EcapaSmallConfig(n_mels=16, channels=16, attention=8, dim=12)
FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "judge"


def voice(seconds=2.0, pitch=120.0, seed=0):
    """A buzz with a little noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(pitch * (1 + 0.05 * np.sin(2 * np.pi * 3 * time))) / RATE
    buzz = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 12))
    return (0.1 * buzz + 0.003 * np.random.default_rng(seed).normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = EcapaSmall(TINY).eval()
    return save_judge(tmp_path_factory.mktemp("judge") / "own-judge.safetensors", judge), judge


@pytest.fixture(scope="module")
def shipped():
    return speaker_encoder("ecapa")


def test_a_file_gives_the_network_back(tiny):
    path, judge = tiny
    again = load_judge(path)
    assert again.config == TINY and not again.training and not any(weight.requires_grad for weight in again.parameters())
    for name, value in judge.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float() if value.is_floating_point() else value)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@torch.no_grad()
def test_loudness_and_fixed_filters_hardly_change_what_is_heard(tiny):
    wave, judge = torch.from_numpy(voice())[None], tiny[1]
    features = judge.features(wave)
    assert features.shape == (1, len(wave[0]) // TINY.hop + 1, TINY.n_mels) and features.mean(dim=1).abs().max() < 1e-4
    assert (judge.features(0.01 * wave) - features).abs().max() < 1e-3
    bright = wave - 0.5 * torch.nn.functional.pad(wave, (1, 0))[:, :-1]
    assert (judge.features(bright) - features)[:, 2:-2].abs().mean() < 0.15 * features.abs().mean()
    assert (judge(features).norm(dim=1) - 1).abs().max() < 1e-5


def test_a_users_own_judge(tiny, tmp_path):
    encoder = speaker_encoder("ecapa", source=tiny[0])
    waves = [voice(1.0), voice(2.3, pitch=210.0), voice(0.06)]
    rows = encoder.embed(waves, sample_rate=RATE)
    assert encoder.name == "own-judge" and encoder.dim == 12 and rows.shape == (3, 12) and rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    for wave, row in zip(waves, rows, strict=True):
        assert np.array_equal(encoder.embed([wave], sample_rate=RATE)[0], row)
    with pytest.raises(ValueError, match=r"b\.wav.*silent"):
        encoder.embed([np.zeros(RATE)], sample_rate=RATE, names=["b.wav"])


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda path: path.unlink(), FileNotFoundError, "no such file"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), ValueError, "cut off"),
    (lambda path: save_file(load_file(path), path), ValueError, "format is None"),
    (lambda path: save_file({}, path, metadata={"format": "gradtts-robust ecapa 1", "config": "{}"}), ValueError, "Missing key|Error"),
    (lambda path: save_file({}, path, metadata={"format": "gradtts-robust ecapa 1", "config": '{"ears": 2}'}), ValueError, "ears"),
])
def test_bad_files_are_named_in_one_line(tiny, tmp_path, spoil, error, message):
    path = tmp_path / "judge.safetensors"
    path.write_bytes(tiny[0].read_bytes())
    spoil(path)
    with pytest.raises(error, match=message) as caught:
        speaker_encoder("ecapa", source=str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_shipped_judge_is_checked_at_every_load(tmp_path, monkeypatch):
    assert shipped_judge().stat().st_size < 8e6
    for suffix in ("safetensors", "json"):
        (tmp_path / f"ecapa-small.{suffix}").write_bytes(shipped_judge().with_suffix(f".{suffix}").read_bytes())
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    assert shipped_judge().parent == tmp_path
    with open(tmp_path / "ecapa-small.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x99")
    with pytest.raises(ValueError, match="damaged"):
        speaker_encoder("ecapa")
    (tmp_path / "ecapa-small.json").unlink()
    with pytest.raises(FileNotFoundError, match="speechbrain/spkrec-ecapa-voxceleb"):
        speaker_encoder("ecapa")


def test_the_default_needs_no_network_and_says_which_it_is(shipped, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    encoder = speaker_encoder("ecapa")
    assert encoder.name == "ecapa-small" and encoder.dim == shipped.dim
    assert np.array_equal(encoder.embed([voice()], sample_rate=RATE), shipped.embed([voice()], sample_rate=RATE))


def test_trimming_is_a_choice(shipped):
    pauses = np.concatenate([voice(1.0), 1e-4 * np.ones(3 * RATE, dtype=np.float32), voice(1.0, seed=1)])
    whole, trimmed = (speaker_encoder("ecapa", trim=trim).embed([pauses], sample_rate=RATE) for trim in (None, True))
    assert np.array_equal(whole, shipped.embed([pauses], sample_rate=RATE)) and not np.allclose(whole, trimmed)


def test_its_card_says_what_it_does_on_unheard_speakers(shipped, librispeech, tmp_path):
    assert cli.main(["corpus", "librispeech", "--root", str(librispeech), "--subset", "test-other", "--out", str(tmp_path / "m.csv")]) == 0
    found = calibrate_encoder(shipped, read_manifest(tmp_path / "m.csv"), samples=20)
    told = json.loads(shipped_judge().with_suffix(".json").read_text(encoding="utf-8"))["scores"]["ecapa-small"]["test, natural"]
    assert (found.speakers, found.clips) == (told["speakers"], told["clips"]) == (6, told["clips"])
    assert found.error.mean == pytest.approx(told["error"][0], abs=0.003) and found.threshold == pytest.approx(told["threshold"], abs=0.01)
    assert found.within.mean == pytest.approx(told["within"][0], abs=0.005)


def test_similarity_on_the_command_line(shipped, librispeech, tmp_path, capsys):
    files = sorted((librispeech / "test-other" / "533").rglob("*.flac"))
    assert cli.main(["similarity", str(files[0]), "--reference", *map(str, files[1:4]), "--encoder", "ecapa"]) == 0
    said = capsys.readouterr().out
    rows = embed_files(shipped, files[:4])
    assert f"{similarity(rows[:1], centroid(rows[1:]))[0]:.3f}" in said


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(FOLDER))
    try:
        import augment
        import prepare
        import train_judge
        train_judge.augment_module, train_judge.prepare_module = augment, prepare
        yield train_judge
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def sounds(recipe, tmp_path_factory):
    """Six speakers of 6 s, prepared from a manifest."""
    folder = tmp_path_factory.mktemp("sounds")
    lines = ["path,text,speaker"]
    for number in range(6):
        save_wav(folder / f"{number}.wav", voice(6.0, pitch=80 + 30 * number), RATE)
        lines.append(f"{number}.wav,words,{100 + number}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.savez(folder / "waves.npz", **recipe.prepare_module.gather([folder / "m.csv"]))
    return recipe.read_sounds(folder / "waves.npz", hold_out=2)


def test_as_many_speakers_are_scored_as_were_held_out(monkeypatch):
    for name in ("ship", "calibrate"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    import ship

    heard = [Utterance("x.wav", "X.", speaker) for speaker in ("100", "20", "Alex", "3", "100")]
    for count, names in ((0, set()), (2, {"100", "20"}), (5, {"100", "20", "3"})):
        assert {u.speaker for u in ship.held_out(heard, count)} == names
    for name in ("ship", "calibrate"):
        del sys.modules[name]


def test_prepared_sounds(recipe, sounds, tmp_path):
    assert sorted(sounds.speakers) == [str(100 + number) for number in range(6)] and sounds.held_out == ["104", "105"]
    for natural, again in sounds.speakers.values():
        assert len(natural) == 6 * RATE and abs(len(again) - len(natural)) < 400 and natural.dtype == again.dtype == np.int16
        assert np.abs(recipe.crop(again, 0, RATE)).max() > 0.2 and len(recipe.crop(natural, 6 * RATE - 5, RATE)) == 5
    with pytest.raises(FileNotFoundError, match=r"prepare\.py makes it"):
        recipe.read_sounds(tmp_path / "none.npz", hold_out=2)


def test_augmentation_is_seeded_finite_and_leaves_the_voice_audible(recipe):
    waves = torch.from_numpy(np.stack([voice(1.5, pitch=pitch) for pitch in (90, 130, 170, 240)]))
    module, everything = recipe.augment_module, {}
    first, second = (module.augment(waves, module.Augmentation(), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second) and torch.isfinite(first).all() and first.shape == waves.shape
    assert torch.allclose(first.square().mean(dim=1), torch.ones(4), atol=1e-3)
    never = module.Augmentation().milder(0.0)
    plain = module.augment(waves, never, torch.Generator().manual_seed(1))
    unit = waves / waves.square().mean(dim=1, keepdim=True).sqrt()
    assert torch.allclose(plain, unit, atol=1e-3)
    for name in ("filter", "room", "noise", "babble", "band", "clip", "mu_law"):
        changed = module.augment(waves, replace(never, **{name: 1.0}), torch.Generator().manual_seed(1))
        everything[name] = torch.nn.functional.cosine_similarity(changed, unit)
    assert all(0.3 < kept.min() and kept.max() < 0.99999 for kept in everything.values()), everything
    snr = 10 * torch.log10(1 / (1 / everything["noise"] ** 2 - 1))
    assert snr.min() > 4 and snr.max() < 31


def test_masks(recipe):
    module = recipe.augment_module
    features = torch.ones(64, 60, 30)
    masked = module.mask_features(features, module.Augmentation(mask=1.0), torch.Generator().manual_seed(0))
    assert ((masked == 0) | (masked == 1)).all() and 0.75 < masked.mean() < 0.95
    none = module.Augmentation(mask=1.0).milder(0.0)
    assert none.mask == none.noise == 0 and none.noise_snr == module.Augmentation().noise_snr
    assert torch.equal(module.mask_features(features, none, torch.Generator().manual_seed(0)), features)


def test_a_training_that_is_killed_goes_on_to_the_same_weights(recipe, sounds, tmp_path):
    plan = recipe.Plan(steps=4, voices=3, seconds=(0.6, 0.8), warmup=2, margin_warmup=2, every=2, hold_out=2, whiten_batches=8)
    quiet = recipe.Augmentation()
    recipe.train(sounds, plan, TINY, quiet, tmp_path / "whole")

    def die(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        learn = recipe.learn
        patch.setattr(recipe, "learn", lambda state, *rest: die() if state.step == 3 else learn(state, *rest))
        recipe.train(sounds, plan, TINY, quiet, tmp_path / "killed")
    recipe.train(sounds, plan, TINY, quiet, tmp_path / "killed")
    whole, killed = (load_file(tmp_path / name / recipe.WEIGHTS) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "killed" / recipe.LOG).read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4] and all(0 <= entry["natural"] <= 1 for entry in log)
    with pytest.raises(SystemExit, match="other speakers or speeds"):
        recipe.train(sounds, replace(plan, speeds=(1.0,)), TINY, quiet, tmp_path / "killed")


@torch.no_grad()
def test_whitening_makes_one_voices_crops_differ_alike_in_every_direction(recipe, sounds):
    config = replace(TINY, dim=4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        judge = EcapaSmall(config).eval()
    plan, never = recipe.Plan(voices=6, seconds=(0.6, 0.6), speeds=(1.0,), whiten_batches=30, shrink=0.0), recipe.Augmentation().milder(0.3)

    def spread():
        """Eigenvalues of the covariance of differences, on other crops than the whitening's."""
        generator, pairs = torch.Generator().manual_seed(9), []
        for _ in range(30):
            waves, _ = recipe.draw_batch(sounds, list(sounds.speakers), plan, generator)
            pairs.append(judge.network(judge.features(recipe.augment(waves, never, generator))).squeeze(1).view(2, -1, 4))
        first, second = torch.cat(pairs, dim=1)
        return torch.linalg.eigvalsh(torch.cov((first - second).T))

    before = spread()
    recipe.whiten(judge, sounds, list(sounds.speakers), plan, never)
    after = spread()
    assert before[-1] / before[0] > 5 and after[-1] / after[0] < 4 and after.sum() == pytest.approx(2 * 4, rel=0.5)


def test_training_tells_its_speakers_apart(recipe, sounds, tmp_path):
    plan = recipe.Plan(steps=40, voices=5, seconds=(0.5, 0.5), speeds=(1.0,), warmup=5, margin_warmup=20, every=40, hold_out=0,
                       again=0.0, whiten_batches=30)
    everyone = replace(sounds, held_out=[])
    judge = recipe.train(everyone, plan, TINY, recipe.Augmentation(noise_snr=(20.0, 30.0), babble=0.0, room=0.0), tmp_path)
    rates = recipe.validate(judge, replace(sounds, held_out=list(sounds.speakers)), seconds=1.0)
    assert rates["natural"] < 0.15
