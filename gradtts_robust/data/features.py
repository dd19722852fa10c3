"""From utterances to what the network sees: log-mel, symbol ids and, where known, durations; cached, and packed into one file."""
from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from ..config import TextConfig
from ..files import atomic_write
from .manifest import Utterance

# part of every cache key: change it when `speech.audio` makes another mel of the same file
MEL_VERSION = "log-mel 1, 22050 Hz, window 1024, hop 256, 80 bands"
FRAMES_PER_SECOND = 22050 / 256
# seconds that an aligner may run past the audio's end
END_TOLERANCE = 0.25
PACK_FORMAT = "gradtts-robust features 1"

Progress = Callable[[int, int], None]


@dataclass
class Features:
    """One utterance as the network sees it.

    Args:
        ids: [T] int64, symbol ids.
        mel: [80, F] float16 or float32, natural log; T <= F.
        durations: [T] int64, frames of each id, all >= 1, with the sum F; None where unknown.
        id, speaker: the utterance's key and its speaker's name.
    """

    ids: Tensor
    mel: Tensor
    durations: Tensor | None
    id: str
    speaker: str


@dataclass
class Prepared:
    """`features` of the usable utterances, in their order, and `skipped`: (id, reason) of the others."""

    features: list[Features]
    skipped: list[tuple[str, str]]


def prepare_features(utterances: Sequence[Utterance], text: TextConfig, cache: str | os.PathLike | None = None, *,
                     progress: Progress | None = None, n_jobs: int = 1) -> list[Features]:
    """Features of every utterance, in order.

    Mels are cached by the content of the audio file, so that a moved corpus, another front end or another label costs
    nothing; ids and durations are cheap and made afresh. A broken cache entry is made again.

    Args:
        text: the front end. Where an utterance has phonemes, its ids are made of them and not of its text.
        cache: folder of cached mels, made where it is missing; None for no cache.
        progress: called with (done, total) after each utterance.
        n_jobs: processes; each works with one torch thread where there are several.

    Raises:
        FileNotFoundError: an audio file is missing.
        ValueError: unreadable audio, empty text, or a text longer than its audio, for then no alignment exists.
    """
    return [_or_raise(result) for result in _results(utterances, text, cache, progress, n_jobs)]


def prepare_usable_features(utterances: Sequence[Utterance], text: TextConfig, cache: str | os.PathLike | None = None, *,
                            progress: Progress | None = None, n_jobs: int = 1) -> Prepared:
    """Like `prepare_features`, but what cannot be used is skipped and named: dirty data must not end a run.

    Raises:
        ValueError: no utterance is usable.
    """
    prepared = Prepared([], [])
    for utterance, result in zip(utterances, _results(utterances, text, cache, progress, n_jobs)):
        if isinstance(result, Features):
            prepared.features.append(result)
        else:
            prepared.skipped.append((utterance.id, str(result)))
    if not prepared.features:
        reason = f"; the first: {prepared.skipped[0][1]}" if prepared.skipped else ""
        raise ValueError(f"none of {len(prepared.skipped)} utterances is usable{reason}")
    return prepared


def _or_raise(result: Features | Exception) -> Features:
    if isinstance(result, Exception):
        raise result
    return result


def _results(utterances: Sequence[Utterance], text: TextConfig, cache: str | os.PathLike | None,
             progress: Progress | None, n_jobs: int) -> Iterator[Features | Exception]:
    if n_jobs == 1:
        results = (_attempt(utterance, text, cache) for utterance in utterances)
    else:
        import joblib

        calls = (joblib.delayed(_attempt)(utterance, text, cache, 1) for utterance in utterances)
        results = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(calls)
    for done, result in enumerate(results, 1):
        yield result
        if progress:
            progress(done, len(utterances))


def _attempt(utterance: Utterance, text: TextConfig, cache: str | os.PathLike | None, threads: int = 0) -> Features | Exception:
    """One utterance's features, or what is wrong with it, always with its name."""
    if threads:
        torch.set_num_threads(threads)
    try:
        return _features(utterance, text, cache)
    except (ValueError, OSError) as error:
        message = str(error)
        known = message.startswith(f"{utterance.id}:") or utterance.path in message
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        return kind(message if known else f"{utterance.id}: {message}")


def _features(utterance: Utterance, text: TextConfig, cache: str | os.PathLike | None) -> Features:
    from ..speech.text import encode, phonemes_to_ids

    tokens = utterance.tokens()
    if tokens:
        ids = phonemes_to_ids(tokens, blanks=text.blanks, edges=text.edges)
    elif utterance.text.strip():
        ids = encode(utterance.text, text)
    else:
        raise ValueError(f"{utterance.id}: the text is empty; fill it in or remove the utterance")
    ends = utterance.end_times()
    mel = _cached_mel(utterance.path, cache)
    frames = mel.shape[1]
    if len(ids) > frames:
        raise ValueError(f"{utterance.id}: the text is longer than its audio ({len(ids)} symbols, {frames} frames of 11.6 ms), "
                         f"so they cannot be aligned; correct the text of {utterance.path} or remove the utterance")
    if ends and ends[-1] > frames / FRAMES_PER_SECOND + END_TOLERANCE:
        raise ValueError(f"{utterance.id}: the last phoneme ends at {ends[-1]:.2f} s but {utterance.path} at "
                         f"{frames / FRAMES_PER_SECOND:.2f} s; correct the column `ends` or leave it empty")
    durations = torch.tensor(_id_durations(utterance, ends, len(ids), frames, text)) if ends else None
    return Features(torch.tensor(ids, dtype=torch.int64), mel, durations, utterance.id, utterance.speaker)


