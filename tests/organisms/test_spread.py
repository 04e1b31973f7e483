"""Models spread over devices: torch keeps a pretended device for good, so these tests run in a process of their own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_model_spread_over_pretended_devices_gives_what_one_device_gives():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "spread_on_two_devices.py")]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
