"""Judging the checkpoints of one run of a study: what they say, as embeddings by several speaker encoders."""
from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..config import AdaptConfig
from ..data.features import prepare_features
from ..data.manifest import read_manifest
from ..files import atomic_write
from ..speech.audio import SAMPLE_RATE, load_audio
from ..speech.speaker import ENCODER_RATE, SpeakerEncoder, speaker_encoder
from ..speech.vocoder import Vocoder
from ..training.adapt import GIVEN, VALIDATION
from ..training.checkpoint import Checkpoint
from ..training.validation import validation_loss
from ..training.voice import TTS
from .evaluation import load_tools, write_sample
from .plan import RESULTS_VERSION, judging_files
from .results import SAMPLES

JUDGED = "judged"
VOICES = "voices.npz"
REFERENCE, POLLUTION, SAID = "reference", "pollution", "said"


@dataclass
class Ears:
    """What judging needs besides the run: the sentences, every speaker encoder by its own name, the vocoder, where shared embeddings are
    kept, and a hash of what those depend on that no name tells: this version's numbers, and the content of files."""

    sentences: list[str]
    encoders: dict[str, SpeakerEncoder]
    vocoder: Vocoder
    device: str
    cache: Path
    version: str


def load_ears(config: AdaptConfig, encoders: Sequence[str], sources: Mapping[str, str], device: str, cache: Path) -> Ears:
    """Loads them.

    Raises:
        FileNotFoundError, ValueError: a setting that cannot be used.
    """
    first, *others = encoders
    tools = load_tools(replace(config.evaluation, encoder=first, encoder_source=sources.get(first, "")), device)
    loaded = [tools.encoder, *(speaker_encoder(name, sources.get(name) or None, device) for name in others)]
    told = json.dumps([RESULTS_VERSION, judging_files(config.evaluation.vocoder, sources)], sort_keys=True)
    return Ears(tools.sentences, {encoder.name: encoder for encoder in loaded}, tools.vocoder, device, cache,
                hashlib.sha256(told.encode()).hexdigest()[:24])


