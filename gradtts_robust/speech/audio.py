"""Sound files, resampling and the log-mel that Grad-TTS and HiFi-GAN share."""
from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gradtts_robust.files import atomic_write

SAMPLE_RATE = 22050
HOP = 256
N_FFT = 1024
N_MELS = 80
FMIN = 0.0
FMAX = 8000.0
LOG_FLOOR = 1e-5
LOUDEST = 10.0
"""A float file may overshoot 1 a little; beyond this its values are no sound but, say, 16-bit numbers."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
_STREAMED = 0x7FFFF000  # a pipe that cannot know its length writes a size near the limit


# made outside of inference mode even where first asked for within it: the cached tensors may meet autograd later
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def mel_filters(*, n_fft: int, n_mels: int, sample_rate: int, fmin: float, fmax: float,
                dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Slaney-style triangular mel filters of unit area, as librosa makes them (equal to 1e-7 without its slow import).

    Returns:
        [n_mels, n_fft // 2 + 1]; cached by every argument, so it must not be changed in place.
    """
    import torchaudio.functional as audio_functional

    filters = audio_functional.melscale_fbanks(
        n_fft // 2 + 1, fmin, fmax, n_mels, sample_rate, norm="slaney", mel_scale="slaney")
    return filters.T.contiguous().to(device=device, dtype=dtype)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _hann(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hann_window(length, dtype=dtype, device=device)


def mel_spectrogram(wave: Tensor) -> Tensor:
    """Natural-log mel as HiFi-GAN and Grad-TTS extract it: 80 bands up to 8 kHz, FFT 1024, hop 256.

    Args:
        wave: [B, N] or [N] float at 22.05 kHz, within [-1, 1], N > 384.

    Returns:
        [B, 80, F], F = N // 256, the wave's dtype and device; at least log(1e-5).

    Raises:
        ValueError: the wave is too short to be mirrored at its ends.
    """
    if wave.dim() == 1:
        wave = wave.unsqueeze(0)
    padding = (N_FFT - HOP) // 2
    if wave.dim() != 2 or wave.shape[1] <= padding:
        raise ValueError(f"a wave of shape {tuple(wave.shape)} has no mel: give [B, N] with more than {padding} samples")
    padded = F.pad(wave.unsqueeze(1), (padding, padding), mode="reflect").squeeze(1)
    spectrum = torch.stft(padded, N_FFT, hop_length=HOP, window=_hann(N_FFT, wave.dtype, wave.device),
                          center=False, return_complex=True)
    magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
    filters = mel_filters(n_fft=N_FFT, n_mels=N_MELS, sample_rate=SAMPLE_RATE, fmin=FMIN, fmax=FMAX,
                          dtype=wave.dtype, device=wave.device)
    return torch.log(torch.clamp(filters @ magnitude, min=LOG_FLOOR))


def resample(wave: np.ndarray, *, source_rate: int, target_rate: int) -> np.ndarray:
    """Changes the sample rate with soxr's high quality band-limited filter, the one librosa uses.

    Args:
        wave: [N] float32.
        source_rate, target_rate: Hz.

    Returns:
        [ceil(N target_rate / source_rate)] float32.
    """
    if source_rate == target_rate:
        return np.asarray(wave, dtype=np.float32)
    import soxr

    changed = soxr.resample(np.asarray(wave, dtype=np.float32), source_rate, target_rate, quality="HQ")
    # a float ratio, as librosa computes it: an exact one would differ by a sample for some lengths
    length = int(np.ceil(len(wave) * (float(target_rate) / source_rate)))
    return np.pad(changed, (0, max(0, length - len(changed))))[:length]


def load_audio(path: str | os.PathLike, *, sample_rate: int = SAMPLE_RATE, shortest: float = 0.05) -> np.ndarray:
    """Reads a sound file of any kind that libsndfile knows: channels averaged, resampled.

    Args:
        path: wav, flac, ogg, mp3, ...
        sample_rate: Hz of the result.
        shortest: seconds below which a file is refused.

    Returns:
        [N] float32, nominally within [-1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a sound file, cut off, empty, too short, or with values that are not finite or far beyond [-1, 1].
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sound file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; replace it or take it out")
    try:
        with soundfile.SoundFile(path) as sound:
            # an mp3 without a length in its head has it guessed from its bit rate
            rate, promised = sound.samplerate, sound.frames * (0.98 if sound.format == "MP3" else 1)
            samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).strip().rpartition(": ")[2].rstrip(".")
        raise ValueError(f"{path}: cannot be read as sound ({reason}); replace it or take it out") from error
    if len(samples) < promised or _container_is_cut(path):
        raise ValueError(f"{path}: cut off before the end that its header promises; fetch it again or take it out")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: holds values that are not finite (NaN or infinity); replace it or take it out")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > LOUDEST:
        raise ValueError(f"{path}: holds values up to {peak:.4g}, where sound lies within [-1, 1]; divide it by its scale, such as 32768")
    if len(samples) < max(1.0, shortest * rate):
        raise ValueError(f"{path}: {len(samples) / rate:.3f} s of sound is too short; at least {shortest:g} s is needed")
    return resample(samples.mean(axis=1), source_rate=rate, target_rate=sample_rate)


def _container_is_cut(path: Path) -> bool:
    """Whether a WAV or AIFF ends before its header says: libsndfile reads such a file without a word."""
    held = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"FORM":
            return 8 + struct.unpack(">I", head[4:8])[0] > held
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return False
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return size < _STREAMED and file.tell() + size > held
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def save_wav(path: str | os.PathLike, wave: np.ndarray | Tensor, sample_rate: int = SAMPLE_RATE) -> None:
    """Writes 16-bit PCM, whole or not at all; values beyond [-1, 1] are clipped.

    Args:
        path: ends in .wav or .flac.
        wave: [N] or [1, N] float.
        sample_rate: Hz.

    Raises:
        ValueError: another suffix, another shape, no samples, or values that are not finite.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in (".wav", ".flac"):
        raise ValueError(f"{path}: sound is written as .wav or .flac; choose one of these names")
    samples = wave.detach().float().cpu().numpy() if isinstance(wave, Tensor) else np.asarray(wave, dtype=np.float32)
    if samples.ndim == 2 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"{path}: a wave of shape {samples.shape} cannot be written; give [N] with N > 0")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: the wave holds values that are not finite and was not written")
    with atomic_write(path) as temporary:
        soundfile.write(temporary, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16")


def find_clips(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """Lists sound files: a file is itself, a folder is every sound file below it, sorted; several are joined.

    Names in a folder that begin with a dot are passed over: what a killed process left half-written, or what macOS notes beside a file.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: nothing was given, or a folder without a sound file.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not sources:
        raise ValueError("no sound files were given; name at least one file or folder")
    found = []
    for path in map(Path, sources):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*")
                            if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".") and p.is_file())
            if not inside:
                raise ValueError(f"{path}: no sound file in this folder (looked for {', '.join(AUDIO_SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such sound file or folder")
    return found


def load_clips(source: str | os.PathLike | Sequence[str | os.PathLike], sample_rate: int = SAMPLE_RATE) -> list[np.ndarray]:
    """Reads every sound file that `find_clips(source)` lists, in its order.

    Returns:
        One [N] float32 per file at `sample_rate`.

    Raises:
        FileNotFoundError, ValueError: as `find_clips` and `load_audio`, naming the file.
    """
    return [load_audio(path, sample_rate=sample_rate) for path in find_clips(source)]
