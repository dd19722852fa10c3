"""Manifests: which audio file says what, spoken by whom. Read, written, merged, checked."""
from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..files import atomic_write
from .audiocheck import audio_problem

REQUIRED = ("path", "text", "speaker")
OPTIONAL = ("id", "phonemes", "ends")


@dataclass(frozen=True)
class Utterance:
    """One recording and what is said in it.

    Args:
        path: audio file, absolute after reading.
        text: what is said.
        speaker: who says it, or is said to.
        id: unique key within a manifest.
        phonemes: tokens of `speech.text.phonemes_to_ids` joined by single spaces, a space token written `_`; or empty.
        ends: end of each token in seconds, joined by single spaces; or empty.
        extra: further columns of the manifest, those that are not empty.
    """

    path: str
    text: str
    speaker: str
    id: str = ""
    phonemes: str = ""
    ends: str = ""
    extra: dict[str, str] = field(default_factory=dict, hash=False)

    def tokens(self) -> list[str]:
        """The phoneme tokens, `" "` for a space; empty where the manifest gives none."""
        return [" " if token == "_" else token for token in self.phonemes.split()]

    def end_times(self) -> list[float]:
        """End of each token in seconds; empty where the manifest gives none.

        Raises:
            ValueError: not numbers, not as many as there are tokens, or going backwards.
        """
        if not self.ends.strip():
            return []
        try:
            times = [float(end) for end in self.ends.split()]
        except ValueError as error:
            raise ValueError(f"{self.id}: the column `ends` holds something that is not a number of seconds ({error})") from None
        count = len(self.phonemes.split())
        if len(times) != count:
            raise ValueError(f"{self.id}: {count} phonemes but {len(times)} end times; give one end per phoneme, or none at all")
        if not all(0 <= before <= after < float("inf") for before, after in zip([0.0, *times], times)):
            raise ValueError(f"{self.id}: end times must be finite, not negative and in order; correct the column `ends`")
        return times


def read_manifest(path: str | os.PathLike) -> list[Utterance]:
    """Reads a CSV with the header `path,text,speaker`, or an original Grad-TTS filelist (`path|text|id` or `path|text`).

    UTF-8, with or without a byte order mark. Paths are relative to the manifest's folder. A filelist without speakers
    has the one speaker `0`. Without a column `id` an utterance is called `speaker/file stem`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, no or wrong columns, wrong number of fields, an empty field, no utterance, an id given twice;
            one line with file and line number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest; `gradtts-robust corpus` makes one")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text; save the manifest as UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise ValueError(f"{path}: the manifest is empty; it needs the header {','.join(REQUIRED)} and a line per utterance")
    is_filelist = "|" in first and not {name.strip() for name in first.split(",")} & set(REQUIRED)
    rows = _filelist_rows(path, text) if is_filelist else _csv_rows(path, text)
    utterances = _with_ids(path, [(line, _utterance(path, line, row)) for line, row in rows])
    if not utterances:
        raise ValueError(f"{path}: the manifest has a header but no utterance; add a line per audio file")
    return utterances


def _filelist_rows(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    rows: list[tuple[int, dict[str, str]]] = []
    expected = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split("|")
        expected = expected or len(fields)
        if len(fields) != expected or expected not in (2, 3):
            wanted = "path|text|speaker or path|text" if expected not in (2, 3) else f"{expected} as in the first line"
            raise ValueError(f"{path}:{number}: {len(fields)} fields between `|`, expected {wanted}")
        rows.append((number, dict(zip(REQUIRED, [*fields, "0"][:3]))))
    return rows


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] = []
    try:
        for fields in reader:
            if not any(value.strip() for value in fields):
                continue
            if not header:
                header = [name.strip() for name in fields]
                _check_header(path, reader.line_num, header)
            elif len(fields) != len(header):
                raise ValueError(f"{path}:{reader.line_num}: {len(fields)} fields where the header has {len(header)}; "
                                 "put a text with commas between double quotes")
            else:
                rows.append((reader.line_num, dict(zip(header, fields))))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: malformed CSV ({error}); double a quotation mark inside a quoted text") from None
    return rows


def _check_header(path: Path, line: int, header: list[str]) -> None:
    for name in REQUIRED:
        if name not in header:
            raise ValueError(f"{path}:{line}: the header has no column {name!r} (it has {', '.join(header)}); "
                             f"it must begin {','.join(REQUIRED)}")
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{path}:{line}: the header names the column {name!r} twice; rename one")


def _utterance(path: Path, line: int, row: dict[str, str]) -> Utterance:
    row = {name: value.strip() for name, value in row.items()}
    for name in REQUIRED:
        if not row[name]:
            raise ValueError(f"{path}:{line}: the field {name!r} is empty; fill it in or remove the line")
    audio = os.path.abspath(os.path.join(path.parent, row["path"]))
    known = {name: row.get(name, "") for name in OPTIONAL}
    extra = {name: value for name, value in row.items() if value and name not in REQUIRED + OPTIONAL}
    return Utterance(audio, row["text"], row["speaker"], extra=extra, **known)


def _with_ids(path: Path, numbered: Sequence[tuple[int, Utterance]]) -> list[Utterance]:
    """Names the nameless; where one speaker has equal stems in several folders, by the relative path instead."""
    stems: dict[str, int] = defaultdict(int)
    for _, utterance in numbered:
        stems[_stem_id(utterance)] += not utterance.id
    seen: dict[str, int] = {}
    named = []
    for line, utterance in numbered:
        key = utterance.id or _stem_id(utterance)
        if not utterance.id and stems[key] > 1:
            key = f"{utterance.speaker}/{os.path.relpath(utterance.path, os.path.abspath(path.parent))}"
        if key in seen:
            raise ValueError(f"{path}:{line}: the id {key!r} is already that of line {seen[key]}; "
                             "give every utterance its own id, or remove the line")
        seen[key] = line
        named.append(replace(utterance, id=key))
    return named


def _stem_id(utterance: Utterance) -> str:
    return f"{utterance.speaker}/{Path(utterance.path).stem}"


def name_utterances(utterances: Sequence[Utterance], root: str | os.PathLike) -> list[Utterance]:
    """Gives ids to utterances that have none, as `read_manifest` does; `root` is what unclear names are relative to.

    Raises:
        ValueError: two utterances of one speaker from one file, or one id given twice.
    """
    return _with_ids(Path(root) / "utterance", list(enumerate(utterances, 1)))


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Writes a CSV with the header `path,text,speaker,id,...`, audio paths relative to it; whole or not at all.

    Raises:
        ValueError: nothing to write, an empty field, an id twice, or an extra column named like one of ours.
    """
    path = Path(path)
    utterances = list(utterances)
    if not utterances:
        raise ValueError(f"{path}: no utterance to write; a manifest needs at least one")
    named = _with_ids(path, list(enumerate(utterances, 2)))
    extra = list(dict.fromkeys(name for utterance in named for name in utterance.extra))
    columns = [*REQUIRED, "id", *(name for name in ("phonemes", "ends") if any(getattr(u, name) for u in named))]
    for name in extra:
        if name in REQUIRED + OPTIONAL:
            raise ValueError(f"{path}: the extra column {name!r} has the name of a column of every manifest; rename it")
    folder = os.path.abspath(path.parent)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *extra])
        for utterance in named:
            values = {name: getattr(utterance, name) for name in columns}
            for name in REQUIRED:
                if not values[name].strip():
                    raise ValueError(f"{utterance.id}: the field {name!r} is empty and cannot go into {path}")
            values["path"] = os.path.relpath(utterance.path, folder)
            writer.writerow([*values.values(), *(utterance.extra.get(name, "") for name in extra)])


