"""Redis over TLS: a single server, a cluster and Sentinels, with certificates of a test's own authority."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunWrite, Store
from tests.redis_servers import wait_until
from tests.services import HOST, RedisServer, free_port


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def found(self) -> Authority:
        key = self.folder / f"{self.name}.key"
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={self.name}", "-addext",
                 "keyUsage=critical,keyCertSign,cRLSign", "-keyout", key, "-out", self.certificate)  # fmt: skip
        return self

    def issue(self, subject: str, names: str) -> tuple[Path, Path]:
        """Return a certificate for `names`, such as IP:127.0.0.1, and its key."""
        key, asked, signed = (self.folder / f"{subject}.{ending}" for ending in ("key", "csr", "pem"))
        extra = self.folder / f"{subject}.ext"
        extra.write_text(f"subjectAltName={names}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={subject}", "-keyout", key, "-out", asked)
        _openssl("x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self.folder / f"{self.name}.key",
                 "-CAcreateserial", "-days", "2", "-extfile", extra, "-out", signed)  # fmt: skip
        return signed, key


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours").found()


class TLSServer(RedisServer):
    """A server with a second port that speaks TLS."""

    def __init__(self, binary: str, folder: Path, authority: Authority, names: str, *options: str) -> None:
        certificate, key = authority.issue(f"{folder.name}-server", names)
        files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.certificate)
        self.tls_port = free_port()
        tls = ("--tls-port", str(self.tls_port), *map(str, files), "--tls-auth-clients", "optional")
        super().__init__(binary, folder, *options, *tls)

    def start(self) -> None:
        try:
            super().start()
        except RuntimeError as error:
            if "tls" in str(error).lower():
                pytest.skip(f"{self.binary} was built without TLS")
            raise


@pytest.fixture
def server(redis_server_binary: str, tmp_path: Path, authority: Authority) -> Iterator[TLSServer]:
    server = TLSServer(redis_server_binary, tmp_path, authority, f"IP:{HOST}", "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


def test_all_verbs_share_one_encrypted_connection(server: TLSServer, authority: Authority) -> None:
    with redis.Redis(host=HOST, port=server.port) as raw:
        before = raw.info("stats")["total_connections_received"]
        url = f"rediss://{HOST}:{server.tls_port}/0?ssl_ca_certs={authority.certificate}"
        store = open_store(url, prefix="p", timeout=3)
        use(store)
        assert raw.info("stats")["total_connections_received"] == before + 1


def use(store: Store) -> None:
    assert [store.add(b"c", 1) for _ in range(5)] == [1, 2, 3, 4, 5]
    store.put(b"large", b"x" * 300_000)
    assert store.get(b"large").value == b"x" * 300_000  # type: ignore[union-attr]
    store.append([RunWrite("r", 1)])
    assert store.run("r") is not None
    assert all("Sentinel" in warning for warning in store.check())
    store.close()


def test_a_server_may_want_a_certificate_of_the_client(server: TLSServer, authority: Authority) -> None:
    with redis.Redis(host=HOST, port=server.port) as raw:
        raw.config_set("tls-auth-clients", "yes")
    url = f"rediss://{HOST}:{server.tls_port}/0?ssl_ca_certs={authority.certificate}"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        open_store(url, timeout=2).add(b"c", 1)
    certificate, key = authority.issue("client", f"IP:{HOST}")
    store = open_store(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}", timeout=2)
    assert store.add(b"c", 1) == 1
    store.close()


def test_a_certificate_of_another_authority_is_refused_by_name(server: TLSServer, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other").found()
    store = open_store(f"rediss://{HOST}:{server.tls_port}?ssl_ca_certs={other.certificate}", timeout=2)
    with pytest.raises(StoreUnavailable, match=r"certificate verify failed.*correct ssl_ca_certs") as caught:
        store.add(b"c", 1)
    assert caught.value.maybe_applied is False


def test_a_certificate_for_another_host_is_refused(
    redis_server_binary: str, tmp_path: Path, authority: Authority
) -> None:
    server = TLSServer(redis_server_binary, tmp_path, authority, "DNS:elsewhere.example", "--save", "")
    server.start()
    url = f"rediss://{HOST}:{server.tls_port}?ssl_ca_certs={authority.certificate}"
    try:
        with pytest.raises(StoreUnavailable, match="IP address mismatch"):
            open_store(url, timeout=2).get(b"k")
        for option in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
            store = open_store(f"{url}&{option}", timeout=2)
            assert store.get(b"k") is None
            store.close()
    finally:
        server.stop()


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_told_before_anything_connects(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} names /no/such.pem"):
        open_store(f"rediss://localhost?{option}=/no/such.pem")


def test_the_wrong_kind_of_port_is_unavailable_in_time(server: TLSServer, authority: Authority) -> None:
    urls = (f"redis://{HOST}:{server.tls_port}", f"rediss://{HOST}:{server.port}?ssl_ca_certs={authority.certificate}")
    for url in urls:
        with pytest.raises(StoreUnavailable) as caught:
            open_store(url, timeout=1).get(b"k")
        assert caught.value.maybe_applied is False


def test_a_cluster_over_tls(redis_server_binary: str, tmp_path: Path, authority: Authority) -> None:
    own = (
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        str(free_port()),
        "--tls-cluster",
        "yes",
        "--appendonly",
        "yes",
    )
    server = TLSServer(redis_server_binary, tmp_path, authority, f"IP:{HOST}", *own)
    server.start()
    try:
        with redis.Redis(host=HOST, port=server.port) as raw:
            raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        store = open_store(f"rediss+cluster://{HOST}:{server.tls_port}?ssl_ca_certs={authority.certificate}")
        wait_until(lambda: ok(store), "a cluster of one")
        use(store)
    finally:
        server.stop()


def ok(store: Store) -> bool:
    try:
        store.get(b"k")
    except StoreUnavailable:
        return False
    return True


def test_sentinels_over_tls(redis_server_binary: str, tmp_path: Path, server: TLSServer, authority: Authority) -> None:
    folder = tmp_path / "sentinel"
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(f"tls-replication yes\nsentinel monitor m {HOST} {server.tls_port} 1\n")
    sentinel = TLSServer(redis_server_binary, folder, authority, f"IP:{HOST}", "--sentinel")
    sentinel.binary, sentinel.options = redis_server_binary, (str(config), *sentinel.options)
    sentinel._command = lambda: [redis_server_binary, *sentinel.options, "--port", str(sentinel.port)]  # type: ignore[method-assign]
    sentinel.start()
    try:
        use(open_store(f"sentinel://{HOST}:{sentinel.tls_port}/m?ssl=true&ssl_ca_certs={authority.certificate}"))
    finally:
        sentinel.stop()
