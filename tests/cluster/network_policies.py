"""NetworkPolicies as rules of nftables: what pods may be sent, and may send, where a policy selects them.

Only the translation, from the objects of the API to the text that `nft` takes (networking.k8s.io/v1; selectors, IP
blocks, named ports and port ranges). Which traffic passes whatever a policy says is the caller's to name: a node always
reaches its pods. Applying the rules is left to `node_policy_enforcer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Object = dict[str, Any]

TABLE = "network-policies"
DNS_PORT = 53


def ruleset(
    policies: Iterable[Object], pods: Iterable[Object], namespaces: Iterable[Object], nodes: Sequence[str]
) -> str:
    """The whole table, replacing what was there.

    What the addresses `nodes` send passes always, and so do pods' questions to the DNS, which runs on a node.
    """
    labels = {one["metadata"]["name"]: _labels(one) for one in namespaces}
    running = [pod for pod in pods if _address(pod)]
    chains: list[str] = []
    jumps: dict[str, list[str]] = {"saddr": [], "daddr": []}
    every = list(policies)
    for number, pod in enumerate(running):
        selecting = [
            policy
            for policy in every
            if policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
            and _selected(policy["spec"].get("podSelector"), _labels(pod))
        ]
        for kind, field, ours, peer in (
            ("Ingress", "ingress", "daddr", "saddr"),
            ("Egress", "egress", "saddr", "daddr"),
        ):
            isolating = [policy for policy in selecting if kind in _types(policy["spec"])]
            if not isolating:
                continue
            chain = f"{field}-{number}"
            jumps[ours].append(f"{_address(pod)} : jump {chain}")
            lines = [
                f"{match} return".strip()
                for policy in isolating
                for rule in policy["spec"].get(field) or ()
                for match in _matches(rule, policy["metadata"]["namespace"], peer, pod, running, labels)
            ]
            chains.append(_chain(chain, [*lines, "drop"]))
    addresses = ", ".join(nodes)
    forward = [
        "type filter hook forward priority filter; policy accept;",
        "ct state established,related accept",
        f"ip saddr {{ {addresses} }} accept",
        f"ip daddr {{ {addresses} }} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept",
        *(f"ip {ours} vmap {{ {', '.join(targets)} }}" for ours, targets in jumps.items() if targets),
    ]
    body = "\n".join([*chains, _chain("forward", forward)])
    return f"table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n{body}\n}}\n"


def _matches(
    rule: Object,
    namespace: str,
    peer: str,
    pod: Object,
    pods: Sequence[Object],
    labels: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """What a rule lets pass, one match of nftables each; `peer`: which address of a packet is the other side's."""
    others = rule.get("from") or rule.get("to")
    for port in rule.get("ports") or ({},):
        if not others:
            yield from _with_port("", port, [pod] if peer == "saddr" else [], peer)
            continue
        for other in others:
            if block := other.get("ipBlock"):
                match = f"ip {peer} {block['cidr']}"
                if block.get("except"):
                    match += f" ip {peer} != {{ {', '.join(block['except'])} }}"
                yield from _with_port(match, port, [pod] if peer == "saddr" else [], peer)
                continue
            meant = [one for one in pods if _is_peer(other, one, namespace, labels)]
            if not isinstance(port.get("port"), str) or peer == "saddr":
                if meant:
                    match = f"ip {peer} {{ {', '.join(_address(one) for one in meant)} }}"
                    yield from _with_port(match, port, [pod], peer)
            else:
                for one in meant:
                    yield from _with_port(f"ip {peer} {_address(one)}", port, [one], peer)


def _with_port(match: str, port: Object, receivers: Sequence[Object], peer: str) -> Iterator[str]:
    """The match narrowed to a port; a named one is looked up in the pods that receive."""
    if not port:
        yield match
        return
    protocol = port.get("protocol", "TCP").lower()
    wanted = port.get("port")
    if wanted is None:
        yield f"{match} meta l4proto {protocol}"
    elif isinstance(wanted, int):
        yield f"{match} {protocol} dport {wanted}" + (f"-{port['endPort']}" if "endPort" in port else "")
    else:
        for pod in receivers:
            for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
                for one in container.get("ports", ()):
                    if (one.get("name"), one.get("protocol", "TCP").lower()) == (wanted, protocol):
                        yield f"{match} {protocol} dport {one['containerPort']}"


def _is_peer(peer: Object, pod: Object, namespace: str, labels: Mapping[str, Mapping[str, str]]) -> bool:
    place = pod["metadata"]["namespace"]
    if "namespaceSelector" in peer:
        if not _selected(peer["namespaceSelector"], labels.get(place, {})):
            return False
    elif place != namespace:
        return False
    return _selected(peer.get("podSelector"), _labels(pod))


def _selected(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector, empty or missing for all, takes these labels."""
    for name, value in ((selector or {}).get("matchLabels") or {}).items():
        if labels.get(name) != value:
            return False
    for one in (selector or {}).get("matchExpressions") or ():
        value = labels.get(one["key"])
        taken = {
            "In": value in one.get("values", ()),
            "NotIn": value not in one.get("values", ()),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[one["operator"]]
        if not taken:
            return False
    return True


def _types(spec: Object) -> Sequence[str]:
    return spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def _address(pod: Object) -> str:
    """Where a pod is that has an address of its own and has not ended; else an empty string."""
    status = pod.get("status", {})
    if pod["spec"].get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
        return ""
    return str(status.get("podIP", ""))


def _labels(one: Object) -> dict[str, str]:
    return one["metadata"].get("labels") or {}


def _chain(name: str, lines: Iterable[str]) -> str:
    return f"  chain {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "  }"
