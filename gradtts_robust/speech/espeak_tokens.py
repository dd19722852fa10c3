"""espeak's phoneme events as the tokens that the text front end makes: phones, one " " between words, punctuation."""
from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from gradtts_robust.speech.espeak_arpabet import absorbs_r, segment_to_arpabet

PUNCTUATION = ",.?!;:"
# most words that espeak joins to one, and most parts that it makes of one
MOST = 4
# an L's share of a vowel and the L after it, at the least
SHORTEST_L = 0.35
WORD = re.compile(r"\S*\w\S*")


@dataclass(frozen=True)
class Word:
    """A word of the text: its first character's position from 1, its letters, and the punctuation right after it (or "")."""

    position: int
    text: str
    mark: str


@dataclass
class Phone:
    """An ARPAbet phone, from `start` on, in seconds."""

    symbol: str
    start: float


@dataclass
class Group:
    """What espeak spoke as one word: its phones, and when the pauses after it begin, in seconds."""

    phones: list[Phone]
    pauses: list[float]


def split_words(text: str) -> list[Word]:
    """The words of `text` in order."""
    words = []
    for match in WORD.finditer(text):
        trailing = re.search(rf"[{PUNCTUATION}](?=\W*$)", match.group())
        words.append(Word(match.start() + 1, match.group().strip("\"'()" + PUNCTUATION), trailing.group() if trailing else ""))
    return words


def timed_groups(events: list, *, sample_rate: int) -> list[Group]:
    """What espeak spoke, word by word as it counts words, from its events [IPA, text position, start sample]."""
    groups: list[Group] = []
    position = None
    ends = [event[2] for event in events[1:]] + [event[2] for event in events[-1:]]
    for (name, place, start), end in zip(events, ends):
        symbols = segment_to_arpabet(name)
        if not symbols:
            if groups:
                groups[-1].pauses.append(start / sample_rate)
            continue
        if place != position:
            groups.append(Group([], []))
            position = place
        own = groups[-1].phones
        for index, symbol in enumerate(symbols):
            if not (own and absorbs_r(own[-1].symbol, symbol)):
                # the first sound of a diphthong-like pair is the longer one
                share = 0.6 * index / max(len(symbols) - 1, 1)
                own.append(Phone(symbol, (start + share * (end - start)) / sample_rate))
        _lengthen_l(own, end / sample_rate)
    return groups


def _lengthen_l(phones: list[Phone], end: float) -> None:
    # espeak speaks an L after a vowel within the vowel's glide and reports it only where the tongue has arrived
    if len(phones) > 1 and phones[-1].symbol == "L" and phones[-2].symbol[-1].isdigit():
        vowel, final = phones[-2:]
        final.start = min(final.start, end - SHORTEST_L * (end - vowel.start))


@lru_cache(maxsize=2**16)
def _distance(spoken: tuple[str, ...], alone: tuple[str, ...]) -> int:
    row = list(range(0, 2 * len(alone) + 1, 2))
    for i, phone in enumerate(spoken, 1):
        diagonal, row[0] = row[0], 2 * i
        for j, other in enumerate(alone, 1):
            # a vowel may be reduced within a phrase, a consonant stays
            cost = 0 if phone == other else 1 if phone[-1].isdigit() and other[-1].isdigit() else 3
            diagonal, row[j] = row[j], min(row[j] + 2, row[j - 1] + 2, diagonal + cost)
    return row[-1]


@lru_cache(maxsize=2**16)
def _cut(spoken: tuple[str, ...], alone: tuple[tuple[str, ...], ...]) -> tuple[int, tuple[int, ...]]:
    """Cuts phones spoken as one into as many words as `alone` has, each nearest to the word alone: (distance, borders)."""
    cuts = ((0, *inner, len(spoken)) for inner in itertools.combinations(range(1, len(spoken)), len(alone) - 1))
    costs = ((sum(_distance(spoken[a:b], word) for (a, b), word in zip(itertools.pairwise(cut), alone)), cut) for cut in cuts)
    return min(costs, default=(10**6, ()))


def assign(groups: list[Group], alone: list[list[str]]) -> list[Group]:
    """Gives each word its phones and pauses; the result is as long as `alone`.

    espeak speaks some pairs ("of the", "for a") as one word, whose text positions and those after it then are wrong, and some
    words (compounds) as two. So groups are matched to words by what they sound like: one to one, one to several, several to one.

    Args:
        groups: what was spoken.
        alone: phones of each word of the text spoken by itself.
    """
    phones = [tuple(phone.symbol for phone in group.phones) for group in groups]
    words = tuple(tuple(word) for word in alone)
    best: dict[tuple[int, int], tuple] = {(0, 0): (0, None, ())}

    def reach(here: tuple[int, int], move: tuple[int, int], cost: int, cut: tuple[int, ...]) -> None:
        there = (here[0] + move[0], here[1] + move[1])
        total = best[here][0] + cost
        if there not in best or total < best[there][0]:
            best[there] = (total, here, cut)

    for g, w in itertools.product(range(len(groups) + 1), range(len(words) + 1)):
        # what is far off the diagonal cannot be right and would make long texts slow
        if (g, w) not in best or abs(g * len(words) - w * len(groups)) > 12 * len(words):
            continue
        if g < len(groups) and w > 0:
            reach((g, w), (1, 0), 2 * len(phones[g]), ())
        if w < len(words):
            reach((g, w), (0, 1), 2 * len(words[w]) + 1, ())
        for several in range(1, MOST + 1):
            if g < len(groups) and w + several <= len(words):
                reach((g, w), (1, several), *_cut(phones[g], words[w:w + several]))
            if several > 1 and w < len(words) and g + several <= len(groups):
                joined = sum(phones[g:g + several], ())
                reach((g, w), (several, 1), _distance(joined, words[w]), (0, len(joined)))
    return _trace(best, groups, len(words))


def _trace(best: dict, groups: list[Group], count: int) -> list[Group]:
    result = [Group([], []) for _ in range(count)]
    here = (len(groups), count)
    while here != (0, 0):
        _, before, cut = best[here]
        taken = groups[before[0]:here[0]]
        phones = [phone for group in taken for phone in group.phones]
        pauses = [pause for group in taken for pause in group.pauses]
        if before[1] == here[1]:
            word = result[here[1] - 1]
            word.phones, word.pauses = phones + word.phones, pauses + word.pauses
        elif taken:
            for index, (a, b) in enumerate(itertools.pairwise(cut)):
                result[before[1] + index].phones[:0] = phones[a:b]
            result[here[1] - 1].pauses[:0] = pauses
        here = before
    return result


def to_tokens(spoken: list[Group], words: list[Word], *, duration: float, lead: float) -> tuple[list[str], list[float]]:
    """Tokens and their end times in seconds; times in `spoken` count from `lead`, where the silence at the start ends.

    A pause belongs to the punctuation at it, or else to the " " between the words. The silence of `lead` at the end is shared by both.
    """
    tokens, starts = [" "], [0.0]

    def add(token: str, start: float) -> None:
        tokens.append(token)
        starts.append(max(starts[-1], min(lead + start, duration)))

    heard = [(word, group) for word, group in zip(words, spoken) if group.phones]
    for index, (word, group) in enumerate(heard):
        for phone in group.phones:
            add(phone.symbol, phone.start)
        if index + 1 < len(heard):
            following = heard[index + 1][1].phones[0].start
        else:
            following = duration - 1.5 * lead
        pause = min(group.pauses, default=min(following, duration - 2 * lead))
        if word.mark:
            add(word.mark, pause)
            add(" ", following)
        else:
            add(" ", pause)
    return tokens, starts[1:] + [duration]
