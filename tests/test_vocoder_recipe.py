"""The vocoder's recipe: who is held out, what is learnt from, runs that go on where they were, and what is measured."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gradtts_robust.data.manifest import Utterance, write_manifest
from gradtts_robust.speech.audio import mel_spectrogram, save_wav

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "vocoder"
MODULES = ("train_vocoder", "ship", "vocoder_data", "vocoder_errors", "vocoder_pitch")


@pytest.fixture(scope="module")
def recipe():
    """The recipe's modules by name; its folder is on the path only while they are imported."""
    import importlib

    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


def tone(pitch, seconds=1.0, seed=0):
    generator = np.random.default_rng(seed)
    time = np.arange(int(22050 * seconds)) / 22050
    buzz = sum(np.cos(2 * np.pi * pitch * k * time) / k for k in range(1, 10))
    return (0.05 * buzz + 0.002 * generator.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Three readers by number and one embedded voice, a second each."""
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for row, speaker in enumerate(["7", "19", "200", "Alex"]):
        save_wav(folder / f"{speaker}.wav", tone(100 + 30 * row, seed=row))
        utterances.append(Utterance(path=str(folder / f"{speaker}.wav"), text="Tone.", speaker=speaker, id=speaker))
    write_manifest(folder / "manifest.csv", utterances)
    return folder / "manifest.csv"


def utterances(*speakers):
    return [Utterance(path="x.wav", text="X.", speaker=speaker, id=f"{speaker}-{row}") for row, speaker in enumerate(speakers)]


def test_the_highest_ids_are_held_out_by_number_and_no_embedded_voice(recipe):
    parts = recipe["vocoder_data"].split(utterances("9", "100", "Alex", "20", "100", "m5"), 2)
    assert {one.speaker for one in parts.held_out} == {"100", "20"} and len(parts.held_out) == 3
    assert {one.speaker for one in parts.train} == {"9", "Alex", "m5"}
    assert not recipe["vocoder_data"].split(utterances("9", "Alex"), 0).held_out
    assert len(recipe["vocoder_data"].split(utterances("9", "8", "007", "Alex"), 5).held_out) == 3
    with pytest.raises(ValueError, match="all 2 speakers are held out"):
        recipe["vocoder_data"].split(utterances("9", "8"), 5)


def test_a_pieces_mel_is_that_of_its_wave(recipe, manifest):
    pieces = recipe["vocoder_data"].Pieces(recipe["train_vocoder"].read_manifests([manifest]), frames=20)
    piece = pieces.draw(6, torch.Generator().manual_seed(3))
    assert piece.wave.shape == (6, 256 * 20) and piece.mel.shape == (6, 80, 20)
    inner = slice(2, -2)
    assert (mel_spectrogram(piece.wave)[:, :, inner] - piece.mel[:, :, inner]).abs().max() < 1e-3
    again = pieces.draw(6, torch.Generator().manual_seed(3))
    assert torch.equal(piece.wave, again.wave)
    with pytest.raises(ValueError, match="lower --frames from 200"):
        recipe["vocoder_data"].Pieces(recipe["train_vocoder"].read_manifests([manifest]), frames=200)


def test_errors_are_those_of_torch_and_nothing_between_equals(recipe):
    errors = recipe["vocoder_errors"]
    wave, other = (torch.from_numpy(tone(120, seed=seed))[None] for seed in (0, 1))
    assert errors.mel_error(wave, wave) == 0 and errors.stft_error(wave, wave) == 0
    total = 0
    for size in (512, 1024, 2048):
        made, wanted = (torch.stft(one, size, size // 4, window=torch.hann_window(size), return_complex=True).abs().clamp(min=1e-7**0.5)
                        for one in (other, wave))
        total += (made - wanted).norm() / wanted.norm() + (made.log() - wanted.log()).abs().mean()
    assert errors.stft_error(other, wave)[0] == pytest.approx(float(total) / 3, rel=1e-4)


@pytest.mark.parametrize("hertz", [80, 151, 290])
def test_pitch_is_found_and_noise_has_none(recipe, hertz):
    heard = recipe["vocoder_pitch"].pitch(torch.from_numpy(tone(hertz)))
    assert heard.voiced.all() and (heard.f0 / hertz - 1).abs().max() < 0.03 and heard.strength.min() > 0.9
    noise = recipe["vocoder_pitch"].pitch(0.1 * torch.randn(22050, generator=torch.Generator().manual_seed(0)))
    assert noise.voiced.float().mean() < 0.05
    octave = recipe["vocoder_pitch"].pitch(torch.from_numpy(tone(hertz * 1.3)))
    assert recipe["vocoder_pitch"].gross_errors(octave, heard) == 1 and recipe["vocoder_pitch"].gross_errors(heard, heard) == 0
    assert recipe["vocoder_pitch"].periodicity_lost(noise, heard) > 0.5


def train(recipe, manifest, out, *more):
    threads = torch.get_num_threads()
    try:
        recipe["train_vocoder"].main([str(manifest), "--out", str(out), "--batch", "2", "--frames", "12", "--held-out", "1",
                              "--checkpoint-every", "2", *more])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("learn", ["magnitude", "wave"])
def test_a_killed_run_ends_as_one_never_killed(recipe, tmp_path, manifest, learn):
    train(recipe, manifest, tmp_path / "whole", "--steps", "4", "--learn", learn)
    train(recipe, manifest, tmp_path / "parts", "--steps", "4", "--learn", learn, "--stop-at", "2")
    train(recipe, manifest, tmp_path / "parts", "--steps", "4", "--learn", learn)
    whole, parts = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 4
    for kind in ("generator", "average"):
        assert all(torch.equal(whole[kind][name], parts[kind][name]) for name in whole[kind])
    assert len((tmp_path / "whole" / "log.jsonl").read_text().splitlines()) == 2
    train(recipe, manifest, tmp_path / "next", "--steps", "0", "--init", str(tmp_path / "whole"))


def test_a_start_that_is_not_there_is_one_line(recipe, tmp_path, manifest, capsys):
    with pytest.raises(SystemExit) as left:
        train(recipe, manifest, tmp_path, "--init", str(tmp_path / "nothing"))
    said = capsys.readouterr().err
    assert left.value.code == 2 and "no such state" in said and len(said.splitlines()) == 1


def test_the_summary_pairs_the_vocoders(recipe):
    rows = [{"speaker": speaker, "vocoder": name, "similarity": value}
            for speaker, ours, theirs in (("a", 0.99, 0.97), ("b", 0.98, 0.97)) for name, value in (("ours", ours), ("theirs", theirs))]
    found = recipe["ship"].summary(rows, ["ours", "theirs"], ["similarity"])
    assert (found["speakers"], found["clips"]) == (2, 2)
    assert found["similarity"]["ours"][0] == 0.985 and found["similarity"]["difference"] == [0.015, 0.01, 0.02]
