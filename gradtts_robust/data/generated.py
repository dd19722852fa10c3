"""The embedded corpus: voices spoken by espeak-ng with exact alignments, from a wheel and sentences that this package ships."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np

from gradtts_robust.data.manifest import Utterance, write_manifest
from gradtts_robust.files import atomic_write
from gradtts_robust.speech.espeak import SAMPLE_RATE, Spoken, Voice, speak_all

# variant (the name too), pitch 0-100, words per minute, intonation range 0-100, sex, measured median F0 in Hz
_TABLE = """
Alex 65 155 40 male 126
Alicia 65 167 57 female 298
Andrea 50 179 73 female 255
Annie 65 192 54 female 276
Hugo 65 162 70 male 127
Nguyen 50 174 51 male 151
Reed 35 186 67 male 104
anika 35 157 48 female 228
aunty 35 169 64 female 136
belinda 35 181 45 female 191
edward 65 193 61 male 118
f5 50 164 42 female 200
grandma 35 176 58 female 187
ian 35 188 75 male 81
iven4 50 158 55 male 100
klatt3 65 171 72 male 122
m5 50 183 52 male 103
m8 35 195 69 male 80
marcelo 65 165 49 male 108
norbert 50 178 66 male 102
pablo 50 190 46 male 113
quincy 65 160 63 male 101
steph 35 172 43 female 152
victor 35 185 60 male 83
"""
_BASE_TABLE = """
kaukovalta 50 155 40 male 99
Marco 35 174 66 male 120
travis 65 192 54 male 120
Jacky 50 168 42 male 111
announcer 50 187 68 male 68
Lee 50 163 56 male 97
klatt2 35 182 45 male 88
david 35 158 70 male 67
sandro 35 176 59 male 87
Gene 50 195 47 male 94
michel 35 171 73 male 95
antonio 50 190 61 male 113
Andy 50 166 49 male 96
shelby 50 184 75 female 210
f1 65 160 63 female 211
f2 35 179 52 female 169
"""
# fixed before any result was seen: they measure adaptation, so no base may ever hear them
TARGETS = ("Andrea", "belinda", "steph", "ian", "iven4", "norbert")


def _read_table(table: str, *, base_only: bool) -> dict[str, Voice]:
    voices = {}
    for line in table.strip().splitlines():
        variant, pitch, rate, span, sex, f0 = line.split()
        voices[variant] = Voice(variant, variant, int(pitch), int(rate), int(span), sex, float(f0), variant in TARGETS, base_only)
    return voices


# name -> voice: 24 chosen to be told apart from one another, then those that only widen the base (`base_only`)
VOICES: dict[str, Voice] = {**_read_table(_TABLE, base_only=False), **_read_table(_BASE_TABLE, base_only=True)}


def sentences(kind: str = "train") -> list[str]:
    """The sentences written for this project, in English.

    Args:
        kind: `train`, what the corpus' voices read, or `test`, never spoken for training.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("train", "test"):
        raise ValueError(f"no sentences of the kind {kind!r}; known: train, test")
    text = (resources.files("gradtts_robust.data") / f"sentences_{kind}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def choose_sentences(voice: str, count: int, *, seed: int = 0) -> list[int]:
    """Which training sentences a voice reads, as indices in order of reading: each voice others, and more of them begin with the same."""
    available = len(sentences("train"))
    if not 1 <= count <= available:
        raise ValueError(f"{count} sentences per voice asked for; there are 1 to {available}")
    return np.random.default_rng(_seed(seed, voice)).permutation(available)[:count].tolist()


def generate(
    out: str | os.PathLike, *, voices: Sequence[str] | None = None, sentences_per_voice: int = 40, seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Speaks the embedded corpus: `OUT/wavs/VOICE/VOICE_000.wav` (16-bit, 22050 Hz, mono) and `OUT/manifest.csv`.

    The same arguments give the same bytes. A voice's utterance depends on its name, the sentence and `seed` alone: not on the
    other voices, nor on how many sentences are spoken.

    Args:
        out: folder, made if need be; files of an earlier run are replaced.
        voices: names of `VOICES`; None for all.
        sentences_per_voice: 1 up to the number of training sentences.
        seed: of the choice of sentences and of the voices' noise.
        progress: called with voices done and voices in all, after each voice.

    Returns:
        Path of the manifest, whose utterances have phonemes and their end times; it is written last.

    Raises:
        ValueError: unknown voice, too many sentences, or the `voices` extra is not installed.
    """
    out = Path(out)
    names = list(VOICES) if voices is None else list(dict.fromkeys(voices))
    unknown = [name for name in names if name not in VOICES]
    if unknown or not names:
        raise ValueError(f"no voice {unknown[0]!r}; known: {', '.join(VOICES)}" if unknown else "no voice given to generate")
    chosen = {name: choose_sentences(name, sentences_per_voice, seed=seed) for name in names}
    utterances: list[Utterance] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, spoken in enumerate(pool.map(lambda name: _speak_voice(out, VOICES[name], chosen[name], seed), names), 1):
            utterances += spoken
            if progress:
                progress(done, len(names))
    manifest = out / "manifest.csv"
    write_manifest(manifest, utterances)
    return manifest


def _speak_voice(out: Path, voice: Voice, chosen: list[int], seed: int) -> list[Utterance]:
    texts = sentences("train")
    spoken = speak_all([texts[i] for i in chosen], voice=voice, seeds=[_seed(seed, voice.name, texts[i]) % 2**31 for i in chosen])
    folder = (out / "wavs" / voice.name).resolve()
    result = []
    for number, (index, one) in enumerate(zip(chosen, spoken)):
        stem = f"{voice.name}_{number:03d}"
        path = folder / f"{stem}.wav"
        _write_wav(path, one)
        result.append(Utterance(
            path=str(path), text=texts[index], speaker=voice.name, id=stem,
            phonemes=" ".join("_" if token == " " else token for token in one.phonemes),
            ends=" ".join(f"{end:.6f}" for end in one.ends)))
    return result


def _write_wav(path: Path, spoken: Spoken) -> None:
    import soundfile

    with atomic_write(path) as temporary:
        soundfile.write(temporary, np.round(spoken.wave * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")


def _seed(*parts: object) -> int:
    # Python's own hash differs from process to process
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little")
