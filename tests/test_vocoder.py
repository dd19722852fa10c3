import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from gradtts_robust.speech import vocoder
from gradtts_robust.speech.audio import load_audio, mel_filters, mel_spectrogram
from gradtts_robust.speech.vocoder import linear_magnitude, load_vocoder

CONFIG = {
    "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 16, 8], "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3, 5], "num_mels": 80, "n_fft": 1024, "hop_size": 256, "win_size": 1024,
    "sampling_rate": 22050, "fmin": 0, "fmax": 8000,
}
VARIANTS = {
    "1": CONFIG | {"resblock": "1", "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]]},
    "2": CONFIG | {"resblock": "2", "resblock_dilation_sizes": [[1, 2], [2, 6]]},
}


def random_weights(config, seed=0):
    """A checkpoint with weight norm in place, as the original's trainer saves it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def add(name, *shape, outputs):
        weights[f"{name}.weight_v"] = 0.1 * torch.randn(shape, generator=generator)
        weights[f"{name}.weight_g"] = 0.2 + torch.rand(shape[0], 1, 1, generator=generator)
        weights[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    width = config["upsample_initial_channel"]
    add("conv_pre", width, 80, 7, outputs=width)
    block = 0
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        add(f"ups.{stage}", width, width // 2, kernel, outputs=width // 2)
        width //= 2
        for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True):
            for number in range(len(dilations)):
                for part in ("convs1", "convs2") if config["resblock"] == "1" else ("convs",):
                    add(f"resblocks.{block}.{part}.{number}", width, width, size, outputs=width)
            block += 1
    add("conv_post", 1, width, 7, outputs=1)
    return weights


def reference(weights, config, mel):
    """The generator spelt out from its paper, with the weights normalised by torch itself."""
    def conv(name, hidden, dilation=1):
        weight = torch._weight_norm(weights[f"{name}.weight_v"], weights[f"{name}.weight_g"], 0)
        return F.conv1d(hidden, weight, weights[f"{name}.bias"], dilation=dilation, padding=dilation * (weight.shape[2] - 1) // 2)

    hidden, block = conv("conv_pre", mel), 0
    for stage, (rate, kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        weight = torch._weight_norm(weights[f"ups.{stage}.weight_v"], weights[f"ups.{stage}.weight_g"], 0)
        hidden = F.conv_transpose1d(F.leaky_relu(hidden, 0.1), weight, weights[f"ups.{stage}.bias"], rate, (kernel - rate) // 2)
        outputs = []
        for dilations in config["resblock_dilation_sizes"]:
            inner = hidden
            for number, dilation in enumerate(dilations):
                name = f"resblocks.{block}"
                if config["resblock"] == "1":
                    step = conv(f"{name}.convs1.{number}", F.leaky_relu(inner, 0.1), dilation)
                    inner = inner + conv(f"{name}.convs2.{number}", F.leaky_relu(step, 0.1))
                else:
                    inner = inner + conv(f"{name}.convs.{number}", F.leaky_relu(inner, 0.1), dilation)
            outputs.append(inner)
            block += 1
        hidden = torch.stack(outputs).mean(dim=0)
    return torch.tanh(conv("conv_post", F.leaky_relu(hidden, 0.01)))[:, 0]


def save(folder, content, config=None, name="g_00010000"):
    torch.save(content, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name


def test_hifigan_equals_the_original(golden):
    values = load_file(golden / "audio_io.safetensors")
    voice = load_vocoder(golden / "hifigan.pt")
    wave = voice(values["vocoder_in"])
    assert wave.shape == (1, 256 * values["vocoder_in"].shape[2])
    assert (wave - values["vocoder_out"][:, 0]).abs().max() < 1e-3
    assert voice.name == "hifigan" and voice.sample_rate == 22050


@pytest.mark.parametrize("variant", VARIANTS)
def test_hifigan_of_both_resblocks_equals_its_formula(tmp_path, variant):
    config = VARIANTS[variant]
    weights = random_weights(config)
    mel = torch.randn(2, 80, 13, generator=torch.Generator().manual_seed(1))
    wave = load_vocoder(save(tmp_path, {"generator": weights}, config))(mel)
    assert wave.shape == (2, 256 * 13) and wave.std() > 1e-3
    assert (wave - reference(weights, config, mel)).abs().max() < 1e-5


def test_hifigan_with_weight_norm_removed_sounds_the_same(tmp_path):
    config, weights = VARIANTS["1"], random_weights(VARIANTS["1"])
    plain = {}
    for key, value in weights.items():
        if key.endswith("weight_v"):
            plain[key[:-2]] = torch._weight_norm(value, weights[key[:-1] + "g"], 0)
        elif key.endswith("bias"):
            plain[key] = value
    mel = torch.randn(1, 80, 9, generator=torch.Generator().manual_seed(1))
    normed = load_vocoder(save(tmp_path, {"generator": weights}, name="a.pt"), config)(mel)
    assert (load_vocoder(save(tmp_path, plain, name="b.pt"), config)(mel) - normed).abs().max() < 1e-6


@pytest.mark.parametrize("beside", ["voice.json", "voice-config.json", "config.json"])
def test_hifigans_configuration_is_found_beside_it(tmp_path, beside):
    path = save(tmp_path, {"generator": random_weights(VARIANTS["1"])}, name="voice.pt")
    (tmp_path / beside).write_text(json.dumps(VARIANTS["1"]))
    assert load_vocoder(path).name == "voice"


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda p, w: p.unlink(), FileNotFoundError, "no such vocoder"),
    (lambda p, w: (p.parent / "config.json").unlink(), FileNotFoundError, "configuration is not beside it"),
    (lambda p, w: p.write_bytes(p.read_bytes()[:5000]), ValueError, "cut off"),
    (lambda p, w: p.write_bytes(b""), ValueError, "cut off"),
    (lambda p, w: p.write_text("hello"), ValueError, "not a HiFi-GAN"),
    (lambda p, w: torch.save({"mpd": w, "mrd": 1}, p), ValueError, "no state dict"),
    (lambda p, w: torch.save([1, 2], p), ValueError, "no state dict"),
    (lambda p, w: torch.save({"encoder.emb.weight": torch.zeros(3)}, p), ValueError, "conv_pre"),
    (lambda p, w: torch.save({"generator": {k: v for k, v in w.items() if "ups.0" not in k}}, p), ValueError, "do not fit"),
])
def test_bad_checkpoints_are_named_in_one_line(tmp_path, spoil, error, message):
    weights = random_weights(VARIANTS["1"])
    path = save(tmp_path, {"generator": weights}, VARIANTS["1"])
    spoil(path, weights)
    with pytest.raises(error, match=message) as caught:
        load_vocoder(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [
    ({"resblock": "3"}, "resblock '3'"), ({"resblock": "2"}, "do not fit"), ({"upsample_initial_channel": 32}, "do not fit"),
    ({"upsample_rates": [8, 8, 2]}, "multiply"), ({"hop_size": 200}, "hop_size is 200"), ({"sampling_rate": 16000}, "16000"),
    ({"num_mels": 100}, "num_mels"), ({"upsample_initial_channel": 12}, "halved"), ({"upsample_rates": 7}, "configuration"),
])
def test_other_architectures_are_refused_in_one_line(tmp_path, change, message):
    path = save(tmp_path, {"generator": random_weights(VARIANTS["1"])}, VARIANTS["1"] | change)
    with pytest.raises(ValueError, match=message) as caught:
        load_vocoder(path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "resblock"), ('{"resblock": "1"}', "is missing")])
def test_a_malformed_configuration_is_named(tmp_path, text, message):
    path = save(tmp_path, {"generator": random_weights(VARIANTS["1"])})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_vocoder(path)
    assert "config.json" in str(caught.value)


def test_unknown_vocoders_and_needless_configurations():
    with pytest.raises(FileNotFoundError, match="griffin-lim"):
        load_vocoder("wavenet")
    with pytest.raises(ValueError, match="no configuration"):
        load_vocoder("griffin-lim", config={"resblock": "1"})


def speechlike(seconds=1.0, pitch=120.0):
    time = np.arange(int(22050 * seconds)) / 22050
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 30)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    return torch.from_numpy((0.1 * wave).astype(np.float32))


def test_griffin_lim_sounds_like_its_mel():
    wave = speechlike()
    mel = mel_spectrogram(wave)
    rebuilt = load_vocoder("griffin-lim")(mel)
    assert rebuilt.shape == (1, 256 * mel.shape[2]) and rebuilt.dtype == torch.float32
    assert (mel_spectrogram(rebuilt) - mel).abs()[:, :40].mean() < 0.2
    assert 0.9 < rebuilt.std() / wave.std() < 1.1


def test_griffin_lims_frames_are_where_the_mels_are():
    wave = torch.zeros(22050)
    wave[11000:11600] = speechlike()[:600]
    envelope = load_vocoder("griffin-lim")(mel_spectrogram(wave))[0].abs()
    centre = (envelope.square() * torch.arange(len(envelope))).sum() / envelope.square().sum()
    assert abs(centre - 11300) < 64


def test_griffin_lim_is_deterministic_and_leaves_the_global_generator_alone():
    mel = mel_spectrogram(speechlike())
    before = torch.get_rng_state()
    first = load_vocoder("griffin-lim")(mel)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(load_vocoder("griffin-lim")(mel), first)
    batch = load_vocoder("griffin-lim")(torch.cat([mel, mel - 1]))
    assert (batch[0] - first[0]).abs().max() < 1e-3 and not torch.allclose(batch[1], first[0], atol=1e-2)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_griffin_lim_of_few_frames(frames):
    wave = load_vocoder("griffin-lim")(torch.full((2, 80, frames), -3.0))
    assert wave.shape == (2, 256 * frames) and torch.isfinite(wave).all()


def test_griffin_lim_of_silence_is_quiet():
    assert load_vocoder("griffin-lim")(torch.full((1, 80, 20), float(np.log(1e-5)))).abs().max() < 1e-3


def test_momentum_and_iterations_bring_the_mel_closer():
    mel = mel_spectrogram(speechlike())

    def distance(**settings):
        return (mel_spectrogram(vocoder.GriffinLim(**settings)(mel)) - mel).abs().mean()

    assert distance(iterations=32) < distance(iterations=4) < distance(iterations=1)
    assert distance(iterations=32, momentum=0.99) < distance(iterations=32, momentum=0.0)


def test_linear_magnitudes_are_non_negative_and_give_the_mel_back():
    mel = mel_spectrogram(speechlike())
    filters = mel_filters(sample_rate=22050, n_fft=1024, n_mels=80, fmin=0.0, fmax=8000.0)
    magnitude = linear_magnitude(mel)
    assert magnitude.min() >= 0 and magnitude.shape == (1, 513, mel.shape[2])

    def error(iterations):
        return (filters @ linear_magnitude(mel, iterations=iterations) - mel.exp()).square().mean()

    assert error(32) < 0.2 * error(0)


@pytest.mark.parametrize("shape", [(80, 10), (1, 79, 10), (1, 80, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="cannot be voiced"):
        load_vocoder("griffin-lim")(torch.zeros(shape))


def test_griffin_lim_keeps_real_voices(librispeech):
    from gradtts_robust.speech.speaker import speaker_encoder

    speakers = sorted((librispeech / "test-other").iterdir())[:4]
    waves = [load_audio(min(speaker.rglob("*.flac")))[: 4 * 22050] for speaker in speakers]
    rebuilt = [load_vocoder("griffin-lim")(mel_spectrogram(torch.from_numpy(wave)))[0].numpy() for wave in waves]
    encoder = speaker_encoder()
    kept = (encoder.embed(waves, sample_rate=22050) * encoder.embed(rebuilt, sample_rate=22050)).sum(axis=1)
    assert kept.min() > 0.95
