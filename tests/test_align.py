"""Alignments kept and utterances cut at their pauses."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.config import ModelConfig
from gradtts_robust.data.dataset import Features
from gradtts_robust.model.gradtts import GradTTS
from gradtts_robust.training.align import MINIMUM_SECONDS, align, split

SPACE = 11


def utterance(ids: list[int], durations: list[int] | None, frames: int) -> Features:
    mel = torch.arange(frames).repeat(80, 1).half()
    return Features(torch.tensor(ids), mel, None if durations is None else torch.tensor(durations), "u", "s")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 60)), min_size=5, max_size=60), st.floats(1.5, 6))
def test_pieces_hold_every_frame_and_symbol_once(words, max_seconds):
    """Together the pieces are the recording; only a cut pause stands in two of them, and its frames are shared out."""
    ids, durations = [SPACE], [5]
    for phone, pause in words:
        ids += [80, 81, SPACE]
        durations += [phone, phone, pause]
    whole = utterance(ids, durations, sum(durations))
    pieces = split(whole, space=SPACE, max_seconds=max_seconds)
    assert torch.equal(torch.cat([p.mel for p in pieces], dim=1), whole.mel)
    assert all(int(p.durations.sum()) == p.mel.shape[1] and int(p.durations.min()) >= 1 for p in pieces)
    joined = pieces[0].ids.tolist()
    for piece in pieces[1:]:
        assert int(piece.ids[0]) == SPACE == joined[-1]
        joined += piece.ids.tolist()[1:]
    assert joined == ids
    if len(pieces) > 1:
        assert min(p.mel.shape[1] for p in pieces) >= MINIMUM_SECONDS * 22050 / 256 - 60


def test_short_utterance_stays_whole():
    whole = utterance([SPACE, 80, SPACE], [3, 20, 3], 26)
    assert split(whole, space=SPACE, max_seconds=4) == [whole]


def test_unaligned_utterance_is_refused():
    with pytest.raises(ValueError, match="u: its durations are unknown"):
        split(utterance([SPACE, 80], None, 30), space=SPACE, max_seconds=4)


def test_align_finds_the_symbols_that_the_frames_are_made_of():
    """Frames drawn from the encoder's own means, two to five of each symbol, are given back their symbols."""
    torch.manual_seed(0)
    config = ModelConfig(n_speakers=2, speaker_dim=8, encoder_channels=16, encoder_filter=16, duration_filter=16, encoder_layers=1,
                         condition_encoder=True, decoder="lean", decoder_dims=(8, 8, 16))
    model = GradTTS(config).eval()
    with torch.no_grad():
        model.encoder.proj_m.weight.mul_(20)
    features, truth = [], []
    for row in range(3):
        ids = torch.randperm(100)[: 10 + row]
        durations = torch.randint(2, 6, (len(ids),))
        with torch.no_grad():
            mu = model.encode(ids[None], torch.tensor([len(ids)]), torch.tensor([row % 2])).mu[0]
        features.append(Features(ids, mu.repeat_interleave(durations, dim=1), None, f"u{row}", "ab"[row % 2]))
        truth.append(durations)
    found = align(model, features, {"a": 0, "b": 1}, batch_size=2)
    assert [f.id for f in found] == ["u0", "u1", "u2"]
    assert all(torch.equal(f.durations, expected) for f, expected in zip(found, truth))
