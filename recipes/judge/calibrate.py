"""How well a speaker encoder tells the speakers of a manifest apart: equal error rate, threshold, similarities, with intervals.

    python recipes/judge/calibrate.py runs/judge/test-other.csv --encoder ecapa
    python recipes/judge/calibrate.py runs/judge/test-other.csv --encoder resemblyzer --vocoder griffin-lim
    python recipes/judge/calibrate.py runs/judge/test-other.csv --encoder ecapa --centroids
"""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gradtts_robust import speaker_encoder
from gradtts_robust.data.manifest import Utterance, read_manifest
from gradtts_robust.speech.speaker import SpeakerEncoder, centroid, similarity
from gradtts_robust.speech.vocoder import load_vocoder
from gradtts_robust.study.encoder_calibration import EncoderCalibration, calibrate_encoder, equal_error
from gradtts_robust.study.metrics import embed_files, leave_one_out


def rounded(found: EncoderCalibration) -> dict:
    """A calibration's figures as a card holds them: means with the ends of their intervals, four decimals."""
    facts = asdict(found)
    for name in ("error", "within", "between"):
        facts[name] = [round(facts[name][end], 4) for end in ("mean", "low", "high")]
    return {**facts, "threshold": round(found.threshold, 4)}


def against_centroids(encoder: SpeakerEncoder, utterances: list[Utterance]) -> dict:
    """Equal error of whole utterances against the centroid of their speaker's others, and against the other speakers' centroids."""
    rows = embed_files(encoder, [u.path for u in utterances])
    speakers = np.array([u.speaker for u in utterances])
    own = np.concatenate([leave_one_out(rows[speakers == name]) for name in np.unique(speakers)])
    away = np.concatenate([similarity(rows[speakers != name], centroid(rows[speakers == name])) for name in np.unique(speakers)])
    found = equal_error(own, away)
    figures = {"error": found.rate, "threshold": found.threshold, "own": own.mean(), "others": away.mean()}
    return {"encoder": encoder.name, "utterances": len(rows), **{name: round(float(value), 4) for name, value in figures.items()}}


def main() -> None:
    """Reads the manifest, prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("manifest", type=Path)
    words.add_argument("--encoder", default="ecapa")
    words.add_argument("--source", help="of the ecapa weights; by default the shipped ones")
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--vocoder", help="compare natural clips with clips that it voiced again, such as griffin-lim")
    words.add_argument("--same-recording", action="store_true", help="count pairs out of one recording too")
    words.add_argument("--centroids", action="store_true", help="compare whole utterances with speakers' centroids instead")
    asked = words.parse_args()
    encoder, utterances = speaker_encoder(asked.encoder, asked.source), read_manifest(asked.manifest)
    if asked.centroids:
        print(json.dumps(against_centroids(encoder, utterances), indent=1))
        return
    found = calibrate_encoder(encoder, utterances, seconds=asked.seconds, same_recording=asked.same_recording,
                              vocoder=load_vocoder(asked.vocoder) if asked.vocoder else None)
    print(json.dumps(rounded(found), indent=1))


if __name__ == "__main__":
    main()
