#!/bin/sh
# On a machine with a network, of the same kind (system, processor, Python) as the one inside, in the
# checkout:
#   sh docs/deploy/wheelhouse.sh wheelhouse            # all that reads files, for most hospitals
#   sh docs/deploy/wheelhouse.sh wheelhouse private    # and another extra
# For a GPU of an old driver put its torch into the folder first, and it is taken.
set -eu
house=$1
extras=hospital${2:+,$2}
mkdir -p "$house"
"${PYTHON:-python3}" -m pip wheel -c constraints.txt --find-links "$house" -w "$house" ".[$extras]"
cd "$house"
sha256sum -- *.whl >SHA256SUMS
echo "$(wc -l <SHA256SUMS) wheels in $house: carry it in, with docs/deploy/install.sh"
