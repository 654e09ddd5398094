"""`compress export`: convert a finished bundle for another environment."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.options import PATH
from compress.core.terminal.printing import echo


@click.command()
@click.argument("source", metavar="BUNDLE|RUN")
@click.option("--web", is_flag=True, help="Write a folder with a page that runs the model in a browser.")
@click.option("--out", type=PATH, help="The new folder; `web` beside the bundle if unset.")
@click.option(
    "--onnxruntime-web",
    "runtime_folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="An installed onnxruntime-web; npm fetches it if unset.",
)
def export(source: str, web: bool, out: Path | None, runtime_folder: Path | None) -> None:
    """Write a finished bundle (its folder, or the run that made it) for where it will run."""
    from compress.core.errors import UsageError

    if not web:
        raise UsageError("say what to export to: --web", hint="The pass `export` of a run writes its bundle.")
    from compress.bundles.web.folder import write_page
    from compress.core.units import megabytes

    bundle = _bundle_of(source)
    page = write_page(bundle, out or bundle.resolve().with_name("web"), runtime_folder)
    echo(f"wrote {page.path}: {megabytes(page.bytes):.1f} MB")
    if page.trial is None:
        echo("not tried: node is not installed here; `Check` on the page compares it with Python")
    else:
        echo(f"{page.trial.examples} examples correct in node, at most {page.trial.max_difference:.1e} apart")
    echo(f"to see it: python3 -m http.server --directory {page.path}, then open http://localhost:8000")


def _bundle_of(source: str) -> Path:
    """Return the bundle folder itself, or the bundle of a run."""
    from compress.bundles.layout import MANIFEST
    from compress.core.errors import UsageError
    from compress.store.runs import BUNDLE, RUNS, find_run

    if (Path(source) / MANIFEST).is_file():
        return Path(source)
    bundle = find_run(source, Path.cwd() / RUNS).path / BUNDLE
    if not (bundle / MANIFEST).is_file():
        raise UsageError("this run has no bundle: its profile has no `export`", where=str(bundle.parent))
    return bundle
