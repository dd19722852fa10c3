"""New speakers: what they are started from, and that the old ones stay as they were."""
import pytest
import torch

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.conditioning import (
    ProjectedSpeakers,
    SpeakerTable,
    add_speaker,
    condition_on_embeddings,
    nearest_row,
    new_row,
    rows_from_embeddings,
)
from gradtts_robust.model.gradtts import GradTTS


def model(decoder="lean", n_speakers=3, **changes) -> GradTTS:
    torch.manual_seed(0)
    built = GradTTS(ModelConfig(
        n_speakers=n_speakers, speaker_dim=8, encoder_channels=16, encoder_filter=16, duration_filter=16, encoder_layers=1,
        condition_encoder=True, decoder=decoder, decoder_dim=16, decoder_dims=(16, 16, 16), **changes))
    with torch.no_grad():  # zero-initialised layers would hide the speaker
        for parameter in built.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    return built.eval()


@pytest.mark.parametrize(("decoder", "conditioning"), [("grad-tts", "table"), ("lean", "table"), ("lean", "embedding")])
def test_old_speakers_keep_their_outputs(decoder, conditioning):
    base = model(decoder, speaker_conditioning=conditioning)
    grown = add_speaker(base, torch.randn(8))
    assert (base.config.n_speakers, grown.config.n_speakers) == (3, 4)
    ids, lengths, speakers = torch.randint(0, 149, (3, 6)), torch.tensor([6, 4, 5]), torch.arange(3)
    noisy, mask, t = torch.randn(3, 80, 8), torch.ones(3, 1, 8), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        for one, other in ((base, grown), (grown, base)):
            assert torch.equal(one.encode(ids, lengths, speakers).mu, other.encode(ids, lengths, speakers).mu)
            assert torch.equal(one.score(noisy, mask, noisy * 0, t, speakers), other.score(noisy, mask, noisy * 0, t, speakers))
        new = grown.score(noisy, mask, noisy * 0, t, torch.full((3,), 3))
    assert new.isfinite().all() and not torch.equal(new, grown.score(noisy, mask, noisy * 0, t, speakers))


def test_the_copy_shares_nothing_and_loads_strictly():
    base, row = model(), torch.randn(8)
    grown = add_speaker(base, row)
    assert torch.equal(grown.spk_emb.weight[3], row) and torch.equal(grown.spk_emb.weight[:3], base.spk_emb.weight)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter += 1
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    GradTTS(grown.config).load_state_dict(grown.state_dict(), strict=True)
    assert grown.spk_emb.weight.requires_grad and not grown.training


def test_speakers_can_be_added_again():
    twice = add_speaker(add_speaker(model(), torch.zeros(8)), torch.ones(8))
    assert twice.config.n_speakers == 5 and torch.equal(twice.spk_emb.weight[4], torch.ones(8))


def test_a_model_without_a_table_is_refused():
    with pytest.raises(ValueError, match="single-speaker"):
        add_speaker(model(n_speakers=1), torch.zeros(8))
    with pytest.raises(ValueError, match=r"\(7,\).*\(8,\)"):
        add_speaker(model(), torch.zeros(7))


