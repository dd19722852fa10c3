"""Who speaks: one interface over speaker encoders, and the similarities computed from their embeddings."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from gradtts_robust.speech.audio import resample

ENCODERS = ("resemblyzer", "ecapa")
ENCODER_RATE = 16000
SHORTEST = 0.05


class SpeakerEncoder(Protocol):
    """Anything that turns clips into speaker embeddings; `name` goes into results tables, `dim` is D."""

    name: str
    dim: int

    def embed(self, waves: Sequence[np.ndarray], *, sample_rate: int, names: Sequence[str] | None = None) -> np.ndarray: ...


class Resemblyzer:
    """The encoder of the resemblyzer package, D = 256: components are >= 0, so unrelated voices are at about 0.5.

    Args:
        trim: cut long silences first, as Resemblyzer does.
        device: where it computes.
    """

    name = "resemblyzer"
    dim = 256

    def __init__(self, *, trim: bool = True, device: str | torch.device = "cpu"):
        from gradtts_robust.speech import resemblyzer

        self._parts = resemblyzer
        self.trim, self.device = trim, torch.device(device)
        self.network = resemblyzer.load_network().to(self.device)

    def embed(self, waves: Sequence[np.ndarray], *, sample_rate: int, names: Sequence[str] | None = None) -> np.ndarray:
        """Embeds clips; a clip's embedding does not depend on the others beyond rounding.

        Args:
            waves: [N_i] float32 each.
            sample_rate: Hz, of all of them.
            names: what to call the clips in error messages, such as their files.

        Returns:
            [len(waves), 256] float32, rows of unit length.

        Raises:
            ValueError: no clips, or one that is too short, silent or not finite.
        """
        clips = _prepared(waves, sample_rate=sample_rate, names=names)
        return self._parts.embed(self.network, [self._parts.preprocess(clip, trim=self.trim) for clip in clips], self.device)


class Ecapa:
    """ECAPA-TDNN (arXiv 2005.07143) as speechbrain publishes it, D = 192 for `speechbrain/spkrec-ecapa-voxceleb`.

    Args:
        source: a folder with `hyperparams.yaml` and the weights that it names, or a hub name. The YAML decides which
            classes are made: use sources that you trust.
        trim: cut long silences first; the published model does without.
        device: where it computes.

    Raises:
        FileNotFoundError, ValueError: the source cannot be reached, lacks a file or holds something else.
    """

    name = "ecapa"

    def __init__(self, source: str | os.PathLike, *, trim: bool = False, device: str | torch.device = "cpu"):
        from gradtts_robust.speech.ecapa import load_classifier

        self.trim, self.device = trim, torch.device(device)
        self.classifier = load_classifier(source, self.device)
        self.dim = self._embed_one(np.random.default_rng(0).normal(scale=0.1, size=ENCODER_RATE).astype(np.float32)).shape[0]

    @torch.no_grad()
    def _embed_one(self, wave: np.ndarray) -> np.ndarray:
        embedding = self.classifier.encode_batch(torch.from_numpy(wave).unsqueeze(0)).flatten()
        return torch.nn.functional.normalize(embedding, dim=0).cpu().numpy()

    def embed(self, waves: Sequence[np.ndarray], *, sample_rate: int, names: Sequence[str] | None = None) -> np.ndarray:
        """As `Resemblyzer.embed`, [len(waves), D]; one clip at a time, since padding to a common length would change them."""
        clips = _trimmed(_prepared(waves, sample_rate=sample_rate, names=names), trim=self.trim)
        return np.stack([self._embed_one(clip) for clip in clips])


class SmallEcapa:
    """The project's own ECAPA-TDNN (`speech.ecapa_small`, recipes/judge), D = 192; unrelated voices are at about 0.

    Its name is its file's: `ecapa-small` for the shipped one, so that tables tell it from the published `ecapa`.

    Args:
        source: a `.safetensors` file of recipes/judge; None for the shipped one, whose hash is checked.
        trim: cut long silences first; it was trained without.
        device: where it computes.

    Raises:
        FileNotFoundError, ValueError: the file is not there, damaged or something else.
    """

    def __init__(self, source: str | os.PathLike | None = None, *, trim: bool = False, device: str | torch.device = "cpu"):
        from gradtts_robust.speech.ecapa_small import load_judge, shipped_judge

        path = Path(source).expanduser() if source else shipped_judge()
        self.name, self.trim, self.device = path.stem, trim, torch.device(device)
        self.network = load_judge(path, self.device)
        self.dim = self.network.config.dim

    @torch.no_grad()
    def embed(self, waves: Sequence[np.ndarray], *, sample_rate: int, names: Sequence[str] | None = None) -> np.ndarray:
        """As `Resemblyzer.embed`, [len(waves), D]; one clip at a time, and clips under half a second repeated up to it."""
        clips = _trimmed(_prepared(waves, sample_rate=sample_rate, names=names), trim=self.trim)
        whole = (np.resize(clip, max(len(clip), ENCODER_RATE // 2)) for clip in clips)
        features = (self.network.features(torch.from_numpy(clip).to(self.device)[None]) for clip in whole)
        return np.concatenate([self.network(one).cpu().numpy() for one in features])


def speaker_encoder(name: str = "resemblyzer", source: str | os.PathLike | None = None, device: str | torch.device = "cpu",
                    *, trim: bool | None = None) -> SpeakerEncoder:
    """Makes a speaker encoder; the same arguments give the same one everywhere, with or without a network.

    Args:
        name: `resemblyzer` (its weights come with its package) or `ecapa`.
        source: for `ecapa`: by default the small one that ships with this project; a `.safetensors` file of recipes/judge, a
            speechbrain folder, or a hub name such as `speechbrain/spkrec-ecapa-voxceleb`, the published one.
        device: where it computes.
        trim: cut long silences first; None for the encoder's own habit, True for Resemblyzer, False for ECAPA.

    Returns:
        An encoder whose `name` says which one it is: `resemblyzer`, `ecapa-small` (shipped; the stem of any other file), `ecapa`.

    Raises:
        ValueError: an unknown name, a source for Resemblyzer, or a source that cannot be used.
        FileNotFoundError: a local source that lacks a file.
    """
    if name == "resemblyzer":
        if source:
            raise ValueError(f"resemblyzer brings its own weights: leave out source {str(source)!r}, or use ecapa")
        return Resemblyzer(trim=trim is not False, device=device)
    if name == "ecapa":
        ours = not source or Path(source).suffix == ".safetensors"
        return SmallEcapa(source, trim=bool(trim), device=device) if ours else Ecapa(source, trim=bool(trim), device=device)
    raise ValueError(f"no speaker encoder named {name!r}; there are {' and '.join(ENCODERS)}")


def centroid(embeddings: np.ndarray) -> np.ndarray:
    """Mean direction of a speaker's embeddings [N, D], as [D] of unit length.

    Raises:
        ValueError: no embeddings, or ones that cancel out.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings of shape {embeddings.shape} have no centroid; give [N, D] with N > 0")
    mean = embeddings.mean(axis=0)
    length = np.linalg.norm(mean)
    if not length > 1e-8:
        raise ValueError("the embeddings cancel out or are not finite: they have no centroid")
    return mean / length


