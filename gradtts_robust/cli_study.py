"""The commands that run and prepare studies; `cli` calls them."""
from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

FLAGS = {
    "--plan": {"action": "store_true", "help": "print the runs and a time estimate, and start nothing"},
    "--quick": {"action": "store_true", "help": "a small study of the same kind that ends within minutes"},
}


def study(argv: list[str], *, parse: Callable, bars: Callable) -> int:
    """Plans, runs or resumes a study; 1 where runs failed."""
    from gradtts_robust.config_grid import StudyConfig

    asked = parse("study", argv, StudyConfig, positionals=FLAGS)
    planned, small = asked.pop("plan"), asked.pop("quick")
    config = StudyConfig(**asked)
    from gradtts_robust.study.grid import plan_text, run_study
    from gradtts_robust.study.plan import quick

    config = quick(config) if small else config
    if planned:
        print(plan_text(config))
        return 0
    with bars() as shown:
        result = run_study(config, command=shlex.join(["gradtts-robust", "study", *argv]), progress=shown)
    print(result.text)
    if result.report:
        print(f"report: {result.report}")
    for outcome in result.failed:
        print(f"gradtts-robust study: failed: {outcome.name}: {outcome.error}", file=sys.stderr)
    return 1 if result.failed else 0


def audit(argv: list[str], *, parse: Callable, bars: Callable) -> None:
    """Lists utterances that don't sound like their speaker."""
    def audit(*, out: str = "", threshold: float = 0.5, speakers: list[str] | None = None, cache: str = ""):
        """Audits a manifest.

        Args:
            out: manifest to write with what is kept, all columns as they were.
            threshold: least score of what is kept, in [0, 1].
            speakers: only these are judged; the others are kept.
            cache: folder of cached embeddings; empty for none.
        """

    asked = parse("audit", argv, audit, positionals={"manifest": {"type": str, "help": "manifest to audit"}})
    from gradtts_robust.data.manifest import read_manifest
    from gradtts_robust.files import check_file
    from gradtts_robust.study.audit import audit_lines, audit_manifest, write_kept

    if asked["out"]:
        check_file(asked["out"])
    utterances = read_manifest(asked["manifest"])
    with bars() as shown:
        found = audit_manifest(utterances, threshold=asked["threshold"], speakers=asked["speakers"], cache=asked["cache"] or None,
                               progress=lambda done, total: shown("audit", done, total))
    print("\n".join(audit_lines(found)))
    if asked["out"]:
        write_kept(Path(asked["out"]), Path(asked["manifest"]), found)
        print(f"{asked['out']}: {len(found.kept)} of {len(utterances)} utterances kept")


def report(folder: Path) -> Path:
    """Writes a run's or a study's report again."""
    from gradtts_robust.study.table import STUDY

    if not (folder / STUDY).is_file():
        from gradtts_robust.study.report import write_report

        return write_report(folder)
    from gradtts_robust.study.study_report import conclude

    page, text = conclude(folder)
    if page is None:
        raise ValueError(f"{folder}: {text}; give the study's command again")
    return page


