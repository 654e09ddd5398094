"""Generate the Markdown reference of the profile from its JSON schema:

python -m compress.profile.reference > docs/profile.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from compress.profile.json_schema import json_schema

EXAMPLE = """\
name: reviews                     # names the run and its report folder
task: text-classification
seed: 0
data:
  path: data/reviews.csv          # relative to the folder of this file
  text_column: review
  label_column: stars
  labels: [poor, fair, good]      # the column holds 0, 1 and 2
  splits: {validation: 0.1, test: 0.2}
  max_length: 128
teacher:
  model: google-bert/bert-base-uncased
  finetune: {epochs: 3, learning_rate: 5.0e-5}
passes:                           # run in this order; each entry has one key
  - distill:
      student: {layers: 2, hidden_size: 128}
      vocabulary: trim
      losses:
        - logits: {temperature: 2, weight: 0.9}
        - labels: {weight: 0.1}
      augment: {copies: 4}
      control: true               # also train the same student without the teacher
      epochs: 6
  - prune:
      remove: {feed_forward: 0.25}
      recover: {epochs: 2}
  - quantize: {bits: 8, scheme: auto}
  - export:                       # empty: all defaults
targets:
  - {device: cpu, threads: 2, batch_sizes: [1, 8]}
budget:
  retention: 0.97
  size_mb: 6
"""

_HEAD = """\
# The profile

All keys of a profile. This page is generated: `python -m compress.profile.reference > docs/profile.md`.
`compress schema` prints the same as a JSON schema for editors, `compress validate` checks a profile, and
`compress init` writes one to start from.

- Relative paths start at the folder of the profile.
- Unknown keys are errors. All errors are reported at once, as `file:line: path: what is wrong`.
- `--set passes.0.distill.epochs=2` on the command line overrides a value, or sets one that the profile leaves out.
- A section whose keys all have defaults may be left empty (`- export:`). *Unset* means `null`, or that the key is
  left out.
- Some losses can be written as a single word, as in `hidden: cosine`: for `hidden`, `embedding` and `output` it is the
  `distance`, for `attention` and `similarity` the `of`.
- Numbers are written as in JSON, or as `0x1f` or `0o17`. `010` is ten, and what only YAML 1.1 reads as a number
  (`1:30`, `1_000`, `0b1`) remains a string.
- MB means 10^6 bytes.
"""

_DATA = """\
## Data that can be read

| `data.path` | splits |
| --- | --- |
| a `.csv`, `.tsv`, `.json` (array of objects, or one object per line), `.jsonl` or `.parquet` file | `train` |
| a folder with such files | one per file, with the name of the file: `train.csv`, `validation.jsonl`, `test.parquet` |
| a folder with one sub-folder per class, which holds one `.txt` file per example | `train` |
| a folder with `train`, `validation` and `test` folders, each with one sub-folder per class | those |
| the same with images (png, jpg, jpeg, bmp, webp, tif, tiff, gif), for image classification | as above |
| `sklearn://digits`: 1,797 images of 8 x 8 pixels | `train` |
| `package://name/folder`: any of these inside an installed package, which is not imported | as above |
| a hub id, such as `stanfordnlp/sst2` | those of the data set |
| images: a `.parquet` file or a hub id, with an image column | as for texts |
| without labels (see below): a folder with `.txt` files or images at any depth | `train` |

- Examples have no labels with `causal-lm`, with sentence embedding and in `data.unlabeled`.
- Usual names of splits are recognised: `valid`, `val`, `dev` and `eval` as `validation`, `training` as `train`,
  `testing` as `test`.
- Missing splits are taken from `train`, stratified by class. The hash of each example's content and the seed decide, so
  that equal texts (ignoring case, white space and Unicode form) are always in the same split.
- Texts without labels are split before they are cut into sentences; pairs that share a text stay in one split.
- A text in several named splits is kept in the held-out one (test before validation before train) and dropped from the
  others; the report says how many.
- String labels are class names, in sorted order unless `data.labels` orders them. Integer labels take their names from
  `data.labels` or from the data set, else the numbers are the names. `0.0` and `1.0` are read as the labels 0 and 1.
- Fields are separated by a comma (csv) or tab (tsv), unless the first rows show a comma, semicolon, tab or vertical bar
  instead. Text files are UTF-8 or UTF-16, or in an encoding detected from their content (GBK, Shift-JIS, cp1252 and
  others). Notes in the report say what was detected; `data.separator` and `data.encoding` override it. Decoding is
  strict: a row that does not fit the encoding ends the command, with its line number.
- Names of splits are matched in any case (`Train`, `testing`, `VAL`), names of labels and columns in any Unicode form.
  Bytes of a folder's name that are not UTF-8 are escaped in its label (`\\xe9`).
- Missing or blank texts and labels, labels that do not occur in training, empty splits and similar problems end the
  command before anything is trained, with exit code 4 and the file and line.
