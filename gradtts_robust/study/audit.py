"""A manifest audited: what does not sound like its speaker, in words, and what is left in a manifest of its own."""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ..data.manifest import Utterance, validate, write_manifest
from ..files import atomic_text
from ..training.audit import LEAST, Audit, Voice, audit_voices
from ..training.speakers import Progress


def audit_manifest(utterances: Sequence[Utterance], *, threshold: float, speakers: Sequence[str] | None = None,
                   cache: str | os.PathLike | None = None, progress: Progress | None = None) -> Audit:
    """`audit_voices` of a manifest's speakers, or of some of them; the others' utterances are kept unjudged.

    Raises:
        FileNotFoundError, ValueError: audio that cannot be used, an unknown speaker, or a threshold out of its range.
    """
    known = {u.speaker for u in utterances}
    for name in speakers or []:
        if name not in known:
            shown = ", ".join(sorted(known)[:10]) + (", ..." if len(known) > 10 else "")
            raise ValueError(f"no speaker {name!r} in the manifest; it has {shown}")
    chosen = [u for u in utterances if not speakers or u.speaker in speakers]
    validate(chosen)
    judged = {voice.utterance.id: voice for voice in audit_voices(chosen, cache, threshold=threshold, progress=progress).voices}
    return Audit([judged.get(u.id, Voice(u, 1.0, 0.0, True, True)) for u in utterances])


def audit_lines(found: Audit) -> list[str]:
    """A line per rejected utterance, the worst first: score, distance, id, file; then how many, and who could not be judged."""
    rejected, judged = found.rejected, sum(voice.judged for voice in found.voices)
    lines = ["score  distance  utterance"] if rejected else []
    lines += [f"{voice.score:5.2f}  {voice.distance:8.2f}  {voice.utterance.id}  {voice.utterance.path}" for voice in rejected]
    lines.append(f"{len(rejected)} of {judged} utterances don't sound like their speaker")
    if found.unjudged:
        names = ", ".join(found.unjudged[:10]) + (f" and {len(found.unjudged) - 10} more" if len(found.unjudged) > 10 else "")
        lines.append(f"not judged, as fewer than {LEAST} utterances have no majority: {names}")
    return lines


def write_kept(out: Path, manifest: Path, found: Audit) -> None:
    """Writes what is kept as a manifest, all columns as they were, audio paths relative to the new place; whole or not at all.

    Raises:
        ValueError: nothing is kept.
    """
    kept = found.kept
    if not kept:
        raise ValueError(f"{out}: no utterance is kept; lower the threshold")
    rows = [row for row in csv.reader(io.StringIO(Path(manifest).read_text(encoding="utf-8-sig"), newline="")) if any(map(str.strip, row))]
    if len(rows) != len(found.voices) + 1:
        # a filelist has no columns to keep
        write_manifest(out, kept)
        return
    place = [name.strip() for name in rows[0]].index("path")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row, voice in zip(rows[1:], found.voices, strict=True):
        if voice.kept:
            row[place] = os.path.relpath(voice.utterance.path, os.path.abspath(Path(out).parent))
            writer.writerow(row)
    atomic_text(out, text.getvalue())
