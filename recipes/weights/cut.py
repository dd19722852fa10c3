"""Voices that a base never heard, out of recordings that it learnt from: cut at pauses into clips, and warped.

    gradtts-robust corpus librispeech --root LibriSpeech --subset train-clean-100 --align true --out aligned.csv
    python recipes/weights/cut.py --manifest aligned.csv --out runs/warped
    python recipes/weights/separation.py --manifest runs/warped/manifest.csv --reference 1 --out runs/warped-separation

What separation.py measures with is to be chosen on such clips, and the speakers that judge a study left alone. Every speaker's pitch and
formants are moved by 8 to 15 %, up or down, by playing the recording faster or slower; the spectrum is tilted and bent by up to 4 dB, and
a little noise added, 28 to 42 dB below the voice. All of it depends on the speaker's name alone.
"""
from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from gradtts_robust.data.manifest import Utterance, read_manifest, write_manifest
from gradtts_robust.speech.audio import SAMPLE_RATE, load_audio, save_wav

LENGTHS = (1.4, 3.8)
"""Seconds of a clip."""
IDEAL = 2.3
PAUSE = 0.15
"""Seconds above which a pause is no better to cut at."""
LEAST_PAUSE = 0.06
"""Mean pause that the cuts of a recording must have, or it is passed over."""


def words(utterance: Utterance) -> tuple[np.ndarray, np.ndarray] | None:
    """Start and end of every word of the text in seconds, each [W]; None where the phonemes hold another number of words."""
    starts, ends, before = [], [], " "
    borders = [0.0, *utterance.end_times()]
    for token, start, end in zip(utterance.tokens(), borders, borders[1:]):
        if token != " " and before == " ":
            starts.append(start)
        if token != " ":
            ends[len(starts) - 1:] = [end]
        before = token
    return (np.array(starts), np.array(ends)) if len(starts) == len(utterance.text.split()) else None


def cut(starts: np.ndarray, ends: np.ndarray, seconds: float, count: int) -> list[tuple[int, float]] | None:
    """The best `count` clips from the recording's beginning: (first word, start in seconds) of each and of what follows the last.

    By dynamic programming: long pauses between them, and lengths near `IDEAL`. None where there is no good way.
    """
    places = np.concatenate([[max(0.0, starts[0] - 0.3)], (ends[:-1] + starts[1:]) / 2, [min(seconds, ends[-1] + 0.3)]])
    pauses = np.minimum(np.append(starts[1:] - ends[:-1], seconds - ends[-1]), PAUSE)
    length = places[None] - places[:, None]
    gain = np.where((length >= LENGTHS[0]) & (length <= LENGTHS[1]), -0.02 * np.abs(length - IDEAL), -np.inf)
    gain[:, 1:] += pauses
    best, came = np.where(np.arange(len(places)) == 0, 0.0, -np.inf), []
    for _ in range(count):
        scores = best[:, None] + gain
        came.append(scores.argmax(axis=0))
        best = scores.max(axis=0)
    last = int(best.argmax())
    if not best[last] > LEAST_PAUSE * count:
        return None
    chosen = [last]
    for back in reversed(came):
        chosen.append(int(back[chosen[-1]]))
    return [(word, float(places[word])) for word in reversed(chosen)]


def warped(wave: np.ndarray, loudness: float, rng: np.random.Generator, voice: dict) -> np.ndarray:
    """The wave as another speaker's in another room."""
    wave = resample_poly(wave, round(1000 / voice["factor"]), 1000)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE), 100) / 1000)
    gain = voice["tilt"] * octaves + np.interp(octaves, np.linspace(-3.3, 3.3, len(voice["bends"])), voice["bends"])
    wave = np.fft.irfft(np.fft.rfft(wave) * 10 ** (gain / 20), len(wave))
    return wave + rng.standard_normal(len(wave)) * loudness / 10 ** (voice["snr"] / 20)


def clips(utterance: Utterance, count: int, *, warp: bool, folder: Path) -> list[Utterance]:
    """Writes a recording's clips; none where it cannot be cut."""
    found, wave = words(utterance), load_audio(utterance.path)
    borders = found and cut(*found, len(wave) / SAMPLE_RATE, count)
    if not borders:
        return []
    rng, spoken, made = np.random.default_rng(zlib.crc32(utterance.speaker.encode())), utterance.text.split(), []
    voice = {"factor": rng.choice([rng.uniform(0.87, 0.92), rng.uniform(1.08, 1.15)]), "tilt": rng.uniform(-2, 2),
             "bends": rng.uniform(-4, 4, 6), "snr": rng.uniform(28, 42)}
    loudness = float(np.sqrt(np.mean(wave**2)))
    for number, ((word, start), (after, end)) in enumerate(zip(borders, borders[1:])):
        clip = wave[round(start * SAMPLE_RATE):round(end * SAMPLE_RATE)]
        if warp:
            clip = warped(clip, loudness, rng, voice)
        path = folder / f"{utterance.speaker}-{number}.wav"
        save_wav(path, clip * min(1.0, 0.95 / np.abs(clip).max()))
        # the base knows the speaker by the plain name
        made.append(Utterance(str(path.resolve()), " ".join(spoken[word:after]), f"cut-{utterance.speaker}", path.stem))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", required=True, help="with phonemes and their ends")
    parser.add_argument("--speakers", type=int, default=40, help="how many, in an order of no meaning")
    parser.add_argument("--first", type=int, default=0, help="of the speakers in that order that can be cut, so many are left out")
    parser.add_argument("--clips", type=int, default=8, help="of each recording")
    parser.add_argument("--plain", action="store_true", help="cut, but do not warp")
    parser.add_argument("--out", type=Path, default=Path("runs/warped"))
    asked = parser.parse_args()
    (asked.out / "wavs").mkdir(parents=True, exist_ok=True)
    recordings = sorted((u for u in read_manifest(asked.manifest) if u.ends), key=lambda u: zlib.crc32(u.id.encode()))
    made: list[list[Utterance]] = []
    for recording in recordings:
        found = clips(recording, asked.clips, warp=not asked.plain, folder=asked.out / "wavs")
        made += [found] if found else []
        if len(made) == asked.first + asked.speakers:
            break
    kept = made[asked.first:]
    write_manifest(asked.out / "manifest.csv", [clip for part in kept for clip in part])
    print(f"{len(kept)} speakers, {asked.clips} clips each")


if __name__ == "__main__":
    main()
