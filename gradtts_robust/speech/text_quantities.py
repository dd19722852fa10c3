"""Dates, times, money, measures and all other figures in a text, written out."""
from __future__ import annotations

import re

from gradtts_robust.speech.text_abbreviations import letters, stop
from gradtts_robust.speech.text_numbers import NUMBER, cardinal, digits, fraction, ordinal, plural, spoken, year

_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
_MONTH_PATTERN = "|".join(rf"{month}|{month.upper()}|(?:{month[:3]}|{month[:4]}|{month[:3].upper()})\.?" for month in _MONTHS)
_MONTH = rf"(?P<month>\b(?:{_MONTH_PATTERN})(?![A-Za-z]))"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th|ST|ND|RD|TH)?"
_YEAR = r"(?P<comma>,?)\s+(?P<year>[12]\d{3})(?![\d,]\d|\.\d|\d)"

_CURRENCIES = {
    "$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "sen"), "₹": ("rupee", "paisa"),
}
_CURRENCY_PLURALS = {"penny": "pence", "yen": "yen", "sen": "sen", "paisa": "paise"}
_SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "bn": "billion", "B": "billion", "tn": "trillion"}
_SCALE = r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion)\b|(?P<short>k|K|m|M|bn|B|tn)\b)?"

_UNITS = {
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "m/s": "meter per second", "mph": "mile per hour",
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "m": "meter", "mi": "mile", "ft": "foot", "yd": "yard",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "l": "liter", "L": "liter", "ml": "milliliter", "mL": "milliliter", "kWh": "kilowatt hour", "kW": "kilowatt", "W": "watt",
    "V": "volt", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "dB": "decibel",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "sec": "second", "secs": "second", "ms": "millisecond",
    "in.": "inch", "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
}
_UNIT_PATTERN = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))


def _date(day: int, month: int, said_year: str) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{_MONTHS[month - 1]} {ordinal(day)}, {said_year}"


def _iso_date(match: re.Match) -> str:
    return _date(int(match[3]), int(match[2]), year(int(match[1]))) or match[0]


def _numeric_date(match: re.Match) -> str:
    first, second, last = int(match[1]), int(match[3]), match[4]
    number = int(last) + (0 if len(last) == 4 else 2000 if int(last) < 50 else 1900)
    # 5/7/2024 is American, 5.7.2024 European; 25/7/2024 can only be European
    day_first = match[2] == "." or first > 12
    return (_date(first, second, year(number)) if day_first else _date(second, first, year(number))) or match[0]


def _month(match: re.Match) -> str:
    short = match["month"].rstrip(".").lower()
    return next(month for month in _MONTHS if month.lower().startswith(short[:3]))


def _month_day(match: re.Match) -> str:
    if not 1 <= int(match["day"]) <= 31:
        return match[0]
    last = f"{match['comma']} {year(int(match['year']))}" if match["year"] else ""
    return f"{_month(match)} {ordinal(int(match['day']))}{last}"


def _day_month(match: re.Match) -> str:
    if not 1 <= int(match["day"]) <= 31:
        return match[0]
    last = f"{match['comma']} {year(int(match['year']))}" if match["year"] else ""
    return f"{match['the'] or 'the '}{ordinal(int(match['day']))} of {_month(match)}{last}"


def _clock(match: re.Match) -> str:
    hour, minute, second, half = int(match[1]), int(match[2]), match[3], match[4]
    words = [cardinal(hour)]
    if minute:
        words.append(f"{'oh ' if minute < 10 else ''}{cardinal(minute)}")
    elif not half:
        words.append("o'clock" if 1 <= hour <= 12 else "hundred")
    if second:
        words.append(f"and {cardinal(int(second))} second{'s' if int(second) != 1 else ''}")
    if half:
        words.append(letters(half.strip()[0] + "m") + (stop(match) if half.endswith(".") else ""))
    return " ".join(words)


def _hour(match: re.Match) -> str:
    return f"{cardinal(int(match[1]))} {letters(match[2] + 'm')}{stop(match) if match[0].endswith('.') else ''}"


def _currency(number: int, unit: str) -> str:
    return f"{cardinal(number)} {unit if number == 1 else _CURRENCY_PLURALS.get(unit, plural(unit))}"


def _money(match: re.Match) -> str:
    unit, small = _CURRENCIES[match["sign"]]
    figures = match["amount"].replace(",", "")
    scale = match["scale"] or _SCALES.get(match["short"] or "", "")
    whole, _, cents = figures.partition(".")
    many = _CURRENCY_PLURALS.get(unit, plural(unit))
    if scale:
        return f"{spoken(figures)} {scale} {many}"
    if len(cents) > 2:
        return f"{spoken(figures)} {many}"
    amounts = []
    if int(whole or 0) or not int(cents or 0):
        amounts.append(_currency(int(whole or 0), unit))
    if int(cents or 0):
        amounts.append(_currency(int(cents.ljust(2, "0")), small))
    return " and ".join(amounts)


