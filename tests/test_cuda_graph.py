"""The score network as CUDA graphs: what is recorded when, and on a GPU that nothing is computed otherwise."""
import pytest
import torch
from training_data import tiny_model

from gradtts_robust.training.cuda_graph import GraphedNetwork, training_network
from gradtts_robust.training.setup import torch_state

DECODERS = [{}, {"decoder": "grad-tts", "decoder_dim": 16}]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def lively(device="cpu", **settings):
    """A score network none of whose parameters is zero, so that all have gradients."""
    estimator = tiny_model(**settings).decoder.estimator
    with torch.no_grad():
        for value in estimator.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    return estimator.to(device)


def inputs(seed, *, batch=3, frames=16, device="cpu", learns=True):
    """noisy, mask, mu, t and speakers' rows of `tiny_model`; the score reaches the encoder through noisy and mu."""
    generator = torch.Generator().manual_seed(seed)
    noisy, mu = (torch.randn(batch, 80, frames, generator=generator).to(device) for _ in range(2))
    mask = (torch.arange(frames, device=device) < frames - 3).to(noisy).expand(batch, 1, frames)
    t = torch.rand(batch, generator=generator).to(device)
    rows = torch.randn(batch, tiny_model().config.speaker_dim, generator=generator).to(device)
    return [value.requires_grad_(learns) if value is not mask and value is not t else value for value in (noisy, mask, mu, t, rows)]


def recorder():
    """Records nothing and keeps what it was told."""
    told = []
    return told, lambda module, sample: told.append(sample) or module


def test_each_kind_of_inputs_is_recorded_once():
    told, record = recorder()
    estimator = lively()
    network = GraphedNetwork(estimator, record=record)
    for seed in (1, 2, 3):
        given = inputs(seed)
        torch.testing.assert_close(network(*given), estimator(*given), rtol=0, atol=0)
    assert len(told) == 1
    first = inputs(1)
    for value, sample in zip(first, told[0], strict=True):
        assert torch.equal(value, sample) and value.requires_grad == sample.requires_grad and sample.is_leaf
    network(*inputs(1, batch=2))
    network(*inputs(1, learns=False))
    network(*inputs(1))
    assert len(told) == 3


def test_what_nobody_learns_from_is_not_recorded():
    told, record = recorder()
    estimator = lively()
    network = GraphedNetwork(estimator, record=record)
    with torch.no_grad():
        network(*inputs(1))
    estimator.requires_grad_(False)
    network(*inputs(1, learns=False))
    assert not told
    network(*inputs(1))
    assert len(told) == 1


def test_a_network_without_speakers_and_its_stand_in():
    told, record = recorder()
    estimator = lively(n_speakers=1)
    given = inputs(1)[:4]
    network = GraphedNetwork(estimator, lambda *values: 2 * estimator(*values), record=record)
    torch.testing.assert_close(network(*given, None), 2 * estimator(*given))
    assert len(told[0]) == 4


def test_recording_leaves_the_network_as_it_is():
    estimator = lively()
    before = dict(vars(estimator))

    def record(module, sample):
        module.forward = None
        return estimator

    GraphedNetwork(estimator, record=record)(*inputs(1))
    assert vars(estimator) == before


def test_training_runs_the_network_as_it_is_unless_told():
    estimator = lively()
    assert training_network(estimator, compiled=False, graphed=False) is None
    assert isinstance(training_network(estimator, compiled=False, graphed=True), GraphedNetwork)
    assert training_network(estimator, compiled=True, graphed=True).forward is not estimator.forward


@GPU
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("learns", [True, False])
def test_a_replay_computes_what_the_network_does(decoder, precision, learns):
    """Output and all gradients, after the weights moved too; the backward pass adds in no fixed order, so nearly the same."""
    rtol, atol = {"float32": (1e-4, 1e-4), "bf16": (2e-2, 2e-3)}[precision]
    estimator = lively("cuda", **decoder)
    network = GraphedNetwork(estimator)
    for seed in range(3):
        with torch_state(0, torch.device("cuda")):
            found = [gradients(run, seed, precision, learns, estimator) for run in (network, estimator)]
        for value, expected in zip(*found, strict=True):
            torch.testing.assert_close(value, expected, rtol=rtol, atol=atol * float(expected.abs().max()))
        with torch.no_grad():
            for value in estimator.parameters():
                value.mul_(0.9)
    assert len(network.recorded) == 1


def gradients(run, seed, precision, learns, estimator):
    """The score, then the gradients of its mean square by the inputs that learn and by the parameters."""
    given = inputs(seed, device="cuda", learns=learns)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
        score = run(*given)
        loss = score.float().square().mean()
    wanted = [value for value in given if value.requires_grad] + list(estimator.parameters())
    return [score.detach().clone(), *(value.clone() for value in torch.autograd.grad(loss, wanted))]
