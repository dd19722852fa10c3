"""The `arpabet` front end: words as they are spoken to phones, by the dictionary, by rules for endings, else by espeak-ng."""
from __future__ import annotations

import re
from functools import lru_cache

from gradtts_robust.speech.normalise import normalise
from gradtts_robust.speech.text_dictionary import lookup

_PIECE = re.compile(r"\{[^}]*\}|[A-Z](?:'s)?|[a-z'-]+|[,.?!;:]")
_VOWEL_SIGNS = "012"
_HISSING = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}
# the dictionary has "re" as in "do re mi"
_PREFIXES = {"re": ["R", "IY0"], "de": ["D", "IY0"]}


def _with_s(base: list[str]) -> list[str]:
    if base[-1] in _HISSING:
        return [*base, "IH0", "Z"]
    return [*base, "S" if base[-1] in _VOICELESS else "Z"]


def _with_d(base: list[str]) -> list[str]:
    return [*base, "IH0", "D"] if base[-1] in ("T", "D") else [*base, "D"]


def _with_ve(base: list[str]) -> list[str]:
    return [*base, "V"] if base[-1][-1] in _VOWEL_SIGNS else [*base, "AH0", "V"]


_ENDINGS = {
    "n't": lambda base: [*base, "AH0", "N", "T"], "'s": _with_s, "'d": _with_d, "'ve": _with_ve,
    "'ll": lambda base: [*base, "AH0", "L"], "'re": lambda base: [*base, "ER0"], "'m": lambda base: [*base, "M"],
}


def _known(word: str) -> list[str] | None:
    """Phones of a word that the dictionary has, with the apostrophes around it or without them."""
    for form in (word, word.rstrip("'"), word.lstrip("'"), word.strip("'")):
        if phones := lookup(form):
            return phones
    if word.endswith("in'") and (phones := lookup(word[:-1] + "g")):
        return [*phones[:-1], "N"]
    return None


@lru_cache(maxsize=65536)
def _espeak(word: str) -> tuple[str, ...]:
    from gradtts_robust.speech import espeak

    if not espeak.available():
        raise ValueError(f"the dictionary lacks the word {word!r}, and espeak-ng, which would read it, is not installed: "
                         "pip install 'gradtts-robust[voices]'")
    phones = espeak.phonemize([word])[0]
    if not phones:
        raise ValueError(f"espeak-ng cannot read the word {word!r}: write it otherwise, or as ARPAbet in braces")
    return tuple(phones)


def _word(word: str) -> list[str]:
    """Phones of one word: the dictionary's, or those of its base and an ending, or espeak-ng's."""
    if phones := _known(word):
        return phones
    for ending, join in _ENDINGS.items():
        base = word.rstrip("'").removesuffix(ending).strip("'")
        if base and base != word.strip("'"):
            return join(_word(base))
    return list(_espeak(word.strip("'")))


def _words(piece: str) -> list[list[str]]:
    """Phones of each of the words that a piece without spaces is spoken as."""
    if piece[0] == "{":
        return [piece[1:-1].split()]
    if piece[0].isupper():
        name = lookup(f"{piece[0].lower()}.") or lookup(piece[0].lower())
        assert name, piece
        return [_with_s(name) if piece.endswith("'s") else name]
    parts = [part for part in piece.split("-") if part.strip("'")]
    if len(parts) < 2:
        return [_word(parts[0])] if parts else []
    if any(_known(part) is None for part in parts) and (whole := lookup(piece)):
        return [whole]
    return [_PREFIXES[part] if part in _PREFIXES and index == 0 else _word(part) for index, part in enumerate(parts)]


def tokens(text: str) -> list[str]:
    """Tokens of a text: see `gradtts_robust.speech.text.tokens`."""
    result: list[str] = []
    definite = False
    for piece in _PIECE.findall(normalise(text)):
        if len(piece) == 1 and not piece.isalpha():
            if result and piece != "'" and piece != "-":
                result.append(piece)
            definite = False
            continue
        for phones in _words(piece):
            if definite and phones[0][-1] in _VOWEL_SIGNS:
                result[-1] = "IY0"
            result += [" "] * bool(result) + phones
        definite = piece == "the"
    if not result:
        shown = " ".join(text.split())[:60]
        raise ValueError(f"nothing to pronounce in the text {shown!r}: give at least one word")
    return result
