"""Grad-TTS (arXiv 2105.06337): text encoder, alignment and score network together, for training and for synthesis."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.alignment import frame_symbols, hear_pauses, log_prior, search_durations
from gradtts_robust.model.conditioning import Perturbation, speaker_rows
from gradtts_robust.model.diffusion import NoiseSchedule, forward_process, residual, sample_t
from gradtts_robust.model.encoder import N_MELS, Encoded, TextEncoder, sequence_mask
from gradtts_robust.model.frames import at_frames, segment_indices, whole_durations
from gradtts_robust.model.lean import LeanUNet
from gradtts_robust.model.samplers import SAMPLERS
from gradtts_robust.model.unet import GradTTSUNet

if TYPE_CHECKING:
    from gradtts_robust.losses import Objective

DECODERS = {"grad-tts": GradTTSUNet, "lean": LeanUNet}
FRAME_MULTIPLES = {"grad-tts": 4, "lean": 8}
"""What the number of frames must be a multiple of; the original pads to 4, and its attention sees the padding."""


@dataclass
class Synthesis:
    """What `GradTTS.synthesize` made, cut to the longest utterance's F frames.

    Args:
        mel: natural-log mel [B, 80, F], zero past a row's length.
        mel_lengths: frames of each row, int64 [B].
        durations: frames of each symbol, int64 [B, T]; a row sums to its length.
        mu: the encoder's prediction at each frame, [B, 80, F].
    """

    mel: Tensor
    mel_lengths: Tensor
    durations: Tensor
    mu: Tensor


class Decoder(nn.Module):
    """Holds the score network as `estimator`, where the original's checkpoints have it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.estimator = DECODERS[config.decoder](config)


