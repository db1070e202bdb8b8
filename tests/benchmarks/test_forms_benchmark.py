"""The benchmark of adapter forms runs, and a core is what it is for."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forms.py"


def test_quick_run_as_json() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = {line["form"]: line for line in json.loads(done.stdout)}
    lora, core = lines["lora, rank 8, all maps"], lines["core, 24 x 128, 2048 tokens"]
    assert (lora["parameters"], core["parameters"]) == (8 * 10_176, 24 * 128)
    assert lora["upload_bytes"] > 25 * core["upload_bytes"]
    assert core["rows"] == lora["rows"] > 30
    assert core["step_cpu_s"] > 0
