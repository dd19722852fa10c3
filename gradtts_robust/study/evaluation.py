"""Judging one checkpoint: it speaks unseen sentences, and their speaker similarity to held-out clean speech is measured."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import AdaptConfig, EvaluationConfig, TextConfig
from ..data.generated import sentences as project_sentences
from ..data.manifest import Utterance, read_manifest
from ..files import atomic_text, atomic_write
from ..speech.audio import SAMPLE_RATE, load_audio, mel_spectrogram, save_wav
from ..speech.speaker import SpeakerEncoder, centroid, similarity, speaker_encoder
from ..speech.text import encode
from ..speech.vocoder import Vocoder, load_vocoder
from ..training.checkpoint import Checkpoint
from ..training.voice import TTS
from .metrics import embed_files, leave_one_out
from .results import COLUMNS, EVALUATION, RESULTS, SAMPLES, read_evaluation, read_results, write_results

OWN = ("similarity", "pollution_similarity")


@dataclass
class Tools:
    """What judging needs besides the data; made before training, so that a mistake in the settings costs no time."""

    sentences: list[str]
    encoder: SpeakerEncoder
    vocoder: Vocoder
    device: str


def load_tools(config: EvaluationConfig, device: str) -> Tools:
    """Reads the sentences and loads speaker encoder and vocoder.

    Raises:
        FileNotFoundError, ValueError: a setting that cannot be used.
    """
    for name in ("temperature", "length_scale"):
        if not getattr(config, name) > 0:
            raise ValueError(f"evaluation.{name} is {getattr(config, name)}; it must be above 0")
    if config.steps < 1:
        raise ValueError(f"evaluation.steps is {config.steps}; it must be at least 1")
    return Tools(read_sentences(config.sentences), speaker_encoder(config.encoder, config.encoder_source or None, device),
                 load_vocoder(config.vocoder, device=device), device)


def read_sentences(wanted: str | int) -> list[str]:
    """The first `wanted` of the project's test sentences, or the lines of a text file.

    Raises:
        FileNotFoundError: neither a number nor a file.
        ValueError: a number out of range, an empty file, or a line with nothing to say.
    """
    if str(wanted).lstrip("-").isdecimal():
        known = project_sentences("test")
        if not 1 <= int(wanted) <= len(known):
            raise ValueError(f"evaluation.sentences is {wanted}; there are 1 to {len(known)}, or name a text file")
        return known[: int(wanted)]
    path = Path(wanted)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of sentences; evaluation.sentences is a number or a text file, one sentence a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; evaluation.sentences is a text file, one sentence a line") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                encode(line, TextConfig())
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path}: no sentence in it; write one a line")
    return [line.strip() for line in lines if line.strip()]


class Evaluation:
    """The judged checkpoints of one run folder, in `results.csv`, `evaluation.json` and `samples/`.

    Rows of finished checkpoints are kept when a run goes on; rows that were judged in another way are dropped.

    Args:
        config: of the adaptation, whose `out` holds `train.csv` and `reference.csv` by the time the first checkpoint is judged.
        condition: the rows' name for this run.
        foreign: files of other speakers to measure closeness to where the run's own data has none, as a control.
        progress: called with (stage, done, total, detail).
    """

    def __init__(self, config: AdaptConfig, tools: Tools, *, condition: str, foreign: Sequence[str] = (),
                 progress: Callable[..., None] | None = None):
        self.config, self.tools, self.condition, self.progress = config, tools, condition, progress
        self.out, self.foreign = Path(config.out), [str(path) for path in foreign]
        self._target: tuple[np.ndarray, np.ndarray | None] | None = None
        self._judged_by: dict = {}
        self._rows: list[dict] = []

    def on_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Judges a checkpoint, unless the table has it already."""
        self._begin()
        if checkpoint.step in self.judged():
            return
        self._target = self._target or self._measure()
        reference, pollution = self._target
        tts = TTS(checkpoint, device=self.tools.device, vocoder=self.tools.vocoder)
        rows = []
        for number, sentence in enumerate(self.tools.sentences, 1):
            speech = self._speak(tts, sentence, number)
            sample = f"{SAMPLES}/{checkpoint.step:06d}/{number:02d}.wav"
            write_sample(self.out / sample, speech.wave, speech.mel)
            rows.append({"iteration": checkpoint.step, "sentence": number, "sample": sample, "seconds": len(speech.wave) / SAMPLE_RATE})
            self._tell(checkpoint.step, number)
        # the files are judged, clipped and rounded as they are: what anybody else would measure
        embeddings = embed_files(self.tools.encoder, [self.out / row["sample"] for row in rows])
        near = similarity(embeddings, reference)
        away = similarity(embeddings, pollution) if pollution is not None else np.full(len(near), np.nan)
        for row, *values in zip(rows, near, away, strict=True):
            row.update(self._constants(), **dict(zip(OWN, map(float, values))))
        self._rows = sorted(self._rows + rows, key=lambda row: (row["iteration"], row["sentence"]))
        write_results(self.out, pd.DataFrame(self._rows, columns=list(COLUMNS)))

    def judged(self) -> set[int]:
        """Iterations that the table has whole."""
        self._begin()
        return {row["iteration"] for row in self._rows}

    def drop_after(self, step: int) -> None:
        """Forgets checkpoints after `step`, which a run that goes on from there will write anew."""
        self._begin()
        kept = [row for row in self._rows if row["iteration"] <= step]
        if len(kept) < len(self._rows):
            self._rows = kept
            write_results(self.out, pd.DataFrame(kept, columns=list(COLUMNS)))

    def _speak(self, tts: TTS, sentence: str, number: int):
        # one by one: the noise of a batch would depend on the other sentences' lengths, and a sample could not be made again alone
        how = self.config.evaluation
        return tts.speak(sentence, steps=how.steps, solver=how.solver, temperature=how.temperature, length_scale=how.length_scale,
                         seed=self.config.seed + number)

    def _constants(self) -> dict:
        config = self.config
        return {
            "speaker": config.speaker, "condition": self.condition, "corruption_kind": config.corruption.kind,
            "corruption_fraction": config.corruption.fraction, "penalty": config.objective.penalty,
            "delta_schedule": config.objective.delta_schedule, "delta_0": config.objective.delta_0,
            "weighting": config.objective.weighting, "example_weights": config.objective.example_weights,
            "seed": config.seed, "encoder": self.tools.encoder.name,
        }

    def _tell(self, step: int, number: int) -> None:
        if self.progress:
            every, count = self.config.optim.checkpoint_every, len(self.tools.sentences)
            place = -(-step // every)
            total = (-(-self.config.iterations // every) + 1) * count
            self.progress("evaluation", min(place * count + number, total), total, f"iteration {step}")

    def _begin(self) -> None:
        """Takes over the rows that were judged in the same way as now; drops others with their samples."""
        if self._judged_by:
            return
        reference, foreign = self._judges()
        how = {name: value for name, value in asdict(self.config.evaluation).items() if name not in ("thresholds", "reference_utterances")}
        # names and not paths: the folder may have been moved
        self._judged_by = json.loads(json.dumps({
            "condition": self.condition, "encoder": self.tools.encoder.name, "settings": how, "sentences": self.tools.sentences,
            "seed": self.config.seed, "reference": [u.id for u in reference], "foreign": [Path(path).name for path in foreign]}))
        earlier = read_evaluation(self.out)
        if {name: earlier.get(name) for name in self._judged_by} != self._judged_by:
            (self.out / RESULTS).unlink(missing_ok=True)
            shutil.rmtree(self.out / SAMPLES, ignore_errors=True)
        elif (self.out / RESULTS).is_file():
            self._rows = read_results(self.out).to_dict("records")

    def _judges(self) -> tuple[list[Utterance], list[str]]:
        """The target's held-out utterances, and files of other speakers: those among the data, or those that were named."""
        own = [u.path for u in read_manifest(self.out / "train.csv") if u.extra.get("true_speaker")]
        return read_manifest(self.out / "reference.csv"), own or self.foreign

    def _measure(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Centroids of the target and of the foreign speakers; writes what is known of them to `evaluation.json`."""
        (reference, foreign), encoder = self._judges(), self.tools.encoder
        embeddings = embed_files(encoder, [u.path for u in reference])
        pollution = centroid(embed_files(encoder, foreign)) if foreign else None
        clips, resynthesised = [], []
        for number, utterance in enumerate(reference, 1):
            wave = load_audio(utterance.path)
            mel = mel_spectrogram(torch.from_numpy(wave)[None])
            resynthesised.append(self.tools.vocoder(mel)[0].float().cpu().numpy())
            clip = f"{SAMPLES}/reference/{number:02d}.wav"
            write_sample(self.out / clip, wave, mel[0])
            clips.append({"path": utterance.path, "text": utterance.text, "sample": clip})
        again = encoder.embed(resynthesised, sample_rate=SAMPLE_RATE)
        facts = {
            "ceiling": {"natural": leave_one_out(embeddings).tolist(), "resynthesis": leave_one_out(embeddings, again).tolist()},
            "reference_to_pollution": similarity(embeddings, pollution).tolist() if pollution is not None else [],
            "thresholds": list(self.config.evaluation.thresholds), "clips": clips, "vocoder": self.tools.vocoder.name,
        }
        atomic_text(self.out / EVALUATION, json.dumps({**self._judged_by, **facts}, indent=1, ensure_ascii=False) + "\n")
        return centroid(embeddings), pollution


def write_sample(path: Path, wave: np.ndarray, mel: torch.Tensor) -> None:
    """Writes a 16-bit wave, and beside it its mel [80, F] as float16 `.npy`."""
    with atomic_write(path.with_suffix(".npy")) as temporary:
        np.save(temporary, mel.float().cpu().numpy().astype(np.float16))
    save_wav(path, wave, SAMPLE_RATE)
