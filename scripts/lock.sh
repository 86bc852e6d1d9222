#!/usr/bin/env bash
# Writes requirements/*.txt from pyproject.toml and requirements/*.in: every package pinned with hashes, for every platform
# and each supported Python, without the address of the index it came from.
#
#   scripts/lock.sh            keeps the pins that still fit
#   scripts/lock.sh --upgrade  takes the newest that fit
#   scripts/lock.sh --check    writes nothing; fails where a lock no longer fits (asks the index)
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-.venv/bin/uv}
out=requirements
flags=()
case "${1:-}" in
  --upgrade) flags+=(--upgrade) ;;
  --check) out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; cp requirements/*.txt "$out"/ ;;
  "") ;;
  *) echo "usage: scripts/lock.sh [--upgrade | --check]" >&2; exit 2 ;;
esac

compile() { # NAME SOURCE [options]
  local name=$1
  shift
  # Run from the folder of the output, so that no path of this machine gets into the "via" comments.
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --custom-compile-command "make lock" "${flags[@]}" "$@" --output-file "$out/$name.txt" >/dev/null
}

compile uv requirements/uv.in
compile build requirements/build.in
compile runtime requirements/runtime.in
compile sidecar pyproject.toml --extra sidecar
compile client pyproject.toml --extra sidecar --extra client
compile everything pyproject.toml --extra client
compile operator pyproject.toml --extra operator
compile dev pyproject.toml --all-extras --group test --group lint --group tools -c requirements/uv.in

if [ "$out" != requirements ]; then
  for name in uv build runtime sidecar client everything operator dev; do
    cmp -s "requirements/$name.txt" "$out/$name.txt" || { echo "requirements/$name.txt is stale: run 'make lock'" >&2; exit 1; }
  done
fi
