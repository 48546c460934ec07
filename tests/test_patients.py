"""Of a DICOM header nothing that names a patient goes into any file, nor into what commands print."""

import numpy as np
from dicom_making import write_series
from making import succeeds, volume

from nnunetv2_xssr.commands import report, select, status

NAMING = (b"PAT4711", b"Doe", b"Jane", b"19700101")


def test_no_header_leaves_the_tree(empty, tmp_path, capsys):
    for i in range(4):
        write_series(tmp_path / "tree" / f"s{i}", volume(i)[0].astype(np.int16), patient=f"PAT4711{i // 2}")
    source = b"".join(path.read_bytes() for path in (tmp_path / "tree").rglob("*.dcm"))
    assert all(word in source for word in NAMING)
    select_new = ["-i", tmp_path / "tree", "-d", "123_New", "--channel_names", "CT", "--labels", "x", "-b", "2"]
    said = succeeds(capsys, select.main, [*select_new, "--encoder", "intensity", "-device", "cpu"])
    said += succeeds(capsys, status.main, ["-d", "123"]) + succeeds(capsys, report.main, ["-d", "123", "--json"])
    written = {path: path.read_bytes() for path in empty.root.rglob("*") if path.is_file()}
    assert len(written) > 20
    for word in NAMING:
        assert word not in said.encode()
        assert not [path for path, content in written.items() if word in content]
