"""Where webhooks may go: the URL's form, the operator's list, and which addresses are public."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hook_rules import MAX_URL_CHARS, Allowed, Target, is_public, shown
from server.misconfigured import Misconfigured
from server.preflight import load_settings

pytestmark = pytest.mark.row("W1")


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("https://hooks.example.com", "https", "hooks.example.com", 443, "/"),
        ("HTTPS://Hooks.Example.COM.:8443/a/b?c=d", "https", "hooks.example.com", 8443, "/a/b?c=d"),
        ("http://10.0.0.7:80?x", "http", "10.0.0.7", 80, "/?x"),
        ("http://[2001:DB8:0::1]/", "http", "2001:db8::1", 80, "/"),
        ("http://xn--bcher-kva.example/%C3%BC", "http", "xn--bcher-kva.example", 80, "/%C3%BC"),
        ("http://r3_hooks/", "http", "r3_hooks", 80, "/"),
    ],
)
def test_a_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str) -> None:
    assert Target.parse(url) == Target(scheme, host, port, path)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "https://"),
        ("hooks.example.com/x", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://hooks.example.com/", "https://"),
        ("ftp://hooks.example.com/", "https://"),
        ("unix:///run/r3.sock", "https://"),
        ("https:hooks.example.com", "https://"),
        ("https://user:password@hooks.example.com/", "credentials"),
        ("https://user@hooks.example.com/", "credentials"),
        ("https://hooks.example.com@127.0.0.1/", "credentials"),
        ("https://hooks.example.com/#x", "fragment"),
        ("https://bücher.example/", "xn--"),
        ("https://①27.0.0.1/", "xn--"),
        ("https://hooks.example.com/\r\nX-Evil: 1", "no URL"),
        ("https://hooks.example.com/a b", "no URL"),
        ("https://hooks.example.com\\@127.0.0.1/", "no URL"),
        ("https://hooks.example.com:80:90/", "no URL"),
        ("https://hooks.example.com:+80/", "no URL"),
        ("https:///x", "no URL"),
        ("https://[::1%25eth0]/", "no URL"),
        ("https://[::1/", "no URL"),
        ("https://[hooks.example.com]/", "no URL"),
        ("https://hooks..example.com/", "no host name"),
        ("https://-hooks.example.com/", "no host name"),
        (f"https://{'a' * 64}.example/", "no host name"),
        ("https://hooks.example.com:0/", "1 to 65535"),
        ("https://hooks.example.com:65536/", "1 to 65535"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://017700000001/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://127.1/", "four decimal numbers"),
        ("http://127.0.0.1.1/", "four decimal numbers"),
        ("http://hooks.0x7f/", "four decimal numbers"),
        ("http://[127.0.0.1]/", "four decimal numbers"),
        ("https://hooks.example.com/" + "a" * MAX_URL_CHARS, "2048"),
    ],
)
def test_a_url_of_another_form_is_refused_and_not_repeated(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as refused:
        Target.parse(url)
    assert "password" not in str(refused.value)


@given(st.text(alphabet="htps:/@#?[]\\.%0123456789abcdefx \r\n", max_size=60))
def test_whatever_is_taken_has_a_host_that_is_a_name_or_a_plain_address(text: str) -> None:
    try:
        target = Target.parse(f"http://{text}")
    except ValueError:
        return
    assert target.literal is not None or not target.host.rpartition(".")[2].isdigit()
    assert not set(target.host) & set("@#?/\\%[] \r\n")
    assert target.path.startswith("/")


PUBLIC = ("1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1")
NOT_PUBLIC = (
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1"),
    *("::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1"),
    *("64:ff9b:1::1.1.1.1", "2002:7f00:1::", "2002:101:101::", "2001::1", "2001:10::1", "2001:db8::1", "3fff::1"),
    *("2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:10.0.0.1", "100::1", "4000::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_known(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_known_also_where_another_wraps_it(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("entries", "url", "is_allowed"),
    [
        ("hooks.example.com", "https://hooks.example.com/x", True),
        ("Hooks.Example.com", "https://HOOKS.example.com./x", True),
        ("hooks.example.com", "https://a.hooks.example.com/x", False),
        ("hooks.example.com", "https://hooks.example.com.evil.example/x", False),
        ("*.example.com", "https://a.b.example.com/x", True),
        ("*.example.com", "https://example.com/x", False),
        ("*.example.com", "https://evilexample.com/x", False),
        ("*", "https://anything.example/x", True),
        ("*", "https://1.1.1.1/x", False),
        ("*", "https://127.0.0.1/x", False),
        ("127.0.0.1", "http://127.0.0.1:8080/x", True),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]:8080/x", True),
        ("127.0.0.1", "http://127.0.0.2:8080/x", False),
        ("127.0.0.1", "http://localhost:8080/x", False),
        ("[::1]", "http://[::1]:8080/x", True),
        ("10.0.0.0/8,1.1.1.1", "https://10.9.8.7/x", True),
        ("10.0.0.0/8,1.1.1.1", "https://1.1.1.1/x", True),
        ("10.0.0.0/8,1.1.1.1", "https://hooks.example.com/x", False),
    ],
)
def test_what_the_operator_lists_may_be_named_and_nothing_else(entries: str, url: str, is_allowed: bool) -> None:
    assert (Allowed.parse(entries.split(",")).refusal(Target.parse(url)) is None) is is_allowed


def test_a_listed_name_leads_to_public_addresses_and_to_listed_networks_only() -> None:
    listed = Allowed.parse(["hooks.example.com", "10.0.0.0/8", "fd00::/8"])
    assert listed.reaches(ip_address("1.1.1.1"))
    assert listed.reaches(ip_address("10.1.1.1"))
    assert listed.reaches(ip_address("::ffff:10.1.1.1"))
    assert listed.reaches(ip_address("fd00::7"))
    assert not listed.reaches(ip_address("192.168.0.1"))
    assert not listed.reaches(ip_address("::1"))


@pytest.mark.parametrize("entry", ["https://a.example", "a.example/x", "a.example:443", "*a.example", "10.0.0.1/8", ""])
def test_an_entry_that_is_neither_host_nor_network_stops_the_start(entry: str) -> None:
    with pytest.raises(Misconfigured, match="webhook-allow"):
        load_settings({"webhook_allow": (entry,)})


def test_path_and_query_are_not_shown() -> None:
    assert (
        shown("https://hooks.example.com:8443/services/T0/B0/secret?token=secret") == "https://hooks.example.com:8443"
    )
    assert "secret" not in shown("https://user:secret@hooks.example.com/")
