"""Search on the Ray cluster that runs this script; takes the arguments of `raymtl tune`.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/tune.py --config conf.yaml
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
