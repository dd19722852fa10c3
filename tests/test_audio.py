import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gradtts_robust.speech import audio


def tone(seconds=1.0, rate=22050, hertz=220.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_mel_equals_the_originals(golden):
    values = load_file(golden / "audio_io.safetensors")
    assert (audio.mel_spectrogram(values["wave"]) - values["mel"]).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [
    {"sample_rate": 22050, "n_fft": 1024, "n_mels": 80, "fmin": 0.0, "fmax": 8000.0},
    {"sample_rate": 16000, "n_fft": 400, "n_mels": 40, "fmin": 0.0, "fmax": 8000.0},
])
def test_filters_equal_librosas(settings):
    import librosa

    theirs = librosa.filters.mel(sr=settings["sample_rate"], n_fft=settings["n_fft"], n_mels=settings["n_mels"],
                                 fmin=settings["fmin"], fmax=settings["fmax"])
    assert np.abs(audio.mel_filters(**settings).numpy() - theirs).max() < 1e-6


def test_filters_of_other_parameters_are_not_confused():
    base = {"sample_rate": 22050, "n_fft": 1024, "n_mels": 80, "fmin": 0.0, "fmax": 8000.0}
    first = audio.mel_filters(**base)
    for change in ({"sample_rate": 16000}, {"fmin": 50.0}, {"fmax": 7600.0}):
        assert not torch.equal(audio.mel_filters(**base | change), first)
    assert audio.mel_filters(**base, dtype=torch.float64).dtype == torch.float64
    assert audio.mel_filters(**base) is first


@settings(max_examples=30, deadline=None)
@given(st.integers(385, 6000), st.integers(1, 3))
def test_mel_has_a_frame_per_hop(samples, batch):
    mel = audio.mel_spectrogram(torch.zeros(batch, samples))
    assert mel.shape == (batch, 80, samples // 256)


def test_mel_of_one_wave_is_the_mel_of_a_batch_of_one():
    wave = torch.from_numpy(tone())
    assert torch.equal(audio.mel_spectrogram(wave), audio.mel_spectrogram(wave.unsqueeze(0)))


def test_mel_has_gradients_even_after_inference_mode():
    audio.mel_filters.cache_clear()
    with torch.inference_mode():
        audio.mel_spectrogram(torch.from_numpy(tone()))
    wave = torch.from_numpy(tone()).requires_grad_()
    audio.mel_spectrogram(wave).sum().backward()
    assert torch.isfinite(wave.grad).all() and wave.grad.abs().max() > 0


def test_mel_peaks_in_the_tones_band():
    centres = torch.from_numpy(np.linspace(0, 11025, 513, dtype=np.float32))
    filters = audio.mel_filters(sample_rate=22050, n_fft=1024, n_mels=80, fmin=0.0, fmax=8000.0)
    for hertz in (440.0, 1000.0, 4000.0):
        band = audio.mel_spectrogram(torch.from_numpy(tone(hertz=hertz)))[0].mean(dim=1).argmax()
        centre = (filters[band] * centres).sum() / filters[band].sum()
        assert abs(centre - hertz) < 0.05 * hertz + 30


def test_silence_is_at_the_floor_of_the_magnitudes_guard():
    mel = audio.mel_spectrogram(torch.zeros(1, 2048))
    assert torch.isfinite(mel).all() and mel.min() >= np.log(1e-5) - 1e-5


@pytest.mark.parametrize("shape", [(384,), (1, 100), (1, 1, 4000), (0,)])
def test_mel_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="no mel"):
        audio.mel_spectrogram(torch.zeros(shape))


@pytest.mark.parametrize(("source", "target", "length"), [(16000, 22050, 12345), (44100, 22050, 9999), (22050, 16000, 7001)])
def test_resampling_equals_librosas(source, target, length):
    import librosa

    wave = np.random.default_rng(0).normal(scale=0.1, size=length).astype(np.float32)
    theirs = librosa.resample(wave, orig_sr=source, target_sr=target)
    ours = audio.resample(wave, source_rate=source, target_rate=target)
    assert ours.dtype == np.float32 and np.array_equal(ours, theirs)


def test_written_sound_reads_back(tmp_path):
    wave = tone()
    for name in ("a.wav", "deep/b.flac"):
        audio.save_wav(tmp_path / name, torch.from_numpy(wave).unsqueeze(0), 22050)
        assert soundfile.info(tmp_path / name).subtype == "PCM_16"
        assert np.abs(audio.load_audio(tmp_path / name) - wave).max() < 1 / 32000
    assert not list(tmp_path.rglob(".tmp*"))


