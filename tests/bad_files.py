"""What the tables of bad data files are made of: good ones to be spoilt, and the way they come into a folder.

A case of the tables is a file, what lies in it, the fields of the task that reads it, and the whole of what is said."""

import pyarrow as pa
from pyarrow import parquet

from bam_lightning.config.data_config import HeadConfig, Metric

GOOD = "a,b,label\none,x,0\ntwo,y,1\n"
LINES = '{"a": "one", "b": "x", "label": 0}\n{"a": "two", "b": "y", "label": 1}\n'
SCORES = {"head": HeadConfig("bam_lightning.RegressionHead", [], [0.0, 5.0]), "metric": Metric.spearman}
SETS = {"head": HeadConfig("bam_lightning.MultiLabelHead", ["p", "q"]), "metric": Metric.macro_f1}
ROWS = {"a": ["one", "two"] * 50, "b": ["x", "y"] * 50, "label": [0, 1] * 50}
FOLDER, LINK = object(), object()


def write(path, content):
    """Write text, bytes, a table of Parquet (a mapping), or a part of one (a function of its bytes)."""
    if content is FOLDER:
        path.mkdir()
    elif content is LINK:
        path.symlink_to("nowhere")
    elif isinstance(content, (dict, pa.Table)):
        parquet.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
    elif callable(content):
        parquet.write_table(pa.table(ROWS), path)
        path.write_bytes(content(path.read_bytes()))
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
