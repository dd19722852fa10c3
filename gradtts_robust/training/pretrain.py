"""A base: one model of many speakers, from manifests or packed features."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config import PRESETS, ModelConfig, PretrainConfig, TextConfig, from_dict
from ..data.condition_noise import check_settings as check_condition_noise
from ..data.condition_noise import corrupt_conditions
from ..data.corruption import RECORDS, write_records
from ..data.dataset import Features, load_features, prepare_usable_features, save_features
from ..data.manifest import read_manifests, validate
from ..files import check_folder
from ..model.conditioning import build_perturbation, condition_on_embeddings, rows_from_embeddings
from ..model.gradtts import GradTTS
from ..speech.text import SYMBOLS
from . import setup
from .align import align, split
from .calibration import DELTA, calibrate
from .calibration import NAME as CALIBRATED
from .checkpoint import load_checkpoint
from .loop import train
from .loss import build_objective, check_objective
from .record import Stages, check_same_run, count_stage, step_stage, write_config, write_skipped
from .speakers import embed_speakers, load_speakers, save_speakers

PACKED = ".safetensors"
MANY = 200  # utterances from which starting processes pays


@dataclass
class Corpus:
    """What a base hears.

    Args:
        features: utterances as ids and mels.
        speakers: names in the order of the speaker table's rows.
        embeddings: [n_speakers, D] float32 unit rows of Resemblyzer, or None where they are unknown.
        skipped: (id, reason) of utterances that no model can learn, such as a text longer than its audio.
        records: what was done to each utterance, see `data.condition_noise`; empty where nothing was.
    """

    features: list[Features]
    speakers: list[str]
    embeddings: Tensor | None
    skipped: list[tuple[str, str]]
    records: list[dict] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, int]:
        """The speaker table's row of each speaker."""
        return {name: row for row, name in enumerate(self.speakers)}


def pretrain(config: PretrainConfig, *, progress: Stages | None = None) -> Path:
    """Trains a base as `config` says and gives its run folder; goes on where an earlier call was cut off.

    Args:
        progress: called with (stage, done, total, detail).

    Raises:
        FileNotFoundError, ValueError: bad settings or data, before anything is written to the run folder.
    """
    out = Path(config.out)
    told = model_config(config, n_speakers=2, mel_mean=0.0, mel_std=1.0)
    setup.check_settings(config.optim, iterations=config.iterations, seed=config.seed, decoder=told.decoder)
    setup.resolve_device(config.device)
    if config.objective.example_weights != "none":
        raise ValueError(f"objective.example_weights is {config.objective.example_weights!r}, which weighs one target's utterances in "
                         "adaptation; set it to none for pretraining")
    check_objective(config.objective, told)
    if config.objective.delta_schedule == CALIBRATED and not config.init:
        raise ValueError("objective.delta_schedule is calibrated, but random weights have no error to go by; name a checkpoint with --init")
    build_perturbation(config.conditioning, told)
    check_condition_noise(config.corruption)
    check_same_run(out, config)
    corpus = read_corpus(config, progress=progress)
    mean, std = mel_statistics(corpus.features)
    shape = model_config(config, n_speakers=len(corpus.speakers), mel_mean=mean, mel_std=std)
    perturbation = build_perturbation(config.conditioning, shape)
    model, features = _start(config, shape, corpus, progress=progress)
    table = calibrate(config.objective, model, features, corpus.rows, path=out / DELTA, seed=config.seed, device=config.device)
    objective = build_objective(config.objective, shape, delta_table=table)
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, config)
    write_skipped(out, corpus.skipped)
    if corpus.records:
        write_records(out / RECORDS, corpus.records)
    train(model, features, corpus.rows, objective=objective, optim=config.optim,
          iterations=config.iterations, out=out, seed=config.seed, device=config.device, text=config.text, speakers=corpus.speakers,
          embeddings=corpus.embeddings, trainable=config.train, aligned_first=config.aligned_first, perturbation=perturbation,
          progress=step_stage(progress, "pretrain"))
    return out


def _start(config: PretrainConfig, shape: ModelConfig, corpus: Corpus, *,
           progress: Stages | None) -> tuple[GradTTS, list[Features]]:
    """The model before its first step, from random weights or from `config.init`, and the utterances it is to see."""
    projected = shape.speaker_conditioning == "embedding" and shape.n_speakers > 1
    if projected and corpus.embeddings is None:
        raise ValueError("speaker_conditioning is embedding, but the speakers' embeddings are unknown; pack the manifests again, "
                         "or set model.speaker_conditioning to table")
    if not config.init:
        if config.keep_alignments:
            raise ValueError("keep_alignments aligns by the checkpoint `init`, but there is none; name it with --init")
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = GradTTS(shape)
        if projected:
            model.spk_emb.fit(corpus.embeddings, rows_from_embeddings(corpus.embeddings, shape.speaker_dim))
        elif config.speaker_rows == "embedding" and corpus.embeddings is not None and shape.n_speakers > 1:
            model.spk_emb.weight.data.copy_(rows_from_embeddings(corpus.embeddings, shape.speaker_dim))
        return model, corpus.features
    start = load_checkpoint(config.init)
    if start.speakers != corpus.speakers or start.text != config.text:
        raise ValueError(f"{config.init}: of other speakers or another front end than the manifests; use the run that they were trained in")
    if projected and start.model.config.speaker_conditioning == "table":
        condition_on_embeddings(start.model, corpus.embeddings)
    start.model.config = replace(start.model.config, pause_symbol=shape.pause_symbol)
    for name in config.model:
        asked, found = getattr(shape, name), getattr(start.model.config, name)
        if asked != found:
            raise ValueError(f"model.{name} is {asked}, but {config.init} was trained with {found}; leave it out, or start without --init")
    if not config.keep_alignments:
        return start.model, corpus.features if config.draw == "all" else [f for f in corpus.features if f.durations is None]
    features = align(start.model, corpus.features, corpus.rows, progress=count_stage(progress, "alignments"))
    if config.max_seconds:
        features = [piece for f in features for piece in split(f, space=SYMBOLS.index(" "), max_seconds=config.max_seconds)]
    return start.model, features


