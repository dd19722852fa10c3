from dataclasses import replace

import pandas as pd
import pytest
from study_base import check_page, tiny_base

from gradtts_robust.config import DemoConfig
from gradtts_robust.data.generated import VOICES
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.study.demo import CLEAN, DIRTY, ROBUST, make_corpus, plan, run_demo
from gradtts_robust.study.evaluation import Evaluation


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = DemoConfig(out=str(folder / "out"), base=str(tiny_base(folder / "base.safetensors")), utterances=4, fraction=0.5, iterations=2,
                        checkpoint_every=2, sentences=2, device="cpu")
    told = []
    return config, run_demo(config, progress=lambda *words: told.append(words)), told


def test_three_conditions_with_the_same_data_seeds_and_sentences(demo):
    _config, summary, told = demo
    out = summary.report.parent
    table = summary.table
    assert list(table.groupby("condition", sort=False).size().items()) == [(CLEAN, 4), (DIRTY, 4), (ROBUST, 4)]
    assert all((out / sample).is_file() for sample in table["sample"])
    learnt = {name: [u.path for u in read_manifest(out / name / "train.csv")] for name in (CLEAN, DIRTY, ROBUST)}
    assert learnt[DIRTY] == learnt[ROBUST] and len(set(learnt[DIRTY]) & set(learnt[CLEAN])) == 2 == len(learnt[CLEAN]) - 2
    assert all("Andrea" in path for path in learnt[CLEAN])
    assert len({tuple(u.path for u in read_manifest(out / name / "reference.csv")) for name in learnt}) == 1
    # before training, the dirty conditions are one and the same model
    start = table[table["iteration"] == 0].set_index("condition")["similarity"]
    assert start[DIRTY].to_list() == pytest.approx(start[ROBUST].to_list(), abs=1e-6)
    assert table["pollution_similarity"].notna().all()
    assert {words[0] for words in told} == {"corpus"} | {f"{name}: {stage}" for name in learnt for stage in ("training", "evaluation")}


def test_the_text_and_the_report_tell_the_same(demo):
    _config, summary, _ = demo
    lines = summary.text.splitlines()
    mean = summary.table.query("condition == @DIRTY and iteration == 2")["similarity"].mean()
    assert lines[1].split() == ["0", "2"] and lines[3].split() == [DIRTY, lines[3].split()[1], f"{mean:.3f}"]
    assert any(line.startswith(f"{ROBUST}: ") and "against clean-l2" in line for line in lines) and lines[-1].endswith("minutes")
    page = check_page(summary.report)
    assert f"{mean:.3f}" in page.text and "target, same sentence" not in page.text and page.tags["img"] == 1
    # 6 held-out clips, then 2 sentences of the target and of 3 conditions, then the start of 3
    assert page.tags["audio"] == 6 + 2 * 4 + 3


def test_a_finished_demo_speaks_nothing_again(demo, monkeypatch):
    config, summary, _ = demo
    monkeypatch.setattr(Evaluation, "_speak", lambda *_: pytest.fail("it spoke again"))
    pd.testing.assert_frame_equal(run_demo(config).table, summary.table)


def test_the_conditions_differ_in_corruption_and_objective_alone():
    clean, dirty, robust = plan(DemoConfig()).values()
    blank = {"out": "", "objective": clean.objective, "corruption": clean.corruption}
    assert replace(clean, **blank) == replace(dirty, **blank) == replace(robust, **blank)
    assert (clean.corruption.kind, dirty.corruption, dirty.objective) == ("none", robust.corruption, clean.objective)
    assert (robust.objective.penalty, robust.objective.delta_schedule, dirty.corruption.fraction) == ("pseudo_huber", "exponential", 0.3)


def test_no_polluter_is_a_target_and_one_corpus_serves_again(tmp_path):
    config = DemoConfig(out=str(tmp_path), voice="ian", utterances=2, fraction=0.5)
    manifest = make_corpus(config)
    speakers = {u.speaker for u in read_manifest(manifest)}
    assert [name for name in speakers if VOICES[name].target] == ["ian"] and len(speakers) > 10
    before = manifest.stat().st_mtime_ns
    assert make_corpus(config).stat().st_mtime_ns == before
    assert len(read_manifest(make_corpus(replace(config, utterances=3)))) == len(read_manifest(manifest))
    assert manifest.stat().st_mtime_ns > before


@pytest.mark.parametrize("changes, words", [({"voice": "nobody"}, "never heard are Andrea"), ({"fraction": 1.0}, "fraction is 1"),
                                            ({"utterances": 0}, "utterances is 0"), ({"sentences": 0}, "sentences is 0"),
                                            ({"base": "no/such"}, "no/such")])
def test_mistakes_come_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run_demo(DemoConfig(out=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_another_demo_in_the_same_folder_is_refused(demo):
    config, summary, _ = demo
    before = (summary.report.parent / "corpus" / "manifest.csv").read_bytes()
    with pytest.raises(ValueError, match="holds a run with"):
        run_demo(replace(config, voice="ian"))
    assert (summary.report.parent / "corpus" / "manifest.csv").read_bytes() == before
