"""How well a speaker encoder tells the speakers of a manifest apart: equal error rate, threshold, similarities, with intervals.

    python recipes/judge/calibrate.py runs/judge/test-other.csv --encoder ecapa
    python recipes/judge/calibrate.py runs/judge/test-other.csv --encoder resemblyzer --vocoder griffin-lim
"""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gradtts_robust import speaker_encoder
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.speech.vocoder import load_vocoder
from gradtts_robust.study.encoder_calibration import EncoderCalibration, calibrate_encoder


def rounded(found: EncoderCalibration) -> dict:
    """A calibration's figures as a card holds them: means with the ends of their intervals, four decimals."""
    facts = asdict(found)
    for name in ("error", "within", "between"):
        facts[name] = [round(facts[name][end], 4) for end in ("mean", "low", "high")]
    return {**facts, "threshold": round(found.threshold, 4)}


def main() -> None:
    """Reads the manifest, prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("manifest", type=Path)
    words.add_argument("--encoder", default="ecapa")
    words.add_argument("--source", help="of the ecapa weights; by default the shipped ones")
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--vocoder", help="compare natural clips with clips that it voiced again, such as griffin-lim")
    words.add_argument("--same-recording", action="store_true", help="count pairs out of one recording too")
    asked = words.parse_args()
    found = calibrate_encoder(speaker_encoder(asked.encoder, asked.source), read_manifest(asked.manifest), seconds=asked.seconds,
                              same_recording=asked.same_recording, vocoder=load_vocoder(asked.vocoder) if asked.vocoder else None)
    print(json.dumps(rounded(found), indent=1))


if __name__ == "__main__":
    main()