def test_nearest_row_weighs_by_similarity():
    table = SpeakerTable(3, 2)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [50.0, 50.0]]))
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    target = torch.tensor([2.0, 0.0])
    torch.testing.assert_close(nearest_row(table, embeddings, target, 2), torch.tensor([1.0, 0.6]) / 1.6)
    torch.testing.assert_close(nearest_row(table, embeddings, target, 1), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(nearest_row(table, embeddings, target, 9), torch.tensor([1.0, 0.6]) / 1.6)
    assert not nearest_row(table, embeddings, target, 2).requires_grad


def test_nearest_row_of_a_target_unlike_all_is_their_mean():
    table = SpeakerTable(2, 4)
    row = nearest_row(table, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([-1.0, -1.0]), 2)
    torch.testing.assert_close(row, table.weight.detach().mean(0))


@pytest.mark.parametrize(("embeddings", "target", "k", "message"), [
    (torch.zeros(2, 5), torch.zeros(5), 1, r"\[3, D\]"), (torch.zeros(3, 5), torch.zeros(4), 1, "do not fit"),
    (torch.zeros(3, 5), torch.zeros(5), 0, "k is 0"),
])
def test_nearest_row_names_what_does_not_fit(embeddings, target, k, message):
    with pytest.raises(ValueError, match=message):
        nearest_row(SpeakerTable(3, 8), embeddings, target, k)


def test_rows_from_embeddings_keep_who_sounds_like_whom():
    """Two groups of three alike voices: rows have mean square 1, fill only the axes that there are, and keep the groups."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 32, generator=generator)
    embeddings = torch.nn.functional.normalize(
        centres.repeat_interleave(3, 0) + 0.1 * torch.randn(6, 32, generator=generator), dim=1)
    rows = rows_from_embeddings(embeddings, 16)
    assert rows.shape == (6, 16) and rows.dtype == torch.float32
    assert rows.square().mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(rows[:, 5:], torch.zeros(6, 11))
    distances = torch.cdist(rows, rows)
    assert distances[:3, :3].max() < distances[:3, 3:].min()
    torch.testing.assert_close(rows_from_embeddings(embeddings.flip(0), 16).flip(0), rows, atol=1e-4, rtol=1e-4)


def unit(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_a_projection_is_found_again_and_reaches_unheard_voices():
    """From rows that are a linear function of 60 embeddings: the fit gives that function, for an embedding outside the table too."""
    embeddings, truth = unit(60, 16), torch.nn.Linear(16, 4)
    with torch.no_grad():
        rows = truth(embeddings * 4)
        projected = ProjectedSpeakers(60, 16, 4)
        projected.fit(embeddings, rows, ridge=1e-9)
        new = unit(1, 16, seed=1)[0]
        torch.testing.assert_close(projected.weight, rows, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(projected(torch.tensor([5, 7])), rows[[5, 7]], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(new_row(projected, embeddings, new, k=5), truth(new * 4), atol=1e-4, rtol=1e-4)


def test_the_ridge_keeps_fewer_speakers_than_dimensions_from_being_learnt_by_heart():
    embeddings, rows = unit(20, 64), torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    exact, shrunk = ProjectedSpeakers(20, 64, 4), ProjectedSpeakers(20, 64, 4)
    exact.fit(embeddings, rows, ridge=1e-9)
    shrunk.fit(embeddings, rows, ridge=0.3)
    torch.testing.assert_close(exact.weight, rows, atol=1e-3, rtol=1e-3)
    assert shrunk.projection.weight.norm() < 0.8 * exact.projection.weight.norm()
    torch.testing.assert_close(shrunk.weight.mean(0), rows.mean(0), atol=1e-5, rtol=1e-5)


def test_a_table_becomes_a_projection_that_saves_and_extends():
    base, embeddings = model(n_speakers=12), unit(12, 32)
    rows = base.spk_emb.weight.detach().clone()
    condition_on_embeddings(base, embeddings)
    assert (base.config.speaker_conditioning, base.config.embedding_dim) == ("embedding", 32)
    assert (base.spk_emb.weight - rows).norm() < 0.1 * rows.norm(), "12 rows on 32 axes are nearly met"
    again = GradTTS(base.config)
    again.load_state_dict(base.state_dict(), strict=True)
    assert torch.equal(again.spk_emb.weight, base.spk_emb.weight)
    row = new_row(base.spk_emb, embeddings, unit(1, 32, seed=3)[0], k=5)
    grown = add_speaker(base, row)
    assert isinstance(grown.spk_emb, SpeakerTable) and grown.config.speaker_conditioning == "table" and not row.requires_grad
    assert torch.equal(grown.spk_emb.weight[12], row) and torch.equal(grown.spk_emb.weight[:12], base.spk_emb.weight)


def test_the_loss_moves_the_projection_and_not_the_embeddings():
    base = model(speaker_conditioning="embedding", embedding_dim=32)
    base.spk_emb.embeddings.copy_(unit(3, 32))
    base.encode(torch.randint(0, 149, (3, 6)), torch.tensor([6, 4, 5]), torch.arange(3)).mu.square().mean().backward()
    assert base.spk_emb.projection.weight.grad.abs().sum() > 0 and not base.spk_emb.embeddings.requires_grad


def test_an_unknown_conditioning_is_named():
    with pytest.raises(ValueError, match="speaker_conditioning is 'hash'; choose table or embedding"):
        model(speaker_conditioning="hash")
