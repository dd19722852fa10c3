"""The training loop: what it computes, that it can be killed anywhere, and what it refuses."""
import csv
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_data import SPEAKERS, tiny_features, tiny_model, tiny_optim, train_settings

from gradtts_robust.config import ObjectiveConfig, OptimConfig
from gradtts_robust.losses import Objective
from gradtts_robust.training import ema, setup
from gradtts_robust.training.checkpoint import load_checkpoint
from gradtts_robust.training.history import newest_state, saved_checkpoints
from gradtts_robust.training.loop import learning_rate, step_seed, train
from gradtts_robust.training.loss import build_objective

ROWS = {name: row for row, name in enumerate(SPEAKERS)}


class Killed(Exception):
    pass


def run(out, *, kill: int | None = None, model=None, features=None, optim=None, **changes):
    """Trains the tiny model; None where the run was killed."""
    model = model or tiny_model()

    def progress(step, total, metrics):
        if step == kill:
            raise Killed

    try:
        train(model, features or tiny_features(), ROWS, objective=Objective(), optim=optim or tiny_optim(), out=out,
              progress=progress, **train_settings(**changes))
    except Killed:
        return None
    return model


def without_dropout(model):
    """The prenet's too, which no setting reaches."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def rows(out: Path) -> list[dict]:
    with open(out / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_killed_run_ends_bit_equal(tmp_path, precision):
    optim = tiny_optim(precision=precision, ema=0.9, warmup=3, decay=True)
    features = tiny_features(4) + tiny_features(3, aligned=False)
    whole = run(tmp_path / "whole", optim=optim, features=features)
    kills = sorted(random.Random(precision).sample(range(1, 8), 3))
    for kill in kills:
        assert run(tmp_path / "killed", optim=optim, features=features, kill=kill) is None
    assert same(whole, run(tmp_path / "killed", optim=optim, features=features))
    ends = [load_checkpoint(tmp_path / name).model for name in ("whole", "killed")]
    assert same(*ends) and not same(ends[0], whole), "the checkpoint holds the average, not the last weights"
    expected, found = ([{k: v for k, v in row.items() if k != "seconds"} for row in rows(tmp_path / name)] for name in ("whole", "killed"))
    assert [int(row["step"]) for row in found] == list(range(1, 9))
    assert found == expected
    events = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [3, 6, 8]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same(tmp_path):
    plain = run(tmp_path / "plain", iterations=3)
    compiled = run(tmp_path / "compiled", iterations=3, optim=tiny_optim(compile=True))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, compiled.state_dict()[name], atol=1e-5), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("decoder", "trainable"), [({}, "all"), ({"decoder": "grad-tts", "decoder_dim": 16}, "all"), ({}, "decoder")])
def test_a_gpu_learns_as_the_cpu_does(tmp_path, decoder, trainable):
    """Without dropout, as devices draw it each in their own way. Adam turns the rounding of its first small gradients into whole steps."""
    models = {device: run(tmp_path / device, model=without_dropout(tiny_model(**decoder)), device=device, trainable=trainable,
                          iterations=3) for device in ("cpu", "cuda")}
    names = ("duration", "prior", "diffusion", "encoder_norm", "decoder_norm")
    told = {device: torch.tensor([[float(row[name]) for name in names] for row in rows(tmp_path / device)]) for device in models}
    assert torch.allclose(told["cuda"][0], told["cpu"][0], rtol=1e-4)
    assert torch.allclose(told["cuda"][:, :3], told["cpu"][:, :3], rtol=3e-3)
    for name, value in models["cpu"].state_dict().items():
        assert torch.allclose(value, models["cuda"].state_dict()[name].cpu(), atol=2e-3), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_cuda_graphs_learn_the_same(tmp_path, precision):
    """Whole runs that differ in nothing else, over a resume."""
    models = {}
    for graphs in (True, False):
        optim = tiny_optim(cuda_graphs=graphs, precision=precision, checkpoint_every=2)
        run(tmp_path / str(graphs), optim=optim, device="cuda", iterations=4, kill=3)
        models[graphs] = run(tmp_path / str(graphs), optim=optim, device="cuda", iterations=4)
    names = ("duration", "prior", "diffusion")
    told = [torch.tensor([[float(row[name]) for name in names] for row in rows(tmp_path / str(graphs))]) for graphs in models]
    torch.testing.assert_close(*told, rtol=3e-3, atol=0)
    for name, value in models[True].state_dict().items():
        assert torch.allclose(value, models[False].state_dict()[name], atol=2e-3), name


def test_half_written_lines_and_late_steps_are_dropped(tmp_path):
    run(tmp_path, kill=5)
    with open(tmp_path / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("6,0.1,0.")
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "che')
    run(tmp_path)
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(1, 9))
    assert all(math.isfinite(float(value)) for row in rows(tmp_path) for value in row.values())
    assert [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        "start", "checkpoint", "resume", "checkpoint", "checkpoint"]


def test_the_loss_falls_and_the_random_state_stays(tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(tmp_path, iterations=60, optim=tiny_optim(batch_size=4, learning_rate=3e-3, checkpoint_every=60))
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads
    priors = [float(row["prior"]) for row in rows(tmp_path)]
    diffusion = [float(row["diffusion"]) for row in rows(tmp_path)]
    assert sum(priors[-5:]) < 0.5 * sum(priors[:5])
    assert sum(diffusion[-20:]) < 0.9 * sum(diffusion[:20])


def test_only_the_named_row_moves(tmp_path):
    model, start = tiny_model(), tiny_model()
    run(tmp_path, model=model, speaker_row=2, optim=tiny_optim(ema=0.5))
    table, first = model.spk_emb.weight, start.spk_emb.weight
    assert torch.equal(table[:2], first[:2]) and not torch.equal(table[2], first[2])
    average = load_checkpoint(tmp_path).model.spk_emb.weight
    assert torch.equal(average[:2], first[:2]) and not torch.equal(average[2], first[2])
    assert not same(model.encoder, start.encoder) and not same(model.decoder, start.decoder)


@pytest.mark.parametrize("trainable", ["encoder", "decoder", "speaker"])
def test_what_is_frozen_stays_bit_equal(tmp_path, trainable):
    model, start = tiny_model(), tiny_model()
    run(tmp_path, model=model, trainable=trainable, speaker_row=1, iterations=3)
    assert same(model.encoder, start.encoder) == (trainable != "encoder")
    assert same(model.decoder, start.decoder) == (trainable != "decoder")
    moved = (model.spk_emb.weight != start.spk_emb.weight).any(dim=1).tolist()
    assert moved == [False, True, False]
    assert all(p.requires_grad for p in model.parameters()) and not model.training


def test_aligned_utterances_come_first(tmp_path):
    hopeless = tiny_features(3, aligned=False)
    for f in hopeless:
        f.mel = f.mel[:, :2]
    features = [*hopeless, *tiny_features(2)]
    assert run(tmp_path / "aligned", features=features, aligned_first=8)
    with pytest.raises(ValueError, match="cannot be aligned"):
        run(tmp_path / "all", features=features)


def test_checkpoints_are_kept_as_asked(tmp_path):
    optim = tiny_optim(checkpoint_every=2, keep=1, keep_models=2)
    run(tmp_path, optim=optim, save_start=True)
    assert [f.name for f in saved_checkpoints(tmp_path)] == ["000006", "000008"]
    assert newest_state(tmp_path).name == "000008" and not (tmp_path / "checkpoints" / "000006" / "state.pt").exists()
    saved = load_checkpoint(tmp_path)
    assert saved.step == 8 and saved.speakers == SPEAKERS


def test_checkpoints_are_announced_again_after_a_resume(tmp_path):
    seen = []

    def on_checkpoint(folder, checkpoint):
        seen.append(checkpoint.step)
        assert same(load_checkpoint(folder).model, checkpoint.model)
        checkpoint.model.eval()
        torch.rand(3)
        if seen == [0, 3]:
            raise Killed

    assert run(tmp_path, save_start=True, on_checkpoint=on_checkpoint) is None
    model = run(tmp_path, save_start=True, on_checkpoint=on_checkpoint)
    assert seen == [0, 3, 3, 6, 8]
    assert same(model, run(tmp_path.parent / (tmp_path.name + "-plain")))


@pytest.mark.parametrize(("trainable", "words"), [
    ("all", "the residual of example . has a NaN or infinite value"), ("encoder", "the loss is not finite at step .")])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, trainable, words):
    """By the objective on the CPU; by the loop where there is none, or where it would make a GPU wait."""
    features = tiny_features()
    features[3].mel = torch.full_like(features[3].mel, float("nan"))
    with pytest.raises(ValueError, match=words + ".*learning.rate"):
        run(tmp_path, features=features, trainable=trainable, optim=tiny_optim(checkpoint_every=1))
    saved = saved_checkpoints(tmp_path)
    assert saved and all(p.isfinite().all() for folder in saved for p in load_checkpoint(folder).model.parameters())


@pytest.mark.parametrize(("changes", "named"), [
    ({"batch_size": 0}, "batch_size is 0"), ({"segment_frames": 20}, "segment_frames is 20.*multiple of 8"),
    ({"learning_rate": 0.0}, "learning_rate"), ({"clip": -1.0}, "clip is -1"),
    ({"ema": 1.0}, "ema is 1.0"), ({"precision": "fp8"}, "precision is 'fp8'"),
    ({"keep": -1}, "keep is -1"),
])
def test_settings_out_of_range(tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        run(tmp_path / "out", optim=tiny_optim(**changes))
    assert not (tmp_path / "out").exists()


def test_other_refusals(tmp_path):
    with pytest.raises(ValueError, match="no utterances"):
        train(tiny_model(), [], ROWS, objective=Objective(), optim=tiny_optim(), out=tmp_path / "none", **train_settings())
    with pytest.raises(ValueError, match="train is 'vocoder'"):
        run(tmp_path / "name", trainable="vocoder")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        run(tmp_path / "device", device="tpu")
    run(tmp_path / "twice", iterations=1)
    with pytest.raises(ValueError, match="already holds checkpoints"):
        run(tmp_path / "twice", resume=False)
    with pytest.raises(ValueError, match="another run"):
        run(tmp_path / "twice", model=tiny_model(speaker_dim=4), iterations=2)
    state = tmp_path / "twice" / "checkpoints" / "000001" / "state.pt"
    whole = state.read_bytes()
    # torch says something else of each
    for length in (0, 1000, 5000, len(whole) - 100):
        state.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"state\.pt: not a training state"):
            run(tmp_path / "twice", iterations=2)


def test_rates_and_averages():
    optim = OptimConfig(learning_rate=1.0, warmup=10, decay=True)
    rates = [learning_rate(optim, step=step, iterations=100) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and 0.1 < rates[99] < 0.102
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(OptimConfig(learning_rate=1.0), step=99, iterations=100) == 1.0
    assert ema.decay_at(0.999, 0) == 0.1 and ema.decay_at(0.999, 10 ** 6) == 0.999
    average, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.1 * average.weight + 0.9 * model.weight
    ema.update(average, model, decay=0.9, step=0)
    torch.testing.assert_close(average.weight, expected)
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(5) for rank in range(2)}
    assert len(seeds) == 50 and all(0 <= seed < 2 ** 63 for seed in seeds)


def test_objective_takes_the_models_noise_schedule():
    model = tiny_model(beta_max=10.0).config
    objective = build_objective(ObjectiveConfig(penalty="pseudo_huber", weighting="debias"), model)
    assert (objective.penalty, objective.beta_max) == ("pseudo_huber", 10.0)


def test_trimming_trains_on_the_rest(tmp_path):
    model = run(tmp_path / "trimmed", trim=0.5, iterations=2, optim=tiny_optim(batch_size=4))
    assert not same(model, run(tmp_path / "whole", iterations=2, optim=tiny_optim(batch_size=4)))
    for name in ("duration", "prior", "diffusion"):
        assert float(rows(tmp_path / "trimmed")[0][name]) != float(rows(tmp_path / "whole")[0][name])
    total = [sum(float(rows(tmp_path / kind)[0][name]) for name in ("duration", "prior", "diffusion")) for kind in ("trimmed", "whole")]
    assert total[0] < total[1]
    with pytest.raises(ValueError, match="trim is 1; it must be in"):
        run(tmp_path / "bad", trim=1.0)


def test_precision_follows_the_hardware(monkeypatch):
    config = tiny_model().config
    for computes, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(setup, "cpu_multiplies_bf16", lambda computes=computes: computes)
        assert setup.resolve_precision("auto", "cpu", config) == expected
    assert setup.resolve_precision("float32", "cpu", config) == "float32"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_loop import run, ROWS
from training_data import tiny_optim
model = run({out!r}, trainable="decoder", iterations=2, optim=tiny_optim(batch_size=2))
from accelerate import PartialState
torch.save(model.state_dict(), {out!r} + f"/rank{{PartialState().process_index}}.pt")
"""


def test_two_processes_train_one_model(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(out)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(script)]
    # accelerate has no launcher of its own for several CPU processes without MPI; that of GPUs starts them, and the run asks for the CPU
    done = subprocess.run(launch, check=False, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    alone = run(tmp_path / "alone", trainable="decoder", iterations=2, optim=tiny_optim(batch_size=4))
    assert not same(alone, tiny_model())
    # the frozen encoder makes these two terms a function of the batch alone, and both runs see the same utterances
    for name in ("duration", "prior"):
        assert float(rows(out)[0][name]) == pytest.approx(float(rows(tmp_path / "alone")[0][name]), rel=1e-4)
    assert json.loads((out / "environment.json").read_text())["processes"] == 2