def test_loud_sound_is_clipped_and_not_wrapped(tmp_path):
    audio.save_wav(tmp_path / "a.wav", np.array([2.0, -2.0] * 2000), 22050)
    read = audio.load_audio(tmp_path / "a.wav")
    assert read[0] > 0.999 and read[1] < -0.999


@pytest.mark.parametrize(("name", "wave", "message"), [
    ("a.wav", np.array([0.0, np.nan]), "not finite"), ("a.wav", np.zeros((2, 5)), "shape"), ("a.wav", np.zeros(0), "shape"),
    ("a.txt", np.zeros(5), r"\.wav or \.flac"),
])
def test_bad_waves_are_not_written_and_leave_the_old_file(tmp_path, name, wave, message):
    (tmp_path / name).write_text("old")
    with pytest.raises(ValueError, match=message) as error:
        audio.save_wav(tmp_path / name, wave, 22050)
    assert name in one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "old"


def test_channels_are_averaged_and_resampled(tmp_path):
    left, right = tone(rate=44100, hertz=300), tone(rate=44100, hertz=900)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 44100, subtype="FLOAT")
    expected = (tone(hertz=300) + tone(hertz=900)) / 2
    read = audio.load_audio(tmp_path / "stereo.wav")
    assert read.shape == expected.shape and np.abs(read - expected)[200:-200].max() < 1e-3


def whole(path):
    soundfile.write(path, tone(), 22050)
    return path.read_bytes()


def half(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("cut.wav", lambda path: path.write_bytes(whole(path)[:20000]), "cut off"),
    ("cut.flac", lambda path: path.write_bytes(half(whole(path))), "lost sync"),
    ("cut.mp3", lambda path: path.write_bytes(half(whole(path))), "cut off"),
    ("cut.aiff", lambda path: path.write_bytes(half(whole(path))), "cut off"),
    ("head.flac", lambda path: path.write_bytes(whole(path)[:30]), "cannot be read"),
    ("empty.wav", lambda path: path.write_bytes(b""), "empty"),
    ("text.wav", lambda path: path.write_text("not a sound\nat all"), "cannot be read"),
    ("none.wav", lambda path: soundfile.write(path, np.zeros(0), 22050), "too short"),
    ("short.wav", lambda path: soundfile.write(path, tone(0.01), 22050), "too short"),
    ("loud.wav", lambda path: soundfile.write(path, np.full(9999, -3e4), 22050, subtype="FLOAT"), "up to 3e[+]04, where"),
    ("nan.wav", lambda path: soundfile.write(path, np.full(9999, np.nan), 22050, subtype="FLOAT"), "not finite"),
])
def test_bad_files_are_named_in_one_line(tmp_path, name, spoil, message):
    spoil(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        audio.load_audio(tmp_path / name)
    assert one_line(error).startswith(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_whole_files_of_every_kind_are_read(tmp_path, suffix):
    whole(tmp_path / f"a.{suffix}")
    assert abs(len(audio.load_audio(tmp_path / f"a.{suffix}")) - 22050) < 10


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        audio.load_audio(tmp_path / "nowhere.wav")


def test_a_piped_wav_without_its_length_is_whole(tmp_path):
    body = whole(tmp_path / "a.wav")
    at = body.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(body[:at] + struct.pack("<I", 0xFFFFFFFF) + body[at + 4:])
    assert len(audio.load_audio(tmp_path / "a.wav")) == 22050


def test_clips_of_files_and_folders(tmp_path):
    for number, name in enumerate(("b.wav", "a.flac", "deep/c.wav"), start=1):
        audio.save_wav(tmp_path / name, tone(number / 10), 22050)
    (tmp_path / "notes.txt").write_text("not a clip")
    for name in (".tmp-1a2b.wav", "deep/._c.wav"):
        (tmp_path / name).write_bytes(b"RIFF, and no more")
    assert [len(clip) for clip in audio.load_clips(tmp_path)] == [4410, 2205, 6615]
    assert [len(clip) for clip in audio.load_clips(str(tmp_path / "b.wav"), 16000)] == [1600]
    assert [path.name for path in audio.find_clips([tmp_path / "b.wav", tmp_path / "deep"])] == ["b.wav", "c.wav"]


@pytest.mark.parametrize(("source", "error"), [("missing", FileNotFoundError), ("empty", ValueError), ([], ValueError)])
def test_clips_that_are_not_there(tmp_path, source, error):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error) as caught:
        audio.load_clips(tmp_path / source if source else source)
    assert source == [] or source in one_line(caught)


def test_real_flac(librispeech):
    path = min((librispeech / "test-other").rglob("*.flac"))
    wave = audio.load_audio(path)
    assert abs(len(wave) / 22050 - soundfile.info(path).duration) < 1e-3
    assert 0.01 < np.abs(wave).max() <= 1.0
