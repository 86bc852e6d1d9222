"""URLs, proxies of the environment, and addresses that must not be reached."""

from __future__ import annotations

import pytest

from mcp_sidecar.upstream.route import Origin, bypasses, find_route, is_link_local, is_local, parse_origin


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://host/mcp", "host", "/mcp"),
        ("http://host", "host", "/"),
        ("https://HOST:443/a?b=c", "host", "/a?b=c"),
        ("https://host:8443/a%20b?q=%2F&x=y z", "host:8443", "/a%20b?q=%2F&x=y%20z"),
        ("http://[::1]:8080/", "[::1]:8080", "/"),
        ("http://bücher.example/ü", "xn--bcher-kva.example", "/%C3%BC"),
        ("http://host/a#fragment", "host", "/a"),
    ],
)
def test_origin_and_target(url: str, authority: str, target: str) -> None:
    origin, found = parse_origin(url)
    assert (origin.authority, found) == (authority, target)


@pytest.mark.parametrize(
    "url", ["ftp://host/", "host/mcp", "http://", "http://user:topsecret@host/", "http://h:99999/"]
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_origin(url)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:3128"}, ("p", 3128)),
        ({"http_proxy": "http://low:1", "HTTP_PROXY": "http://up:2"}, ("low", 1)),
        ({"HTTPS_PROXY": "http://p:1"}, None),
        ({"ALL_PROXY": "p:1080"}, ("p", 1080)),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "example.test"}, None),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "other.test", "NO_PROXY": "example.test"}, ("p", 1)),
        ({"HTTP_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://p"}, ("p", 80)),
    ],
)
def test_which_proxy(environ: dict[str, str], proxy: tuple[str, int] | None) -> None:
    found = find_route("http://api.example.test/mcp", environ).proxy
    assert (None if found is None else (found.host, found.port)) == proxy


def test_a_proxy_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="socks5"):
        find_route("http://host/", {"ALL_PROXY": "socks5://user:topsecret@p:1"})


def test_the_credentials_of_a_proxy_do_not_show() -> None:
    route = find_route("http://host.test/", {"HTTP_PROXY": "http://user:topsecret@p:1"})
    assert "topsecret" not in repr(route)
    assert route.proxy_headers() == [(b"Proxy-Authorization", b"Basic dXNlcjp0b3BzZWNyZXQ=")]
    assert find_route("https://host.test/", {"HTTPS_PROXY": "http://user:x@p:1"}).proxy_headers() == []


@pytest.mark.parametrize(
    ("host", "no_proxy", "expected"),
    [
        ("localhost", "", True),
        ("127.0.0.2", "", True),
        ("::1", "", True),
        ("a.localhost", "", True),
        ("host.test", "", False),
        ("host.test", "*", True),
        ("host.test", "host.test", True),
        ("host.test", ".test", True),
        ("host.test", "*.test", True),
        ("host.test", "test", True),
        ("ghost.test", "host.test", False),
        ("sub.host.test", "host.test", True),
        ("HOST.test", "host.TEST", True),
        ("host.test", "other, host.test ,x", True),
        ("host.test", "host.test:8080", True),
        ("host.test", "host.test:9", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::7", "fd00::/8", True),
        ("host.test", "10.0.0.0/8", False),
    ],
)
def test_no_proxy(host: str, no_proxy: str, expected: bool) -> None:
    assert bypasses(Origin("http", host, 8080), no_proxy) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.1.1", True),
        ("64:ff9b::169.254.169.254", True),
        ("2002:a9fe:a9fe::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("64:ff9b::8.8.8.8", False),
        ("name", False),
    ],
)
def test_link_local(address: str, expected: bool) -> None:
    assert is_link_local(address) is expected


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/mcp", True),
        ("http://localhost/", True),
        ("http://LOCALHOST./", True),
        ("http://x.localhost/", True),
        ("http://[::1]/", True),
        ("http://127.8.8.8/", True),
        ("http://10.0.0.1/", False),
        ("https://localhost.example/", False),
        ("http://mcp/", False),
    ],
)
def test_urls_that_stay_in_the_pod(url: str, local: bool) -> None:
    assert is_local(url) is local
