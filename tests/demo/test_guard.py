"""Calls that count as the page's own, by the headers that browsers send."""

import pytest
from starlette.datastructures import Headers

from demo.guard import is_from_page


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://page:7860"}, True),
        ({"origin": "https://mova.example", "x-forwarded-host": "mova.example"}, True),
        (
            {"origin": "https://mova.example", "sec-fetch-site": "same-origin"},
            True,
        ),  # a proxy changed the host
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
    ids=["own", "proxy", "proxy that hides", "other site", "old browser, other site", "opaque", "program"],
)
def test_a_call_of_the_page_is_known_by_what_scripts_of_other_sites_cannot_change(headers, expected):
    assert is_from_page(Headers({"host": "page:7860"} | headers)) == expected
