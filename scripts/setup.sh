#!/bin/sh
# Make .venv in the current folder from the locks: sh scripts/setup.sh PYTHON...
# The first PYTHON that will do is taken. An environment that was made here and still works is brought up to date.
set -eu

why_not='
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python " + version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("is Python %s without venv; on Debian or Ubuntu: apt-get install python%s-venv" % (version, version))
try:
    import bz2, ctypes, lzma, sqlite3, ssl
except ImportError as error:
    sys.exit("is Python %s built without %s" % (version, error.name))
'

choose_python() { # prints the first that will do
    refused=
    for python in "$@"; do
        command -v "$python" >/dev/null || continue
        if reason=$("$python" -c "$why_not" 2>&1); then
            echo "$python"
            return
        fi
        refused="${refused:+$refused
}  $python $(echo "$reason" | sed -n '/./{p;q;}')"
    done
    echo "error: no Python that will do: 3.11, 3.12 or 3.13 is needed, with venv (elsewhere: make setup PYTHON=PATH)" >&2
    echo "${refused:-  none of these was found: $*}" >&2
    return 2
}

carry() { # pip option, variable of uv: what pip is told, uv follows, unless it is told otherwise
    if [ -z "$(printenv "$2" || true)" ]; then
        for scope in :env: global; do
            value=$(echo "$pip_settings" | sed -n "s/^$scope\.$1='\(.*\)'\$/\1/p")
            [ -z "$value" ] || break
        done
        [ -z "$value" ] || export "$2=$value"
    fi
}

python=.venv/bin/python
if [ "$(cat .venv/.root 2>/dev/null)" != "$PWD" ] || ! $python -c '' 2>/dev/null; then
    base=$(choose_python "$@")
    echo "making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv
    pwd >.venv/.root
fi

echo "installing the locked packages into .venv (6 GB; minutes where they have to be fetched)"
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH
if [ -t 2 ]; then quiet=; else quiet=--quiet; fi
$python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock
pip_settings=$($python -m pip config list 2>/dev/null || true)
[ -n "${UV_INDEX_URL:-}" ] || carry index-url UV_DEFAULT_INDEX
carry cert SSL_CERT_FILE
carry proxy ALL_PROXY
carry trusted-host UV_INSECURE_HOST
carry default-timeout UV_HTTP_TIMEOUT
# docopt and antlr4-python3-runtime have no wheels: they are built, with the setuptools of the lock
.venv/bin/uv pip sync $quiet --python $python --require-hashes --build-constraints requirements.lock requirements.lock
.venv/bin/uv pip install $quiet --python $python --no-deps --no-build-isolation --editable .
$python -c "from xtts_finetune.report.charts import script; script()"  # what draws plots, without a network
touch .venv/.installed
