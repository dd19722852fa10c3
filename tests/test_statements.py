"""What a study says in words: its judge, the best of the objectives, and whether an audit does as well."""
import math
from pathlib import Path

import pandas as pd
import pytest

from gradtts_robust.study.robustness import compare
from gradtts_robust.study.study_report import Conclusion, statements
from gradtts_robust.study.table import Note

METHODS = {"squares": "plain", "joint": "plain", "audit": "audit", "oracle": "oracle"}
SPEAKERS, SEEDS, SENTENCES = range(6), range(3), range(4)


def concluded(losses: dict[str, float], *, encoders=("resemblyzer", "ecapa-small")) -> Conclusion:
    """A study in which dirt costs these similarities; that of Resemblyzer's own objectives is 0 by Resemblyzer."""
    rows = []
    for encoder in encoders:
        for condition in ("clean", "dirty"):
            for objective, loss in losses.items():
                lost = 0.0 if condition == "clean" or (encoder == "resemblyzer" and objective != "squares") else loss
                # a little that cancels out over the seeds
                rows += [{"encoder": encoder, "condition": condition, "objective": objective, "speaker": f"s{speaker}", "seed": seed,
                          "sentence": sentence, "iteration": 200, "selected": True, "pollution_similarity": math.nan,
                          "control_pollution_similarity": math.nan,
                          "similarity": 0.6 + 0.02 * speaker - lost + 0.001 * (seed - 1) * (objective == "joint")}
                         for speaker in SPEAKERS for seed in SEEDS for sentence in SENTENCES]
    table = pd.DataFrame(rows)
    runs = [{"objective": name, "method": METHODS[name]} for name in losses]
    comparisons = pd.concat([compare(table, baseline="squares", clean="clean", encoder=name).assign(encoder=name) for name in encoders])
    return Conclusion(Note(Path(), "squares", "clean", [], "", runs), table, comparisons, pd.DataFrame(), pd.DataFrame(), {}, {}, 0.0)


@pytest.mark.parametrize(("losses", "words"), [
    ({"squares": 0.2, "joint": 0.02, "audit": 0.1, "oracle": 0.0}, "joint does better (joint minus audit +0.080"),
    ({"squares": 0.2, "joint": 0.1, "audit": 0.02, "oracle": 0.0}, "audit does at least as well (joint minus audit -0.080"),
    ({"squares": 0.2, "joint": 0.0500, "audit": 0.0502, "oracle": 0.0}, "audit may do as well (joint minus audit +0.000")])
def test_an_audit_is_advised_where_it_does_as_well(losses, words):
    first, line, *_ = statements(concluded(losses))
    assert first == "judged by ecapa-small:"
    assert line.startswith("dirty: dirt changes the similarity of squares by -0.200") and words in line
    assert f"least damage by {'joint' if losses['joint'] < losses['audit'] else 'audit'}, ratio" in line and "oracle" not in line


def test_without_an_audit_or_a_second_judge_nothing_is_said_of_them():
    first, *_ = statements(concluded({"squares": 0.2, "joint": 0.1}, encoders=("resemblyzer",)))
    assert first.startswith("dirty: dirt changes") and "audit" not in first and "least damage by joint" in first
