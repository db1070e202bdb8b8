"""The benchmark of following the sums runs, and says what it measures."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "following.py"


def test_quick_run_as_json() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert 0 < row["checked"] <= row["pieces"] == 17
    # Each survivor's part of each piece that is checked, and its path.
    # One of four dropped out; the last piece may be short.
    assert 3 * (row["checked"] - 1) * 16_384 < 1e6 * row["pieces_megabytes"] < 3 * row["checked"] * 17_000
    assert row["sum_megabytes"] < row["adapter_megabytes"]
    assert min(row["sum_cpu_s"], row["step_cpu_s"], row["pieces_cpu_s"], row["server_cpu_s"]) > 0