def model_config(config: PretrainConfig, *, n_speakers: int, mel_mean: float, mel_std: float) -> ModelConfig:
    """The preset, what the data says, and over both the single settings of `config.model`.

    Raises:
        ValueError: an unknown preset or setting.
    """
    if config.preset not in PRESETS:
        raise ValueError(f"preset is {config.preset!r}; choose one of {', '.join(PRESETS)}")
    measured = {"n_speakers": n_speakers, "mel_mean": mel_mean, "mel_std": mel_std}
    pause = {"pause_symbol": SYMBOLS.index(" ")} if config.text.edges else {}
    return from_dict(ModelConfig, {**PRESETS[config.preset], **measured, **pause, **config.model})


def read_corpus(config: PretrainConfig, *, progress: Stages | None = None) -> Corpus:
    """Features and speakers of `config.manifests`, each a manifest or a file that `pack` wrote.

    Raises:
        FileNotFoundError, ValueError: what the readers raise, or a mix of both kinds with a speaker in common.
    """
    if not config.manifests:
        raise ValueError("no manifest given; name at least one with --manifests")
    packed = [path for path in config.manifests if str(path).endswith(PACKED)]
    manifests = [path for path in config.manifests if path not in packed]
    if packed and config.corruption.kind != "none":
        raise ValueError(f"{packed[0]}: packed features cannot be given wrong conditions; name manifests, or set corruption.kind to none")
    features, embeddings, skipped, records = [], {}, [], []
    for path in packed:
        features += load_features(path)
        beside = speakers_path(path)
        embeddings |= load_speakers(beside) if beside.exists() else {}
    if manifests:
        utterances = read_manifests(manifests)
        shared = {u.speaker for u in utterances} & {f.speaker for f in features}
        if shared:
            raise ValueError(f"speaker {min(shared)!r} stands in a manifest and in packed features; pack them together")
        validate(utterances)
        cache = config.cache or Path(config.out).parent / "features"
        check_folder(cache)
        if config.corruption.kind != "none":
            similar = config.corruption.kind == "asymmetric"
            known = embed_speakers(utterances, cache, progress=count_stage(progress, "speakers")) if similar else None
            wrong = corrupt_conditions(utterances, config.corruption, embeddings=known)
            utterances, records = wrong.utterances, wrong.records
        jobs = (os.cpu_count() or 1) if len(utterances) >= MANY else 1
        prepared = prepare_usable_features(utterances, config.text, cache, progress=count_stage(progress, "features"), n_jobs=jobs)
        features, skipped = features + prepared.features, prepared.skipped
        embeddings |= embed_speakers(utterances, cache, progress=count_stage(progress, "speakers"))
    speakers = sorted({f.speaker for f in features})
    known = all(name in embeddings for name in speakers)
    table = torch.stack([torch.as_tensor(embeddings[name]) for name in speakers]) if known else None
    return Corpus(features, speakers, table, skipped, records)


def pack(manifests: Sequence[str], path: str | Path, *, text: TextConfig, cache: str | Path | None = None,
         progress: Stages | None = None) -> Path:
    """Prepares manifests into one features file, and the speakers' embeddings beside it, for a machine without audio libraries.

    Raises:
        FileNotFoundError, ValueError: what reading and preparing raise.
    """
    config = PretrainConfig(manifests=list(manifests), text=text, out=str(path), cache=str(cache or ""))
    corpus = read_corpus(config, progress=progress)
    save_features(path, corpus.features)
    if corpus.embeddings is not None:
        save_speakers(speakers_path(path), dict(zip(corpus.speakers, corpus.embeddings.numpy(), strict=True)))
    return Path(path)


def speakers_path(path: str | Path) -> Path:
    """Where the speakers' embeddings of a packed features file lie."""
    return Path(path).with_suffix(".speakers.safetensors")


def mel_statistics(features: Sequence[Features]) -> tuple[float, float]:
    """Mean and standard deviation of all log-mel values, natural log."""
    sums = torch.stack([torch.stack([f.mel.double().sum(), f.mel.double().square().sum()]) for f in features]).sum(dim=0)
    count = sum(f.mel.numel() for f in features)
    mean = sums[0].item() / count
    return round(mean, 4), round(max(sums[1].item() / count - mean ** 2, 1e-8) ** 0.5, 4)
