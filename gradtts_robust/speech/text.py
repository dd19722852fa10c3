"""Text to symbol ids: the original Grad-TTS' front end, for its checkpoints, and ours, `arpabet`.

Symbols are the original's 148 (punctuation, letters, ARPAbet marked by "@"); the blank put between them is one more.
Ours speaks in tokens: ARPAbet phones with stress digits, " " between words, and the punctuation of `PUNCTUATION`.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtts_robust.config import TextConfig

_VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
_CONSONANTS = ["B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N",
               "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"]
PHONES = tuple(sorted(_CONSONANTS + [vowel + stress for vowel in _VOWELS for stress in ("", "0", "1", "2")]))
PUNCTUATION = ",.?!;:-"

SYMBOLS = (
    "_", "-", *"!'(),.:;? ",
    *"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    *(f"@{phone}" for phone in PHONES),
)
BLANK = len(SYMBOLS)
FRONTENDS = ("arpabet", "grad-tts")

_IDS = {symbol: index for index, symbol in enumerate(SYMBOLS)}
_TOKEN_IDS = {phone: _IDS[f"@{phone}"] for phone in PHONES} | {mark: _IDS[mark] for mark in PUNCTUATION + " "}
_SPACE = _IDS[" "]


def _finish(ids: list[int], blanks: bool, edges: bool) -> list[int]:
    if edges:
        ids = [_SPACE] * (ids[0] != _SPACE) + ids + [_SPACE] * (ids[-1] != _SPACE)
    if not blanks:
        return ids
    spread = [BLANK] * (2 * len(ids) + 1)
    spread[1::2] = ids
    return spread


def phonemes_to_ids(tokens: Iterable[str], *, blanks: bool = True, edges: bool = False) -> list[int]:
    """Ids of given tokens, in the language of `tokens`.

    Args:
        tokens: ARPAbet phones ("HH", "AH0"), " " between words or as a pause, or one of `PUNCTUATION`.
        blanks: put `BLANK` before, between and after the ids.
        edges: put a space at both ends, where there is none yet.

    Returns:
        Ids in [0, 148], `BLANK` being 148.

    Raises:
        ValueError: no token at all, or one that is none of these.
    """
    ids = []
    for token in tokens:
        if token not in _TOKEN_IDS:
            raise ValueError(f"unknown phoneme {token!r}: give ARPAbet with stress digits, ' ' or one of {PUNCTUATION}")
        ids.append(_TOKEN_IDS[token])
    if not ids:
        raise ValueError("no phonemes: give at least one")
    return _finish(ids, blanks, edges)


def ids_to_symbols(ids: Iterable[int]) -> list[str]:
    """Symbols of ids, for people to read: "@AH0" is a phone, "<blank>" the blank.

    Raises:
        ValueError: an id outside [0, 148].
    """
    symbols = (*SYMBOLS, "<blank>")
    ids = [int(index) for index in ids]
    for index in ids:
        if not 0 <= index <= BLANK:
            raise ValueError(f"symbol id {index} is not in 0..{BLANK}: were these ids made with another symbol table?")
    return [symbols[index] for index in ids]


def tokens(text: str) -> list[str]:
    """Tokens of a text by the `arpabet` front end: phones, " " between words, punctuation directly after its word.

    "Hello, world." gives HH AH0 L OW1 `,` ` ` W ER1 L D `.`

    Raises:
        ValueError: nothing in the text can be pronounced, or a word unknown to the dictionary needs espeak-ng and it is missing.
    """
    from gradtts_robust.speech.text_arpabet import tokens as arpabet_tokens

    return arpabet_tokens(text)


def text_to_ids(text: str, frontend: str = "arpabet", blanks: bool = True, edges: bool = False) -> list[int]:
    """Symbol ids of a text.

    Args:
        text: English; ARPAbet in braces, as in "turn left on {HH AW1 S T AH0 N} Street", passes through.
        frontend: `arpabet`, or `grad-tts` for the original's checkpoints: its cleaners, and its dictionary look-up that
            punctuation hides words from, so that those are spelled.
        blanks: put `BLANK` before, between and after the ids, as the original does.
        edges: put a space at both ends, so that silence around the speech has a symbol to belong to.

    Returns:
        Ids in [0, 148], `BLANK` being 148.

    Raises:
        ValueError: unknown front end, a text without anything to pronounce, or a word that needs espeak-ng where it is missing.
    """
    if frontend not in FRONTENDS:
        raise ValueError(f"unknown front end {frontend!r}; known: {', '.join(FRONTENDS)}")
    if frontend == "arpabet":
        return phonemes_to_ids(tokens(text), blanks=blanks, edges=edges)
    from gradtts_robust.speech.text_gradtts import symbols as original_symbols

    ids = [_IDS[symbol] for symbol in original_symbols(text) if symbol in _IDS]
    if all(len(SYMBOLS[index]) == 1 and not SYMBOLS[index].isalpha() for index in ids):
        raise ValueError(f"nothing to pronounce in the text {text[:60]!r}: give at least one word")
    return _finish(ids, blanks, edges)


def encode(text: str, config: TextConfig) -> list[int]:
    """Symbol ids of a text by settings: `text_to_ids` with a `TextConfig`'s front end, blanks and edges."""
    return text_to_ids(text, frontend=config.frontend, blanks=config.blanks, edges=config.edges)
