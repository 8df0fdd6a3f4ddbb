"""Train on the Ray cluster that runs this script; takes the arguments of `raymtl train`.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/train.py --config conf.yaml
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
