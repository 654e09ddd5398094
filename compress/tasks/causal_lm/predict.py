"""Answers prompts: python predict.py "some text", or python predict.py --chat"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import RunnerError, command, in_words, open_predictor  # type: ignore[import-not-found]  # noqa: E402


def number(
    kind: Callable[[str], float], least: float, most: float = sys.float_info.max
) -> Callable[[str], float]:
    """What reads a number from `least` to `most` of the command line."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        bounds = f"{least} or more" if most == sys.float_info.max else f"from {least} to {most}"
        what = "a number" if kind is float else "a whole number"
        raise argparse.ArgumentTypeError(f"expected {what}, {bounds}, not {text!r}")

    return read


def stop(text: str) -> str:
    """A text to end before; a shell passes on `\\n` and `\\t` as two letters, and two backslashes stand for one."""
    if not text:
        raise argparse.ArgumentTypeError("expected a text")
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)


def main() -> int:
    """Answer the prompts of the command line, or those that are typed in."""
    parser = argparse.ArgumentParser(description="Answers prompts, or goes on with texts.")
    parser.add_argument("texts", nargs="*", help="what to go on with; without one, lines of the input")
    parser.add_argument(
        "--chat", action="store_true", help="each text is what a user says; the answers are remembered"
    )
    parser.add_argument("--most", type=number(int, 1), default=128, help="tokens of an answer, at most (128)")
    parser.add_argument(
        "--temperature", type=number(float, 0), default=0.0, help="0: the likeliest token (default)"
    )
    parser.add_argument(
        "--top-k", type=number(int, 0), default=0, help="draw among so many of the likeliest, 0: all"
    )
    parser.add_argument(
        "--top-p", type=number(float, 0, 1), default=1.0, help="draw among the likeliest of this share"
    )
    parser.add_argument("--seed", type=number(int, 0), default=0)
    parser.add_argument(
        "--stop",
        type=stop,
        action="append",
        default=[],
        help="end before this text, or at this special token; may be given often, and \\n is a line's end",
    )
    parser.add_argument("--threads", type=number(int, 1), default=1)
    parser.add_argument("--model", default="model.onnx", help="file in this folder (model.onnx)")
    asked = parser.parse_args()
    if not (FOLDER / asked.model).is_file():
        parser.error(f"argument --model: there is no {asked.model} in this folder")
    try:
        model = open_predictor(str(FOLDER), asked.threads, model=asked.model)
    except Exception as error:  # noqa: BLE001 (each library has errors of its own for a damaged file)
        print(f"cannot load the model: {in_words(error)}", file=sys.stderr)
        return 1
    if asked.chat and not model.chats:
        parser.error("this model has no chat template that could be carried: give it plain prompts")
    sampling = model.sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed)
    said: list[dict[str, str]] = []
    forgot = False
    for text in asked.texts or filter(None, map(str.rstrip, sys.stdin)):
        if asked.chat:
            turns, said = len(said) + 1, model.fitted([*said, {"role": "user", "content": text}], asked.most)
            if len(said) < turns and not forgot:
                forgot = True
                print(
                    f"the oldest turns are forgotten: the model holds {model.positions} tokens",
                    file=sys.stderr,
                )
            prompt = model.tokens(model.chat(said), begins=False)
        else:
            prompt = model.tokens(text)
        if not prompt:
            continue
        answer = ""
        try:
            for part in model.stream(prompt, asked.most, sampling, asked.stop):
                answer += part
                print(part, end="", flush=True)
        except RunnerError as error:
            print(error, file=sys.stderr)
            return 1
        except OSError:
            # Of what is printed to: nobody reads it any more.
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            print(f"the model failed: {in_words(error)}", file=sys.stderr)
            return 1
        print()
        said.append({"role": "assistant", "content": answer})
    return 0


if __name__ == "__main__":
    sys.exit(command(main))
