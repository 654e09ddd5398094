"""Section on the classes that got worse, and what they are confused with."""

from __future__ import annotations

from collections.abc import Sequence

from compress.core.records import RunRecord
from compress.measuring.protocol import SIGNIFICANCE
from compress.measuring.statistics import mcnemar_exact
from compress.reporting.data.paired import paired_counts
from compress.reporting.data.row import accuracy_on, baseline_of, deployed_of, first_target
from compress.reporting.render.document import Cell, Row, Section, Table, row, section_of
from compress.reporting.render.numbers import count, p_value, percent

_MAX_SHOWN = 15


def classes(run: RunRecord) -> Section:
    """Build the section of classes that the deployed model predicts worse than the baseline, and their confusions."""
    title = "Classes that got worse"
    target = first_target(run)
    baseline, deployed = accuracy_on(baseline_of(run), target), accuracy_on(deployed_of(run), target)
    if (
        baseline is None
        or deployed is None
        or paired_counts(baseline, deployed) is None
        or baseline is deployed
    ):
        return Section("classes", title)
    rows, beyond_chance = _class_rows(run, baseline.truth, baseline.predictions, deployed.predictions)
    if not rows:
        return Section("classes", title, paragraphs=("No class has a lower recall than in the baseline.",))
    words = (
        f"{len(rows)} of {len(set(baseline.truth))} classes have a lower recall than in the baseline; "
        + (f"{beyond_chance} of them significantly" if beyond_chance else "none of them significantly")
        + " (exact McNemar test on each class's examples, 5 % level, Bonferroni-corrected)."
    )
    confusions = _confusion_rows(run, baseline.truth, baseline.predictions, deployed.predictions)
    tables = (
        Table(
            _caption_with_total("Recall of the classes that lost most", len(rows)),
            ("Class", "examples", "baseline", "deployed", "change", "verdict"),
            tuple(rows[:_MAX_SHOWN]),
            frozenset({5}),
        ),
        Table(
            _caption_with_total("Confusions that became more frequent", len(confusions)),
            ("Class", "predicted as", "baseline", "deployed"),
            tuple(confusions[:_MAX_SHOWN]),
            frozenset({1}),
        ),
    )
    return section_of("classes", title, *tables, paragraphs=(words,))


def _class_rows(
    run: RunRecord, truth: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> tuple[list[Row], int]:
    present = sorted(set(truth))
    changes: list[tuple[int, int, Row]] = []
    beyond_chance = 0
    for label in present:
        hits = [
            (old == label, new == label)
            for true, old, new in zip(truth, before, after, strict=True)
            if true == label
        ]
        lost, gained = hits.count((True, False)), hits.count((False, True))
        if lost <= gained:
            continue
        p = mcnemar_exact(lost, gained)
        is_significant = p < SIGNIFICANCE / len(present)
        beyond_chance += is_significant
        old_hits, new_hits = sum(old for old, _ in hits), sum(new for _, new in hits)
        cells = row(
            label_name(run, label),
            count(len(hits)),
            percent(old_hits / len(hits)),
            percent(new_hits / len(hits)),
            f"−{lost - gained}",
            Cell("worse" if is_significant else "no difference", p_value(p), "bad" if is_significant else ""),
        )
        changes.append((gained - lost, label, cells))
    return [cells for _, _, cells in sorted(changes, key=lambda item: item[:2])], beyond_chance


def _confusion_rows(
    run: RunRecord, truth: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> list[Row]:
    counts: dict[tuple[int, int], list[int]] = {}
    for column, predictions in enumerate((before, after)):
        for true, predicted in zip(truth, predictions, strict=True):
            if predicted != true:
                counts.setdefault((true, predicted), [0, 0])[column] += 1
    grown = sorted(
        ((new - old, pair, old, new) for pair, (old, new) in counts.items() if new > old),
        key=lambda item: (-item[0], item[1]),
    )
    return [
        row(label_name(run, true), label_name(run, predicted), count(old), count(new))
        for _, (true, predicted), old, new in grown
    ]


def label_name(run: RunRecord, index: int) -> str:
    """Return the name of a label; its index if it has none."""
    return run.labels[index] if 0 <= index < len(run.labels) else str(index)


def _caption_with_total(caption: str, total: int) -> str:
    return caption if total <= _MAX_SHOWN else f"{caption} (the first {_MAX_SHOWN} of {total})"
