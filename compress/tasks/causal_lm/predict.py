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
    parse: Callable[[str], float], minimum: float, maximum: float = sys.float_info.max
) -> Callable[[str], float]:
    """What reads a number from `minimum` to `maximum` of the command line."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if minimum <= (value := parse(text)) <= maximum:
                return value
        bounds = f"{minimum} or more" if maximum == sys.float_info.max else f"from {minimum} to {maximum}"
        what = "a number" if parse is float else "a whole number"
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
    args = parser.parse_args()
    if not (FOLDER / args.model).is_file():
        parser.error(f"argument --model: there is no {args.model} in this folder")
    try:
        model = open_predictor(str(FOLDER), args.threads, model=args.model)
    except Exception as error:  # noqa: BLE001 (each library has errors of its own for a damaged file)
        print(f"cannot load the model: {in_words(error)}", file=sys.stderr)
        return 1
    if args.chat and not model.chats:
        parser.error("this model has no chat template that could be carried: give it plain prompts")
    sampling = model.sampling(args.temperature, args.top_k, args.top_p, args.seed)
    messages: list[dict[str, str]] = []
    truncated, code = False, 0
    for position, text in enumerate(args.texts or map(str.rstrip, sys.stdin), 1):
        if not text and not args.texts:
            continue
        fitted: list[dict[str, str]] = []
        if args.chat:
            fitted = model.fitted([*messages, {"role": "user", "content": text}], args.most)
            prompt = model.tokens(model.chat(fitted), begins=False)
        else:
            prompt = model.tokens(text)
        if not prompt:
            continue
        try:
            parts = model.stream(prompt, args.most, sampling, args.stop)
        except RunnerError as error:
            # The others are answered all the same, and a conversation goes on as if this had not been said.
            print(f"{'text' if args.texts else 'line'} {position}: {error}", file=sys.stderr)
            code = 1
            continue
        if args.chat and len(fitted) <= len(messages) and not truncated:
            truncated = True
            print(
                f"the oldest turns are forgotten: the model holds {model.positions} tokens", file=sys.stderr
            )
        answer = ""
        try:
            for part in parts:
                answer += part
                print(part, end="", flush=True)
        except OSError:
            # Of what is printed to: nobody reads it any more.
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            print(f"the model failed: {in_words(error)}", file=sys.stderr)
            return 1
        print()
        messages = [*fitted, {"role": "assistant", "content": answer}]
    return code


if __name__ == "__main__":
    sys.exit(command(main))
