"""Write a folder that runs a bundle's model in a browser: page, model, preprocessing and onnxruntime-web."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from compress.bundles.golden_file import golden_problems
from compress.bundles.layout import GOLDEN, PREDICTOR
from compress.bundles.manifest import numbers_text
from compress.bundles.verify import foreign_code, hash_problems, listed_files, read_manifest
from compress.bundles.web.examples import write_examples, write_prompts
from compress.bundles.web.node_check import Trial, try_page
from compress.bundles.web.packages import RUNTIME, TOKENIZERS, install_packages, pinned_package
from compress.bundles.web.tokenizing import check_tokenizer, tokenizer_facts
from compress.core.artifacts import ONNX_MODEL, TASK, TOKENIZER
from compress.core.disk.files import (
    copy_file,
    discard,
    make_empty_folder,
    make_folder,
    publish,
    write_json,
    write_text,
)
from compress.core.disk.ownership import foreign_files, write_marker
from compress.core.disk.reading import content_errors, read_mapping
from compress.core.errors import ModelError, UsageError
from compress.core.units import megabytes
from compress.models.text.chat import end_ids
from compress.runtimes.runner import PAST_PREFIX

PAGE = "page.json"
"""File that describes the model to the page."""
MARKER_KIND = "web-page"
"""Kind of folder recorded in its marker file."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""Content security policy: the page loads from its own folder only, and compiles WebAssembly."""

_SOURCES = Path(__file__).with_name("page")
_SHARED = ("page.css", "start.js", "shell.mjs", "model.mjs")
_SCRIPTS = {
    "texts": {"page.mjs": "page.mjs", "texts.mjs": "texts.mjs", "bert.mjs": "bert.mjs"},
    "images": {"page.mjs": "page.mjs", "images.mjs": "images.mjs"},
    "writing": {"page.mjs": "chat.mjs", "writing.mjs": "writing.mjs"},
}
"""Scripts of a page by the kind of its model: name in the page -> name of the source."""


@dataclass(frozen=True)
class WebPage:
    """A written page: its folder, bytes, and the result of its trial under node (None without node)."""

    path: Path
    bytes: int
    trial: Trial | None


def write_page(bundle: Path, out: Path, runtime_folder: Path | None = None) -> WebPage:
    """Write the page of `bundle` to `out`, which may only hold an unmodified earlier page.

    The page is built in a temporary folder next to `out`, tried with node if available, and renamed on success.

    Args:
        bundle: folder written by `export`.
        out: the new folder.
        runtime_folder: an installed onnxruntime-web; None: npm fetches the pinned version.

    Raises:
        UsageError: `out` contains something else (`not-ours`), the bundle has foreign code (`code-not-allowed`), or
            onnxruntime-web is not available as requested.
        ModelError: the bundle was changed, or a browser cannot run it; a missing operator is named.
    """
    _check_free(out)
    with content_errors("this bundle", str(bundle)):
        # `.` has no name to be given at the end.
        return _build_page(bundle, out.resolve(), runtime_folder)


def _build_page(bundle: Path, out: Path, runtime_folder: Path | None) -> WebPage:
    manifest = read_manifest(bundle)
    files = listed_files(bundle, manifest)
    problems = hash_problems(bundle, files) or golden_problems(bundle / GOLDEN, manifest)
    if problems:
        raise ModelError(
            f"the bundle was changed since it was made: {'; '.join(problems)}", where=str(bundle)
        )
    if f"{ONNX_MODEL}.data" in files:
        raise ModelError("its weights are in a separate file: too large for a browser", where=str(bundle))
    kind = _page_kind(manifest)
    if kind != "images":
        check_tokenizer(bundle / TOKENIZER)
    if PREDICTOR in files and (foreign := foreign_code(files)):
        raise UsageError(
            f"{' and '.join(foreign[:3])} is not code from any release of compress, so none of it was run",
            where=str(bundle / foreign[0]),
            hint="The page's reference outputs are computed by the bundle's own code.",
            code="code-not-allowed",
        )
    make_folder(out.parent)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    make_empty_folder(temporary)
    try:
        install_packages([RUNTIME] if kind == "images" else [RUNTIME, TOKENIZERS], temporary, runtime_folder)
        for name, source in {**{name: name for name in _SHARED}, **_SCRIPTS[kind]}.items():
            copy_file(_SOURCES / source, temporary / name)
        for name in (ONNX_MODEL,) if kind == "images" else (ONNX_MODEL, TOKENIZER):
            copy_file(bundle / name, temporary / name)
        page = _page_description(bundle, manifest, kind)
        write_json(temporary / PAGE, page)
        write_text(temporary / "index.html", _html(page))
        examples = (
            write_prompts(bundle, temporary)
            if kind == "writing"
            else write_examples(bundle, temporary, bundle / GOLDEN)
        )
        trial = try_page(temporary, examples)
        write_marker(temporary, MARKER_KIND)
        _check_free(out)
        publish(temporary, out)
    finally:
        discard(temporary)
    return WebPage(out, sum(file.stat().st_size for file in out.rglob("*") if file.is_file()), trial)


def _check_free(out: Path) -> None:
    """Check that a path is free or holds an unmodified page of ours.

    Raises:
        UsageError: with the code `not-ours`.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError("not a folder", where=str(out), hint="Choose another `--out`.", code="not-ours")
    foreign = foreign_files(out, MARKER_KIND) if out.exists() else []
    if foreign:
        raise UsageError(
            f"this folder holds more than an unmodified page: {foreign[0]}"
            + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""),
            where=str(out),
            hint="Choose another `--out`, or remove the folder yourself.",
            code="not-ours",
        )


def _page_kind(manifest: Mapping[str, Any]) -> str:
    """Return the kind of a model: it reads `images` or `texts`, or generates text (`writing`)."""
    if any(str(value["name"]).startswith(PAST_PREFIX) for value in manifest["inputs"]):
        return "writing"
    return "images" if "image" in manifest else "texts"


def _page_description(bundle: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the content of `page.json`."""
    page = {
        "name": manifest["name"],
        "task": manifest["task"],
        "labels": manifest["labels"],
        "input_names": [value["name"] for value in manifest["inputs"]],
        "image": manifest.get("image"),
        "positions": manifest.get("positions"),
        "writes": kind == "writing",
        "numbers": numbers_text(manifest),
        "size_mb": megabytes((bundle / ONNX_MODEL).stat().st_size),
        "runtime": pinned_package(RUNTIME).version,
    }
    if kind == "writing":
        task = read_mapping(bundle / TASK)
        page |= {"begin_id": task["begin_id"], "end_ids": end_ids(task), "chat": task["chat"]}
    elif page["image"] is not None:
        page["image"] = {**page["image"], "columns_first": columns_first()}
    else:
        facts = tokenizer_facts(bundle / TOKENIZER)
        page |= {"max_length": manifest["max_length"], "texts": manifest.get("texts", {}), **facts}
    return page


def columns_first() -> bool:
    """Whether this Pillow resizes columns before rows if that is cheaper; version 13 does, earlier ones do not."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 5), np.uint8))
    resampling = Image.Resampling.BICUBIC
    resized = np.asarray(noise.resize((13, 14), resampling))
    return np.array_equal(resized, np.asarray(noise.resize((5, 14), resampling).resize((13, 14), resampling)))


def _html(page: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_SOURCES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    return environment.get_template("index.html.j2").render(**page, policy=POLICY)
