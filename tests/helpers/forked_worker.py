"""What a raylet of the tests starts in place of Ray's setup_worker.py: it asks the fork server for a worker and waits."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["RAYMTL_TESTS_FORK_SERVER"])
    request = {"worker": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}
    text = json.dumps(request).encode()
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text)
    lines = server.makefile()
    lines.readline()
    sys.exit(int(lines.readline() or 1) and 1)