"""

_LIMIT_SIGNS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def reference_markdown() -> str:
    """Return the whole page: every section as a table of keys, the readable data formats, and an example."""
    schema = json_schema()
    # A section used in several places (a student, an assistant) is documented once, at the first of them.
    unique: dict[int, tuple[tuple[str, ...], str, dict[str, Any]]] = {}
    for keys, discriminator, body in _sections(schema, schema["$defs"], ()):
        unique.setdefault(id(body), (keys, discriminator, body))
    sections = list(unique.values())
    anchors = {
        id(body): f"{'.'.join(keys)} {discriminator}".strip() for keys, discriminator, body in sections
    }
    tables = [
        _section_markdown(keys, discriminator, body, schema["$defs"], anchors)
        for keys, discriminator, body in sections
    ]
    example = f"## Example\n\n```yaml\n{EXAMPLE}```\n"
    return "\n".join((_HEAD, example, *tables, _DATA))


def _sections(
    body: dict[str, Any], definitions: dict[str, Any], keys: tuple[str, ...], discriminator: str = ""
) -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """Yield a section and all sections below it, in schema order, each with its discriminator (see `_discriminator`).

    Entries, mappings with a single key, are not sections themselves.
    """
    discriminator = _discriminator(body) or discriminator
    if not _is_entry(body):
        yield keys, discriminator, body
    for key, value in body["properties"].items():
        for name, in_list in _references(value):
            sub_keys = (*keys, f"{key}[]" if in_list else key)
            yield from _sections(definitions[name], definitions, sub_keys, discriminator)


def _is_entry(body: dict[str, Any]) -> bool:
    return str(body.get("title", "")).endswith("Entry")


def _references(node: Any, in_list: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the names of the definitions that a value refers to, and whether each is a list item."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item, in_list)
    elif isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rpartition("/")[2], in_list
        yield from _references(node.get("items"), True)
        for union in ("anyOf", "oneOf"):
            yield from _references(node.get(union), in_list)


def _anchor(path: str) -> str:
    return re.sub(r"[._ :]+", "-", path.replace("[]", "")) or "top"


def _discriminator(body: dict[str, Any]) -> str:
    """Return the key and value that select this section among the alternatives at one place, such as `bits: 4`."""
    first = body.get("anyOf", [{}])[0].get("properties", {})
    named = ((key, body["properties"][key] | first.get(key, {})) for key in body.get("required", ()))
    return next((f"{key}: {value['const']}" for key, value in named if "const" in value), "")


def _section_markdown(
    keys: tuple[str, ...],
    discriminator: str,
    body: dict[str, Any],
    definitions: dict[str, Any],
    anchors: dict[int, str],
) -> str:
    path = ".".join(keys)
    title = f"`{path}`" if path else "Top level"
    title += f" with `{discriminator}`" if discriminator else ""
    lines = [
        f'{"##" if len(keys) < 2 else "###"} <a id="{_anchor(anchors[id(body)])}"></a>{title}',
        "",
        body.get("description", ""),
        "",
        "| key | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    required = body.get("required", ())
    for key, value in body["properties"].items():
        cells = (
            f"`{key}`",
            _type_words(value, definitions, anchors),
            "required" if key in required else _default_words(value, definitions),
            _description_of(value, definitions),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join((*lines, ""))


def _type_words(value: dict[str, Any], definitions: dict[str, Any], anchors: dict[int, str]) -> str:
    """Describe the type of a value in words; sections become links."""
    if "$ref" in value:
        return _link(definitions[value["$ref"].rpartition("/")[2]], definitions, anchors)
    for union in ("anyOf", "oneOf"):
        if union in value:
            alternatives = [
                _type_words(each, definitions, anchors) for each in value[union] if each.get("type") != "null"
            ]
            return " or ".join(alternatives)
    if "enum" in value or "const" in value:
        choices = value.get("enum", [value.get("const")])
        return ", ".join(f"`{str(one).lower() if isinstance(one, bool) else one}`" for one in choices)
    if "prefixItems" in value:
        inner = [_type_words(each, definitions, anchors) for each in value["prefixItems"]]
        return f"[{', '.join(inner)}]"
    if value.get("type") == "array":
        min_items = value.get("minItems", 0)
        return f"list of {_type_words(value['items'], definitions, anchors)}" + (
            f", at least {min_items}" if min_items else ""
        )
    names = {"string": "string", "integer": "integer", "number": "number", "boolean": "`true`, `false`"}
    limits = [f"{sign} {value[limit]:.12g}" for limit, sign in _LIMIT_SIGNS if limit in value]
    pattern = f"matching `{value['pattern']}`" if "pattern" in value else ""
    return " ".join(filter(None, (names[value["type"]], ", ".join(limits), pattern)))


def _link(body: dict[str, Any], definitions: dict[str, Any], anchors: dict[int, str]) -> str:
    if _is_entry(body):
        ((key, value),) = body["properties"].items()
        bodies = [definitions[name] for name, _ in _references(value)]
        first_anchor, *other_anchors = [_anchor(anchors[id(one)]) for one in bodies]
        alternatives = [
            f", with [`{_discriminator(one)}`](#{anchor})"
            for one, anchor in zip(bodies[1:], other_anchors, strict=True)
        ]
        return f"[`{key}: {{...}}`](#{first_anchor})" + "".join(alternatives)
    path = anchors[id(body)]
    return f"[section](#{_anchor(path)})"


def _description_of(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the description of a key, else of its section: the schema writes a shared one only there."""
    schemas = [value, *(definitions[name] for name, _ in _references(value))]
    return next((str(each["description"]) for each in schemas if "description" in each), "")


def _default_words(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the default as a user would write it; the default of a section is described as that of its own keys."""
    default = value.get("default")
    if default is None:
        return "unset"
    if isinstance(default, dict):
        return "its defaults"
    if default == []:
        return "none"
    sections = [definitions[name] for name, in_list in _references(value) if in_list]
    if sections and not any(map(_is_entry, sections)):
        return "one, with its defaults" if len(default) == 1 else f"{len(default)} built-in"
    quote_style = '"' if isinstance(default, str) and "\n" in default else None
    as_yaml = yaml.safe_dump(
        default, default_flow_style=True, default_style=quote_style, sort_keys=False, width=10_000
    )
    return f"`{as_yaml.removesuffix('...' + chr(10)).strip()}`"


if __name__ == "__main__":
    # Written as bytes because the page is UTF-8 whatever the terminal's encoding.
    sys.stdout.buffer.write(reference_markdown().encode())
