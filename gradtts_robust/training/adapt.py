"""A base learns a new speaker: what it hears, where the speaker's row starts, what is trained."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import AdaptConfig
from ..data.corruption import RECORDS, corrupt, write_records
from ..data.dataset import Features, prepare_features
from ..data.manifest import Utterance, read_manifest, validate, write_manifest
from ..files import check_folder, shipped_weights
from ..model.conditioning import add_speaker, build_perturbation, new_row
from ..model.gradtts import GradTTS
from . import setup
from .audit import audit_voices
from .calibration import DELTA, calibrate
from .checkpoint import Checkpoint, load_checkpoint
from .gain import GainEstimate, residual_energies
from .joint import COMBINATIONS
from .loop import OnCheckpoint, TrainResult, train
from .loss import build_objective, check_objective
from .record import Stages, check_same_run, count_stage, step_stage, write_config
from .signals import measure_text_fit
from .speakers import embed_speakers, embed_utterances
from .weights import BY_GAIN, BY_VOICE, WEIGHTS, ExampleWeights, weigh_jointly, weigh_voices, write_weights

NEAREST = 5
VALIDATION = "validation.csv"
GIVEN = "given.csv"
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
        validation: what was kept out of training to choose an iteration by, dirt included.
        given: all that there was before `filtering` left some out; the same as `utterances` where it did not.
    """

    model: GradTTS
    start: Checkpoint
    row: int | None
    utterances: list[Utterance]
    features: list[Features]
    reference: list[Utterance]
    records: list[dict]
    weights: ExampleWeights | None = None
    validation: list[Utterance] = field(default_factory=list)
    given: list[Utterance] = field(default_factory=list)


@dataclass
class AdaptResult:
    """Run folder, what it was made from, and what the loop did."""

    out: Path
    prepared: Prepared
    training: TrainResult


def adapt(config: AdaptConfig, *, prepared: Prepared | None = None, on_checkpoint: OnCheckpoint | None = None,
          progress: Stages | None = None) -> AdaptResult:
    """Adapts a base as `config` says; goes on where an earlier call was cut off.

    The run folder gets, besides what `train` writes, `config.yaml`, `corruption.csv`, the manifests `train.csv` and
    `reference.csv`, `weights.csv` where the utterances are weighted, and where `filtering` leaves some out `given.csv` with all of them
    and `validation.csv`.

    Args:
        prepared: what `prepare_adaptation` made of the same settings, where that has been called; training changes its model.
        on_checkpoint: called with a checkpoint's folder and contents, first with step 0, the base before its first step.
        progress: called with (stage, done, total, detail).

    Raises:
        FileNotFoundError, ValueError: bad settings or data, before anything is written to the run folder.
    """
    out = Path(config.out)
    prepared = prepared or prepare_adaptation(config, progress=progress)
    rows = {config.speaker: prepared.row or 0}
    table = calibrate(config.objective, prepared.model, prepared.features, rows, path=out / DELTA, seed=config.seed, device=config.device)
    objective = build_objective(config.objective, prepared.model.config, delta_table=table)
    perturbation = build_perturbation(config.conditioning, prepared.model.config)
    gain = _gain(config, prepared, rows)
    write_data(config, prepared)
    start = prepared.start
    training = train(
        prepared.model, prepared.features, rows, objective=objective, optim=config.optim,
        iterations=config.iterations, out=out, seed=config.seed, device=config.device, trainable=config.train,
        speaker_row=prepared.row, text=start.text, speakers=start.speakers, embeddings=start.embeddings,
        default_speaker=start.default_speaker, perturbation=perturbation, weights=prepared.weights, gain=gain,
        trim=config.filtering.trim, save_start=True,
        on_checkpoint=on_checkpoint, progress=step_stage(progress, "adapt"))
    return AdaptResult(out, prepared, training)


