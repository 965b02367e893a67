"""Tag every movie of a table or a file.

ray job submit --working-dir . -- \\
    python jobs/tag.py configs/tag/default.yaml checkpoint=DIR movies=TABLE_OR_FILE output=DIR
"""

from mmgenre.job import run
from mmgenre.tag import TagConfig, tag

if __name__ == "__main__":
    run(TagConfig, tag)
