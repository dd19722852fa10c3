"""Settings from the command line and from YAML files."""
import dataclasses
import json

import pytest

from gradtts_robust.cli import _parse
from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ModelConfig, ObjectiveConfig, PretrainConfig, from_dict
from gradtts_robust.losses import Objective
from gradtts_robust.training.loss import build_objective
from gradtts_robust.training.record import check_same_run, write_config


def objective(*argv: str) -> Objective:
    return build_objective(AdaptConfig(**_parse("adapt", list(argv), AdaptConfig)).objective, ModelConfig())


@pytest.mark.parametrize(("written", "read"), [
    ("false", False), ("true", True), ("small", "small"), ("unit", "unit"),
])
def test_matched_is_a_switch_or_the_size_of_a_residual(written, read):
    assert objective("--objective.penalty", "pseudo_huber", f"--objective.matched={written}").matched == read


def test_every_part_of_the_objective_from_the_command_line():
    built = objective("--objective.penalty", "barron", "--objective.penalty_options", '{"alpha": 0}', "--objective.weighting", "min_snr",
                      "--objective.weighting_options.gamma", "3", "--objective.weighting_clamp", "0.5", "--objective.delta_schedule", "snr",
                      "--objective.normalise_weighting", "false", "--objective.level", "frame", "--objective.delta_scale", "2")
    assert built == Objective(penalty="barron", penalty_options={"alpha": 0.0}, weighting="min_snr", weighting_options={"gamma": 3.0},
                              weighting_clamp=0.5, delta_schedule="snr", normalise_weighting=False, level="frame", delta_scale=2.0)


def test_a_recipe_and_what_overrides_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objective: {penalty: pseudo_huber, matched: unit, weighting: p2, weighting_options: {k: 2}, "
                      "weighting_clamp: 0.25}\n", encoding="utf-8")
    built = objective("--config", str(recipe), "--objective.matched", "small")
    assert built == Objective(penalty="pseudo_huber", penalty_options={}, matched="small", weighting="p2", weighting_options={"k": 2.0},
                              weighting_clamp=0.25)


@pytest.mark.parametrize(("changes", "named"), [
    ({"penalty": "cube"}, "known: l2, l1, pseudo_huber"), ({"delta_schedule": "never"}, "known: constant, exponential"),
    ({"weighting": "heavy"}, "known: constant, debias"), ({"weighting_options": {"gama": 1.0}, "weighting": "min_snr"}, "known: gamma"),
    ({"penalty_options": {"alpha": 1.0}}, "known: none"), ({"weighting_clamp": 0.0}, "weighting_clamp is 0"),
    ({"delta_0": 0.0}, r"delta_0 is 0.0; it must be in \(0, 1\]"), ({"matched": "big"}, "known: False, True, 'small', 'unit'"),
])
def test_what_does_not_exist_is_answered_by_what_does(changes, named):
    with pytest.raises(ValueError, match=named) as caught:
        build_objective(dataclasses.replace(ObjectiveConfig(), **changes), ModelConfig())
    assert "\n" not in str(caught.value)


def test_changed_options_are_another_run(tmp_path):
    config = AdaptConfig(objective=ObjectiveConfig(weighting="min_snr"))
    write_config(tmp_path, config)
    check_same_run(tmp_path, config)
    config.objective.weighting_options = {"gamma": 3.0}
    with pytest.raises(ValueError, match=r"weighting_options=\{\}, and now it is \{'gamma': 3.0\}"):
        check_same_run(tmp_path, config)


@pytest.mark.parametrize(("before", "after"), [({}, {"beta_max": 10.0}), ({"beta_max": 10.0}, {}), ({"pe_scale": 1.0}, {"beta_max": 10.0})])
def test_another_shape_of_the_model_is_another_run(tmp_path, before, after):
    write_config(tmp_path, PretrainConfig(model=before))
    check_same_run(tmp_path, PretrainConfig(model=before))
    with pytest.raises(ValueError, match=r"model=\{"):
        check_same_run(tmp_path, PretrainConfig(model=after))


@pytest.mark.parametrize("content", [b"a: [", b"only words", b"\xff\xfe", b""])
def test_broken_settings_of_a_run_are_named(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml: not a run's settings \(.*\); choose another folder with --out"):
        check_same_run(tmp_path, AdaptConfig())


def test_a_run_may_be_judged_otherwise_but_not_by_what_it_learnt_from(tmp_path):
    write_config(tmp_path, AdaptConfig())
    check_same_run(tmp_path, AdaptConfig(evaluation=EvaluationConfig(sentences="3", encoder="ecapa", steps=4)))
    with pytest.raises(ValueError, match="reference_utterances=3, and now it is 5"):
        check_same_run(tmp_path, AdaptConfig(evaluation=EvaluationConfig(reference_utterances=5)))


@pytest.mark.parametrize("config", [
    AdaptConfig(), ModelConfig(decoder_dims=(8, 16), pause_symbol=3), ObjectiveConfig(matched="unit", weighting_options={"gamma": 3}),
    CorruptionConfig(snr=(0, 5)),
])
def test_plain_values_give_the_settings_back(config):
    assert from_dict(type(config), json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(("kind", "values", "told"), [
    (ModelConfig, {"encoder_layers": 4.5}, "encoder_layers is 4.5; it must be a whole number"),
    (ModelConfig, {"encoder_layers": True}, "encoder_layers is True; it must be a whole number"),
    (ModelConfig, {"decoder_dims": 32}, "decoder_dims is 32; it must be a list, each a whole number"),
    (ModelConfig, {"decoder_dims": [32, "x"]}, "it must be a list, each a whole number"),
    (ModelConfig, {"pause_symbol": "_"}, "it must be a whole number or null"),
    (CorruptionConfig, {"snr": [1.0]}, "it must be a list of 2, each a number"),
    (ObjectiveConfig, {"matched": "big"}, "it must be true or false or one of small, unit"),
    (ObjectiveConfig, {"weighting_options": {"gamma": "x"}}, "it must be names with a number each"),
    (AdaptConfig, {"optim": 3}, "optim is 3; it must be settings"), (AdaptConfig, {"optim": {"ema": None}}, "ema is None"),
    (AdaptConfig, {3: 4}, "unknown setting 3"),
])
def test_values_of_another_type_are_refused(kind, values, told):
    with pytest.raises(ValueError, match=told):
        from_dict(kind, values)
