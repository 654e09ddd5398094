"""Runs the jobs of `runner.py` with torch: `python -m compress.runtimes.torch_worker [--allow-code] JOB RESULT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.runtimes import runner
from compress.runtimes.launching import ALLOW_CODE


class TorchModel:
    """A torch model that runs batches on a device."""

    def __init__(self, model: Any, device: str, cached: Any) -> None:
        import torch

        from compress.encoding.inputs import model_inputs
        from compress.models.io.outputs import outputs_of

        self._torch, self._model_inputs, self._outputs_of = torch, model_inputs, outputs_of
        self._model, self._device, self._cached = model, device, cached
        self.goes_on = cached is not None

    def __call__(self, batch: runner.Batch) -> NDArray[np.float32]:
        """Run a batch and return the outputs."""
        torch, inputs = self._torch, self._model_inputs(batch)
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
            uses_cache = self._cached is not None and runner.LOGIT_POSITIONS in tensors
            result = self._cached(tensors) if uses_cache else self._outputs_of(self._model(**tensors))
            outputs: NDArray[np.float32] = result.float().cpu().numpy()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return outputs

    def decoder(self, capacity: int) -> Any:
        """Return a generator state for the model, the counterpart of `decoding.Decoder` for a session."""
        from compress.runtimes.torch_rows import TorchRows

        return TorchRows(self._model)


class TorchRuntime:
    """Loads and runs torch artifacts, with the interface of `runner.OnnxRuntime`.

    A model's path is its artifact directory. Batches are copied to the device and outputs back inside the timed call,
    as in onnxruntime, so that timings end when the result is available. `allow_code` says whether the code of a model
    may run.
    """

    def __init__(self, *, allow_code: bool = False) -> None:
        self._allow_code = allow_code

    def prepare(self, threads: int, device: str) -> None:
        """Import torch and the model loading code, and set the number of threads.

        Raises:
            RunnerError: `device` is cuda and torch cannot use it.
        """
        import torch

        from compress.models.io import checkpoints  # noqa: F401 (so that its memory does not count as the model's)

        torch.set_num_threads(threads)
        if device == "cuda":
            try:
                torch.zeros(1, device="cuda")
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise runner.RunnerError(f"torch {torch.__version__} cannot use the GPU: {reason}") from error
            torch.cuda.synchronize()

    def open(self, path: str, threads: int, device: str) -> runner.Predict:
        """Load the model of an artifact directory; return a function from a batch to its outputs."""
        from transformers import PreTrainedModel

        from compress.models.io.checkpoints import load_model
        from compress.models.io.low_bit import to_device
        from compress.runtimes.torch_decoder import TorchDecoder

        model = to_device(load_model(Path(path), allow_code=self._allow_code).eval(), device)
        return TorchModel(model, device, TorchDecoder(model) if isinstance(model, PreTrainedModel) else None)

    def gpu_peak_bytes(self) -> int | None:
        """Return the GPU memory of this process including the CUDA context, as for onnxruntime; if the driver does not
        list processes, the peak that torch reserved. torch frees nothing while it runs, so both are peaks."""
        import torch

        return runner.gpu_bytes_of(os.getpid()) or torch.cuda.max_memory_reserved() or None


def main(argv: list[str] | None = None) -> int:
    """Run one job with torch."""
    arguments: list[str] = sys.argv[1:] if argv is None else argv
    runtime: Any = TorchRuntime(allow_code=ALLOW_CODE in arguments)
    return runner.run_job([argument for argument in arguments if argument != ALLOW_CODE], runtime)


if __name__ == "__main__":
    sys.exit(main())
