#!/usr/bin/env bash
# run.sh: what a connection through Egret costs, next to other proxies and to none.
#
#     perf/run.sh [OPTION...]     perf/run.sh --help names the options, profiles and proxies
#     perf/run.sh --quick         does it work here? Two minutes; not for quoting
#
# perf/README.md says what is measured and how to read it. The program is perf/suite, in Python
# without packages; only the plots need one (matplotlib).
set -euo pipefail

PERF=$(dirname "$(readlink -f "$0")")

# Debian's own Python first: it is the one that sees Debian's python3-matplotlib.
for PYTHON in /usr/bin/python3 python3; do
    if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        # -B: no __pycache__ in the tree.
        PYTHONPATH=$PERF exec "$PYTHON" -B -m suite "$@"
    fi
done
printf 'run.sh: error: Python 3.9 or newer is missing: apt-get install python3\n' >&2
exit 1
