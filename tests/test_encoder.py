"""The text encoder: the original's numbers, padding, conditioning, its relative attention written out."""
import math

import pytest
import torch
from safetensors.torch import load_file

from gradtts_robust.config import PRESETS, ModelConfig
from gradtts_robust.model.encoder import Dropout, RelativeAttention, TextEncoder

SMALL = {"encoder_channels": 16, "encoder_filter": 24, "duration_filter": 16, "encoder_layers": 2, "speaker_dim": 8}


def encoder(**settings) -> TextEncoder:
    torch.manual_seed(0)
    built = TextEncoder(ModelConfig(**{**SMALL, **settings}))
    with torch.no_grad():  # zero-initialised layers would hide what the others do
        built.prenet.proj.weight.normal_(std=0.2)
    return built.eval()


@pytest.mark.parametrize("name", ["multi", "single"])
def test_gives_the_originals_numbers(golden, name):
    weights = torch.load(golden / f"gradtts_{name}.pt", weights_only=True)
    io = load_file(golden / f"gradtts_{name}_io.safetensors")
    built = TextEncoder(ModelConfig(encoder_channels=32, encoder_filter=64, duration_filter=32, encoder_layers=2)).eval()
    built.load_state_dict({key.removeprefix("encoder."): value for key, value in weights.items() if key.startswith("encoder.")})
    with torch.no_grad():
        encoded = built(io["x"], io["x_lengths"])
    torch.testing.assert_close(encoded.mu, io["mu_x"], atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.log_durations, io["logw"], atol=1e-4, rtol=0)
    assert torch.equal(encoded.mask, io["x_mask"])


def test_relative_attention_is_what_the_paper_says():
    """arXiv 1803.02155, equations 3 and 4, one pair of places at a time."""
    torch.manual_seed(0)
    heads, window, length, width = 2, 2, 7, 5
    layer = RelativeAttention(heads * width, heads=heads, window=window, dropout=0.0).double()
    hidden = torch.randn(1, heads * width, length, dtype=torch.float64)
    query, key, value = (conv(hidden)[0].view(heads, width, length) for conv in (layer.conv_q, layer.conv_k, layer.conv_v))
    zero = torch.zeros(width, dtype=torch.float64)

    def relative(table, i, j):
        return table[0, j - i + window] if abs(j - i) <= window else zero

    mixed = torch.zeros(heads, width, length, dtype=torch.float64)
    for h in range(heads):
        for i in range(length):
            scores = [query[h, :, i] @ (key[h, :, j] + relative(layer.emb_rel_k, i, j)) / math.sqrt(width) for j in range(length)]
            weights = torch.stack(scores).softmax(0)
            mixed[h, :, i] = sum(w * (value[h, :, j] + relative(layer.emb_rel_v, i, j)) for j, w in enumerate(weights))
    wanted = layer.conv_o(mixed.view(1, -1, length))
    torch.testing.assert_close(layer(hidden, torch.ones(1, 1, length)), wanted)


@pytest.mark.parametrize("length", [1, 3, 5, 12])
def test_padding_and_neighbours_in_the_batch_change_nothing(length):
    built = encoder(n_speakers=3, condition_encoder=True)
    ids, speaker = torch.randint(0, 149, (2, 12)), torch.randn(2, 8)
    lengths = torch.tensor([12, length])
    together = built(ids, lengths, speaker)
    alone = built(ids[1:, :length], lengths[1:], speaker[1:])
    torch.testing.assert_close(together.mu[1:, :, :length], alone.mu, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.log_durations[1:, :, :length], alone.log_durations, atol=1e-5, rtol=1e-5)
    for value in (together.mu, together.log_durations, together.mask):
        assert (value[1, :, length:] == 0).all()


def test_an_empty_row_is_finite():
    encoded = encoder()(torch.zeros(2, 4, dtype=torch.long), torch.tensor([4, 0]))
    assert encoded.mu.isfinite().all() and encoded.log_durations.isfinite().all()
    assert (encoded.mu[1] == 0).all()


def test_speaker_reaches_the_encoder_only_where_asked():
    ids, lengths = torch.arange(6).unsqueeze(0), torch.tensor([6])
    for asked in (True, False):
        built = encoder(n_speakers=3, condition_encoder=asked)
        one, other = (built(ids, lengths, row) for row in (torch.zeros(1, 8), torch.ones(1, 8)))
        assert torch.equal(one.mu, other.mu) != asked
        assert torch.equal(one.log_durations, other.log_durations) != asked
        assert built.proj_m.in_channels == (24 if asked else 16)
    assert encoder(n_speakers=1, condition_encoder=True).proj_m.in_channels == 16


def test_durations_send_no_gradient_into_the_encoder():
    built = encoder()
    built(torch.arange(6).unsqueeze(0), torch.tensor([6])).log_durations.sum().backward()
    assert built.proj_w.conv_1.weight.grad.abs().sum() > 0
    assert built.emb.weight.grad is None and built.encoder.attn_layers[0].conv_q.weight.grad is None


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_and_train_under_autocast(preset):
    built = TextEncoder(ModelConfig(n_speakers=2, **PRESETS[preset])).train()
    ids, lengths, speaker = torch.randint(0, 149, (2, 9)), torch.tensor([9, 5]), torch.randn(2, 64)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = built(ids, lengths, speaker)
    assert encoded.mu.dtype == encoded.log_durations.dtype == torch.float32
    (encoded.mu.square().mean() + encoded.log_durations.square().mean()).backward()
    missing = [name for name, p in built.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_bfloat16_stays_near_float32():
    built = encoder()
    ids, lengths = torch.randint(0, 149, (2, 20)), torch.tensor([20, 13])
    exact = built(ids, lengths).mu
    with torch.autocast("cpu", torch.bfloat16):
        rough = built(ids, lengths).mu
    assert 0 < (rough - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(("settings", "message"), [
    ({"encoder_heads": 3}, "width 16 .* encoder_heads 3"),
    ({"encoder_heads": 16, "n_speakers": 2, "condition_encoder": True}, "width 24 .* encoder_heads 16"),
    ({"encoder_kernel": 4}, "encoder_kernel 4 is even"),
])
def test_impossible_shapes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(ModelConfig(**{**SMALL, **settings}))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    layer, ones = Dropout(rate), torch.ones(7, 11, 1301, requires_grad=True)
    out = layer(ones)
    assert abs((out == 0).float().mean().item() - rate) < 0.01
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)), atol=1e-4, rtol=0)
    out.sum().backward()
    assert torch.equal(ones.grad, out.detach())
    assert torch.equal(layer.eval()(ones), ones)
    neighbours = torch.corrcoef(torch.stack([out.flatten()[:-1], out.flatten()[1:]]).detach())[0, 1] if rate else torch.zeros(())
    assert neighbours.abs() < 0.01


def test_rows_of_unlike_length_come_back_in_their_places():
    built, lengths = encoder(), torch.tensor([3, 40, 0, 38, 12, 9])
    ids = torch.randint(1, 20, (6, 41), generator=torch.Generator().manual_seed(1))
    together = built._encode(ids, lengths, None)
    apart = built(ids, lengths)
    for name in ("mu", "log_durations", "mask"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), atol=1e-5, rtol=0)
