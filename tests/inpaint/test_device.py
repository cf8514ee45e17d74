from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import patchswap  # noqa: F401  # defines its operators
from inpaint.device import choose_device
from inpaint.errors import InpaintError
from patchswap import ops


@pytest.fixture(params=[0, 2], ids=["no GPU", "two GPUs"])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return request.param


def test_auto_takes_a_gpu_where_there_is_one(count: int) -> None:
    assert choose_device() == choose_device("auto") == torch.device("cuda" if count else "cpu")


def test_a_device_is_named_or_given(count: int) -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    if count:
        assert choose_device("cuda") == torch.device("cuda")
        assert choose_device("cuda:1") == choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_gpu_that_is_not_there_is_refused(count: int) -> None:
    message = "out of cuda:0 to cuda:1, got 'cuda:2'" if count else "found none; use --device cpu"
    for name in ("cuda:2", torch.device("cuda", 2)) if count else ("cuda", "cuda:0", torch.device("cuda")):
        with pytest.raises(InpaintError, match=message):
            choose_device(name)


@pytest.mark.parametrize("name", ["", "toaster", "cuda:x", "cpu:-7", "meta", torch.device("meta")])
def test_other_names_are_refused(count: int, name: torch.device | str) -> None:
    with pytest.raises(InpaintError, match=f"expected auto, cpu, cuda or mps, got '{name}'; choose one of these"):
        choose_device(name)


# Apple's GPUs ("mps"), which no test machine has


def test_mps_has_to_be_asked_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InpaintError, match="expected an Apple GPU and torch with MPS, found none; use --device cpu"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    assert choose_device("auto").type != "mps"


def test_every_operator_has_a_kernel_for_mps() -> None:
    names = [f"patchswap::{name}" for name in ops.SCHEMAS]
    assert all(torch._C._dispatch_has_kernel_for_dispatch_key(name, "MPS") for name in names)


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, Any]:
    """What a device that is neither CPU nor CUDA fills, and the operators that it was asked for."""
    program = Path(__file__).parent / "another_device.py"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", program], env=environment, capture_output=True, encoding="utf-8"
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_another_device_fills_as_the_cpu_does(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["known pixels are kept"] and elsewhere["hole is filled"] and elsewhere["tensor gives the same"]
    assert elsewhere["largest difference"] < 1e-3 and elsewhere["similarity is the score"]
    assert elsewhere["devices"] == ["elsewhere:0"] and elsewhere["devices of the caller's networks"] == ["cpu"]
    own = {name.removeprefix("patchswap.") for name in elsewhere["called"] if name.startswith("patchswap.")}
    assert own == {"cohere.default", "fill_smoothly.default", "fold.default", "match.default", "similarity.default"}


def test_torch_has_kernels_for_mps_of_all_that_is_called(elsewhere: dict[str, Any]) -> None:
    """By torch's own list of operators, which comes with it."""
    specification = importlib.util.find_spec("torchgen")
    assert specification is not None and specification.origin is not None
    listing = Path(specification.origin).parent / "packaged/ATen/native/native_functions.yaml"
    text = listing.read_text(encoding="utf-8")
    entries = {
        entry[1]: entry[0] for entry in re.finditer(r"^- func: ([\w.]+)\(.*?(?=^- func: |\Z)", text, re.M | re.S)
    }

    def has_kernel(name: str) -> bool:
        if delegate := re.search(r"structured_delegate: ([\w.]+)", entries[name]):
            return has_kernel(delegate[1])
        kernels = re.search(r"^  dispatch:\n((?:    .*\n)+)", entries[name], re.M)
        return kernels is None or bool(re.search(r"^    .*\b(?:MPS|Composite\w+)\b.*:", kernels[1], re.M))

    assert not has_kernel("_linalg_eigh.eigenvalues")  # as an example of one that has none
    names = [name.removeprefix("aten.") for name in elsewhere["called"] if name.startswith("aten.")]
    assert len(names) > 30
    assert [name for name in names if not has_kernel(name.removesuffix(".default"))] == []
