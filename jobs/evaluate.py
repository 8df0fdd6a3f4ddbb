"""Evaluate a run on the Ray cluster that runs this script; takes the arguments of `raymtl evaluate`.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/evaluate.py s3://bucket/runs/NAME
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
