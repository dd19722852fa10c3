"""Every mistake that a user can make on the command line: one line on stderr, an exit code, nothing half-written."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from study_base import tiny_base

from gradtts_robust.cli import main

RATE = 22050


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, six clips of Andrea and three of others, and manifests and files with one fault each."""
    folder = tmp_path_factory.mktemp("world")
    tiny_base(folder / "base.safetensors")
    rng, rows = np.random.default_rng(0), []
    for speaker, count in (("Andrea", 6), ("Bea", 2), ("Cem", 1)):
        for number in range(count):
            time = np.arange(int(1.5 * RATE)) / RATE
            wave = 0.1 * np.sin(2 * np.pi * (120 + 40 * number) * time) + 0.01 * rng.normal(size=len(time))
            soundfile.write(folder / f"{speaker}{number}.wav", wave, RATE, subtype="PCM_16")
            rows.append(f"{speaker}{number}.wav,Some words to say.,{speaker}")
    whole = (folder / "Andrea0.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.wav").write_bytes(b"this is no sound")
    (folder / "void.wav").write_bytes(b"")
    header = "path,text,speaker"
    manifests = {
        "good": [header, *rows], "empty": [], "bare": [header], "headless": rows, "lonely": [header, *rows[:6]],
        "malformed": [header, *rows[:2], "Andrea2.wav,One, two, three,Andrea", *rows[3:]],
        "unsaid": [header, "Andrea0.wav,,Andrea", *rows[1:]], "wordless": [header, "Andrea0.wav,...,Andrea", *rows[1:]],
        **{name: [header, f"{name}.wav,Some words to say.,Andrea", *rows[1:]] for name in ("gone", "cut", "noise", "void")},
    }
    for name, lines in manifests.items():
        (folder / f"{name}.csv").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    torch.save({"generator": {"conv_pre.bias": torch.zeros(3)}}, folder / "hifigan.pt")
    (folder / "cut.safetensors").write_bytes((folder / "base.safetensors").read_bytes()[:-1000])
    (folder / "sentences.txt").write_text("Fine.\n...\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return folder


def adapt(world, out, *words, manifest="good", base="base.safetensors"):
    return ["adapt", "--base", world / base, "--manifest", world / f"{manifest}.csv", "--speaker", "Andrea", "--out", out,
            "--device", "cpu", "--evaluation.reference_utterances", "2", "--optim.threads", "1", *words]


def refusal(capsys, words, *, out=None) -> str:
    """Runs a command that is to fail and gives its one line on stderr; nothing may be on stdout, nothing where it was to write."""
    assert main([str(word) for word in words]) == 2
    seen = capsys.readouterr()
    assert re.fullmatch(rf"gradtts-robust( {words[0]})?: .*\n", seen.err), seen.err
    assert not seen.out
    assert out is None or not Path(out).exists()
    return seen.err


@pytest.mark.parametrize(("words", "told"), [
    (["nonsense"], "invalid choice: 'nonsense'.*demo.*see --help"),
    (["--nonsense"], "COMMAND.*see --help"),
    (["adapt", "--nonsense", "3"], "--nonsense.*see --help"),
    (["adapt", "--objective.nonsense", "3"], "--objective.nonsense.*see --help"),
    (["adapt", "extra"], "extra.*see --help"),
    (["adapt", "--iterations", "many"], "--iterations: expected a whole number, got many"),
    (["adapt", "--device", "tpu"], "--device: expected one of 'auto', 'cpu', 'cuda', got tpu"),
    (["adapt", "--evaluation.thresholds", "0.5", "x"], "--evaluation.thresholds: expected a number, got x"),
    (["adapt", "--corruption.fraction"], "--corruption.fraction: expected one argument"),
    (["corpus", "folder", "--limit", "few", "--out", "m.csv"], "--limit: expected a whole number or null, got few"),
    (["corpus", "nonsense", "--out", "m.csv"], "'nonsense'.*librispeech"),
    (["corpus", "librispeech", "--out", "m.csv"], "--root"),
    (["speak"], "required: model, text, out"),
    (["similarity", "a.wav"], "required: reference"),
    (["similarity", "a.wav", "--reference"], "--reference.*expected"),
    (["similarity", "--reference", "a.wav"], "required: files"),
    (["similarity", "a.wav", "--reference", "b.wav"], "a.wav: no such sound file or folder"),
    (["pretrain"], "no manifest given.*--manifests"),
    (["pretrain", "--manifests", "none.csv"], "none.csv: no such manifest"),
    (["pretrain", "--model.nonsense", "3"], "'nonsense'.*n_symbols"),
    (["pretrain", "--preset", "huge"], "'huge'.*full, small"),
    (["adapt"], "no manifest given.*--manifest"),
    (["report", "nowhere"], "nowhere"),
    (["demo", "--voice", "Nobody"], "'Nobody'.*Andrea"),
    (["demo", "--fraction", "1"], r"fraction is 1; .*\[0, 1\)"),
    (["demo", "--base", "BASE", "--delta_0", "5"], r"delta_0 is 5"),
    (["demo", "--base", "BASE", "--iterations", "0"], "iterations is 0"),
    (["demo", "--sentences", "0"], "sentences is 0"),
    (["corpus", "embedded", "--out", "x", "--limit", "2"], "embedded has no --limit"),
    (["adapt", "--out", ""], "the name of a folder.* is empty"), (["demo", "--out", ""], "the name of a folder.* is empty"),
    (["speak", "--model", "BASE", "--text", "Hi.", "--speaker", "first", "--out", ""], "give the name of a file"),
    (["audit", "BASE", "--out", "."], "'.' is a folder; give the name of a file"),
])
def test_a_wrong_word_is_told_in_one_line(words, told, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert re.search(told, refusal(capsys, [world / "base.safetensors" if word == "BASE" else word for word in words]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "told"), [
    ("iterations: many\n", "recipe.yaml: --iterations: expected a whole number, got many"),
    ("nonsense: 3\n", "recipe.yaml: .*'nonsense'"),
    ("evaluation: {nonsense: 3}\n", "recipe.yaml: .*'nonsense'"),
    ("seed: 1\niterations: [3\n", "recipe.yaml: .*line 3"),
    ("only words\n", "recipe.yaml: .*only words"),
    ("speaker: Zo\xeb\n", "recipe.yaml: not UTF-8"),
    (None, "recipe.yaml: File does not exist"),
])
def test_a_bad_recipe_is_named(text, told, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    if text is not None:
        recipe.write_text(text, encoding="latin-1")
    assert re.search(told, refusal(capsys, ["adapt", "--config", recipe, "--seed", "3"]))


@pytest.mark.parametrize(("manifest", "told"), [
    ("gone", "gone.wav: no such audio file"), ("cut", "cut.wav: cut off"), ("noise", "noise.wav: .*audio"), ("void", "void.wav: .*empty"),
    ("empty", "empty.csv: the manifest is empty"), ("bare", "bare.csv: .*no utterance"), ("headless", "headless.csv:1: .*header"),
    ("malformed", r"malformed.csv:4: 5 fields where the header has 3"), ("unsaid", "unsaid.csv:2: the field 'text' is empty"),
    ("nowhere", "nowhere.csv: no such manifest"),
])
@pytest.mark.parametrize("command", ["adapt", "pretrain"])
def test_bad_data_is_told_in_one_line(command, manifest, told, world, tmp_path, capsys):
    out = tmp_path / "runs" / "out"
    words = (adapt(world, out, manifest=manifest) if command == "adapt"
             else ["pretrain", "--manifests", world / f"{manifest}.csv", "--out", out, "--device", "cpu"])
    assert re.search(told, refusal(capsys, words, out=out))


@pytest.mark.parametrize(("words", "told"), [
    (["--speaker", "Nobody"], "no speaker 'Nobody'.*Andrea, Bea, Cem"),
    (["--manifest", "WORDLESS"], r"Andrea/Andrea0: nothing to pronounce in the text '\.\.\.'"),
    (["--corruption.kind", "foreign", "--corruption.fraction", "1"], r"corruption.fraction is 1; .*\[0, 1\)"),
    (["--corruption.kind", "foreign", "--corruption.fraction", "-0.1"], r"corruption.fraction is -0.1; .*\[0, 1\)"),
    (["--corruption.fraction", "0.3"], "corruption.kind is none"),
    (["--corruption.kind", "noise", "--corruption.fraction", "0.5", "--corruption.snr", "9", "1"], r"corruption.snr is \(9.*lowest"),
    (["--corruption.kind", "text", "--corruption.fraction", "0.5"], "no other transcript"),
    (["--corruption.kind", "foreign", "--corruption.fraction", "0.99"], "needs 4 utterances of others.* only 3"),
    (["--corruption.kind", "foreign", "--corruption.fraction", "0.3", "--manifest", "LONELY"], "other than 'Andrea'"),
    (["--utterances", "5"], "'Andrea' has 6 utterances, but 2 are kept as reference and 5 needed"),
    (["--evaluation.reference_utterances", "6"], "'Andrea' has 6 utterances"),
    (["--objective.penalty", "l3"], "'l3'.*l2, .*pseudo_huber"),
    (["--objective.delta_schedule", "soon"], "'soon'.*constant, .*exponential"),
    (["--objective.weighting", "heavy"], "'heavy'.*constant, .*min_snr"),
    (["--objective.delta_0", "0"], r"delta_0 is 0.*\(0, 1\]"),
    (["--objective.delta_0", "1.5"], r"delta_0 is 1.5.*\(0, 1\]"),
    (["--base", "HIFIGAN"], "hifigan.pt: "),
    (["--base", "CUT"], "cut.safetensors: .*truncated"),
    (["--base", "nowhere"], "nowhere: no such checkpoint"),
    (["--iterations", "0"], "iterations is 0"),
    (["--seed", "99999999999999999999"], "seed is 99999999999999999999; .*below"),
    (["--cache", "GOOD"], "good.csv.* is no folder"),
    (["--optim.segment_frames", "20"], "segment_frames is 20"),
    (["--evaluation.sentences", "SENTENCES"], "sentences.txt, line 2"),
    (["--evaluation.encoder", "ears"], "'ears'.*resemblyzer"),
    (["--evaluation.vocoder", "nowhere.pt"], "nowhere.pt"),
])
def test_a_bad_setting_is_told_in_one_line(words, told, world, tmp_path, capsys):
    places = {"GOOD": "good.csv", "LONELY": "lonely.csv", "WORDLESS": "wordless.csv", "HIFIGAN": "hifigan.pt", "CUT": "cut.safetensors",
              "SENTENCES": "sentences.txt"}
    out = tmp_path / "runs" / "out"
    words = [world / places[word] if word in places else word for word in words]
    assert re.search(told, refusal(capsys, adapt(world, out, *words), out=out))


def test_an_output_that_cannot_be_written_is_refused_before_any_work(world, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for words in (adapt(world, out), ["pretrain", "--manifests", world / "good.csv", "--out", out],
                      ["demo", "--base", world / "base.safetensors", "--out", out], ["corpus", "embedded", "--out", out],
                      ["corpus", "filelist", "--root", world / "good.csv", "--out", out / "x.csv"],
                      ["speak", "--model", world / "base.safetensors", "--text", "Hi.", "--speaker", "first", "--out", out / "x.wav"]):
            assert re.search("file.*choose another", refusal(capsys, words))
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("words", "told"), [
    (["--text", ""], "text"), (["--text", " ... "], "nothing to pronounce in the text"),
    (["--speaker", "Nobody"], "'Nobody'.*first, second, third"), (["--speaker", "3"], "unknown speaker 3: rows 0 to 2"),
    (["--solver", "magic"], "'magic'.*ode"), (["--steps", "0"], "steps"),
    (["--temperature", "0"], "temperature"), (["--length_scale", "-1"], "length_scale"), (["--vocoder", "nowhere"], "nowhere"),
    (["--model", "HIFIGAN"], "hifigan.pt"), (["--model", "EMPTY"], "empty: holds neither"), (["--model", "nowhere"], "nowhere: no such"),
    (["--out", "x.mp3"], "x.mp3: .*wav or .flac"), (["--seed", "-1"], "seed is -1"), (["--seed", "99999999999"], "seed is 99999999999"),
])
def test_speaking_badly_is_told_in_one_line(words, told, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"HIFIGAN": world / "hifigan.pt", "EMPTY": world / "empty"}
    said = {"--model": world / "base.safetensors", "--text": "Hello.", "--speaker": "first", "--out": "x.wav", "--steps": "1",
            "--device": "cpu", words[0]: places.get(words[1], words[1])}
    assert re.search(told, refusal(capsys, ["speak", *(word for pair in said.items() for word in pair)]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("reference", "told"), [
    ("gone.wav", "gone.wav: no such"), ("cut.wav", "cut.wav: cut off"), ("noise.wav", "noise.wav: cannot be read"),
    ("empty", "empty: no sound file"),
])
def test_comparing_badly_is_told_in_one_line(reference, told, world, capsys):
    for judged, against in (("Andrea0.wav", reference), (reference, "Andrea0.wav")):
        assert re.search(told, refusal(capsys, ["similarity", world / judged, "--reference", world / against, "--device", "cpu"]))


def test_libraries_add_nothing_to_the_line(world, tmp_path):
    """In a process of its own, where warnings of imports would show."""
    words = [str(word) for word in adapt(world, tmp_path / "out", manifest="cut")]
    done = subprocess.run([sys.executable, "-m", "gradtts_robust", *words], capture_output=True, text=True, timeout=280)
    assert done.returncode == 2 and not done.stdout and not (tmp_path / "out").exists()
    assert re.fullmatch(r"gradtts-robust adapt: \S*cut.wav: cut off.*\n", done.stderr), done.stderr


def test_the_trace_is_there_for_whoever_asks(world, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADTTS_DEBUG", "1")
    with pytest.raises(ValueError, match=r"no speaker 'x'"):
        main([str(word) for word in adapt(world, tmp_path / "out", "--speaker", "x")])


def test_the_system_s_own_errors_name_the_file(monkeypatch, capsys):
    def full(argv):
        raise OSError(28, "No space left on device", "runs/x.wav")

    monkeypatch.setattr("gradtts_robust.cli._doctor", full)
    assert "runs/x.wav: no space left on device; make room" in refusal(capsys, ["doctor"])


def test_stopping_is_no_error_with_a_trace(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt

    for command, goes_on in (("adapt", True), ("study", True), ("doctor", False), ("speak", False)):
        monkeypatch.setattr(f"gradtts_robust.cli._{command}", stop)
        assert main([command]) == 130
        told = capsys.readouterr().err
        assert told.startswith(f"gradtts-robust {command}: stopped") and ("goes on from it" in told) == goes_on
