"""Models on disk: our own checkpoints (safetensors, with all that is needed to speak in their metadata) and the original's .pt."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig, TextConfig, from_dict
from ..files import atomic_write
from ..model.gradtts import GradTTS
from ..speech.audio import HOP, N_FFT, N_MELS, SAMPLE_RATE
from ..speech.text import SYMBOLS
from .original import infer_config, read_original

FORMAT = "gradtts-robust checkpoint 1"
WEIGHTS_FILE = "model.safetensors"
METADATA = "gradtts-robust"
EMBEDDINGS = "speaker_embeddings"
MEL = {"sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "n_mels": N_MELS, "scale": "natural log"}


@dataclass
class Checkpoint:
    """A model and what its use needs besides the weights.

    Args:
        model: the network.
        text: its front end.
        speakers: names by row of the speaker table; one name, or none, for a single-speaker model.
        step: optimizer steps that it was trained for.
        embeddings: unit rows [n_speakers, D] of a speaker encoder (Resemblyzer), float32; None where unknown.
        default_speaker: who speaks where nobody is named.
        extra: further plain values, such as where the model comes from.
    """

    model: GradTTS
    text: TextConfig
    speakers: list[str]
    step: int = 0
    embeddings: Tensor | None = None
    default_speaker: str | None = None
    extra: dict = field(default_factory=dict)


def save_checkpoint(path: str | os.PathLike, checkpoint: Checkpoint, *, dtype: torch.dtype | None = None) -> Path:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: a `.safetensors` file, or a folder that gets `model.safetensors`.
        dtype: of the floating tensors in the file, e.g. `torch.bfloat16` to ship them; None keeps the model's.

    Returns:
        The file.
    """
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / WEIGHTS_FILE
    tensors = dict(checkpoint.model.state_dict())
    if checkpoint.embeddings is not None:
        tensors[EMBEDDINGS] = checkpoint.embeddings
    tensors = {name: _stored(tensor, dtype) for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT, "model": asdict(checkpoint.model.config), "text": asdict(checkpoint.text), "speakers": checkpoint.speakers,
        "step": checkpoint.step, "default_speaker": checkpoint.default_speaker, "symbols": SYMBOLS, "mel": MEL, "extra": checkpoint.extra}
    with atomic_write(path) as temporary:
        # one entry: safetensors writes several in an order that changes, and equal checkpoints should be equal files
        save_file(tensors, temporary, metadata={METADATA: json.dumps(metadata)})
    return path


def load_checkpoint(path: str | os.PathLike, **overrides) -> Checkpoint:
    """Reads a checkpoint onto the CPU, in float32 and `eval()`.

    Args:
        path: our file, its folder, a run folder (its newest checkpoint), or the original Grad-TTS' `.pt`, recognised by its keys.
        overrides: what an original's shapes cannot tell: `pe_scale` (1000), `beta_min` (0.05), `beta_max` (20),
            `enc_dropout` (0.1); `n_heads`, which they do tell, must agree with them.
            None for our own files, which say everything.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: truncated, not a checkpoint, of another architecture than it says, or an override that does not apply.
    """
    path = resolve(path)
    if path.suffix != ".safetensors":
        return _load_original(path, overrides)
    if overrides:
        raise ValueError(f"{path}: {next(iter(overrides))!r} cannot be given, this checkpoint says it itself")
    try:
        with safe_open(path, "pt") as file:
            metadata = _parsed(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy it again, it may be truncated") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this version ({FORMAT}) but {metadata.get('format') or 'some other tensors'}")
    if metadata["symbols"] != list(SYMBOLS) or metadata["mel"] != MEL:
        raise ValueError(f"{path}: made with other symbols or another mel than this version's; use the version that made it")
    embeddings = tensors.pop(EMBEDDINGS, None)
    model = _built(from_dict(ModelConfig, metadata["model"]), tensors, path=path)
    return Checkpoint(
        model=model, text=from_dict(TextConfig, metadata["text"]), speakers=metadata["speakers"], step=metadata["step"],
        embeddings=None if embeddings is None else embeddings.float(), default_speaker=metadata["default_speaker"],
        extra=metadata["extra"])


def resolve(path: str | os.PathLike) -> Path:
    """The checkpoint file that a path means: itself, a folder's, or a run folder's newest.

    Raises:
        FileNotFoundError: none there.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint; give a .safetensors or .pt file, or the folder of a run")
    if (path / WEIGHTS_FILE).is_file():
        return path / WEIGHTS_FILE
    steps = sorted((int(file.parent.name), file) for file in path.glob(f"checkpoints/*/{WEIGHTS_FILE}") if file.parent.name.isdigit())
    if not steps:
        raise FileNotFoundError(f"{path}: holds neither {WEIGHTS_FILE} nor checkpoints/NUMBER/{WEIGHTS_FILE}")
    return steps[-1][1]


def _load_original(path: Path, overrides: Mapping[str, float]) -> Checkpoint:
    state = read_original(path)
    config = infer_config(state, path=path, overrides=overrides)
    model = _built(config, state, path=path)
    names = [str(row) for row in range(config.n_speakers)] if config.n_speakers > 1 else []
    return Checkpoint(model, TextConfig(frontend="grad-tts", blanks=True, edges=False), names)


def _built(config: ModelConfig, tensors: Mapping[str, Tensor], *, path: Path) -> GradTTS:
    """The network of `config` with exactly these weights."""
    # not on `meta`: initialising there imports torch's compiler, a second that everybody who speaks would wait for
    with torch.random.fork_rng([]):
        model = GradTTS(config)
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in (*needed, *given):
        if needed.get(name) != given.get(name):
            raise ValueError(f"{path}: of another architecture: {name} is {given.get(name) or 'missing'}, "
                             f"where the settings ask for {needed.get(name) or 'no such tensor'}")
    # a copy of each: the loaded ones may share the file's memory
    model.load_state_dict({name: tensor.float().clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor.clone()


def _parsed(stored: Mapping[str, str]) -> dict:
    """What `save_checkpoint` put into the metadata; empty or foreign where it was not the one who did."""
    try:
        if METADATA in stored:
            return dict(json.loads(stored[METADATA]))
        return {name: json.loads(value) for name, value in stored.items()}
    except (TypeError, ValueError):
        return {}
