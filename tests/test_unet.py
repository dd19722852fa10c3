"""The original's score network: its numbers, what its mask hides, what speaker and time change, reduced precision."""
import pytest
import torch
from safetensors.torch import load_file

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.samplers import SAMPLERS
from gradtts_robust.model.unet import GradTTSUNet

PREFIX = "decoder.estimator."


def network(n_speakers=1, **changes) -> GradTTSUNet:
    torch.manual_seed(0)
    net = GradTTSUNet(ModelConfig(n_speakers=n_speakers, speaker_dim=8, decoder_dim=16, **changes)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(".g"):
                parameter += 0.5
    return net


def inputs(batch=2, frames=24, n_speakers=1):
    generator = torch.Generator().manual_seed(1)
    noisy, mu = torch.randn(2, batch, 80, frames, generator=generator)
    rows = torch.randn(batch, 8, generator=generator) if n_speakers > 1 else None
    return noisy, torch.ones(batch, 1, frames), mu, torch.linspace(0.2, 0.9, batch), rows


@pytest.fixture(params=["multi", "single"])
def original(request, golden):
    weights = torch.load(golden / f"gradtts_{request.param}.pt", weights_only=True)
    net = GradTTSUNet(ModelConfig(n_speakers=5 if request.param == "multi" else 1, speaker_dim=16, decoder_dim=16)).eval()
    net.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}, strict=True)
    io = load_file(golden / f"gradtts_{request.param}_io.safetensors")
    rows = weights["spk_emb.weight"][io["spk"]] if request.param == "multi" else None
    return net, io, rows


