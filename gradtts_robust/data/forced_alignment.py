"""When each phone of a recording is spoken, by pocketsphinx: its English acoustic model comes with its package.

A young text encoder aligns real speech badly: pauses draw whole words to themselves. Where every phone is told from outside, a base
learns from its first step what espeak-ng's voices teach it. Beyond a base, an utterance that cannot be aligned has a text to look at.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradtts_robust.data.manifest import Utterance
from gradtts_robust.speech.audio import load_audio
from gradtts_robust.speech.text import PUNCTUATION, tokens

RATE = 16000
FRAME = 0.01
WINDOW = 0.0256
STRESS = "012"


@dataclass
class Aligned:
    """Utterances in their order, with phonemes and ends where they could be found; `failed` are the ids of the others."""

    utterances: list[Utterance]
    failed: list[str]


def force_align(utterances: Sequence[Utterance], *, progress: Callable[[int, int], None] | None = None) -> Aligned:
    """Fills `phonemes` and `ends` of utterances that have none, from their texts by the `arpabet` front end.

    Args:
        utterances: English; audio of any rate.
        progress: called with (done, total).

    Raises:
        ValueError: pocketsphinx is not installed, a text without anything to pronounce, or unreadable audio.
        FileNotFoundError: missing audio.
    """
    decoder, made, failed = _decoder(), [], []
    for done, utterance in enumerate(utterances, 1):
        found = utterance if utterance.phonemes else _align(decoder, utterance)
        if not found.phonemes:
            failed.append(utterance.id)
        made.append(found)
        if progress:
            progress(done, len(utterances))
    return Aligned(made, failed)


def _decoder():
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ValueError("alignment needs pocketsphinx, which is not installed: pip install 'gradtts-robust[asr]'") from None
    # beams of 0 keep every path: the words are known, and a pruned one would be lost
    return Decoder(lm=None, loglevel="FATAL", beam=0, pbeam=0, wbeam=0, bestpath=False, backtrace=False)


def _align(decoder, utterance: Utterance) -> Utterance:
    spoken = tokens(utterance.text)
    words = _words(spoken)
    names = [f"w_{'_'.join(phones).lower()}" for phones in words]
    for name, phones in dict(zip(names, words)).items():
        if decoder.lookup_word(name) is None:
            decoder.add_word(name, " ".join(phone.rstrip(STRESS) for phone in phones), True)
    wave = load_audio(utterance.path, sample_rate=RATE)
    pcm = (np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes()
    decoder.set_align_text(" ".join(names))
    _decode(decoder, pcm)
    if decoder.hyp() is None:
        return utterance
    decoder.set_alignment()
    _decode(decoder, pcm)
    borders = [(_seconds(phone.start), _seconds(phone.start + phone.duration))
               for word in decoder.get_alignment() if not word.name.startswith("<") for phone in word]
    if len(borders) != sum(map(len, words)):
        return utterance
    ends = np.minimum(_token_ends(spoken, borders), len(wave) / RATE)
    named = ["_", *("_" if token == " " else token for token in spoken)]
    return replace(utterance, phonemes=" ".join(named), ends=" ".join(f"{end:.4f}" for end in (borders[0][0], *ends)))


def _decode(decoder, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


def _seconds(frame: int) -> float:
    """Where a frame begins: midway between the centres of its window and of the window before."""
    return frame * FRAME + (WINDOW - FRAME) / 2


def _words(spoken: Sequence[str]) -> list[list[str]]:
    """Phones by word: what stands between spaces, without punctuation."""
    words: list[list[str]] = [[]]
    for token in spoken:
        if token == " ":
            words.append([])
        elif token not in PUNCTUATION:
            words[-1].append(token)
    return [word for word in words if word]


def _token_ends(spoken: Sequence[str], borders: Sequence[tuple[float, float]]) -> list[float]:
    """End of every token, seconds: a phone's own; a space ends where the next phone starts, a sign halfway through the pause."""
    times, done = [], 0
    for token in spoken:
        if token != " " and token not in PUNCTUATION:
            done += 1
            times.append(borders[done - 1][1])
            continue
        silent_from = borders[max(done - 1, 0)][1]
        silent_to = max(borders[min(done, len(borders) - 1)][0], silent_from)
        times.append(silent_to if token == " " else (silent_from + silent_to) / 2)
    return times
