"""Whatever a client sends, the answer is one that the OpenAPI description names (schemathesis)."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from, sets
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from inpaint.web.api import make_api
from inpaint.web.fill_form import FillForm
from inpaint.web.filler import Filler
from inpaint.web.limits import Limits

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
OPTIONS = sorted(set(FillForm.model_fields) - {"photo", "mask"})
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("/fill", GenerationMode.POSITIVE, {200, 422}),
        ("/fill", GenerationMode.NEGATIVE, {422}),
        ("/health", GenerationMode.POSITIVE, {200}),
        ("/metrics", GenerationMode.POSITIVE, {200}),
    ],
)
def test_any_request_has_a_described_answer(path, mode, expected, red, photo, mask):
    """Forms get a real photograph and mask, and few other fields, so that each field counts."""
    statuses, is_valid = set(), mode == GenerationMode.POSITIVE
    with Filler([red]) as filler:
        schema = schemathesis.openapi.from_asgi("/openapi.json", make_api(filler, Limits(megapixels=1)))
        operation = schema[path]["POST" if path == "/fill" else "GET"]

        @given(operation.as_strategy(generation_mode=mode), sets(sampled_from(OPTIONS), max_size=2))
        @FEW
        def check(case, kept) -> None:
            if is_valid and isinstance(case.body, dict):
                case.body = {name: value for name, value in case.body.items() if name in kept}
                case.body |= {"photo": photo, "mask": mask}
            answer = case.call()
            case.validate_response(answer, checks=CHECKS + [checks.negative_data_rejection] * (not is_valid))
            statuses.add(answer.status_code)

        check()
    assert expected <= statuses
