"""The command line as a user meets it: help, recipes, lists, a whole run. Mistakes are in test_bad_input.py."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from study_base import tiny_base

import gradtts_robust
from gradtts_robust import options
from gradtts_robust.cli import COMMANDS, main
from gradtts_robust.config import AdaptConfig, PretrainConfig
from gradtts_robust.data.manifest import read_manifest

HEAVY = ("torch", "numba", "pandas", "matplotlib", "librosa", "scipy", "soundfile", "numpy")
RATE = 22050


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light(command):
    """Told by what it imports, as a time would depend on the machine."""
    code = (f"import sys\nfrom gradtts_robust.cli import main\ntry:\n    main({[command, '--help'] if command else ['--help']!r})\n"
            "except SystemExit as end:\n    assert not end.code\n"
            f"assert not sys.modules.keys() & set({HEAVY!r}), sorted(sys.modules.keys() & set({HEAVY!r}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("usage: gradtts-robust")
    known = COMMANDS if not command else [COMMANDS[command]]
    assert all(text.split(",")[0] in " ".join(done.stdout.split()) for text in known)


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, gradtts_robust\nassert not sys.modules.keys() & set({HEAVY!r})"
    assert subprocess.run([sys.executable, "-c", code], timeout=280).returncode == 0


@pytest.mark.parametrize("command", ["speak", "similarity"])
def test_first_results_wait_for_no_library_that_they_can_do_without(tmp_path, command):
    """Torch's compiler, numba's and the table and figure makers take a second each to import."""
    wave = tmp_path / "x.wav"
    soundfile.write(wave, np.sin(np.arange(RATE) * 0.05), RATE)
    words = ["similarity", wave, "--reference", wave] if command == "similarity" else [
        "speak", "--model", tiny_base(tmp_path / "base.safetensors"), "--speaker", "0", "--text", "Hello.", "--steps", "1", "--out", wave]
    unneeded = ("torch._dynamo", "sympy", "numba", "pandas", "matplotlib", "librosa", "scipy", "speechbrain", "accelerate")
    code = (f"import sys\nfrom gradtts_robust.cli import main\nassert main({[*map(str, words), '--device', 'cpu']!r}) == 0\n"
            f"assert not sys.modules.keys() & set({unneeded!r}), sorted(sys.modules.keys() & set({unneeded!r}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


def test_console_script_and_version(capsys):
    script = Path(sys.executable).with_name("gradtts-robust")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout) == (0, f"gradtts-robust {gradtts_robust.__version__}\n")


def test_from_a_corpus_to_a_voice_that_is_judged(tmp_path, capsys):
    base = tiny_base(tmp_path / "base.safetensors")
    assert main(["corpus", "embedded", "--speakers", "Andrea", "Reed", "--sentences", "5", "--out", str(tmp_path / "corpus")]) == 0
    manifest = tmp_path / "corpus" / "manifest.csv"
    assert {u.speaker for u in read_manifest(manifest)} == {"Andrea", "Reed"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({
        "base": str(base), "manifest": str(manifest), "speaker": "Andrea", "iterations": 9, "device": "cpu", "seed": 5,
        "objective": {"penalty": "pseudo_huber", "delta_0": 0.2}, "corruption": {"kind": "foreign", "fraction": 0.4},
        "optim": {"batch_size": 2, "segment_frames": 16, "checkpoint_every": 2, "threads": 1},
        "evaluation": {"sentences": "1", "reference_utterances": 2, "steps": 1}}), encoding="utf-8")
    run_folder = tmp_path / "run"
    assert main(["adapt", "--config", str(tmp_path / "recipe.yaml"), "--iterations", "2", "--objective.delta_0", "0.5",
                 "--out", str(run_folder)]) == 0
    written = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
    assert (written["iterations"], written["seed"], written["corruption"]["fraction"]) == (2, 5, 0.4)
    assert (written["objective"]["penalty"], written["objective"]["delta_0"]) == ("pseudo_huber", 0.5)
    assert {"results.csv", "report.html", "metrics.csv", "log.jsonl", "environment.json"} <= {path.name for path in run_folder.iterdir()}

    spoken = tmp_path / "not" / "yet" / "there" / "x.wav"
    assert main(["speak", "--model", str(run_folder), "--text", "Hello there.", "--out", str(spoken), "--steps", "2",
                 "--device", "cpu"]) == 0
    wave, rate = soundfile.read(spoken)
    assert rate == RATE and len(wave) and len(wave) % 256 == 0
    (run_folder / "report.html").unlink()
    assert main(["report", str(run_folder)]) == 0 and (run_folder / "report.html").is_file()

    capsys.readouterr()
    clips = sorted((tmp_path / "corpus" / "wavs" / "Andrea").glob("*.wav"))
    others = sorted((tmp_path / "corpus" / "wavs" / "Reed").glob("*.wav"))
    tables = []
    for reference in (["--reference", clips[0].parent], [f"--reference={clips[0].parent}"], ["--reference", *clips],
                      ["--reference", clips[0], "--reference", *clips[1:]]):
        assert main([str(word) for word in ("similarity", clips[0], others[0], *reference, "--device", "cpu")]) == 0
        tables.append(capsys.readouterr().out)
    assert len(set(tables)) == 1
    own, other, mean = (float(line.split()[0]) for line in tables[0].splitlines())
    assert own > 0.85 > other and mean == pytest.approx((own + other) / 2, abs=1e-4)
    assert main([str(word) for word in ("similarity", "--reference", clips[0], "--device", "cpu", "--", clips[1])]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(("words", "expected"), [
    (["--manifests", "a.csv", "b.csv", "--seed", "3"], ["a.csv", "b.csv"]),
    (["--manifests=a.csv", "--seed", "3", "--manifests", "b c.csv"], ["a.csv", "b c.csv"]),
    (["--manifests", "[a.csv, b.csv]", "--seed=3"], ["a.csv", "b.csv"]),
    (["--manifests", "367", "1,2", "null", "--seed=3"], ["367", "1,2", "null"]),
    (["--config", "RECIPE", "--manifests", "a.csv"], ["a.csv"]),
    (["--manifests", "a.csv", "--config", "RECIPE"], ["r.csv", "s.csv"]),
    (["--config=RECIPE"], ["r.csv", "s.csv"]),
])
def test_lists_as_a_shell_user_writes_them(tmp_path, words, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("manifests: [r.csv, s.csv]\nseed: 3\n", encoding="utf-8")
    words = [word.replace("RECIPE", str(recipe)) for word in words]
    values = options.parse(words, PretrainConfig, program="pretrain", description="")
    assert (values["manifests"], values["seed"]) == (expected, 3)


def test_lists_of_numbers():
    values = options.parse(["--evaluation.thresholds", ".5", "-1", "0.7", "--corruption.snr", "-3", "5.5", "--seed", "1"],
                           AdaptConfig, program="adapt", description="")
    assert values["evaluation"].thresholds == (0.5, -1.0, 0.7)
    assert values["corruption"].snr == (-3.0, 5.5)
    assert options.list_options(AdaptConfig) == {"--evaluation.thresholds": float, "--corruption.snr": float}


def test_speakers_of_a_corpus(librispeech, tmp_path, capsys):
    out = tmp_path / "manifest.csv"
    assert main(["corpus", "librispeech", "--root", str(librispeech), "--subset", "test-other", "--speakers", "367", "533",
                 "--limit", "2", "--out", str(out)]) == 0
    assert [u.speaker for u in read_manifest(out)] == ["367", "367", "533", "533"]
    assert capsys.readouterr().out == f"{out}: 4 utterances of 2 speakers\n"


def test_doctor_lists_what_there_is(capsys):
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5 and code == (1 if any(line.startswith("MISSING") for line in lines) else 0)
