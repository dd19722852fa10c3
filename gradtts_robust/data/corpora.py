"""Readers of speech corpora in the layouts that they are published in."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .manifest import Utterance, name_utterances, read_manifest


def librispeech(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
                limit: int | None = None) -> list[Utterance]:
    """LibriSpeech: `SUBSET/SPEAKER/CHAPTER/*.flac` with `SPEAKER-CHAPTER.trans.txt`; a speaker is named by the reader's id.

    Args and errors: see `read_corpus`. Lines of a transcript whose audio is not there are passed over, since parts of the
    corpus are often handed on; audio without a transcript likewise.
    """
    found = []
    for chapter in _chapters(root, subset, speakers):
        for transcript in sorted(chapter.glob("*.trans.txt")):
            for number, line in enumerate(_lines(transcript), 1):
                key, _, text = line.strip().partition(" ")
                audio = chapter / f"{key}.flac"
                if not audio.is_file():
                    continue
                if not text.strip():
                    raise ValueError(f"{transcript}:{number}: no text after {key!r}; fetch the transcript again")
                found.append(_spoken("librispeech", audio, text.strip(), chapter.parent.name, chapter.parent.parent.name))
    return _selected(root, found, speakers, limit)


def libritts(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
             limit: int | None = None) -> list[Utterance]:
    """LibriTTS and LibriTTS-R: `SUBSET/SPEAKER/CHAPTER/NAME.wav` with `NAME.normalized.txt`. Args and errors: see `read_corpus`."""
    found = []
    for chapter in _chapters(root, subset, speakers):
        for transcript in sorted(chapter.glob("*.normalized.txt")):
            audio = transcript.with_name(transcript.name.removesuffix(".normalized.txt") + ".wav")
            if audio.is_file():
                found.append(_spoken("libritts", audio, _whole_text(transcript), chapter.parent.name, chapter.parent.parent.name))
    return _selected(root, found, speakers, limit)


def vctk(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
         limit: int | None = None) -> list[Utterance]:
    """VCTK 0.92: `wav48_silence_trimmed/SPEAKER/NAME_mic1.flac` with `txt/SPEAKER/NAME.txt`; a subset is `mic1` or `mic2`.

    The speaker without transcripts (p315) is passed over. Args and errors: see `read_corpus`.
    """
    root, microphone = _root(root), subset or "mic1"
    if microphone not in ("mic1", "mic2"):
        raise ValueError(f"{root}: no subset {subset!r}; the subsets there are mic1, mic2")
    audio_root, text_root = root / "wav48_silence_trimmed", root / "txt"
    for folder in (audio_root, text_root):
        if not folder.is_dir():
            raise FileNotFoundError(f"{root}: no folder {folder.name}, so not VCTK 0.92; {_inside(root)}")
    _check_speakers(root, [speaker.name for speaker in _folders(audio_root)], speakers)
    found = []
    for speaker in _folders(audio_root):
        for audio in sorted(speaker.glob(f"*_{microphone}.flac")) if _wanted(speaker.name, speakers) else ():
            transcript = text_root / speaker.name / f"{audio.stem.removesuffix(f'_{microphone}')}.txt"
            if transcript.is_file():
                found.append(_spoken("vctk", audio, _whole_text(transcript), speaker.name, microphone))
    return _selected(root, found, speakers, limit)


def ljspeech(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
             limit: int | None = None) -> list[Utterance]:
    """LJSpeech 1.1: `metadata.csv` (`NAME|text|normalised text`) and `wavs/NAME.wav`; the one speaker is `LJ`.

    Args and errors: see `read_corpus`; there are no subsets.
    """
    root = _root(root)
    _no_subset(root, subset)
    metadata = root / "metadata.csv"
    if not metadata.is_file():
        raise FileNotFoundError(f"{root}: no metadata.csv, so not LJSpeech; {_inside(root)}")
    found = []
    for number, line in enumerate(_lines(metadata), 1):
        fields = line.split("|")
        text = fields[-1].strip()
        if len(fields) not in (2, 3) or not text:
            raise ValueError(f"{metadata}:{number}: {len(fields)} fields between `|`, expected NAME|text|normalised text")
        audio = root / "wavs" / f"{fields[0]}.wav"
        if audio.is_file():
            found.append(_spoken("ljspeech", audio, text, "LJ", ""))
    return _selected(root, found, speakers, limit)


def filelist(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
             limit: int | None = None) -> list[Utterance]:
    """An original Grad-TTS filelist, `path|text|speaker` or `path|text`.

    Its paths are relative to the folder that training was started in: the filelist's own folder or one above it, the
    nearest where the first file exists.

    Args:
        root: the filelist, or a folder with the filelist named by `subset` in it.

    Further args and errors: see `read_corpus`.
    """
    path = Path(root)
    if path.is_dir():
        names = sorted(p.name for p in path.glob("*.txt"))
        if subset not in names:
            asked = f"no filelist {subset!r}" if subset else "a folder, so name a filelist as its subset"
            raise ValueError(f"{path}: {asked}; there are: {', '.join(names) or 'none'}")
        path = path / subset
    else:
        _no_subset(path, subset)
    listed = read_manifest(path)
    home = os.path.abspath(path.parent)
    first = os.path.relpath(listed[0].path, home)
    above = [] if first.startswith("..") else Path(home).parents
    base = next((place for place in (Path(home), *above) if (place / first).is_file()), Path(home))
    moved = [_spoken("", base / os.path.relpath(u.path, home), u.text, u.speaker, "") for u in listed]
    return _selected(base, moved, speakers, limit)


def folder(root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
           limit: int | None = None) -> list[Utterance]:
    """Any folder with a manifest, `path,text,speaker`: its only CSV file, or the one named by `subset`.

    Args and errors: see `read_corpus`.
    """
    root = _root(root)
    names = sorted(p.name for p in root.glob("*.csv"))
    wanted = subset if subset is None or subset.endswith(".csv") else f"{subset}.csv"
    if wanted not in names and (wanted or len(names) != 1):
        asked = f"no manifest {wanted}" if wanted else f"{len(names)} CSV files where one is expected, so name it as the subset"
        raise ValueError(f"{root}: {asked}; there are: {', '.join(names) or 'none'}")
    return _selected(root, read_manifest(root / (wanted or names[0])), speakers, limit)


CORPORA: dict[str, Callable[..., list[Utterance]]] = {
    "librispeech": librispeech, "libritts": libritts, "vctk": vctk, "ljspeech": ljspeech, "filelist": filelist, "folder": folder,
}


def read_corpus(name: str, root: str | os.PathLike, *, subset: str | None = None, speakers: Sequence[str] | None = None,
                limit: int | None = None) -> list[Utterance]:
    """Reads a corpus by name, sorted by speaker and file, with `extra["corpus"]` and `extra["subset"]` where they apply.

    Args:
        name: a key of `CORPORA`.
        root: the corpus' folder.
        subset: one of its parts; None for all of them.
        speakers: names to keep; None for all.
        limit: most utterances per speaker, the first ones; None for all.

    Raises:
        FileNotFoundError: no such root, or another layout.
        ValueError: unknown corpus, subset or speaker (the message lists what there is), a malformed transcript, nothing found.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}; known: {', '.join(CORPORA)}")
    return CORPORA[name](root, subset=subset, speakers=speakers, limit=limit)


