"""Checkpoints: the original's numbers through the loader, our files there and back, and one clear line for whatever is none."""
import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gradtts_robust.config import ModelConfig, TextConfig
from gradtts_robust.files import verify_hash
from gradtts_robust.model.gradtts import GradTTS
from gradtts_robust.training.checkpoint import Checkpoint, load_checkpoint, resolve, save_checkpoint

SMALL = {"speaker_dim": 8, "encoder_channels": 16, "encoder_filter": 16, "duration_filter": 16, "encoder_layers": 1, "decoder_dim": 8,
         "decoder_dims": (8, 8, 8)}


def checkpoint(decoder="lean", n_speakers=3, seed=0, **changes) -> Checkpoint:
    torch.manual_seed(seed)
    model = GradTTS(ModelConfig(n_speakers=n_speakers, decoder=decoder, **{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return Checkpoint(
        model, TextConfig(blanks=True, edges=False), [f"voice {i}" for i in range(n_speakers)], step=350,
        embeddings=torch.nn.functional.normalize(torch.randn(n_speakers, 256), dim=1), default_speaker="voice 1",
        extra={"base": "sha", "corpora": ["one", "two"]})


def original_file(folder: Path, decoder="grad-tts", name="original.pt", drop=(), **changes) -> Path:
    state = checkpoint(decoder, **changes).model.state_dict()
    torch.save({key: value for key, value in state.items() if key not in drop}, folder / name)
    return folder / name


@pytest.fixture(params=["multi", "single"])
def loaded(request, golden):
    found = load_checkpoint(golden / f"gradtts_{request.param}.pt")
    return found, load_file(golden / f"gradtts_{request.param}_io.safetensors"), request.param


@torch.no_grad()
def test_the_originals_numbers(loaded, one_thread):
    found, io, _ = loaded
    speakers = io.get("spk")
    encoded = found.model.encode(io["x"], io["x_lengths"], speakers)
    score = found.model.score(io["xt"], io["y_mask"], io["mu_y"], io["t"], speakers)
    for got, wanted in ((encoded.mu, io["mu_x"]), (encoded.log_durations, io["logw"]), (encoded.mask, io["x_mask"]), (score, io["score"])):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    sampled = found.model.sample(io["z_start"], io["y_mask"], io["mu_y"], speakers, steps=4)
    # values reach 70 on these random weights: the original lies 2.5e-4 from the solution in float64 and moves by 2e-4 with its number of
    # threads, so one is used
    torch.testing.assert_close(sampled, io["ode_4"], atol=1e-4, rtol=1e-5)


def test_what_an_original_is_read_as(loaded):
    found, _, name = loaded
    config = found.model.config
    assert found.text == TextConfig(frontend="grad-tts", blanks=True, edges=False)
    assert found.speakers == (["0", "1", "2", "3", "4"] if name == "multi" else [])
    assert not found.model.training and all(p.requires_grad and p.dtype == torch.float32 for p in found.model.parameters())
    assert config == ModelConfig(n_speakers=5 if name == "multi" else 1, speaker_dim=16 if name == "multi" else 64, encoder_channels=32,
                                 encoder_filter=64, duration_filter=32, encoder_layers=2, decoder_dim=16)


def test_heads_and_window_of_an_original_are_told_by_its_shapes(tmp_path):
    found = load_checkpoint(original_file(tmp_path, encoder_heads=4, encoder_window=2, encoder_kernel=5))
    assert (found.model.config.encoder_heads, found.model.config.encoder_window, found.model.config.encoder_kernel) == (4, 2, 5)


def test_overrides_of_an_original(tmp_path):
    path = original_file(tmp_path)
    found = load_checkpoint(path, pe_scale=1, beta_min=0.1, beta_max=10.0, n_heads=2, enc_dropout=0.0).model
    assert (found.config.pe_scale, found.config.encoder_dropout, found.config.encoder_heads) == (1, 0.0, 2)
    assert (found.schedule.beta_min, found.schedule.beta_max) == (0.1, 10.0)
    noisy, mask, t, speakers = torch.randn(1, 80, 8), torch.ones(1, 1, 8), torch.tensor([0.5]), torch.tensor([0])
    with torch.no_grad():
        assert not torch.allclose(*(model.score(noisy, mask, noisy, t, speakers) for model in (found, load_checkpoint(path).model)))


@pytest.mark.parametrize(("override", "told"), [
    ({"pe_scal": 1}, "'pe_scal' cannot be given.*n_heads.*beta_min.*pe_scale"), ({"n_heads": 4}, "emb_rel_k"),
    ({"n_heads": 0}, "n_heads is 0"), ({"n_heads": 2.5}, "n_heads is 2.5"), ({"pe_scale": "1"}, "pe_scale is '1'"),
    ({"pe_scale": float("nan")}, "pe_scale is nan"), ({"enc_dropout": 1.5}, "enc_dropout is 1.5"), ({"beta_min": 30}, "beta_min")])
def test_overrides_that_do_not_apply(tmp_path, override, told):
    with pytest.raises(ValueError, match=told):
        load_checkpoint(original_file(tmp_path), **override)


@pytest.mark.parametrize("decoder", ["lean", "grad-tts"])
@pytest.mark.parametrize("n_speakers", [1, 3])
def test_there_and_back(tmp_path, decoder, n_speakers):
    before = checkpoint(decoder, n_speakers, pe_scale=1.0, beta_max=15.0, encoder_heads=4)
    file = save_checkpoint(tmp_path / "000350", before)
    assert file == tmp_path / "000350" / "model.safetensors" and os.listdir(file.parent) == ["model.safetensors"]
    after = load_checkpoint(file)
    assert after.model.config == before.model.config and isinstance(after.model.config.decoder_dims, tuple)
    for name in ("text", "speakers", "step", "default_speaker", "extra"):
        assert getattr(after, name) == getattr(before, name), name
    assert torch.equal(after.embeddings, before.embeddings)
    weights = after.model.state_dict()
    assert list(weights) == list(before.model.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in before.model.state_dict().items())
    assert not after.model.training and all(p.requires_grad for p in after.model.parameters())
    again = save_checkpoint(tmp_path / "again.safetensors", after)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shipped_in_half_precision(tmp_path, dtype):
    before = checkpoint()
    wide, narrow = save_checkpoint(tmp_path / "wide", before), save_checkpoint(tmp_path / "narrow", before, dtype=dtype)
    with safe_open(narrow, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}
    assert narrow.stat().st_size < 0.6 * wide.stat().st_size
    after = load_checkpoint(narrow)
    assert after.embeddings.dtype == torch.float32
    for name, value in after.model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before.model.state_dict()[name].to(dtype).float(), atol=0, rtol=0)
    assert next(before.model.parameters()).dtype == torch.float32


def test_a_loaded_model_outlives_its_file(tmp_path):
    file = save_checkpoint(tmp_path, checkpoint())
    after = load_checkpoint(file)
    kept = {name: value.clone() for name, value in after.model.state_dict().items()}
    file.write_bytes(bytes(file.stat().st_size))
    assert all(torch.equal(value, kept[name]) for name, value in after.model.state_dict().items())
    after.model.encode(torch.tensor([[1, 2]]), torch.tensor([2]), torch.tensor([0])).mu.sum().backward()


def test_without_embeddings_and_names(tmp_path):
    before = checkpoint()
    before.embeddings = before.default_speaker = None
    after = load_checkpoint(save_checkpoint(tmp_path, before))
    assert after.embeddings is None and after.default_speaker is None


def test_a_run_folder_means_its_newest_checkpoint(tmp_path):
    for step in (50, 100, 1000000):
        before = checkpoint()
        before.step = step
        save_checkpoint(tmp_path / "checkpoints" / f"{step:06d}", before)
    (tmp_path / "checkpoints" / "2000000").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert load_checkpoint(tmp_path).step == 1000000
    assert load_checkpoint(str(tmp_path / "checkpoints" / "000050")).step == 50
    assert resolve(tmp_path) == tmp_path / "checkpoints" / "1000000" / "model.safetensors"


def test_a_failed_save_leaves_the_old_file(tmp_path):
    file = save_checkpoint(tmp_path, checkpoint())
    before = file.read_bytes()
    broken = checkpoint(seed=1)
    broken.extra = {"set": {1, 2}}
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, broken)
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["model.safetensors"]


class Payload:
    """What an evil checkpoint would run when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _bad_files(folder: Path) -> dict[str, str]:
    """Files that are no checkpoint, and what the error should tell."""
    whole = save_checkpoint(folder / "good", checkpoint()).read_bytes()
    original = original_file(folder).read_bytes()
    mark = "encoder.encoder.norm_layers_1.0.beta"
    original_file(folder, name="missing.pt", drop=[mark])
    original_file(folder, name="headless.pt", drop=["encoder.encoder.attn_layers.0.emb_rel_k"])
    original_file(folder, name="lean.pt", decoder="lean")
    state = checkpoint("grad-tts").model.state_dict()
    torch.save({**state, "surplus": torch.zeros(1)}, folder / "surplus.pt")
    torch.save({**state, "encoder.proj_m.bias": torch.zeros(7)}, folder / "shape.pt")
    torch.save({**state, "encoder.emb.weight": torch.zeros(7)}, folder / "flat.pt")
    torch.save({"generator": state}, folder / "hifigan.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save({}, folder / "nothing.pt")
    torch.save({**state, "extra": Payload(folder / "pwned")}, folder / "evil.pt")
    (folder / "pickled.pt").write_bytes(pickle.dumps(Payload(folder / "pwned"), protocol=2))
    save_file({"weights": torch.zeros(1)}, folder / "foreign.safetensors")
    for name, content in {"cut.safetensors": whole[:-100], "head.safetensors": whole[:100], "empty.safetensors": b"",
                          "cut.pt": original[:-300], "empty.pt": b"", "text.pt": b"hello",
                          "text.safetensors": b"hello, no checkpoint"}.items():
        (folder / name).write_bytes(content)
    return {
        "missing.pt": mark, "headless.pt": "emb_rel_k", "lean.pt": "final_conv", "surplus.pt": "surplus", "shape.pt": "proj_m.bias is .7,",
        "flat.pt": "dimensions", "hifigan.pt": "generator.*vocoder", "list.pt": "list", "nothing.pt": "encoder.emb.weight",
        "evil.pt": "more than weights", "pickled.pt": "more than weights", "foreign.safetensors": "some other tensors",
        "cut.safetensors": "truncated", "head.safetensors": "truncated", "empty.safetensors": "truncated", "cut.pt": "truncated",
        "empty.pt": "truncated", "text.pt": "not a checkpoint", "text.safetensors": "not a whole safetensors"}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_no_checkpoint_are_named_in_one_line(tmp_path):
    for name, told in _bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=told) as error:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value), name
        assert len(str(error.value)) - len(str(tmp_path)) < 300, name
    assert not (tmp_path / "pwned").exists()


def test_the_vocoder_is_not_taken_for_a_voice(golden):
    with pytest.raises(ValueError, match=r"hifigan.pt.*vocoder"):
        load_checkpoint(golden / "hifigan.pt")


def _rewritten(file: Path, **changes) -> Path:
    with safe_open(file, "pt") as opened:
        metadata = json.loads(opened.metadata()["gradtts-robust"])
    save_file(load_file(file), file, metadata={"gradtts-robust": json.dumps({**metadata, **changes})})
    return file


@pytest.mark.parametrize(("changes", "told"), [
    ({"format": "gradtts-robust checkpoint 9"}, "checkpoint 9"), ({"symbols": ["a"]}, "symbols"),
    ({"model": {"n_speakers": 3}}, "architecture"), ({"model": {"wings": 2}}, "wings")])
def test_our_own_files_of_another_make(tmp_path, changes, told):
    file = _rewritten(save_checkpoint(tmp_path, checkpoint()), **changes)
    with pytest.raises(ValueError, match=told):
        load_checkpoint(file)


def test_missing_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


def test_our_files_take_no_overrides(tmp_path):
    with pytest.raises(ValueError, match="'pe_scale' cannot be given"):
        load_checkpoint(save_checkpoint(tmp_path, checkpoint()), pe_scale=1)


def test_hash(tmp_path):
    file = save_checkpoint(tmp_path, checkpoint())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    verify_hash(file, digest.upper() + "\n")
    file.write_bytes(file.read_bytes()[:-1] + b"\x99")
    with pytest.raises(ValueError, match="damaged"):
        verify_hash(file, digest)
