"""Dirt put into adaptation data on purpose, seeded and recorded utterance by utterance."""
from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from ..config import CorruptionConfig
from ..files import atomic_write
from .manifest import Utterance

RECORD_FIELDS = ("id", "corrupted", "kind", "true_speaker", "replaced")


@dataclass
class Corrupted:
    """Dirty data and what was done to get it.

    Args:
        utterances: all labelled as the target's; a foreign one has its own text and `extra["true_speaker"]`.
        records: one per utterance, in the same order, with the keys `id`, `corrupted` (bool), `kind` (`none` where it is
            clean), `true_speaker` and `replaced` (id of the target's utterance whose place it took, or empty).
    """

    utterances: list[Utterance]
    records: list[dict]


def corrupt(target: Sequence[Utterance], others: Sequence[Utterance], config: CorruptionConfig, *,
            embeddings: Mapping[str, np.ndarray] | None = None, protected: AbstractSet[str] = frozenset()) -> Corrupted:
    """Puts `config.fraction` of dirt among a target's utterances, as arXiv 2403.16728 pollutes its adaptation sets.

    What is drawn depends on `config.seed` and on the set of utterances, not on their order; with everything else equal, a
    larger fraction contains the dirt of a smaller one. `replace` makes round(f n) of n utterances foreign; `append` adds
    round(f n / (1 - f)), so that about f of the result is foreign.

    Args:
        target: n >= 1 utterances of one speaker.
        others: utterances of other speakers; any of the target among them are passed over.
        embeddings: speaker -> [D] centroid, for `pick` `nearest` and `farthest`, of the target and of all others.
        protected: ids that are neither replaced nor taken: reference and test utterances.

    Returns:
        Utterances in the order of the target's ids, appended ones last.

    Raises:
        ValueError: a setting outside its range, several targets, an id twice, too few foreign utterances, a missing embedding.
    """
    target = sorted(target, key=lambda u: u.id)
    _check(target, config)
    if config.kind == "none":
        return Corrupted(target, [_clean_record(u) for u in target])
    return CORRUPTIONS[config.kind](target, others, config, embeddings, protected)


def _foreign(target: list[Utterance], others: Sequence[Utterance], config: CorruptionConfig,
             embeddings: Mapping[str, np.ndarray] | None, protected: AbstractSet[str]) -> Corrupted:
    """Other speakers' utterances, labelled as the target's."""
    name = target[0].speaker
    share = config.fraction if config.mode == "replace" else config.fraction / (1 - config.fraction)
    count = round(share * len(target))
    replaceable = [u for u in target if u.id not in protected]
    if config.mode == "replace" and count > len(replaceable):
        raise ValueError(f"corruption.fraction {config.fraction:g} replaces {count} of {len(target)} utterances of {name!r}, but only "
                         f"{len(replaceable)} are not kept for reference or test; lower the fraction or append")
    pool = _pool(target, others, protected)
    drawn = _draw(pool, count, name, config, embeddings) if count else []
    foreign = [replace(u, speaker=name, extra={**u.extra, "true_speaker": u.speaker}) for u in drawn]
    places: list[Utterance] = []
    if config.mode == "replace":
        order = np.random.default_rng((config.seed, 0)).permutation(len(replaceable))
        places = [replaceable[i] for i in order[:count]]
    instead = {place.id: (new, place.id) for place, new in zip(places, foreign)}
    pairs = [instead.get(u.id, (u, "")) for u in target] + [(new, "") for new in foreign[len(places):]]
    dirty = {u.id for u in foreign}
    records = [_foreign_record(u, replaced) if u.id in dirty else _clean_record(u) for u, replaced in pairs]
    return Corrupted([u for u, _ in pairs], records)


def _pool(target: list[Utterance], others: Sequence[Utterance], protected: AbstractSet[str]) -> list[Utterance]:
    """Foreign utterances that may be taken, sorted, each recording once."""
    taken_ids, taken_paths = {u.id for u in target}, {u.path for u in target}
    pool = []
    for utterance in sorted(others, key=lambda u: (u.id, u.path)):
        usable = utterance.speaker != target[0].speaker and utterance.id not in protected
        if usable and utterance.id not in taken_ids and utterance.path not in taken_paths:
            pool.append(utterance)
            taken_ids.add(utterance.id)
            taken_paths.add(utterance.path)
    return pool


