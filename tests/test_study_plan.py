"""What a study would run: names, hashes, and mistakes in its settings."""
import dataclasses
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from study_grid import tiny_corpus, tiny_study

from gradtts_robust.cli import main
from gradtts_robust.config import EvaluationConfig
from gradtts_robust.data.manifest import read_manifest, write_manifest
from gradtts_robust.study import grid
from gradtts_robust.study import plan as plan_module
from gradtts_robust.study.grid import plan_text
from gradtts_robust.study.plan import make_plan, quick


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def keys(config):
    return [run.key for run in make_plan(config).runs]


def test_runs_are_the_product_in_order(manifest, tmp_path):
    plan = make_plan(tiny_study(manifest, tmp_path, speakers=[], seeds=[3, 4]))
    names = [run.name for run in plan.runs]
    assert names[:3] == ["Andrea clean squares seed 3", "Andrea clean squares seed 4", "Andrea clean huber seed 3"]
    assert len(names) == 16 and (plan.baseline, plan.clean) == ("squares", "clean")
    assert len(set(keys(tiny_study(manifest, tmp_path)))) == 4
    mixed = plan.runs[-1].config
    assert (mixed.speaker, mixed.seed, mixed.corruption.seed, mixed.corruption.fraction) == ("Reed", 4, 4, 0.4)
    assert (mixed.objective.penalty, mixed.objective.delta_0) == ("pseudo_huber", 0.1)


def test_the_baseline_is_plain_squared_error(manifest, tmp_path):
    others = {"debias": {"weighting": "debias"}, "joint": {"example_weights": "joint"},
              "noisy": {"conditioning": {"perturbation": "gaussian"}}, "trimmed": {"method": "trimmed"}, "l1": {"penalty": "l1"}}
    assert make_plan(tiny_study(manifest, tmp_path, objectives=others)).baseline == ""
    assert make_plan(tiny_study(manifest, tmp_path, objectives={**others, "squares": {}})).baseline == "squares"


def test_an_entry_may_differ_in_method_and_training(manifest, tmp_path):
    entries = {"a": {"method": "audit"}, "t": {"method": "trimmed", "trim": 0.2, "optim": {"learning_rate": 1e-5}, "iterations": 9},
               "e": {"method": "early_stopping", "validation": 2, "train": "decoder", "conditioning": {"perturbation": "uniform"}}}
    a, t, e = (run.config for run in make_plan(tiny_study(manifest, tmp_path, objectives=entries, conditions={"c": {}})).runs)
    assert a.filtering.audit and (t.filtering.trim, t.optim.learning_rate, t.iterations) == (0.2, 1e-5, 9) and t.optim.batch_size == 2
    assert (e.filtering.validation, e.train, e.conditioning.perturbation) == (2, "decoder", "uniform")


@pytest.mark.parametrize(("share", "free", "cores", "jobs"), [
    (0.0, 80, 16, 16), (0.0, 8, 16, 2), (0.0, 1, 16, 1), (0.25, 80, 16, 4), (0.25, 80, 3, 3), (1.0, 80, 16, 1)])
