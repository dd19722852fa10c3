"""Symbols, both front ends, and what they do with words that the dictionary lacks."""
import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradtts_robust.config import TextConfig
from gradtts_robust.speech.text import (
    BLANK,
    FRONTENDS,
    PHONES,
    PUNCTUATION,
    SYMBOLS,
    encode,
    ids_to_symbols,
    phonemes_to_ids,
    text_to_ids,
    tokens,
)
from gradtts_robust.speech.text_dictionary import lookup

WRITTEN = st.text(st.one_of(
    st.sampled_from("aAbeEiIsStT .,;:?!-'$%/@&#0123456789{}()"), st.characters(max_codepoint=0x2FFF), st.characters()), max_size=40)
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.", "Dr. Smith paid $3.50 for 21 apples on the 2nd of May, 1999.",
    "Turn left on {HH AW1 S S T AH0 N} Street.", "He isn't a well-known flibbertigibbet; is he?", "CHAPTER ONE IN WHICH WE ARE INTRODUCED",
    "Zürich – naïve “café” … 5½ miles!", "Mail a.b@example.com by 7:30 p.m.: it's 50% off, OK?",
]


@pytest.fixture(scope="module")
def reference(golden):
    return json.loads((golden / "text.json").read_text(encoding="utf-8"))


def spoken(text: str) -> str:
    """Tokens in one line, a space between words shown as "_"."""
    return " ".join("_" if token == " " else token for token in tokens(text))


def test_symbols_are_the_originals(reference):
    assert list(SYMBOLS) == reference["symbols"]
    assert reference["blank_id"] == BLANK == 148


def test_original_front_end_gives_golden_ids(reference):
    assert len(reference["cases"]) >= 5
    for case in reference["cases"]:
        assert text_to_ids(case["text"], "grad-tts", blanks=False) == case["ids"], case["text"]
        assert text_to_ids(case["text"], frontend="grad-tts") == case["ids_with_blanks"], case["text"]


def test_a_dictionary_of_the_users_own_takes_the_packages_place(tmp_path, monkeypatch):
    """Whoever has the original's dictionary file gets its words, all of them and no others."""
    edition = tmp_path / "cmu_dictionary"
    edition.write_text(";;; notes\nREAD  R IY1 D\nREAD(1)  R EH1 D\n'TIS  T IH1 Z\n", encoding="latin-1")
    monkeypatch.setenv("GRADTTS_DICTIONARY", str(edition))
    read = [SYMBOLS.index(symbol) for symbol in ("@R", "@IY1", "@D")]
    assert text_to_ids("read a", "grad-tts", blanks=False) == [*read, SYMBOLS.index(" "), SYMBOLS.index("a")]
    monkeypatch.setenv("GRADTTS_DICTIONARY", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"absent.*GRADTTS_DICTIONARY"):
        text_to_ids("read", "grad-tts")


@pytest.mark.parametrize(("text", "cleaned"), [
    ("In 1999, 2000, 2005, 2010, 1100, 1905",
     "in nineteen ninety-nine, two thousand, two thousand five, twenty ten, eleven hundred, nineteen oh five"),
    ("12345 and 1,000,001", "twelve thousand, three hundred forty-five and one million one"),
    ("the 101st", "the one hundred and first"), ("$1.01 $0 $1,234", "one dollar, one cent zero dollars twelve thirty-four dollars"),
    ("£20", "pstwenty"), ("3.14 4.5.6", "three point fourteen four point five.six"), ("Dr.Co. x", "doctorco. x"),
    ("Mrs. “É”—", 'misess "e"--'), ("9" * 40, " ".join(["nine"] * 40)),
])
def test_original_cleaners(text, cleaned):
    from gradtts_robust.speech.text_gradtts import clean

    assert clean(text) == cleaned


def test_original_front_end_spells_what_touches_punctuation():
    assert "".join(ids_to_symbols(text_to_ids("the cat, the cat", "grad-tts", blanks=False))) == "@DH@AH0 cat, @DH@AH0 @K@AE1@T"


@pytest.mark.parametrize(("text", "expected"), [
    ("Hello, world.", "HH AH0 L OW1 , _ W ER1 L D ."),
    ("HELLO WORLD", "HH AH0 L OW1 _ W ER1 L D"),
    ('"cat," (dog)?!', "K AE1 T , _ D AO1 G ?"),
    ("the end of the apple", "DH IY0 _ EH1 N D _ AH1 V _ DH IY0 _ AE1 P AH0 L"),
    ("the, apple", "DH AH0 , _ AE1 P AH0 L"),
    ("Turn {HH AW1 S T AH0 N}!", "T ER1 N _ HH AW1 S T AH0 N !"),
    ("...and so...", "AH0 N D _ S OW1 ."),
    ("plan B", "P L AE1 N _ B IY1"), ("vitamin A.", "V AY1 T AH0 M AH0 N _ EY1 ."), ("a cat", "AH0 _ K AE1 T"),
    ("W's", "D AH1 B AH0 L Y UW0 Z"), ("well-known", "W EH1 L _ N OW1 N"), ("re-entry", "R IY0 _ EH1 N T R IY0"),
    ("‘tis walkin’", "T IH1 Z _ W AO1 K IH0 N"),
])
def test_tokens(text, expected):
    assert spoken(text) == expected