class Judge:
    """Writes `judged/NNNNNN.npz` for each checkpoint of a run, and `voices.npz`: whom it was to sound like, and whom not.

    Args:
        config: of the adaptation.
        ears: see `Ears`.
        base: hash of the base, by which what the model says before its first step is shared with other runs.
        keep: waves to keep: `none`, `last` or `all`.
    """

    def __init__(self, config: AdaptConfig, ears: Ears, *, base: str, keep: str = "last"):
        self.config, self.ears, self.base, self.keep = config, ears, base, keep
        self.out = Path(config.out)

    def on_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Judges a checkpoint, unless that is done."""
        self.write_voices()
        path = self.out / JUDGED / f"{checkpoint.step:06d}.npz"
        keep = self.keep == "all" or (self.keep == "last" and checkpoint.step == self.config.iterations)
        if path.is_file():
            return
        shared = self._shared(checkpoint) if checkpoint.step == 0 and not keep else None
        values = read_arrays(shared) if shared and shared.is_file() else self._judge(checkpoint, keep)
        if shared and not shared.is_file():
            write_arrays(shared, values)
        write_arrays(path, {**values, **self._validation(checkpoint)})

    def speak(self, checkpoint: Checkpoint, sentences: Sequence[str]) -> list:
        """Says sentences, each with the run's seed + its number, so that one of them can be said again alone."""
        how, tts = self.config.evaluation, TTS(checkpoint, device=self.ears.device, vocoder=self.ears.vocoder)
        spoken = []
        for number, sentence in enumerate(sentences, 1):
            spoken.append(tts.speak(sentence, steps=how.steps, solver=how.solver, temperature=how.temperature,
                                    length_scale=how.length_scale, seed=self.config.seed + number))
        return spoken

    def _judge(self, checkpoint: Checkpoint, keep: bool) -> dict[str, np.ndarray]:
        spoken = self.speak(checkpoint, self.ears.sentences)
        waves = [as_stored(speech.wave) for speech in spoken]
        if keep:
            for number, speech in enumerate(spoken, 1):
                write_sample(self.out / SAMPLES / f"{checkpoint.step:06d}" / f"{number:02d}.wav", speech.wave, speech.mel)
        seconds = np.array([len(wave) / SAMPLE_RATE for wave in waves])
        names = [f"{self.config.speaker}, sentence {number}" for number in range(1, len(waves) + 1)]
        said = {f"{SAID}/{name}": encoder.embed(waves, sample_rate=SAMPLE_RATE, names=names).astype(np.float32)
                for name, encoder in self.ears.encoders.items()}
        return {"seconds": seconds, **said}

    def facts(self) -> list:
        """What a sample's embeddings depend on besides the model and the evaluation's settings."""
        return [self.ears.sentences, list(self.ears.encoders), self.ears.version]

    def _shared(self, checkpoint: Checkpoint) -> Path:
        """Where the embeddings of a model before its first step are shared: it is the base with a row for the speaker."""
        table = getattr(checkpoint.model, "spk_emb", None)
        row = b"" if table is None else table.weight.detach().cpu().numpy().tobytes()
        how = json.dumps([self.base, asdict(self.config.evaluation), *self.facts(), self.config.seed])
        return self.ears.cache / "start" / f"{hashlib.sha256(how.encode() + row).hexdigest()[:24]}.npz"

    def _validation(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        path = self.out / VALIDATION
        if not path.is_file():
            return {}
        features = prepare_features(read_manifest(path), checkpoint.text, self.config.cache)
        row = checkpoint.model.config.n_speakers - 1
        return {"validation": np.array(validation_loss(checkpoint.model, features, row, seed=self.config.seed))}

    def write_voices(self) -> None:
        """Writes `voices.npz` for a run whose manifests are there, unless that is done."""
        if (self.out / VOICES).is_file():
            return
        reference = [u.path for u in read_manifest(self.out / "reference.csv")]
        given = self.out / GIVEN if (self.out / GIVEN).is_file() else self.out / "train.csv"
        foreign = [u.path for u in read_manifest(given) if u.extra.get("true_speaker", u.speaker) != u.speaker]
        arrays = {}
        for name, encoder in self.ears.encoders.items():
            arrays[f"{REFERENCE}/{name}"] = embed_clips(reference, encoder, self.ears.cache, version=self.ears.version)
            if foreign:
                arrays[f"{POLLUTION}/{name}"] = embed_clips(foreign, encoder, self.ears.cache, version=self.ears.version)
        write_arrays(self.out / VOICES, arrays)


def embed_clips(paths: Sequence[str], encoder: SpeakerEncoder, cache: Path, *, version: str) -> np.ndarray:
    """Embeddings of sound files, float32 [N, D], each cached under its path, size and time, the encoder's name and `Ears.version`.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be used.
    """
    rows = []
    for path in paths:
        status = os.stat(path)
        key = repr((encoder.name, version, os.path.abspath(path), status.st_size, status.st_mtime_ns))
        entry = cache / "voices" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if not entry.is_file():
            wave = load_audio(path, sample_rate=ENCODER_RATE)
            write_arrays(entry, {"embedding": encoder.embed([wave], sample_rate=ENCODER_RATE, names=[path])[0].astype(np.float32)})
        rows.append(read_arrays(entry)["embedding"])
    return np.stack(rows)


def as_stored(wave: np.ndarray) -> np.ndarray:
    """A wave as it would come back from a 16-bit file: judged is what anybody else would hear, whether it is kept or not."""
    return (np.round(wave.clip(-1, 1 - 2**-15) * 2**15) / 2**15).astype(np.float32)


def judged_files(folder: Path) -> list[Path]:
    """The judged checkpoints in a folder, `NNNNNN.npz`, by step; what a process that was killed while it wrote has left is none."""
    return sorted(path for path in folder.glob("*.npz") if path.stem.isdigit())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to one `.npz`, whole or not at all."""
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Raises:
        ValueError: a broken file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole file of arrays ({str(error).splitlines()[0]}); remove it and go on") from None
