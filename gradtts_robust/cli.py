"""The command line. Nothing imports this; heavy modules are imported by the command that needs them."""
from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from gradtts_robust import __version__
from gradtts_robust.config import DEFAULT_VOCODER, AdaptConfig, PretrainConfig

COMMANDS = {
    "demo": "few-shot adaptation on the embedded corpus: clean, dirty, dirty with the robust loss; writes a report",
    "pretrain": "train a multi-speaker base from manifests",
    "adapt": "teach a base a new speaker, from clean or deliberately corrupted data, and judge it over the iterations",
    "speak": "synthesise a text",
    "similarity": "speaker similarity of wave files to a reference",
    "study": "many adaptations, speakers x conditions x objectives x seeds: planned, resumed, compared and reported",
    "report": "write a run's or a study's report.html again from its results",
    "audit": "list utterances that don't sound like their speaker, and write a manifest without them",
    "analyze": "what a checkpoint errs by at each diffusion time, and what each contributes under several objectives",
    "corpus": "make a manifest from a corpus, or generate the embedded corpus",
    "doctor": "what this machine has and what is missing",
}
RESUMED = ("demo", "pretrain", "adapt", "study")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code, 0 only on success. User mistakes become one line on stderr, with code 2."""
    argv = sys.argv[1:] if argv is None else argv
    top = _Top(
        prog="gradtts-robust", description="Few-shot voice adaptation that withstands dirty data.",
        formatter_class=argparse.RawDescriptionHelpFormatter, usage="gradtts-robust COMMAND [--help] [OPTIONS]",
        epilog="commands:\n" + "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
               + "\n\nEvery command: --help, --config FILE.yaml; GRADTTS_DEBUG=1 shows where an error came from.")
    top.add_argument("--version", action="version", version=f"gradtts-robust {__version__}")
    top.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="one of those below")
    program = top.prog
    try:
        command = top.parse_args(argv[:1] or ["--help"]).command
        program = f"{program} {command}"
        return globals()[f"_{command}"](argv[1:]) or 0
    except KeyboardInterrupt:
        goes_on = "; the last checkpoint stays, the same command goes on from it" if program.split()[-1] in RESUMED else ""
        print(f"{program}: stopped{goes_on}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("GRADTTS_DEBUG"):
            raise
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
        return 2


class _Top(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room and give the same command again" if full else "choose a path that can be read or written"
        return f"{place or 'a file'}: {error.strerror[0].lower()}{error.strerror[1:]}; {remedy}"
    return " ".join(str(error).split()) or type(error).__name__


def _parse(command: str, argv: list[str], *targets: Callable, positionals: dict[str, dict] | None = None) -> dict:
    from gradtts_robust.options import parse

    return parse(argv, *targets, program=f"gradtts-robust {command}", description=COMMANDS[command], positionals=positionals)


class _Bars:
    """Progress bars with the time left, or one line per tenth of the way where stderr is no terminal."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.live = console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.fields[detail]}"), console=console, disable=not self.live)
        self.tasks: dict[str, int] = {}
        self.told: dict[str, int] = {}

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, *error) -> None:
        self.progress.stop()

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total, detail="")
        self.progress.update(self.tasks[stage], completed=done, total=total, detail=detail)
        tenth = 10 * done // max(total, 1)
        if not self.live and tenth != self.told.get(stage):
            self.told[stage] = tenth
            print(f"{stage}: {done}/{total} {detail}".rstrip(), file=sys.stderr, flush=True)


def _demo(argv: list[str]) -> None:
    from gradtts_robust.config import DemoConfig

    config = DemoConfig(**_parse("demo", argv, DemoConfig))
    from gradtts_robust.study.demo import run_demo

    _experiment(run_demo, config)


def _pretrain(argv: list[str]) -> None:
    config = PretrainConfig(**_parse("pretrain", argv, PretrainConfig))
    from gradtts_robust.training.pretrain import pretrain

    with _Bars() as bars:
        checkpoint = pretrain(config, progress=bars)
    print(f"base: {checkpoint}")


def _adapt(argv: list[str]) -> None:
    config = AdaptConfig(**_parse("adapt", argv, AdaptConfig))
    from gradtts_robust.study.experiment import run_adaptation

    _experiment(run_adaptation, config)


def _experiment(run: Callable, config) -> None:
    with _Bars() as bars:
        summary = run(config, progress=bars)
    print(summary.text)
    print(f"report: {summary.report}")


