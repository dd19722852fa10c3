"""Corpus readers: LibriSpeech on the real files, the others on small trees in their published layout."""
import os

import pytest

from gradtts_robust.data.corpora import CORPORA, read_corpus
from gradtts_robust.data.manifest import read_manifest, validate, write_manifest


def tree(root, **files):
    """Files by path; an audio file holds nothing, since readers must not open audio."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def libritts_root(tmp_path):
    return tree(tmp_path / "LibriTTS", **{
        "dev-clean/84/121550/84_121550_000007_000000.wav": "",
        "dev-clean/84/121550/84_121550_000007_000000.normalized.txt": "Hello, Mr. Smith.\n",
        "dev-clean/84/121550/84_121550_000007_000000.original.txt": "Hello, Mr Smith.",
        "dev-clean/84/121550/84_121550_000009_000000.normalized.txt": "x",
        "dev-clean/1272/1/1272_1_000001_000000.wav": "", "dev-clean/1272/1/1272_1_000001_000000.normalized.txt": "Two\nlines.",
        "test-clean/61/2/61_2_000001_000000.wav": "", "test-clean/61/2/61_2_000001_000000.normalized.txt": "Other."})


def vctk_root(tmp_path):
    return tree(tmp_path / "VCTK", **{
        "txt/p225/p225_001.txt": "Please call Stella.\n", "wav48_silence_trimmed/p225/p225_001_mic1.flac": "",
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": "", "wav48_silence_trimmed/p315/p315_001_mic1.flac": "",
        "txt/s5/s5_001.txt": "Ask her.", "wav48_silence_trimmed/s5/s5_001_mic1.flac": "", "wav48_silence_trimmed/log.txt": ""})


def short(root, utterances):
    return [(os.path.relpath(u.path, root), u.text, u.speaker) for u in utterances]


def test_real_librispeech(librispeech):
    utterances = read_corpus("librispeech", librispeech, subset="test-other")
    assert len(utterances) == 60 and len({u.speaker for u in utterances}) == 6 and len({u.id for u in utterances}) == 60
    first = next(u for u in utterances if u.path.endswith("367-130732-0000.flac"))
    assert (first.text, first.speaker, first.extra) == ("LOBSTERS AND LOBSTERS", "367", {"corpus": "librispeech", "subset": "test-other"})
    assert all(os.path.basename(u.path).split("-")[0] == u.speaker for u in utterances)
    validate(utterances)
    everything = read_corpus("librispeech", librispeech)
    assert len(everything) == 310 and len({u.speaker for u in everything}) == 256
    few = read_corpus("librispeech", librispeech, subset="test-other", speakers=["367", "1688"], limit=4)
    assert [u.speaker for u in few] == ["367"] * 4 + ["1688"] * 4


def test_real_librispeech_goes_through_a_manifest(librispeech, tmp_path):
    utterances = read_corpus("librispeech", librispeech, subset="test-other", speakers=["367"])
    write_manifest(tmp_path / "libri" / "manifest.csv", utterances)
    assert read_manifest(tmp_path / "libri" / "manifest.csv") == utterances


def test_real_librispeech_lists_what_there_is(librispeech):
    with pytest.raises(ValueError, match=r"no subset 'dev-clean'; the subsets there are .*test-other.*train-clean-100"):
        read_corpus("librispeech", librispeech, subset="dev-clean")
    with pytest.raises(ValueError, match="no speaker '4'; there are: 367, 533"):
        read_corpus("librispeech", librispeech, subset="test-other", speakers=["4"])


def test_librispeech_transcripts(tmp_path):
    root = tree(tmp_path, **{"dev/1/2/1-2.trans.txt": "1-2-0000 GONE\n1-2-0001 HERE IT IS\n",
                             "dev/1/2/1-2-0001.flac": "", "dev/1/2/1-2-0002.flac": ""})
    assert short(root, read_corpus("librispeech", root)) == [("dev/1/2/1-2-0001.flac", "HERE IT IS", "1")]
    tree(root, **{"dev/1/2/1-2.trans.txt": "1-2-0001 HERE\n1-2-0002\n"})
    with pytest.raises(ValueError, match=r"1-2\.trans\.txt:2: no text after '1-2-0002'"):
        read_corpus("librispeech", root)


def test_libritts(tmp_path):
    root = libritts_root(tmp_path)
    assert short(root, read_corpus("libritts", root, subset="dev-clean")) == [
        ("dev-clean/84/121550/84_121550_000007_000000.wav", "Hello, Mr. Smith.", "84"),
        ("dev-clean/1272/1/1272_1_000001_000000.wav", "Two lines.", "1272")]
    assert [u.speaker for u in read_corpus("libritts", root)] == ["84", "1272", "61"]
    tree(root, **{"dev-clean/84/121550/84_121550_000007_000000.normalized.txt": " \n"})
    with pytest.raises(ValueError, match=r"000007_000000\.normalized\.txt: the transcript is empty"):
        read_corpus("libritts", root)
    (root / "dev-clean/84/121550/84_121550_000007_000000.normalized.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"000007_000000\.normalized\.txt: not UTF-8"):
        read_corpus("libritts", root)
    with pytest.raises(ValueError, match="no subset 'dev'; the subsets there are dev-clean, test-clean"):
        read_corpus("libritts", root, subset="dev")


def test_vctk(tmp_path):
    root = vctk_root(tmp_path)
    audio = "wav48_silence_trimmed"
    assert short(root, read_corpus("vctk", root)) == [
        (f"{audio}/p225/p225_001_mic1.flac", "Please call Stella.", "p225"), (f"{audio}/s5/s5_001_mic1.flac", "Ask her.", "s5")]
    assert short(root, read_corpus("vctk", root, subset="mic2")) == [(f"{audio}/p225/p225_001_mic2.flac", "Please call Stella.", "p225")]
    with pytest.raises(ValueError, match="no subset 'mic3'; the subsets there are mic1, mic2"):
        read_corpus("vctk", root, subset="mic3")
    with pytest.raises(ValueError, match="no speaker 'p999'; there are: p225, p315, s5"):
        read_corpus("vctk", root, speakers=["p999"])
    with pytest.raises(FileNotFoundError, match=r"no folder wav48_silence_trimmed, so not VCTK.*there are: p225, s5"):
        read_corpus("vctk", root / "txt")


def test_ljspeech(tmp_path):
    lines = ['LJ001-0001|In 1465, "print"|In fourteen sixty-five, "print"', "LJ001-0002|Gone.|Gone.", "LJ001-0003|Two.", ""]
    root = tree(tmp_path, **{"metadata.csv": "\n".join(lines),
                             "wavs/LJ001-0001.wav": "", "wavs/LJ001-0003.wav": ""})
    assert short(root, read_corpus("ljspeech", root)) == [
        ("wavs/LJ001-0001.wav", 'In fourteen sixty-five, "print"', "LJ"), ("wavs/LJ001-0003.wav", "Two.", "LJ")]
    with pytest.raises(ValueError, match="no subset 'train'; this corpus has no subsets"):
        read_corpus("ljspeech", root, subset="train")
    tree(root, **{"metadata.csv": "LJ001-0001|In|In\nLJ001-0003\n"})
    with pytest.raises(ValueError, match=r"metadata\.csv:2: 1 fields"):
        read_corpus("ljspeech", root)
    with pytest.raises(FileNotFoundError, match=r"no metadata.csv, so not LJSpeech"):
        read_corpus("ljspeech", root / "wavs")


def test_filelist_paths_start_where_training_was_started(tmp_path):
    root = tree(tmp_path, **{"resources/filelists/train.txt": "data/a.wav|Hello.|3\ndata/b.wav|Bye.|7\n",
                             "data/a.wav": "", "data/b.wav": "",
                             "plain/list.txt": "x.wav|Hello.\n", "plain/x.wav": ""})
    expected = [("data/a.wav", "Hello.", "3"), ("data/b.wav", "Bye.", "7")]
    assert short(root, read_corpus("filelist", root / "resources/filelists/train.txt")) == expected
    assert short(root, read_corpus("filelist", root / "resources/filelists", subset="train.txt")) == expected
    assert short(root, read_corpus("filelist", root / "plain/list.txt")) == [("plain/x.wav", "Hello.", "0")]
    with pytest.raises(ValueError, match=r"there are: train\.txt"):
        read_corpus("filelist", root / "resources/filelists", subset="valid.txt")
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_corpus("filelist", root / "none.txt")


def test_folder_with_a_manifest(tmp_path):
    root = tree(tmp_path, **{"mine.csv": "path,text,speaker\na.wav,Hello.,Ann\nb.wav,Bye.,Bo\n"})
    assert short(root, read_corpus("folder", root, speakers=["Bo"])) == [("b.wav", "Bye.", "Bo")]
    with pytest.raises(ValueError, match="no speaker 'Cy'; there are: Ann, Bo"):
        read_corpus("folder", root, speakers=["Cy"])
    tree(root, **{"more.csv": "path,text,speaker\nc.wav,Hi.,Cy\n"})
    assert short(root, read_corpus("folder", root, subset="more")) == [("c.wav", "Hi.", "Cy")]
    with pytest.raises(ValueError, match=r"2 CSV files.*there are: mine\.csv, more\.csv"):
        read_corpus("folder", root)
    with pytest.raises(ValueError, match=r"no manifest less\.csv; there are: mine\.csv, more\.csv"):
        read_corpus("folder", root, subset="less")


def test_one_speaker_in_two_subsets_keeps_ids_apart(tmp_path):
    root = tree(tmp_path, **{f"{s}/1/2/{n}": t for s in ("a", "b") for n, t in (("1-2.trans.txt", "1-2-0000 HI\n"), ("1-2-0000.flac", ""))})
    utterances = read_corpus("librispeech", root)
    assert len({u.id for u in utterances}) == 2 and {u.speaker for u in utterances} == {"1"}


@pytest.mark.parametrize("name", [name for name in CORPORA if name != "filelist"])
def test_missing_and_empty_roots(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_corpus(name, tmp_path / "none")
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        read_corpus(name, tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_unknown_corpus_and_limit(tmp_path):
    with pytest.raises(ValueError, match="unknown corpus 'libri'; known: librispeech, libritts"):
        read_corpus("libri", tmp_path)
    with pytest.raises(ValueError, match="limit is 0"):
        read_corpus("libritts", libritts_root(tmp_path), limit=0)
