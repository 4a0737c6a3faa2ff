"""What uvicorn, Hypercorn, daphne and gunicorn call their options, for who comes from there.

From ``--help`` of uvicorn 0.54, Hypercorn 0.18, daphne 4.2 and gunicorn 27, and their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

U, H, D, G = "uvicorn", "hypercorn", "daphne", "gunicorn"
_WORKERS = "--workers: each worker is a fresh process that imports the application, and is started again when it ends"
_SUPERVISOR = "what starts the server does that: systemd, a container, a shell"
_TLS = "a program of your own has it: triochan.serve(routing, ssl_context=...)"
_TRIO = "there is one way, on Trio"
_LEAKS = "a server is not restarted for what it may have leaked; a supervisor can do that"
_UNKNOWN = "there is no such thing to be set"
_LOGGER = "a --log-config file says where lines go, and what they look like"


class Elsewhere(NamedTuple):
    """An option of other servers.

    Attributes:
        servers: whose.
        here: triochan's own, begins with ``--``; or else why there is none.
    """

    servers: tuple[str, ...]
    here: str


def hint(flag: str) -> str | None:
    """What to say to who gives ``flag``, which triochan does not have; None where no other server has it either."""
    found = OPTIONS.get(flag) or (OPTIONS.get(flag[:2]) if flag[:1] == "-" != flag[1:2] else None)
    if found is None:
        return None
    name = flag if flag in OPTIONS else flag[:2]
    owners = " and ".join(filter(None, [", ".join(found.servers[:-1]), found.servers[-1]]))
    if found.here.startswith("--"):
        return f"{name} of {owners} is {found.here} here"
    return f"{name} of {owners} is not here: {found.here}"


def _table(*rows: tuple[str, tuple[str, ...], str]) -> Mapping[str, Elsewhere]:
    return {flag: Elsewhere(servers, here) for flags, servers, here in rows for flag in flags.split()}


OPTIONS: Mapping[str, Elsewhere] = _table(
    # where to listen
    ("-b", (D, H, G), "--bind, or --host of daphne's"),
    (
        "-p",
        (D, H, G),
        "--port (hypercorn and gunicorn mean a file with the process's number, which is not here)",
    ),
    ("-u", (D, H, G), "--uds (hypercorn and gunicorn mean a user, which is not here: a supervisor sets it)"),
    ("--unix-socket", (D,), "--uds"),
    ("-e --endpoint", (D,), "--host and --port, --uds, or --ssl-certfile and --ssl-keyfile"),
    (
        "--insecure-bind --quic-bind",
        (H,),
        "all of --bind speak HTTP/1.1, and TLS with --ssl-certfile; start another server for the rest",
    ),
    ("--http2", (U,), "HTTP/2 is not spoken; a proxy in front may speak it to its clients"),
    ("--backlog", (U, H, G), "it is 2048, or what the system allows (net.core.somaxconn)"),
    ("--reuse-port", (G,), "--workers, which have a socket each on one port"),
    # TLS
    ("--certfile", (H, G), "--ssl-certfile"),
    ("--keyfile", (H, G), "--ssl-keyfile"),
    ("--keyfile-password", (H,), "--ssl-keyfile-password, or --ssl-keyfile-password-file"),
    ("--ssl-version", (U, G), _TLS),
    ("--ssl-ciphers --ssl-cert-reqs --ssl-ca-certs", (U,), _TLS),
    ("--ca-certs --cert-reqs --ciphers", (H, G), _TLS),
    ("--verify-mode", (H,), _TLS),
    ("--suppress-ragged-eofs --do-handshake-on-connect", (G,), _TLS),
    # processes
    ("-w", (H, G), "--workers"),
    ("--threads", (G,), "handlers run on Trio; one that blocks uses trio.to_thread.run_sync"),
    ("-k --worker-class", (H, G), _TRIO),
    ("--loop", (U,), _TRIO),
    ("--http --ws", (U,), _TRIO),
    ("--interface", (U,), "what is served is a routing or an Application, not ASGI or WSGI"),
    ("--lifespan", (U,), "an Application says it: Application(routing, lifespan=...)"),
    ("--reload-delay", (U,), "a change is seen within a moment"),
    ("--reload-engine", (G,), "watchfiles is the one there is"),
    ("--reload-extra-file", (G,), "--reload-dir and --reload-include"),
    ("--limit-max-requests --limit-max-requests-jitter", (U,), _LEAKS),
    ("--max-requests --max-requests-jitter", (H, G), _LEAKS),
    (
        "--timeout-worker-healthcheck",
        (U,),
        "--block-warning, which names what blocks a worker; --health-path for who restarts it",
    ),
    ("--worker-tmp-dir --preload", (G,), _WORKERS),
    ("-D --daemon", (H, G), _SUPERVISOR),
    ("--pid", (H, G), _SUPERVISOR),
    ("--user", (H, G), _SUPERVISOR),
    ("-g --group", (H, G), _SUPERVISOR),
    ("-m --umask", (H, G), "--uds-mode"),
    ("-n --name", (G,), _SUPERVISOR),
    ("--initgroups", (G,), _SUPERVISOR),
    ("--env-file", (U,), _SUPERVISOR),
    ("--env", (G,), _SUPERVISOR),
    ("--chdir --pythonpath", (G,), "--app-dir"),
    ("-c", (H, G), "--config"),
    ("--check-config", (G,), "the word check, in front of everything else: triochan check module:name"),
    ("--print-config", (G,), "--show-config"),
    # limits and time-outs
    ("--limit-concurrency", (U,), "--max-connections"),
    ("--worker-connections", (G,), "--max-connections"),
    ("--timeout-keep-alive", (U,), "--keep-alive-timeout"),
    ("--keep-alive", (H, G), "--keep-alive-timeout"),
    ("--timeout-graceful-shutdown", (U,), "--shutdown-timeout"),
    ("--graceful-timeout", (H, G), "--shutdown-timeout"),
    ("-t", (D, G), "--response-timeout, or --handler-timeout"),
    ("--http-timeout", (D,), "--response-timeout, or --handler-timeout"),
    ("--timeout", (G,), "--handler-timeout, or --block-warning for what blocks the loop"),
    ("--read-timeout", (H,), "--head-timeout and --body-timeout"),
    ("--application-close-timeout", (D,), "--disconnect-timeout"),
    (
        "--websocket_timeout",
        (D,),
        "a WebSocket may live as long as it answers pings; a consumer may close it",
    ),
    ("--websocket_connect_timeout", (D,), "--handshake-timeout"),
    ("--h11-max-incomplete-event-size", (U,), "--max-head-size"),
    ("--limit-request-line --limit-request-field_size", (G,), "--max-head-size"),
    ("--limit-request-fields", (G,), "--max-head-size"),
    ("--ws-max-size", (U,), "--max-message-size"),
    ("--websocket-max-message-size", (D, G), "--max-message-size"),
    ("--websocket-max-frame-size", (D,), "--max-message-size"),
    ("--ws-max-queue", (U,), "--inbox-limit"),
    ("--ws-ping-interval", (U,), "--ping-interval"),
    ("--websocket-ping-interval", (H,), "--ping-interval"),
    ("--ws-ping-timeout", (U,), "--ping-timeout"),
    ("--ws-per-message-deflate", (U,), "--compression"),
    # behind a proxy
    ("--proxy-headers", (U, D), "--forwarded-allow-ips, which says whose headers are believed"),
    (
        "--no-proxy-headers",
        (U,),
        "--forwarded-allow-ips, by which nobody's headers are believed unless it says so",
    ),
    (
        "--proxy-headers-host --proxy-headers-port",
        (D,),
        "--forwarded-allow-ips; the headers have their usual names",
    ),
    (
        "--proxy-allow-from",
        (G,),
        "--proxy-protocol, which takes any peer's; let none but the proxy reach the port",
    ),
    ("--forwarder-headers", (G,), "--forwarded-allow-ips"),
    # headers of responses
    ("--header", (U,), "a middleware sets it, with triochan.http.before_response"),
    ("--server-header --no-server-header", (U,), "a response that says Server itself has its own"),
    ("-s", (D,), "a response that says Server itself has its own"),
    ("--server-name", (D, H), "a response that says Server itself has its own"),
    ("--no-server-name", (D,), "a response that says Server itself has its own"),
    ("--date-header --no-date-header", (U,), "RFC 9110 asks for Date"),
    ("--reset-contextvars", (U,), "each message has a context of its own, always"),
    # the log
    (
        "--access-logfile --access-logformat",
        (H, G),
        "give --access-log, and say in a --log-config where it goes",
    ),
    ("--error-log", (H,), _LOGGER),
    ("--error-logfile --log-file", (H, G), _LOGGER),
    ("--log-fmt", (D,), "--log-format, or a --log-config file"),
    ("--log-config-json", (G,), "--log-config"),
    ("--logger-class --capture-output --log-syslog --log-syslog-to", (G,), _LOGGER),
    ("-v --verbosity", (D,), "--log-level"),
    ("--debug", (H,), "--log-level debug"),
    ("--spew", (G,), "--log-level debug"),
    (
        "--use-colors --no-use-colors",
        (U,),
        "a terminal gets them; NO_COLOR=1 and FORCE_COLOR=1 say otherwise",
    ),
    ("--statsd-host --statsd-prefix", (H, G), _UNKNOWN),
    ("--dogstatsd-tags", (G,), _UNKNOWN),
)
"""By the option's name."""
