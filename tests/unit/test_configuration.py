"""What the options are in the end: the command line, the environment, a file, the defaults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triochan.configuration import CannotConfigure, Configuration, configure
from triochan.options import OPTIONS, make_parser
from triochan.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(*arguments: str, file: str | None = None, **environ: str) -> Configuration:
    if file is not None:
        Path("my.toml").write_text(file)
        arguments = (*arguments, "--config", "my.toml")
    return configure(make_parser().parse_args(arguments), environ)


def errors(*arguments: str, file: str | None = None, **environ: str) -> list[str]:
    with pytest.raises(CannotConfigure) as raised:
        configured(*arguments, file=file, **environ)
    return raised.value.errors


def test_the_command_line_goes_before_the_environment_and_that_before_the_file() -> None:
    file = 'app = "chat:routing"\nport = 1\nmax-head-size = "2KiB"\ninbox_limit = 5\n'
    found = configured("--port", "3", file=file, TRIOCHAN_PORT="2", TRIOCHAN_MAX_HEAD_SIZE="1KiB")
    assert (found.options.port, found.options.max_head_size, found.options.inbox_limit) == (3, 1024, 5)
    assert found.options.app == "chat:routing"
    assert found.settings == Settings(max_head_size=1024, inbox_limit=5)
    origins = {key: origin for key, _, origin in found.rows()}
    assert origins["port"] == "command line"
    assert origins["max-head-size"] == "environment TRIOCHAN_MAX_HEAD_SIZE"
    assert origins["inbox-limit"] == "my.toml:inbox_limit"
    assert origins["ping-timeout"] == "default"
    assert list(origins) == [option.key for option in OPTIONS.values()]


def test_a_list_takes_the_place_of_another() -> None:
    found = configured("--allowed-host", "a", "--allowed-host", "b", TRIOCHAN_ALLOWED_HOST="c")
    assert found.options.allowed_host == ["a", "b"]
    assert configured(TRIOCHAN_ALLOWED_HOST="c, d,").options.allowed_host == ["c", "d"]
    assert configured(file='allowed-host = ["e"]').options.allowed_host == ["e"]
    assert configured(file='allowed-host = "e"').options.allowed_host == ["e"]


def test_without_anything_there_are_the_defaults() -> None:
    found = configured()
    assert vars(found.options) == {name: option.default for name, option in OPTIONS.items()}
    assert found.settings == Settings()
    assert found.warnings == []


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        ("port = 9000", "port", 9000),
        ('max-message-size = "64KiB"', "max_message_size", 65536),
        ("max-message-size = 1000", "max_message_size", 1000),
        ("ping-interval = 1.5", "ping_interval", 1.5),
        ("ping-interval = 2", "ping_interval", 2),
        ("handler-timeout = 2", "handler_timeout", 2),
        ('handler-timeout = "none"', "handler_timeout", None),
        ('max-connections = "None"', "max_connections", None),
        ("compression = true", "compression", True),
        ('overflow = "drop_newest"', "overflow", "drop_newest"),
        ("channel-capacity = 7", "channel_capacity", 7),
        ('channel-capacity = {"chat.*" = 7, "*" = 9}', "channel_capacity", {"chat.*": 7, "*": 9}),
        ('[channel-bytes]\n"a.*" = 100', "channel_bytes", {"a.*": 100}),
        ('channel-bytes = "a.*=1KiB"', "channel_bytes", {"a.*": 1024}),
        ("[channel_expiry]\nx = 0.5", "channel_expiry", {"x": 0.5}),
        ('forwarded-allow-ips = ["10.0.0.1", "unix"]', "forwarded_allow_ips", ("10.0.0.1", "unix")),
        ('forwarded-allow-ips = "10.0.0.1, unix"', "forwarded_allow_ips", ("10.0.0.1", "unix")),
        ('uds = "x"\nuds-mode = "660"', "uds_mode", 0o660),
        ('log-level = "Debug"', "log_level", "debug"),
        ('secret = ["a,b", "c"]', "secret", ["a,b", "c"]),
    ],
)
def test_what_a_file_may_say(said: str, name: str, value: object) -> None:
    assert getattr(configured(file=said).options, name) == value


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('x = 1\nprot = 80', "my.toml:2: prot: there is no such option; did you mean port?"),
        ("max_mesage_size = 1", "my.toml:1: max_mesage_size: there is no such option; did you mean max-message-size?"),
        ("\n  xyzzy = 1", "my.toml:2: xyzzy: there is no such option; triochan --help lists them"),
        ("[server]\nport = 1", "my.toml:1: server: there are no tables of that name; options stand at the top of the"),
        ('"xy z" = 1', "my.toml:1: xy z: there is no such option"),
        ('"x\\ny" = 1', "my.toml:1: 'x\\ny': there is no such option"),
        ('host = "x\\u0000y"', "my.toml:1: host takes a text without a NUL in it"),
        ('app-dir = ""', "my.toml:1: app-dir takes a path, not an empty one"),
        ('secret = ["\\u0000"]', "my.toml:1: secret takes a text without a NUL in it"),
        ('"x\\u0079zzy" = 1', "my.toml:1: xyzzy: there is no such option"),
        ('config = "other.toml"', "my.toml:1: config: a file does not name another one; --config and"),
        ("port = 1\nport_ = 1", "my.toml:2: port_: there is no such option; did you mean port?"),
        ("app-dir = '.'\napp_dir = '.'", "my.toml:2: app_dir: app-dir is there already, written with the other dashes"),
        ('port = "80"', 'my.toml:1: port: a whole number is expected, not "80"'),
        ("port = 70000", "my.toml:1: port takes a number from 0 to 65535, not '70000'"),
        ("port = true", "my.toml:1: port: a whole number is expected, not true"),
        ("port = [1]", "my.toml:1: port: a whole number is expected, not an array"),
        ("port = 1979-05-27", "my.toml:1: port: a whole number is expected, not "),
        ("host = 1", "my.toml:1: host: a string is expected, not 1"),
        ('compression = "yes"', 'my.toml:1: compression: true or false is expected, not "yes"'),
        ("compression = 1", "my.toml:1: compression: true or false is expected, not 1"),
        ("max-message-size = 1.5", 'my.toml:1: max-message-size: a whole number is expected, not 1.5 (or "64KiB")'),
        ('max-message-size = "big"', "my.toml:1: max-message-size takes a size such as 65536, 64KiB or"),
        ("max-message-size = 0", "my.toml:1: max-message-size must be at least 1 bytes, not 0"),
        ("head-timeout = nan", "my.toml:1: head-timeout must be at least 0 s, not nan"),
        ('head-timeout = "soon"', 'my.toml:1: head-timeout: a number is expected, not "soon"'),
        ('handler-timeout = "soon"', 'my.toml:1: handler-timeout: '),
        ("overflow = 1", "my.toml:1: overflow: one of "),
        ('overflow = "wait"', "my.toml:1: overflow takes one of close, drop_newest, drop_oldest, not 'wait'"),
        ("allowed-host = [1]", "my.toml:1: allowed-host: [0]: a string is expected, not 1"),
        ("channel-capacity = {a = 0}", "my.toml:1: channel-capacity takes numbers of at least 1, not 0"),
        ('channel-capacity = {a = "b"}', "my.toml:1: channel-capacity: "),
        ("uds-mode = 660", "my.toml:1: uds-mode: a string is expected, not 660"),
        ("uds-mode = '660'", "uds-mode goes with uds or bind; give it too"),
        ("ssl-keyfile = 'k'", "ssl-keyfile goes with ssl-certfile; give it too"),
        ("uds = 's'\nport = 1", "my.toml:uds takes the place of host and port; give one or the other"),
        ("port = ", "my.toml:1:8: this is no TOML: Invalid value"),
        ("port = 1\nport = 2", "my.toml:2:9: this is no TOML: Cannot overwrite a value"),
        ('a = """', "my.toml:1:8: this is no TOML: "),
        ("port = " + "9" * 5000, "my.toml: this is more than is read: Exceeds the limit"),
        ("port = 0x" + "9" * 5000, "my.toml:1: port: Exceeds the limit"),
        ("port = " + "[" * 5000, "my.toml: this is more than is read: maximum recursion depth"),
        ("port = 0x" + "9" * 20, "my.toml:1: port takes a number from 0 to 65535, not '"),
        ("= nothing", "my.toml:1:1: this is no TOML: Invalid statement"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_a_line_that_names_the_place(said: str, error: str) -> None:
    [*_, line] = errors(file=said)
    assert error in line
    assert "\n" not in line
    assert "$" not in line


def test_all_that_is_wrong_is_told_at_once() -> None:
    said = errors(file="prot = 1\nhost = 2\n", TRIOCHAN_HSOT="x", TRIOCHAN_PORT="many")
    assert said == [
        "environment: there is no TRIOCHAN_HSOT; did you mean TRIOCHAN_HOST?",
        "environment: TRIOCHAN_PORT takes a number from 0 to 65535, not 'many'",
        "my.toml:1: prot: there is no such option; did you mean port?",
        "my.toml:2: host: a string is expected, not 2",
    ]


def test_files_that_can_not_be_read(folder: Path) -> None:
    assert errors("--config", "none.toml") == ["--config none.toml: No such file or directory"]
    assert errors(TRIOCHAN_CONFIG="none.toml") == ["TRIOCHAN_CONFIG none.toml: No such file or directory"]
    assert errors("--config", ".") == ["--config .: Is a directory"]
    (folder / "latin.toml").write_bytes(b'host = "\xe9"')
    assert errors("--config", "latin.toml") == ["latin.toml: a TOML file is text in UTF-8; byte 8 is none"]


def test_paths_in_a_file_are_from_its_folder_on(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "my.toml").write_text(
        'app-dir = "../src"\nssl-certfile = "cert.pem"\nssl-keyfile = "/keys/key.pem"\nlog-config = "log.toml"\n'
        'session-file = "s.sqlite3"\nuds = "s.sock"\n'
    )
    options = configured("--config", "etc/my.toml").options
    assert options.app_dir == "etc/../src"
    assert options.ssl_certfile == "etc/cert.pem"
    assert options.ssl_keyfile == "/keys/key.pem"
    assert options.log_config == "etc/log.toml"
    assert options.session_file == "etc/s.sqlite3"
    assert options.uds == "etc/s.sock"
    # Of the command line and the environment, from the current one on.
    assert configured("--uds", "x", TRIOCHAN_APP_DIR="y").options.uds == "x"
    assert configured("--uds", "x", TRIOCHAN_APP_DIR="y").options.app_dir == "y"


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("TRIOCHAN_APP", "a:b", "app", "a:b"),
        ("TRIOCHAN_FACTORY", "yes", "factory", True),
        ("TRIOCHAN_COMPRESSION", "1", "compression", True),
        ("TRIOCHAN_COMPRESSION", "Off", "compression", False),
        ("TRIOCHAN_HANDLER_TIMEOUT", "none", "handler_timeout", None),
        ("TRIOCHAN_CHANNEL_CAPACITY", "a=1,b=2", "channel_capacity", {"a": 1, "b": 2}),
        ("TRIOCHAN_FORWARDED_ALLOW_IPS", "*", "forwarded_allow_ips", ("*",)),
        ("TRIOCHAN_PORT", "", "port", 8000),
    ],
)
def test_variables(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(configured(**{variable: text}).options, name) == value


@pytest.mark.parametrize(
    ("variable", "text", "error"),
    [
        ("TRIOCHAN_PORT", "9" * 5000, f"TRIOCHAN_PORT takes a number from 0 to 65535, not '{'9' * 5000}'"),
        ("TRIOCHAN_INBOX_LIMIT", "9" * 5000, f"TRIOCHAN_INBOX_LIMIT takes a whole number, not '{'9' * 5000}'"),
        ("TRIOCHAN_INBOX_BYTES", "9" * 5000, f"takes a whole number of bytes, not '{'9' * 5000}'"),
        ("TRIOCHAN_PORT", "x", "TRIOCHAN_PORT takes a number from 0 to 65535, not 'x'"),
        ("TRIOCHAN_COMPRESSION", "maybe", "TRIOCHAN_COMPRESSION takes yes or no, not 'maybe'"),
        ("TRIOCHAN_MAX_MESAGE_SIZE", "1", "_MAX_MESAGE_SIZE; did you mean TRIOCHAN_MAX_MESSAGE_SIZE?"),
        ("TRIOCHAN_SECRETS", "1", "there is no TRIOCHAN_SECRETS; did you mean TRIOCHAN_SECRET?"),
        ("TRIOCHAN_SSL_KEYPASSWORD", "1", "did you mean TRIOCHAN_SSL_KEYFILE_PASSWORD?"),
        ("TRIOCHAN_UDS_MODE", "660", "TRIOCHAN_UDS_MODE goes with TRIOCHAN_UDS or TRIOCHAN_BIND; give it too"),
    ],
)  # fmt: skip
def test_variables_that_are_wrong(variable: str, text: str, error: str) -> None:
    [line] = errors(**{variable: text})
    assert line.endswith(error)


def test_variables_of_others() -> None:
    assert configured(TRIOCHANS="x", PATH="x").warnings == []
    assert configured(TRIOCHAN_XYZZY="x").warnings == [
        "environment: TRIOCHAN_XYZZY is no option's; names that begin with TRIOCHAN_ are for options"
    ]


@pytest.mark.parametrize("name", ["CHAT", "DATABASE", "SCREENSHOTS", "REDIS_URL", "DEBUG", "ENV", "VERSION"])
def test_what_is_like_no_option_is_not_taken_for_one(name: str) -> None:
    assert len(configured(**{f"TRIOCHAN_{name}": "x"}).warnings) == 1


def test_what_kubernetes_says_of_a_service_of_the_name() -> None:
    found = configured(
        TRIOCHAN_SERVICE_HOST="10.0.0.1", TRIOCHAN_SERVICE_PORT="80", TRIOCHAN_SERVICE_PORT_HTTP="80",
        TRIOCHAN_PORT="tcp://10.0.0.1:80", TRIOCHAN_PORT_80_TCP="tcp://10.0.0.1:80",
        TRIOCHAN_PORT_80_TCP_PROTO="tcp", TRIOCHAN_PORT_80_TCP_PORT="80", TRIOCHAN_PORT_80_TCP_ADDR="10.0.0.1",
    )  # fmt: skip
    assert found.options.port == 8000
    [warning] = found.warnings
    assert "TRIOCHAN_PORT=tcp://10.0.0.1:80 is Kubernetes' word" in warning


def test_what_goes_before_takes_the_place_of_what_it_can_not_go_with() -> None:
    found = configured("--port", "1", file="uds = 's'\nuds-mode = '660'")
    assert (found.options.port, found.options.uds, found.options.uds_mode) == (1, None, None)
    origins = {key: origin for key, _, origin in found.rows()}
    assert origins["uds"] == "default (my.toml:uds gives way to --port)"
    assert origins["uds-mode"] == "default (my.toml:uds-mode goes with uds or bind)"
    found = configured(file="port = 1\nhost = '::'", TRIOCHAN_UDS="s")
    assert (found.options.port, found.options.host, found.options.uds) == (8000, "127.0.0.1", "s")
    assert configured("--port", "1", file="host = '::'").options.host == "::"


def test_both_at_once() -> None:
    with pytest.raises(CannotConfigure, match="--uds takes the place of --host and --port") as raised:
        configured("--uds", "s", "--host", "h")
    assert raised.value.usage


def test_secrets_are_masked() -> None:
    found = configured("--secret", "hush-hush", "--secret", "old")
    assert ("secret", "********,********", "command line") in list(found.rows())


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX'")
def test_a_secret_that_others_may_read(folder: Path) -> None:
    path = folder / "my.toml"
    path.write_text('secret = ["hush"]')
    for mode, warns in ((0o644, True), (0o640, True), (0o600, False), (0o400, False)):
        path.chmod(mode)
        warnings = configured("--config", "my.toml").warnings
        assert bool(warnings) == warns
    path.chmod(0o644)
    assert configured("--config", "my.toml").warnings == [
        "my.toml has a secret (secret), and others than its owner may read it (mode 644): chmod 600 my.toml"
    ]
    path.write_text("port = 1")
    assert configured("--config", "my.toml").warnings == []


def test_a_file_that_is_here_is_not_read_by_itself(folder: Path) -> None:
    (folder / "triochan.toml").write_text("port = 1")
    found = configured()
    assert found.options.port == 8000
    assert found.warnings == ["triochan.toml is here and is not read: --config triochan.toml reads it"]
    assert configured("--config", "triochan.toml").warnings == []


def test_a_value_is_read_as_it_is_spelled() -> None:
    for option in OPTIONS.values():
        if option.default not in (None, (), ""):
            text = option.spell(option.default).removesuffix(" s").removesuffix(" bytes")
            assert option.read_text(text) == option.default


@given(st.text(), st.sampled_from(sorted(OPTIONS)))
def test_whatever_a_file_or_a_variable_says_is_a_value_or_a_line(text: str, name: str) -> None:
    option = OPTIONS[name]
    for file, environ in (
        (text, {}),
        (f"{option.key} = {text}", {}),
        (None, {option.variable: text.replace("\0", "")}),
    ):
        said: list[str] = []
        try:
            configured(file=None if file is None else file.encode("utf-8", "replace").decode(), **environ)
        except CannotConfigure as error:
            said = error.errors
        assert all(each and "\n" not in each for each in said)


def test_where_to_listen() -> None:
    assert configured().binds == []
    assert configured("--port", "1").binds == ["127.0.0.1:1"]
    assert configured("--host", "::1").binds == ["[::1]:8000"]
    assert configured("--uds", "s").binds == ["unix:s"]
    found = configured("--bind", "127.0.0.1:1", "--bind", "fd://4", "--fd", "3", "--fd", "4", file="port = 2")
    assert (found.binds, found.descriptors) == (["127.0.0.1:1"], [3, 4])
    found = configured(TRIOCHAN_BIND="127.0.0.1:1, unix:s", TRIOCHAN_FD="3")
    assert (found.binds, found.descriptors) == (["127.0.0.1:1", "unix:s"], [3])
    found = configured(file="bind = ['unix:s', 'unix:/s', '127.0.0.1:1']\nfd = [3]")
    assert found.binds == ["unix:s", "unix:/s", "127.0.0.1:1"]
    assert errors(TRIOCHAN_BIND="localhost")[0].startswith(
        "environment: TRIOCHAN_BIND 'localhost' is not where one can listen; HOST:PORT"
    )


def test_a_password_is_masked() -> None:
    found = configured(TRIOCHAN_SSL_KEYFILE_PASSWORD="sesame", TRIOCHAN_SSL_CERTFILE="c")
    assert ("ssl-keyfile-password", "********") in [row[:2] for row in found.rows()]


def test_the_password_of_a_layer_is_masked_and_the_rest_shown(folder: Path) -> None:
    url = "redis://ann:sesame@localhost:6379/0"
    found = configured(TRIOCHAN_LAYER=url)
    assert found.options.layer == url
    assert ("layer", "redis://ann:***@localhost:6379/0", "environment TRIOCHAN_LAYER") in list(found.rows())
    path = folder / "my.toml"
    for said, warns in ((url, True), ("redis://localhost", False)):
        path.write_text(f"layer = '{said}'")
        path.chmod(0o644)
        assert bool(configured("--config", "my.toml").warnings) == warns


REDIS = {"TRIOCHAN_LAYER": "redis://h"}


@pytest.mark.parametrize(
    ("arguments", "file", "environ", "said", "usage"),
    [
        (["--workers", "2", "--reload"], None, {}, "--workers does not go with --reload", True),
        (["--workers", "2"], "reload = true", {}, "--workers does not go with my.toml:reload", True),
        (["--reload"], None, {"TRIOCHAN_WORKERS": "2"}, "TRIOCHAN_WORKERS does not go with --reload", True),
        ([], "reload = true\nworkers = 2", {}, "my.toml:workers does not go with my.toml:reload", False),
        (["--no-listen"], None, {}, "--no-listen needs a layer that others send through", True),
        (["--no-listen", "--layer", "memory://"], None, {}, "--no-listen needs a layer that others", True),
        (["--no-listen", "--workers", "2"], None, {}, "--no-listen needs a layer that others", True),
        ([], "listen = false", {}, "my.toml:listen = no needs a layer", False),
        (
            ["--no-listen", "--port", "1"],
            None,
            REDIS,
            "--no-listen opens no socket, and --port says where",
            True,
        ),
        (["--no-listen", "--fd", "3"], None, REDIS, "--no-listen opens no socket, and --fd says where", True),
        ([], "listen = false\nbind = '[::1]:1'", REDIS, "my.toml:bind says where to", False),
    ],
)
def test_what_of_several_processes_does_not_go_together(
    arguments: list[str], file: str | None, environ: dict[str, str], said: str, usage: bool
) -> None:
    with pytest.raises(CannotConfigure) as raised:
        configured(*arguments, file=file, **environ)
    assert said in str(raised.value)
    assert raised.value.usage == usage


def test_what_of_several_processes_goes_together() -> None:
    assert not configured("--no-listen", file="port = 80", **REDIS).options.listen  # it goes before them
    assert configured("--workers", "2", "--no-reload").options.workers == 2
    assert configured("--workers", "2").needs_engine
    for arguments in ([], ["--workers", "1"], ["--workers", "2", "--layer", "redis://h"]):
        assert not configured(*arguments).needs_engine
        assert not configured(*arguments).warnings
    [warning] = configured("--workers", "2", "--layer", "memory://").warnings
    assert warning.startswith("--layer memory:// with 2 workers: each has a layer of its own")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("WORKERS", "0", "takes a number of processes from 1 to 9999"),
        ("WORKERS", "²", "takes a number of processes from 1 to 9999"),
        ("LAYER", "localhost", "takes a URL such as redis://localhost:6379/0"),
        ("LAYER", "redis://", "takes a URL such as redis://localhost:6379/0"),
        ("LAYER", "redsi://:hush@h", "not 'redsi://:***@h'; did you mean redis://?"),
        ("LAYER", "memoryy://", "did you mean memory://?"),
        ("LAYER_TIMEOUT", "0", "takes a number of seconds above 0"),
        ("LAYER_TIMEOUT", "inf", "takes a number of seconds above 0"),
    ],
)
def test_variables_of_several_processes_that_are_wrong(variable: str, text: str, said: str) -> None:
    [error] = errors(**{f"TRIOCHAN_{variable}": text})
    assert said in error
    assert "hush" not in error
