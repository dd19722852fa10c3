"""Alignments kept and utterances cut at their pauses."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import tiny_model

from gradtts_robust.config import ModelConfig
from gradtts_robust.data.dataset import Features
from gradtts_robust.model.alignment import hear_pauses, log_prior, search_durations
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


def test_a_pause_between_words_is_heard_as_the_edges_are():
    """Symbols a, space, b between silent edges, where the space's own mean is speech: the pause goes to the space and not to a word."""
    silence, speech, other = -8.0, -2.0, 0.0
    means = torch.tensor([silence, speech, -1.5, other, silence])
    truth = torch.tensor([[3, 4, 6, 5, 2]])
    mel = torch.tensor([silence, speech, silence, other, silence]).repeat_interleave(truth[0]).expand(1, 80, -1)
    ids, lengths = torch.tensor([[SPACE, 20, SPACE, 21, SPACE]]), torch.tensor([5])
    values = log_prior(means.expand(1, 80, -1).contiguous(), mel)
    frames = torch.tensor([mel.shape[2]])
    heard = hear_pauses(values, ids, lengths, pause=SPACE)
    assert torch.equal(search_durations(heard, lengths, frames), truth)
    assert not torch.equal(search_durations(values, lengths, frames), truth)
    assert torch.equal(heard[:, [1, 3]], values[:, [1, 3]]) and (heard >= values).all()
    without_edges = hear_pauses(values[:, 1:4], ids[:, 1:4], torch.tensor([3]), pause=SPACE)
    assert torch.equal(without_edges, values[:, 1:4]), "edges that are no spaces say nothing of silence"


def test_a_models_search_hears_pauses_where_its_settings_say_so():
    plain, hearing = (tiny_model(pause_symbol=pause).eval() for pause in (None, SPACE))
    ids, lengths = torch.tensor([[SPACE, 20, SPACE, 21, SPACE]]), torch.tensor([5])
    mu, mel, frames = torch.randn(1, 80, 5), torch.randn(1, 80, 24), torch.tensor([24])
    values = log_prior(mu, mel)
    assert torch.equal(plain.align(mu, mel, ids, lengths, frames), search_durations(values, lengths, frames))
    expected = search_durations(hear_pauses(values, ids, lengths, pause=SPACE), lengths, frames)
    assert torch.equal(hearing.align(mu, mel, ids, lengths, frames), expected)
