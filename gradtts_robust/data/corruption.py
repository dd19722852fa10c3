"""Dirt put into adaptation data on purpose, seeded and recorded utterance by utterance."""
from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import CorruptionConfig
from ..files import atomic_write
from . import dirty_audio
from .manifest import Utterance

RECORDS = "corruption.csv"
RECORD_FIELDS = ("id", "corrupted", "kind", "true_speaker", "replaced", "detail")
BABBLE = 6
LONGEST = 3
"""A wrong transcript has at most so many times the characters of the right one: it must have fewer symbols than the audio has frames."""


@dataclass
class Corrupted:
    """Dirty data and what was done to get it.

    Args:
        utterances: all labelled as the target's; a foreign one has its own text and `extra["true_speaker"]`.
        records: one per utterance, in the same order, with the keys `id`, `corrupted` (bool), `kind` (`none` where it is
            clean), `true_speaker`, `replaced` (id of the target's utterance whose place it took, or empty) and `detail`, in words.
    """

    utterances: list[Utterance]
    records: list[dict]


@dataclass
class _Sources:
    """What dirt is made of: the target's utterances in the order that they get dirty, the others' that may be taken and those drawn of
    them, and where waves are written."""

    own: list[Utterance]
    pool: list[Utterance]
    drawn: Iterator[Utterance]
    config: CorruptionConfig
    folder: str | os.PathLike | None


def corrupt(target: Sequence[Utterance], others: Sequence[Utterance], config: CorruptionConfig, *,
            embeddings: Mapping[str, np.ndarray] | None = None, protected: AbstractSet[str] = frozenset(),
            folder: str | os.PathLike | None = None) -> Corrupted:
    """Puts `config.fraction` of dirt among a target's utterances, as arXiv 2403.16728 pollutes its adaptation sets.

    What is drawn depends on `config.seed` and on the set of utterances, not on their order; with everything else equal, a
    larger fraction contains the dirt of a smaller one. `replace` makes round(f n) of n utterances dirty; `append` adds
    round(f n / (1 - f)) foreign ones, so that about f of the result is foreign.

    Args:
        target: n >= 1 utterances of one speaker.
        others: utterances of other speakers; any of the target among them are passed over.
        embeddings: speaker -> [D] centroid, for `pick` `nearest` and `farthest`, of the target and of all others.
        protected: ids that are neither made dirty nor taken: reference and test utterances.
        folder: for waves with noise or an overlaid voice, named by their content.

    Returns:
        Utterances in the order of the target's ids, appended ones last.

    Raises:
        FileNotFoundError: audio to be mixed is missing.
        ValueError: a setting outside its range, several targets, an id twice, too few utterances, a missing embedding, bad audio.
    """
    target = sorted(target, key=lambda u: u.id)
    _check(target, config)
    if config.kind == "none":
        return Corrupted(target, [_clean_record(u) for u in target])
    share = config.fraction if config.mode == "replace" else config.fraction / (1 - config.fraction)
    count = round(share * len(target))
    kinds = _kinds(config, count)
    voices = sum(kind in ("foreign", "overlay") or (kind == "text" and config.texts == "others") for kind in kinds)
    pool = _pool(target, others, protected)
    drawn = _draw(pool, voices, target[0].speaker, config, embeddings) if voices else []
    own = _order(target, protected, config)
    sources = _Sources(own, pool, iter(drawn), config, folder)
    if config.mode == "append":
        dirty = {u.id: _foreign(target[0], sources, number) for number, u in enumerate(drawn)}
        return _result([(u, None) for u in target] + [(None, dirty[u.id]) for u in drawn])
    if count > len(own):
        raise ValueError(f"corruption.fraction {config.fraction:g} changes {count} of {len(target)} utterances of "
                         f"{target[0].speaker!r}, but only {len(own)} are not kept for reference or test; lower the fraction")
    dirty = {place.id: CORRUPTIONS[kind](place, sources, number) for number, (place, kind) in enumerate(zip(own, kinds))}
    return _result([(u, dirty.get(u.id)) for u in target])


@dataclass
class _Dirty:
    """A dirty utterance and its record's further fields."""

    utterance: Utterance
    kind: str
    true_speaker: str
    detail: str


def _kinds(config: CorruptionConfig, count: int) -> list[str]:
    """The kind of each of `count` dirty utterances; mixed ones in turn, beginning anywhere."""
    if config.kind != "mixed":
        return [config.kind] * count
    order = np.random.default_rng((config.seed, 2)).permutation(list(CORRUPTIONS))
    return [str(order[i % len(order)]) for i in range(count)]


def _order(target: list[Utterance], protected: AbstractSet[str], config: CorruptionConfig) -> list[Utterance]:
    """The target's utterances that may be made dirty, in random order."""
    free = [u for u in target if u.id not in protected]
    return [free[i] for i in np.random.default_rng((config.seed, 0)).permutation(len(free))]


def _result(pairs: list[tuple[Utterance | None, _Dirty | None]]) -> Corrupted:
    """Of pairs (the target's utterance or None, what is there instead or None)."""
    utterances, records = [], []
    for place, dirty in pairs:
        if dirty is None:
            utterances.append(place)
            records.append(_clean_record(place))
            continue
        key = dirty.utterance.id
        replaced = place.id if place and place.id != key else ""
        utterances.append(dirty.utterance)
        records.append(dict(zip(RECORD_FIELDS, (key, True, dirty.kind, dirty.true_speaker, replaced, dirty.detail), strict=True)))
    return Corrupted(utterances, records)


