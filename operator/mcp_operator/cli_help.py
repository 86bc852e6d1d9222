"""The examples that `--help` of each command ends with. Text only; a test parses every example and runs
those that need no cluster."""

from __future__ import annotations

MAIN_EPILOG = """\
a first try, without a cluster:
  outrigger up -f examples/mcpservers/notes.yaml
  outrigger-sidecar tools http://127.0.0.1:8080/mcp

on a cluster:
  outrigger crds | kubectl apply --server-side -f -
  outrigger run
  kubectl apply -f examples/mcpservers/notes.yaml
  outrigger status

'outrigger COMMAND --help' shows more examples. Exit codes: 0 done, 1 it failed, 2 the input was bad.
"""

EPILOGS = {
    "up": """\
examples:
  outrigger up -f examples/mcpservers/notes.yaml
  outrigger up -f examples/mcpservers/ -v
  outrigger up -f examples/mcpservers/http.yaml --server web-notes=http://127.0.0.1:8000/mcp
  outrigger up -f examples/mcpservers/stdio-image.yaml --without-images

Each MCPServer gets a sidecar of its own: http://127.0.0.1:8080/mcp, then 8081 and so on. Secrets and ConfigMaps of the
same files become files that only you can read, and are gone afterwards. A change of the files is used at once; where
that is not possible, the sidecar is started anew. Commands run in the current directory. Ctrl-C ends all.
""",
    "render": """\
examples:
  outrigger render -f examples/mcpservers/notes.yaml
  outrigger render -f examples/mcpservers/ -n tools -o json
  outrigger render -f notes.yaml --session-keys random | kubectl apply --server-side -f -

Which Secrets and ConfigMaps the pods need is said on stderr. The operator makes the session key Secrets itself; here
they hold a placeholder, which sidecars refuse, unless random ones are asked for.
""",
    "run": """\
examples:
  outrigger run
  outrigger run --kubeconfig ~/.kube/config --context staging
  outrigger run --watch-namespaces tools,research --config operator.yaml
  OUTRIGGER_OPERATOR__LEADER_ELECTION__ENABLED=false outrigger run

Flags win over variables OUTRIGGER_OPERATOR__<PATH>, these over the file, the file over the defaults. The admin port
(8081) has /livez, /readyz and /metrics. Every setting is in docs/operator-configuration.md.
""",
    "status": """\
examples:
  outrigger status
  outrigger status -A
  outrigger status -n tools -o wide
  outrigger status -A --check && echo all are ready
""",
    "crds": """\
example:
  outrigger crds | kubectl apply --server-side -f -
""",
    "rbac": """\
examples:
  outrigger rbac | kubectl apply -f -
  outrigger rbac --namespaces tools,research --operator-namespace outrigger-system

The namespaces must be there. With --namespaces there is nothing but Roles: for an operator that runs with
--watch-namespaces.
""",
    "version": """\
example:
  outrigger version
""",
}
