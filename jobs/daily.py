"""Run the daily job on the Ray cluster that runs this script; takes the arguments of `raymtl daily`.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/daily.py --config conf.yaml --date 2026-01-31
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["daily", *sys.argv[1:]])
