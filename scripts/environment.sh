#!/usr/bin/env bash
# Makes a Python environment from a lock file, or does nothing where it is up to date.
#
#   scripts/environment.sh DIR LOCK [--project]
#
# DIR is the environment's folder, LOCK a file of requirements/ (every package pinned and hashed). --project adds this
# repository as an editable install. The stamp DIR/.complete holds a hash of what went in: an unchanged environment costs
# a few milliseconds. PYTHON names the interpreter; else the first that runs of python3.13, 3.12, 3.11 and python3 is taken.
# Packages that are not in the lock are left alone; `make clean` starts anew.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'environment: %s\n' "$*" >&2; exit 1; }
[ $# -ge 2 ] || die "usage: scripts/environment.sh DIR LOCK [--project]"
dir=$1 lock=$2 project=${3:-}
[ -f "$lock" ] || die "no such lock file: $lock"

# A shim of a version manager may be on the PATH and not run, so each candidate is asked.
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'; }

choose() {
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || die "PYTHON=$PYTHON does not run, or is older than Python 3.11"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.13 python3.12 python3.11 python3; do
    if fits "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  die "Python 3.11 or newer is needed and none of python3.13, python3.12, python3.11, python3 is one.
  On Debian or Ubuntu: apt-get install python3 python3-venv. Or name one: make venv PYTHON=/path/to/python3"
}

hash_of() {
  {
    cat "$lock" requirements/uv.txt
    # The entry points and the package's folders come from pyproject.toml, so the editable install follows it.
    [ -z "$project" ] || cat pyproject.toml
    printf '%s %s\n' "$PWD/$dir" "$project"
  } | sha256sum | cut -d' ' -f1
}

mkdir -p "$(dirname "$dir")" .cache
if command -v flock >/dev/null; then
  exec 9>".cache/$(basename "$dir").lock"
  flock 9
fi

if [ -x "$dir/bin/python" ] && fits "$dir/bin/python"; then
  if [ -n "${PYTHON:-}" ] && [ "$(version "$(choose)")" != "$(version "$dir/bin/python")" ]; then
    rm -rf "$dir"
  fi
else
  rm -rf "$dir"
fi
wanted=$(hash_of)
if [ -f "$dir/.complete" ] && [ "$(cat "$dir/.complete")" = "$wanted" ]; then exit 0; fi

if [ ! -x "$dir/bin/python" ]; then
  python=$(choose)
  printf 'environment: %s from %s with Python %s\n' "$dir" "$lock" "$(version "$python")"
  if ! said=$("$python" -m venv "$dir" 2>&1); then
    # Debian splits ensurepip off into python3-venv. A pip of the system can do its work.
    rm -rf "$dir"
    if "$python" -m pip --version >/dev/null 2>&1 && "$python" -m venv --without-pip "$dir" >/dev/null 2>&1; then
      pip=("$python" -m pip --python "$dir/bin/python")
    else
      rm -rf "$dir"
      die "$python cannot make a virtual environment:
$said
  On Debian or Ubuntu: apt-get install python3-venv (or pythonX.Y-venv for that version)."
    fi
  fi
else
  printf 'environment: %s brought up to date with %s\n' "$dir" "$lock"
fi
[ -n "${pip:-}" ] || pip=("$dir/bin/python" -m pip)

rm -f "$dir/.complete"
uv="$dir/bin/uv"
uv_pin=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements/uv.txt)
if ! [ -x "$uv" ] || [ "$("$uv" --version | cut -d' ' -f2)" != "$uv_pin" ]; then
  "${pip[@]}" install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
fi
"$uv" pip install --quiet --python "$dir/bin/python" --require-hashes -r "$lock"
if [ "$project" = --project ]; then
  # The build back end is in the lock too: nothing unpinned is fetched.
  "$uv" pip install --quiet --python "$dir/bin/python" --no-deps --no-build-isolation --reinstall-package outrigger-mcp -e .
fi
printf '%s\n' "$wanted" >"$dir/.complete"
