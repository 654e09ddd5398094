"""Nobody is told: the variables stand in every process before a library looks, and no device id is left at home."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.core.telemetry import TELEMETRY_OFF
from compress.runtimes import runner
from compress.runtimes.launching import child_variables, clean_environment, runtime_command
from compress.targets.ssh import agent

ROOT = Path(__file__).parents[2]
SESSION = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def willing(home: Path) -> dict[str, str]:
    """The environment of a user who has said nothing; a library may take `CI` for a no."""
    home.mkdir()
    said = {*TELEMETRY_OFF, "CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME"}
    return {**{name: value for name, value in os.environ.items() if name not in said}, "HOME": str(home)}


def left_by(argv: list[str], environment: Mapping[str, str]) -> set[str]:
    """The files that a process leaves at home."""
    subprocess.run(argv, env=dict(environment), check=True, capture_output=True)
    home = Path(environment["HOME"])
    return {str(file.relative_to(home)) for file in home.rglob("*")}


def weighed(model: Path) -> list[str]:
    """The words of a job that loads a model."""
    feeds, job = model.with_name("feeds.npz"), model.with_name("job.json")
    runner.write_batches(str(feeds), [{"x": np.zeros((1, 2), np.float32)}])
    asked = {"kind": "memory", "model": str(model), "feeds": str(feeds), "threads": 1, "device": "cpu"}
    job.write_text(json.dumps(asked))
    return [str(job), str(model.with_name("result.json"))]


def test_onnxruntime_alone_leaves_a_device_id(model: Path, tmp_path: Path) -> None:
    """Else the tests below would prove nothing."""
    if "linux" not in sys.platform:
        pytest.skip("elsewhere it keeps it in another place")
    assert any(
        "deviceid" in file
        for file in left_by([sys.executable, "-c", SESSION, str(model)], willing(tmp_path / "home"))
    )


def test_the_runner_leaves_nothing_wherever_it_is_copied(model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "bundle" / "runner.py"
    copied.parent.mkdir()
    shutil.copyfile(runner.__file__, copied)
    argv = [sys.executable, str(copied), *weighed(model)]
    assert left_by(argv, willing(tmp_path / "home")) == set()


def test_this_package_leaves_nothing_in_the_process_that_imports_it(model: Path, tmp_path: Path) -> None:
    environment = {**willing(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    assert left_by([sys.executable, "-c", f"import compress; {SESSION}", str(model)], environment) == set()


def test_children_that_measure_leave_nothing(model: Path, tmp_path: Path) -> None:
    job, result = map(Path, weighed(model))
    command = runtime_command("onnxruntime", job, result, 1, "weighing")
    # The command alone, without what the file does for itself.
    argv = [command.argv[0], "-c", SESSION, str(model)]
    environment = {**command.environment, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    assert left_by(argv, environment) == set()


def test_children_and_devices_are_told_whatever_the_user_said() -> None:
    said = {**dict.fromkeys(TELEMETRY_OFF, "0"), "HF_UPDATE_DOWNLOAD_COUNTS": "1"}
    assert TELEMETRY_OFF.items() <= clean_environment(1, said).items()
    assert TELEMETRY_OFF.items() <= child_variables(1).items()


@pytest.mark.parametrize("file", [runner.__file__, agent.__file__])
def test_files_that_run_without_this_package_say_the_same(file: str) -> None:
    said = re.findall(r'os\.environ\["(\w+)"\] = "(\w+)"', Path(file).read_text(encoding="utf-8"))
    assert said == [("ORT_DISABLE_TELEMETRY", TELEMETRY_OFF["ORT_DISABLE_TELEMETRY"])]


def test_the_agent_starts_its_probe_with_it(tmp_path: Path) -> None:
    requests = json.dumps({"op": "open", "folder": str(tmp_path), "keep": False}) + "\n"
    environment = {**willing(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "spy")}
    (tmp_path / "spy").mkdir()
    # Stands in for the libraries of a device: it notes what the process that imports it is told.
    (tmp_path / "spy" / "numpy.py").write_text(
        "import os; open(os.environ['HOME'] + '/told', 'a').write(os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "__version__ = '2'\n"
    )
    (tmp_path / "spy" / "onnxruntime.py").write_text("__version__ = '1'\n")
    words = requests + json.dumps({"op": "probe"}) + "\n"
    done = subprocess.run(
        [sys.executable, "-S", agent.__file__],
        input=words,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["libraries"] == {"numpy": "2", "onnxruntime": "1"}
    assert (tmp_path / "home" / "told").read_text() == "1"
