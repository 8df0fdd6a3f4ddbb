"""Score on the Ray cluster that runs this script; takes the arguments of `raymtl score`.

ray job submit --address http://HEAD:8265 --working-dir . -- \\
    python jobs/score.py --version s3://bucket/model --data s3://bucket/candidates --out s3://bucket/scores
"""

import sys

from raymtl.__main__ import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
