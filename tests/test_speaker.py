import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.speech import resemblyzer as parts
from gradtts_robust.speech.audio import load_audio, resample
from gradtts_robust.speech.speaker import centroid, similarity, speaker_encoder

RATE = 16000

ECAPA_YAML = """
pretrained_path: {path}
n_mels: 20
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 24
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 24
    out_neurons: 5
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def voice(seconds=3.0, pitch=110.0, seed=0, rate=RATE):
    """A buzz through two moving resonances with pauses: enough of a voice for the detector and the encoder."""
    from scipy.signal import lfilter

    time = np.arange(int(seconds * rate)) / rate
    phase = np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / rate
    source = (np.diff(np.floor(phase), prepend=0) > 0) + 0.01 * np.random.default_rng(seed).normal(size=len(time))
    for hertz in (5 * pitch, 12 * pitch):
        source = lfilter([1], [1, -2 * 0.97 * np.cos(2 * np.pi * hertz / rate), 0.97 ** 2], source)
    loud = (np.sin(2 * np.pi * 0.5 * time) > -0.5) * 1.0
    wave = source * loud
    return (0.2 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    return speaker_encoder()


@pytest.fixture(scope="module")
def package():
    """Resemblyzer itself; its mel code is compiled for several seconds on first use."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import resemblyzer

    return resemblyzer


@pytest.fixture(scope="module")
def clips(librispeech):
    files = [min((librispeech / "test-other" / speaker).rglob("*.flac")) for speaker in ("367", "1688")]
    return [load_audio(file, sample_rate=RATE) for file in files]


def test_same_embeddings_as_the_package(encoder, package, clips):
    theirs = package.VoiceEncoder("cpu", verbose=False)
    waves = [*(clip[: 6 * RATE] for clip in clips), voice(1.0), voice(2.7, pitch=190.0)]
    ours = encoder.embed(waves, sample_rate=RATE)
    for wave, embedding in zip(waves, ours, strict=True):
        assert np.abs(embedding - theirs.embed_utterance(package.preprocess_wav(wave, RATE))).max() < 1e-4
    there = resample(waves[0], source_rate=RATE, target_rate=22050)
    expected = theirs.embed_utterance(package.preprocess_wav(there, 22050))
    assert np.abs(encoder.embed([there], sample_rate=22050)[0] - expected).max() < 1e-4


def test_same_preprocessing_as_the_package(package, clips):
    quiet, loud = 0.01 * clips[0], 3 * clips[1]
    for wave in (*clips, quiet, loud, voice()):
        theirs = package.preprocess_wav(wave, RATE)
        ours = parts.preprocess(wave, trim=True)
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-6
    assert len(parts.preprocess(clips[0], trim=False)) == len(clips[0])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400_000))
def test_partials_cover_a_clip(samples):
    starts = parts.partial_starts(samples)
    assert starts[0] == 0 and all(0 < b - a <= parts.PARTIAL_FRAMES for a, b in pairwise(starts))
    last = (samples - starts[-1] * parts.HOP) / (parts.PARTIAL_FRAMES * parts.HOP)
    assert len(starts) == 1 or last >= parts.MIN_COVERAGE
    uncovered = samples - (starts[-1] + parts.PARTIAL_FRAMES) * parts.HOP
    assert uncovered < parts.MIN_COVERAGE * parts.PARTIAL_FRAMES * parts.HOP


def test_partials_start_where_the_package_starts_them(package):
    for samples in (1, 800, 25599, 25600, 31000, 37119, 37120, 44444, 100_000, 333_333):
        _, slices = package.VoiceEncoder.compute_partial_slices(samples, 1.3, 0.75)
        assert parts.partial_starts(samples) == [part.start for part in slices]


def test_a_clips_embedding_does_not_depend_on_its_batch(encoder):
    waves = [voice(2.0), voice(4.0, pitch=200.0), voice(0.7, pitch=90.0)]
    together = encoder.embed(waves, sample_rate=RATE)
    assert together.shape == (3, encoder.dim) and together.dtype == np.float32
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    for wave, row in zip(waves, together, strict=True):
        assert np.abs(encoder.embed([wave], sample_rate=RATE)[0] - row).max() < 1e-5


def test_the_sample_rate_and_loudness_hardly_matter(encoder, clips):
    embedding = encoder.embed([clips[0]], sample_rate=RATE)[0]
    there = resample(clips[0], source_rate=RATE, target_rate=44100)
    assert encoder.embed([there], sample_rate=44100)[0] @ embedding > 0.999
    assert encoder.embed([0.02 * clips[0]], sample_rate=RATE)[0] @ embedding > 0.995


def test_trimming_is_a_choice(clips):
    pauses = np.concatenate([clips[0][:RATE], 1e-4 * np.ones(4 * RATE, dtype=np.float32), clips[0][RATE: 3 * RATE]])
    whole, trimmed = (speaker_encoder(trim=trim).embed([pauses, clips[0]], sample_rate=RATE) for trim in (False, True))
    assert trimmed[0] @ trimmed[1] > whole[0] @ whole[1] + 0.02


def test_sound_without_speech_still_has_an_embedding(encoder):
    hum = (0.1 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE)).astype(np.float32)
    hiss = np.random.default_rng(0).normal(scale=1e-3, size=RATE).astype(np.float32)
    embeddings = encoder.embed([hum, hiss], sample_rate=RATE)
    assert np.isfinite(embeddings).all() and embeddings[0] @ embeddings[1] < 0.999


