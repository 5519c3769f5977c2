"""Where a tenant's request may go: a canary on localhost must never hear of one that it may not."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.exceptions import ImproperlyConfigured

from bloxserver.core.addresses import AllowList, is_public, parse_allow_list
from bloxserver.core.guarded_transport import ssl_context
from bloxserver.core.safe_http import BlockedAddress, GuardedClient, GuardedResponse, InvalidRequest, NotSent
from tests.local_server import LocalServer, answer, serving

pytestmark = pytest.mark.once

PUBLIC = "93.184.216.34"

# A resolver of our own: what an attacker's DNS could say.
NAMES: dict[str, list[str]] = {
    "localhost": ["127.0.0.1"],
    "localhost.": ["127.0.0.1"],
    "127.0.0.1.nip.io": ["127.0.0.1"],
    "7f000001.nip.io": ["127.0.0.1"],
    "localtest.me": ["127.0.0.1"],
    "v6.attacker.example": ["::1"],
    "mapped.attacker.example": ["::ffff:127.0.0.1"],
    "public-then-private.attacker.example": [PUBLIC, "127.0.0.1"],
    "private-then-public.attacker.example": ["127.0.0.1", PUBLIC],
    "metadata.google.internal": ["169.254.169.254"],
    "zero.attacker.example": ["0.0.0.0"],
    "nat64.attacker.example": ["64:ff9b::7f00:1"],
    "xn--bcher-kva.attacker.example": ["127.0.0.1"],
    "under_score.attacker.example": ["127.0.0.1"],
}

# "{port}" is the canary's, which the list of ports that are open to all names has for these tests.
FORBIDDEN = """
http://127.0.0.1:{port}/
http://localhost:{port}/
http://LOCALHOST:{port}/
http://localhost.:{port}/
http://127.1:{port}/
http://127.0.1:{port}/
http://127.0.0.1.:{port}/
http://2130706433:{port}/
http://0x7f000001:{port}/
http://0X7F.0.0.1:{port}/
http://0x7f.1:{port}/
http://017700000001:{port}/
http://0177.0.0.1:{port}/
http://0177.0.0.0x1:{port}/
http://00000000177.0.0.1:{port}/
http://127.0.0.2:{port}/
http://127.255.255.254:{port}/
http://0.0.0.0:{port}/
http://0:{port}/
http://[::1]:{port}/
http://[0:0:0:0:0:0:0:1]:{port}/
http://[::]:{port}/
http://[::ffff:127.0.0.1]:{port}/
http://[::ffff:7f00:1]:{port}/
http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/
http://[::127.0.0.1]:{port}/
http://[::ffff:0:127.0.0.1]:{port}/
http://[64:ff9b::127.0.0.1]:{port}/
http://[64:ff9b:1::7f00:1]:{port}/
http://[2002:7f00:1::]:{port}/
http://[2001:0:7f00:1::]:{port}/
http://[2001:db8::1]:{port}/
http://[3fff::1]:{port}/
http://[5f00::1]:{port}/
http://[100::1]:{port}/
http://[fe80::1]:{port}/
http://[fe80::1%25lo]:{port}/
http://[fec0::1]:{port}/
http://[fc00::1]:{port}/
http://[fd00:ec2::254]:{port}/
http://[ff02::1]:{port}/
http://127.0.0.1.nip.io:{port}/
http://7f000001.nip.io:{port}/
http://localtest.me:{port}/
http://v6.attacker.example:{port}/
http://mapped.attacker.example:{port}/
http://public-then-private.attacker.example:{port}/
http://private-then-public.attacker.example:{port}/
http://zero.attacker.example:{port}/
http://nat64.attacker.example:{port}/
http://bücher.attacker.example:{port}/
http://under_score.attacker.example:{port}/
http://metadata.google.internal:{port}/
http://169.254.169.254/latest/meta-data/
http://2852039166/
http://0xa9fea9fe/
http://0251.0376.0251.0376/
http://[::ffff:169.254.169.254]/
http://[2002:a9fe:a9fe::]/
http://[64:ff9b::a9fe:a9fe]/
http://100.100.100.200/
http://100.64.0.1/
http://168.63.129.16/
http://192.0.0.8/
http://192.0.0.192/
http://192.88.99.1/
http://10.0.0.1/
http://172.16.0.1/
http://192.168.1.1/
http://198.18.0.1/
http://192.0.2.1/
http://203.0.113.1/
http://224.0.0.1/
http://239.255.255.250/
http://240.0.0.1/
http://255.255.255.255/
http://256.256.256.256:{port}/
http://127.0.0.1.5:{port}/
http://0x7g.1:{port}/
http://1.2.3.4.5:{port}/
http://user@127.0.0.1:{port}/
http://user:pass@127.0.0.1:{port}/
http://93.184.216.34@127.0.0.1:{port}/
http://93.184.216.34:80@127.0.0.1:{port}/
http://127.0.0.1:{port}@localhost:{port}/
http://93.184.216.34\\@127.0.0.1:{port}/
http://①②⑦.⓪.⓪.①:{port}/
http://127。0。0。1:{port}/
http://ⓛocalhost:{port}/
http:127.0.0.1:{port}/
http:/127.0.0.1:{port}/
http:///127.0.0.1:{port}/
//127.0.0.1:{port}/
127.0.0.1:{port}/
ftp://127.0.0.1:{port}/
file:///etc/passwd
file://127.0.0.1:{port}/
gopher://127.0.0.1:{port}/_x
unix:///var/run/docker.sock
ws://127.0.0.1:{port}/
javascript:alert(1)
http://
http://:{port}/
http://%31%32%37.0.0.1:{port}/
http://127.0.0.1%00.example.com:{port}/
http://127.0.0.1:{port}0000000/
http://127.0.0.1:-1/
http://93.184.216.34:22/
http://93.184.216.34:6379/
https://93.184.216.34:5432/
""".split("\n")[1:-1]


async def lying_resolver(host: str, port: int) -> list[str]:
    try:
        return NAMES[host.lower()]
    except KeyError:
        raise socket.gaierror(socket.EAI_NONAME, "unknown") from None


def get(url: str, *, allow: AllowList, resolver: Any = lying_resolver) -> GuardedResponse:
    async def run() -> GuardedResponse:
        client = GuardedClient(allow=allow, resolver=resolver)
        try:
            return await client.request("GET", url, timeout=3)
        finally:
            await client.aclose()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def canary() -> Iterator[LocalServer]:
    with serving(lambda request: answer(200, b"you should not be here")) as server:
        yield server


def test_the_canary_does_hear_what_an_operator_allows() -> None:
    with serving(lambda request: answer(200, b"hi")) as server:
        allow = parse_allow_list((f"127.0.0.1:{server.port}",))
        assert get(f"http://2130706433:{server.port}/", allow=allow).content == b"hi"
        assert server.connections == 1


@pytest.mark.parametrize("url", FORBIDDEN)
def test_nothing_is_sent_to_a_forbidden_address(url: str, canary: LocalServer) -> None:
    allow = AllowList(web_ports=frozenset({80, 443, canary.port}))
    with pytest.raises((BlockedAddress, InvalidRequest)):  # not NotSent: it is refused, not merely out of reach
        get(url.format(port=canary.port), allow=allow)
    assert canary.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0"]
)
def test_nothing_is_sent_when_the_systems_own_resolver_answers(host: str, canary: LocalServer) -> None:
    with pytest.raises((BlockedAddress, InvalidRequest)):
        get(f"http://{host}:{canary.port}/", allow=AllowList(web_ports=frozenset({canary.port})), resolver=None)
    assert canary.connections == 0


def test_a_name_that_changes_its_address_is_connected_only_where_it_was_checked(canary: LocalServer) -> None:
    """127.0.0.2 plays a public address: the name has it when asked first, and the canary's when asked again."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]

    async def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    with serving(lambda request: answer(200, request.headers["host"].encode()), "127.0.0.2") as server:
        allow = AllowList(parse_allow_list(("127.0.0.2",)).entries, web_ports=frozenset({server.port}))
        url = f"http://rebind.attacker.example:{server.port}/"
        assert get(url, allow=allow, resolver=rebinding).content == f"rebind.attacker.example:{server.port}".encode()
        assert (len(answers), server.connections) == (1, 1)
        with pytest.raises(BlockedAddress):
            get(url, allow=allow, resolver=rebinding)
    assert canary.connections == 0


