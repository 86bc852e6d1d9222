"""Live or Rolls: what a change of each field does to the pods, field by field of the CRD.

A Live field changes no byte of the pod template and reaches running sidecars through the ConfigMap that they have
mounted (or is about something else than pods); a Rolls field changes the template. Either way it changes something.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from changed_fields import LEAVES, changed, computed
from desired_goldens import CLUSTER, IMAGES, NAMES, manifest, object_of, wanted
from mcp_operator.api.v1alpha1 import parse
from mcp_operator.desired import Desired, desired


def template(found: Desired) -> str:
    return json.dumps(object_of(found, "Deployment")["spec"]["template"], sort_keys=True)


@pytest.mark.parametrize("path", LEAVES)
def test_change_does_what_the_reference_says(path: str) -> None:
    before, after = changed(path)
    assert before.manifests != after.manifests, "the field has no effect"
    if LEAVES[path].change == "Live":
        assert template(after) == template(before)
        assert after.config_map == before.config_map
        assert after.provenance == before.provenance
    else:
        assert template(after) != template(before)
        # whose change it is must show, or it would wait for a turn of the fleet
        assert after.provenance.user != before.provenance.user
        assert after.provenance.template != before.provenance.template


@pytest.mark.parametrize("path", LEAVES)
def test_pods_never_see_a_config_that_names_what_they_lack(path: str) -> None:
    # Pods keep their template; a ConfigMap that keeps its name is changed under them.
    before, after = changed(path)
    if after.config_map != before.config_map:
        return
    old, new = json.loads(before.config_json), json.loads(after.config_json)
    assert files(new) <= files(old)
    assert {key: old["front"][key] for key in ("host", "port", "adminPort")} == {
        key: new["front"][key] for key in ("host", "port", "adminPort")
    }


def files(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value} if value.startswith("/run/outrigger/") else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {path for item in items for path in files(item)}


def spec_of(name: str, **change: Any) -> Desired:
    found = copy.deepcopy(manifest(name))
    found["spec"] |= change
    return computed(found)


def test_replicas_change_the_deployment_and_not_the_pods() -> None:
    one, two = spec_of("stdio"), spec_of("stdio", replicas=7)
    assert template(one) == template(two)
    assert object_of(two, "Deployment")["spec"]["replicas"] == 7


def test_addresses_of_the_service_reach_running_pods() -> None:
    server = parse(manifest("stdio"))
    one = desired(server, CLUSTER, IMAGES)
    two = desired(server, type(CLUSTER)(cluster_ips=("10.96.9.9", "None", "")), IMAGES)
    assert one.config_map == two.config_map
    assert template(one) == template(two)
    hosts = json.loads(two.config_json)["front"]["allowedHosts"]
    assert "10.96.9.9" in hosts
    assert {"None", ""}.isdisjoint(hosts)


def test_another_image_gets_another_config_map() -> None:
    # An older sidecar would refuse what it does not know, so its config is left alone.
    server = parse(manifest("stdio"))
    newer = type(IMAGES)(sidecar="s:2", sidecar_runtime="r:2")
    assert desired(server, CLUSTER, newer).config_map != desired(server, CLUSTER, IMAGES).config_map


def test_a_new_token_of_a_mounted_file_is_live_and_a_new_file_rolls() -> None:
    tokens = manifest("remote")["spec"]["front"]["tokens"]
    front = manifest("remote")["spec"]["front"]
    before = spec_of("remote")
    same_file = spec_of("remote", front={**front, "tokens": [*tokens, {**tokens[0], "name": "third"}]})
    assert (template(same_file), same_file.config_map) == (template(before), before.config_map)
    assert same_file.provenance == before.provenance
    other = {"name": "third", "secretKeyRef": {"name": "callers", "key": "third"}}
    new_file = spec_of("remote", front={**front, "tokens": [*tokens, other]})
    assert template(new_file) != template(before)
    assert new_file.config_map != before.config_map


@pytest.mark.parametrize("name", NAMES)
def test_values_in_the_environment_roll_the_pods_and_files_do_not(name: str) -> None:
    server = parse(manifest(name))
    one, two = (desired(server, CLUSTER, IMAGES, checksum=checksum) for checksum in ("a" * 12, "b" * 12))
    assert (template(one) != template(two)) == any(each.in_environment for each in one.references) == (name == "http")
    assert (one.provenance.user != two.provenance.user) == (name == "http")
    assert one.config_map == two.config_map


def test_what_the_user_decides_is_told_alike_by_every_version() -> None:
    """Where one of these changes, an upgrade of the operator rolls the whole fleet at once: think of a default that is
    not what it was, of a field that rolls and did not."""
    assert {name: wanted(name).provenance.user for name in NAMES} == {
        "autoscaled": "22abf86d6105",
        "everything": "95bec2635e08",
        "http": "6bf240e0231c",
        "remote": "e656fa38f837",
        "stdio": "d463e6f4a447",
        "stdio-image": "13f779d3ad5b",
        "stdio-secrets": "db861174b441",
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_upgrade_is_no_change_of_the_users(name: str) -> None:
    server = parse(manifest(name))
    newer = type(IMAGES)(sidecar="s:2", sidecar_runtime="r:2", pull_policy="Always", pull_secrets=("other",))
    one, two = desired(server, CLUSTER, IMAGES), desired(server, CLUSTER, newer)
    assert one.provenance.user == two.provenance.user
    assert one.provenance.template != two.provenance.template