def _speak(argv: list[str]) -> None:
    def speak(
        *, model: str, text: str, out: str, speaker: str | None = None, steps: int = 10, temperature: float = 1.5,
        length_scale: float = 0.91, solver: str = "ode", vocoder: str = DEFAULT_VOCODER,
        device: Literal["auto", "cpu", "cuda"] = "auto", seed: int = 0,
    ):
        """Speaks a text.

        Args:
            model: run folder, checkpoint, or the original's .pt file.
            text: what to say.
            out: wave file to write.
            speaker: name or number of the speaker; by default the one that the model was adapted to.
            steps: steps of the reverse process.
            temperature: divides the start noise; above 1 is calmer.
            length_scale: multiplies the durations; below 1 is faster.
            solver: of the reverse process.
            vocoder: `griffin-lim`, `vocoder-small` or the path of a vocoder's or a HiFi-GAN generator's checkpoint.
            device: where to compute.
            seed: of the start noise.
        """

    asked = _parse("speak", argv, speak)
    from gradtts_robust.files import check_file
    from gradtts_robust.speech.audio import save_wav
    from gradtts_robust.training.voice import load

    check_file(asked["out"])
    tts = load(asked["model"], device=asked["device"], vocoder=asked["vocoder"])
    speech = tts.speak(asked["text"], **{name: asked[name] for name in (
        "speaker", "steps", "temperature", "length_scale", "solver", "seed")})
    save_wav(asked["out"], speech.wave, speech.sample_rate)
    print(f"{asked['out']}: {len(speech.wave) / speech.sample_rate:.2f} s")


def _similarity(argv: list[str]) -> None:
    def similarity(*, reference: list[str], encoder: str = "resemblyzer", source: str | None = None,
                   device: Literal["auto", "cpu", "cuda"] = "auto"):
        """Cosine similarity of each file to the centroid of the reference.

        Args:
            reference: wave files, or folders of them.
            encoder: `resemblyzer` or `ecapa`.
            source: of the `ecapa` weights: a .safetensors file, a folder or a hub name; by default the shipped ones.
            device: where to compute.
        """

    asked = _parse("similarity", argv, similarity, positionals={
        "files": {"nargs": "+", "type": str, "help": "wave files to judge, before the options"}})
    from gradtts_robust.study.metrics import file_similarity

    rows = file_similarity(asked["files"], asked["reference"], encoder=asked["encoder"], source=asked["source"], device=asked["device"])
    for name, value in rows:
        print(f"{value:.4f}  {name}")
    if len(rows) > 1:
        print(f"{sum(value for _, value in rows) / len(rows):.4f}  mean of {len(rows)}")


def _report(argv: list[str]) -> None:
    asked = _parse("report", argv, positionals={"folder": {"type": str, "help": "run folder, or a study's"}})
    from gradtts_robust import cli_study

    print(cli_study.report(Path(asked["folder"])))


def _study(argv: list[str]) -> int:
    from gradtts_robust import cli_study

    return cli_study.study(argv, parse=_parse, bars=_Bars)


def _audit(argv: list[str]) -> None:
    from gradtts_robust import cli_study

    cli_study.audit(argv, parse=_parse, bars=_Bars)


def _analyze(argv: list[str]) -> None:
    def analyze(*, model: str, manifest: str, out: str = "runs/analysis", times: int = 10, delta_0: float = 0.1, limit: int = 32,
                cache: str = "", device: Literal["auto", "cpu", "cuda"] = "auto", seed: int = 0):
        """Analyses a checkpoint on a manifest's utterances.

        Args:
            model: run folder or checkpoint.
            manifest: utterances of speakers that it knows, such as an adaptation's train.csv, whose foreign utterances are told apart.
            out: folder for tables, figures and analysis.html.
            times: how many diffusion times.
            delta_0: of the objectives with a delta.
            limit: at most so many utterances, spread over the manifest; 0 for all.
            cache: folder of cached features; empty for `features` in `out`.
            device: where to compute.
            seed: of segments and noise.
        """

    asked = _parse("analyze", argv, analyze)
    from gradtts_robust.study.analysis import run_analysis

    with _Bars() as bars:
        page = run_analysis(**asked, progress=bars)
    print(f"analysis: {page}")


def _corpus(argv: list[str]) -> None:
    from gradtts_robust import cli_corpus

    cli_corpus.corpus(argv, parse=_parse, bars=_Bars)


def _doctor(argv: list[str]) -> int:
    _parse("doctor", argv)
    from gradtts_robust.study.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok     ' if finding.ok else 'MISSING' if finding.needed else 'absent '}  {finding.name:<22}{finding.text}")
    return 0 if all(finding.ok or not finding.needed for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
