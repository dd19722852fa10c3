"""The project's own speaker judge: a small ECAPA-TDNN (arXiv 2005.07143) over log-mels, speechbrain's class and one file of weights."""
from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradtts_robust.files import atomic_write, shipped_weights
from gradtts_robust.speech.audio import mel_filters

RATE = 16000
SHIPPED_JUDGE = "ecapa-small"
_FORMAT = "gradtts-robust ecapa 1"


@dataclass(frozen=True)
class EcapaSmallConfig:
    """Shape of the network and of what it hears.

    Args:
        n_mels, n_fft, hop: bands, samples of the FFT and of its Hann window, samples between frames, at 16 kHz.
        fmin, fmax: Hz, edges of the mel bands.
        floor: power added to every mel bin, of a clip whose mean bin has 1: what is fainter counts as silence.
        channels: of the first four blocks; the fifth has three times as many.
        attention: channels of the statistics pooling's attention.
        dim: D of the embedding.
    """

    n_mels: int = 64
    n_fft: int = 512
    hop: int = 320
    fmin: float = 40.0
    fmax: float = 7600.0
    floor: float = 1e-5
    channels: int = 192
    attention: int = 64
    dim: int = 192


class EcapaSmall(nn.Module):
    """Waves to unit embeddings: log-mels with each band's mean over the clip taken out, then ECAPA-TDNN.

    Neither loudness nor a filter that stays the same through a clip changes the log-mels, but for the floor.
    """

    def __init__(self, config: EcapaSmallConfig):
        super().__init__()
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        self.config = config
        self.network = ECAPA_TDNN(
            config.n_mels, channels=[config.channels] * 4 + [3 * config.channels], kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1], attention_channels=config.attention, lin_neurons=config.dim)

    def features(self, waves: Tensor) -> Tensor:
        """Natural-log mels [B, F, n_mels], F = N // hop + 1, each band's mean 0, of waves [B, N] at 16 kHz."""
        config = self.config
        window = torch.hann_window(config.n_fft, dtype=waves.dtype, device=waves.device)
        spectrum = torch.stft(waves, config.n_fft, config.hop, window=window, center=True, pad_mode="constant", return_complex=True)
        filters = mel_filters(n_fft=config.n_fft, n_mels=config.n_mels, sample_rate=RATE, fmin=config.fmin, fmax=config.fmax,
                              dtype=waves.dtype, device=waves.device)
        mel = filters @ torch.view_as_real(spectrum).square().sum(-1)
        mel = torch.log(mel / mel.mean(dim=(1, 2), keepdim=True).clamp(min=1e-12) + config.floor)
        return (mel - mel.mean(dim=2, keepdim=True)).transpose(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Unit embeddings [B, D] of log-mels [B, F, n_mels]."""
        return nn.functional.normalize(self.network(features).squeeze(1), dim=1)


def save_judge(path: str | os.PathLike, judge: EcapaSmall, *, dtype: torch.dtype = torch.float16) -> Path:
    """Writes weights and configuration as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    state = {name: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
             for name, value in judge.network.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={"format": _FORMAT, "config": json.dumps(asdict(judge.config))})
    return Path(path)


def load_judge(path: str | os.PathLike, device: str | torch.device = "cpu") -> EcapaSmall:
    """Reads what `save_judge` wrote, as float32, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or is cut off.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name the .safetensors that recipes/judge/ship.py wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
        judge = EcapaSmall(EcapaSmallConfig(**json.loads(metadata["config"])))
        judge.network.load_state_dict(state, strict=True)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"{path}: not a speaker judge of this project, or cut off ({reason}); fetch it again") from error
    return judge.float().to(device).eval().requires_grad_(False)


def shipped_judge() -> Path:
    """Where the shipped judge lies, see `files.shipped_weights`."""
    return shipped_weights(SHIPPED_JUDGE, instead="name another judge as source, such as speechbrain/spkrec-ecapa-voxceleb")
