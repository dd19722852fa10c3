"""Whether two judges agree on synthesised speech: a base speaks as its speakers, and both compare that with the speakers' recordings.

    python recipes/judge/agreement.py runs/judge/train-clean-100.csv runs/judge/embedded/manifest.csv
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from gradtts_robust import load, speaker_encoder
from gradtts_robust.data.generated import VOICES, sentences
from gradtts_robust.data.manifest import Utterance, read_manifest
from gradtts_robust.speech.speaker import SpeakerEncoder, centroid
from gradtts_robust.study.metrics import embed_files
from gradtts_robust.training.adapt import shipped_base

ENCODERS = ("ecapa", "resemblyzer")


def centroids(encoder: SpeakerEncoder, utterances: list[Utterance], names: list[str], *, most: int = 6) -> np.ndarray:
    """Centroids [len(names), D] of up to `most` utterances of each speaker."""
    return np.stack([centroid(embed_files(encoder, [u.path for u in utterances if u.speaker == name][:most])) for name in names])


def agreement(first: np.ndarray, second: np.ndarray, own: np.ndarray) -> dict:
    """Of similarities [samples, speakers] by two encoders: correlation over samples' own speakers, and over all pairs; who is nearest.

    Args:
        own: [samples], the column of who is meant to speak.
    """
    rows = np.arange(len(own))
    pairs = {"own": (first[rows, own], second[rows, own]), "all": (first.ravel(), second.ravel())}
    found = {f"correlation, {name}": round(float(np.corrcoef(*both)[0, 1]), 3) for name, both in pairs.items()}
    for name, scores in zip(ENCODERS, (first, second)):
        found[name] = {"own": round(float(scores[rows, own].mean()), 3), "nearest_right": round(float((scores.argmax(1) == own).mean()), 3)}
    return found


def main() -> None:
    """Speaks, embeds, prints the agreement for embedded and for real speakers."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("manifests", type=Path, nargs="+", help="recordings of the base's speakers")
    words.add_argument("--base", type=Path, help="by default the shipped one")
    words.add_argument("--speakers", type=int, default=16, help="of each kind, evenly spread over their names")
    words.add_argument("--sentences", type=int, default=3)
    asked = words.parse_args()
    torch.set_num_threads(1)
    tts, judges = load(asked.base or shipped_base()), [speaker_encoder(name) for name in ENCODERS]
    utterances = [utterance for manifest in asked.manifests for utterance in read_manifest(manifest)]
    heard = {utterance.speaker for utterance in utterances}
    for kind in ("embedded", "real"):
        known = sorted(name for name in tts.speakers if name in heard and (name in VOICES) == (kind == "embedded"))
        names = [known[round(place)] for place in np.linspace(0, len(known) - 1, min(asked.speakers, len(known)))]
        spoken = [tts.speak_batch(sentences("test")[: asked.sentences], speaker=name, steps=10, length_scale=1.0, seed=0) for name in names]
        waves, own = [speech.wave for batch in spoken for speech in batch], np.repeat(np.arange(len(names)), asked.sentences)
        scores = [judge.embed(waves, sample_rate=spoken[0][0].sample_rate) @ centroids(judge, utterances, names).T for judge in judges]
        print(json.dumps({"speakers": kind, "samples": len(waves), **agreement(*scores, own)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
