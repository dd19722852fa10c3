"""The benchmark's two models with the same weights, and the data that they are fed."""
from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import bench_original
import torch
from bench_measure import Settings
from torch import Tensor, nn

from gradtts_robust.config import PRESETS, ModelConfig
from gradtts_robust.data.dataset import Features
from gradtts_robust.model.gradtts import GradTTS

MEL_MEAN = -5.0


@dataclass(frozen=True)
class Size:
    """How large the model and its data are; the defaults are the original's for many speakers."""

    batch: int = 16
    ids: int = 120
    frames: int = 400
    segment: int = 172
    speakers: int = 247
    channels: int = 192
    filters: int = 768
    layers: int = 6
    decoder_dim: int = 64


FULL = Size()
QUICK = Size(batch=2, ids=10, frames=40, segment=12, speakers=3, channels=16, filters=16, layers=1, decoder_dim=8)


def size(settings: Settings) -> Size:
    """The sizes of this run."""
    return QUICK if settings.quick else FULL


def model_config(sizes: Size) -> ModelConfig:
    """The original's network for many speakers: the preset `full` with its encoder, which is never told the speaker."""
    return ModelConfig(**{**PRESETS["full"], "condition_encoder": False, "n_speakers": sizes.speakers, "encoder_channels": sizes.channels,
                          "encoder_filter": sizes.filters, "encoder_layers": sizes.layers, "decoder_dim": sizes.decoder_dim})


def write_weights(path: Path, sizes: Size, *, frames_per_id: int = 0) -> Path:
    """Writes random weights as the original stores them, none of them zero, so that every part has a gradient.

    The score is scaled to unit size: with plain random weights ten steps of the reverse process overflow.

    Args:
        frames_per_id: what every symbol lasts; 0 for what random weights say.
    """
    torch.manual_seed(0)
    net = GradTTS(model_config(sizes)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        net.encoder.proj_m.bias.fill_(MEL_MEAN)
        if frames_per_id:
            net.encoder.proj_w.proj.weight.zero_()
            net.encoder.proj_w.proj.bias.fill_(float(torch.tensor(frames_per_id - 0.5).log()))
        noisy, mask = torch.randn(1, 80, 64) + MEL_MEAN, torch.ones(1, 1, 64)
        score = net.score(noisy, mask, torch.full_like(noisy, MEL_MEAN), torch.tensor([0.5]), torch.tensor([0]))
        for parameter in net.decoder.estimator.final_conv.parameters():
            parameter.div_(score.std())
    torch.save(net.state_dict(), path)
    return path


def load_original(weights: Path, sizes: Size, settings: Settings) -> nn.Module:
    """The original's model with the weights of `write_weights`."""
    package, shape = bench_original.load(settings.original, settings.search), model_config(sizes)
    net = package.GradTTS(
        shape.n_symbols, shape.n_speakers, shape.speaker_dim, shape.encoder_channels, shape.encoder_filter, shape.duration_filter,
        shape.encoder_heads, shape.encoder_layers, shape.encoder_kernel, shape.encoder_dropout, shape.encoder_window, 80,
        shape.decoder_dim, shape.beta_min, shape.beta_max, shape.pe_scale)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.to(settings.device)


def make_features(sizes: Size) -> list[Features]:
    """A batch of utterances of equal length and different speakers, not aligned."""
    generator = torch.Generator().manual_seed(1)
    return [Features(
        torch.randint(0, 148, (sizes.ids,), generator=generator), 2 * torch.randn(80, sizes.frames, generator=generator) + MEL_MEAN, None,
        f"utterance {row}", f"speaker {row % sizes.speakers}") for row in range(sizes.batch)]


def speaker_rows(sizes: Size) -> dict[str, int]:
    """Rows of the table for the names of `make_features`."""
    return {f"speaker {row}": row for row in range(sizes.speakers)}


@contextmanager
def drawn(*, starts: Tensor | None = None, t: Tensor | None = None, noise: Tensor | None = None) -> Iterator[None]:
    """The original draws these segments [B], times [B] and noise instead of its own."""
    with (mock.patch.object(random, "choice", mock.Mock(side_effect=None if starts is None else starts.tolist())),
          mock.patch.object(torch, "rand", lambda *_, **__: t.clone()),
          mock.patch.object(torch, "randn", lambda *_, **__: noise.clone()),
          mock.patch.object(torch, "randn_like", lambda *_, **__: noise.clone())):
        yield
