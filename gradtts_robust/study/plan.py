"""What a study consists of: one run per speaker, condition, objective and seed, each known by a hash of all that determines it."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import AdaptConfig, ConditioningConfig, CorruptionConfig, FilteringConfig, ObjectiveConfig, OptimConfig, from_dict
from ..config_grid import StudyConfig
from ..data.manifest import Utterance, read_manifest
from ..speech.speaker import ENCODERS
from ..training.adapt import shipped_base, split_target
from ..training.checkpoint import resolve
from ..training.setup import check_settings
from .evaluation import read_sentences

RESULTS_VERSION = "1"
"""Changes when a run would give other numbers than before, also by another shipped encoder or vocoder: results of another version are
not mixed with these."""
METHODS = ("plain", "audit", "trimmed", "early_stopping", "oracle")
RUN_SETTINGS = ("method", "trim", "validation", "optim", "conditioning", "train", "iterations", "base")
TRIM, VALIDATION_UTTERANCES = 0.3, 1
NOT_IN_KEY = ("out", "cache", "device", "base", "manifest", "optim.keep", "optim.keep_models", "optim.threads", "optim.compile",
              "optim.cuda_graphs", "evaluation.sentences", "evaluation.encoder", "evaluation.encoder_source", "evaluation.vocoder",
              "evaluation.thresholds")
"""Settings that change no result, and those whose content is hashed instead of their name."""
LATER = {"filtering": {"oracle": False}}
"""Settings that came after studies had been run: at these values they are not in the key, so that finished runs keep theirs."""


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        speaker, condition, objective, seed: its place in the study.
        method: one of `METHODS`.
        config: all its settings; `out` is its folder.
        key: hash of all that determines its result.
    """

    speaker: str
    condition: str
    objective: str
    seed: int
    method: str
    config: AdaptConfig
    key: str

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def name(self) -> str:
        return f"{self.speaker} {self.condition} {self.objective} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study's runs, and the names of what they are compared with ("" where there is none)."""

    out: Path
    runs: list[Run]
    baseline: str
    clean: str
    sentences: list[str]

    def distinct(self) -> list[Run]:
        """The runs without those that are another's twins under a second name."""
        return list({run.key: run for run in reversed(self.runs)}.values())[::-1]


def make_plan(config: StudyConfig) -> Plan:
    """Every run of a study. Nothing is computed or written.

    Raises:
        FileNotFoundError, ValueError: an empty grid, a setting, the manifest or a base that cannot be used.
    """
    _check(config)
    out, utterances = Path(config.out), read_manifest(config.manifest)
    sentences = read_sentences(config.evaluation.sentences)
    facts = {"version": RESULTS_VERSION, "manifest": manifest_digest(utterances), "sentences": sentences, "encoders": list(config.encoders),
             "files": judging_files(config.evaluation.vocoder, config.encoder_sources),
             "extra": [name for name in ("fidelity", "asr") if getattr(config, name)]}
    bases: dict[str, str] = {}
    runs = []
    for speaker in _speakers(config, utterances):
        for condition, corruption in config.conditions.items():
            for objective, entry in config.objectives.items():
                for seed in config.seeds:
                    one = run_config(config, speaker, condition=corruption, entry=entry, seed=seed, where=(condition, objective))
                    if one.base not in bases:
                        bases[one.base] = file_digest(resolve(one.base or shipped_base()))
                    key = run_key(one, {**facts, "base": bases[one.base]})
                    runs.append(Run(speaker, condition, objective, seed, entry.get("method", "plain"),
                                    replace(one, out=str(out / "runs" / key)), key))
    for run in {run.speaker: run for run in runs}.values():
        split_target(run.config)
    return Plan(out, runs, _baseline(config, runs), _clean(config, runs), sentences)