def _foreign(place: Utterance, sources: _Sources, number: int) -> _Dirty:
    """Another speaker's utterance, labelled as the target's."""
    other = next(sources.drawn)
    foreign = replace(other, speaker=place.speaker, extra={**other.extra, "true_speaker": other.speaker})
    return _Dirty(foreign, "foreign", other.speaker, "")


def _overlay(place: Utterance, sources: _Sources, number: int) -> _Dirty:
    """The target's utterance with another speaker's over it."""
    other, rng = next(sources.drawn), _rng(sources, number)
    snr = rng.uniform(*sources.config.snr)
    path = dirty_audio.overlay(place.path, other.path, snr=snr, seed=int(rng.integers(2**31)), folder=sources.folder)
    return _Dirty(replace(place, path=path), "overlay", place.speaker, f"{other.id} of {other.speaker} over it at {snr:.1f} dB")


def _noise(place: Utterance, sources: _Sources, number: int) -> _Dirty:
    """The target's utterance with noise."""
    config, rng = sources.config, _rng(sources, number)
    names = [name for name in dirty_audio.NOISES if name != "babble" or sources.pool] if config.noise == "any" else [config.noise]
    name, snr = names[int(rng.integers(len(names)))], rng.uniform(*config.snr)
    babble = [sources.pool[i].path for i in rng.permutation(len(sources.pool))[:BABBLE]] if name == "babble" else []
    if name == "babble" and not babble:
        raise ValueError("corruption.noise babble needs utterances of other speakers, and the manifest has none; choose white, pink or hum")
    path = dirty_audio.noisy(place.path, name, babble, snr=snr, seed=int(rng.integers(2**31)), folder=sources.folder)
    return _Dirty(replace(place, path=path), "noise", place.speaker, f"{name} at {snr:.1f} dB")


def _text(place: Utterance, sources: _Sources, number: int) -> _Dirty:
    """The target's utterance with the transcript of another."""
    longest = LONGEST * len(place.text)
    if sources.config.texts == "others":
        following = [next(sources.drawn), *sources.pool]
    else:
        following = [*sources.own[number + 1:], *sources.own[:number]]
    for other in following:
        if other.text != place.text and len(other.text) <= longest:
            wrong = replace(place, text=other.text, phonemes=other.phonemes, ends="")
            return _Dirty(wrong, "text", place.speaker, f"transcript of {other.id}")
    raise ValueError(f"{place.id}: no other transcript can be put in its place: it must differ and have at most {longest} characters; "
                     "add utterances, or set corruption.texts to others")


def _rng(sources: _Sources, number: int) -> np.random.Generator:
    return np.random.default_rng((sources.config.seed, 3, number))


def _pool(target: list[Utterance], others: Sequence[Utterance], protected: AbstractSet[str]) -> list[Utterance]:
    """Utterances of others that may be taken, sorted, each recording once."""
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
        raise ValueError(f"corruption.kind {config.kind} needs utterances of speakers other than {name!r}, and the manifest has none to "
                         "spare; add other speakers to it")
    rng = np.random.default_rng((config.seed, 1))
    speakers = PICKS[config.pick](sorted({u.speaker for u in pool}), name, embeddings, rng)
    if config.speakers:
        speakers = speakers[: config.speakers]
    rank = {speaker: 0 if config.pick == "random" else place for place, speaker in enumerate(speakers)}
    candidates = [pool[i] for i in rng.permutation(len(pool)) if pool[i].speaker in rank]
    candidates.sort(key=lambda u: rank[u.speaker])
    if len(candidates) < count:
        raise ValueError(f"corruption.fraction {config.fraction:g} needs {count} utterances of others, but {len(speakers)} other "
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
CORRUPTIONS = {"foreign": _foreign, "overlay": _overlay, "noise": _noise, "text": _text}


def _check(target: list[Utterance], config: CorruptionConfig) -> None:
    known = {"kind": ("none", *CORRUPTIONS, "mixed"), "pick": tuple(PICKS), "mode": ("replace", "append"),
             "noise": ("any", *dirty_audio.NOISES), "texts": ("own", "others")}
    for setting, values in known.items():
        value = getattr(config, setting)
        if value not in values:
            raise ValueError(f"corruption.{setting} is {value!r}; choose one of {', '.join(values)}")
    if not 0 <= config.fraction < 1:
        raise ValueError(f"corruption.fraction is {config.fraction:g}; it must be in [0, 1), such as 0.3")
    if config.kind == "none" and config.fraction:
        raise ValueError(f"corruption.fraction is {config.fraction:g} but corruption.kind is none; set the kind, or the fraction to 0")
    if config.mode == "append" and config.kind not in ("none", "foreign"):
        raise ValueError(f"corruption.mode append adds foreign utterances, and corruption.kind is {config.kind}; set the mode to replace")
    if len(config.snr) != 2 or not -math.inf < config.snr[0] <= config.snr[1] < math.inf:
        raise ValueError(f"corruption.snr is {tuple(config.snr)}; give the lowest and the highest ratio in dB, such as 0 10")
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
    return dict(zip(RECORD_FIELDS, (utterance.id, False, "none", utterance.speaker, "", ""), strict=True))


def write_records(path: str | os.PathLike, records: Sequence[Mapping]) -> None:
    """Writes records as CSV, `corrupted` as 1 or 0, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]) if records else RECORD_FIELDS)
        writer.writeheader()
        writer.writerows({**record, "corrupted": int(record["corrupted"])} for record in records)


def read_records(path: str | os.PathLike) -> list[dict]:
    """What `write_records` wrote, `corrupted` as bool and all else as text; nothing where there is no such file."""
    if not Path(path).is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [{**record, "corrupted": record["corrupted"] == "1"} for record in csv.DictReader(file)]
