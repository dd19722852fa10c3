"""A whole study from the command line and from Python: its table, its page, kills, failures, and what it refuses."""
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from study_base import check_page
from study_grid import CONDITIONS, OBJECTIVES, pools, tiny_corpus, tiny_study

from gradtts_robust.cli import main
from gradtts_robust.study import grid, judging, study_report, task
from gradtts_robust.study.grid import plan_text, run_study
from gradtts_robust.study.judging import read_arrays
from gradtts_robust.study.plan import make_plan
from gradtts_robust.study.study_report import conclude
from gradtts_robust.study.table import COLUMNS, read_table
from gradtts_robust.training import adapt

METHODS = {**OBJECTIVES, "audit": {"method": "audit"}, "trimmed": {"method": "trimmed", "trim": 0.5},
           "early": {"method": "early_stopping"}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def without_figures(monkeypatch):
    """Drawing is most of a small study's time."""
    monkeypatch.setattr(study_report, "_figures", lambda *_: [])


@pytest.fixture(scope="module")
def study(manifest):
    """A finished study with every method, in this process."""
    config = tiny_study(manifest, manifest.parent / "study", objectives=METHODS)
    return config, run_study(config, command="as typed")


def test_the_table_has_every_row_and_the_page_shows_it(study):
    config, result = study
    table = read_table(config.out)
    assert tuple(table.columns) == COLUMNS and result.failed == []
    assert len(table) == 2 * 5 * 3 * 2  # conditions, objectives, checkpoints, sentences
    assert set(table["iteration"]) == {0, 2, 4} and table["similarity"].between(-1, 1).all()
    mixed = table[table["condition"] == "mixed"]
    assert mixed["pollution_similarity"].notna().all() and mixed["control_pollution_similarity"].notna().all()
    assert table.loc[table["condition"] == "clean", "pollution_similarity"].isna().all()
    assert (table[table["method"] != "early_stopping"].query("selected")["iteration"] == 4).all()
    assert (table.groupby("run")["selected"].sum() == 2).all()
    from_text = pd.read_csv(Path(config.out) / "results.csv", dtype={"speaker": str})
    np.testing.assert_allclose(from_text["similarity"], table["similarity"], atol=1e-5)
    page = check_page(result.report)
    assert "as typed" in page.text and "Reed" not in page.text.split("Comparison")[0]
    assert "mixed" in result.text and "10 of 10 runs" in result.text


def test_rows_say_what_their_runs_were(study):
    config, _ = study
    for run in make_plan(config).runs:
        rows = read_table(config.out).query("run == @run.key")
        assert set(rows["method"]) == {run.method} and (run.out / "done.json").is_file() and not (run.out / "checkpoints").exists()
    audited = [run for run in make_plan(config).runs if run.method == "audit" and run.condition == "mixed"]
    early = [run for run in make_plan(config).runs if run.method == "early_stopping"]
    assert all((run.out / "validation.csv").is_file() for run in early)
    assert all(np.isfinite(read_arrays(path)["validation"]) for run in early for path in (run.out / "judged").iterdir())
    assert any((run.out / "given.csv").is_file() for run in audited)


def test_what_the_base_says_is_the_same_under_objectives_that_learn_from_the_same_data(study):
    table = read_table(study[0].out).query("iteration == 0 and condition == 'mixed' and seed == 0")
    squares, huber = (table[table["objective"] == name]["similarity"].to_numpy() for name in OBJECTIVES)
    np.testing.assert_array_equal(squares, huber)


def test_a_finished_study_runs_nothing_again_and_its_report_can_be_redrawn(study, monkeypatch, capsys):
    config, result = study
    monkeypatch.setattr(task, "_run", lambda *_: pytest.fail("it ran again"))
    before = (Path(config.out) / "results.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(study_report, "_figures", lambda *_: [])
        assert run_study(config, command="as typed").text == result.text
    assert (Path(config.out) / "results.csv").read_bytes() == before
    (Path(config.out) / "report.html").unlink()
    assert main(["report", config.out]) == 0
    assert capsys.readouterr().out.strip() == str(Path(config.out) / "report.html")


def test_a_study_grows_without_doing_finished_runs_again(study, monkeypatch, without_figures):
    config, _ = study
    ran, run = [], task._run
    monkeypatch.setattr(task, "_run", lambda one, out: ran.append(one.name) or run(one, out))
    grown = replace(config, objectives={**{name: METHODS[name] for name in OBJECTIVES}, "l1": {"penalty": "l1"}}, seeds=[0])
    assert "6 runs, 4 done" in plan_text(grown)
    run_study(grown)
    assert sorted(ran) == ["Andrea clean l1 seed 0", "Andrea mixed l1 seed 0"]


def test_a_study_whose_files_moved_goes_on(manifest, tmp_path, without_figures):
    config = tiny_study(manifest, tmp_path / "here", objectives={"squares": {"penalty": "l2"}}, iterations=2)
    run_study(config)
    shutil.move(config.out, tmp_path / "there")
    corpus = shutil.copytree(manifest.parent, tmp_path / "corpus", ignore=shutil.ignore_patterns("study"))
    moved = replace(config, out=str(tmp_path / "there"), manifest=str(corpus / manifest.name), seeds=[0, 1])
    for run in make_plan(moved).runs:
        if run.seed == 0 and run.condition == "mixed":
            # as if it had been cut off before its end
            (run.out / "done.json").unlink()
    assert "4 runs, 1 done" in plan_text(moved)
    assert run_study(moved).failed == [] and "4 runs, 4 done" in plan_text(moved)


def test_what_is_learnt_alike_is_learnt_once(manifest, tmp_path, monkeypatch, without_figures):
    from gradtts_robust.training import adapt as module

    trained, adapt = [], module.adapt
    monkeypatch.setattr(module, "adapt", lambda config, **how: trained.append(config.out) or adapt(config, **how))
    methods = {"squares": {"penalty": "l2"}, "oracle": {"method": "oracle"}, "huber": {"penalty": "pseudo_huber"}}
    dirt = {"clean": {"kind": "none"}, "foreign": {"kind": "foreign", "fraction": 0.4}, "text": {"kind": "text", "fraction": 0.4}}
    config = tiny_study(manifest, tmp_path / "once", objectives=methods, conditions=dirt, keep_samples="none", iterations=2)
    run_study(config)
    # of nine: clean data is its own oracle, and the same clips are left of foreign and of wrong texts
    assert len(trained) == 7
    once, names = read_table(config.out), ["iteration", "sentence", "similarity"]
    values = {pair: rows[names].to_numpy() for pair, rows in once.groupby(["condition", "objective"])}
    assert np.array_equal(values["clean", "squares"], values["clean", "oracle"])
    assert np.array_equal(values["foreign", "oracle"], values["text", "oracle"])
    assert not np.array_equal(values["foreign", "squares"], values["text", "squares"])
    assert once.query("condition == 'foreign'")["pollution_similarity"].notna().all()
    apart = replace(config, out=str(tmp_path / "apart"), keep_samples="last", cache=str(tmp_path / "cache"))
    run_study(apart)
    assert len(trained) == 16
    assert read_table(apart.out).drop(columns="sample").equals(once.drop(columns="sample"))


def _start(config, log: Path) -> subprocess.Popen:
    recipe = log.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))), encoding="utf-8")
    words = [sys.executable, "-m", "gradtts_robust", "study", "--config", str(recipe)]
    return subprocess.Popen(words, stdout=log.open("w"), stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _works(process: Path) -> bool:
    try:
        return "popen_loky" in (process / "cmdline").read_text() and "(zombie)" not in (process / "status").read_text()
    except OSError:
        return False


def test_a_killed_study_goes_on_to_the_same_table(manifest, tmp_path, without_figures):
    """SIGKILL to the study while both of its processes work, at a moment that nothing fixes."""
    config = tiny_study(manifest, tmp_path / "killed", iterations=6, jobs=2)
    whole = replace(config, out=str(tmp_path / "whole"), jobs=1)
    running = _start(config, tmp_path / "log")
    runs = Path(config.out) / "runs"
    while not list(runs.glob("*/judged/*.npz")):
        assert running.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(np.random.default_rng().uniform(0, 1.5))
    workers = [Path("/proc", pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    assert len(workers) >= 2
    running.send_signal(signal.SIGKILL)
    running.wait()
    for _ in range(600):
        if not any(map(_works, workers)):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{sum(map(_works, workers))} processes of a killed study live on")
    run_study(replace(config, jobs=1))
    run_study(whole)
    for name in ("results.csv", "results.parquet", "comparison.csv"):
        assert (Path(config.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes(), name


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def test_every_part_of_a_run_has_its_threads(manifest, tmp_path, monkeypatch, without_figures, two_threads):
    """Also where nothing is left of it but to judge its last checkpoint."""
    config = tiny_study(manifest, tmp_path / "cut off", conditions={"clean": CONDITIONS["clean"]}, iterations=2)
    judge, counts = judging.Judge._judge, defaultdict(list)
    with monkeypatch.context() as patch:
        patch.setattr(judging.Judge, "_judge", lambda self, checkpoint, keep: 1 / 0 if keep else judge(self, checkpoint, keep))
        assert len(run_study(config).failed) == 2

    def note(name, owner, function):
        def noted(*given, **named):
            counts[name].append(torch.get_num_threads())
            return function(*given, **named)

        monkeypatch.setattr(owner, function.__name__, noted)

    note("shared", grid, grid.prepare_adaptation)
    note("prepared", adapt, adapt.prepare_adaptation)
    note("judged", judging.Judge, judge)
    assert not run_study(config).failed
    assert dict(counts) == {"shared": [1], "judged": [1, 1]}
    assert not run_study(replace(config, out=str(tmp_path / "whole"))).failed
    assert dict(counts) == {"shared": [1, 1], "prepared": [1, 1], "judged": [1] * 4}


def test_a_failed_run_is_told_and_does_not_stop_the_rest(manifest, tmp_path, monkeypatch, capsys, without_figures):
    run = task._run

    def failing(one, out):
        if "mixed huber" in one.name:
            raise ValueError("the loss is not finite\nat step 3")
        run(one, out)

    monkeypatch.setattr(task, "_run", failing)
    config = tiny_study(manifest, tmp_path / "study", iterations=2)
    recipe = tmp_path / "study.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))), encoding="utf-8")
    assert main(["study", "--config", str(recipe)]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "failed" in line][-1]
    assert error.endswith("failed: Andrea mixed huber seed 0: the loss is not finite at step 3")
    table = read_table(config.out)
    assert set(zip(table["condition"], table["objective"])) == {("clean", "squares"), ("clean", "huber"), ("mixed", "squares")}
    assert "not finite at step 3" in (Path(config.out) / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(task, "_run", run)
    assert main(["study", "--config", str(recipe)]) == 0
    assert len(read_table(config.out).drop_duplicates("run")) == 4


def test_a_full_disk_is_one_line_and_loses_nothing_finished(manifest, tmp_path, monkeypatch, without_figures):
    written, write = [], judging.write_arrays

    def full(path, arrays):
        written.append(path)
        if len(written) > 8 and "judged" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, arrays)

    config = tiny_study(manifest, tmp_path / "study", iterations=2)
    monkeypatch.setattr(judging, "write_arrays", full)
    with pytest.raises(OSError, match=r"is full .* what is finished stays"):
        run_study(config)
    done = [run.key for run in make_plan(config).runs if (run.out / "done.json").is_file()]
    assert 0 < len(done) < 4
    monkeypatch.setattr(judging, "write_arrays", write)
    ran, run = [], task._run
    monkeypatch.setattr(task, "_run", lambda one, out: ran.append(one.key) or run(one, out))
    run_study(config)
    assert not set(ran) & set(done) and len(ran) + len(done) == 4


def test_another_version_in_the_folder_is_refused(study, tmp_path):
    config, _ = study
    out = tmp_path / "old"
    out.mkdir()
    note = json.loads((Path(config.out) / "study.json").read_text())
    (out / "study.json").write_text(json.dumps({**note, "results_version": "0"}))
    with pytest.raises(ValueError, match="results of version 0, and this version's are"):
        run_study(replace(config, out=str(out)))
    assert [path.name for path in out.iterdir()] == ["study.json"]
    (out / "study.json").write_text("{")
    with pytest.raises(ValueError, match="not the note of a study"):
        run_study(replace(config, out=str(out)))


def test_mistakes_of_a_condition_are_told_before_anything_runs(manifest, tmp_path):
    many = {"kind": "foreign", "fraction": 0.9, "mode": "append"}
    config = tiny_study(manifest, tmp_path / "study", conditions={**CONDITIONS, "many": many})
    with pytest.raises(ValueError, match=r"Andrea many squares seed 0: corruption\.fraction 0\.9 needs"):
        run_study(config)
    config = tiny_study(manifest, tmp_path / "study", objectives={"odd": {"penalty": "l3"}})
    with pytest.raises(ValueError, match="l3"):
        run_study(config)
    assert not (tmp_path / "study" / "runs").exists()


def test_a_study_without_clean_data_or_baseline_still_reports(study, tmp_path):
    config, _ = study
    shutil.copytree(config.out, tmp_path / "part")
    path = tmp_path / "part" / "study.json"
    note = json.loads(path.read_text())
    note["runs"] = [run for run in note["runs"] if run["condition"] == "mixed" and run["objective"] == "huber"]
    path.write_text(json.dumps({**note, "clean": "", "baseline": ""}))
    page, text = conclude(tmp_path / "part")
    assert "no damage is told" in text
    check_page(page)


def test_nothing_finished_and_no_study_are_told(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no results there" in capsys.readouterr().err


def test_processes_have_as_many_threads_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "perform", pools)
    with grid._processes(tiny_study(tmp_path / "manifest.csv", tmp_path, jobs=2, threads=1)) as pool:
        for counts in pool([0, 1, 2]):
            assert len(counts) > 2 and set(counts) == {1}