def write_data(config: AdaptConfig, prepared: Prepared) -> None:
    """Writes what an adaptation is made of to its run folder, see `adapt`."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, config)
    write_records(out / RECORDS, prepared.records)
    # of a run that goes on, what it has estimated stays until the next time
    if prepared.weights and not (config.objective.example_weights in BY_GAIN and (out / WEIGHTS).is_file()):
        write_weights(out / WEIGHTS, prepared.weights, prepared.records)
    write_manifest(out / "train.csv", prepared.utterances)
    write_manifest(out / "reference.csv", prepared.reference)
    if prepared.validation:
        write_manifest(out / VALIDATION, prepared.validation)
    if len(prepared.given) > len(prepared.utterances):
        write_manifest(out / GIVEN, prepared.given)


def _gain(config: AdaptConfig, prepared: Prepared, rows: dict[str, int]) -> GainEstimate | None:
    if config.objective.example_weights not in BY_GAIN:
        return None
    base = residual_energies(prepared.model, prepared.features, rows, seed=config.seed)

    def tell(weights: ExampleWeights) -> None:
        write_weights(Path(config.out) / WEIGHTS, weights, prepared.records)

    return GainEstimate(prepared.weights, config.objective.gain_warmup, config.objective.gain_every, prepared.features, rows,
                        config.seed, base, tell)


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
    setup.check_settings(config.optim, iterations=config.iterations, seed=config.seed, decoder=base.model.config.decoder)
    check_objective(config.objective, base.model.config)
    build_perturbation(config.conditioning, base.model.config)
    if config.train == "speaker" and base.model.config.n_speakers == 1:
        raise ValueError("train is 'speaker', but the base has a single speaker and no speaker table; choose all or decoder")
    cache = config.cache or Path(config.out).parent / "features"
    check_folder(cache)
    embeddings = None
    if config.corruption.kind != "none" and config.corruption.pick != "random":
        validate([*split.train, *split.others])
        embeddings = embed_speakers([*split.train, *split.others], cache, progress=count_stage(progress, "speakers"))
    dirty = corrupt(split.train, split.others, config.corruption, embeddings=embeddings,
                    protected={u.id for u in split.reference}, folder=Path(cache) / "corrupted")
    validate([*dirty.utterances, *split.reference])
    learnt, validation = dirty.utterances, []
    if config.filtering.oracle:
        learnt = [u for u, record in zip(learnt, dirty.records, strict=True) if not record["corrupted"]]
        if not learnt:
            raise ValueError("filtering.oracle leaves nothing to learn from, as every utterance is dirty; lower corruption.fraction")
    if config.filtering.audit:
        learnt = audit_voices(learnt, cache, progress=count_stage(progress, "audit")).kept
    if config.filtering.validation:
        learnt, validation = _held_out(learnt, config.filtering.validation, config.seed)
    features = prepare_features(learnt, base.text, cache, progress=count_stage(progress, "features"))
    kind, heard = config.objective.example_weights, None
    if base.embeddings is not None or kind in BY_VOICE:
        heard = embed_utterances(learnt, cache, progress=count_stage(progress, "voice"))
    weights = weigh_voices(learnt, features, heard) if kind in BY_VOICE else None
    model, start = with_new_speaker(base, config.speaker, heard, weights and weights.values)
    row = model.config.n_speakers - 1 if model.config.n_speakers > 1 else None
    if kind in COMBINATIONS:
        weights = weigh_jointly(weights, measure_text_fit(model, features, row=row, progress=count_stage(progress, "texts")), kind)
    if kind == "gain":
        weights = ExampleWeights([u.id for u in learnt], np.ones(len(features)), {})
    return Prepared(model, start, row, learnt, features, split.reference, dirty.records, weights, validation, dirty.utterances)


def _held_out(utterances: list[Utterance], count: int, seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """What remains, and `count` utterances drawn by the seed."""
    if count >= len(utterances):
        raise ValueError(f"filtering.validation keeps {count} of {len(utterances)} utterances out of training; at least one must remain")
    drawn = set(np.random.default_rng((seed, 2)).permutation(len(utterances))[:count].tolist())
    return ([u for i, u in enumerate(utterances) if i not in drawn], [u for i, u in enumerate(utterances) if i in drawn])


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
        row = new_row(base.model.spk_emb, base.embeddings, target, k=NEAREST)
        embeddings = torch.cat([base.embeddings, target[None].to(base.embeddings)])
    return add_speaker(base.model, row), _renamed(base, [*names, name], name, embeddings)


def shipped_base() -> Path:
    """Where the project's own base lies, see `files.shipped_weights`."""
    return shipped_weights(SHIPPED_BASE, instead="name a checkpoint with --base")


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
    if config.filtering.validation < 0:
        raise ValueError(f"filtering.validation is {config.filtering.validation}; it must be at least 0")
    if not 0 <= config.filtering.trim < 1:
        raise ValueError(f"filtering.trim is {config.filtering.trim:g}; it must be in [0, 1), such as 0.3")
    if config.evaluation.reference_utterances < 1:
        raise ValueError(f"evaluation.reference_utterances is {config.evaluation.reference_utterances}; at least 1 is needed to judge by")
