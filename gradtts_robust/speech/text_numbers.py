"""Figures to words, in American English: cardinals, ordinals, years, decimals, fractions, digits."""
from __future__ import annotations

NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,6}(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\d.])\.\d+)"
# num2words knows more, but nobody says a number of sixteen digits as one
_LONGEST = 15
_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def digits(figures: str) -> str:
    """Each digit as a word: "007" is "zero zero seven"."""
    return " ".join(cardinal(int(figure)) for figure in figures)


def cardinal(number: int) -> str:
    """A whole number as words, without "and" and commas; one of more than 15 digits as its digits."""
    from num2words import num2words

    if len(str(abs(number))) > _LONGEST:
        return digits(str(number).lstrip("-"))
    return num2words(number).replace(",", "").replace(" and ", " ")


def ordinal(number: int) -> str:
    """An ordinal as words: 21 is "twenty-first"; one of more than 15 digits as its digits."""
    from num2words import num2words

    if len(str(number)) > _LONGEST:
        return digits(str(number))
    return num2words(number, to="ordinal").replace(",", "").replace(" and ", " ")


def year(number: int) -> str:
    """A year as it is said: 1999 "nineteen ninety-nine", 1905 "nineteen oh five", 2005 "two thousand five"."""
    century, rest = divmod(number, 100)
    if number < 1000 or number > 9999 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def spoken(figures: str) -> str:
    """A number as written: "1,234" "1.05" "007" ".5" "1.2.3".

    Args:
        figures: ASCII digits, full stops, and commas between thousands.
    """
    whole, *fractions = figures.replace(",", "").split(".")
    if not fractions and len(whole) > 1 and whole[0] == "0":
        return digits(whole)
    words = [cardinal(int(whole))] if whole else []
    version = len(fractions) > 1
    return " ".join(words + [f"point {cardinal(int(part)) if version else digits(part)}" for part in fractions if part])


def plural(words: str) -> str:
    """Plural of the last word of a spoken number or a unit: "nineteen nineties", "sixes", "inches"."""
    if words.endswith(("foot", "feet")):
        return words[:-4] + "feet"
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("x", "s", "ch")) else "s")


def fraction(numerator: int, denominator: int) -> str:
    """A fraction as words: "three quarters", "one half", "seven eighths"; what is none, like 24/7, as two numbers."""
    if denominator < 2 or denominator > 100 or numerator >= denominator:
        return f"{cardinal(numerator)} {cardinal(denominator)}"
    one, many = _DENOMINATORS.get(denominator, (ordinal(denominator), plural(ordinal(denominator))))
    return f"{cardinal(numerator)} {one if numerator == 1 else many}"


def roman(numeral: str) -> int:
    """Value of a roman numeral in upper case; 0 if it is not well-formed or above 39."""
    values = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
    tens = len(numeral) - len(numeral.lstrip("X"))
    ones = numeral[tens:]
    return 10 * tens + values.index(ones) if tens <= 3 and ones in values else 0