def _draw(pool: list[Utterance], count: int, name: str, config: CorruptionConfig,
          embeddings: Mapping[str, np.ndarray] | None) -> list[Utterance]:
    """`count` utterances of the pool: of all alike when picked at random, else the first speakers' all before the next's."""
    if not pool:
        raise ValueError(f"corruption.kind foreign needs utterances of speakers other than {name!r}, and the manifest has none to "
                         "spare; add other speakers to it")
    rng = np.random.default_rng((config.seed, 1))
    speakers = PICKS[config.pick](sorted({u.speaker for u in pool}), name, embeddings, rng)
    if config.speakers:
        speakers = speakers[: config.speakers]
    rank = {speaker: 0 if config.pick == "random" else place for place, speaker in enumerate(speakers)}
    candidates = [pool[i] for i in rng.permutation(len(pool)) if pool[i].speaker in rank]
    candidates.sort(key=lambda u: rank[u.speaker])
    if len(candidates) < count:
        raise ValueError(f"corruption.fraction {config.fraction:g} needs {count} foreign utterances, but {len(speakers)} other "
                         f"speakers have only {len(candidates)} to spare; lower the fraction, raise corruption.speakers or add speakers")
    return candidates[:count]


def _at_random(speakers: list[str], name: str, embeddings: Mapping[str, np.ndarray] | None, rng: np.random.Generator) -> list[str]:
    return [speakers[i] for i in rng.permutation(len(speakers))]


def _nearest(speakers: list[str], name: str, embeddings: Mapping[str, np.ndarray] | None, rng: np.random.Generator) -> list[str]:
    """Speakers by falling cosine of their centroid to the target's."""
    unit = {}
    for speaker in (name, *speakers):
        if embeddings is None or speaker not in embeddings:
            raise ValueError(f"corruption.pick nearest or farthest needs a speaker embedding of {speaker!r}, and there is none; "
                             "compute it or pick at random")
        vector = np.asarray(embeddings[speaker], dtype=np.float64)
        length = np.linalg.norm(vector)
        if not (np.isfinite(length) and length > 0):
            raise ValueError(f"the speaker embedding of {speaker!r} has length {length:g}; check that speaker's audio for silence")
        unit[speaker] = vector / length
    return sorted(speakers, key=lambda speaker: (-float(unit[speaker] @ unit[name]), speaker))


def _farthest(speakers: list[str], name: str, embeddings: Mapping[str, np.ndarray] | None, rng: np.random.Generator) -> list[str]:
    return _nearest(speakers, name, embeddings, rng)[::-1]


PICKS = {"random": _at_random, "nearest": _nearest, "farthest": _farthest}
CORRUPTIONS = {"foreign": _foreign}


def _check(target: list[Utterance], config: CorruptionConfig) -> None:
    known = {"kind": ("none", *CORRUPTIONS), "pick": tuple(PICKS), "mode": ("replace", "append")}
    for setting, values in known.items():
        value = getattr(config, setting)
        if value not in values:
            raise ValueError(f"corruption.{setting} is {value!r}; choose one of {', '.join(values)}")
    if not 0 <= config.fraction < 1:
        raise ValueError(f"corruption.fraction is {config.fraction:g}; it must be in [0, 1), such as 0.3")
    if config.kind == "none" and config.fraction:
        raise ValueError(f"corruption.fraction is {config.fraction:g} but corruption.kind is none; set the kind, or the fraction to 0")
    for setting in ("speakers", "seed"):
        if getattr(config, setting) < 0:
            raise ValueError(f"corruption.{setting} is {getattr(config, setting)}; it must not be negative")
    names = sorted({u.speaker for u in target})
    if len(names) != 1:
        raise ValueError(f"corruption takes the utterances of one target, not of {len(names)} speakers ({', '.join(names[:5])})")
    for key, times in Counter(u.id for u in target).items():
        if times > 1:
            raise ValueError(f"the id {key!r} stands twice among the target's utterances; give every utterance its own id")


def _clean_record(utterance: Utterance) -> dict:
    return dict(zip(RECORD_FIELDS, (utterance.id, False, "none", utterance.speaker, "")))


def _foreign_record(utterance: Utterance, replaced: str) -> dict:
    return dict(zip(RECORD_FIELDS, (utterance.id, True, "foreign", utterance.extra["true_speaker"], replaced)))


def write_records(path: str | os.PathLike, records: Sequence[Mapping]) -> None:
    """Writes records as CSV, `corrupted` as 1 or 0, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]) if records else RECORD_FIELDS)
        writer.writeheader()
        writer.writerows({**record, "corrupted": int(record["corrupted"])} for record in records)