@pytest.mark.parametrize(("word", "base", "ending"), [
    ("crayon's", "crayon", ["Z"]), ("giraffe's", "giraffe", ["S"]), ("compass's", "compass", ["IH0", "Z"]),
    ("crutch's", "crutch", ["IH0", "Z"]),
    ("lobster'll", "lobster", ["AH0", "L"]), ("giraffe'd", "giraffe", ["D"]), ("robot'd", "robot", ["IH0", "D"]), ("zoo've", "zoo", ["V"]),
    ("lobsters'", "lobsters", []),
])
def test_endings_of_known_words(word, base, ending):
    assert lookup(word) is None
    assert tokens(word) == [*lookup(base), *ending]


def test_unknown_words_are_read_not_spelled():
    pytest.importorskip("espeakng_loader")
    assert lookup("zorblax") is None
    phones = tokens("zorblax")
    assert set(phones) <= set(PHONES)
    assert phones[0] == "Z" and phones[-1] == "S"
    assert tokens("Zorblax's.") == [*phones, "IH0", "Z", "."]


def test_unknown_word_without_espeak_is_named():
    program = ("import sys; sys.modules['espeakng_loader'] = None\n"
               "from gradtts_robust.speech.text import tokens\n"
               "tokens('the known cat')\n"
               "try: tokens('a zorblax')\n"
               "except ValueError as error: print(error)")
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "'zorblax'" in answer and "pip install 'gradtts-robust[voices]'" in answer
    assert answer.count("\n") == 1


def test_blanks_and_edges():
    plain = phonemes_to_ids(["HH", "AY1"], blanks=False)
    assert [SYMBOLS[index] for index in plain] == ["@HH", "@AY1"]
    assert phonemes_to_ids(["HH", "AY1"]) == [BLANK, plain[0], BLANK, plain[1], BLANK]
    space = SYMBOLS.index(" ")
    assert phonemes_to_ids(["HH", "AY1"], blanks=False, edges=True) == [space, *plain, space]
    assert phonemes_to_ids([" ", "HH", "AY1", " "], blanks=False, edges=True) == [space, *plain, space]
    assert text_to_ids("Hi.", blanks=False, edges=True) == phonemes_to_ids([*tokens("Hi."), " "], blanks=False, edges=True)


def test_encode_follows_its_settings():
    assert encode("Hi there.", TextConfig()) == text_to_ids("Hi there.", "arpabet", blanks=False, edges=True)
    assert encode("Hi there.", TextConfig(frontend="grad-tts", blanks=True, edges=False)) == text_to_ids("Hi there.", "grad-tts")


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("text", ["", "  \n", "...", '"?!" -- ()', "{}", "☃", "'"])
def test_nothing_to_pronounce(text, frontend):
    with pytest.raises(ValueError, match=r"^nothing to pronounce.*at least one word$"):
        text_to_ids(text, frontend)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: text_to_ids("Hi.", "arabet"), "unknown front end 'arabet'; known: arpabet, grad-tts"),
    (lambda: text_to_ids("{HH AI1}"), "'AI1' in braces is not ARPAbet"),
    (lambda: text_to_ids("say привет"), "cannot pronounce the letter 'п'"),
    (lambda: phonemes_to_ids(["HH", "XX"]), "unknown phoneme 'XX'"), (lambda: phonemes_to_ids([]), "no phonemes"),
    (lambda: ids_to_symbols([149]), "symbol id 149 is not in 0..148"), (lambda: ids_to_symbols([-1]), "symbol id -1"),
])
def test_mistakes_are_named_in_one_line(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("text", SENTENCES)
def test_ids_map_back(text, frontend):
    ids = text_to_ids(text, frontend)
    assert ids[::2] == [BLANK] * (len(ids) // 2 + 1)
    symbols = ids_to_symbols(ids)
    assert set(symbols[::2]) == {"<blank>"}
    assert [SYMBOLS.index(symbol) for symbol in symbols[1::2]] == ids[1::2] == text_to_ids(text, frontend, blanks=False)
    if frontend == "arpabet":
        assert [symbol.removeprefix("@") for symbol in symbols[1::2]] == tokens(text)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(WRITTEN)
def test_any_text_gives_ids_or_one_clear_line(text):
    for frontend in FRONTENDS:
        try:
            ids = text_to_ids(text, frontend, blanks=False)
        except ValueError as error:
            assert "\n" not in str(error) and str(error), text
        else:
            assert ids and all(0 < index < BLANK for index in ids)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["cat", "the", "3.50", "Dr. No", "FBI", "{AA1}", ", ", "! ", "-", " -- ", "(", "1999", "it's"]),
                min_size=1))
def test_tokens_keep_their_language(parts):
    text = " ".join(parts)
    if not any(character.isalnum() for character in text):
        return
    result = tokens(text)
    marks = set(PUNCTUATION)
    assert result[0] in PHONES and result[-1] != " "
    for token, following in itertools.pairwise(result):
        assert token in PHONES or token in marks or token == " "
        # a space is between words only, and comes after punctuation, never before or twice
        assert not (token == " " and following not in PHONES)
        assert not (token in marks and following != " ")
