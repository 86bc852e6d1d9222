"""Names: short and long releases, two releases beside each other, names that users give."""

from __future__ import annotations

import re

import pytest

from chart.rendering import Rendered, render

EVERYTHING = {
    "monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
    "alerts": {"enabled": True},
}
LONG = "a-release-of-exactly-53-characters-which-is-the-limit"
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
CRD = ("CustomResourceDefinition", "", "mcpservers.outrigger.dev")


def check(manifests: Rendered) -> None:
    """As the API server would."""
    for manifest in manifests:
        kind, metadata = manifest["kind"], manifest["metadata"]
        name = metadata["name"]
        assert DNS_1123.fullmatch(name), name
        assert len(name) <= 253
        if kind in ("Service", "MCPServer"):
            assert DNS_1035.fullmatch(name), name
            assert len(name) <= (63 if kind == "Service" else 50), name
        for text in metadata["labels"].values():
            assert len(text) <= 63, text
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", text), text


@pytest.mark.parametrize("release", ["outrigger", "x", "my-outrigger-2", "7up", "a.b", LONG, f"o{LONG[1:]}"])
def test_names_are_good(release: str) -> None:
    manifests = render(EVERYTHING, release=release)
    check(manifests)
    assert len(manifests.keys()) == len(manifests)


@pytest.mark.parametrize(
    "release, name",
    [
        ("outrigger", "outrigger-operator"),
        ("prod-outrigger", "prod-outrigger-operator"),
        ("prod", "prod-outrigger-operator"),
        ("7up", "o7up-outrigger-operator"),
    ],
)
def test_operator_is_called(release: str, name: str) -> None:
    assert render(release=release).of("Deployment")["metadata"]["name"] == name


@pytest.mark.parametrize("first, second", [("one", "two"), (f"{LONG[:-1]}x", f"{LONG[:-1]}y")])
def test_two_releases_share_nothing_but_the_crd(first: str, second: str) -> None:
    ours = render(EVERYTHING, release=first)
    theirs = render(EVERYTHING, release=second)
    assert ours.keys() & theirs.keys() == {CRD}
    selectors = [one.of("Deployment")["spec"]["selector"] for one in (ours, theirs)]
    assert selectors[0] != selectors[1]
    leases = [one.all("Role")[0]["rules"][1]["resourceNames"] for one in (ours, theirs)]
    assert leases[0] != leases[1]


def test_overrides() -> None:
    assert render({"nameOverride": "rig"}, release="x").of("Deployment")["metadata"]["name"] == "x-rig-operator"
    full = render({"fullnameOverride": "mine"}, release="x")
    assert full.of("Deployment")["metadata"]["name"] == "mine-operator"
    check(render({"fullnameOverride": "1" * 200}, release="x"))
    check(render({"nameOverride": "a.b"}, release="x"))
