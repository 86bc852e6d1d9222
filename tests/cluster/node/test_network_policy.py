"""NetworkPolicies are enforced here, and the operator's let through exactly whom the rules that users see name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api import Api, eventually
from cluster.deployed import deploy
from cluster.kubectl import Command
from cluster.plain_pods import SERVE, WAIT, pod, reached, running

PORT = 8000
MakeNamespace = Callable[..., str]


def become(kubectl: Command, namespace: str, name: str, wanted: dict[str, str]) -> None:
    """Wait until connections from a pod to each `host:port` end so; a policy takes a moment to be everywhere."""

    def look() -> bool:
        found = dict(zip(wanted, reached(kubectl, namespace, name, *wanted, seconds=1.0), strict=True))
        assert found == wanted
        return True

    eventually(look, f"connections from {namespace}/{name}", 30)


def test_mcp_server_is_reached_by_whom_its_policy_names(
    api: Api, installed: Any, kubectl: Command, make_namespace: MakeNamespace
) -> None:
    home, stranger, monitoring = make_namespace(), make_namespace(), make_namespace(purpose="monitoring")
    for namespace in (home, stranger, monitoring):
        api.create(pod(namespace, "caller", WAIT))
    watchers = {"namespaceSelector": {"matchLabels": {"purpose": "monitoring"}}}
    server = deploy(api, home, networkPolicy={"mode": "Enabled"}, monitoring={"from": [watchers]}).ready()
    for namespace in (home, stranger, monitoring):
        running(api, namespace, "caller")
    (serving,) = server.ready_pods(1)
    service = api.get("services", home, "one")
    assert service
    addresses = {
        f"one.{home}:8080": True,
        f"{service['spec']['clusterIP']}:8080": True,
        f"{serving['status']['podIP']}:8080": True,
        f"{serving['status']['podIP']}:9090": False,
    }
    become(kubectl, home, "caller", {target: "yes" if mcp else "no" for target, mcp in addresses.items()})
    become(kubectl, stranger, "caller", dict.fromkeys(addresses, "no"))
    become(kubectl, monitoring, "caller", {target: "no" if mcp else "yes" for target, mcp in addresses.items()})
    # the operator reads the admin port, or this would not be told
    server.wait("ServerReachable", "True")

    server.patch(networkPolicy={"from": [{"namespaceSelector": {"matchLabels": {"purpose": "monitoring"}}}]})
    become(kubectl, monitoring, "caller", dict.fromkeys(addresses, "yes"))
    become(kubectl, stranger, "caller", dict.fromkeys(addresses, "no"))

    server.patch(networkPolicy={"mode": "Disabled", "from": None})
    become(kubectl, stranger, "caller", dict.fromkeys(addresses, "yes"))


def test_egress_of_an_mcp_server_is_what_its_policy_names(
    api: Api, installed: Any, kubectl: Command, make_namespace: MakeNamespace
) -> None:
    home, elsewhere = make_namespace(), make_namespace()
    for namespace in (home, elsewhere):
        api.create(pod(namespace, "web", [*SERVE, str(PORT)], port=PORT))
    addresses = [f"{running(api, one, 'web')['status']['podIP']}:{PORT}" for one in (home, elsewhere)]
    allowed = {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
    server = deploy(api, home, networkPolicy={"mode": "Enabled", "egress": [allowed]}).ready()
    (serving,) = server.ready_pods(1)
    name = serving["metadata"]["name"]
    become(kubectl, home, name, dict(zip(addresses, ("yes", "no"), strict=True)))


def test_policies_of_every_form(api: Api, kubectl: Command, namespace: str) -> None:
    for name in ("near", "far"):
        api.create(pod(namespace, name, WAIT))
    api.create(pod(namespace, "web", [*SERVE, str(PORT)], port=PORT))
    web = f"{running(api, namespace, 'web')['status']['podIP']}:{PORT}"
    addresses = {name: running(api, namespace, name)["status"]["podIP"] for name in ("near", "far")}

    def only(rules: list[dict[str, Any]], near: str, far: str) -> None:
        api.apply(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "one", "namespace": namespace},
                "spec": {
                    "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
                    "policyTypes": ["Ingress"],
                    "ingress": rules,
                },
            }
        )
        become(kubectl, namespace, "near", {web: near})
        become(kubectl, namespace, "far", {web: far})

    for name in ("near", "far"):
        become(kubectl, namespace, name, {web: "yes"})
    only([], "no", "no")
    only([{}], "yes", "yes")
    except_far = {"cidr": "10.244.0.0/16", "except": [f"{addresses['far']}/32"]}
    only([{"from": [{"ipBlock": except_far}]}], "yes", "no")
    not_near = {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["near"]}]}
    only([{"from": [{"podSelector": not_near}], "ports": [{"port": "web"}]}], "no", "yes")
    only([{"ports": [{"port": PORT - 10, "endPort": PORT}]}], "yes", "yes")
    only([{"ports": [{"port": PORT, "protocol": "UDP"}]}], "no", "no")
    api.delete("networkpolicies", namespace, "one")
    for name in ("near", "far"):
        become(kubectl, namespace, name, {web: "yes"})