def test_real_speakers_are_told_apart(encoder, librispeech):
    folders = sorted((librispeech / "test-other").iterdir())[:3]
    files = [file for folder in folders for file in sorted(folder.rglob("*.flac"))[:4]]
    embeddings = encoder.embed([load_audio(file, sample_rate=RATE)[: 5 * RATE] for file in files], sample_rate=RATE)
    for number in range(3):
        own = slice(4 * number, 4 * number + 4)
        others = np.delete(embeddings, own, axis=0)
        own_centroid = centroid(embeddings[own][:2])
        assert similarity(embeddings[own][2:], own_centroid).min() > similarity(others, own_centroid).max()


@pytest.mark.parametrize(("wave", "message"), [
    (np.zeros(RATE, dtype=np.float32), "silent"), (np.full(RATE, np.nan, dtype=np.float32), "not finite"),
    (np.ones(100, dtype=np.float32), "too short"), (np.zeros(0, dtype=np.float32), "too short"), (np.ones((2, RATE)), "shape"),
])
def test_bad_clips_are_named_in_one_line(encoder, wave, message):
    with pytest.raises(ValueError, match=f"b.wav.*{message}") as error:
        encoder.embed([voice(1.0), wave], sample_rate=RATE, names=["a.wav", "b.wav"])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"clip 1 of 1.*{message}"):
        encoder.embed([wave], sample_rate=RATE)


def test_no_clips_or_a_bare_wave(encoder):
    with pytest.raises(ValueError, match="at least one"):
        encoder.embed([], sample_rate=RATE)
    with pytest.raises(ValueError, match=r"embed\(\[wave\]"):
        encoder.embed(voice(1.0), sample_rate=RATE)


def test_centroid_and_similarity():
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    middle = centroid(rows)
    assert np.allclose(middle, [np.sqrt(0.5)] * 2)
    assert np.allclose(similarity(np.array([[2.0, 0.0], [-3.0, -3.0]]), middle), [np.sqrt(0.5), -1.0])
    for bad in (np.zeros((0, 2)), np.zeros((3, 2)), np.ones(3), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="centroid"):
            centroid(bad)
    with pytest.raises(ValueError, match="do not fit"):
        similarity(rows, np.ones(3))


def test_the_first_embedding_needs_no_compilation():
    code = ("import sys, numpy\nfrom gradtts_robust.speech.speaker import speaker_encoder\n"
            "wave = numpy.sin(numpy.arange(32000) * 0.05).astype('float32')\n"
            "speaker_encoder().embed([wave], sample_rate=22050)\n"
            "heavy = {'librosa', 'numba', 'scipy', 'speechbrain', 'resemblyzer'} & set(sys.modules)\nassert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_unknown_encoders_and_sources():
    with pytest.raises(ValueError, match="no speaker encoder named 'xvector'"):
        speaker_encoder("xvector")
    with pytest.raises(ValueError, match="brings its own weights"):
        speaker_encoder("resemblyzer", source="somewhere")


def make_ecapa(folder: Path, path: str):
    """A small ECAPA with random weights, in the layout of speechbrain's published ones."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ECAPA_TDNN(20, channels=[16, 16, 16, 16, 48], kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1],
                             attention_channels=8, lin_neurons=24)
        classifier = Classifier(24, out_neurons=5)
    folder.mkdir()
    torch.save(network.state_dict(), folder / "embedding_model.ckpt")
    torch.save(classifier.state_dict(), folder / "classifier.ckpt")
    (folder / "label_encoder.txt").write_text("'a' => 0\n================\n'starting_index' => 0\n")
    (folder / "hyperparams.yaml").write_text(ECAPA_YAML.format(path=path))
    return network.eval()


@torch.no_grad()
def test_ecapa_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = make_ecapa(tmp_path / "model", path="speechbrain/spkrec-ecapa-voxceleb")
    before = sorted(tmp_path.rglob("*"))
    encoder = speaker_encoder("ecapa", source=tmp_path / "model")
    waves = [voice(1.0), voice(1.7, pitch=200.0)]
    embeddings = encoder.embed(waves, sample_rate=RATE)
    assert encoder.name == "ecapa" and encoder.dim == 24 and embeddings.shape == (2, 24)
    assert sorted(tmp_path.rglob("*")) == before

    from speechbrain.lobes.features import Fbank

    for wave, embedding in zip(waves, embeddings, strict=True):
        features = Fbank(n_mels=20)(torch.from_numpy(wave).unsqueeze(0))
        expected = network(features - features.mean(dim=1, keepdim=True)).flatten()
        assert np.abs(embedding - (expected / expected.norm()).numpy()).max() < 1e-5
    assert np.array_equal(encoder.embed(waves[:1], sample_rate=RATE)[0], embeddings[0])


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda f: (f / "hyperparams.yaml").unlink(), FileNotFoundError, "no hyperparams.yaml"),
    (lambda f: (f / "embedding_model.ckpt").unlink(), ValueError, "embedding_model.ckpt"),
    (lambda f: (f / "embedding_model.ckpt").write_bytes((f / "embedding_model.ckpt").read_bytes()[:900]), ValueError, "no usable"),
    (lambda f: (f / "hyperparams.yaml").write_text("just: words"), ValueError, "pretrainer"),
])
def test_bad_ecapa_folders_are_named_in_one_line(tmp_path, spoil, error, message):
    make_ecapa(tmp_path / "model", path=str(tmp_path / "model"))
    spoil(tmp_path / "model")
    with pytest.raises(error, match=message) as caught:
        speaker_encoder("ecapa", source=str(tmp_path / "model"))
    assert str(tmp_path / "model") in str(caught.value) and "\n" not in str(caught.value)


def test_ecapa_sources_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        speaker_encoder("ecapa", source=tmp_path / "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'owner/no-such-encoder' cannot be fetched") as caught:
        speaker_encoder("ecapa", source="owner/no-such-encoder")
    assert "\n" not in str(caught.value) and "hyperparams.yaml" in str(caught.value)
