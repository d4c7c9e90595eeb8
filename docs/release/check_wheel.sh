#!/usr/bin/env bash
# Builds the wheel from the tree and from the sdist, compares them, installs one in a clean virtual
# environment (its dependencies come from the environment that runs this) and runs the command.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m pip wheel --quiet --no-deps --wheel-dir "$work/tree" .
python -m pip install --quiet --target "$work/hatch" 'hatchling>=1.27'
PYTHONPATH="$work/hatch" python -m hatchling build -t sdist -d "$work" >/dev/null
python -m pip wheel --quiet --no-deps --wheel-dir "$work/sdist" "$work"/*.tar.gz

list() { python -m zipfile -l "$1" | awk 'NR > 1 {print $1}' | grep -v RECORD | sort; }
diff <(list "$work"/tree/*.whl) <(list "$work"/sdist/*.whl)
if list "$work"/tree/*.whl | grep -v -E '^(muse/|muse_retrieval-)'; then
  echo "the wheel installs something beside muse" >&2
  exit 1
fi

python -m venv "$work/venv"
site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$work/venv/bin/python" -m pip install --quiet --no-deps "$work"/tree/*.whl
cd "$work"
PYTHONPATH=$site "$work/venv/bin/muse" --version
PYTHONPATH=$site "$work/venv/bin/python" - <<'PYTHON'
import importlib

for name in ("muse.cli.app", "muse.head.train", "muse.head.evaluate", "muse.pipeline.extract"):
    module = importlib.import_module(name)
    assert "/venv/" in module.__file__, module.__file__

# Its weights travel with the package.
from muse.pipeline.encoders.base import build_encoder

assert build_encoder("openclip:muse-nano", device="cpu", precision="fp32").info.dim == 128
PYTHON
echo "wheel: same from tree and sdist, runs from a clean environment, with muse-nano"