def similarity(embeddings: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Cosine of each embedding [N, D] to `centroid` [D], as [N] within [-1, 1]; neither needs unit length."""
    embeddings, centroid = np.asarray(embeddings), np.asarray(centroid)
    if embeddings.ndim != 2 or centroid.shape != embeddings.shape[1:]:
        raise ValueError(f"embeddings {embeddings.shape} and centroid {centroid.shape} do not fit; give [N, D] and [D]")
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(centroid)
    return np.clip(embeddings @ centroid / np.maximum(lengths, 1e-12), -1.0, 1.0)


def _prepared(waves: Sequence[np.ndarray], *, sample_rate: int, names: Sequence[str] | None) -> list[np.ndarray]:
    """Checked clips at 16 kHz."""
    if isinstance(waves, np.ndarray) and waves.ndim == 1:
        raise ValueError("one wave was given where a list of waves is expected; write embed([wave], ...)")
    if len(waves) == 0:
        raise ValueError("no clips to embed; give at least one")
    assert names is None or len(names) == len(waves)
    clips = []
    for index, wave in enumerate(waves):
        name = str(names[index]) if names is not None else f"clip {index + 1} of {len(waves)}"
        wave = np.asarray(wave, dtype=np.float32)
        if wave.ndim != 1:
            raise ValueError(f"{name}: a wave of shape {wave.shape} cannot be embedded; give [N]")
        if len(wave) < SHORTEST * sample_rate:
            raise ValueError(f"{name}: {len(wave) / sample_rate:.3f} s is too short to tell a speaker; "
                             f"at least {SHORTEST:g} s is needed")
        if not np.isfinite(wave).all():
            raise ValueError(f"{name}: holds values that are not finite (NaN or infinity)")
        if not np.any(wave):
            raise ValueError(f"{name}: is silent throughout, so it has no speaker; take it out")
        clips.append(resample(wave, source_rate=sample_rate, target_rate=ENCODER_RATE))
    return clips


def _trimmed(clips: list[np.ndarray], *, trim: bool) -> list[np.ndarray]:
    """Clips at 16 kHz without their long silences, by Resemblyzer's detector, or as they are."""
    if not trim:
        return clips
    from gradtts_robust.speech.resemblyzer import preprocess

    return [preprocess(clip, trim=True) for clip in clips]
