"""Values resolved late: variables, files, sealed tokens, MCP_TOKEN variables; failures close, rotations swap whole."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from mcp_sidecar.config import Config, ConfigError, parse
from mcp_sidecar.errors import SecretError
from mcp_sidecar.secrets import Keyring, SecretStore, SecretValue, ServerSecrets, Watcher, keygen

KEY = keygen()
CANARY = "canary-77aa51cc"


def config(server: dict[str, Any], **top: Any) -> Config:
    return parse({"servers": {"s": server}, **top}).config


def store(server: dict[str, Any], directory: Path, environ: dict[str, str] | None = None, **top: Any) -> SecretStore:
    return SecretStore(config(server, **top), directory=directory, environ=environ or {})


def secrets(server: dict[str, Any], directory: Path, environ: dict[str, str] | None = None) -> ServerSecrets:
    return store(server, directory, environ).servers["s"]


def test_every_place_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    environ = {"A": "from-env", "KEYS": "x", "MCP_ENCRYPTION_KEY": KEY, "PROGRAM": "prog"}
    sealed = Keyring([KEY]).seal("from-seal", "s")
    found = secrets(
        {
            "command": "${PROGRAM}",
            "args": ["-a", "${A}", "${NONE:-default}"],
            "workingDir": "sub",
            "env": {
                "PLAIN": "text",
                "REF": "<${A}>",
                "FILE": {"valueFrom": {"file": "token"}},
                "ENV": {"valueFrom": {"env": "A"}},
                "SEALED": sealed,
                "EMPTY": "",
            },
        },
        tmp_path,
        environ,
    ).values()
    assert found.command == "prog"
    assert found.args == ("-a", "from-env", "default")
    assert found.working_dir == str(tmp_path / "sub")
    assert found.env == {
        "PLAIN": "text",
        "REF": "<from-env>",
        "FILE": "from-file",
        "ENV": "from-env",
        "SEALED": "from-seal",
        "EMPTY": "",
    }


def test_headers_and_url(tmp_path: Path) -> None:
    server = {"url": "https://${HOST}/mcp", "headers": {"X-Key": "${K}", "Content-Type": "application/json"}}
    found = secrets(server, tmp_path, {"HOST": "x.example", "K": " v "}).values()
    assert found.url == "https://x.example/mcp"
    assert found.headers == ((b"x-key", b"v"),)


@pytest.mark.parametrize(
    ("server", "environ", "reason"),
    [
        ({"command": "x", "env": {"A": "${NOPE}"}}, {}, "env.A: the environment variable NOPE is not set"),
        ({"command": "x", "env": {"A": "${NOPE}"}}, {"NOPE": ""}, "env.A: the environment variable NOPE is empty"),
        ({"command": "x", "args": ["${NOPE}"]}, {}, "args[0]: the environment variable NOPE is not set"),
        ({"command": "x", "env": {"A": {"valueFrom": {"file": "/no/such"}}}}, {}, "there is no file /no/such"),
        (
            {"command": "x", "env": {"A": {"valueFrom": {"file": "/proc"}}}},
            {},
            "cannot read the file /proc: Is a directory",
        ),
        ({"command": "x", "env": {"A": {"valueFrom": {"file": "/dev/null"}}}}, {}, "is empty"),
        ({"command": "x", "env": {"A": "fernet:v1:gAAAA"}}, {}, "there is no key"),
        ({"command": "x", "env": {"A": "fernet:v1:gAAAA"}}, {"MCP_ENCRYPTION_KEY": KEY}, "stays shut"),
        ({"command": "x", "env": {"A": "fernet:v1:gAAAA"}}, {"MCP_ENCRYPTION_KEY": "bad"}, "is no key"),
        ({"url": "https://x/", "headers": {"A": "${V}"}}, {"V": "a\nb"}, "headers.A: has a control character"),
        ({"url": "${V}"}, {"V": f"ftp://{CANARY}"}, "url: must begin with http"),
        ({"url": "https://x/"}, {"MCP_TOKEN_S": f"Bearer {CANARY}"}, "token: must be the bare token"),
        ({"url": "https://x/"}, {"MCP_TOKEN_S_FILE": "/no/such"}, "there is no file /no/such"),
    ],
)
def test_failure_closes_the_server_with_a_reason(
    server: dict[str, Any], environ: dict[str, str], reason: str, tmp_path: Path
) -> None:
    found = secrets(server, tmp_path, environ)
    assert found.failure is not None
    assert reason in found.failure
    assert CANARY not in found.failure
    with pytest.raises(SecretError):
        found.values()
    assert found.generation == 0


def test_one_server_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    both = parse({"servers": {"bad": {"command": "x", "env": {"A": "${NOPE}"}}, "good": {"command": "x"}}}).config
    made = SecretStore(both, directory=tmp_path, environ={})
    assert made.servers["bad"].failure
    assert made.servers["good"].values().command == "x"
    assert made.age("bad") is None
    assert made.age("good") is not None


def test_values_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(CANARY)
    found = secrets(
        {"command": CANARY, "args": [CANARY], "env": {"A": {"valueFrom": {"file": "t"}}, "B": CANARY}}, tmp_path
    )
    assert found.values().env["A"] == CANARY
    assert CANARY not in f"{found.values()} {found.values()!r} {vars(found)}"
    value = SecretValue(CANARY)
    assert CANARY not in f"{value} {value!r} {value:>20} {[value]}"
    assert value == SecretValue(CANARY)
    assert value != SecretValue("x")
    assert hash(value) == hash(SecretValue(CANARY))
    with pytest.raises(TypeError):
        pickle.dumps(value)


def test_sealed_values_in_files_and_variables(tmp_path: Path) -> None:
    sealed = Keyring([KEY]).seal("opened", "s")
    (tmp_path / "t").write_text(sealed + "\n")
    server = {"url": "https://x/", "headers": {"A": {"valueFrom": {"file": "t"}}, "B": "Key ${V}"}}
    found = secrets(server, tmp_path, {"V": sealed, "MCP_ENCRYPTION_KEY": KEY}).values()
    assert found.headers == ((b"a", b"opened"), (b"b", b"Key opened"))


def test_a_value_sealed_for_another_server_stays_shut(tmp_path: Path) -> None:
    server = {"command": "x", "env": {"A": Keyring([KEY]).seal("x", "other")}}
    assert "sealed for 'other'" in str(secrets(server, tmp_path, {"MCP_ENCRYPTION_KEY": KEY}).failure)


def test_key_file_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    server = {"command": "x", "env": {"A": Keyring([KEY]).seal("opened", "s")}}
    made = store(server, tmp_path, secrets={"keyFile": "keys"})
    assert made.servers["s"].values().env == {"A": "opened"}
    assert made.servers["s"].watched() == {tmp_path / "keys"}


# envFrom


def imported(directory: Path, *entries: dict[str, str], **server: Any) -> ServerSecrets:
    return secrets({"command": "x", "envFrom": list(entries), **server}, directory, {"MCP_ENCRYPTION_KEY": KEY})


def test_every_file_of_a_directory_becomes_a_variable(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    (first / "USER").write_text("first-user\n")
    (first / "shared").write_text("first-shared")
    (first / "EMPTY").write_text("")
    (first / "SEALED").write_text(Keyring([KEY]).seal("opened", "s"))
    for name in ("tls.crt", "1ST", ".hidden", "..data_tmp", "WITH SPACE"):
        (first / name).write_text("no variable")
    (first / "SUBDIRECTORY").mkdir()
    (second / "shared").write_text("second-shared")
    (second / "OWN").write_text("from-the-file")
    found = imported(tmp_path, {"directory": "first"}, {"directory": str(second)}, env={"OWN": "from-env"})
    assert found.values().env == {
        "USER": "first-user",
        "shared": "second-shared",
        "EMPTY": "",
        "SEALED": "opened",
        "OWN": "from-env",
    }
    assert found.watched_directories() == {first, second}
    assert found.values().secrets >= {"first-user", "second-shared", "opened"}


def test_a_prefix_makes_the_name(tmp_path: Path) -> None:
    (tmp_path / "1ST").write_text("a")
    (tmp_path / "SECOND").write_text("b")
    found = imported(tmp_path, {"directory": ".", "prefix": "DB_"})
    assert found.values().env == {"DB_1ST": "a", "DB_SECOND": "b"}


def test_a_directory_that_gives_nothing_closes_the_server(tmp_path: Path) -> None:
    """The volume of an optional Secret that is not there is an empty directory."""
    missing = imported(tmp_path, {"directory": "nowhere"})
    assert missing.failure == f"envFrom[0]: there is no directory {tmp_path / 'nowhere'}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tls.crt").write_text("no variable")
    empty = imported(tmp_path, {"directory": "empty"})
    assert empty.failure == f"envFrom[0]: no file in {tmp_path / 'empty'} has the name of a variable"
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "KEY").write_bytes(b"\xff\xfe")
    assert "KEY is not UTF-8 text" in str(imported(tmp_path, {"directory": "binary"}).failure)
    assert "cannot list the directory" in str(imported(tmp_path, {"directory": "binary/KEY"}).failure)


async def test_a_directory_is_watched_for_what_comes_changes_and_goes(tmp_path: Path) -> None:
    place = tmp_path / "v"
    made = store({"command": "x", "envFrom": [{"directory": str(place)}]}, tmp_path)
    watcher, changed = Watcher(), list[str]()
    made.watch(watcher, changed.append)
    found = made.servers["s"]
    assert found.failure
    place.mkdir()
    (place / "TOKEN").write_text("one-secret")
    await watcher.look()
    assert found.values().env == {"TOKEN": "one-secret"}
    (place / "MORE").write_text("more-secret")
    (place / "TOKEN").write_text("two-secret")
    await watcher.look()
    assert found.values().env == {"TOKEN": "two-secret", "MORE": "more-secret"}
    (place / "TOKEN").unlink()
    await watcher.look()
    assert (found.values().env, found.generation) == ({"MORE": "more-secret"}, 3)
    assert made.redactor.redact("two-secret more-secret") == "*** ***"
    (place / "MORE").unlink()
    await watcher.look()
    assert found.values().env == {"MORE": "more-secret"}, "what was good stays in use"
    assert found.failure is not None


# MCP_TOKEN_<SERVER> (seed R12)


def token_of(environ: dict[str, str], directory: Path, name: str = "brave-search") -> Any:
    made = parse({"servers": {name: {"url": "https://x/"}}}).config
    return SecretStore(made, directory=directory, environ=environ).servers[name].values().headers


def test_token_plain_sealed_and_in_a_file(tmp_path: Path) -> None:
    sealed = Keyring([KEY]).seal("opened", "brave-search")
    (tmp_path / "t").write_text("from-file\n")
    assert token_of({"MCP_TOKEN_BRAVE_SEARCH": "plain"}, tmp_path) == ((b"authorization", b"Bearer plain"),)
    assert token_of({"MCP_TOKEN_BRAVE_SEARCH": sealed, "MCP_ENCRYPTION_KEY": KEY}, tmp_path) == (
        (b"authorization", b"Bearer opened"),
    )
    assert token_of({"MCP_TOKEN_BRAVE_SEARCH_FILE": str(tmp_path / "t")}, tmp_path) == (
        (b"authorization", b"Bearer from-file"),
    )
    assert token_of({"MCP_TOKEN_BRAVE_SEARCH": ""}, tmp_path) == ()


@pytest.mark.parametrize(
    ("servers", "environ", "message"),
    [
        ({"a": {"url": "https://x/"}}, {"MCP_TOKEN_B": "x"}, "fits no server"),
        ({"a": {"url": "https://x/"}}, {"MCP_TOKEN_A": "x", "MCP_TOKEN_A_FILE": "y"}, "a second token"),
        ({"a": {"url": "https://x/"}, "a-file": {"url": "https://x/"}}, {"MCP_TOKEN_A_FILE": "x"}, "fits two servers"),
        ({"a": {"command": "x"}}, {"MCP_TOKEN_A": "x"}, "has no url"),
        ({"a": {"url": "https://x/", "headers": {"authorization": "x"}}}, {"MCP_TOKEN_A": "x"}, "conflicts"),
        ({"a": {"url": "https://x/", "credentials": "Forward"}}, {"MCP_TOKEN_A": "x"}, "conflicts"),
    ],
)
def test_tokens_that_fit_badly_are_errors(servers: dict[str, Any], environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SecretStore(parse({"servers": servers}).config, environ=environ)


def test_the_token_of_a_disabled_server_is_ignored() -> None:
    made = parse({"servers": {"a": {"url": "https://x/"}, "b": {"url": "https://x/", "disabled": True}}}).config
    assert list(SecretStore(made, environ={"MCP_TOKEN_B": "x"}).servers) == ["a"]


# rotation


async def test_rotation_swaps_whole_and_a_bad_value_keeps_the_old(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}-value-1")
    made = store({"command": "x", "env": {n: {"valueFrom": {"file": n}} for n in ("a", "b")}}, tmp_path)
    found, watcher, changed = made.servers["s"], Watcher(), list[str]()
    end = made.watch(watcher, changed.append)
    await watcher.look()
    assert not changed
    (tmp_path / "a").write_text("a-value-2")
    await watcher.look()
    assert (changed, found.generation) == (["s"], 2)
    assert found.values().env == {"a": "a-value-2", "b": "b-value-1"}
    assert made.redactor.redact("a-value-1 a-value-2 b-value-1") == "*** *** ***", "the old one is still draining"

    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("b-value-2")
    await watcher.look()
    assert (changed, found.generation, watcher.failures) == (["s"], 2, 1)
    assert found.failure is not None
    assert found.values().env == {"a": "a-value-2", "b": "b-value-1"}, "never half of a rotation"
    assert watcher.last_error is not None
    await watcher.look()
    assert watcher.failures == 1, "counted once"

    (tmp_path / "a").write_text("a-value-3")
    await watcher.look()
    assert found.failure is None
    assert watcher.last_error is None
    assert found.values().env == {"a": "a-value-3", "b": "b-value-2"}
    end()
    (tmp_path / "a").write_text("a-value-4")
    await watcher.look()
    assert found.generation == 3, "nobody watches any more"


async def test_a_server_that_failed_at_the_start_recovers(tmp_path: Path) -> None:
    made = store({"command": "x", "env": {"A": {"valueFrom": {"file": "later"}}}}, tmp_path)
    watcher, changed = Watcher(), list[str]()
    made.watch(watcher, changed.append)
    assert made.servers["s"].failure
    (tmp_path / "later").write_text("now")
    await watcher.look()
    assert changed == ["s"]
    assert made.servers["s"].values().env == {"A": "now"}
