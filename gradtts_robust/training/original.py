"""Checkpoints of the original Grad-TTS: a plain state dict in a .pt file, whose shapes tell most of the network."""
from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig

# what may be given beside the tensors' shapes, by the original's names and ours; n_heads only to check what the shapes tell
UNTOLD = {"n_heads": "encoder_heads", "enc_dropout": "encoder_dropout", "beta_min": "beta_min", "beta_max": "beta_max",
          "pe_scale": "pe_scale"}
MARKS = ("encoder.emb.weight", "encoder.proj_m.weight", "decoder.estimator.final_conv.weight")


def read_original(path: Path) -> dict[str, Tensor]:
    """The state dict of an original .pt file, loaded without running anything that it contains.

    Raises:
        ValueError: truncated, not such a file, or of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: not a PyTorch file, or one with more than weights in it, which is never run; "
                         "give a state dict") from None
    except Exception as error:  # the unpickler answers arbitrary bytes with errors of any kind
        raise ValueError(f"{path}: not a checkpoint that can be read ({_first_line(error)}); copy it again, it may be truncated") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        inner = f" with the keys {', '.join(map(str, list(state)[:3]))}" if isinstance(state, Mapping) else ""
        raise ValueError(f"{path}: holds a {type(state).__name__}{inner}, not a Grad-TTS state dict; a vocoder goes to --vocoder")
    missing = [name for name in MARKS if name not in state]
    if missing:
        raise ValueError(f"{path}: not a Grad-TTS checkpoint, it has no {missing[0]}; its first tensor is {next(iter(state), 'none')}")
    return dict(state)


def infer_config(state: Mapping[str, Tensor], *, path: Path, overrides: Mapping[str, float]) -> ModelConfig:
    """The network's settings from its tensors' shapes, the original's defaults, and `overrides` by either's names.

    Raises:
        ValueError: an override that the shapes already tell or that is unknown, or a tensor that is missing.
    """
    chosen = _checked(overrides, path)
    try:
        table = state.get("spk_emb.weight")
        positions = state["encoder.encoder.attn_layers.0.emb_rel_k"]
        chosen.setdefault("encoder_heads", state["encoder.proj_m.weight"].shape[1] // positions.shape[2])
        return ModelConfig(
            n_symbols=state["encoder.emb.weight"].shape[0],
            n_speakers=1 if table is None else table.shape[0],
            speaker_dim=64 if table is None else table.shape[1],
            encoder_channels=state["encoder.emb.weight"].shape[1],
            encoder_filter=state["encoder.encoder.ffn_layers.0.conv_1.weight"].shape[0],
            duration_filter=state["encoder.proj_w.conv_1.weight"].shape[0],
            encoder_layers=sum(name.endswith("conv_q.weight") for name in state),
            encoder_kernel=state["encoder.encoder.ffn_layers.0.conv_1.weight"].shape[2],
            encoder_window=positions.shape[1] // 2,
            condition_encoder=state["encoder.proj_m.weight"].shape[1] > state["encoder.emb.weight"].shape[1],
            decoder="grad-tts",
            decoder_dim=state["decoder.estimator.final_conv.weight"].shape[1],
            **chosen)
    except KeyError as error:
        raise ValueError(f"{path}: not a whole Grad-TTS checkpoint, the tensor {error} is missing") from None
    except (IndexError, ZeroDivisionError):
        raise ValueError(f"{path}: not a Grad-TTS checkpoint, a tensor has another number of dimensions") from None


def _checked(overrides: Mapping[str, float], path: Path) -> dict[str, float]:
    chosen = {}
    for name, value in overrides.items():
        if name not in UNTOLD and name not in UNTOLD.values():
            raise ValueError(f"{path}: {name!r} cannot be given for an original checkpoint; what can: {', '.join(UNTOLD)}")
        ours = UNTOLD.get(name, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path}: {name} is {value!r}; give a number")
        if ours == "encoder_heads" and (value != int(value) or value < 1):
            raise ValueError(f"{path}: {name} is {value}; give a whole number, at least 1")
        if ours == "encoder_dropout" and not 0 <= value < 1:
            raise ValueError(f"{path}: {name} is {value}; give a number in [0, 1)")
        chosen[ours] = value
    return chosen


def _first_line(error: Exception) -> str:
    told = str(error).strip() if isinstance(error, RuntimeError | OSError) else ""
    return (told.splitlines() or [type(error).__name__])[0][:120]
