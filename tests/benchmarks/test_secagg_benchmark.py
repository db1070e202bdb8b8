"""The benchmark of the secure sum runs, and says what it measures."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from cotune.secagg import kernel

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "secagg.py"
COLUMNS = {
    "protocol",
    "parameters",
    "n",
    "client_cpu_s",
    "server_cpu_s",
    "bytes_per_parameter",
    "client_peak_bytes",
    "ratio_to_aes",
}


def test_quick_run_as_json() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json", "--hybrid"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {row["protocol"]: row for row in json.loads(done.stdout)}
    names = {"plain", "aes_ctr", "cotune", "cotune_hybrid", "flower_secagg"}
    names |= {"cotune_openssl"} if kernel.add_stream or kernel.hash_pair else set()
    assert set(rows) == names | ({"tenseal_ckks"} if find_spec("tenseal") else set())
    for row in rows.values():
        assert set(row) == COLUMNS
        assert (row["parameters"], row["n"]) == (100_000, 4)
        assert row["client_cpu_s"] > 0
        assert row["server_cpu_s"] > 0
    assert rows["aes_ctr"]["ratio_to_aes"] == 1
    # Figures that do not depend on the machine: three lanes in a word, and the output plus what one chunk takes.
    assert rows["plain"]["bytes_per_parameter"] == 4
    assert 8 / 3 <= rows["cotune"]["bytes_per_parameter"] < 2.7
    assert rows["flower_secagg"]["bytes_per_parameter"] > 8
    assert rows["cotune"]["client_peak_bytes"] < 8 / 3 * 100_000 + 1e6
    assert "with two" in done.stderr