def judging_files(vocoder: str, encoder_sources: Mapping[str, str]) -> dict[str, str]:
    """What is loaded from elsewhere to judge by, as a hash where it is a file: its name says less than its content."""
    named = {"vocoder": vocoder, **encoder_sources}
    return {name: file_digest(Path(value)) if Path(value).is_file() else value for name, value in named.items()}


def run_config(config: StudyConfig, speaker: str, *, condition: Mapping, entry: Mapping, seed: int,
               where: tuple[str, str] = ("condition", "objective")) -> AdaptConfig:
    """The settings of one run, without its folder.

    Raises:
        ValueError: an unknown setting in `condition` or `entry`; `where` names them.
    """
    condition, entry = _settings(condition, f"conditions.{where[0]}"), dict(_settings(entry, f"objectives.{where[1]}"))
    own = {name: entry.pop(name) for name in RUN_SETTINGS if name in entry}
    method, place = own.pop("method", "plain"), f"objectives.{where[1]}"
    if method not in METHODS:
        raise ValueError(f"{place}.method is {method!r}; choose one of {', '.join(METHODS)}")
    for setting, reader in (("trim", "trimmed"), ("validation", "early_stopping")):
        if setting in own and method != reader:
            raise ValueError(f"{place}.{setting} is read by method {reader} alone, and its method is {method}; leave it out")
    trim, validation = own.pop("trim", TRIM), own.pop("validation", VALIDATION_UTTERANCES)
    filtering = _built(FilteringConfig, {
        "audit": method == "audit", "trim": trim if method == "trimmed" else 0.0,
        "validation": validation if method == "early_stopping" else 0, "oracle": method == "oracle"}, place)
    if not 0 < trim < 1:
        raise ValueError(f"{place}.trim is {trim:g}; it must be in (0, 1), such as {TRIM:g}")
    if validation < 1:
        raise ValueError(f"{place}.validation is {validation}; at least 1 utterance is needed to choose an iteration by")
    corruption = _built(CorruptionConfig, {"seed": seed, **condition}, f"conditions.{where[0]}")
    optim = _built(OptimConfig, {**dataclasses.asdict(config.optim), **_settings(own.pop("optim", {}), f"{place}.optim")}, f"{place}.optim")
    conditioning = _built(ConditioningConfig, own.pop("conditioning", {}), f"{place}.conditioning")
    objective = _built(ObjectiveConfig, entry, place)
    _built(AdaptConfig, own, place)
    shared = {"base": config.base, "iterations": config.iterations, "train": config.train, **own}
    return AdaptConfig(
        **shared, manifest=config.manifest, speaker=speaker, utterances=config.utterances, objective=objective, corruption=corruption,
        conditioning=conditioning, filtering=filtering, optim=replace(optim, threads=config.threads), evaluation=config.evaluation,
        cache=str(shared_cache(config) / "features"), device=config.device, seed=seed)


def shared_cache(config: StudyConfig) -> Path:
    """Folder of what runs share."""
    return Path(config.cache or Path(config.out) / "cache")


