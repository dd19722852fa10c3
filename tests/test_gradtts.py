"""The whole model: the original's numbers, what each loss sees and trains, segments, synthesis, bad input."""
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gradtts_robust.config import ModelConfig
from gradtts_robust.data.dataset import Batch
from gradtts_robust.losses import Objective
from gradtts_robust.model import gradtts
from gradtts_robust.model.alignment import durations_to_path
from gradtts_robust.model.frames import segment_indices
from gradtts_robust.model.gradtts import GradTTS

SQUARES = Objective(penalty="l2")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(decoder="lean", n_speakers=2, **changes) -> GradTTS:
    torch.manual_seed(0)
    built = GradTTS(ModelConfig(**{
        "n_speakers": n_speakers, "speaker_dim": 8, "encoder_channels": 16, "encoder_filter": 16, "duration_filter": 16,
        "encoder_layers": 1, "condition_encoder": True, "decoder": decoder, "decoder_dim": 16, "decoder_dims": (16, 16, 16), **changes}))
    with torch.no_grad():  # zero-initialised layers would hide what the others do
        for parameter in built.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    return built.eval()


def batch(lengths=((6, 40), (4, 21)), durations=None) -> Batch:
    generator = seeded(3)
    symbols, frames = (torch.tensor(column) for column in zip(*lengths))
    padded = -(-int(frames.max()) // 8) * 8
    mel = torch.randn(len(lengths), 80, padded, generator=generator) - 5
    mel = mel * (torch.arange(padded) < frames[:, None])[:, None]
    ids = torch.randint(0, 148, (len(lengths), int(symbols.max())), generator=generator)
    durations = torch.zeros_like(ids) if durations is None else torch.tensor(durations)
    return Batch(ids, symbols, mel, frames, torch.arange(len(lengths)) % 2, durations, [f"utterance-{i}" for i in range(len(lengths))])


def terms(net, given_batch, *, segment=16, seed=0, objective=SQUARES, **options):
    return net.training_terms(given_batch, objective=objective, segment_frames=segment, generator=seeded(seed), **options)


def original(golden, name):
    weights = torch.load(golden / f"gradtts_{name}.pt", weights_only=True)
    net = GradTTS(ModelConfig(n_speakers=5 if name == "multi" else 1, speaker_dim=16, encoder_channels=32, encoder_filter=64,
                              duration_filter=32, encoder_layers=2, decoder_dim=16)).eval()
    assert list(net.state_dict()) and set(net.state_dict()) == set(weights)
    net.load_state_dict(weights, strict=True)
    return net, load_file(golden / f"gradtts_{name}_io.safetensors")


@pytest.mark.parametrize("name", ["multi", "single"])
def test_losses_are_the_originals(golden, name):
    net, io = original(golden, name)
    speakers, frames, symbols = io.get("spk"), io["y_lengths"], io["x_lengths"]

    def pooled(values, lengths):
        return (values * lengths).sum() / lengths.sum()

    whole = Batch(io["x"], symbols, io["y"], frames, speakers, torch.zeros_like(io["x"]), ["a", "b", "c"])
    with torch.no_grad():
        found = terms(net, whole, segment=None)
        diffusion = net.diffusion_terms(io["y"], io["y_mask"], io["mu_y"], io["t"], speakers, noise=io["z"], objective=SQUARES)
        aligned = io["mu_x"] @ durations_to_path(io["attn"].sum(2), io["y"].shape[2])
    torch.testing.assert_close(pooled(found["duration"], symbols), io["dur_loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled(found["prior"], frames), io["prior_loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled(diffusion, frames), io["diff_loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(aligned, io["mu_y"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["multi", "single"])
def test_score_and_samples_are_the_originals(golden, name, one_thread):
    net, io = original(golden, name)
    with torch.no_grad():
        score = net.score(io["xt"], io["y_mask"], io["mu_y"], io["t"], io.get("spk"))
    torch.testing.assert_close(score, io["score"], atol=1e-4, rtol=0)
    for steps in (4, 10):
        mel = net.sample(io["z_start"], io["y_mask"], io["mu_y"], io.get("spk"), steps)
        # ten steps overflow float32 with these random weights, in the original too;
        # four reach 70, where 1e-5 is the original's own rounding
        torch.testing.assert_close(mel, io[f"ode_{steps}"], atol=1e-4, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("decoder", ["grad-tts", "lean"])
def test_each_loss_trains_its_parts(decoder):
    reached = {}
    for name in ("duration", "prior", "diffusion"):
        net = model(decoder)
        terms(net, batch())[name].sum().backward()
        reached[name] = {part for part in ("encoder.emb", "encoder.proj_m", "encoder.proj_w", "decoder", "spk_emb")
                         if any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n.startswith(part))}
    assert reached == {
        "duration": {"encoder.proj_w"},
        "prior": {"encoder.emb", "encoder.proj_m", "spk_emb"},
        "diffusion": {"encoder.emb", "encoder.proj_m", "decoder", "spk_emb"},
    }


def test_terms_are_per_example_and_blind_to_padding():
    net, both = model(), batch()
    together = terms(net, both)
    for row in range(2):
        symbols, frames = int(both.ids_lengths[row]), -(-int(both.mel_lengths[row]) // 8) * 8
        one = slice(row, row + 1)
        alone = terms(net, Batch(both.ids[one, :symbols], both.ids_lengths[one], both.mel[one, :, :frames], both.mel_lengths[one],
                                 both.speakers[one], both.durations[one, :symbols], both.keys[one]))
        for name in ("duration", "prior"):
            torch.testing.assert_close(alone[name], together[name][one])
    assert all(value.shape == (2,) for value in together.values())


def test_known_durations_are_the_alignment():
    net = model()
    searched = batch()
    mu = net.encode(searched.ids, searched.ids_lengths, searched.speakers).mu
    found = net._durations(searched, mu)
    for rows in ([0], [1], [0, 1]):
        known = batch()
        known.durations[rows] = found[rows]
        for name, value in terms(net, known).items():
            torch.testing.assert_close(value, terms(net, searched)[name])
    other = batch(durations=[[30, 2, 2, 2, 2, 2], [1, 1, 1, 18, 0, 0]])
    changed = terms(net, other)
    wanted = (net.encode(other.ids, other.ids_lengths, other.speakers).log_durations[1, 0, :4] - torch.tensor([1.0, 1, 1, 18]).log())
    torch.testing.assert_close(changed["duration"][1], wanted.square().mean())
    assert (changed["prior"] > terms(net, searched)["prior"]).all()


def test_only_unknown_rows_are_searched(monkeypatch):
    seen, search = [], gradtts.search_durations
    monkeypatch.setattr(gradtts, "search_durations", lambda values, *lengths: seen.append(len(values)) or search(values, *lengths))
    terms(model(), batch(durations=[[0] * 6, [1, 1, 1, 18, 0, 0]]))
    terms(model(), batch(durations=[[30, 2, 2, 2, 2, 2], [1, 1, 1, 18, 0, 0]]))
    assert seen == [1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 1000))
def test_segments_lie_inside_their_utterance(lengths, size, seed):
    frames = segment_indices(torch.tensor(lengths), max(lengths), 8 * size, generator=seeded(seed))
    assert frames.shape == (len(lengths), 8 * size) and (frames.diff(dim=1) == 1).all()
    for row, length in zip(frames, lengths):
        assert row[0] >= 0 and (row[-1] < length or row[0] == 0)


def test_every_start_of_a_segment_is_drawn():
    frames = segment_indices(torch.full((2000,), 11), 16, 8, generator=seeded())
    counts = torch.bincount(frames[:, 0], minlength=4)
    assert len(counts) == 4 and counts.min() > 400


def test_the_original_s_segments_may_be_any_multiple_of_4():
    assert terms(model("grad-tts"), batch(), segment=12)["diffusion"].isfinite().all()


def test_score_network_sees_the_aligned_segment():
    net, seen = model(), []
    net.decoder.estimator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    given_batch = batch(durations=[[30, 2, 2, 2, 2, 2], [1, 1, 1, 18, 0, 0]])
    terms(net, given_batch, segment=32)
    (noisy, mask, mu, t, speaker), = seen
    assert noisy.shape == mu.shape == (2, 80, 32) and mask.sum(2).flatten().tolist() == [32, 21]
    whole = net.encode(given_batch.ids, given_batch.ids_lengths, given_batch.speakers).mu @ durations_to_path(given_batch.durations, 40)
    starts = [s for s in range(9) if torch.allclose(whole[0, :, s:s + 32], mu[0], atol=1e-6)]
    assert len(starts) == 1
    torch.testing.assert_close(mu[1, :, :21], whole[1, :, :21])
    assert mu[1, :, 21:].abs().max() == noisy[1, :, 21:].abs().max() == 0
    assert ((t > 0) & (t < 1)).all() and torch.equal(speaker, net.spk_emb.weight[:2])


def test_the_generator_alone_decides():
    net = model()
    first, again, other = terms(net, batch()), terms(net, batch()), terms(net, batch(), seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["diffusion"], other["diffusion"]) and torch.equal(first["prior"], other["prior"])
    called = net(batch(), objective=SQUARES, segment_frames=16, generator=seeded())
    assert all(torch.equal(first[name], called[name]) for name in first)


def test_weights_and_objective_reach_the_diffusion_term():
    net = model()
    plain, weighted = terms(net, batch()), terms(net, batch(), weights=torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(weighted["diffusion"], plain["diffusion"] * torch.tensor([0.0, 3.0]))
    robust = terms(net, batch(), objective=Objective(penalty="pseudo_huber", delta_0=0.1))
    assert (robust["diffusion"] < plain["diffusion"]).all() and torch.equal(robust["prior"], plain["prior"])


def test_terms_under_bfloat16_are_near_and_wide():
    net = model()
    exact = terms(net, batch(durations=[[30, 2, 2, 2, 2, 2], [1, 1, 1, 18, 0, 0]]))
    with torch.autocast("cpu", torch.bfloat16):
        rough = terms(net, batch(durations=[[30, 2, 2, 2, 2, 2], [1, 1, 1, 18, 0, 0]]))
    for name, value in rough.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.02)


def test_learns_spectra_and_alignment_from_nothing():
    """Symbols with a spectrum each and lengths of their own: the search must find the lengths while the encoder learns the spectra."""
    generator = seeded(5)
    spectra, lengths = 2 * torch.randn(8, 80, generator=generator), torch.arange(1, 9)
    ids = torch.stack([torch.randperm(8, generator=generator)[:5] for _ in range(8)])
    wanted = lengths[ids]
    frames = wanted.sum(1)
    mel = torch.zeros(8, 80, 40)
    for row in range(8):
        mel[row, :, :frames[row]] = spectra[ids[row].repeat_interleave(wanted[row])].T
    mel += 0.1 * torch.randn(mel.shape, generator=generator)
    given_batch = Batch(ids, torch.full((8,), 5), mel, frames, torch.zeros(8).long(), torch.zeros_like(ids), [""] * 8)
    net = model(n_speakers=1, encoder_channels=32).train()
    optimizer, history = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for _ in range(60):
        losses = terms(net, given_batch, objective=None)
        optimizer.zero_grad()
        sum(value.mean() for value in losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        history.append({name: value.mean().item() for name, value in losses.items()})
    assert history[-1]["prior"] < 0.5 * history[0]["prior"] and history[-1]["duration"] < 0.3 * history[0]["duration"]
    found = net.eval()._durations(given_batch, net.encode(ids, given_batch.ids_lengths).mu)
    assert torch.equal(found, wanted)
    spoken = net.synthesize(ids, given_batch.ids_lengths, generator=seeded())
    assert (spoken.durations - wanted).abs().float().mean() < 1.5


@pytest.mark.parametrize("decoder", ["grad-tts", "lean"])
def test_synthesis_is_made_of_its_parts(decoder):
    net = model(decoder)
    ids, lengths, speakers = batch().ids, torch.tensor([6, 4]), torch.tensor([1, 0])
    spoken = net.synthesize(ids, lengths, speakers, steps=3, temperature=2.0, length_scale=1.7, generator=seeded())
    encoded = net.encode(ids, lengths, speakers)
    fractional = torch.ceil(encoded.log_durations.exp() * encoded.mask)[:, 0] * 1.7
    assert spoken.mel_lengths.tolist() == [int(row.sum()) for row in fractional]
    assert torch.equal(spoken.durations.sum(1), spoken.mel_lengths) and (spoken.durations[1, 4:] == 0).all()

    longest, multiple = int(spoken.mel_lengths.max()), 4 if decoder == "grad-tts" else 8
    padded = -(-longest // multiple) * multiple
    mask = (torch.arange(padded) < spoken.mel_lengths[:, None]).float().unsqueeze(1)
    mu = encoded.mu @ durations_to_path(fractional, padded) * mask
    torch.testing.assert_close(spoken.mu, mu[:, :, :longest])
    start = mu + torch.randn(mu.shape, generator=seeded()) / 2.0
    for row, frames in enumerate(spoken.mel_lengths.tolist()):
        cut = (slice(row, row + 1), slice(None), slice(-(-frames // multiple) * multiple))
        alone = net.sample(start[cut], mask[cut], mu[cut], speakers[cut[0]], 3)[0, :, :frames]
        torch.testing.assert_close(spoken.mel[row, :, :frames], alone)
    assert (spoken.mel[:, 0] != 0).sum(1).tolist() == spoken.mel_lengths.tolist()


def test_settings_of_synthesis_do_what_they_say():
    net = model()

    def speak(seed=0, **options):
        return net.synthesize(batch().ids, torch.tensor([6, 4]), torch.tensor([1, 0]), steps=2, generator=seeded(seed), **options)

    base = speak()
    assert torch.equal(base.mel, speak().mel) and not torch.equal(base.mel, speak(1).mel)
    assert torch.equal(speak(length_scale=3.0).durations, 3 * base.durations)
    assert (speak(temperature=1e9).mel - speak(1, temperature=1e9).mel).abs().max() < 1e-4
    noisy = speak(solver="sde", temperature=1e9).mel
    assert torch.equal(noisy, speak(solver="sde", temperature=1e9).mel) and (noisy - speak(temperature=1e9).mel).abs().max() > 0.1
    assert speak(length_scale=1e-3).mel_lengths.tolist() == [1, 1]


@pytest.mark.parametrize(("options", "message"), [
    ({"temperature": 0.0}, "temperature is 0"), ({"length_scale": -1.0}, "length_scale is -1"), ({"solver": "rk"}, "'rk'.*ode, sde"),
    ({"steps": 0}, "steps .*0"), ({"length_scale": 1e6}, "asks for .* frames"), ({"length_scale": float("nan")}, "length_scale is nan"),
])
def test_bad_settings_of_synthesis_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        model().synthesize(batch().ids, torch.tensor([6, 4]), torch.tensor([1, 0]), **options)


def test_a_diverged_duration_predictor_is_named():
    net = model()
    net.encoder.proj_w.proj.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="asks for nan frames"):
        net.synthesize(batch().ids, torch.tensor([6, 4]), torch.tensor([1, 0]))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"unknown decoder 'huge'.*grad-tts, lean"):
        GradTTS(ModelConfig(decoder="huge"))
    with pytest.raises(ValueError, match="n_speakers is 0"):
        GradTTS(ModelConfig(n_speakers=0))
    with pytest.raises(ValueError, match="2 speakers; say which"):
        model().encode(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]))
    for decoder, frames in (("lean", 12), ("grad-tts", 14), ("grad-tts", 4)):
        with pytest.raises(ValueError, match=f"segment_frames is {frames}"):
            terms(model(decoder), batch(), segment=frames)
    with pytest.raises(ValueError, match=r"utterance-1: 6 symbols .* 4 frames"):
        batch(lengths=((6, 40), (6, 4)))


def test_an_utterance_that_a_batch_has_twice_is_encoded_once(monkeypatch):
    net, whole = model().eval(), batch()
    rows = [1, 0, 1]
    twice = whole.rows(rows)
    assert twice.keys == [whole.keys[row] for row in rows]
    sizes, encode = [], net.encode
    monkeypatch.setattr(net, "encode", lambda ids, *rest: sizes.append(len(ids)) or encode(ids, *rest))
    found = terms(net, twice)
    named = dataclasses.replace(twice, keys=["", "", ""])
    expected = terms(net, named)
    assert sizes == [2, 3]
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
