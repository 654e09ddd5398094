"""Answers prompts: python predict.py "some text", or python predict.py --chat"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.dont_write_bytecode = True
FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from runner import open_predictor  # type: ignore[import-not-found]  # noqa: E402


def main() -> None:
    """Answer the prompts of the command line, or those that are typed in."""
    parser = argparse.ArgumentParser(description="Answers prompts, or goes on with texts.")
    parser.add_argument("texts", nargs="*", help="what to go on with; without one, lines of the input")
    parser.add_argument(
        "--chat", action="store_true", help="each text is what a user says; the answers are remembered"
    )
    parser.add_argument("--most", type=int, default=128, help="tokens of an answer, at most (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token (default)")
    parser.add_argument("--top-k", type=int, default=0, help="draw among so many of the likeliest, 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest of this share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stop", action="append", default=[], help="end before this text; may be given often"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="model.onnx")
    asked = parser.parse_args()
    model = open_predictor(str(FOLDER), asked.threads, model=asked.model)
    if asked.chat and not model.chats:
        parser.error("this model has no chat template that could be carried: give it plain prompts")
    sampling = model.sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed)
    said: list[dict[str, str]] = []
    for text in asked.texts or map(str.rstrip, sys.stdin):
        if asked.chat:
            said.append({"role": "user", "content": text})
            prompt = model.tokens(model.chat(said), begins=False)
        else:
            prompt = model.tokens(text)
        if not prompt:
            continue
        answer = ""
        for part in model.stream(prompt, asked.most, sampling, asked.stop):
            answer += part
            print(part, end="", flush=True)
        print()
        said.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