def run_key(config: AdaptConfig, facts: Mapping) -> str:
    """Hash of a run's settings, but for those that change no result, and of `facts`."""
    settings = without(dataclasses.asdict(config), NOT_IN_KEY)
    for section, values in LATER.items():
        settings[section] = {name: value for name, value in settings[section].items() if name not in values or value != values[name]}
    text = json.dumps({"settings": settings, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without(settings: dict, names: Sequence[str]) -> dict:
    """Settings without those of the names, such as `out` or `optim.keep`."""
    left = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    for name in names:
        *section, last = name.split(".")
        (left[section[0]] if section else left).pop(last)
    return left


def manifest_digest(utterances: Sequence[Utterance]) -> str:
    """Hash of what a manifest says, wherever it and its audio lie: texts, speakers, and sizes of the audio files."""
    rows = [(u.id, u.speaker, u.text, u.phonemes, u.ends, os.path.getsize(u.path) if os.path.exists(u.path) else -1) for u in utterances]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def quick(config: StudyConfig) -> StudyConfig:
    """A study of the same kind that ends within minutes: two speakers, two conditions and objectives, one seed, few steps.

    The condition and the objective that it names to compare with are among them.
    """
    speakers = (config.speakers or _speakers(config, read_manifest(config.manifest)))[:2]
    conditions, objectives = list(config.conditions), list(config.objectives)
    conditions = _with(config.clean, [*conditions[:1], *conditions[1:][-1:]], conditions)
    objectives = _with(config.baseline, objectives[:2], objectives)
    return replace(
        config, speakers=speakers, seeds=config.seeds[:1], conditions={name: config.conditions[name] for name in conditions},
        objectives={name: config.objectives[name] for name in objectives}, iterations=min(config.iterations, 40),
        optim=replace(config.optim, checkpoint_every=20, batch_size=min(config.optim.batch_size, 8)),
        evaluation=replace(config.evaluation, sentences="2", steps=min(config.evaluation.steps, 5)))


def _with(name: str, kept: list[str], known: list[str]) -> list[str]:
    """`kept`, the first of them given up for `name` where that is another one that is known."""
    return [name, *kept[1:]] if name in known and name not in kept else kept


def _check(config: StudyConfig) -> None:
    if not config.manifest:
        raise ValueError("no manifest given; name one with --manifest")
    for name in ("conditions", "objectives", "seeds", "encoders"):
        if not getattr(config, name):
            raise ValueError(f"the study has no {name}, so there is nothing to run; name at least one under `{name}`")
    for name in ("seeds", "encoders", "speakers"):
        for value, times in Counter(getattr(config, name)).items():
            if times > 1:
                raise ValueError(f"{name} has {value!r} {times} times; name it once")
    for name in config.encoders:
        if name not in ENCODERS:
            raise ValueError(f"encoders has {name!r}; choose among {', '.join(ENCODERS)}")
    for name in ("jobs", "threads"):
        least = name == "threads"
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {int(least)}")
    if not 0 <= config.gpu_share <= 1:
        raise ValueError(f"gpu_share is {config.gpu_share:g}; it must be in [0, 1], such as 0.25 for four runs on one GPU")
    for seed in config.seeds:
        check_settings(config.optim, iterations=config.iterations, seed=seed)


def _speakers(config: StudyConfig, utterances: Sequence[Utterance]) -> list[str]:
    if config.speakers:
        return list(config.speakers)
    counts, needed = Counter(u.speaker for u in utterances), config.evaluation.reference_utterances + max(1, config.utterances)
    found = sorted(name for name, count in counts.items() if count >= needed)
    if not found:
        raise ValueError(f"{config.manifest}: no speaker has the {needed} utterances that a run needs, the most are "
                         f"{max(counts.values())}; lower evaluation.reference_utterances or utterances")
    return found


def _settings(values, where: str) -> Mapping:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; it must be settings, such as {{}}")
    return values


def _built(kind: type, values: Mapping, where: str):
    try:
        return from_dict(kind, dict(_settings(values, where)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _baseline(config: StudyConfig, runs: Sequence[Run]) -> str:
    if config.baseline and config.baseline not in config.objectives:
        raise ValueError(f"baseline is {config.baseline!r}; the objectives are {', '.join(config.objectives)}")
    plain = [run.objective for run in runs if run.method == "plain" and run.config.conditioning.perturbation == "none"
             and (run.config.objective.penalty, run.config.objective.weighting, run.config.objective.example_weights)
             == ("l2", "constant", "none")]
    return config.baseline or (plain[0] if plain else "")


def _clean(config: StudyConfig, runs: Sequence[Run]) -> str:
    if config.clean and config.clean not in config.conditions:
        raise ValueError(f"clean is {config.clean!r}; the conditions are {', '.join(config.conditions)}")
    return config.clean or next((run.condition for run in runs if run.config.corruption.kind == "none"), "")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
