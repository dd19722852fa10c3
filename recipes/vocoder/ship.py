"""Scores the vocoder beside Griffin-Lim on speakers it never heard, and ships it: weights, their hash and the scores into data/.

    python recipes/vocoder/ship.py runs/vocoder/3-waves --manifest train-clean-100.csv --test test-other.csv targets/manifest.csv
"""
from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vocoder_data import split
from vocoder_errors import mel_error, stft_error
from vocoder_pitch import gross_errors, periodicity_lost, pitch

from gradtts_robust import speaker_encoder
from gradtts_robust.data.generated import VOICES, sentences
from gradtts_robust.data.manifest import Utterance, read_manifests
from gradtts_robust.files import atomic_text
from gradtts_robust.speech.audio import HOP, SAMPLE_RATE, load_audio, mel_spectrogram
from gradtts_robust.speech.phase import griffin_lim
from gradtts_robust.speech.spectral import SpectralCheckpoint, SpectralGenerator, save_spectral
from gradtts_robust.speech.vocoder import GRIFFIN_LIM, SHIPPED_VOCODER, Vocoder, linear_magnitude, load_vocoder
from gradtts_robust.study.metrics import bootstrap_interval
from gradtts_robust.training.adapt import shipped_base
from gradtts_robust.training.voice import load

LONGEST_SECONDS = 5
MEASURES = ("similarity", "mel", "stft", "gross_pitch_errors", "periodicity_lost")
Row = dict[str, float | str]


class HeldGriffinLim:
    """The vocoder without its network: Griffin-Lim's magnitudes and random phases, then the same iterations held to the mel."""

    name = "griffin-lim held to the mel"
    sample_rate = SAMPLE_RATE

    def __init__(self, *, iterations: int, momentum: float, keep: float):
        self.fitting = {"iterations": iterations, "momentum": momentum, "keep": keep}

    def __call__(self, mel: Tensor) -> Tensor:
        magnitude = linear_magnitude(mel).transpose(1, 2)
        turns = 2 * torch.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
        return griffin_lim(magnitude, torch.polar(torch.ones_like(turns), turns), mel=mel, **self.fitting)


