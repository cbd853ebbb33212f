"""Who may see the page, and where it listens."""

import asyncio
import logging
import re
import socket
import sys

import aiohttp
import pytest

from clst_runtime.errors import ConfigError, MissingDependency
from clst_runtime.live.web import parse_web_address
from tests.support.web_run import JSON, served

OPEN = "0.0.0.0:0"
PATHS = ("/", "/page.js", "/live", "/facts.json", "/status.json", "/metrics", "/nowhere")


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("8080", "127.0.0.1", 8080, True),
        (" 0 ", "127.0.0.1", 0, True),
        ("localhost:65535", "localhost", 65535, True),
        ("127.8.0.1:80", "127.8.0.1", 80, True),
        ("[::1]:8080", "::1", 8080, True),
        ("[::]:8080", "::", 8080, False),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("vehicle-7.local:8080", "vehicle-7.local", 8080, False),
        ("localhost.evil.example:1", "localhost.evil.example", 1, False),
    ],
)
def test_addresses_that_can_be_listened_on(text, host, port, loopback):
    address = parse_web_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)


@pytest.mark.parametrize(
    "text",
    ["", ":", "web", ":8080", "8080:", "65536", "-1", "1.5", "٣", "::1:8080", "[1.2.3.4]:80", "[::1", "256.0.0.1:80",
     "1.2.3:80", "http://localhost:80", "a b:80", "0x50"],
)  # fmt: skip
def test_other_texts_are_refused_with_the_forms_that_are_known(text):
    with pytest.raises(ConfigError, match="0.0.0.0:8080") as caught:
        parse_web_address(text)
    assert "\n" not in caught.value.message


def test_a_port_in_use_is_one_line_with_a_cure():
    with (
        served() as first,
        pytest.raises(ConfigError, match="another program has this port.*another port") as caught,
        served(str(first.port)),
    ):
        pass
    assert str(first.port) in caught.value.message
    assert "\n" not in caught.value.message


def test_an_address_of_another_machine_cannot_be_listened_on():
    with pytest.raises(ConfigError, match="192.0.2.7:0.*no such address"), served("192.0.2.7:0"):
        pass


@pytest.mark.parametrize("module", ["aiohttp", "prometheus_client"])
def test_without_its_packages_the_extra_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[web\]'"), served():
        pass


def test_on_this_machine_no_token_is_needed():
    with served() as page:
        assert page.url == f"http://127.0.0.1:{page.port}/"
        assert page.ask("/")[0] == 200


def test_the_page_of_ipv6_is_found_at_its_url():
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        with served("[::1]:0") as page:
            assert page.url == f"http://[::1]:{page.port}/"
            with socket.create_connection(("::1", page.port), 5) as connection:
                connection.sendall(b"GET /status.json HTTP/1.1\r\nHost: [::1]:%d\r\n\r\n" % page.port)
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
    except ConfigError as error:
        pytest.skip(f"this machine has no IPv6: {error.message}")


@pytest.mark.parametrize("path", PATHS)
def test_open_to_a_network_everything_needs_the_token(path):
    with served(OPEN) as page:
        code, headers, text = page.ask(path)
        assert (code, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert text == "a token is needed; open the address that clst-run printed when it started\n"
        assert page.record(True)[0] == 401


def test_every_run_makes_a_long_token_of_its_own():
    with served(OPEN) as one, served(OPEN) as other:
        assert len(one.token) == 32
        assert one.token != other.token
        assert other.ask(f"/?token={one.token}")[0] == 401


def test_the_token_in_the_address_is_changed_for_a_cookie():
    with served(OPEN) as page:
        code, headers, _ = page.ask(f"/?a=1&token={page.token}")
        assert (code, headers["Location"]) == (303, "/?a=1")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert page.token not in cookie
        held = {"Cookie": cookie.split(";")[0]}
        assert page.ask("/", held)[0] == 200
        assert page.ask("/", {"Cookie": held["Cookie"][:-1] + "x"})[0] == 401
        assert page.record(False, held)[0] == 200


def test_a_redirection_never_leaves_this_page():
    with served(OPEN) as page:
        assert page.ask(f"//evil.example/?token={page.token}")[1]["Location"] == "/evil.example/"


@pytest.mark.parametrize("wrong", ["", "x", "%C3%A9", "%00", "a" * 32])
def test_a_wrong_token_is_one_clear_line(wrong):
    with served(OPEN) as page:
        code, headers, text = page.ask(f"/?token={wrong}")
        assert (code, text) == (401, "wrong token; open the address that clst-run printed when it started\n")
        assert "Set-Cookie" not in headers


def test_a_wrong_token_is_not_healed_by_a_good_cookie():
    with served(OPEN) as page:
        cookie = page.ask(f"/?token={page.token}")[1]["Set-Cookie"].split(";")[0]
        assert page.ask("/?token=wrong", {"Cookie": cookie})[0] == 401


def test_the_token_in_a_header_is_for_programs():
    with served(OPEN) as page:
        assert page.ask("/metrics", {"Authorization": f"Bearer {page.token}"})[0] == 200
        assert page.ask("/metrics", {"Authorization": f"bearer  {page.token} "})[0] == 200
        for wrong in ("Bearer", "Bearer x", f"Bearer {page.token}x", page.token, f"Basic {page.token}"):
            assert page.ask("/metrics", {"Authorization": wrong})[0] == 401, wrong


def test_a_token_of_ones_own_is_taken_and_needed_on_this_machine_too():
    with served(token="front-camera-of-7") as page:
        assert page.url.endswith("/?token=front-camera-of-7")
        assert page.ask("/")[0] == 401
        assert page.ask("/", {"Authorization": "Bearer front-camera-of-7"})[0] == 200


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "with spaces in it ok", "sixteen-lettersé", "a" * 16 + "\n"]
)
def test_a_token_that_is_short_or_strange_is_refused_without_being_repeated(token):
    with pytest.raises(ConfigError, match="at least 16") as caught, served(token=token):
        pass
    assert not token or token not in caught.value.message


