"""A relay as a process: its sockets, its signals, and how it ends.

SIGTERM            no new devices, pairings may finish, then the end; again: the end at once
SIGINT, --stop-on-eof   the end at once
SIGHUP             limits, log level, certificate and access tokens are read again
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, Final

from amesh_core.errors import UsageError
from amesh_relay import config as configuration
from amesh_relay import logs, sockets, streams
from amesh_relay.addresses import NOWHERE, network
from amesh_relay.config import Config
from amesh_relay.entrance import Entrance
from amesh_relay.inspection import Inspection
from amesh_relay.server import Relay
from amesh_relay.state.choice import MEMORY, shared_state
from amesh_relay.tls import Certificate

log: Final = logging.getLogger("amesh.relay")

TICK_SECONDS: Final = 1.0
CERTIFICATE_SECONDS: Final = 60.0  # how often a renewed one is looked for
# Standard streams, the listeners, the event loop's own.
OTHER_FILES: Final = 32


class Process:
    """One relay, from its settings to its end."""

    def __init__(
        self, config: Config, argv: Sequence[str] | None, environ: Mapping[str, str]
    ) -> None:
        """Open all that can be refused: sockets, certificate, token.

        Raises:
            UsageError: something cannot be used as the settings say.
        """
        logs.set_up(config.log_level, config.log_format)
        _warn_of_unknown(environ)
        self._config = config
        self._argv = argv
        self._environ = environ
        self._certificate = _certificate(config)
        handed = sockets.passed(environ, os.getpid())
        # systemd removes what it made; what we made is ours to remove.
        self._own_path = None if handed else config.unix
        self._relay = Relay(_with_own_proxy(config, handed), time.monotonic)
        self._inspection = self._inspected(config.metrics)
        self._listeners = handed or [_listener(config)]  # last, as it may leave a file behind
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def _inspected(self, address: tuple[str, int] | None) -> Inspection | None:
        if address is None:
            return None
        if not self._relay.desk.has_metrics:
            raise UsageError("--metrics needs: pip install 'authmesh[relay]'")
        try:
            listener = sockets.bind(*address)
        except UsageError as error:
            raise UsageError(f"--metrics: {error}") from None
        return Inspection(listener, self._relay.desk.inspected, time.monotonic)

    def run(self) -> None:
        """Run until it is told to stop; prints one line when devices can connect."""
        with contextlib.ExitStack() as on:
            for listener in self._listeners:
                on.enter_context(listener)
            on.callback(self._forget_path)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                # What is here now is here to the end: not to be looked at again whenever
                # what connections leave behind is collected.
                gc.collect()
                gc.freeze()
                runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        _allow_files(self._relay.max_sockets + OTHER_FILES)
        self._on_signals(loop)
        entrances = self._entrances()
        servers = [] if entrances else [await self._listen(loop, one) for one in self._listeners]
        if self._inspection is not None:
            servers.append(await self._inspection.listen(loop))
        try:
            # A task group, so that a defect in the ticking ends the process instead of leaving
            # a relay behind in which no code ever expires.
            async with asyncio.TaskGroup() as tasks:
                work = [self._tick(), self._relay.keep_in_touch()]
                work += [entrance.accept() for entrance in entrances]
                running = [tasks.create_task(one) for one in work]
                self._say_where()
                await self._stop.wait()
                sockets.notify(self._environ, "STOPPING=1")
                await self._drain()
                for task in running:
                    task.cancel()
        finally:
            # Before nobody listens there any more: then it is free for the next relay, whose
            # path we must not remove.
            self._forget_path()
            for server in servers:
                server.close()
            await self._relay.close()

    async def _listen(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket
    ) -> asyncio.Server:
        connection, backlog = self._relay.connection, sockets.BACKLOG
        if listener.family != socket.AF_UNIX:
            return await loop.create_server(connection, sock=listener, backlog=backlog)
        # Else the loop removes the path when it closes, also one that is systemd's.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        return await loop.create_unix_server(connection, sock=listener, backlog=backlog, **keep)

    def _entrances(self) -> list[Entrance]:
        """For sockets of which more is wanted before they are connections; mostly none."""
        if self._certificate is None and not self._config.proxy_protocol:
            return []
        tls = self._certificate.context if self._certificate else None
        return [Entrance(listener, self._relay, tls) for listener in self._listeners]

    async def _tick(self) -> None:
        looked = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._relay.tick()
            if self._inspection is not None:
                self._inspection.tick()
            sockets.notify(self._environ, "WATCHDOG=1")
            if self._certificate and time.monotonic() - looked >= CERTIFICATE_SECONDS:
                looked = time.monotonic()
                self._certificate.refresh()

    async def _drain(self) -> None:
        """Let pairings finish, unless somebody is in a hurry."""
        if self._hurry.is_set():
            return
        draining = asyncio.ensure_future(self._relay.drain(self._config.drain_seconds))
        hurrying = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._config.stop_on_eof:
            _on_eof(loop, self._on_interrupt)

    def _on_term(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_interrupt(self) -> None:
        self._hurry.set()
        self._stop.set()

    def _reload(self) -> None:
        """Take over what can change while devices are here; keep everything after a mistake."""
        sockets.notify(
            self._environ, "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
        )
        try:
            new = configuration.load(self._argv, self._environ)
        except UsageError as error:
            log.error("the settings stay as they were: %s", error)
        else:
            logging.getLogger().setLevel(new.log_level.upper())
            self._relay.set_limits(new.limits)
            _allow_files(self._relay.max_sockets + OTHER_FILES)
            kept = replace(self._config, limits=new.limits, log_level=new.log_level)
            if new != kept:
                names = (
                    f.name for f in fields(kept) if getattr(new, f.name) != getattr(kept, f.name)
                )
                log.warning(
                    "only limits and log level change without a restart, not %s",
                    ", ".join(name.replace("_", "-") for name in names),
                )
            self._config = kept
            log.info("the settings were read again")
        self._refresh_secrets()
        sockets.notify(self._environ, "READY=1")

    def _refresh_secrets(self) -> None:
        if self._certificate:
            self._certificate.refresh()
        if self._relay.desk.tokens:
            try:
                self._relay.desk.tokens.read_again()
            except UsageError as error:
                log.error("the access tokens stay as they were: %s", error)

    def _say_where(self) -> None:
        # Lines on standard output; programs that start a relay read the port from them.
        for listener in self._listeners:
            where = sockets.url(listener, tls=self._certificate is not None)
            streams.say(f"listening on {where}")
        sockets.notify(self._environ, "READY=1")

    def _forget_path(self) -> None:
        path, self._own_path = self._own_path, None
        if path:
            path.unlink(missing_ok=True)


def check(config: Config, environ: Mapping[str, str]) -> None:
    """Try all that the settings name, but the addresses to listen on.

    Raises:
        UsageError: something of it cannot be used.
    """
    logs.set_up(config.log_level, config.log_format)
    _warn_of_unknown(environ)
    _certificate(config)
    shared_state(config.state)
    # Without its state, which another relay may be using.
    relay = Relay(replace(config, state=MEMORY), time.monotonic)
    if config.metrics and not relay.desk.has_metrics:
        raise UsageError("--metrics needs: pip install 'authmesh[relay]'")


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """No error: Kubernetes sets some for a Service of this name."""
    if unknown := configuration.unknown_variables(environ):
        log.warning("no settings, and not read: %s", ", ".join(unknown))


def _with_own_proxy(config: Config, handed: Sequence[socket.socket]) -> Config:
    """Behind a Unix socket there is a proxy, as nothing else gets there."""
    families = {listener.family for listener in handed}
    if socket.AF_UNIX in families or (config.unix and not handed):
        proxies = (*config.trusted_proxies, network(str(NOWHERE)))
        return replace(config, trusted_proxies=proxies)
    return config


def _certificate(config: Config) -> Certificate | None:
    return Certificate(config.certfile, config.keyfile) if config.certfile else None


def _listener(config: Config) -> socket.socket:
    if config.unix:
        return sockets.bind_path(config.unix)
    return sockets.bind(config.host, config.port)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: somewhat less time for each ceremony."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def _on_eof(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop()

    try:
        loop.add_reader(descriptor, readable)
    except (PermissionError, OSError):
        stop()  # /dev/null or a file: it has ended already


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, which is often 1024, as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a further limit below the hard one
        allowed = soft
    if allowed < wanted:
        log.warning("room for only %d open files, %d wanted", allowed, wanted)
