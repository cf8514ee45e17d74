from __future__ import annotations

import pytest
import torch

from inpaint.device import choose_device
from inpaint.errors import InpaintError


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
    with pytest.raises(InpaintError, match=f"expected auto, cpu or cuda, got '{name}'; choose one of these"):
        choose_device(name)
