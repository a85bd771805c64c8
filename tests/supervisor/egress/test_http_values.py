"""What an HTTP client of the host's own may hand over."""

from __future__ import annotations

from typing import Any

import pytest

from isoplug.supervisor import HttpResponse, ServiceError


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("200",), "status '200'"),
        ((0,), "status 0"),
        ((200, (), "text"), "body of type str"),
        ((200, (("x-count", 3),)), "not pairs of text"),
    ],
)
def test_an_answer_that_no_guest_could_read_is_refused(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ServiceError, match=text):
        HttpResponse(*arguments)
