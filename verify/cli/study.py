"""``reconbound study``: what is measured beside the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bounds import checks
from bounds.words import how_many
from verify.cli.command import App
from verify.cli.options import FORMATS, Format, Jobs, Json, Out, Trials, new_directory
from verify.cli.tables import print_json, print_wide, say
from verify.studies.catalogue import STUDIES
from verify.studies.study import Study, run

app = App()


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|all", help=f"all, or one of {', '.join(s.name for s in STUDIES)}."),
    ],
    trials: Trials = None,
    jobs: Jobs = 1,
    out: Out = Path("results"),
    format: Format = "png",
    as_json: Json = False,
) -> None:
    """Measure what the experiments do not: parts of the attack, other networks, broken assumptions. (Minutes each.)

    Interrupted, it resumes when called again with the same arguments. The exit code does not depend on verdicts: a study
    may break an assumption on purpose."""
    checks.choice("format", format, FORMATS)
    checks.choice("NAME", name, ("all", *(s.name for s in STUDIES)))
    new_directory("out", out)
    reports = [_measured(s, out, trials, jobs, format) for s in STUDIES if name in ("all", s.name)]
    if as_json:
        print_json(reports)
        return
    for report in reports:
        told = f"{report['title']}; {how_many(report['trials'], 'trial')} each, {report['failed']} failed"
        say(f"{report['study']}: {told}")
        print_wide(report["rows"])


def _measured(study: Study, out: Path, trials: int | None, jobs: int, suffix: str) -> dict[str, Any]:
    """Measure what is missing, draw, and tell."""
    from verify.draw.style import save_figure  # brings matplotlib, which the list of studies has no use for

    path = out / "records" / study.file
    found = run(study, path, trials, jobs=jobs)
    save_figure(study.draw(found), (out / study.figure).with_suffix(f".{suffix}"))
    return {
        "study": study.name,
        "title": study.title,
        "claims": list(study.claims),
        "trials": found.trials,
        "failed": found.failed,
        "rows": study.summary(found),
    }
