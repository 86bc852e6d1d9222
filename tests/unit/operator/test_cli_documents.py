"""Files of MCPServers, Secrets and ConfigMaps: what is found, and that everything wrong is told with its place."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from mcp_operator.documents import Documents, read

SECRET = "c0ffee42canary"
SERVER = "apiVersion: outrigger.dev/v1alpha1\nkind: MCPServer\nmetadata: {name: %s}\nspec: {remote: {url: 'https://x.example/mcp'}}\n"


def parse(text: str, **options: str) -> Documents:
    found, problems = read(["-"], stdin=io.BytesIO(text.encode()), **options)
    assert problems == []
    return found


def refused(text: str) -> list[str]:
    _, problems = read(["-"], stdin=io.BytesIO(text.encode()))
    assert SECRET not in str(problems)
    return [f"{path}: {message}" for path, message in problems]


def test_what_is_found() -> None:
    text = f"""
{SERVER % "notes"}
---
apiVersion: v1
kind: Secret
metadata: {{name: token, namespace: other}}
stringData: {{key: plain, both: wins}}
data: {{encoded: {base64.b64encode(b"bytes").decode()}, both: bG9zZXM=}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{A: a}}
binaryData: {{B: /w==}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: x}}
"""
    found = parse(text, namespace="tools")
    assert [(one.name, one.namespace, one.number) for one in found.servers] == [("notes", "tools", 1)]
    assert found.values("Secret", "other", "token") == {"key": b"plain", "both": b"wins", "encoded": b"bytes"}
    assert found.values("ConfigMap", "tools", "settings") == {"A": b"a", "B": b"\xff"}
    assert found.values("Secret", "tools", "token") is None
    assert [one.kind for one in found.others] == ["Deployment"]
    assert found.servers[0].place == "stdin, document 1 (MCPServer notes)"


def test_lists_hold_objects() -> None:
    items = (
        "[{apiVersion: v1, kind: Secret, metadata: {name: a}}, {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]"
    )
    found = parse(f"apiVersion: v1\nkind: List\nitems: {items}")
    assert list(found.secrets) == [("default", "a")]
    assert list(found.config_maps) == [("default", "b")]


def test_folder_holds_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(SERVER % "second")
    (tmp_path / "a.yml").write_text(SERVER % "first")
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}')
    (tmp_path / "notes.txt").write_text("no YAML: [")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text(SERVER % "third")
    found, problems = read([str(tmp_path)])
    assert problems == []
    assert [one.name for one in found.servers] == ["first", "second"]
    assert list(found.secrets) == [("default", "s")]


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{SERVER % 'x'}---\n- 1\n---\napiVersion: v1\nkind: Secret\nmetadata: {{}}\n")
    (tmp_path / "b.yaml").write_text("a: [")
    (tmp_path / "c.yaml").write_text(SERVER % "x")
    (tmp_path / "d.yaml").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "empty").mkdir()
    found, problems = read([str(tmp_path), str(tmp_path / "missing.yaml"), str(tmp_path / "empty")])
    assert [server.source for server in found.servers] == [str(tmp_path / "a.yaml")]
    said = [f"{path}: {message}".replace(f"{tmp_path}/", "") for path, message in problems]
    assert said == [
        "a.yaml, document 2: is no Kubernetes object: it has no apiVersion and kind",
        "a.yaml, document 3 (Secret): metadata.name: is missing",
        "b.yaml, document 1: line 2, column 1: did not find expected node content",
        "c.yaml, document 1 (MCPServer x): is there twice; first at a.yaml, document 1 (MCPServer x)",
        "d.yaml: is not UTF-8 (byte 0)",
        "missing.yaml: no such file or directory",
        "empty: holds no file that ends in .json, .yaml, .yml",
    ]


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (f"stringData: {{a: {SECRET}, b: 1}}", "stringData.b: must be a string; quote it"),
        (f"data: {{a: {SECRET}!}}", "data.a: is no base64; plain text goes into stringData"),
        (f"data: {SECRET}", "data: must be an object of strings"),
        (f"stringData: {{../../etc/x: {SECRET}}}", "stringData: a key must be letters"),
        (f"stringData: {{..: {SECRET}}}", "stringData: a key must be letters"),
    ],
)
def test_bad_secret_is_told_without_its_value(secret: str, said: str) -> None:
    [problem] = refused(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: token}}\n{secret}\n")
    assert problem.startswith(f"stdin, document 1 (Secret token): {said}")


@pytest.mark.parametrize("name", ["../up", "Token", "a/b", "..", "-"])
def test_name_that_is_no_name(name: str) -> None:
    [problem] = refused(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: '{name}'}}\n")
    assert "metadata.name: must be lower-case letters" in problem


def test_base64_may_be_wrapped() -> None:
    found = parse("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  a: |\n    Ynl0\n    ZXM=\n")
    assert found.values("Secret", "default", "s") == {"a": b"bytes"}
