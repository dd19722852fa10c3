"""Trains the small vocoder; a run that is killed goes on when the same command is given again.

    python recipes/vocoder/train_vocoder.py MANIFEST... --out runs/vocoder/1-magnitudes --learn magnitude --steps 3000
    python recipes/vocoder/train_vocoder.py MANIFEST... --out runs/vocoder/2-waves --init runs/vocoder/1-magnitudes
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from vocoder_data import Piece, Pieces, split
from vocoder_errors import convergence, mel_error, stft_error

from gradtts_robust.data.manifest import Utterance, read_manifests
from gradtts_robust.files import atomic_write
from gradtts_robust.speech.audio import HOP, N_FFT, load_audio, mel_spectrogram
from gradtts_robust.speech.phase import griffin_lim
from gradtts_robust.speech.spectral import SpectralGenerator
from gradtts_robust.training import ema

MEL_WEIGHT = 3.0
# of a magnitude in the logarithm
FLOOR = 1e-4
EMA = 0.999
WARMUP = 100
LAST_RATE = 0.01
GRADIENT_NORM = 5.0
CHECK_SECONDS = 4
CHECK_ITERATIONS = 16


def objective(generator: SpectralGenerator, piece: Piece, *, learn: str, **fitting: float) -> dict[str, Tensor]:
    """Mean losses of a batch: of the magnitudes and, if waves are learnt, of the wave after Griffin-Lim's iterations."""
    guess = generator(piece.mel) if learn == "wave" else generator(piece.mel, fits=0)
    made, wanted = (part.clamp(min=FLOOR)[:, 2:-2] for part in (guess.magnitude, true_magnitude(piece.wave)))
    terms = {"magnitude": ((made.log() - wanted.log()).abs().mean(dim=(1, 2)) + convergence(made, wanted)).mean()}
    if learn == "wave":
        wave = griffin_lim(guess.magnitude, guess.phase, mel=piece.mel, **fitting)
        terms["mel"] = MEL_WEIGHT * mel_error(wave, piece.wave).mean()
        terms["stft"] = stft_error(wave, piece.wave).mean()
    return terms


def true_magnitude(wave: Tensor) -> Tensor:
    """Magnitudes [B, F, 513] of the frames of `mel_spectrogram`, mirrored at the ends as there."""
    padding = (N_FFT - HOP) // 2
    padded = torch.nn.functional.pad(wave[:, None], (padding, padding), mode="reflect")[:, 0]
    return torch.fft.rfft(padded.unfold(1, N_FFT, HOP) * torch.hann_window(N_FFT)).abs()


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate: a short warm-up, then half a cosine down to `LAST_RATE`."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * min(1.0, done))) / 2


class Trainer:
    """Generator, its average and its optimizer, with a seeded source of pieces; saved and read as one file."""

    def __init__(self, asked: argparse.Namespace):
        self.asked = asked
        self.random = torch.Generator().manual_seed(asked.seed)
        torch.manual_seed(asked.seed)
        self.generator = SpectralGenerator()
        if asked.init:
            self.generator.load_state_dict(_read(asked.init / "state.pt")["average"])
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), asked.rate, betas=(0.8, 0.99), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        self.path = asked.out / "state.pt"
        if self.path.is_file():
            self._resume()

    def _resume(self) -> None:
        state = _read(self.path)
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.set_state(state["random"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Writes everything that the run needs to go on."""
        state = {"generator": self.generator.state_dict(), "average": self.average.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "random": self.random.get_state(), "step": self.step,
                 "seconds": self.seconds, "sizes": self.generator.sizes}
        with atomic_write(self.path) as temporary:
            torch.save(state, temporary)

    def advance(self, pieces: Pieces) -> dict[str, float]:
        """One step; the losses before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.asked.rate * rate_at(self.step, self.asked.steps)
        terms = objective(self.generator, pieces.draw(self.asked.batch, self.random), learn=self.asked.learn,
                          iterations=self.asked.iterations, momentum=self.asked.momentum, keep=self.asked.keep)
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.generator.parameters(), GRADIENT_NORM)
        # a phase at a vanishing magnitude has no gradient to speak of
        if torch.isfinite(norm):
            self.optimizer.step()
        ema.update(self.average, self.generator, decay=EMA, step=self.step)
        self.step += 1
        return {name: float(value.detach()) for name, value in terms.items()} | {"norm": float(norm)}


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path}: no such state of a training; --init takes the folder of a finished run")
    return torch.load(path, map_location="cpu", weights_only=True)


