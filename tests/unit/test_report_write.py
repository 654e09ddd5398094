import json
import math
import re
import time
from html.parser import HTMLParser

import pytest

from compress.core.disk.ownership import MARKER
from compress.core.errors import UsageError
from compress.core.records import Curve, CurvePoint, Sample
from compress.reporting.data.frame import contract, contract_text
from compress.reporting.render.html import html
from compress.reporting.render.markdown import escape, markdown
from compress.reporting.render.write import report_folder, write_report
from compress.reporting.sections.content import document
from tests.records import bert_run, change_step, failed_run, missed_run, truth_of

EVIL = '<script>alert("1")</script> & $x$ | `y`\n*z*'
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags with their attributes, the text, and unbalanced tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page():
    return html(document(bert_run()))


def evil_run():
    labels = (EVIL, "b", "c", "d", "e")
    run = bert_run(
        labels=labels, profile=EVIL, profile_text=EVIL, environment={EVIL: EVIL}, task=EVIL, metric=EVIL
    )
    run = change_step(run, "prune", step=EVIL, facts={EVIL: EVIL}, form=EVIL)
    point = CurvePoint(step=1, epoch=1.0, train_loss=1.0, validation_score=0.5)
    curve = Curve(name=EVIL, points=(point, point.model_copy(update={"step": 2})))
    return change_step(run, "distill", curves=(curve,))


def test_four_files_and_nothing_else(tmp_path):
    out = tmp_path / "reports" / "bert"
    paths = write_report(bert_run(), out)
    names = {"report.html", "report.md", "rows.csv", "report.json"}
    assert {file.name for file in out.iterdir()} == {*names, MARKER}
    assert paths.kept == ()
    assert {path.name for path in (paths.html, paths.markdown, paths.csv, paths.json)} == names
    assert paths.json.read_text(encoding="utf-8") == contract_text(bert_run())
    assert json.loads(paths.json.read_text(encoding="utf-8")) == contract(bert_run())
    assert paths.csv.read_text(encoding="utf-8").count("\n") == 7


def test_texts_from_documents_stand_beside_the_report_as_long_as_it_shows_them(tmp_path):
    said = {"why": "kept", "prompt": "Who sleeps?", "answer": "A cat.", "passage": "A cat sleeps.\nIt rains."}
    step = bert_run().steps[1].step
    shown = change_step(
        bert_run(), step, samples=(Sample(**said), Sample(why="kept", prompt="p", answer="a"))
    )
    paths = write_report(shown, tmp_path)
    assert paths.samples == tmp_path / "samples.jsonl"
    (line,) = paths.samples.read_text().splitlines()
    assert json.loads(line) == {"step": step, "by": "teacher", **said}
    assert write_report(bert_run(), tmp_path).samples is None
    assert not (tmp_path / "samples.jsonl").exists()
    # What somebody else wrote there is theirs.
    (tmp_path / "samples.jsonl").write_text("mine")
    write_report(bert_run(), tmp_path)
    assert (tmp_path / "samples.jsonl").read_text() == "mine"
    (kept,) = write_report(shown, tmp_path).kept
    assert kept.read_text() == "mine"


def test_the_same_records_give_the_same_bytes(tmp_path):
    one, two = (write_report(bert_run(), tmp_path / name) for name in ("one", "two"))
    for name in ("html", "markdown", "csv", "json"):
        assert getattr(one, name).read_bytes() == getattr(two, name).read_bytes()


def test_what_others_left_under_these_names_is_kept(tmp_path):
    (tmp_path / "report.md").write_text("mine")
    paths = write_report(bert_run(), tmp_path)
    assert [path.read_text() for path in paths.kept] == ["mine"]
    assert write_report(bert_run(), tmp_path).kept == ()
    paths.csv.write_text("edited")
    (again,) = write_report(bert_run(), tmp_path).kept
    assert (again.name, again.read_text()) == ("rows.kept-1.csv", "edited")
    assert paths.csv.read_text() != "edited"


@pytest.mark.parametrize("profile", ["../../OUT", "/tmp/out", "a/../../b", "", ".", "..\\x"])
def test_a_record_does_not_say_where_its_report_goes(tmp_path, profile):
    with pytest.raises(UsageError) as raised:
        report_folder(bert_run(profile=profile), tmp_path)
    assert raised.value.code == "outside-folder"
    assert report_folder(bert_run(), tmp_path).parent == tmp_path / "reports"


