"""A base learns a new speaker: what it hears, where the speaker's row starts, what is trained."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import AdaptConfig
from ..data.corruption import corrupt, write_records
from ..data.dataset import Features, prepare_features
from ..data.manifest import Utterance, read_manifest, validate, write_manifest
from ..files import verify_hash
from ..model.conditioning import add_speaker, build_perturbation, nearest_row
from ..model.gradtts import GradTTS
from . import setup
from .calibration import DELTA, calibrate
from .checkpoint import Checkpoint, load_checkpoint
from .loop import OnCheckpoint, TrainResult, build_objective, check_objective, train
from .record import Stages, check_same_run, count_stage, step_stage, write_config
from .speakers import embed_speakers, embed_utterances
from .weights import WEIGHTS, ExampleWeights, weigh, write_weights

NEAREST = 5
SHIPPED_BASE = "base-small"
NAMES_SHOWN = 10


@dataclass
class Split:
    """The target's utterances: to learn from and to be judged by; and everybody else's."""

    train: list[Utterance]
    reference: list[Utterance]
    others: list[Utterance]


@dataclass
class Prepared:
    """All that an adaptation needs, made without writing to the run folder.

    Args:
        model: the base with the target's row, or the single-speaker base as it is.
        start: what the checkpoints say besides the weights: front end, names, embeddings with the target's last.
        row: the target's row of the speaker table; None for a single-speaker base.
        utterances: what is trained on, dirt included, all labelled as the target's; `features` in the same order.
        reference: the target's clean utterances that training never sees.
        records: what was done to each utterance, see `data.corruption`.
        weights: how far each is trusted, where `objective.example_weights` asks for it.
    """

    model: GradTTS
    start: Checkpoint
    row: int | None
    utterances: list[Utterance]
    features: list[Features]
    reference: list[Utterance]
    records: list[dict]
    weights: ExampleWeights | None = None


@dataclass
class AdaptResult:
    """Run folder, what it was made from, and what the loop did."""

    out: Path
    prepared: Prepared
    training: TrainResult


def adapt(config: AdaptConfig, *, on_checkpoint: OnCheckpoint | None = None, progress: Stages | None = None) -> AdaptResult:
    """Adapts a base as `config` says; goes on where an earlier call was cut off.

    The run folder gets, besides what `train` writes, `config.yaml`, `corruption.csv`, the manifests `train.csv` and
    `reference.csv`, and `weights.csv` where the utterances are weighted.

    Args:
        on_checkpoint: called with a checkpoint's folder and contents, first with step 0, the base before its first step.
        progress: called with (stage, done, total, detail).

    Raises:
        FileNotFoundError, ValueError: bad settings or data, before anything is written to the run folder.
    """
    out = Path(config.out)
    prepared = prepare_adaptation(config, progress=progress)
    rows = {config.speaker: prepared.row or 0}
    table = calibrate(config.objective, prepared.model, prepared.features, rows, path=out / DELTA, seed=config.seed, device=config.device)
    objective = build_objective(config.objective, prepared.model.config, delta_table=table)
    perturbation = build_perturbation(config.conditioning, prepared.model.config)
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, config)
    write_records(out / "corruption.csv", prepared.records)
    if prepared.weights:
        write_weights(out / WEIGHTS, prepared.weights, prepared.records)
    write_manifest(out / "train.csv", prepared.utterances)
    write_manifest(out / "reference.csv", prepared.reference)
    start = prepared.start
    training = train(
        prepared.model, prepared.features, rows, objective=objective, optim=config.optim,
        iterations=config.iterations, out=out, seed=config.seed, device=config.device, trainable=config.train,
        speaker_row=prepared.row, text=start.text, speakers=start.speakers, embeddings=start.embeddings,
        default_speaker=start.default_speaker, perturbation=perturbation, weights=prepared.weights, save_start=True,
        on_checkpoint=on_checkpoint, progress=step_stage(progress, "adapt"))
    return AdaptResult(out, prepared, training)


def prepare_adaptation(config: AdaptConfig, *, progress: Stages | None = None) -> Prepared:
    """Selects and corrupts the data, prepares its features, and gives the base a row for the target.

    The reference depends on the manifest alone, so that it is the same under all conditions.

    Raises:
        FileNotFoundError, ValueError: a setting, the manifest, its audio or the base cannot be used; one line says what to do.
    """
    _check(config)
    check_same_run(Path(config.out), config)
    split = split_target(config)
    base = load_checkpoint(config.base or shipped_base())
    check_objective(config.objective, base.model.config)
    build_perturbation(config.conditioning, base.model.config)
    if config.train == "speaker" and base.model.config.n_speakers == 1:
        raise ValueError("train is 'speaker', but the base has a single speaker and no speaker table; choose all or decoder")
    cache = config.cache or Path(config.out).parent / "features"
    embeddings = None
    if config.corruption.kind != "none" and config.corruption.pick != "random":
        validate([*split.train, *split.others])
        embeddings = embed_speakers([*split.train, *split.others], cache, progress=count_stage(progress, "speakers"))
    dirty = corrupt(split.train, split.others, config.corruption, embeddings=embeddings,
                    protected={u.id for u in split.reference})
    validate([*dirty.utterances, *split.reference])
    features = prepare_features(dirty.utterances, base.text, cache, progress=count_stage(progress, "features"))
    kind, heard, weights = config.objective.example_weights, None, None
    if base.embeddings is not None or kind != "none":
        heard = embed_utterances(dirty.utterances, cache, progress=count_stage(progress, "voice"))
        weights = weigh(kind, dirty.utterances, features, heard)
    model, start = with_new_speaker(base, config.speaker, heard, weights and weights.values)
    row = model.config.n_speakers - 1 if model.config.n_speakers > 1 else None
    return Prepared(model, start, row, dirty.utterances, features, split.reference, dirty.records, weights)


def split_target(config: AdaptConfig) -> Split:
    """Reads the manifest and parts the target's utterances: the last by id are the reference, the first are learnt from.

    Raises:
        FileNotFoundError, ValueError: no such manifest or speaker, or too few utterances.
    """
    if not config.manifest:
        raise ValueError("no manifest given; name one with --manifest")
    utterances = read_manifest(config.manifest)
    speakers = sorted({u.speaker for u in utterances})
    if config.speaker not in speakers:
        shown = ", ".join(speakers[:NAMES_SHOWN]) + (", ..." if len(speakers) > NAMES_SHOWN else "")
        raise ValueError(f"{config.manifest}: no speaker {config.speaker!r}; it has {shown}")
    own = sorted((u for u in utterances if u.speaker == config.speaker), key=lambda u: u.id)
    kept, wanted = config.evaluation.reference_utterances, max(1, config.utterances)
    if len(own) < kept + wanted:
        raise ValueError(f"{config.manifest}: speaker {config.speaker!r} has {len(own)} utterances, but {kept} are kept as reference "
                         f"and {wanted} needed to learn from; lower evaluation.reference_utterances or utterances")
    learnt = own[: len(own) - kept]
    return Split(learnt[: config.utterances or None], own[len(own) - kept:], [u for u in utterances if u.speaker != config.speaker])


def with_new_speaker(base: Checkpoint, name: str, heard: np.ndarray | None,
                     weights: np.ndarray | None = None) -> tuple[GradTTS, Checkpoint]:
    """The base's model with a row for a new speaker, and what its checkpoints are to say.

    Args:
        name: the new speaker's.
        heard: embeddings of what is trained on [N, D], unit rows: the row starts as the similarity-weighted mean of the rows
            of the nearest base speakers. None where the base's embeddings are unknown: it then starts as the mean of all rows.
        weights: of what is heard, [N]; None for all alike.

    Raises:
        ValueError: the base has a speaker of this name.
    """
    count = base.model.config.n_speakers
    if count == 1:
        return base.model, _renamed(base, [name], name, None)
    numbered = [str(row) for row in range(count)]
    # an original's rows have numbers for names, which may well be a corpus' names for others
    names = [f"row-{row}" for row in numbered] if base.speakers == numbered else list(base.speakers)
    if name in names:
        raise ValueError(f"the base already has a speaker {name!r}; rename the target in the manifest")
    if heard is None or base.embeddings is None:
        row, embeddings = base.model.spk_emb.weight.detach().mean(dim=0), None
    else:
        mean = torch.from_numpy(np.average(heard, axis=0, weights=weights).astype(np.float32))
        target = mean / mean.norm()
        row = nearest_row(base.model.spk_emb, base.embeddings, target, k=NEAREST)
        embeddings = torch.cat([base.embeddings, target[None].to(base.embeddings)])
    return add_speaker(base.model, row), _renamed(base, [*names, name], name, embeddings)


def shipped_base() -> Path:
    """Where the project's own base lies; its hash is checked against the card beside it.

    Raises:
        FileNotFoundError: this copy of the project came without it.
        ValueError: the file is damaged.
    """
    folder = resources.files("gradtts_robust.shipped")
    path, card = Path(str(folder / f"{SHIPPED_BASE}.safetensors")), Path(str(folder / f"{SHIPPED_BASE}.json"))
    if not path.is_file() or not card.is_file():
        raise FileNotFoundError("this copy of gradtts-robust has no base; name a checkpoint with --base")
    verify_hash(path, json.loads(card.read_text(encoding="utf-8"))["sha256"])
    return path


def _renamed(base: Checkpoint, speakers: Sequence[str], default: str, embeddings: Tensor | None) -> Checkpoint:
    return Checkpoint(model=base.model, text=base.text, speakers=list(speakers), step=0, embeddings=embeddings,
                      default_speaker=default, extra={})


def _check(config: AdaptConfig) -> None:
    setup.check_settings(config.optim, iterations=config.iterations, seed=config.seed)
    setup.resolve_device(config.device)
    if config.train not in setup.TRAINABLE:
        raise ValueError(f"train is {config.train!r}; choose one of {', '.join(setup.TRAINABLE)}")
    if config.utterances < 0:
        raise ValueError(f"utterances is {config.utterances}; it must be at least 0, and 0 means all")
    if config.evaluation.reference_utterances < 1:
        raise ValueError(f"evaluation.reference_utterances is {config.evaluation.reference_utterances}; at least 1 is needed to judge by")
