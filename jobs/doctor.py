"""Check whether the Ray cluster that runs this script is ready for a run; takes the arguments of `raymtl doctor`.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/doctor.py --config conf.yaml
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])
