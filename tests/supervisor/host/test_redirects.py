"""What follows from a redirect: the pure rules, hop by hop."""

from __future__ import annotations

import pytest

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import HttpRequest, HttpResponse
from isoplug.supervisor.host.redirects import redirected

HEADERS = (("Accept", "text/html"), ("Content-Type", "text/plain"), ("Authorization", "Bearer x"), ("X-Api-Key", "y"))


def hop(status: int, method: str = "GET", location: str = "/next", url: str = "https://a.example/x") -> HttpRequest:
    request = HttpRequest(method, url, HEADERS, b"body", may_be_private=True)
    onward = redirected(request, HttpResponse(status, (("Location", location),)))
    assert onward is not None
    return onward


@pytest.mark.parametrize("status", [200, 204, 300, 304, 305, 306, 400, 500])
def test_what_is_no_redirect_leads_nowhere(status: int) -> None:
    answer = HttpResponse(status, (("Location", "/next"),))
    assert redirected(HttpRequest("GET", "http://a.example/"), answer) is None


def test_a_redirect_without_a_location_is_an_answer() -> None:
    assert redirected(HttpRequest("GET", "http://a.example/"), HttpResponse(302)) is None


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
    ],
)
def test_some_redirects_ask_for_a_get_without_body(status: int, method: str, then: str) -> None:
    onward = hop(status, method)
    assert (onward.method, onward.body) == (then, b"")
    assert [name for name, _ in onward.headers] == ["Accept", "Authorization", "X-Api-Key"]


@pytest.mark.parametrize(
    ("status", "method"),
    [(301, "GET"), (301, "PUT"), (302, "DELETE"), (303, "HEAD"), (307, "POST"), (308, "POST"), (308, "GET")],
)
def test_other_redirects_repeat_the_request(status: int, method: str) -> None:
    onward = hop(status, method)
    assert (onward.method, onward.body, onward.headers) == (method, b"body", HEADERS)


@pytest.mark.parametrize("location", ["https://b.example/", "https://a.example:8443/", "https://x.a.example/"])
def test_no_credential_goes_to_another_origin(location: str) -> None:
    onward = hop(307, "POST", location)
    assert [name for name, _ in onward.headers] == ["Accept", "Content-Type"]
    assert not onward.may_be_private


@pytest.mark.parametrize("location", ["/y", "https://a.example/y", "https://A.EXAMPLE:443/y", "//a.example/y"])
def test_credentials_stay_with_their_origin(location: str) -> None:
    onward = hop(307, "POST", location)
    assert onward.url == "https://a.example/y"
    assert onward.headers == HEADERS
    assert onward.may_be_private


@pytest.mark.parametrize(
    "location", ["http://a.example/", "http://b.example/", "file:///etc/passwd", "https://u@b.example/"]
)
def test_a_redirect_out_of_https_or_to_what_is_no_url_is_refused(location: str) -> None:
    with pytest.raises(ServiceError):
        hop(302, location=location)


def test_a_redirect_into_https_is_followed_without_credentials() -> None:
    onward = hop(302, location="https://a.example/", url="http://a.example/")
    assert onward.url == "https://a.example/"
    assert [name for name, _ in onward.headers] == ["Accept", "Content-Type"]
