"""Workers: forked, spawned and threaded ones; what each knows, and what each is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sdk.devices import Device
from tests.sdk.servers.processes import Program, Running, asgi, call, running, together, wsgi

PRELOADED = wsgi("gunicorn").with_options("--preload", "--workers", "2", "--threads", "2")
WARNING = "nonce_store_not_shared: "


def workers(server: Running, count: int) -> None:
    """Wait until so many workers of gunicorn run."""
    server.log.wait_for(r"(?s)" + r"Booting worker.*?" * count)


def statuses(server: Running, device: Device, count: int = 24) -> set[int]:
    """The answers to so many requests at once, which no one worker takes all by itself."""
    return set(together(count, lambda n: call(server, "GET", f"/echo/{n}", by=device).status))


def test_forked_workers(target: Device, controller: Device) -> None:
    """The app is made before the fork; each worker unlocks, reads and re-reads for itself."""
    with running(PRELOADED, target.home.directory) as server:
        workers(server, 2)
        assert statuses(server, controller) == {200}
        target.revoke(controller)
        assert statuses(server, controller) == {401}
        target.trust(controller)
        assert statuses(server, controller) == {200}
        assert server.log.text.count(WARNING) == 1, "once, before the fork"


@pytest.mark.parametrize(
    "program",
    [
        asgi("uvicorn").with_options("--workers", "2"),
        asgi("hypercorn").with_options("--workers", "2"),
        asgi("granian").with_options("--workers", "2"),
        asgi("uvicorn", WEB_CONCURRENCY="2"),
        wsgi("gunicorn", WEB_CONCURRENCY="2"),
        wsgi("gunicorn").with_options("-w2"),
    ],
    ids=["uvicorn", "hypercorn", "granian", "uvicorn-env", "gunicorn-env", "gunicorn-w2"],
)
def test_several_workers_are_warned_that_they_share_no_nonces(
    program: Program, target: Device, controller: Device
) -> None:
    with running(program, target.home.directory) as server:
        server.log.wait_for(WARNING + "the server is told to start 2 processes")
        assert call(server, "GET", "/echo/x", by=controller).status == 200


@pytest.mark.parametrize("app", ["wsgi_app:app", "flask_app:app", "django_app:app"])
def test_workers_in_a_configuration_file_are_noticed_with_the_first_request(
    app: str, target: Device, controller: Device, tmp_path: Path
) -> None:
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text("workers = 2\n")
    program = wsgi("gunicorn", app).with_options("--config", str(configuration))
    with running(program, target.home.directory) as server:
        assert call(server, "GET", "/echo/x", by=controller).status == 200
        server.log.wait_for(WARNING + "this server says that it runs several processes")


@pytest.mark.parametrize(
    "program",
    [asgi("uvicorn"), asgi("granian"), wsgi("gunicorn"), wsgi("waitress"), wsgi("werkzeug")],
    ids=str,
)
def test_one_process_is_not_warned(program: Program, target: Device, controller: Device) -> None:
    with running(program, target.home.directory) as server:
        assert call(server, "GET", "/echo/x", by=controller).status == 200
        assert WARNING not in server.log.text


def test_a_config_map_is_exchanged_under_forked_workers(
    tmp_path: Path, target: Device, controller: Device, stranger: Device
) -> None:
    """Kubernetes: files are links into `..data`, a link to a directory that is replaced whole."""
    mounted = tmp_path / "amesh"
    mounted.mkdir(mode=0o700)
    (mounted / "keys").symlink_to(target.home.directory / "keys")
    publish(mounted, target, "..first")
    for name in ("identity.json", ".passphrase", "allow_list.json"):
        (mounted / name).symlink_to(Path("..data") / name)
    before = everything_in(mounted)
    with running(PRELOADED, mounted) as server:
        workers(server, 2)
        assert statuses(server, controller) == {200}
        assert statuses(server, stranger, 4) == {401}
        assert everything_in(mounted) == before, "verifying writes nothing: any disk will do"
        target.revoke(controller)
        target.trust(stranger)
        publish(mounted, target, "..second")
        assert statuses(server, controller) == {401}
        assert statuses(server, stranger) == {200}
    target.revoke(stranger)
    target.trust(controller)


def publish(mounted: Path, source: Device, name: str) -> None:
    directory = mounted / name
    directory.mkdir(mode=0o700)
    for file in ("identity.json", ".passphrase", "allow_list.json"):
        (directory / file).write_bytes((source.home.directory / file).read_bytes())
        (directory / file).chmod(0o400)
    new = mounted / "..data_tmp"
    new.symlink_to(name)
    new.replace(mounted / "..data")


def everything_in(directory: Path) -> list[tuple[str, int, int]]:
    paths = [directory, *directory.rglob("*")]
    found = [(str(path), os.lstat(path)) for path in sorted(paths)]
    return [(name, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found]
