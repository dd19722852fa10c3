"""espeak-ng's phonemes, in IPA, as ARPAbet with stress digits, the alphabet of the CMU dictionary."""
from __future__ import annotations

import re

# one entry per phoneme of espeak's en-us voice; what a dictionary word writes with two symbols is written with two
ENGLISH = {
    "iː": "IY", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "ɛ": "EH", "æ": "AE", "ɑː": "AA", "ɔː": "AO", "ɔ": "AO",
    "ʊ": "UH", "uː": "UW", "u": "UW", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɜː": "ER", "ɚ": "ER",
    "eɪ": "EY", "aɪ": "AY", "ɔɪ": "OY", "aʊ": "AW", "oʊ": "OW", "əʊ": "OW",
    "ɑːɹ": "AA R", "ɔːɹ": "AO R", "oːɹ": "AO R", "ɛɹ": "EH R", "ɪɹ": "IH R", "ʊɹ": "UH R",
    "aɪɚ": "AY ER", "aɪə": "AY AH", "aʊɚ": "AW ER", "iə": "IY AH", "əl": "AH L", "l̩": "AH L", "n̩": "AH N", "m̩": "AH M",
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "ɡ": "G", "g": "G", "tʃ": "CH", "dʒ": "JH",
    "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH",
    "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɫ": "L", "ɹ": "R", "j": "Y", "w": "W", "ɾ": "T", "ʔ": "T",
}
# the nearest English sound of what espeak borrows from other languages' voices
FOREIGN = {
    "e": "EY", "a": "AA", "ɑ": "AA", "ɒ": "AA", "o": "OW", "oː": "OW", "y": "UW", "ø": "UH", "œ": "AH", "œː": "ER", "øː": "ER",
    "ɜ": "ER", "ɝ": "ER", "ɨ": "IH", "ʉ": "UW", "ɯ": "UW", "ɤ": "AH", "ɘ": "AH", "ɵ": "UH", "ɶ": "AE", "ɪː": "IY", "ʏ": "UH",
    "ai": "AY", "au": "AW", "ei": "EY", "ou": "OW", "oi": "OY", "ʊə": "UH R", "eə": "EH R", "ɛə": "EH R", "ɪə": "IH R",
    "ɑ̃": "AA N", "ɔ̃": "AO N", "ɛ̃": "AE N", "œ̃": "AH N", "ã": "AA N", "õ": "OW N", "ĩ": "IY N", "ũ": "UW N", "ẽ": "EY N",
    "r": "R", "ʁ": "R", "ʀ": "R", "ɻ": "R", "ɽ": "R", "x": "K", "χ": "K", "ç": "HH", "ħ": "HH", "ɦ": "HH", "ɣ": "G", "q": "K",
    "c": "K", "ɟ": "G", "ɢ": "G", "β": "V", "ʋ": "V", "ɸ": "F", "ʍ": "W", "ɥ": "W", "ɰ": "W", "ʝ": "Y", "ʎ": "L Y", "ɲ": "N Y",
    "ɱ": "M", "ɳ": "N", "ɭ": "L", "ɬ": "L", "ʈ": "T", "ɖ": "D", "ɕ": "SH", "ʂ": "SH", "ʑ": "ZH", "ʐ": "ZH", "ts": "T S", "dz": "D Z",
    "tɕ": "CH", "dʑ": "JH", "ɓ": "B", "ɗ": "D",
}
TABLE = {**FOREIGN, **ENGLISH}
LONGEST = max(map(len, TABLE))
VOWELS = frozenset(("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"))
STRESS = {"ˈ": "1", "ˌ": "2"}
LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")


def segment_to_arpabet(segment: str) -> list[str]:
    """One phoneme as espeak names it in IPA, stress mark before it, as ARPAbet; [] for pauses and marks without a sound.

    Of several vowels in one phoneme the first bears the stress. Length and other marks that English lacks are passed over.
    """
    stress = "0"
    phones: list[str] = []
    start = 0
    while start < len(segment):
        if segment[start] in STRESS:
            stress = STRESS[segment[start]]
            start += 1
            continue
        for length in range(min(LONGEST, len(segment) - start), 0, -1):
            found = TABLE.get(segment[start:start + length])
            if found:
                for phone in found.split():
                    phones.append(phone + stress if phone in VOWELS else phone)
                    stress = "0" if phone in VOWELS else stress
                break
        start += length
    return phones


def absorbs_r(previous: str, phone: str) -> bool:
    """Whether an R is only the tail or the link of an r-coloured sound before it: the dictionary writes `F ER1 IY0`, not `F ER1 R IY0`."""
    return phone == "R" and (previous == "R" or previous.startswith("ER"))


def transcription_to_arpabet(transcription: str) -> list[str]:
    """A word in espeak's IPA, phonemes separated by `_`, as ARPAbet with stress digits on vowels."""
    phones: list[str] = []
    for segment in LANGUAGE_SWITCH.sub("_", transcription).replace(" ", "_").split("_"):
        for phone in segment_to_arpabet(segment):
            if not (phones and absorbs_r(phones[-1], phone)):
                phones.append(phone)
    return phones
