"""A trained model that speaks: text in, sound out."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..config import DEFAULT_VOCODER
from ..speech.audio import HOP, SAMPLE_RATE
from ..speech.text import encode
from ..speech.vocoder import load_vocoder
from . import setup
from .checkpoint import Checkpoint, load_checkpoint

NAMES_SHOWN = 10


@dataclass
class Speech:
    """What was said.

    Args:
        wave: [N] float32, N = 256 F.
        sample_rate: of the wave, Hz.
        mel: [80, F] float32, natural log.
        durations: [T] int64, frames of each symbol, with the sum F.
    """

    wave: np.ndarray
    sample_rate: int
    mel: Tensor
    durations: Tensor


class TTS:
    """A model with its front end, speakers and vocoder.

    Args:
        checkpoint: what was loaded.
        device: `cpu` or `cuda`.
        vocoder: `griffin-lim`, `vocoder-small`, a checkpoint's path, or a callable mel [B, 80, F] -> wave [B, 256 F]; loaded when first
            needed.

    Attributes:
        model: the `GradTTS`, in `eval()`.
        speakers: names by row of the speaker table; empty where the checkpoint has none.
        text: the front end's settings.
        default_speaker: who speaks where nobody is named; None where that must be said.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str = "cpu", vocoder: str | os.PathLike | Callable = DEFAULT_VOCODER):
        self.model = checkpoint.model.to(device).eval()
        self.speakers, self.text, self.step = list(checkpoint.speakers), checkpoint.text, checkpoint.step
        self.default_speaker, self.device = checkpoint.default_speaker, device
        self._vocoder = vocoder

    @property
    def vocoder(self) -> Callable[[Tensor], Tensor]:
        """Turns mels [B, 80, F] into waves [B, 256 F]; set it by name, path or callable."""
        if not callable(self._vocoder):
            self._vocoder = load_vocoder(os.fspath(self._vocoder), device=self.device)
        return self._vocoder

    @vocoder.setter
    def vocoder(self, value: str | os.PathLike | Callable) -> None:
        self._vocoder = value

    def speak(self, text: str, *, speaker: int | str | None = None, steps: int = 10, temperature: float = 1.5,
              length_scale: float = 0.91, seed: int = 0, solver: str = "ode") -> Speech:
        """Says one text.

        Args:
            text: what to say.
            speaker: row or name; None for the checkpoint's default speaker, or the only one.
            steps: steps of the reverse process, >= 1.
            temperature: > 0, divides the start noise: above 1 is calmer.
            length_scale: > 0, multiplies the durations: below 1 is faster.
            seed: of the start noise, which is drawn on the CPU, so that it means the same on every device.
            solver: a name in `model.samplers.SAMPLERS`.

        Raises:
            ValueError: a text without anything to pronounce, an unknown speaker, none named among several, or a seed outside [0, 2^32).
        """
        return self.speak_batch([text], speaker=speaker, steps=steps, temperature=temperature, length_scale=length_scale,
                                seed=seed, solver=solver)[0]

    @torch.no_grad()
    def speak_batch(self, texts: Sequence[str], *, speaker: int | str | None = None, steps: int = 10, temperature: float = 1.5,
                    length_scale: float = 0.91, seed: int = 0, solver: str = "ode") -> list[Speech]:
        """Says several texts in one pass, as `speak` does; the noise, and so the sound, depends on the whole list."""
        if not texts:
            return []
        setup.check_seed(seed)
        row = self.speaker_row(speaker)
        ids = [torch.tensor(encode(text, self.text)) for text in texts]
        speakers = None if row is None else torch.full((len(ids),), row, device=self.device)
        made = self.model.synthesize(
            pad_sequence(ids, batch_first=True).to(self.device), torch.tensor([len(i) for i in ids], device=self.device), speakers,
            steps=steps, temperature=temperature, length_scale=length_scale, solver=solver,
            generator=torch.Generator().manual_seed(seed))
        spoken = []
        for one, mel, frames, durations in zip(ids, made.mel.float(), made.mel_lengths.tolist(), made.durations.cpu(), strict=True):
            mel = mel[:, :frames]
            wave = self.vocoder(mel[None])[0].float().cpu().numpy()[: HOP * frames]
            spoken.append(Speech(wave, SAMPLE_RATE, mel.cpu(), durations[: len(one)]))
        return spoken

    def speaker_row(self, speaker: int | str | None) -> int | None:
        """Row of the speaker table for a name, a row or None (the default); None for a single-speaker model.

        A name that is no speaker's but a number is taken as the row, as it comes so from a command line.

        Raises:
            ValueError: no such speaker, or none named where there is no default.
        """
        count = self.model.config.n_speakers
        name = self.default_speaker if speaker is None else speaker
        if isinstance(name, str) and name in self.speakers:
            return self.speakers.index(name) if count > 1 else None
        if isinstance(name, str) and name.isdecimal():
            name = int(name)
        if isinstance(name, int) and 0 <= name < count:
            return name if count > 1 else None
        if name is None and count == 1:
            return None
        shown = ", ".join(self.speakers[:NAMES_SHOWN]) + (", ..." if len(self.speakers) > NAMES_SHOWN else "")
        known = f"rows 0 to {count - 1}" + (f", names {shown}" if shown else "")
        said = "this model has several speakers; say which" if name is None else f"unknown speaker {name!r}"
        raise ValueError(f"{said}: {known}")


def load(path: str | os.PathLike, *, device: str = "auto", vocoder: str | os.PathLike | Callable = DEFAULT_VOCODER, **overrides) -> TTS:
    """Loads a voice: our checkpoint file, its folder, a run folder (its newest checkpoint), or the original Grad-TTS' .pt.

    Args:
        path: where it lies.
        device: `auto`, `cpu` or `cuda`.
        vocoder: see `TTS`.
        overrides: what the shapes of an original checkpoint cannot tell, such as `pe_scale=1`; fields of `ModelConfig`.

    Raises:
        FileNotFoundError, ValueError: nothing there, not a checkpoint, or a truncated one.
    """
    return TTS(load_checkpoint(path, **overrides), device=setup.resolve_device(device), vocoder=vocoder)
