"""The command that makes manifests; `cli` calls it."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gradtts_robust.data.manifest import Utterance


def corpus(argv: list[str], *, parse: Callable, bars: Callable) -> None:
    """Makes a manifest of a corpus."""
    def settings(*, out: str, root: str = "", subset: str | None = None, speakers: list[str] | None = None, limit: int | None = None,
                 part: Literal["all", "base", "targets"] = "all", sentences: int = 40, seed: int = 0, align: bool = False):
        """Makes a manifest.

        Args:
            out: manifest file to write; for `embedded` the folder that gets the waves and `manifest.csv`.
            root: the corpus' folder, as unpacked.
            subset: part of the corpus, e.g. `test-other`.
            speakers: only these.
            limit: at most so many utterances of each speaker.
            part: for `embedded`: all voices, those that a base may hear, or the targets held back from it.
            sentences: for `embedded`: sentences of each voice.
            seed: for `embedded`: which sentences each voice says.
            align: find out by pocketsphinx when each phone is spoken (English; the extra `asr`), so that training need not search.
        """

    from gradtts_robust.files import check_file, check_folder

    kinds = ["embedded", "librispeech", "libritts", "vctk", "ljspeech", "filelist", "folder"]
    asked = parse("corpus", argv, settings, positionals={"kind": {"choices": kinds, "help": "which corpus"}})
    if asked["kind"] == "embedded":
        for name in ("root", "subset", "limit", "align"):
            if asked[name]:
                raise ValueError(f"corpus embedded has no --{name}; leave it out (--speakers, --part and --sentences say what is spoken)")
        check_folder(asked["out"])
        print(_embedded(asked, bars))
        return
    check_file(asked["out"])
    if not asked["root"]:
        raise ValueError(f"corpus {asked['kind']} needs --root, the corpus' folder")
    from gradtts_robust.data.corpora import CORPORA
    from gradtts_robust.data.manifest import write_manifest

    utterances = CORPORA[asked["kind"]](Path(asked["root"]), subset=asked["subset"], speakers=asked["speakers"], limit=asked["limit"])
    if asked["align"]:
        utterances = _aligned(utterances, bars)
    write_manifest(Path(asked["out"]), utterances)
    print(f"{asked['out']}: {len(utterances)} utterances of {len({u.speaker for u in utterances})} speakers")


def _aligned(utterances: list[Utterance], bars: Callable) -> list[Utterance]:
    from gradtts_robust.data.forced_alignment import force_align

    with bars() as shown:
        found = force_align(utterances, progress=lambda done, total: shown("alignment", done, total))
    if found.failed:
        print(f"{len(found.failed)} utterances could not be aligned, check their texts: {', '.join(found.failed[:10])}", file=sys.stderr)
    return found.utterances


def _embedded(asked: dict, bars: Callable) -> Path:
    from gradtts_robust.data.generated import VOICES, generate

    voices = asked["speakers"] or [name for name, voice in VOICES.items() if {
        "all": True, "base": not voice.target, "targets": voice.target}[asked["part"]]]
    with bars() as shown:
        return generate(Path(asked["out"]), voices=voices, sentences_per_voice=asked["sentences"], seed=asked["seed"],
                        progress=lambda done, total: shown("voices", done, total))