@torch.no_grad()
def test_the_originals_score(original):
    net, io, rows = original
    torch.testing.assert_close(net(io["xt"], io["y_mask"], io["mu_y"], io["t"], rows), io["score"], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("steps", [4, 10])
def test_the_originals_samples(original, steps, one_thread):
    net, io, rows = original
    wanted = io[f"ode_{steps}"]
    mel = SAMPLERS["ode"](lambda noisy, mask, mu, t: net(noisy, mask, mu, t, rows), io["z_start"], io["y_mask"], io["mu_y"],
                          schedule=NoiseSchedule(), steps=steps)
    # Values reach 70 on these random weights, and the original itself moves by 2e-4 with its number of threads; ten steps of it overflow.
    torch.testing.assert_close(mel, wanted, atol=1e-4, rtol=1e-5, equal_nan=True)


@torch.no_grad()
def test_the_originals_score_in_bfloat16_and_channels_last(original):
    net, io, rows = original
    given = io["xt"], io["y_mask"], io["mu_y"], io["t"], rows
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(*given)
    assert narrow.dtype == torch.float32
    assert float((narrow - io["score"]).square().mean().sqrt() / io["score"].std()) < 0.05  # 30 layers of 8-bit mantissas
    last = net.to(memory_format=torch.channels_last)(*given)
    torch.testing.assert_close(last, io["score"], atol=1e-4, rtol=0)


def test_autocast_trains_every_parameter():
    net = network(n_speakers=3).train()
    with torch.autocast("cpu", torch.bfloat16):
        score = net(*inputs(n_speakers=3))
    score.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_masked_frames_are_neither_seen_nor_scored():
    net = network()
    noisy, mask, mu, t, _ = inputs()
    mask[1, :, 17:] = 0
    score = net(noisy, mask, mu, t)
    assert not score[1, :, 17:].any() and score[1, :, :17].all()
    other = noisy.clone(), mu.clone()
    for plane in other:
        plane[1, :, 17:] = 50.0
    torch.testing.assert_close(net(other[0], mask, other[1], t), score)


@torch.no_grad()
def test_examples_do_not_mix():
    net = network(n_speakers=2)
    noisy, mask, mu, t, rows = inputs(n_speakers=2)
    together = net(noisy, mask, mu, t, rows)
    for row in range(2):
        one = slice(row, row + 1)
        torch.testing.assert_close(net(noisy[one], mask[one], mu[one], t[one], rows[one]), together[one], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_time_and_speaker_matter():
    net = network(n_speakers=2)
    noisy, mask, mu, t, rows = inputs(n_speakers=2)
    score = net(noisy, mask, mu, t, rows)
    assert (net(noisy, mask, mu, t + 0.05, rows) - score).abs().max() > 1e-3
    assert (net(noisy, mask, mu, t, rows.flip(0)) - score).abs().max() > 1e-3
    slow = network(n_speakers=2, pe_scale=1.0)
    slow.load_state_dict(net.state_dict())
    torch.testing.assert_close(slow(noisy, mask, mu, 0.5 * torch.ones(2), rows), net(noisy, mask, mu, 0.0005 * torch.ones(2), rows))


def test_attention_starts_switched_off():
    net = GradTTSUNet(ModelConfig(decoder_dim=16))
    gates = [parameter for name, parameter in net.named_parameters() if name.endswith(".fn.g")]
    assert len(gates) == 6 and not any(gate.any() for gate in gates)
    features = torch.randn(1, 16, 4, 4)
    assert torch.equal(net.ups[1][2](features), features)


def test_linear_attention_is_attention_with_both_orders_of_products():
    layer = network().downs[0][2].fn.fn
    features = torch.randn(2, 16, 6, 8, generator=torch.Generator().manual_seed(2))
    projected = torch.einsum("oc,bcn->bon", layer.to_qkv.weight[:, :, 0, 0], features.flatten(2))
    query, key, value = (part.reshape(2, 4, 32, 48) for part in projected.chunk(3, dim=1))
    weights = torch.einsum("bhdn,bhdm->bhnm", query, key.softmax(dim=-1))
    mixed = torch.einsum("bhnm,bhem->bhen", weights, value).reshape(2, 128, 48)
    wanted = torch.einsum("oc,bcn->bon", layer.to_out.weight[:, :, 0, 0], mixed) + layer.to_out.bias[:, None]
    torch.testing.assert_close(layer(features).flatten(2), wanted, atol=1e-5, rtol=1e-5)


def reordered(net):
    """The same weights, in the order of operations and memory that networks of the original's width get."""
    for module in net.modules():
        if hasattr(module, "reordered"):
            module.reordered = True
    return net


@pytest.mark.parametrize("frames", [24, 44])
def test_the_quicker_order_gives_the_same_score_and_gradients(frames):
    noisy, mask, mu, t, rows = inputs(frames=frames, n_speakers=2)
    mask[1, :, 17:] = 0
    found = []
    for net in (network(n_speakers=2), reordered(network(n_speakers=2))):
        leaves = [value.clone().requires_grad_() for value in (noisy, mu, rows)]
        score = net(leaves[0], mask, leaves[1], t, leaves[2])
        found.append([score.detach(), *torch.autograd.grad((score - 1).square().mean(), [*leaves, *net.parameters()])])
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    wanted = torch.cat([grad.flatten() for grad in found[0][1:]])
    assert float((torch.cat([grad.flatten() for grad in found[1][1:]]) - wanted).norm() / wanted.norm()) < 1e-5


@torch.no_grad()
def test_the_originals_score_in_the_quicker_order(original):
    net, io, rows = original
    torch.testing.assert_close(reordered(net)(io["xt"], io["y_mask"], io["mu_y"], io["t"], rows), io["score"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_originals_samples_in_the_quicker_order(original):
    """Four steps: the reference is itself 2e-4 from an evaluation in float64, whatever the order."""
    net, io, rows = original
    reordered(net)
    mel = SAMPLERS["ode"](lambda noisy, mask, mu, t: net(noisy, mask, mu, t, rows), io["z_start"], io["y_mask"], io["mu_y"],
                          schedule=NoiseSchedule(), steps=4)
    torch.testing.assert_close(mel, io["ode_4"], atol=5e-4, rtol=1e-5)


def test_networks_of_the_originals_width_take_the_quicker_order():
    assert GradTTSUNet(ModelConfig()).reordered and not GradTTSUNet(ModelConfig(decoder_dim=16)).reordered


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="22 frames"):
        network()(*inputs(frames=22))
    with pytest.raises(ValueError, match="give their rows"):
        network(n_speakers=2)(*inputs())
    with pytest.raises(ValueError, match="give no speaker row"):
        network()(*inputs(n_speakers=2))
    with pytest.raises(ValueError, match="decoder_dim 20"):
        GradTTSUNet(ModelConfig(decoder_dim=20))
