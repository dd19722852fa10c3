"""Text encoder and duration predictor: Glow-TTS' (arXiv 2005.11129) as Grad-TTS uses it, under the original's state-dict keys."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradtts_robust.config import ModelConfig

N_MELS = 80
_MASKED = -1e4  # finite, so that a row of padding alone has a softmax
_SHORTEST = 0.8
"""Length of a row, relative to the longest it is encoded with, from which padding it costs less on a CPU than encoding it apart."""


@dataclass
class Encoded:
    """What the text says about the mel.

    Args:
        mu: mean log-mel of each symbol, [B, 80, T].
        log_durations: natural log of each symbol's frames, [B, 1, T].
        mask: 1 where there is a symbol, [B, 1, T].
    """

    mu: Tensor
    log_durations: Tensor
    mask: Tensor


def sequence_mask(lengths: Tensor, size: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """1 at the first `lengths` of `size` places, [B, 1, size] for lengths [B]."""
    return (torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)).unsqueeze(1).to(dtype)


class Dropout(nn.Dropout):
    """Dropout that costs a third of torch's on the CPU, where drawing a Bernoulli number per element is a fifth of the encoder's time.

    There it compares 16 bits of the global generator's output with the rate: a draw serves four elements, the rate is exact to 2^-16.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or hidden.device.type != "cpu":
            return super().forward(hidden)
        dropped = min(round(self.p * 65536), 65535)
        draws = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-2**63, 2**63 - 1)
        kept = draws.view(torch.int16)[:hidden.numel()].view(hidden.shape) >= dropped - 32768
        return hidden * (kept.to(hidden.dtype) * (65536 / (65536 - dropped)))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, T]."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.layer_norm(hidden.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, 1e-4).transpose(1, 2)


class Prenet(nn.Module):
    """Three convolutions over neighbouring symbols with a residual connection that starts as the identity."""

    def __init__(self, channels: int, *, kernel: int = 5, layers: int = 3, dropout: float = 0.5):
        super().__init__()
        self.conv_layers = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in range(layers))
        self.norm_layers = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.drop = Dropout(dropout)
        self.proj = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, symbols: Tensor, mask: Tensor) -> Tensor:
        hidden = symbols
        for conv, norm in zip(self.conv_layers, self.norm_layers):
            hidden = self.drop(torch.relu(norm(conv(hidden * mask))))
        return (symbols + self.proj(hidden)) * mask