def test_runs_share_a_gpu_as_far_as_cores_and_memory_go(manifest, tmp_path, monkeypatch, share, free, cores, jobs):
    monkeypatch.setattr(grid, "resolve_device", lambda name: "cuda")
    monkeypatch.setattr(grid.torch.cuda, "mem_get_info", lambda: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr(grid.os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert f", {jobs} at a time" in plan_text(tiny_study(manifest, tmp_path, jobs=0, gpu_share=share))


def test_finished_runs_keep_their_keys_when_settings_come_later(manifest, tmp_path):
    """A key is that of the settings without `filtering.oracle`, which came after studies had been run, and without `optim.compile`."""
    config = tiny_study(manifest, tmp_path)
    run = make_plan(config).runs[0].config
    later = plan_module.run_key(replace(run, filtering=replace(run.filtering, oracle=True)), {})
    assert plan_module.run_key(run, {}) != later
    settings = json.loads(json.dumps(dataclasses.asdict(run)))
    assert settings["filtering"].pop("oracle") is False
    for name in plan_module.NOT_IN_KEY:
        *section, last = name.split(".")
        (settings[section[0]] if section else settings).pop(last)
    assert plan_module.run_key(run, {}) == hashlib.sha256(json.dumps({"settings": settings}, sort_keys=True).encode()).hexdigest()[:16]
    assert keys(replace(config, optim=replace(config.optim, compile=True))) == keys(config)
    oracle, = make_plan(replace(config, objectives={"o": {"method": "oracle"}}, conditions={"mixed": config.conditions["mixed"]})).runs
    assert oracle.config.filtering.oracle and not run.filtering.oracle


def test_a_hash_follows_what_determines_the_result_and_nothing_else(manifest, tmp_path):
    config = tiny_study(manifest, tmp_path)
    first = keys(config)
    moved = tmp_path / "moved" / "m.csv"
    write_manifest(moved, read_manifest(manifest))
    for same in ({"out": str(tmp_path / "x")}, {"cache": str(tmp_path / "y")}, {"jobs": 2}, {"threads": 2}, {"manifest": str(moved)},
                 {"keep_samples": "all"}, {"evaluation": replace(config.evaluation, thresholds=(0.5,))}):
        assert keys(replace(config, **same)) == first, same
    for other in ({"iterations": 5}, {"seeds": [1]}, {"utterances": 4}, {"train": "decoder"}, {"encoders": ["resemblyzer", "ecapa"]},
                  {"optim": replace(config.optim, checkpoint_every=3)}, {"evaluation": replace(config.evaluation, sentences="3")},
                  {"evaluation": replace(config.evaluation, solver="dpmpp_2m")}, {"fidelity": True}):
        assert not set(keys(replace(config, **other))) & set(first), other
    shorter = tmp_path / "shorter.csv"
    write_manifest(shorter, [u for u in read_manifest(manifest) if u.id != read_manifest(manifest)[-1].id])
    assert not set(keys(replace(config, manifest=str(shorter)))) & set(first)


def test_plan_tells_the_runs_and_the_time_and_starts_nothing(manifest, tmp_path, capsys):
    out = tmp_path / "study"
    text = plan_text(tiny_study(manifest, out))
    assert text.count("to do") == 4 and "a guess" in text and not out.exists()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"speakers": ["Andrea"], "seeds": [0], "evaluation": {"reference_utterances": 2}}))
    assert main(["study", "--config", str(recipe), "--manifest", str(manifest), "--out", str(out), "--plan", "--quick"]) == 0
    assert capsys.readouterr().out.count("to do") == 4 and not out.exists()


def test_quick_is_small(manifest, tmp_path):
    small = quick(tiny_study(manifest, tmp_path, seeds=[0, 1, 2], speakers=[], iterations=350))
    assert (small.seeds, len(small.speakers), small.iterations, small.evaluation.sentences) == ([0], 2, 40, "2")


def test_quick_keeps_what_the_study_compares_with(manifest, tmp_path):
    dirt = {"kind": "foreign", "fraction": 0.4}
    conditions = {"many": dirt, "clean": {"kind": "none"}, "more": dirt}
    objectives = {"huber": {"penalty": "pseudo_huber"}, "l1": {"penalty": "l1"}, "squares": {"penalty": "l2"}}
    config = tiny_study(manifest, tmp_path, conditions=conditions, objectives=objectives)
    small = quick(replace(config, clean="clean", baseline="squares"))
    assert (list(small.conditions), list(small.objectives)) == (["clean", "more"], ["squares", "l1"])
    plan = make_plan(small)
    assert (plan.clean, plan.baseline, len(plan.runs)) == ("clean", "squares", 4)
    assert (list(quick(config).conditions), list(quick(config).objectives)) == (["many", "more"], ["huber", "l1"])


