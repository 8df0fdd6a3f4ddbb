"""The Ray that a command starts for itself."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTENING = """
import json, sys, psutil
from raymtl.config.load import load_config
from raymtl.training.cluster import connect
connect(load_config(sys.argv[1]), "local")
me = psutil.Process()
found = {
    (process.name(), one.laddr.ip)
    for process in [me, *me.children(recursive=True)]
    for one in process.net_connections("inet")
    if one.status == "LISTEN"
}
print(json.dumps(sorted(found)))
"""


def test_a_ray_of_ones_own_listens_on_loopback_alone() -> None:
    example = str(ROOT / "jobs" / "conf" / "example.yaml")
    done = subprocess.run(
        [sys.executable, "-c", LISTENING, example], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, _ in found} >= {"gcs_server", "raylet"}
    assert {ip for _, ip in found} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