def test_the_error_names_the_host_and_the_setting_but_not_the_address() -> None:
    with pytest.raises(
        BlockedAddress, match=r"metadata\.google\.internal:80 .*BLOX_HTTP_ALLOW=metadata\.google\.internal:80"
    ) as caught:
        get("http://metadata.google.internal/", allow=AllowList())
    assert "169.254" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        PUBLIC,
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "192.0.1.1",
        "100.128.0.1",
    ],
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("entries", "host", "port", "allowed"),
    [
        (("intern.example",), "intern.example", 8080, True),
        (("intern.example",), "INTERN.example.", 80, True),
        (("intern.example",), "sub.intern.example", 80, False),
        (("intern.example:8080",), "intern.example", 8080, True),
        (("intern.example:8080",), "intern.example", 8081, False),
        (("10.0.0.0/8",), "10.1.2.3", 9000, True),
        (("10.0.0.0/8",), "172.16.0.1", 80, False),
        (("10.0.0.0/8:9000",), "10.1.2.3", 9000, True),
        (("10.0.0.0/8:9000",), "10.1.2.3", 80, False),
        (("127.0.0.1",), "::ffff:127.0.0.1", 80, True),
        (("::1",), "::1", 80, True),
        (("[::1]:9000",), "::1", 9000, True),
        (("[::1]:9000",), "::1", 9001, False),
        (("fd00::/8",), "fd00::1", 80, True),
        ((" ", ""), "10.0.0.1", 80, False),
    ],
)
def test_an_entry_of_the_allow_list_allows_just_that(
    entries: tuple[str, ...], host: str, port: int, allowed: bool
) -> None:
    allow = parse_allow_list(entries)
    try:
        assert allow.allows_address(ip_address(host), port) is allowed
    except ValueError:
        assert allow.allows_host(host, port) is allowed


