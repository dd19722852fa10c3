"""Forced alignment by pocketsphinx, against what espeak-ng says of its own speech."""
import dataclasses
import sys

import numpy as np
import pytest

from gradtts_robust.data.forced_alignment import _token_ends, force_align
from gradtts_robust.data.generated import generate
from gradtts_robust.data.manifest import read_manifest

pytest.importorskip("pocketsphinx")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    return read_manifest(generate(folder, voices=["Alex", "f2"], sentences_per_voice=2))


def test_borders_lie_where_espeak_put_them(spoken):
    """Words begin within 45 ms of the truth in the median, although the acoustic model never heard such voices."""
    found = force_align([dataclasses.replace(u, phonemes="", ends="") for u in spoken])
    assert not found.failed and [u.id for u in found.utterances] == [u.id for u in spoken]
    errors = []
    for one, truth in zip(found.utterances, spoken, strict=True):
        assert one.tokens()[0] == " " and len(one.end_times()) == len(one.tokens())
        starts, true_starts = ([end for token, end in zip(u.tokens(), u.end_times()) if token == " "] for u in (one, truth))
        words = min(len(starts), len(true_starts))
        if len([t for t in one.tokens() if t == " "]) == len([t for t in truth.tokens()[:-1] if t == " "]):
            errors += np.abs(np.subtract(starts[:words], true_starts[:words])).tolist()
    assert len(errors) > 10 and np.median(errors) < 0.045


def test_what_has_phonemes_is_left_alone_and_a_wrong_text_is_named(spoken):
    hopeless = dataclasses.replace(spoken[0], phonemes="", ends="", text=" ".join(["statistically"] * 60))
    said = []
    found = force_align([spoken[1], hopeless], progress=lambda done, total: said.append((done, total)))
    assert found.utterances == [spoken[1], hopeless] and found.failed == [hopeless.id] and said == [(1, 2), (2, 2)]


def test_pauses_and_signs_share_the_silence():
    spoken = ["AY1", ",", " ", "AH0", "M", "."]
    assert _token_ends(spoken, [(0.1, 0.3), (0.5, 0.6), (0.6, 0.8)]) == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.8, 0.8])


def test_a_missing_pocketsphinx_is_said(spoken, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ValueError, match=r"pip install 'gradtts-robust\[asr\]'"):
        force_align(spoken)