def read_manifests(paths: Sequence[str | os.PathLike]) -> list[Utterance]:
    """Reads several manifests as one.

    A speaker's name that stands in several manifests means one person only where their column `corpus` says the same
    corpus; otherwise each gets its manifest's name before it (`vctk/0`, `lj/0`). Ids that occur twice likewise.

    Raises:
        ValueError: no path, one manifest twice, or what `read_manifest` raises.
    """
    resolved = [os.path.realpath(path) for path in paths]
    for path, real in zip(paths, resolved):
        if resolved.count(real) > 1:
            raise ValueError(f"{path}: the same manifest is given twice; name it once")
    if not paths:
        raise ValueError("no manifest given; name at least one CSV file")
    labels = _labels(paths)
    labelled = [(label, utterance) for label, path in zip(labels, paths) for utterance in read_manifest(path)]
    corpora, owners = defaultdict(set), defaultdict(set)
    for label, utterance in labelled:
        corpora[utterance.speaker].add(utterance.extra.get("corpus") or f"manifest {label}")
        owners[utterance.id].add(label)
    merged = []
    for label, utterance in labelled:
        speaker = utterance.speaker if len(corpora[utterance.speaker]) == 1 else f"{label}/{utterance.speaker}"
        key = utterance.id if len(owners[utterance.id]) == 1 else f"{label}/{utterance.id}"
        merged.append(replace(utterance, speaker=speaker, id=key))
    return merged


def _labels(paths: Sequence[str | os.PathLike]) -> list[str]:
    """A short distinct name for each manifest: its stem, or its folder's name where stems are equal, or both and a number."""
    full = [Path(os.path.abspath(path)) for path in paths]
    for names in ([p.stem for p in full], [p.parent.name for p in full], [f"{p.parent.name}-{p.stem}" for p in full]):
        if len(set(names)) == len(names):
            return names
    return [f"{p.stem}-{i}" for i, p in enumerate(full, 1)]


@dataclass(frozen=True)
class Problem:
    """An utterance that cannot be used, its file, and one line with the reason and the remedy."""

    id: str
    path: str
    message: str


def find_problems(utterances: Iterable[Utterance], *, check_audio: bool = True) -> list[Problem]:
    """All utterances that cannot be used: empty text, bad alignment, missing, unreadable, empty or truncated audio.

    Audio is opened and its last sample reached; it is not decoded as a whole.

    Args:
        check_audio: look at the audio files too.
    """
    found = []
    for utterance in utterances:
        message = _text_problem(utterance) or (audio_problem(utterance.path) if check_audio else "")
        if message:
            found.append(Problem(utterance.id, utterance.path, message))
    return found


def validate(utterances: Iterable[Utterance], *, check_audio: bool = True) -> None:
    """Raises for the first unusable utterance, see `find_problems`.

    Raises:
        FileNotFoundError: an audio file is missing.
        ValueError: anything else; either message is one line and says how many more there are.
    """
    found = find_problems(utterances, check_audio=check_audio)
    if found:
        more = f" (and {len(found) - 1} more unusable utterances)" if len(found) > 1 else ""
        kind = ValueError if os.path.exists(found[0].path) or not check_audio else FileNotFoundError
        raise kind(found[0].message + more)


def _text_problem(utterance: Utterance) -> str:
    if not utterance.text.strip():
        return f"{utterance.id}: the text is empty; fill it in or remove the utterance"
    try:
        utterance.end_times()
    except ValueError as error:
        return str(error)
    return ""