def _id_durations(utterance: Utterance, ends: list[float], count: int, frames: int, text: TextConfig) -> list[int]:
    """Frames of each id: the ends of the tokens, with the edges and blanks that the front end put between them."""
    tokens = utterance.tokens()
    if text.edges and tokens[0] != " ":
        ends = [0.0, *ends]
    if text.edges:
        # the space at the end owns the silence there, also where blanks follow it
        spoken = ends if tokens[-1] != " " else ends[:-1]
        ends = [*spoken, max(ends[-1], frames / FRAMES_PER_SECOND)]
    if text.blanks:
        starts = [0.0, *ends[:-1]]
        ends = [end for pair in zip(starts, ends) for end in pair] + [ends[-1]]
    assert len(ends) == count, (utterance.id, len(ends), count)
    return durations_from_ends(ends, frames)


def durations_from_ends(ends: Sequence[float], frames: int) -> list[int]:
    """Durations in frames from end times: at least 1 each, together `frames`.

    Borders are the ends rounded to frames of 256 / 22050 s, the last one the audio's. A symbol too short for a frame
    takes one from the nearest that has two or more, from the longer of two equally near.

    Args:
        ends: seconds, in order, one per symbol.
        frames: F >= len(ends).
    """
    assert 0 < len(ends) <= frames, (len(ends), frames)
    borders = [min(round(end * FRAMES_PER_SECOND), frames) for end in ends]
    borders[-1] = frames
    durations = [end - start for start, end in zip([0, *borders], borders)]
    for index in range(len(durations)):
        distance = 1
        while durations[index] == 0:
            near = [i for i in (index - distance, index + distance) if 0 <= i < len(durations)]
            donor = max(near, key=durations.__getitem__)
            if durations[donor] > 1:
                durations[donor] -= 1
                durations[index] += 1
            distance += 1
    return durations


def _cached_mel(path: str, cache: str | os.PathLike | None) -> Tensor:
    """Log-mel [80, F] float16 of an audio file."""
    if cache is None:
        return _mel(path)
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such audio file; correct the path or remove the utterance") from None
    key = hashlib.sha256(MEL_VERSION.encode() + content).hexdigest()
    entry = Path(cache) / key[:2] / f"{key}.safetensors"
    mel = _read_entry(entry)
    if mel is None:
        mel = _mel(path)
        with atomic_write(entry) as temporary:
            save_file({"mel": mel}, temporary, metadata={"checksum": _checksum(mel)})
    return mel


def _read_entry(entry: Path) -> Tensor | None:
    """A cached mel, or None where there is none or where its bytes are not those that were written."""
    try:
        with safe_open(entry, "pt") as file:
            mel = file.get_tensor("mel")
            return mel if (file.metadata() or {}).get("checksum") == _checksum(mel) else None
    except (OSError, SafetensorError):
        return None


def _checksum(mel: Tensor) -> str:
    return f"{zlib.crc32(mel.contiguous().numpy().tobytes()):08x}"


def _mel(path: str) -> Tensor:
    from ..speech.audio import load_audio, mel_spectrogram

    return mel_spectrogram(torch.from_numpy(load_audio(path)))[0].half().contiguous()


def save_features(path: str | os.PathLike, features: Sequence[Features]) -> None:
    """Writes features to one safetensors file, from which training needs no audio library; whole or not at all.

    Mels become float16. Raises ValueError for an empty list.
    """
    if not features:
        raise ValueError(f"{path}: no features to write; prepare at least one utterance")
    unknown = [torch.zeros_like(f.ids) if f.durations is None else f.durations for f in features]
    tensors = {
        "mel": torch.cat([f.mel.half() for f in features], dim=1),
        "ids": torch.cat([f.ids for f in features]).int(),
        "durations": torch.cat(unknown).int(),
        "id_counts": torch.tensor([len(f.ids) for f in features]),
        "frame_counts": torch.tensor([f.mel.shape[1] for f in features]),
    }
    names = {"keys": json.dumps([f.id for f in features]), "speakers": json.dumps([f.speaker for f in features])}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"format": PACK_FORMAT, **names})


def load_features(path: str | os.PathLike) -> list[Features]:
    """Reads what `save_features` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or a truncated one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such features file; `save_features` writes one")
    try:
        with safe_open(path, "pt") as file:
            names = file.metadata() or {}
        tensors = load_tensors(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); write it again") from None
    if names.get("format") != PACK_FORMAT:
        raise ValueError(f"{path}: not a features file of this version ({PACK_FORMAT}); write it again with `save_features`")
    counts, frames = tensors["id_counts"].tolist(), tensors["frame_counts"].tolist()
    rows = zip(tensors["ids"].long().split(counts), tensors["mel"].split(frames, dim=1), tensors["durations"].long().split(counts),
               json.loads(names["keys"]), json.loads(names["speakers"]), strict=True)
    return [Features(ids.clone(), mel.contiguous(), durations.clone() if durations.any() else None, key, speaker)
            for ids, mel, durations, key, speaker in rows]