def test_the_token_is_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    with served(OPEN) as page:
        page.ask(f"/?token={page.token}")
        page.ask(f"/nowhere?token={page.token}", {"X-Bad": "é"})
        assert page.token not in repr(page.sink)
    assert page.token not in caplog.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "10.0.0.1", "", "[::1"]
)
def test_a_foreign_name_that_points_here_is_refused(host):
    with served() as page:
        for path in PATHS:
            assert page.ask(path, {"Host": host.format(port=page.port)})[0] in (400, 403), path


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:{port}", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine_are_answered_also_through_a_tunnel(host):
    with served() as page:
        assert page.ask("/", {"Host": host.format(port=page.port)})[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:{port}", "[", ""]
)
def test_pages_of_other_sites_cannot_record(tmp_path, origin):
    with served(recordings=tmp_path) as page:
        code, text = page.record(True, {"Origin": origin.format(port=page.port)})
        assert (code, text) == (403, "asked by a page of another site; open this page itself\n")
        assert not page.status()["recording"]["active"]


def test_the_page_itself_can_record(tmp_path):
    with served(recordings=tmp_path) as page:
        assert page.record(True, {"Origin": page.site})[0] == 200
        assert page.status()["recording"]["active"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_site_cannot_record(tmp_path, kind):
    with served(recordings=tmp_path) as page:
        code, _, text = page.ask("/recording", {"Content-Type": kind}, method="POST", body='{"on": true}')
        assert (code, text.count("\n")) == (415, 1)
        assert not page.status()["recording"]["active"]


@pytest.mark.parametrize("body", ["", "[]", "{}", "null", '{"on": 1}', '{"on": "true"}', "{", "\xff"])
def test_a_wish_that_is_no_wish_is_refused(tmp_path, body):
    with served(recordings=tmp_path) as page:
        assert page.ask("/recording", JSON, method="POST", body=body)[0] == 400


def test_a_huge_wish_is_refused(tmp_path):
    with served(recordings=tmp_path) as page:
        assert page.ask("/recording", JSON, method="POST", body=" " * 5000)[0] == 413
        assert page.ask("/recording")[0] == 405


def test_a_script_of_another_site_cannot_look():
    async def look(page):
        async with aiohttp.ClientSession() as session:
            await session.ws_connect(f"{page.site}/live", headers={"Origin": "http://evil.example"})

    with served() as page, pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        asyncio.run(look(page))
    assert caught.value.status == 403


def test_the_page_asks_nothing_of_other_machines():
    with served() as page:
        found = {"/"}
        for _ in range(3):
            for path in sorted(found):
                code, headers, text = page.ask(path)
                assert code == 200, path
                assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
                assert "unsafe" not in headers["Content-Security-Policy"]
                assert headers["X-Content-Type-Options"] == "nosniff"
                addresses = set(re.findall(r"""https?://[^\s"'`$]+|["'(]//[^"'`]+""", text))
                assert addresses <= {"http://www.w3.org/2000/svg"}, path
                found |= set(re.findall(r'(?:src=|href=|from )"(/[^"]+)"', text))
        assert found == {"/", "/page.css", "/page.js", "/charts.js", "/icon.svg"}