class GradTTS(nn.Module):
    """Grad-TTS, its state dict named as the original's.

    Args:
        config: every setting; `config.decoder` picks the score network.

    Raises:
        ValueError: a setting that makes no network.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.decoder not in DECODERS:
            raise ValueError(f"unknown decoder {config.decoder!r}; known: {', '.join(DECODERS)}")
        if config.n_speakers < 1:
            raise ValueError(f"n_speakers is {config.n_speakers}; a model has at least 1")
        self.config = config
        self.schedule = NoiseSchedule(config.beta_min, config.beta_max)
        if config.n_speakers > 1:
            self.spk_emb = speaker_rows(config)
        self.encoder = TextEncoder(config)
        self.decoder = Decoder(config)

    def forward(self, batch, **settings) -> dict[str, Tensor]:
        """`training_terms`, as data-parallel wrappers call it."""
        return self.training_terms(batch, **settings)

    def encode(self, ids: Tensor, lengths: Tensor, speakers: Tensor | None = None) -> Encoded:
        """Encodes symbols: ids int64 [B, T], lengths [B], speaker ids [B] (None where there is one speaker)."""
        return self.encoder(ids, lengths, self._rows(speakers))

    def score(self, noisy: Tensor, mask: Tensor, mu: Tensor, t: Tensor, speakers: Tensor | None = None) -> Tensor:
        """Estimates the score of X_t.

        Args:
            noisy: X_t, [B, 80, F], F a multiple of the decoder's `FRAME_MULTIPLES`.
            mask: 1 on frames that are there, [B, 1, F].
            mu: the encoder's prediction at each frame, [B, 80, F].
            t: [B], in [0, 1].
            speakers: ids [B], or None where there is one speaker.

        Returns:
            [B, 80, F], zero where masked.
        """
        return self.decoder.estimator(noisy, mask, mu, t, self._rows(speakers))

    def align(self, mu: Tensor, mel: Tensor, ids: Tensor, ids_lengths: Tensor, mel_lengths: Tensor) -> Tensor:
        """Finds durations by monotonic alignment search, `config.pause_symbol` heard as silence too.

        Args:
            mu: of `encode`, [B, 80, T].
            mel: natural log, [B, 80, F].
            ids: [B, T] with ids_lengths [B]; mel_lengths: [B].

        Returns:
            Frames of each symbol, int64 [B, T].

        Raises:
            ValueError: a row with more symbols than frames.
        """
        values = log_prior(mu, mel)
        if self.config.pause_symbol is not None:
            values = hear_pauses(values, ids, ids_lengths, pause=self.config.pause_symbol)
        return search_durations(values, ids_lengths, mel_lengths)

    def sample(self, start: Tensor, mask: Tensor, mu: Tensor, speakers: Tensor | None = None, steps: int = 10, *,
               solver: str = "ode", generator: torch.Generator | None = None) -> Tensor:
        """Solves the reverse process from `start`, [B, 80, F], usually mu + noise / temperature; the rest is as in `score`.

        Args:
            steps: score evaluations, >= 1.
            solver: a name in `samplers.SAMPLERS`.
            generator: where stochastic solvers get their noise.

        Returns:
            log-mel [B, 80, F].

        Raises:
            ValueError: an unknown solver or too few steps.
        """
        if solver not in SAMPLERS:
            raise ValueError(f"unknown solver {solver!r}; known: {', '.join(SAMPLERS)}")

        def score(noisy: Tensor, mask: Tensor, mu: Tensor, t: Tensor) -> Tensor:
            return self.score(noisy, mask, mu, t, speakers)

        return SAMPLERS[solver](score, start, mask, mu, schedule=self.schedule, steps=steps, generator=generator)

    def diffusion_terms(self, mel: Tensor, mask: Tensor, mu: Tensor, t: Tensor, speakers: Tensor | None = None, *, noise: Tensor,
                        objective: Objective, weights: Tensor | None = None, rows: Tensor | None = None,
                        input_noise: Tensor | None = None, network: Callable[..., Tensor] | None = None) -> Tensor:
        """The diffusion loss at given times and noise.

        Args:
            mel: X_0, [B, 80, F]; mask, mu, t and speakers are as in `score`.
            noise: xi, standard normal, [B, 80, F].
            objective: what the residual sqrt(lambda) s + xi costs.
            weights: of the examples, [B].
            rows: the speakers' rows [B, speaker_dim]; None for those of the table.
            input_noise: what is put into X_t where that is not the target, [B, 80, F].
            network: what runs in place of the score network, such as the same one compiled.

        Returns:
            [B].
        """
        noise = noise * mask
        noisy = forward_process(mel, mu, t, noise if input_noise is None else input_noise * mask, self.schedule) * mask
        score = (network or self.decoder.estimator)(noisy, mask, mu, t, self._rows(speakers) if rows is None else rows)
        errors = residual(score, noise, t, self.schedule)
        return objective(errors, t=t, snr=self.schedule.snr(t), mask=mask, weights=weights)

    def training_terms(self, batch, *, objective: Objective | None, segment_frames: int | None, generator: torch.Generator | None,
                       weights: Tensor | None = None, stratified: bool = False,
                       perturbation: Perturbation | None = None, t: Tensor | None = None,
                       network: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
        """The three losses of Grad-TTS, per example.

        Encoder and prior see whole utterances, the score network a random segment of each. The diffusion term reaches the encoder
        through mu. An utterance that a batch has several times, as small adaptation sets make it, is encoded once, with one dropout mask.

        Args:
            batch: a `data.dataset.Batch` on the model's device. Durations it knows are the alignment; other rows are aligned by search.
            objective: the diffusion loss; None leaves the score network out, and the term is zero.
            segment_frames: frames that the score network sees, >= 8 and a multiple of the decoder's `FRAME_MULTIPLES`; None for whole
                utterances.
            generator: on the CPU: draws segments, then times, then noise, so that a seed means the same on every device.
            weights: of the examples in the diffusion term, [B].
            stratified: spread the batch's times evenly, see `diffusion.sample_t`.
            perturbation: of what the score network is told, drawn after all else; nothing where the whole model is in `eval()`.
            t: times [B] to use instead of drawing them.
            network: see `diffusion_terms`.

        Returns:
            `duration`, the mean over symbols of the squared error of the log-duration; `prior`, 0.5 ((mel - mu)^2 + log 2 pi) as the mean
            over bins; `diffusion`. Each [B].

        Raises:
            ValueError: segment_frames that does not fit.
        """
        once, copies = _distinct(batch)
        encoded = self.encode(once.ids, once.ids_lengths, once.speakers)
        mel = once.mel.to(encoded.mu.dtype)
        mask = sequence_mask(once.mel_lengths, mel.shape[2], dtype=mel.dtype)
        durations = self._durations(once, encoded.mu)
        mu = at_frames(encoded.mu, frame_symbols(durations, mel.shape[2])) * mask
        bins = N_MELS * once.mel_lengths.clamp_min(1)
        prior = (0.5 * ((mel - mu).square() + math.log(2 * math.pi)) * mask).sum((1, 2)) / bins
        target = torch.log(1e-8 + durations).unsqueeze(1)
        duration = ((encoded.log_durations - target).square() * encoded.mask).sum((1, 2)) / once.ids_lengths.clamp_min(1)
        if copies is not None:
            duration, prior, mel, mu = (values[copies] for values in (duration, prior, mel, mu))

        if objective is None:
            return {"duration": duration, "prior": prior, "diffusion": torch.zeros_like(prior)}
        frames = segment_indices(batch.mel_lengths, mel.shape[2], segment_frames, generator=generator,
                                 multiple=FRAME_MULTIPLES[self.config.decoder])
        segment_mask = (frames < batch.mel_lengths.unsqueeze(1)).unsqueeze(1).to(mel.dtype)
        frames = frames.clamp_max(mel.shape[2] - 1)
        mel, mu = (at_frames(values, frames) * segment_mask for values in (mel, mu))
        t = (sample_t(len(mel), generator, stratified=stratified) if t is None else t).to(mel, non_blocking=True)
        noise = torch.randn(mel.shape, generator=generator, dtype=torch.float32).to(mel, non_blocking=True)
        rows, input_noise = self._rows(batch.speakers), noise
        if perturbation is not None and any(part.training for part in self.children()):
            rows = rows if rows is None else perturbation.speaker(rows, self.spk_emb.weight, generator)
            mu = perturbation.mu(mu, generator) * segment_mask
            input_noise = perturbation.noise(noise, generator)
        diffusion = self.diffusion_terms(mel, segment_mask, mu, t, batch.speakers, noise=noise, objective=objective, weights=weights,
                                         rows=rows, input_noise=input_noise, network=network)
        return {"duration": duration, "prior": prior, "diffusion": diffusion}

    @torch.no_grad()
    def synthesize(self, ids: Tensor, lengths: Tensor, speakers: Tensor | None = None, *, steps: int = 10, temperature: float = 1.5,
                   length_scale: float = 1.0, solver: str = "ode", generator: torch.Generator | None = None) -> Synthesis:
        """Speaks: text encoder, durations, reverse process. The model should be in `eval()`.

        On a CPU the reverse process is solved row by row, so that no row pays for the longest one's frames; on a GPU together, where the
        `grad-tts` decoder sees the padding, as the original's does, so that a row differs a little from the same one alone.

        Args:
            ids: symbol ids, int64 [B, T], with lengths [B] and speaker ids [B] (None where there is one speaker).
            steps: score evaluations.
            temperature: > 0; the start is mu + noise / temperature, so that more is calmer.
            length_scale: > 0, multiplies every duration.
            solver: a name in `samplers.SAMPLERS`.
            generator: on the CPU, draws the noise.

        Raises:
            ValueError: a setting out of its range, or a model whose durations cannot be speech.
        """
        for name, value in (("temperature", temperature), ("length_scale", length_scale)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0")
        encoded = self.encode(ids, lengths, speakers)
        durations = whole_durations(torch.ceil(torch.exp(encoded.log_durations) * encoded.mask).squeeze(1) * length_scale)
        mel_lengths = durations.sum(1)
        longest = int(mel_lengths.max())
        multiple = FRAME_MULTIPLES[self.config.decoder]
        padded = -(-longest // multiple) * multiple
        mask = sequence_mask(mel_lengths, padded, dtype=encoded.mu.dtype)
        mu = at_frames(encoded.mu, frame_symbols(durations, padded)) * mask
        noise = torch.randn(mu.shape, generator=generator, dtype=torch.float32).to(mu)
        start = mu + noise / temperature
        if mu.device.type == "cpu":
            mel = torch.zeros_like(mu)
            for row, frames in enumerate((-(-mel_lengths // multiple) * multiple).tolist()):
                cut = (slice(row, row + 1), slice(None), slice(frames))
                mel[cut] = self.sample(start[cut], mask[cut], mu[cut], None if speakers is None else speakers[cut[0]], steps, solver=solver,
                                       generator=generator)
        else:
            mel = self.sample(start, mask, mu, speakers, steps, solver=solver, generator=generator)
        return Synthesis(mel[:, :, :longest], mel_lengths, durations, mu[:, :, :longest])

    def _durations(self, batch, mu: Tensor) -> Tensor:
        """Durations [B, T] of a batch: those it knows, and by search where a row has none."""
        if not batch.unaligned:
            return batch.durations
        rows = torch.tensor(batch.unaligned).to(mu.device, non_blocking=True)
        found = self.align(mu[rows], batch.mel[rows], batch.ids[rows], batch.ids_lengths[rows], batch.mel_lengths[rows])
        return batch.durations.index_copy(0, rows, found)

    def _rows(self, speakers: Tensor | None) -> Tensor | None:
        if self.config.n_speakers == 1:
            return None
        if speakers is None:
            raise ValueError(f"this model has {self.config.n_speakers} speakers; say which, by ids [B]")
        return self.spk_emb(speakers)


def _distinct(batch) -> tuple[object, Tensor | None]:
    """The batch with every utterance once, and for each row of `batch` its place there; None where all differ, as the nameless do."""
    names = [key or row for row, key in enumerate(batch.keys)]
    kept = [row for row, name in enumerate(names) if names.index(name) == row]
    if len(kept) == len(names):
        return batch, None
    place = {names[row]: index for index, row in enumerate(kept)}
    return batch.rows(kept), torch.tensor([place[name] for name in names]).to(batch.ids.device, non_blocking=True)