@pytest.mark.parametrize(("changes", "words"), [
    ({"objectives": {}}, "no objectives, so there is nothing to run"), ({"conditions": {}}, "no conditions"), ({"seeds": []}, "no seeds"),
    ({"encoders": []}, "no encoders"), ({"seeds": [1, 1]}, "seeds has 1 2 times"), ({"manifest": ""}, "no manifest"),
    ({"speakers": ["Nobody"]}, "no speaker 'Nobody'"), ({"jobs": -1}, "jobs is -1"), ({"threads": 0}, "threads is 0"),
    ({"gpu_share": 2.0}, "gpu_share is 2"), ({"iterations": 0}, "iterations is 0"),
    ({"baseline": "x"}, "baseline is 'x'; the objectives are"),
    ({"clean": "x"}, "clean is 'x'; the conditions are"), ({"objectives": {"a": {"method": "magic"}}}, "objectives.a.method is 'magic'"),
    ({"objectives": {"a": {"method": "early_stopping", "validation": 0}}}, "objectives.a.validation is 0; at least 1"),
    ({"objectives": {"a": {"method": "trimmed", "trim": 0}}}, r"objectives.a.trim is 0; it must be in \(0, 1\)"),
    ({"objectives": {"a": {"trim": 0.3}}}, "objectives.a.trim is read by method trimmed alone, and its method is plain"),
    ({"objectives": {"a": {"penalti": "l2"}}}, "objectives.a: unknown setting 'penalti'"),
    ({"objectives": {"a": {"optim": {"rate": 1}}}}, "objectives.a.optim: unknown setting 'rate'"),
    ({"conditions": {"c": {"share": 1}}}, "conditions.c: unknown setting 'share'"), ({"conditions": {"c": 3}}, "conditions.c is 3"),
    ({"conditions": {"c": {"kind": "foregin", "fraction": 0.3}}}, "conditions.c: kind is 'foregin'; it must be one of none, foreign"),
    ({"conditions": {"c": {"fraction": "much"}}}, "conditions.c: fraction is 'much'; it must be a number"),
    ({"objectives": {"a": {"delta_0": "low"}}}, "objectives.a: delta_0 is 'low'; it must be a number"),
    ({"objectives": {"a": {"optim": 3}}}, "objectives.a.optim is 3; it must be settings"),
    ({"objectives": {"a": {"iterations": "many"}}}, "objectives.a: iterations is 'many'; it must be a whole number"),
    ({"objectives": {"a": {"method": "trimmed", "trim": "half"}}}, "objectives.a: trim is 'half'; it must be a number"),
    ({"encoders": ["ears"]}, "encoders has 'ears'; choose among resemblyzer, ecapa"),
    ({"evaluation": EvaluationConfig(reference_utterances=5)}, "speaker 'Andrea' has 7 utterances, but 5 are kept as reference"),
    ({"speakers": [], "evaluation": EvaluationConfig(reference_utterances=50)}, "no speaker has the 55 utterances"),
])
def test_mistakes(manifest, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        make_plan(replace(tiny_study(manifest, tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()




@pytest.mark.parametrize("name", ["few_shot", "core", "objectives", "words", "schedules", "delta", "learning_rate", "weighting"])
def test_recipes_make_plans(manifest, tmp_path, name, capsys):
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "study" / f"{name}.yaml"
    words = ["study", "--config", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path), "--speakers", "Andrea", "--plan"]
    assert main(words) == 0
    values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    runs = len(values["conditions"]) * len(values["objectives"]) * len(values["seeds"])
    assert capsys.readouterr().out.count("to do") == runs
    stated = re.search(r"(\d+) runs", recipe.read_text(encoding="utf-8"))
    speakers = 2 if name == "learning_rate" else 6
    assert int(stated[1]) == speakers * runs
