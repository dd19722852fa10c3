"""The `arpabet` front end: text to phones, words' boundaries and punctuation."""
from __future__ import annotations

import re

from gradtts_robust.speech.text_dictionary import lookup

_PIECE = re.compile(r"[a-z']+|[,.?!;:-]+")


def tokens(text: str) -> list[str]:
    """Tokens of a text: see `gradtts_robust.speech.text.tokens`."""
    result: list[str] = []
    for piece in _PIECE.findall(text.lower()):
        if piece[0] in ",.?!;:-":
            if result and result[-1] not in ",.?!;:-":
                result.append(piece[0])
            continue
        phones = lookup(piece.strip("'"))
        if phones is None:
            from gradtts_robust.speech.espeak import phonemize

            phones = phonemize([piece])[0]
        result += [" "] * bool(result) + phones
    if not result:
        raise ValueError(f"nothing to pronounce in the text {text[:60]!r}: give at least one word")
    return result
