"""Resemblyzer's speaker encoder from its own weights: the same embeddings, batched, without its slow import.

The package itself imports librosa's mel code, which numba compiles for seconds in every fresh process.
"""
from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradtts_robust.speech.audio import mel_filters

RATE = 16000
HOP = 160
N_FFT = 400
N_MELS = 40
PARTIAL_FRAMES = 160
PARTIALS_PER_SECOND = 1.3
MIN_COVERAGE = 0.75
LOUDNESS_DBFS = -30.0
VAD_WINDOW = 480
VAD_SMOOTHING = 8
VAD_MAX_SILENCE = 6
_CHUNK = 64


class ResemblyzerNetwork(nn.Module):
    """Three LSTM layers and a projection (GE2E, arXiv 1710.10467); mels [P, 160, 40] -> unit embeddings [P, 256]."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1, eps=1e-12)


def load_network() -> ResemblyzerNetwork:
    """Loads the weights that the resemblyzer package brings, without importing it.

    Raises:
        ValueError: the package or its weights are not there, or not whole.
    """
    spec = importlib.util.find_spec("resemblyzer")
    path = Path(spec.origin).with_name("pretrained.pt") if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ValueError("Resemblyzer's weights are not installed: pip install resemblyzer==0.1.4")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    except Exception as error:
        raise ValueError(f"{path}: Resemblyzer's weights cannot be read; reinstall resemblyzer==0.1.4") from error
    network = ResemblyzerNetwork()
    # what is left out scaled the similarity during its training
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("similarity_")})
    return network.eval().requires_grad_(False)


def preprocess(wave: np.ndarray, *, trim: bool) -> np.ndarray:
    """Resemblyzer's `preprocess_wav` after resampling: raised to -30 dBFS, and with `trim` long silences cut.

    Where nothing sounds like speech the clip stays whole: Resemblyzer would embed a silence instead, the same
    for all such clips.

    Args:
        wave: [N] float32 at 16 kHz, not all zero.

    Returns:
        [M] float32, 0 < M <= N.
    """
    loudness = 20 * np.log10(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    if loudness < LOUDNESS_DBFS:
        wave = wave * np.float32(10 ** ((LOUDNESS_DBFS - loudness) / 20))
    if not trim:
        return wave
    kept = wave[: len(wave) - len(wave) % VAD_WINDOW]
    kept = kept[np.repeat(_speech_windows(kept), VAD_WINDOW)]
    return kept if len(kept) else wave


def _speech_windows(wave: np.ndarray) -> np.ndarray:
    """Which 30 ms windows hold or neighbour speech: webrtcvad's votes, a majority of 8, widened by 3 to both sides."""
    if len(wave) == 0:
        return np.zeros(0, dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which warns
        import webrtcvad

    detector = webrtcvad.Vad(3)
    samples = np.round(np.clip(wave, -1, 1) * 32767).astype("<i2")
    votes = np.array([detector.is_speech(window.tobytes(), RATE) for window in samples.reshape(-1, VAD_WINDOW)], dtype=int)
    around = np.pad(votes, ((VAD_SMOOTHING - 1) // 2, VAD_SMOOTHING // 2))
    majority = np.convolve(around, np.ones(VAD_SMOOTHING, dtype=int), mode="valid") > VAD_SMOOTHING // 2
    width = VAD_MAX_SILENCE + 1
    return np.convolve(np.pad(majority, width // 2).astype(int), np.ones(width, dtype=int), mode="valid") > 0


def partial_starts(samples: int) -> list[int]:
    """First frames of the 1.6 s partial utterances that Resemblyzer cuts `samples` samples of 16 kHz into."""
    frames = -(-(samples + 1) // HOP)
    step = round(RATE / PARTIALS_PER_SECOND / HOP)
    starts = list(range(0, max(1, frames - PARTIAL_FRAMES + step + 1), step))
    if len(starts) > 1 and (samples - starts[-1] * HOP) / (PARTIAL_FRAMES * HOP) < MIN_COVERAGE:
        starts.pop()
    return starts


def partial_mels(wave: np.ndarray, device: torch.device) -> Tensor:
    """Mels (power, not log) of a preprocessed wave's partial utterances.

    Args:
        wave: [N] float32 at 16 kHz.

    Returns:
        [P, 160, 40] float32.
    """
    starts = partial_starts(len(wave))
    end = (starts[-1] + PARTIAL_FRAMES) * HOP
    samples = torch.from_numpy(np.pad(wave, (0, max(0, end - len(wave))))).to(device)
    spectrum = torch.stft(samples, N_FFT, HOP, window=torch.hann_window(N_FFT, device=device), center=True,
                          pad_mode="constant", return_complex=True)
    filters = mel_filters(n_fft=N_FFT, n_mels=N_MELS, sample_rate=RATE, fmin=0.0, fmax=RATE / 2, device=device)
    mel = (filters @ torch.view_as_real(spectrum).square().sum(-1)).T
    return torch.stack([mel[start: start + PARTIAL_FRAMES] for start in starts])


@torch.no_grad()
def embed(network: ResemblyzerNetwork, waves: list[np.ndarray], device: torch.device) -> np.ndarray:
    """Embeds preprocessed waves: the mean of each one's partial embeddings, at unit length.

    Args:
        waves: [N_i] float32 at 16 kHz each.

    Returns:
        [len(waves), 256] float32.
    """
    mels = [partial_mels(wave, device) for wave in waves]
    partials = torch.cat([network(chunk) for chunk in torch.cat(mels).split(_CHUNK)])
    means = torch.stack([part.mean(dim=0) for part in partials.split([len(mel) for mel in mels])])
    return nn.functional.normalize(means, dim=1).cpu().numpy()