def judge(vocoders: Sequence[Vocoder], utterances: Sequence[Utterance]) -> list[Row]:
    """A row per utterance and vocoder: what is left of the clip after its mel went through the vocoder."""
    encoder = speaker_encoder("resemblyzer")
    rows = []
    for one in utterances:
        wave = load_audio(one.path)[: LONGEST_SECONDS * SAMPLE_RATE]
        truth = torch.from_numpy(wave[: len(wave) // HOP * HOP])[None]
        mel, tune = mel_spectrogram(truth), pitch(truth[0])
        made = [vocoder(mel) for vocoder in vocoders]
        embedded = encoder.embed([truth[0].numpy(), *(wave[0].numpy() for wave in made)], sample_rate=SAMPLE_RATE)
        for vocoder, wave, similarity in zip(vocoders, made, embedded[1:] @ embedded[0], strict=True):
            again = pitch(wave[0])
            rows.append({"speaker": one.speaker, "vocoder": vocoder.name, "similarity": float(similarity),
                         "mel": float(mel_error(wave, truth)), "stft": float(stft_error(wave, truth)),
                         "gross_pitch_errors": gross_errors(again, tune), "periodicity_lost": periodicity_lost(again, tune)})
    return rows


def summary(rows: Sequence[Row], names: Sequence[str], measures: Sequence[str] = MEASURES) -> dict:
    """Means with intervals over speakers for each vocoder, and of the second's difference from the first, item by item."""
    columns = {name: [row for row in rows if row["vocoder"] == name] for name in names}
    speakers = [row["speaker"] for row in columns[names[0]]]
    found: dict = {"speakers": len(set(speakers)), "clips": len(speakers)}
    for measure in measures:
        values = {name: np.array([row[measure] for row in columns[name]]) for name in names}
        values["difference"] = values[names[0]] - values[names[1]]
        found[measure] = {name: _with_interval(numbers, speakers) for name, numbers in values.items()}
    return found


def _with_interval(values: np.ndarray, speakers: Sequence[str]) -> list[float]:
    interval = bootstrap_interval(values, speakers)
    return [round(float(number), 4) for number in (np.nanmean(values), interval.low, interval.high)]


def spoken(vocoders: Sequence[Vocoder], *, speakers: int, texts: Sequence[str]) -> dict:
    """The same mels of the shipped base through each vocoder: similarity to the speaker's centroid in the training data."""
    encoder = speaker_encoder("resemblyzer")
    tts = load(shipped_base(), device="cpu", vocoder=lambda mel: mel.new_zeros(len(mel), HOP * mel.shape[2]))
    centroids = dict(zip(tts.speakers, torch.nn.functional.normalize(_centroids(), dim=1).numpy(), strict=True))
    found = {}
    for kind in ("embedded", "real"):
        rows: list[Row] = []
        for name in [name for name in tts.speakers if (name in VOICES) == (kind == "embedded")][:speakers]:
            mels = [speech.mel for speech in tts.speak_batch(texts, speaker=name, length_scale=1.0)]
            for vocoder in vocoders:
                waves = [vocoder(mel[None])[0] for mel in mels]
                kept = encoder.embed([wave.numpy() for wave in waves], sample_rate=SAMPLE_RATE) @ centroids[name]
                rows += [{"speaker": name, "vocoder": vocoder.name, "similarity": float(similarity), "mel": _mel_kept(wave, mel),
                          "periodicity": float(tune.strength[tune.voiced].mean())}
                         for similarity, wave, mel, tune in zip(kept, waves, mels, map(pitch, waves), strict=True)]
        found[kind] = summary(rows, [vocoder.name for vocoder in vocoders], ("similarity", "mel", "periodicity"))
    return found


def _centroids() -> Tensor:
    from gradtts_robust.training.checkpoint import load_checkpoint

    return load_checkpoint(shipped_base()).embeddings


def _mel_kept(wave: Tensor, mel: Tensor) -> float:
    return float((mel_spectrogram(wave) - mel).abs().mean())


def speeds(vocoders: Sequence[Vocoder], *, threads: int, seconds: float = 2.0, rounds: int = 12) -> dict[str, float]:
    """How many times faster than real time each vocoder is: the best of several rounds, taken in turn."""
    mel = mel_spectrogram(0.1 * torch.randn(1, int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    best = {vocoder.name: _seconds(lambda v=vocoder: v(mel)) for vocoder in vocoders}
    for _ in range(rounds - 1):
        for vocoder in vocoders:
            best[vocoder.name] = min(best[vocoder.name], _seconds(lambda v=vocoder: v(mel)))
    torch.set_num_threads(before)
    return {name: round(seconds / spent, 1) for name, spent in best.items()}


def _seconds(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ship(run: Path, out: Path, *, iterations: int, momentum: float, keep: float) -> Path:
    """Writes the run's averaged weights in half precision."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    generator = SpectralGenerator(**state["sizes"])
    generator.load_state_dict(state["average"])
    path = out / f"{SHIPPED_VOCODER}.safetensors"
    save_spectral(path, SpectralCheckpoint(generator, iterations, momentum, keep), dtype=torch.float16)
    return path


def main() -> None:
    """Ships, scores what was shipped, and prints what the card needs."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--manifest", type=Path, nargs="+", required=True, help="what it was trained on: its held-out speakers validate")
    words.add_argument("--held-out", type=int, default=20)
    words.add_argument("--test", type=Path, nargs="*", default=[], help="manifests of speakers that took part in no choice")
    words.add_argument("--iterations", type=int, default=32)
    words.add_argument("--momentum", type=float, default=0.99)
    words.add_argument("--keep", type=float, default=0.2)
    words.add_argument("--speakers", type=int, default=8, help="of each kind that the base speaks as")
    words.add_argument("--threads", type=int, default=2, help="of the measurement of speed; all else takes one")
    words.add_argument("--out", type=Path, default=Path("data"))
    asked = words.parse_args()
    torch.set_num_threads(1)
    path = ship(asked.run, asked.out, iterations=asked.iterations, momentum=asked.momentum, keep=asked.keep)
    held = HeldGriffinLim(iterations=asked.iterations, momentum=asked.momentum, keep=asked.keep)
    vocoders = [load_vocoder(path), load_vocoder(GRIFFIN_LIM)]
    names = [*(vocoder.name for vocoder in vocoders), held.name]
    scores = {"validation": summary(judge([*vocoders, held], split(read_manifests(asked.manifest), asked.held_out).held_out), names)}
    for manifest in asked.test:
        label = manifest.stem if manifest.stem != "manifest" else manifest.parent.name
        scores[label] = summary(judge([*vocoders, held], read_manifests([manifest])), names)
    print(json.dumps(scores), flush=True)
    scores["spoken"] = spoken(vocoders, speakers=asked.speakers, texts=sentences("test")[:2])
    facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size,
             "parameters": sum(weights.numel() for weights in vocoders[0].generator.parameters()),
             "times_real_time": speeds(vocoders, threads=asked.threads), "threads": asked.threads, "scores": scores}
    atomic_text(asked.out / f"{SHIPPED_VOCODER}.json", json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
