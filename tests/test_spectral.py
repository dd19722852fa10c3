"""The small vocoder: magnitudes that fit their mel, phases that give back a wave, its file, and what ships."""
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gradtts_robust import files
from gradtts_robust.speech import spectral, vocoder
from gradtts_robust.speech.audio import HOP, N_FFT, mel_filters, mel_spectrogram
from gradtts_robust.speech.phase import fit_to_mel, griffin_lim
from gradtts_robust.speech.spectral import SpectralCheckpoint, SpectralGenerator, load_spectral, save_spectral
from gradtts_robust.speech.vocoder import SHIPPED_VOCODER, load_vocoder

FILTERS = mel_filters(n_fft=N_FFT, n_mels=80, sample_rate=22050, fmin=0.0, fmax=8000.0)


def small(seed=0):
    torch.manual_seed(seed)
    return SpectralGenerator(width=16, inner=24, blocks=2)


def speechlike(frames=20, seed=0):
    """A buzz with a moving pitch and some noise: [1, 256 F]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(HOP * frames) / 22050
    turns = torch.cumsum(120 + 30 * torch.sin(6 * time), 0) / 22050
    buzz = sum(torch.cos(2 * torch.pi * k * turns) / k for k in range(1, 20))
    return (0.05 * buzz + 0.003 * torch.randn(len(time), generator=generator))[None]


def spectrum_of(wave):
    padded = torch.nn.functional.pad(wave[:, None], (384, 384), mode="reflect")[:, 0]
    return torch.fft.rfft(padded.unfold(1, N_FFT, HOP) * torch.hann_window(N_FFT))


def test_true_magnitudes_and_phases_give_back_the_wave_where_it_was():
    wave = speechlike()
    spectrum = spectrum_of(wave)
    rebuilt = griffin_lim(spectrum.abs(), torch.sgn(spectrum), iterations=0, momentum=0.0)
    assert rebuilt.shape == wave.shape and (rebuilt - wave).abs().max() < 1e-5


def test_more_iterations_bring_the_wave_nearer_to_its_magnitudes():
    wave = speechlike()
    magnitude = spectrum_of(wave).abs()
    phase = torch.ones(magnitude.shape, dtype=torch.complex64)
    errors = [(spectrum_of(griffin_lim(magnitude, phase, iterations=n, momentum=0.9)).abs() - magnitude).norm() for n in (0, 4, 32)]
    assert errors[0] > errors[1] > errors[2]


def test_holding_to_the_mel_gives_a_wave_with_that_mel():
    wave = speechlike(30)
    mel, magnitude = mel_spectrogram(wave), spectrum_of(wave).abs().mean(dim=2, keepdim=True).expand(1, 30, 513)
    phase = torch.polar(torch.ones(1, 30, 513), 6.3 * torch.rand(1, 30, 513, generator=torch.Generator().manual_seed(0)))
    magnitude = fit_to_mel(magnitude, mel, iterations=4)

    def error(**more):
        return (mel_spectrogram(griffin_lim(magnitude, phase, iterations=16, momentum=0.9, **more)) - mel).abs().mean()

    assert error(mel=mel, keep=0.2) < 0.8 * error()
    assert error(mel=mel, keep=1.0) < 1.05 * error()


def test_fitting_is_lee_and_seungs_update_spelt_out():
    mel, magnitude = mel_spectrogram(speechlike(4)), torch.rand(1, 4, 513) + 0.1
    wanted = magnitude.clone()
    for frame in range(4):
        column = wanted[0, frame]
        seen = FILTERS.sum(0) > 0
        column[seen] = (column * (FILTERS.T @ (mel[0, :, frame].exp() / (FILTERS @ column))) / FILTERS.sum(0))[seen]
    assert torch.allclose(fit_to_mel(magnitude, mel, iterations=1), wanted, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), loudness=st.floats(-8, 2))
def test_fitted_magnitudes_have_nearly_the_mel_and_keep_what_no_filter_sees(seed, loudness):
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(1, 6, 513, generator=generator) + 0.01
    mel = torch.log(FILTERS @ (magnitude * torch.rand(1, 6, 513, generator=generator)).transpose(1, 2)) + loudness

    def error(fitted):
        return (torch.log(FILTERS @ fitted.transpose(1, 2)) - mel).abs().mean()

    fitted = fit_to_mel(magnitude, mel, iterations=8)
    assert error(fitted) < 0.05 and error(fitted) < error(fit_to_mel(magnitude, mel, iterations=1))
    unseen = FILTERS.sum(0) == 0
    assert torch.equal(fitted[..., unseen], magnitude[..., unseen])


def test_an_untrained_generator_reads_the_mel_between_its_bands():
    mel = torch.full((1, 80, 5), -2.0)
    weight, bias = spectral._between_bands()
    assert torch.allclose(weight.sum(1), torch.ones(513)) and (weight >= 0).all()
    magnitude = torch.exp(weight @ mel[0] + bias[:, None])
    assert (torch.log(FILTERS @ magnitude) - mel[0]).abs().mean() < 0.1


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 2), (3, 7)])
def test_shapes(batch, frames):
    guess = small()(torch.full((batch, 80, frames), -4.0))
    assert guess.magnitude.shape == guess.phase.shape == (batch, frames, 513)
    assert (guess.magnitude >= 0).all() and (guess.phase.abs() - 1).abs().max() < 1e-2


def test_a_batch_is_its_items():
    generator = small().eval()
    mels = torch.cat([mel_spectrogram(speechlike(12, seed)) for seed in (0, 1)])
    voice = vocoder.SpectralVocoder(SpectralCheckpoint(generator, 4, 0.9, 0.2), name="x")
    assert torch.allclose(voice(mels)[1:], voice(mels[1:]), atol=1e-5)
    assert voice(mels).shape == (2, 256 * 12)


def test_gradients_reach_every_weight_through_the_iterations():
    generator = small()
    guess = generator(mel_spectrogram(speechlike(12)))
    wave = griffin_lim(guess.magnitude, guess.phase, iterations=2, momentum=0.9, mel=mel_spectrogram(speechlike(12)), keep=0.5)
    (mel_spectrogram(wave) - mel_spectrogram(speechlike(12))).abs().mean().backward()
    for name, weights in generator.named_parameters():
        assert torch.isfinite(weights.grad).all() and weights.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("sizes", "said"), [
    ({"width": 0}, "width is 0"), ({"blocks": -1}, "blocks is -1"), ({"inner": 2.5}, "inner is 2.5"),
])
def test_sizes_that_are_none(sizes, said):
    with pytest.raises(ValueError, match=said):
        SpectralGenerator(**sizes)


def test_a_file_gives_back_what_was_saved(tmp_path):
    generator, mel = small().eval(), mel_spectrogram(speechlike())
    save_spectral(tmp_path / "mine.safetensors", SpectralCheckpoint(generator, 5, 0.8, 0.3))
    voice = load_vocoder(tmp_path / "mine.safetensors")
    assert (voice.name, voice.sample_rate, voice.iterations, voice.momentum, voice.keep) == ("mine", 22050, 5, 0.8, 0.3)
    assert torch.equal(voice(mel), vocoder.SpectralVocoder(SpectralCheckpoint(generator, 5, 0.8, 0.3), name="")(mel))
    save_spectral(tmp_path / "again.safetensors", SpectralCheckpoint(generator, 5, 0.8, 0.3))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    save_spectral(tmp_path / "half.safetensors", SpectralCheckpoint(generator, 5, 0.8, 0.3), dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "mine.safetensors").stat().st_size
    assert {weights.dtype for weights in load_spectral(tmp_path / "half.safetensors").generator.parameters()} == {torch.float32}


def _other_settings(path, **changed):
    with spectral.safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["gradtts-robust"]) | changed
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, path, metadata={"gradtts-robust": json.dumps(metadata)})


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda path: path.write_bytes(path.read_bytes()[:-50]), "may be truncated"),
    (lambda path: path.write_bytes(b""), "may be truncated"),
    (lambda path: save_file({"a": torch.zeros(2)}, path), "not a vocoder of this version"),
    (lambda path: save_file({"a": torch.zeros(2)}, path, metadata={"gradtts-robust": "[1]"}), "not a vocoder of this version"),
    (lambda path: _other_settings(path, format="gradtts-robust checkpoint 1"), "not a vocoder of this version"),
    (lambda path: _other_settings(path, mel={}), "other mels"),
    (lambda path: _other_settings(path, sizes={"width": 16, "inner": 20, "blocks": 2}), "do not fit"),
    (lambda path: _other_settings(path, sizes={"width": 16, "inner": 24, "blocks": 3}), "do not fit"),
])
def test_files_that_are_no_vocoder(tmp_path, spoil, said):
    path = tmp_path / "voice.safetensors"
    save_spectral(path, SpectralCheckpoint(small(), 5, 0.8, 0.3))
    spoil(path)
    with pytest.raises(ValueError, match=rf"voice\.safetensors.*{said}"):
        load_vocoder(path)


def test_a_voice_checkpoint_is_not_taken_for_a_vocoder():
    from gradtts_robust.training.adapt import shipped_base

    with pytest.raises(ValueError, match="goes to --model"):
        load_vocoder(shipped_base())


def test_it_takes_no_configuration_and_no_other_mels(tmp_path):
    with pytest.raises(ValueError, match="takes no configuration"):
        load_vocoder(SHIPPED_VOCODER, config={"resblock": "1"})
    with pytest.raises(FileNotFoundError, match=f"use 'griffin-lim', '{SHIPPED_VOCODER}'"):
        load_vocoder(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="cannot be voiced"):
        load_vocoder(SHIPPED_VOCODER)(torch.zeros(1, 79, 4))


def test_what_ships_is_small_and_is_the_default():
    path = vocoder.shipped_vocoder()
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size == card["bytes"] <= 8e6
    weights = sum(weights.numel() for weights in load_spectral(path).generator.parameters())
    assert weights == card["parameters"] <= 2e6
    assert load_vocoder().name == SHIPPED_VOCODER


def test_a_damaged_vocoder_does_not_load(tmp_path, monkeypatch):
    path = vocoder.shipped_vocoder()
    for suffix in (".safetensors", ".json"):
        (tmp_path / path.name).with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path)
    assert vocoder.shipped_vocoder().parent == tmp_path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_vocoder()
    (tmp_path / path.name).unlink()
    with pytest.raises(FileNotFoundError, match="griffin-lim"):
        load_vocoder()


def test_it_is_nearer_to_unheard_voices_than_griffin_lim(tmp_path):
    from gradtts_robust.data.generated import TARGETS, generate
    from gradtts_robust.speech.audio import load_audio
    from gradtts_robust.speech.speaker import speaker_encoder

    generate(tmp_path, voices=TARGETS[::2], sentences_per_voice=1)
    waves = [load_audio(path) for path in sorted(tmp_path.rglob("*.wav"))]
    waves = [torch.from_numpy(wave[: len(wave) // HOP * HOP])[None] for wave in waves]
    kept, errors = {}, {}
    for name in (SHIPPED_VOCODER, "griffin-lim"):
        made = [load_vocoder(name)(mel_spectrogram(wave)) for wave in waves]
        errors[name] = sum((mel_spectrogram(one) - mel_spectrogram(wave)).abs().mean() for one, wave in zip(made, waves))
        embedded = [speaker_encoder().embed([one[0].numpy() for one in some], sample_rate=22050) for some in (made, waves)]
        kept[name] = (embedded[0] * embedded[1]).sum(axis=1).mean()
    assert kept[SHIPPED_VOCODER] > max(0.985, kept["griffin-lim"])
    assert errors[SHIPPED_VOCODER] < errors["griffin-lim"]