class RelativeAttention(nn.Module):
    """Self-attention whose keys and values know how far they are, up to `window` symbols (arXiv 1803.02155).

    The embeddings of the distances -window..window are shared by the heads; beyond them the distance adds nothing.
    """

    def __init__(self, channels: int, *, heads: int, window: int, dropout: float):
        super().__init__()
        assert channels % heads == 0
        self.heads, self.window = heads, window
        width = channels // heads
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * window + 1, width) * width**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * window + 1, width) * width**-0.5)
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        self.drop = Dropout(dropout)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, C, T] and its mask [B, 1, T] -> [B, C, T]; what padding places get means nothing."""
        batch, channels, length = hidden.shape
        query, key, value = (self._split(conv(hidden)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        near, outside = self._neighbours(length, hidden.device)
        near = near.expand(batch, self.heads, -1, -1)
        query = query * query.shape[-1] ** -0.5
        to_distance = (query @ self.emb_rel_k.transpose(1, 2)).masked_fill(outside, 0)
        scores = (query @ key.transpose(2, 3)).scatter_add(3, near, to_distance)
        weights = self.drop(scores.masked_fill(mask.unsqueeze(1) == 0, _MASKED).softmax(3))
        by_distance = weights.gather(3, near).masked_fill(outside, 0)
        mixed = weights @ value + by_distance @ self.emb_rel_v
        return self.conv_o(mixed.transpose(2, 3).reshape(batch, channels, length))

    def _split(self, hidden: Tensor) -> Tensor:
        batch, channels, length = hidden.shape
        return hidden.view(batch, self.heads, channels // self.heads, length).transpose(2, 3)

    def _neighbours(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """For each place the indices of those within the window, [T, 2 window + 1], and which of them do not exist."""
        offsets = torch.arange(-self.window, self.window + 1, device=device)
        index = torch.arange(length, device=device).unsqueeze(1) + offsets
        return index.clamp(0, length - 1), (index < 0) | (index >= length)


class FeedForward(nn.Module):
    """Two convolutions over neighbouring symbols."""

    def __init__(self, channels: int, width: int, *, kernel: int, dropout: float):
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, width, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(width, channels, kernel, padding=kernel // 2)
        self.drop = Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(self.conv_1(hidden * mask)))
        return self.conv_2(hidden * mask) * mask


class Transformer(nn.Module):
    """Attention and feed-forward layers, each normalised after its residual sum."""

    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        layers, dropout = range(config.encoder_layers), config.encoder_dropout
        self.drop = Dropout(dropout)
        self.attn_layers = nn.ModuleList(
            RelativeAttention(channels, heads=config.encoder_heads, window=config.encoder_window, dropout=dropout) for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, config.encoder_filter, kernel=config.encoder_kernel, dropout=dropout) for _ in layers)
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in layers)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        for attention, norm_1, feed_forward, norm_2 in zip(
                self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2):
            hidden = hidden * mask
            hidden = norm_1(hidden + self.drop(attention(hidden, mask)))
            hidden = norm_2(hidden + self.drop(feed_forward(hidden, mask)))
        return hidden * mask


class DurationPredictor(nn.Module):
    """Log-durations from the encoder's output: two convolutions and a projection."""

    def __init__(self, channels: int, config: ModelConfig):
        super().__init__()
        width, kernel = config.duration_filter, config.encoder_kernel
        self.conv_1 = nn.Conv1d(channels, width, kernel, padding=kernel // 2)
        self.norm_1 = ChannelNorm(width)
        self.conv_2 = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.norm_2 = ChannelNorm(width)
        self.proj = nn.Conv1d(width, 1, 1)
        self.drop = Dropout(config.encoder_dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = self.drop(self.norm_1(torch.relu(self.conv_1(hidden * mask))))
        hidden = self.drop(self.norm_2(torch.relu(self.conv_2(hidden * mask))))
        return self.proj(hidden * mask) * mask


class TextEncoder(nn.Module):
    """Symbols -> mean log-mel and log-duration of each (Grad-TTS, arXiv 2105.06337, section 3.1).

    The speaker's row is put beside every symbol after the prenet where `config.condition_encoder` asks for it and there are speakers.

    Raises:
        ValueError: the width of the attention is not a multiple of its heads, or a kernel is even.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.conditioned = config.condition_encoder and config.n_speakers > 1
        channels = config.encoder_channels + (config.speaker_dim if self.conditioned else 0)
        if channels % config.encoder_heads:
            raise ValueError(f"encoder width {channels} (encoder_channels and, where conditioned, speaker_dim) is not a multiple of "
                             f"encoder_heads {config.encoder_heads}; change one of them")
        if config.encoder_kernel % 2 == 0:
            raise ValueError(f"encoder_kernel {config.encoder_kernel} is even; use an odd one")
        self.emb = nn.Embedding(config.n_symbols, config.encoder_channels)
        nn.init.normal_(self.emb.weight, 0.0, config.encoder_channels**-0.5)
        self.prenet = Prenet(config.encoder_channels)
        self.encoder = Transformer(channels, config)
        self.proj_m = nn.Conv1d(channels, N_MELS, 1)
        self.proj_w = DurationPredictor(channels, config)

    def forward(self, ids: Tensor, lengths: Tensor, speaker: Tensor | None = None) -> Encoded:
        """Encodes a padded batch.

        Args:
            ids: symbol ids, int64 [B, T].
            lengths: symbols of each row, [B].
            speaker: speaker rows [B, S]; only read where the encoder is conditioned.

        Returns:
            `Encoded`, in the parameters' dtype under autocast too. The durations send no gradient into the encoder.
        """
        if ids.device.type != "cpu":
            return self._encode(ids, lengths, speaker)
        groups = _of_like_length(lengths.tolist())
        parts = [self._encode(ids[rows, :max(1, int(lengths[rows].max()))], lengths[rows], None if speaker is None else speaker[rows])
                 for rows in groups]
        order = torch.cat(groups).argsort()
        mu, log_durations, mask = (torch.cat([functional.pad(part, (0, ids.shape[1] - part.shape[2])) for part in same])[order]
                                   for same in zip(*((p.mu, p.log_durations, p.mask) for p in parts)))
        return Encoded(mu, log_durations, mask)

    def _encode(self, ids: Tensor, lengths: Tensor, speaker: Tensor | None) -> Encoded:
        symbols = (self.emb(ids) * math.sqrt(self.emb.embedding_dim)).transpose(1, 2)
        mask = sequence_mask(lengths, ids.shape[1], dtype=symbols.dtype)
        hidden = self.prenet(symbols, mask)
        if self.conditioned:
            assert speaker is not None
            hidden = torch.cat([hidden, speaker.unsqueeze(2).expand(-1, -1, hidden.shape[2]).to(hidden)], 1)
        hidden = self.encoder(hidden, mask)
        mu = self.proj_m(hidden).to(mask.dtype) * mask
        return Encoded(mu, self.proj_w(hidden.detach(), mask).to(mask.dtype), mask)


def _of_like_length(lengths: list[int]) -> list[Tensor]:
    """Rows in groups, the longest first, none shorter than `_SHORTEST` of its group's longest."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not groups or lengths[row] < _SHORTEST * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [torch.tensor(rows) for rows in groups]
