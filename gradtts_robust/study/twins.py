"""Runs that learn the same, such as an audit that drops nothing, or the oracle under two kinds of dirt: what they say is computed once."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..config import AdaptConfig
from ..training.adapt import Prepared
from .judging import JUDGED, judged_files, read_arrays, write_arrays
from .plan import NOT_IN_KEY, without

FOUND_OTHERWISE = ("corruption", "speaker", "utterances", "filtering.audit", "filtering.oracle")
"""Settings that a run learns and is judged by only through what `Prepared` holds."""


def learnt_key(config: AdaptConfig, prepared: Prepared, facts: Sequence) -> str:
    """Hash of all that training and what is then said depend on: clips as they are, weights, the model at its start, settings.

    Args:
        facts: what else the samples' embeddings depend on: sentences, vocoder and encoders.
    """
    settings = without(dataclasses.asdict(config), [*NOT_IN_KEY, *FOUND_OTHERWISE])
    told = hashlib.sha256(json.dumps([settings, prepared.row, *facts], sort_keys=True).encode())
    for feature in prepared.features:
        for tensor in (feature.ids, feature.mel, feature.durations):
            _add(told, None if tensor is None else tensor.numpy())
    weights = prepared.weights
    for values in (weights.values, *weights.signals.values()) if weights else ():
        _add(told, values)
    for value in prepared.model.state_dict().values():
        _add(told, value.detach().cpu().to(torch.float32).numpy())
    told.update(json.dumps([(u.id, u.text) for u in prepared.validation]).encode())
    return told.hexdigest()[:24]


def _add(told, values: np.ndarray | None) -> None:
    told.update(repr(None if values is None else (values.shape, str(values.dtype))).encode())
    if values is not None:
        told.update(np.ascontiguousarray(values).tobytes())


def take(folder: Path, out: Path) -> None:
    """Gives a run in `out` what its twin left in `folder`."""
    for path in judged_files(folder):
        write_arrays(out / JUDGED / path.name, read_arrays(path))


def share(folder: Path, out: Path) -> None:
    """Leaves what a finished run in `out` said for its twins, whole or not at all."""
    made = folder.with_name(f"{folder.name}.{out.name}")
    for path in judged_files(out / JUDGED):
        write_arrays(made / path.name, read_arrays(path))
    try:
        made.rename(folder)
    except OSError:
        # a twin was there first
        shutil.rmtree(made)
