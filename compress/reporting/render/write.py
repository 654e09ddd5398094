"""Write the report of a run as HTML, Markdown, CSV and JSON, all files or none."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from compress.core.disk.files import make_folder, remove, write_texts
from compress.core.disk.ownership import foreign_files, move_foreign, write_marker
from compress.core.disk.safe_paths import path_inside
from compress.core.errors import UsageError
from compress.core.records import RunRecord
from compress.reporting.data.frame import contract_text, rows
from compress.reporting.render.markdown import markdown
from compress.reporting.sections.content import document

KIND = "report"
"""Kind of the folder, as recorded in its marker file."""
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report.

    Attributes:
        samples: None if there are no texts generated from documents.
        kept: new paths of foreign files that had one of these names.
    """

    html: Path
    markdown: Path
    csv: Path
    json: Path
    samples: Path | None = None
    kept: tuple[Path, ...] = ()


def report_folder(run: RunRecord, working: Path) -> Path:
    """Return `reports/<profile>/` in the working folder.

    Raises:
        UsageError: the run's record, which is untrusted, names a place outside it (`outside-folder`).
    """
    return path_inside(working / "reports", run.profile, where=f"the profile of {run.run}", error=UsageError)


def write_report(run: RunRecord, out: Path) -> ReportPaths:
    """Write `report.html`, `report.md`, `rows.csv` and `report.json` into the folder `out`, created if missing.

    If texts were generated from documents, `samples.jsonl` is written too. An unmodified earlier report is replaced;
    other files with one of these names are renamed.

    Raises:
        UsageError: the folder cannot be made.
    """
    from compress.reporting.render.html import html  # imports matplotlib, which only the page needs

    try:
        make_folder(out)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"the report's folder cannot be made: {error.strerror}", where=str(out)) from error
    paths = ReportPaths(out / "report.html", out / "report.md", out / "rows.csv", out / "report.json")
    content = document(run)
    texts = {
        paths.json: contract_text(run),
        paths.csv: rows(run).rename(columns=_as_text).map(_as_text).to_csv(index=False, lineterminator="\n"),
        paths.markdown: markdown(content),
        paths.html: html(content),
    }
    if lines := samples(run):
        paths = replace(paths, samples=out / "samples.jsonl")
        texts[out / "samples.jsonl"] = lines
    names = [path.name for path in texts]
    moved_paths = move_foreign(out, KIND, names)
    write_texts(texts)
    if paths.samples is None and not foreign_files(out, KIND, ["samples.jsonl"]):
        # Samples of an earlier report; this one has none.
        remove(out / "samples.jsonl")
    write_marker(out, KIND, names)
    return replace(paths, kept=tuple(moved_paths))


def samples(run: RunRecord) -> str:
    """Return the texts generated from documents, with their passages, as JSON lines."""
    records = (
        {"step": step.step, **sample.model_dump()}
        for step in run.steps
        for sample in step.samples
        if sample.passage is not None
    )
    return "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in records)


def _as_text(value: object) -> object:
    """Prefix texts that a spreadsheet would execute as a formula with an apostrophe (CWE-1236)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_PREFIXES) else value