def _measure(match: re.Match) -> str:
    unit = _UNITS[match[2]]
    if match[1] != "1":
        first, *rest = unit.split(" ", 1)
        # "kilowatt hours", but "miles per hour" and "degrees Celsius"
        whole = unit == "kilowatt hour"
        unit = plural(unit) if whole else unit if first.endswith("hertz") else " ".join([plural(first), *rest])
    power = {"2": "square ", "3": "cubic "}.get((match[3] or "")[-1:], "")
    return f"{spoken(match[1])} {power}{unit}{stop(match) if match[0].endswith('.') else ''}"


def _phone(match: re.Match) -> str:
    return ", ".join(digits(group) for group in re.findall(r"\d+", match[0]))


def _mixed(match: re.Match) -> str:
    part = fraction(int(match[2]), int(match[3]))
    return f"{cardinal(int(match[1]))} and {'a' + part[3:] if part.startswith('one ') else part}" if match[1] else part


def _decade(match: re.Match) -> str:
    return plural(year(int(match[1])))


_RULES: list[tuple[re.Pattern, object]] = [
    # first, so that the patterns below meet only short runs and stay linear in the text
    (re.compile(r"\d{16,}"), lambda match: f" {digits(match[0])} "),
    (re.compile(r"\b([12]\d{3})-([01]\d)-([0-3]\d)\b"), _iso_date),
    (re.compile(r"(?<![\d/.])(\d{1,2})([/.])(\d{1,2})\2(\d{4})(?![/\d]|\.\d)"), _numeric_date),
    (re.compile(r"(?<![\d/.])(\d{1,2})(/)(\d{1,2})/(\d{2})(?![/\d])"), _numeric_date),
    (re.compile(r"(?<!\w)(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-.]\d{4}(?!\w)|(?<![\w.-])\d{3}-\d{4}(?!\w|-)"), _phone),
    (re.compile(rf"{_MONTH}\s+{_DAY}(?![\d:%/]|,\d|\.\d|\s?[ap]\.?m\b)(?:{_YEAR})?"), _month_day),
    (re.compile(rf"(?P<the>\b[Tt]he )?\b{_DAY}\s+(?:of\s+)?{_MONTH}(?:{_YEAR})?"), _day_month),
    (re.compile(r"(?<=:\d\d)\s?-\s?(?=\d)"), " to "),
    (re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)(\s?[aApP]\.?[mM]\b\.?)?"), _clock),
    (re.compile(r"\b(1[0-2]|[1-9])\s?([aApP])(?:\.[mM]\.|[mM]\b\.?)"), _hour),
    (re.compile(r"\b(\d+):(\d+)\b"), r"\1 to \2"),
    (re.compile(r"(?<=\d)\s?-\s?(?=[$£€¥₹]?\d)|(?<=\d)% ?- ?(?=\d)"), " to "),
    (re.compile(rf"(?:\bUS|\bA|\bC|\bNZ)?(?P<sign>[$£€¥₹])\s?(?P<amount>{NUMBER}){_SCALE}"), _money),
    (re.compile(rf"(?P<amount>{NUMBER})\s?(?P<sign>[£€¥]){_SCALE}"), _money),
    (re.compile(rf"({NUMBER})\s?¢"), lambda match: f"{spoken(match[1])} cent{'' if match[1] == '1' else 's'}"),
    (re.compile(rf"(?<![\w.])[-+](?={NUMBER})"), lambda match: " minus " if match[0] == "-" else " plus "),
    (re.compile(rf"({NUMBER})\s?%"), lambda match: f"{spoken(match[1])} percent"),
    (re.compile(r"(\d+)'\s?(\d+)(?:\"|'')"), lambda match: f"{cardinal(int(match[1]))} feet {cardinal(int(match[2]))} inches"),
    (re.compile(r"\b((?:1[1-9]|20)\d0)'?s\b"), _decade),
    (re.compile(r"'(\d0)s\b"), lambda match: plural(cardinal(int(match[1])))),
    (re.compile(rf"(?<![\w.])({NUMBER})\s?({_UNIT_PATTERN})(\^?[23])?(?:(?<=\.)|(?![\w'/]))"
                r"(?:(?<=lb|ft|oz|hr|km|kg)\.|(?<=min|sec|lbs|hrs)\.)?"), _measure),
    (re.compile(r"(?<![\d/])(?:(\d+)\s+)?(\d+)/(\d+)(?![\d/])"), _mixed),
    (re.compile(r"(\d[\d,]{0,20})(?:st|nd|rd|th|ST|ND|RD|TH)\b"), lambda match: ordinal(int(match[1].replace(",", "")))),
    (re.compile(rf"#\s?(?={NUMBER})"), " number "),
    (re.compile(r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(?!\d|[,.]\d|\s+(?:hundred|thousand|million|billion))"),
     lambda match: f" {year(int(match[1]))} "),
    (re.compile(r"(\d+)'?s\b"), lambda match: f" {plural(spoken(match[1]))}"),
    (re.compile(r"\d+(?:\.\d+){2,}"), lambda match: f" {spoken(match[0])} "),
    (re.compile(NUMBER), lambda match: f" {spoken(match[0])} "),
    (re.compile(r"\d+"), lambda match: f" {spoken(match[0])} "),
]


def write_out(text: str) -> str:
    """Every figure of a text as words; what is left has no digits.

    Args:
        text: ASCII, and the signs of currencies and degrees; in its own case.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
