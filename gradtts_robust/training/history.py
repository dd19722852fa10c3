"""The checkpoints of a run folder: `checkpoints/NNNNNN/`, with weights to speak with and a state to go on from."""
from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import atomic_write
from .checkpoint import WEIGHTS_FILE, Checkpoint, save_checkpoint

STATE_FILE = "state.pt"
Progress = Callable[[int, int, dict], None]


@dataclass
class Saved:
    """What a run goes on from: raw weights, their average where there is one, Adam's state, the steps done, and the examples' weights
    (`values`, and the signals by name) where training estimates them."""

    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict
    step: int
    examples: dict[str, Tensor] | None = None


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, model: nn.Module, average: nn.Module | None,
                     optimizer: torch.optim.Optimizer, examples: dict[str, Tensor] | None = None) -> None:
    """Writes the state to go on from, then the weights to speak with: a folder with weights is a whole one."""
    state = {"model": model.state_dict(), "average": None if average is None else average.state_dict(),
             "optimizer": optimizer.state_dict(), "step": checkpoint.step, "examples": examples}
    with atomic_write(folder / STATE_FILE) as temporary:
        torch.save(state, temporary)
    save_checkpoint(folder / WEIGHTS_FILE, checkpoint)


def read_state(folder: Path) -> Saved:
    """Reads what `write_checkpoint` left to go on from, onto the CPU; ValueError for a broken file."""
    path = folder / STATE_FILE
    try:
        return Saved(**torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a training state ({reason}); remove {folder}, and the run goes on from the one before") from None


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return out / "checkpoints" / f"{step:06d}"


def saved_checkpoints(out: Path) -> list[Path]:
    """Checkpoint folders with weights, by step."""
    found = [path.parent for path in (out / "checkpoints").glob(f"*/{WEIGHTS_FILE}") if path.parent.name.isdigit()]
    return sorted(found, key=lambda folder: int(folder.name))


def newest_state(out: Path) -> Path | None:
    """Newest checkpoint folder that a run can go on from. The weights are written last, so that they vouch for the state."""
    return next((folder for folder in reversed(saved_checkpoints(out)) if (folder / STATE_FILE).exists()), None)


def keep_newest(out: Path, *, states: int, models: int) -> None:
    """Removes the states of all but the newest `states` checkpoints, and all of those older than the newest `models`; 0 keeps all."""
    saved = saved_checkpoints(out)
    for folder in saved[:-states] if states else []:
        (folder / STATE_FILE).unlink(missing_ok=True)
    for folder in saved[:-models] if models else []:
        shutil.rmtree(folder)
