"""Abbreviations, initials, acronyms, roman numerals and web addresses, written out."""
from __future__ import annotations

import re

from gradtts_robust.speech.text_dictionary import lookup
from gradtts_robust.speech.text_numbers import cardinal, ordinal, roman

# stands before a letter that is to be spoken by its name; input cannot hold it
LETTER = "\ue000"

_STARTERS = "The|He|She|It|They|We|You|I|But|And|In|On|At|A|An|This|That|There|Then|When|His|Her|My|Our|So|If|As|For|No|Yes|What|Who"
_STARTS = re.compile(rf"\s*[\"')\]]*\s*(?:$|(?<=\s)(?:{_STARTERS})\b)")

_TITLES = {
    "mr": "mister", "mrs": "missus", "ms": "ms", "dr": "doctor", "prof": "professor", "rev": "reverend", "hon": "honorable",
    "gen": "general", "col": "colonel", "sgt": "sergeant", "capt": "captain", "lt": "lieutenant", "maj": "major", "cmdr": "commander",
    "gov": "governor", "sen": "senator", "rep": "representative", "pres": "president", "messrs": "messieurs", "mt": "mount", "ft": "fort",
}
_OTHERS = {
    "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department", "inc": "incorporated", "ltd": "limited",
    "co": "company", "corp": "corporation", "ave": "avenue", "blvd": "boulevard", "rd": "road", "jr": "junior", "sr": "senior",
    "bros": "brothers", "esq": "esquire", "feb": "february", "apr": "april", "aug": "august", "sept": "september",
    "oct": "october", "nov": "november", "dec": "december", "tues": "tuesday", "thurs": "thursday", "cf": "compare", "est": "established",
}
_BEFORE_FIGURES = {
    "no": "number", "nos": "numbers", "vol": "volume", "fig": "figure", "figs": "figures", "p": "page", "pp": "pages", "ch": "chapter",
    "sec": "section", "art": "article", "eq": "equation",
}
_NUMBERED = "chapter|part|book|volume|act|scene|section|war|appendix|type|phase|class|article|canto|stage|bowl|title"
_REIGNING = "Henry|George|Edward|Charles|James|Louis|Philip|William|Richard|Elizabeth|Ferdinand|Frederick|Gustav|Pius|Felipe|Alfonso"
# these would be taken for words
_SPELLED = {"US", "UN", "AI", "ID", "LA", "AD", "ER", "IP", "OS", "PE", "GI", "DC", "AC", "UI", "IQ", "CD", "MA", "NGO"}
_SIGNS = {".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "+": "plus", "&": "and", "=": "equals"}


def letters(word: str, suffix: str = "") -> str:
    """A word spelled: marks each letter to be spoken by its name; `suffix` ("'s") goes to the last."""
    return " ".join(f"{LETTER}{letter}" for letter in word.lower()) + suffix


def stop(match: re.Match) -> str:
    """"." where the full stop that ends an abbreviation ends the sentence too."""
    return "." if _STARTS.match(match.string, match.end()) else ""


def _title(match: re.Match) -> str:
    return _TITLES[match[1].lower()]


def _other(match: re.Match) -> str:
    return _OTHERS[match[1].lower()] + stop(match)


def _street(match: re.Match) -> str:
    return "street" + stop(match)


def _drive(match: re.Match) -> str:
    return match[1] + "drive" + stop(match)


def _dotted(match: re.Match) -> str:
    known = {"e.g.": "for example,", "i.e.": "that is,"}.get(match[0].lower())
    return known or letters(match[0].replace(".", "")) + stop(match)


def _numbered(match: re.Match) -> str:
    value = roman(match[2])
    doubtful = match[2] == "I" and not match[1].istitle()
    return match[0] if not value or doubtful else f"{match[1]} {cardinal(value)}"


def _reign(match: re.Match) -> str:
    value = roman(match[2])
    return f"{match[1]} the {ordinal(value)}" if value else match[0]


def _acronym(match: re.Match) -> str:
    word, suffix = match[1], "'s" if match[2] else ""
    if word in _SPELLED:
        return letters(word, suffix)
    readable = len(word) > 4 and re.search("[AEIOUY]", word) and not re.search("[^AEIOUY]{3}", word)
    return word.lower() + suffix if readable or lookup(word.lower()) is not None else letters(word, suffix)


def _address(match: re.Match) -> str:
    address = re.sub(r"^https?://", "", match[0])
    end = len(address.rstrip(".,;:!?)'\""))
    words = []
    for part in re.findall(r"[A-Za-z]+|\d+|[.@/_+&=-]", address[:end].rstrip("/")):
        unreadable = lookup(part.lower()) is None and (len(part) == 2 or not re.search("[aeiouyAEIOUY]", part))
        spelled = part.isalpha() and (len(part) == 1 or unreadable)
        words.append(_SIGNS.get(part) or (letters(part) if spelled else part))
    return f" {' '.join(words)} {address[end:]}"


def _table(words: dict[str, str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_BEFORE = [
    (re.compile(r"(?<![\w.@])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"), _address),
    (re.compile(r"(?<!\w)(?:https?://|www\.)[^\s,]+"), _address),
    (re.compile(r"(?<![\w.-])(?:[A-Za-z\d][\w-]{0,62}\.){1,4}(?:com|org|net|edu|gov|io|co\.uk)(?![\w-]|\.\w)(?:/[^\s,]*)?"), _address),
    (re.compile(r"\bWW(?=I{1,2}\b)"), "World War "),
    (re.compile(rf"\b({_NUMBERED})\s+([IVX]+)\b", re.IGNORECASE), _numbered),
    (re.compile(rf"\b([A-Z][a-z]+)\s+([IVX]{{2,}})\b|\b(?:{_REIGNING})\s+(?:V|X|I)\b(?! [a-z])"),
     lambda match: _reign(match) if match[1] else _reign(re.match(r"(\w+)\s+(\w+)", match[0]))),
    (re.compile(r"(?<=\w )No (?=\d)"), "number "),
    (re.compile(rf"(?<!\d )\b({_table(_BEFORE_FIGURES)})\.\s?(?=\d)", re.IGNORECASE),
     lambda match: f"{_BEFORE_FIGURES[match[1].lower()]} "),
    (re.compile(r"\b[Pp]h\.?\s?[Dd]\b\.?"), lambda match: letters("phd") + (stop(match) if match[0].endswith(".") else "")),
]
_AFTER = [
    (re.compile(r"(?<![\w.])(?:[A-Za-z]\.){2,}"), _dotted),
    (re.compile(rf"\b([A-Z])\.(?=\s+[A-Z])(?!\s+(?:{_STARTERS})\b)"), lambda match: letters(match[1])),
    (re.compile(rf"\b(?:St|ST)\b\.?(?=\s+[A-Z])(?!\.\s+(?:{_STARTERS})\b)"), "saint"),
    (re.compile(r"\b(?:[Ss]t)\."), _street),
    (re.compile(r"(\b[A-Z][a-z]+ )Dr\.(?!\s+[A-Z])"), _drive),
    (re.compile(rf"\b({_table(_TITLES)})\.(?=\s)", re.IGNORECASE), _title),
    (re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof|Mt|Sgt|Capt|Lt)(?=\s+[A-Z])"), _title),
    (re.compile(rf"\b({_table(_OTHERS)})\.", re.IGNORECASE), _other),
    (re.compile(r"\bvs\b", re.IGNORECASE), "versus"),
]
_UPPER = [
    (re.compile(r"\b([A-Z]{1,3})&([A-Z]{1,3})\b"), lambda match: f"{letters(match[1])} and {letters(match[2])}"),
    (re.compile(r"\b([A-Z]{2,})('?s)?\b"), _acronym),
    (re.compile(r"(?<!')\b([B-HJ-NP-Z])('s)?\b(?!')"), lambda match: letters(match[1], match[2] or "")),
    (re.compile(r"(?<=\w )A(?=\s*(?:[.,;:!?]|$))"), letters("a")),
]


def _apply(rules: list, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def before_figures(text: str) -> str:
    """Web addresses, roman numerals, and abbreviations that a figure follows: to be written out before the figures are."""
    return _apply(_BEFORE, text)


def after_figures(text: str, *, acronyms: bool) -> str:
    """Titles, abbreviations, initials and, where capitals mean something (`acronyms`), acronyms."""
    text = _apply(_AFTER, text)
    return _apply(_UPPER, text) if acronyms else text
