"""`compress cache`: list, prune and check the store."""

from __future__ import annotations

import click

from compress.cli.options import JSON, NonNegative
from compress.core.terminal.printing import echo, echo_json


@click.group()
def cache() -> None:
    """List and prune the store of artifacts, measurements and teachers' signals."""


@cache.command("list")
@JSON
def cache_list(as_json: bool) -> None:
    """List the finished artifacts and the teachers' signals, most recently used first."""
    from datetime import datetime

    from compress.core.units import megabytes
    from compress.store.cache import Cache, CacheEntry, SignalsEntry

    store = Cache.default()
    entries, signals = store.entries(), store.signals_entries()
    if as_json:
        echo_json([vars(entry) for entry in (*entries, *signals)])
        return
    described: list[tuple[CacheEntry | SignalsEntry, str]] = [
        (entry, f"{entry.profile} / {entry.step} ({entry.form})") for entry in entries
    ]
    described += [(outputs, f"{outputs.title} ({', '.join(outputs.signals)})") for outputs in signals]
    for listed, description in described:
        used = datetime.fromtimestamp(listed.used).isoformat(" ", timespec="minutes")
        echo(f"{listed.key[:12]}  {megabytes(listed.bytes):8.1f} MB  {used}  {description}")
    total = megabytes(sum(listed.bytes for listed, _ in described))
    echo(
        f"{len(entries)} artifacts, teachers' signals on {len(signals)} sets of inputs, {total:.1f} MB in {store.root}"
    )


@cache.command("prune")
@click.option(
    "--older-than",
    type=NonNegative(),
    metavar="DAYS",
    help="Remove what no run has used for this many days.",
)
@click.option("--everything", is_flag=True, help="Remove all artifacts, teachers' signals and checkpoints.")
@click.option(
    "--leftovers",
    is_flag=True,
    help="Remove checkpoints of unfinished steps and leftovers of removed artifacts.",
)
def cache_prune(older_than: float | None, everything: bool, leftovers: bool) -> None:
    """Remove artifacts and teachers' signals; measurements, outputs of baselines and the records of runs stay."""
    import time

    from compress.core.errors import UsageError
    from compress.core.units import megabytes
    from compress.store.cache import Cache

    if older_than is None and not everything and not leftovers:
        raise UsageError("say what to remove: --older-than DAYS, --leftovers or --everything")
    store = Cache.default()
    limit = time.time() if everything else time.time() - (older_than or 0) * 86_400
    removed = [
        entry
        for entry in store.entries()
        if (everything or (older_than is not None and entry.used < limit)) and store.remove(entry.key)
    ]
    removed_signals = [
        entry
        for entry in store.signals_entries()
        if (everything or (older_than is not None and entry.used < limit)) and store.remove_signals(entry.key)
    ]
    freed = sum(entry.bytes for entry in removed) + sum(entry.bytes for entry in removed_signals)
    freed += store.remove_leftovers() if leftovers or everything else 0
    echo(
        f"removed {len(removed)} artifacts and teachers' signals on {len(removed_signals)} sets of inputs, "
        f"{megabytes(freed):.1f} MB"
    )


@cache.command("check")
@click.option(
    "--remove", is_flag=True, help="Remove damaged entries; the next run that needs one makes it again."
)
def cache_check(remove: bool) -> None:
    """Verify the checksums of the store and of the records of the runs here, and list damaged entries.

    Ends with exit code 4 if damaged entries remain.
    """
    from pathlib import Path

    from compress.core.errors import DataError
    from compress.store.cache import Cache
    from compress.store.checking import check, entry_paths
    from compress.store.runs import RUNS

    store = Cache.default()
    entries = entry_paths(store.root, Path.cwd() / RUNS)
    damaged = 0
    for kind, path in entries:
        finding = check(kind, path)
        if finding is None:
            continue
        damaged += 1
        echo(f"{finding.path}: {finding.reason}; to be made again: {finding.loss}")
        if remove:
            finding.remove()
    echo(
        f"{len(entries)} entries read in {store.root}, {damaged} damaged{' and removed' if remove and damaged else ''}"
    )
    if damaged and not remove:
        raise DataError(
            f"{damaged} entries are damaged",
            where=str(store.root),
            hint="Runs never use them, but make them again. `compress cache check --remove` removes them. "
            "If you did not change them, check the disk.",
            code="cache-damaged",
        )
