#!/usr/bin/env sh
# All checks that need a GPU, in at most eight minutes, into one folder: sh benchmarks/gpu.sh [--tiny] [--out FOLDER]
# PYTHON names another Python than the one of `make develop`.
set -eu
here=$(dirname "$0")
if [ -z "${PYTHON:-}" ]; then
    if [ -x "$here/../.venv/bin/python" ]; then PYTHON="$here/../.venv/bin/python"; else PYTHON=python3; fi
fi
exec "$PYTHON" "$here/gpu.py" "$@"
