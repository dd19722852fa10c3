"""Wrong conditions put into pretraining data on purpose (arXiv 2405.20494), seeded and recorded utterance by utterance."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..config import ConditionNoiseConfig
from .corruption import Corrupted
from .manifest import Utterance


def corrupt_conditions(utterances: Sequence[Utterance], config: ConditionNoiseConfig, *,
                       embeddings: Mapping[str, np.ndarray] | None = None) -> Corrupted:
    """Gives round(eta n) of n utterances a wrong condition; their audio stays.

    - `symmetric`: another speaker's label, drawn by how many utterances each other speaker has.
    - `asymmetric`: the label of one of the `similar` speakers with the nearest embeddings, each as likely.
    - `transcripts`: utterances in pairs swap their texts, so that the number is even; a swapped text has no true alignment, so the
      columns phonemes and ends are dropped.

    A corrupted utterance always has a condition that differs from its true one. What is drawn depends on `config.seed` and on the
    set of utterances, not on their order; a larger eta corrupts what a smaller one does, and more.

    Args:
        utterances: of all speakers.
        embeddings: speaker -> [D] centroid, for `asymmetric`, of every speaker.

    Returns:
        The utterances in their order, a wrong label's with `extra["true_speaker"]`; records with the keys `id`, `corrupted`, `kind`,
        `speaker` (the label), `true_speaker` and `text_of` (id of the utterance whose text it has, or empty).

    Raises:
        ValueError: a setting out of its range, an id twice, a single speaker, a missing embedding, or too few different texts.
    """
    _check(utterances, config)
    ordered = sorted(utterances, key=lambda u: u.id)
    changed = {}
    if config.kind != "none" and config.eta:
        rng = np.random.default_rng((config.seed, 2))
        changed = KINDS[config.kind]([ordered[i] for i in rng.permutation(len(ordered))], config, embeddings)
    texts = {key: source for key, (_, source) in changed.items()}
    result = [changed[u.id][0] if u.id in changed else u for u in utterances]
    records = [{"id": u.id, "corrupted": u.id in changed, "kind": config.kind if u.id in changed else "none", "speaker": new.speaker,
                "true_speaker": u.speaker, "text_of": texts.get(u.id, "")} for u, new in zip(utterances, result, strict=True)]
    return Corrupted(result, records)


Changed = dict[str, tuple[Utterance, str]]  # id -> the utterance with its wrong condition, and whose text it has


def _symmetric(shuffled: list[Utterance], config: ConditionNoiseConfig, embeddings: Mapping[str, np.ndarray] | None) -> Changed:
    prior = Counter(u.speaker for u in shuffled)
    names = sorted(prior)
    counts = np.array([prior[name] for name in names], dtype=np.float64)

    def draw(speaker: str, rng: np.random.Generator) -> str:
        share = np.where(np.array(names) == speaker, 0, counts)
        return names[rng.choice(len(names), p=share / share.sum())]

    return _relabelled(shuffled, config, draw)


def _asymmetric(shuffled: list[Utterance], config: ConditionNoiseConfig, embeddings: Mapping[str, np.ndarray] | None) -> Changed:
    names = sorted({u.speaker for u in shuffled})
    for name in names:
        if embeddings is None or name not in embeddings:
            raise ValueError(f"corruption.kind asymmetric needs a speaker embedding of {name!r}, and there is none; compute it or "
                             "choose symmetric")
    table = np.stack([np.asarray(embeddings[name], dtype=np.float64) for name in names])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosine = table @ table.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = {name: np.argsort(-row, kind="stable")[: min(config.similar, len(names) - 1)] for name, row in zip(names, cosine)}
    return _relabelled(shuffled, config, lambda speaker, rng: names[rng.choice(nearest[speaker])])


def _relabelled(shuffled: list[Utterance], config: ConditionNoiseConfig, draw) -> Changed:
    if len({u.speaker for u in shuffled}) < 2:
        raise ValueError(f"corruption.kind {config.kind} needs at least two speakers; add some to the manifests")
    rng = np.random.default_rng((config.seed, 3))
    chosen = shuffled[: round(config.eta * len(shuffled))]
    return {u.id: (replace(u, speaker=draw(u.speaker, rng), extra={**u.extra, "true_speaker": u.speaker}), "") for u in chosen}


def _transcripts(shuffled: list[Utterance], config: ConditionNoiseConfig, embeddings: Mapping[str, np.ndarray] | None) -> Changed:
    wanted, changed = round(config.eta * len(shuffled) / 2), {}
    waiting: list[Utterance] = []
    for utterance in shuffled:
        if len(changed) == 2 * wanted:
            break
        partner = next((u for u in waiting if u.text != utterance.text), None)
        if partner is None:
            waiting.append(utterance)
            continue
        waiting.remove(partner)
        for one, other in ((partner, utterance), (utterance, partner)):
            changed[one.id] = (replace(one, text=other.text, phonemes="", ends=""), other.id)
    if len(changed) < 2 * wanted:
        raise ValueError(f"corruption.eta {config.eta:g} swaps {wanted} pairs of transcripts, but only {len(changed) // 2} pairs differ; "
                         "lower it or add sentences")
    return changed


KINDS = {"symmetric": _symmetric, "asymmetric": _asymmetric, "transcripts": _transcripts}


def _check(utterances: Sequence[Utterance], config: ConditionNoiseConfig) -> None:
    check_settings(config)
    for key, times in Counter(u.id for u in utterances).items():
        if times > 1:
            raise ValueError(f"the id {key!r} stands {times} times among the utterances; give every utterance its own id")


def check_settings(config: ConditionNoiseConfig) -> None:
    """Refuses settings out of their range.

    Raises:
        ValueError: names the setting, its value and what it may be.
    """
    if config.kind not in ("none", *KINDS):
        raise ValueError(f"corruption.kind is {config.kind!r}; choose one of none, {', '.join(KINDS)}")
    if not 0 <= config.eta < 1:
        raise ValueError(f"corruption.eta is {config.eta:g}; it must be in [0, 1), such as 0.05")
    if config.kind == "none" and config.eta:
        raise ValueError(f"corruption.eta is {config.eta:g} but corruption.kind is none; set the kind, or eta to 0")
    for name, least in (("similar", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"corruption.{name} is {getattr(config, name)}; it must be at least {least}")
