"""Devices in a profile: which are known, which are refused and with what words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.profile.device import SshAddress, checked_device, parse_ssh
from compress.profile.schema import TargetSpec


@pytest.mark.parametrize(
    ("device", "address"),
    [
        ("ssh://board", SshAddress("board")),
        ("ssh://pi@raspberrypi.local", SshAddress("raspberrypi.local", "pi")),
        ("ssh://pi@10.0.0.7:2222", SshAddress("10.0.0.7", "pi", 2222)),
        ("ssh://board:22/", SshAddress("board", None, 22)),
        ("ssh://me@[fe80::1]:22", SshAddress("fe80::1", "me", 22)),
        ("ssh://my_alias", SshAddress("my_alias")),
    ],
)
def test_addresses(device: str, address: SshAddress) -> None:
    assert parse_ssh(device) == address


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("ssh://", "'ssh://' has no host"),
        ("ssh://pi@", "'ssh://pi@' has no host"),
        ("ssh://-oProxyCommand=x", "'-oProxyCommand=x' is not a host name"),
        ("ssh://-l@board", "'-l' is not a user name"),
        ("ssh://a b@board", "'a b' is not a user name"),
        ("ssh://board;reboot", "'board;reboot' is not a host name"),
        ("ssh://$(reboot)", "'$(reboot)' is not a host name"),
        ("ssh://board\n", "'board\\n' is not a host name"),
        ("ssh://pi:secret@board", "a profile cannot contain a password"),
        ("ssh://board:0", "'0' is not a port: expected 1 to 65535"),
        ("ssh://board:70000", "'70000' is not a port"),
        ("ssh://board:ssh", "'ssh' is not a port"),
        ("ssh://board:", "'' is not a port"),
        ("ssh://board:²", "'²' is not a port"),
        ("ssh://board/srv", "contains a path: give the work folder on the device as `folder`"),
        ("ssh://[::1", "is not of the form ssh://user@host[:port]"),
        ("ssh://[board]", "'board' is not an IPv6 address"),
        ("ssh:/board", "'ssh:/board' is not one of cpu, cuda, ssh://user@host[:port]"),
        ("cdua", "did you mean 'cuda'?"),
    ],
)
def test_what_is_no_device_is_refused(device: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        checked_device(device)


@given(st.text(max_size=30))
def test_no_address_holds_what_a_shell_or_an_option_is_made_of(text: str) -> None:
    try:
        address = parse_ssh(f"ssh://{text}")
    except ValueError:
        return
    for word in (address.host, address.user or "x"):
        assert not word.startswith("-")
        assert re.fullmatch(r"[A-Za-z0-9_.+:%-]+", word)


BOARD = "ssh://board"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"device": BOARD, "runtime": "torch"}, "a device over ssh is measured with onnxruntime"),
        ({"python": "python3"}, "`python` is for a device over ssh, and this one is cpu"),
        ({"folder": "/tmp"}, "`folder` is for a device over ssh, and this one is cpu"),
        ({"keep": True}, "`keep` is for a device over ssh, and this one is cpu"),
        ({"device": "cuda", "cores": [0]}, "`cores` is for CPUs, and this device is cuda"),
        ({"device": "cuda", "memory_limit_mb": 1}, "`memory_limit_mb` is for CPUs, and this device is cuda"),
        ({"cores": [1, 1]}, "`cores` names 1 twice"),
        ({"batch_sizes": [1, 8, 8]}, "`batch_sizes` names 8 twice"),
        ({"sequence_lengths": [64, 64]}, "`sequence_lengths` names 64 twice"),
        ({"cores": []}, "at least 1 item"),
        ({"cores": [-1]}, "greater than or equal to 0"),
        ({"memory_limit_mb": 0}, "greater than or equal to 1"),
        ({"device": BOARD, "python": "-c"}, "`python`: '-c' is not a path"),
        ({"device": BOARD, "python": ""}, "`python`: '' is not a path"),
        ({"device": BOARD, "folder": "a\nb"}, "`folder`: 'a\\nb' is not a path"),
    ],
)
def test_keys_that_do_not_fit_the_device_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        TargetSpec.model_validate(keys)


def test_a_target_over_ssh_is_called_by_its_host() -> None:
    assert TargetSpec(device="ssh://pi@board:22", threads=4).label == "board-onnxruntime-4t"
    assert TargetSpec(device="ssh://pi@board:22", name="pi").label == "pi"
