#!/bin/sh
# On the machine inside, where no network is needed:
#   sh install.sh wheelhouse /opt/medsynth            # with all that reads files
#   sh install.sh wheelhouse /opt/medsynth private    # and another extra
set -eu
house=$(cd "$1" && pwd)
target=$2
extras=hospital${3:+,$3}
(cd "$house" && sha256sum --check --quiet SHA256SUMS)
"${PYTHON:-python3}" -m venv "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-index --find-links "$house" "medsynth[$extras]"
"$target/bin/medsynth" doctor