def _root(root: str | os.PathLike) -> Path:
    path = Path(root)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the corpus' root")
    return path


def _folders(path: Path) -> list[Path]:
    return sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: (len(p.name), p.name) if p.name.isdigit() else (0, p.name))


def _inside(root: Path) -> str:
    names = sorted(p.name for p in root.iterdir())
    return f"there are: {', '.join(names[:12]) or 'nothing'}"


def _chapters(root: str | os.PathLike, subset: str | None, speakers: Sequence[str] | None) -> Iterable[Path]:
    """`SUBSET/SPEAKER/CHAPTER` folders of LibriSpeech and LibriTTS."""
    root = _root(root)
    subsets = [p.name for p in _folders(root) if any(child.is_dir() for child in p.iterdir())]
    if subset is not None and subset not in subsets:
        raise ValueError(f"{root}: no subset {subset!r}; the subsets there are {', '.join(subsets) or 'none'}")
    folders = [speaker for part in ([subset] if subset else subsets) for speaker in _folders(root / part)]
    _check_speakers(root, [speaker.name for speaker in folders], speakers)
    for speaker in folders:
        if _wanted(speaker.name, speakers):
            yield from _folders(speaker)


def _wanted(speaker: str, speakers: Sequence[str] | None) -> bool:
    return speakers is None or speaker in map(str, speakers)


def _check_speakers(root: str | os.PathLike, there: Iterable[str], speakers: Sequence[str] | None) -> None:
    there = list(dict.fromkeys(there))
    for speaker in map(str, speakers or ()):
        if speaker not in there:
            known = f"{', '.join(there[:12])}{' ...' if len(there) > 12 else ''}"
            raise ValueError(f"{root}: no speaker {speaker!r}; there are: {known or 'none'}")


def _no_subset(root: Path, subset: str | None) -> None:
    if subset:
        raise ValueError(f"{root}: no subset {subset!r}; this corpus has no subsets, leave it out")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; fetch the transcript again") from None


def _whole_text(path: Path) -> str:
    text = " ".join(" ".join(_lines(path)).split())
    if not text:
        raise ValueError(f"{path}: the transcript is empty; fetch it again")
    return text


def _spoken(corpus: str, audio: Path, text: str, speaker: str, subset: str) -> Utterance:
    extra = {name: value for name, value in (("corpus", corpus), ("subset", subset)) if value}
    return Utterance(os.path.abspath(audio), text, speaker, extra=extra)


def _selected(root: str | os.PathLike, found: list[Utterance], speakers: Sequence[str] | None, limit: int | None) -> list[Utterance]:
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; at least 1 utterance per speaker is needed")
    if not found:
        raise ValueError(f"{root}: no utterances found; {_inside(Path(root)) if os.path.isdir(root) else 'give the corpus root'}")
    _check_speakers(root, (u.speaker for u in found), speakers)
    counts: dict[str, int] = {}
    kept = []
    for utterance in found:
        if not _wanted(utterance.speaker, speakers):
            continue
        counts[utterance.speaker] = counts.get(utterance.speaker, 0) + 1
        if limit is None or counts[utterance.speaker] <= limit:
            kept.append(utterance)
    return name_utterances(kept, root)
