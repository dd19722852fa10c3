"""Speaker embeddings of utterances and speakers, cached on disk. Audio libraries are imported when something is embedded."""
from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..data.manifest import Utterance
from ..files import atomic_write

ENCODER = "resemblyzer"
BATCH = 16
Progress = Callable[[int, int], None]


def embed_utterances(utterances: Sequence[Utterance], cache: str | os.PathLike | None, *,
                     progress: Progress | None = None) -> np.ndarray:
    """Resemblyzer embeddings of utterances, unit rows, float32 [N, D].

    Cached under the files' paths, sizes and times.

    Args:
        cache: folder, made where it is missing; None for no cache.
        progress: called with (done, total).

    Raises:
        FileNotFoundError, ValueError: missing or unreadable audio.
    """
    entry = Path(cache) / f"speakers-{_digest(utterances)}.safetensors" if cache else None
    if entry and entry.is_file():
        try:
            return load_file(entry)["embeddings"]
        except (SafetensorError, KeyError):
            pass
    from ..speech.audio import SAMPLE_RATE, load_audio
    from ..speech.speaker import speaker_encoder

    encoder, rows = speaker_encoder(ENCODER), []
    for start in range(0, len(utterances), BATCH):
        part = utterances[start:start + BATCH]
        waves = [load_audio(u.path) for u in part]
        rows.append(encoder.embed(waves, sample_rate=SAMPLE_RATE, names=[u.path for u in part]))
        if progress:
            progress(min(start + BATCH, len(utterances)), len(utterances))
    embeddings = np.concatenate(rows).astype(np.float32)
    if entry:
        with atomic_write(entry) as temporary:
            save_file({"embeddings": embeddings}, temporary)
    return embeddings


def embed_speakers(utterances: Sequence[Utterance], cache: str | os.PathLike | None, *, each: int = 10,
                   progress: Progress | None = None) -> dict[str, np.ndarray]:
    """Unit centroid [D] of every speaker, from up to `each` utterances spread over the speaker's own; cached."""
    from ..speech.speaker import centroid

    owned = defaultdict(list)
    for utterance in utterances:
        owned[utterance.speaker].append(utterance)
    chosen = [own[i] for own in owned.values() for i in sorted({round(p) for p in np.linspace(0, len(own) - 1, each)})]
    embeddings = embed_utterances(chosen, cache, progress=progress)
    speakers = np.array([u.speaker for u in chosen])
    return {name: centroid(embeddings[speakers == name]) for name in sorted(owned)}


def save_speakers(path: str | os.PathLike, embeddings: Mapping[str, np.ndarray]) -> None:
    """Writes speakers' embeddings beside packed features."""
    with atomic_write(path) as temporary:
        save_file({name: np.ascontiguousarray(row) for name, row in embeddings.items()}, temporary)


def load_speakers(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads what `save_speakers` wrote; ValueError for a broken file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); write it again") from None


def _digest(utterances: Sequence[Utterance]) -> str:
    digest = hashlib.sha256(ENCODER.encode())
    for utterance in utterances:
        status = os.stat(utterance.path) if os.path.exists(utterance.path) else None
        key = (os.path.abspath(utterance.path), status and status.st_size, status and status.st_mtime_ns)
        digest.update(repr(key).encode())
    return digest.hexdigest()[:24]
