"""A loaded model speaks."""
import numpy as np
import pytest
import torch
from training_data import SPEAKERS, tiny_model

import gradtts_robust as gr
from gradtts_robust.config import TextConfig
from gradtts_robust.training.checkpoint import Checkpoint, save_checkpoint

TEXTS = ["Good morning.", "The quick brown fox jumps over the lazy dog."]


def saved(folder, **changes):
    model = tiny_model(n_speakers=changes.pop("n_speakers", 3))
    with torch.no_grad():
        model.encoder.proj_w.proj.bias.fill_(1.0)
    return save_checkpoint(folder / "model.safetensors", Checkpoint(model, **{"text": TextConfig(), "speakers": SPEAKERS, **changes}))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("voice"))


def silent(mel: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(mel), 256 * mel.shape[2])


def test_speech_fits_together(path):
    tts = gr.load(path, device="cpu")
    speech = tts.speak(TEXTS[0], speaker="ben", steps=2)
    frames = speech.mel.shape[1]
    assert speech.wave.dtype == np.float32 and speech.wave.shape == (256 * frames,) and speech.sample_rate == 22050
    assert speech.mel.shape[0] == 80 and int(speech.durations.sum()) == frames and np.isfinite(speech.wave).all() and speech.wave.any()
    assert tts.speakers == SPEAKERS and tts.text == TextConfig() and not tts.model.training
    assert torch.equal(speech.mel, gr.load(path, device="cpu").speak(TEXTS[0], speaker=1, steps=2).mel)
    tts.vocoder = silent
    assert not tts.speak(TEXTS[0], speaker="1", steps=2).wave.any()
    assert not torch.equal(speech.mel, tts.speak(TEXTS[0], speaker="ben", steps=2, seed=1).mel)
    other = tts.speak(TEXTS[0], speaker="cleo", steps=2)
    assert other.mel.shape != speech.mel.shape or not torch.allclose(other.mel, speech.mel)
    slower = tts.speak(TEXTS[0], speaker="ben", steps=2, length_scale=2.0)
    assert slower.mel.shape[1] > 1.5 * frames
    assert tts.speak(TEXTS[0], speaker="ben", steps=2, solver="sde").mel.shape == speech.mel.shape


def test_a_batch_cuts_every_text_to_its_length(path):
    tts = gr.load(path, device="cpu", vocoder=silent)
    together = tts.speak_batch(TEXTS, speaker="anna", steps=2)
    alone = [tts.speak(text, speaker="anna", steps=2) for text in TEXTS]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.durations, other.durations) and one.mel.shape == other.mel.shape
        assert len(one.wave) == 256 * one.mel.shape[1] == 256 * int(one.durations.sum())
    assert tts.speak_batch([]) == []


def test_who_speaks_where_nobody_is_named(path, tmp_path):
    tts = gr.load(path, device="cpu", vocoder=silent)
    with pytest.raises(ValueError, match="several speakers; say which: rows 0 to 2, names anna, ben, cleo"):
        tts.speak(TEXTS[0])
    for wrong in ("dora", 3, -1, "17"):
        with pytest.raises(ValueError, match="unknown speaker"):
            tts.speak(TEXTS[0], speaker=wrong)
    default = gr.load(saved(tmp_path, default_speaker="cleo"), device="cpu", vocoder=silent)
    assert torch.equal(default.speak(TEXTS[0], steps=1).mel, tts.speak(TEXTS[0], speaker="cleo", steps=1).mel)


def test_a_name_that_looks_like_a_number_is_a_name(tmp_path):
    tts = gr.load(saved(tmp_path, speakers=["7", "2", "0"]), device="cpu", vocoder=silent)
    assert [tts.speaker_row(name) for name in ("7", "2", "0", "1", 1)] == [0, 1, 2, 1, 1]


def test_a_single_speaker_needs_no_name(tmp_path):
    tts = gr.load(saved(tmp_path, n_speakers=1, speakers=["lj"]), device="cpu", vocoder=silent)
    mel = tts.speak(TEXTS[0], steps=1).mel
    assert torch.equal(mel, tts.speak(TEXTS[0], speaker="lj", steps=1).mel)
    with pytest.raises(ValueError, match="unknown speaker 'ben'"):
        tts.speak(TEXTS[0], speaker="ben")


@pytest.mark.parametrize("text", ["", "   ", "..."])
def test_nothing_to_say(path, text):
    with pytest.raises(ValueError, match=r"text|pronounce"):
        gr.load(path, device="cpu").speak(text, speaker=0)


def test_what_cannot_be_loaded(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gr.load(tmp_path / "nowhere")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        gr.load(cut)
    with pytest.raises(ValueError, match="tpu"):
        gr.load(path, device="tpu")
    with pytest.raises(ValueError, match="temperature is 0"):
        gr.load(path, device="cpu").speak(TEXTS[0], speaker=0, temperature=0)


def test_the_original_speaks(golden):
    checkpoints = sorted(golden.glob("*.pt"))
    if not checkpoints:
        pytest.skip("no checkpoint of the original among the golden values")
    tts = gr.load(checkpoints[0], device="cpu", vocoder=silent)
    speech = tts.speak("Good morning.", speaker=0 if tts.model.config.n_speakers > 1 else None, steps=1)
    assert torch.isfinite(speech.mel).all()
