"""Row `speak`: from symbol ids to a mel at full size, one sentence and a batch of sentences."""
from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_measure import Figure, Settings, compared, interleaved
from bench_model import drawn, load_original, size, write_weights
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import gradtts_robust as gr

ROW = "speak"
STEPS, TEMPERATURE, FRAMES_PER_ID = 10, 1.5, 3


@dataclass
class Speakers:
    """Both models ready to speak; `original` is None where there is none."""

    ours: nn.Module
    original: nn.Module | None
    device: str

    def say(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Our mel [B, 80, F]."""
        rows = torch.zeros(len(ids), dtype=torch.int64, device=self.device)
        generator = torch.Generator().manual_seed(0)
        return self.ours.synthesize(ids, lengths, rows, steps=STEPS, temperature=TEMPERATURE, generator=generator).mel

    def say_original(self, ids: Tensor, lengths: Tensor, noise: Tensor) -> Tensor:
        """The original's, from the same noise."""
        rows = torch.zeros(len(ids), dtype=torch.int64, device=self.device)
        with drawn(noise=noise):
            return self.original(ids, lengths, STEPS, temperature=TEMPERATURE, spk=rows)[1]

    def sentence(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [1, length], their number, and the noise [1, 80, F] that ours draws for them."""
        ids = torch.randint(0, 148, (1, length), generator=torch.Generator().manual_seed(length))
        noise = torch.randn(1, 80, FRAMES_PER_ID * length, generator=torch.Generator().manual_seed(0))
        return ids.to(self.device), torch.tensor([length], device=self.device), noise.to(self.device)


def measure(settings: Settings) -> list[Figure]:
    """One sentence of 2.5 s, then 16 of unequal length as a batch and one by one."""
    speakers = load(settings)
    torch.set_num_threads(settings.threads)
    return [one_sentence(speakers, settings), *many_sentences(speakers, settings)]


def load(settings: Settings) -> Speakers:
    """Both models, with durations of 3 frames a symbol."""
    sizes = size(settings)
    weights: Path = write_weights(settings.work / "speak.pt", sizes, frames_per_id=FRAMES_PER_ID)
    original = load_original(weights, sizes, settings).eval() if settings.original else None
    return Speakers(gr.load(weights, device=settings.device).model, original, settings.device)


def one_sentence(speakers: Speakers, settings: Settings) -> Figure:
    """72 symbols are 216 frames, 2.51 s."""
    length = 8 if settings.quick else 72
    ids, lengths, noise = speakers.sentence(length)
    calls = {"ours": lambda: speakers.say(ids, lengths)}
    note, values = "", {}
    if speakers.original:
        calls["original"] = lambda: speakers.say_original(ids, lengths, noise)
        mels = [call() for call in calls.values()]
        values = {"mel_difference": float((mels[0] - mels[1]).abs().max()), "mel_std": float(mels[1].std())}
        note = f"largest difference of the mels {values['mel_difference']:.1e} (goal 1e-2), their spread {values['mel_std']:.1f}"
    name = f"{FRAMES_PER_ID * length * 256 / 22050:.1f} s of mel, {STEPS} steps"
    return compared(ROW, name, interleaved(calls, settings), goal="at least 5", note=note, values=values)


def many_sentences(speakers: Speakers, settings: Settings) -> list[Figure]:
    """16 sentences of 0.8 to 4.0 s: the batch against the original one by one, and against ours one by one."""
    # multiples of 4 symbols are multiples of 4 frames: the original's attention sees what it pads to
    symbols = [8, 12] if settings.quick else [24 + 4 * (i * 23 // 15) for i in range(16)]
    sentences = [speakers.sentence(length) for length in symbols]
    ids = pad_sequence([ids[0] for ids, _, _ in sentences], batch_first=True)
    lengths = torch.cat([length for _, length, _ in sentences])
    calls = {"ours": lambda: speakers.say(ids, lengths), "ours one by one": lambda: [speakers.say(one, n) for one, n, _ in sentences]}
    if speakers.original:
        calls["original"] = lambda: [speakers.say_original(*sentence) for sentence in sentences]
    # the single sentence has warmed both up
    seconds = interleaved(calls, settings, warm=False)
    whole = compared(ROW, f"{len(symbols)} sentences of unequal length as a batch; the original one by one", seconds, goal="at least 8")
    single = statistics.median(seconds["ours one by one"])
    note = f"{single / whole.ours:.2f} times the batch's time"
    theirs = whole.original
    return [whole, Figure(ROW, "the same one by one", ours=single, original=theirs, note=note)]