@pytest.mark.parametrize(
    "entry", ["http://intern.example", "a b", "intern.example:port", "intern.example:0", "*.example", "10.0.0.0/33"]
)
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="BLOX_HTTP_ALLOW"):
        parse_allow_list((entry,))


# TLS. ------------------------------------------------------------------------------------------------------------
def self_signed(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[LocalServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path, "shop.example"))
    context.names = []  # type: ignore[attr-defined]
    context.sni_callback = lambda _, name, __: context.names.append(name)  # type: ignore[attr-defined]
    with serving(lambda request: answer(200, request.headers["host"].encode()), tls=context) as server:
        yield server


async def at_home(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_tls_is_spoken_with_the_name_of_the_url(
    tls_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    ssl_context.cache_clear()
    try:
        place = f"shop.example:{tls_server.port}"
        response = get(f"https://{place}/", allow=parse_allow_list((place,)), resolver=at_home)
    finally:
        ssl_context.cache_clear()
    assert response.content == place.encode()
    assert tls_server.tls.names == ["shop.example"]  # type: ignore[union-attr]


def test_a_certificate_that_is_not_trusted_means_surely_not_sent(tls_server: LocalServer) -> None:
    place = f"shop.example:{tls_server.port}"
    with pytest.raises(NotSent, match="certificate"):
        get(f"https://{place}/", allow=parse_allow_list((place,)), resolver=at_home)
    assert tls_server.received == []
