"""The benchmark: its medians, ratios and table, what it says where something is missing, and that its rows run."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "bench"
sys.path.insert(0, str(FOLDER))

import bench  # noqa: E402
import bench_measure  # noqa: E402
import bench_model  # noqa: E402
import bench_original  # noqa: E402
import bench_synthesis  # noqa: E402
import bench_training  # noqa: E402
from bench_measure import Figure, Settings, compared, interleaved  # noqa: E402

from gradtts_robust.model.diffusion import forward_process  # noqa: E402


@pytest.fixture
def settings(tmp_path):
    return Settings(work=tmp_path, quick=True, repeats=2)


@pytest.fixture
def unchanged_environment(monkeypatch):
    for name in bench.THREADS:
        monkeypatch.setenv(name, "1")


def test_a_ratio_says_how_many_times_less_ours_is():
    seconds = {"ours": [2.0, 9.0, 1.0], "original": [8.0, 6.0, 7.0]}
    figure = compared("row", "name", seconds, values={"more": 1})
    assert (figure.ours, figure.original, figure.ratio) == (2.0, 7.0, 3.5)
    assert figure.values == {"seconds": seconds, "more": 1}
    assert compared("row", "name", {"ours": [2.0]}).ratio is None


def test_calls_alternate_and_the_first_round_does_not_count(monkeypatch, settings):
    clock, called = iter(range(100)), []
    monkeypatch.setitem(bench_measure.CLOCKS, "wall", lambda: next(clock))
    calls = {name: lambda name=name: called.append(name) for name in ("ours", "original")}
    seconds = interleaved(calls, settings)
    assert called == ["ours", "original"] * 3
    assert seconds == {"ours": [1, 1], "original": [1, 1]}
    assert len(interleaved(calls, settings, warm=False)["ours"]) == 2 and len(called) == 10


def test_table_and_json_hold_the_same_figures():
    figures = [Figure("a", "first", ours=0.5, original=2.0, goal="at least 4", note="noted"), Figure("b", "second", "MiB", ours=1234.4)]
    lines = bench_measure.table(figures).splitlines()
    assert lines[2:] == ["| a | first | 2 s | 0.5 s | 4.00 | at least 4 | noted |", "| b | second |  | 1234 MiB |  |  |  |"]
    assert len({line.count("|") for line in lines}) == 1
    told = json.loads(bench_measure.report(figures, {"threads": 1}))
    assert told["machine"] == {"threads": 1}
    assert [(one["name"], one["ratio"]) for one in told["figures"]] == [("first", 4.0), ("second", None)]


def test_peak_memory_is_of_this_process_alone():
    before = bench_measure.memory("VmHWM")
    held = np.ones(64 * 2**20 // 8)
    assert bench_measure.memory() > 64 and bench_measure.memory("VmHWM") >= before
    del held
    assert bench_measure.in_process(bench_measure.memory, "VmHWM") < before


def test_a_failing_command_is_told():
    with pytest.raises(ValueError, match="KeyError: 'why'"):
        bench_measure.run(bench_measure.script("{}['why']"), "wall")
    assert 0 < bench_measure.run(bench_measure.script("sum(range(10**6))"), "cpu") < 10


def test_weights_give_every_part_a_gradient_and_every_symbol_its_frames(settings):
    sizes = bench_model.QUICK
    path = bench_model.write_weights(settings.work / "w.pt", sizes)
    batch = bench_training.collate(bench_model.make_features(sizes), bench_model.speaker_rows(sizes))
    gradients = bench_training.our_gradients(path, sizes, settings, batch, torch.tensor([0.2, 0.8]), "float32")
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    speakers = bench_synthesis.load(settings)
    ids, lengths, noise = speakers.sentence(8)
    mel = speakers.say(ids, lengths)
    assert mel.shape == noise.shape == (1, 80, 24) and mel.isfinite().all()


def test_the_original_is_told_what_ours_draws(settings, monkeypatch):
    sizes, seen = bench_model.QUICK, []
    net = bench_training.load_checkpoint(bench_model.write_weights(settings.work / "w.pt", sizes))
    net.model.decoder.estimator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    monkeypatch.setattr(bench_training, "load_checkpoint", lambda _: net)
    batch, t = bench_training.collate(bench_model.make_features(sizes), bench_model.speaker_rows(sizes)), torch.tensor([0.3, 0.6])
    bench_training.our_gradients(settings.work / "w.pt", sizes, settings, batch, t, "float32")
    starts, noise = bench_training.segments_and_noise(batch, sizes)
    mel = torch.stack([row[:, start:start + sizes.segment] for row, start in zip(batch.mel, starts.tolist())])
    noisy, _, mu = seen[0][:3]
    torch.testing.assert_close(noisy, forward_process(mel, mu, t, noise, net.model.schedule))


def test_an_original_s_draws_are_replaced(settings):
    import random

    starts, t, noise = torch.tensor([3, 5]), torch.tensor([0.25]), torch.ones(2, 3)
    with bench_model.drawn(starts=starts, t=t, noise=noise):
        assert [random.choice(range(9)), random.choice(range(9))] == [3, 5]
        assert torch.equal(torch.rand(1), t) and torch.equal(torch.randn((2, 3)), noise) and torch.equal(torch.randn_like(noise), noise)
    assert not torch.equal(torch.randn(2, 3), noise)


def test_rows_run_without_an_original(tmp_path, capsys, unchanged_environment):
    out = tmp_path / "figures" / "bench.json"
    assert bench.main(["--quick", "--repeats", "1", "--threads", "1", "--only", "speak", "align", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert {figure["row"] for figure in figures} == {"speak", "align"}
    assert all(figure["ours"] > 0 and figure["original"] is None for figure in figures)
    assert capsys.readouterr().out.count("\n| ") == len(figures) + 2


def test_a_step_is_measured_as_often_as_asked(settings):
    path = bench_model.write_weights(settings.work / "w.pt", bench_model.QUICK)
    seconds = bench_training.step_seconds(path, bench_model.QUICK, settings, "float32")
    assert list(seconds) == ["ours"] and len(seconds["ours"]) == 2 and min(seconds["ours"]) > 0
    for _ in range(2):
        grown, whole = bench_training.our_peak(path, bench_model.QUICK, settings, "float32")
        assert 0 <= grown < whole


def test_a_row_that_fails_is_told_and_leaves_the_others(monkeypatch, tmp_path, capsys, unchanged_environment):
    def broken(settings):
        raise ValueError("no voice is installed\nmore of it")

    monkeypatch.setattr("bench_small.embed", broken)
    assert bench.main(["--quick", "--repeats", "1", "--threads", "1", "--only", "embed", "align"]) == 1
    out = capsys.readouterr().out
    assert "| embed | failed |  |  |  |  | no voice is installed |" in out and "| align | path" in out


def test_what_cannot_be_measured_is_one_line(tmp_path, capsys, unchanged_environment):
    assert bench.main(["--original", str(tmp_path), "--only", "align"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert bench.main(["--manifest", "m.csv", "--only", "align"]) == 2
    assert "--manifest and --speaker belong together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["--only", "walk"])
    with pytest.raises(SystemExit):
        bench.main(["--repeats", "0"])


def test_a_search_that_does_not_build_says_why(tmp_path):
    source = tmp_path / "model" / "monotonic_align"
    source.mkdir(parents=True)
    (source / "core.pyx").write_text("this is no Cython (")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_original.importlib.util, "find_spec", lambda _: None)
        assert bench_original.build_search(tmp_path, tmp_path) == "Cython is not installed; pip install 'gradtts-robust[bench]'"
        with pytest.raises(ValueError, match="imports einops, which is not installed"):
            bench_original.check(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model/monotonic_align/core\.pyx"):
        bench_original.check(tmp_path / "model")