@torch.no_grad()
def check(generator: SpectralGenerator, waves: list[Tensor], **fitting: float) -> dict[str, float]:
    """Errors of the averaged weights on held-out speakers, by Griffin-Lim's iterations."""
    found = {}
    for iterations in (0, 4, CHECK_ITERATIONS):
        errors = []
        for wave in waves:
            mel = mel_spectrogram(wave)
            guess = generator(mel)
            made = griffin_lim(guess.magnitude, guess.phase, iterations=iterations, mel=mel, **fitting)
            errors.append(torch.stack([mel_error(made, wave)[0], stft_error(made, wave)[0]]))
        mel, stft = torch.stack(errors).mean(dim=0).tolist()
        found |= {f"mel_{iterations}": round(mel, 4), f"stft_{iterations}": round(stft, 4)}
    return found


def check_waves(utterances: list[Utterance]) -> list[Tensor]:
    """The first seconds of every held-out utterance, whole frames, [1, 256 F] each."""
    waves = [load_audio(one.path)[: CHECK_SECONDS * 22050] for one in utterances]
    return [torch.from_numpy(wave[: len(wave) // HOP * HOP])[None] for wave in waves]


def run(asked: argparse.Namespace) -> None:
    """Trains to the end, or from where the run was left."""
    parts = split(read_manifests(asked.manifests), asked.held_out)
    trainer = Trainer(asked)
    pieces, waves = Pieces(parts.train, frames=asked.frames), check_waves(parts.held_out)
    asked.out.mkdir(parents=True, exist_ok=True)
    recent: list[dict[str, float]] = []
    began = time.process_time()
    end = min(asked.steps, asked.stop_at or asked.steps)
    while trainer.step < end:
        recent.append(trainer.advance(pieces))
        if trainer.step % asked.checkpoint_every == 0 or trainer.step == end:
            trainer.seconds += time.process_time() - began
            began = time.process_time()
            means = {name: round(sum(one[name] for one in recent) / len(recent), 4) for name in recent[0]}
            errors = check(trainer.average, waves, momentum=asked.momentum, keep=asked.keep)
            line = {"step": trainer.step, "cpu_seconds": round(trainer.seconds), **means, **errors}
            trainer.save()
            with open(asked.out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            recent = []


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, or `argv`."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("manifests", type=Path, nargs="+")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--init", type=Path, help="folder of a run whose averaged weights to start from")
    words.add_argument("--learn", choices=("magnitude", "wave"), default="wave")
    words.add_argument("--iterations", type=int, default=2, help="of Griffin-Lim that waves are learnt through")
    words.add_argument("--momentum", type=float, default=0.9, help="of these iterations")
    words.add_argument("--keep", type=float, default=0.3, help="share of the guessed magnitudes in these iterations")
    words.add_argument("--steps", type=int, default=8000)
    words.add_argument("--stop-at", type=int, default=0, help="a step before the last to stop at, as if killed there; 0 for none")
    words.add_argument("--checkpoint-every", type=int, default=500)
    words.add_argument("--rate", type=float, default=1e-3)
    words.add_argument("--batch", type=int, default=12)
    words.add_argument("--frames", type=int, default=64)
    words.add_argument("--held-out", type=int, default=20, help="real speakers, those with the highest ids, that are not learnt from")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--threads", type=int, default=1)
    asked = words.parse_args(argv)
    torch.set_num_threads(asked.threads)
    try:
        run(asked)
    except (ValueError, FileNotFoundError) as error:
        words.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
