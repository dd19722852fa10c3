"""Text as it is written to words as they are spoken."""
from __future__ import annotations

import re
import unicodedata

from gradtts_robust.speech.text_abbreviations import LETTER, after_figures, before_figures, letters
from gradtts_robust.speech.text_quantities import write_out

_BRACES = re.compile(r"\{([^{}]*)\}")
_SIGNS = str.maketrans({
    "‘": "'", "’": "'", "‛": "'", "′": "'", "ʼ": "'", "´": "'", "`": "'", "＇": "'", "“": '"', "”": '"', "„": '"', "‟": '"', "«": '"',
    "»": '"', "″": '"', "‹": '"', "›": '"', "‚": ",", "‐": "-", "‑": "-", "‒": "-", "−": "-", "—": " -- ", "―": " -- ", "…": "...",
    "¡": " ", "¿": " ", "‽": "?", "²": "^2", "³": "^3", "×": " times ", "÷": " divided by ", "±": " plus or minus ", "©": " copyright ",
    "®": " ", "™": " ", "№": " No. ", "℃": "°C", "℉": "°F", "⁄": "/", "∕": "/", "•": ",", "·": " ", "§": " section ", "¶": " ",
    "Æ": "Ae", "æ": "ae", "Œ": "Oe", "œ": "oe", "Ø": "O", "ø": "o", "Ð": "D", "ð": "d", "Đ": "D", "đ": "d", "Þ": "Th", "þ": "th",
    "ß": "ss", "ẞ": "SS", "Ł": "L", "ł": "l", "Ħ": "H", "ħ": "h", "ı": "i", "Ŋ": "Ng", "ŋ": "ng", "Ŧ": "T", "ŧ": "t", "ƒ": "f",
    "ə": "e", "º": "o", "ª": "a", "、": ",", "。": ".", "，": ",", "！": "!", "？": "?", "：": ":", "；": ";",
})
_KEPT = "$£€¥₹¢°"
_WORD = r"'?[a-z]+(?:['-]+[a-z]+)*'?"
_PIECE = re.compile(rf"\{{[^{{}}]*\}}|{LETTER}[a-z](?:'s)?|{_WORD}|[,.?!;:]+")
_STRENGTH = "?!.;:,"


def _plain(text: str) -> str:
    """ASCII and the signs that mean something, for any text.

    Raises:
        ValueError: a letter of another script than Latin or Greek.
    """
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text.translate(_SIGNS))
    result = []
    for character in unicodedata.normalize("NFKD", text).translate(_SIGNS):
        if character.isascii() or character in _KEPT or character == "–":
            result.append(character)
        elif (value := unicodedata.decimal(character, None)) is not None:
            result.append(str(value))
        elif character.isalpha():
            name = unicodedata.name(character, "").split(" WITH ")[0].split()
            if name[:1] == ["GREEK"]:
                result.append(f" {name[-1].lower()} ")
            elif name[:1] == ["LATIN"] and len(name[-1]) == 1:
                result.append(name[-1].lower())
            else:
                raise ValueError(f"cannot pronounce the letter {character!r} (U+{ord(character):04X}): write its word in Latin letters")
        elif unicodedata.category(character) not in ("Mn", "Me", "Cf"):
            result.append(" ")
    return "".join(result)


def _dashes(text: str) -> str:
    text = re.sub(r"(?<=\d)\s?–\s?(?=[$£€¥₹]?\d)", "-", text)
    text = re.sub(r"(?<=\w)–(?=\w)", "-", text).replace("–", " -- ")
    return re.sub(r"\s+-\s+|\s*--+\s*", ", ", text)


def _signs(text: str) -> str:
    """What is left of signs, after figures are written out."""
    for sign, word in (("&", "and"), ("@", "at"), ("%", "percent"), ("+", "plus"), ("=", "equals"), ("°", "degrees"),
                       ("$", "dollars"), ("£", "pounds"), ("€", "euros"), ("¥", "yen"), ("₹", "rupees"), ("¢", "cents")):
        text = text.replace(sign, f" {word} ")
    text = re.sub(r"(?<=[A-Za-z]):(?=[A-Za-z])", " ", text)
    text = re.sub(r"[()\[\]]+", ", ", text)
    text = re.sub(r"\.{2,}(?=\s*[a-z])", ",", text)
    return re.sub(rf"[^A-Za-z'.,?!;:{LETTER}-]", " ", text)


def _beside_figures(match: re.Match) -> str:
    run = match[0]
    return f" {letters(run) if len(run) <= 2 or (run.isupper() and len(run) <= 4) else run} "


def _words(text: str, shouted: bool) -> str:
    text = _dashes(re.sub(r"\s+", " ", re.sub(r"\.{4,}", "...", _plain(text))))
    text = before_figures(text)
    text = write_out(_separate(text))
    text = after_figures(text, acronyms=not shouted)
    return _signs(text).lower()


def _separate(text: str) -> str:
    """Parts letters from figures in names like "B2B", "mp3" and "COVID-19", not in "2nd", "5km", "10am" or "1990s"."""
    text = re.sub(r"(?<=\d)\s?x\s?(?=\d)", " by ", re.sub(r"(?<=[A-Za-z])-(?=\d)", " ", text))
    return re.sub(r"(?<![A-Za-z'])[A-Za-z]+(?=\d)|(?<=[A-Za-z]\d)[A-Za-z]+|(?<=\d)x\b", _beside_figures, text)


def _checked(inside: str) -> str:
    from gradtts_robust.speech.text import PHONES

    phones = inside.split()
    for phone in phones:
        if phone not in PHONES:
            raise ValueError(f"{phone!r} in braces is not ARPAbet: braces hold phones, as in {{HH AH0 L OW1}}")
    return f" {{{' '.join(phones)}}} " if phones else " "


def normalise(text: str) -> str:
    """Writes a text out as it is spoken.

    "Dr. Li paid $3.50 to the NGO." gives "doctor li paid three dollars and fifty cents to the N G O."

    Args:
        text: English, in Unicode; where all of it is in capitals (LibriSpeech's transcripts) they mean nothing.

    Returns:
        Pieces with one space between: words in lower case (with "'" and "-" inside), letters that are spoken by their names in upper
        case, phones in braces as given; punctuation, one of `,.?!;:`, follows its word directly.

    Raises:
        ValueError: what is in braces is not ARPAbet, or a letter is neither Latin nor Greek.
    """
    outside = _BRACES.sub(" ", text)
    shouted = outside.upper() == outside and len(re.findall(r"[^\W\d_]{2,}", outside)) > 1
    parts = _BRACES.split(text.replace(LETTER, " "))
    spoken = "".join(_checked(part) if index % 2 else _words(part, shouted) for index, part in enumerate(parts))
    result = ""
    for piece in _PIECE.findall(spoken):
        if piece[0] not in _STRENGTH:
            result += f"{' ' if result else ''}{_shown(piece)}"
        elif result:
            marks = piece if result[-1] not in _STRENGTH else result[-1] + piece
            result = result.rstrip(_STRENGTH) + min(marks, key=_STRENGTH.index)
    return result


def _shown(piece: str) -> str:
    return piece[1].upper() + piece[2:] if piece[0] == LETTER else piece
