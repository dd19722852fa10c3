"""Written text to spoken words."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.speech.normalise import normalise
from gradtts_robust.speech.text_numbers import cardinal, digits, fraction, ordinal, plural, roman, spoken, year

CASES = {
    # numbers
    "1,234 people": "one thousand two hundred thirty-four people",
    "1000000": "one million",
    "3.14 or .5 or 0.05": "three point one four or point five or zero point zero five",
    "agent 007": "agent zero zero seven",
    "-5 and +3": "minus five and plus three",
    "the 21st, 112th and 1,000th": "the twenty-first, one hundred twelfth and one thousandth",
    "version 1.2.3": "version one point two point three",
    "1/2 a cake, 3/4 cup, 7/8": "one half a cake, three quarters cup, seven eighths",
    "5 1/2 miles, 5½ miles": "five and a half miles, five and a half miles",
    "24/7": "twenty-four seven",
    "10-20 people": "ten to twenty people",
    "10–20 people": "ten to twenty people",
    "a 5-year-old": "a five year-old",
    "12345678901234567890": "one two three four five six seven eight nine zero one two three four five six seven eight nine zero",
    "747s": "seven hundred forty-sevens",
    "３ cats, ٣ cats": "three cats, three cats",
    # years and dates
    "In 1999.": "in nineteen ninety-nine.",
    "1905, 1900, 2000, 2005, 2024": "nineteen oh five, nineteen hundred, two thousand, two thousand five, twenty twenty-four",
    "1,999 days": "one thousand nine hundred ninety-nine days",
    "1914–1918": "nineteen fourteen to nineteen eighteen",
    "the 1990s and the '80s": "the nineteen nineties and the eighties",
    "5/7/2024": "may seventh, twenty twenty-four",
    "25/7/2024": "july twenty-fifth, twenty twenty-four",
    "5.7.2024": "july fifth, twenty twenty-four",
    "1/2/99": "january second, nineteen ninety-nine",
    "2024-05-07": "may seventh, twenty twenty-four",
    "the 2nd of May 1999": "the second of may nineteen ninety-nine",
    "on 2 May 1999": "on the second of may nineteen ninety-nine",
    "May 3, 2001.": "may third, two thousand one.",
    "Jan. 5, Sept. 11, DEC 25": "january fifth, september eleventh, december twenty-fifth",
    "You may 3 times": "you may three times",
    "May 2001": "may two thousand one",
    # times
    "7:30 pm": "seven thirty P M",
    "at 9:15 a.m. we left": "at nine fifteen A M we left",
    "It is 5 p.m.": "it is five P M.",
    "At 5 p.m. The end.": "at five P M. the end.",
    "12:00, 7:05, 15:00": "twelve o'clock, seven oh five, fifteen hundred",
    "7 am - 8pm": "seven A M, eight P M",
    "6:30-7:30": "six thirty to seven thirty",
    "3:1": "three to one",
    # money
    "$3.50": "three dollars and fifty cents",
    "$1, $0.99, $0.01, $0": "one dollar, ninety-nine cents, one cent, zero dollars",
    "£20 and £1.01": "twenty pounds and one pound and one penny",
    "€5 million": "five million euros",
    "$1.2 billion, $5k": "one point two billion dollars, five thousand dollars",
    "$1,234.56": "one thousand two hundred thirty-four dollars and fifty-six cents",
    "20€ or 50¢": "twenty euros or fifty cents",
    "¥500 and US$20": "five hundred yen and twenty dollars",
    "$5-$10": "five dollars to ten dollars",
    # percentages and units
    "50% of 3.5 %": "fifty percent of three point five percent",
    "5 km, 10kg, 1 km": "five kilometers, ten kilograms, one kilometer",
    "60 mph, 100 km/h": "sixty miles per hour, one hundred kilometers per hour",
    "20°C, 70 °F, 90°": "twenty degrees celsius, seventy degrees fahrenheit, ninety degrees",
    "6 ft 3 lbs. of it": "six feet three pounds of it",
    "5m², 2 GHz, 3 kWh": "five square meters, two gigahertz, three kilowatt hours",
    "3 in. long, 8 in the morning, 4x4": "three inches long, eight in the morning, four by four",
    "5'10\" tall": "five feet ten inches tall",
    "555-123-4567": "five five five, one two three, four five six seven",
    # abbreviations
    "Dr. Smith met Mr Jones.": "doctor smith met mister jones.",
    "St. John, 5 Main St.": "saint john, five main street.",
    "Elm Dr. is long": "elm drive is long",
    "No. 5. No. I do not.": "number five. no. i do not.",
    "Fig. 3, p. 7, pp. 7-9, vol. 2": "figure three, page seven, pages seven to nine, volume two",
    "e.g. cats, i.e. pets, etc.": "for example, cats, that is, pets, et cetera.",
    "Prof. Lee, Ph.D., Acme Inc.": "professor lee, P H D, acme incorporated.",
    "Smith vs. Jones": "smith versus jones",
    "J. R. R. Tolkien": "J R R tolkien",
    "Plan B. The end.": "plan B. the end.",
    # acronyms, also ones that are words, and capitals that mean nothing
    "the U.S. and the US": "the U S and the U S",
    "The FBI knew NASA.": "the fbi knew nasa.",
    "an NGO, two NGOs, the NGO's": "an N G O, two N G O's, the N G O's",
    "Q&A at AT&T in WWII": "Q and A at A T and T in world war two",
    "The GPU in XQZ": "the G P U in X Q Z",
    "I DO NOT know": "i do not know",
    "MISTER SMITH TOLD US TO USE IT": "mister smith told us to use it",
    "CHAPTER IV ON THE 5TH OF MAY": "chapter four on the fifth of may",
    "mp3, B2B, COVID-19, H2O": "M P three, B two B, covid nineteen, H two O",
    # roman numerals
    "Henry VIII and Louis XIV": "henry the eighth and louis the fourteenth",
    "World War II, Chapter IV, Henry V.": "world war two, chapter four, henry the fifth.",
    "The part I like": "the part i like",
    # addresses
    "j.smith@example.com": "J dot smith at example dot com",
    "See https://www.example.org/path.": "see W W W dot example dot org slash path.",
    "example.com is down": "example dot com is down",
    # signs, quotes, dashes, accents
    "He said “hello” — and left… then came.": "he said hello, and left, then came.",
    "Left (now) [ok].": "left, now, ok.",
    "Why?! Wait!!! So...": "why? wait! so.",
    "R&D @ 5 = ok": "R and D at five equals ok",
    "café, naïve, Łódź, straße, ﬁne": "cafe, naive, lodz, strasse, fine",
    "Paris–London": "paris-london",
    "π and μ": "pi and mu",
    "it’s": "it's",
    "one,two.three": "one, two. three",
    "so 😀 good": "so good",
    "Turn {HH  AW1 S} left": "turn {HH AW1 S} left",
    "...and": "and",
}


@pytest.mark.parametrize(("written", "words"), CASES.items())
def test_spoken_as(written, words):
    assert normalise(written) == words


def test_speaking_again_changes_nothing_but_letters():
    for words in CASES.values():
        if not any(character.isupper() for character in words):
            assert normalise(words) == words


@pytest.mark.parametrize(("call", "words"), [
    (lambda: cardinal(101), "one hundred one"), (lambda: cardinal(-10**15), "one" + " zero" * 15), (lambda: ordinal(100), "one hundredth"),
    (lambda: digits("40"), "four zero"), (lambda: year(1066), "ten sixty-six"), (lambda: year(2100), "twenty-one hundred"),
    (lambda: year(850), "eight hundred fifty"), (lambda: spoken("10.01"), "ten point zero one"), (lambda: plural("six"), "sixes"),
    (lambda: plural("fifty"), "fifties"), (lambda: plural("foot"), "feet"), (lambda: fraction(1, 3), "one third"),
    (lambda: fraction(2, 3), "two thirds"), (lambda: roman("XXXIX"), 39), (lambda: roman("IIX"), 0), (lambda: roman("XL"), 0),
])
def test_number_words(call, words):
    assert call() == words


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**13))
def test_a_number_is_said_the_same_with_and_without_commas(number):
    if not 1100 <= number <= 2099:
        assert normalise(f"{number} cats") == normalise(f"{number:,} cats") == f"{cardinal(number)} cats"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aBe 0159.,:;/-–'$£€%°#@&()kmsthx½²"), max_size=30))
def test_only_words_and_marks_come_out(text):
    result = normalise(text)
    assert set(result) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ' -,.?!;:")
    assert "  " not in result and result == result.strip()


@pytest.mark.parametrize("piece", ["1", "1,", ".", "1/", "www.", "a@", "May 1 ", "1:1 ", "$1", "A. ", "9" * 20 + " ", "9,999"])
def test_long_repetitions_stay_quick(piece):
    import time

    start = time.process_time()
    normalise(piece * (2000 // len(piece)))
    assert time.process_time() - start < 2