def test_a_report_takes_under_five_seconds(tmp_path):
    started = time.process_time()  # what else the machine does is not the report's time
    write_report(bert_run(), tmp_path)
    assert time.process_time() - started < 5


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert parsed.open == []
    assert {"script", "link", "img", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in parsed.tags)
    for _, attributes in parsed.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith("#")
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_page_is_accessible(page):
    parsed = Page(page)
    assert parsed.tags[0] == ("html", {"lang": "en"})
    headings = [attributes for tag, attributes in parsed.tags if tag == "th"]
    assert headings
    assert all(attributes["scope"] in ("col", "row") for attributes in headings)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("caption") == tags.count("table") > 0
    assert tags.count("figcaption") == tags.count("figure") == tags.count("svg") > 0
    assert all(attributes["aria-label"] for tag, attributes in parsed.tags if tag == "figure")
    assert all(attributes["role"] == "img" for tag, attributes in parsed.tags if tag == "svg")


def test_ids_are_unique_and_references_point_at_them(page):
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.tags:
        for name in ("href", "xlink:href", "aria-labelledby"):
            if name in attributes:
                assert attributes[name].removeprefix("#") in ids


def test_plots_take_their_colours_from_the_page(page):
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert plots
    for plot in plots:
        assert "var(--ink)" in plot
        assert not re.search(r"#0([1-7])0\1", plot)
        assert "DejaVu" not in plot
        assert "<text" in plot
    assert "prefers-color-scheme: dark" in page


def test_everything_from_the_records_is_escaped(tmp_path):
    paths = write_report(evil_run(), tmp_path)
    page = paths.html.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert Page(page).open == []
    written = paths.markdown.read_text(encoding="utf-8")
    before, fenced = written.split("## Profile")
    assert "<script" not in before
    assert EVIL in fenced
    assert json.loads(paths.json.read_text(encoding="utf-8"))["profile"] == EVIL


def test_markdown_tables_keep_their_columns():
    written = markdown(document(evil_run())).split("## Profile")[0]
    blocks = [block for block in written.split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_escapes_markup_and_leaves_names_alone():
    assert escape("size_mb _x_ *y* <b> a|b `c` [d]") == r"size_mb \_x\_ \*y\* &lt;b&gt; a\|b \`c\` \[d\]"
    assert escape("# a\nb") == r"\# a b"


def test_markdown_says_what_the_page_says():
    content = document(bert_run())
    written = markdown(content)
    for section in content.sections:
        assert f"## {section.title}" in written
    assert "56.5× smaller" in written
    assert "```yaml\nname: bert_to_tiny" in written


@pytest.mark.parametrize("make", [bert_run, failed_run, missed_run])
def test_the_verdict_is_on_the_page(make, tmp_path):
    run = make()
    words = " ".join(
        "".join(Page(write_report(run, tmp_path).html.read_text(encoding="utf-8")).words).split()
    )
    for verdict in document(run).verdicts:
        assert verdict in words.replace("\u00a0", " ")


def test_runs_with_holes_are_reported(tmp_path):
    run = change_step(bert_run(), "prune", measurements=(), size=None, parameters=None, macs=None)
    found = run.steps[1].measurements[0]
    nothing = found.latency[0].model_copy(update={"p50_ms": math.nan, "speedup": math.nan})
    run = change_step(run, "distill", measurements=(found.model_copy(update={"latency": (nothing,)}),))
    run = change_step(
        run, "export", measurements=(run.steps[-1].measurements[0].model_copy(update={"latency": ()}),)
    )
    words = write_report(run, tmp_path).html.read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|None", words)


def test_runs_that_never_began_are_reported(tmp_path):
    run = bert_run(
        status="failed", steps=(), limits=(), bundle=None, targets=(), splits={}, environment={}, error="no"
    )
    run = run.model_copy(update={"labels": ()})
    assert "No step was completed" in write_report(run, tmp_path).markdown.read_text(encoding="utf-8")


def test_a_hundred_and_fifty_labels_in_another_script(tmp_path):
    labels = [f"намерение {n}" for n in range(150)]
    run = bert_run(truth_of(3000, 150), labels)
    run = change_step(run, "prune", step="剪枝")
    assert "剪枝" in write_report(run, tmp_path).html.read_text(encoding="utf-8")
