import os
import time
from datetime import timedelta
from pathlib import Path

from sample_app.reports import old_files


def test_only_files_older_than_the_age_are_old(tmp_path: Path) -> None:
    new, old = tmp_path / "new.csv", tmp_path / "old.csv"
    for file in (new, old):
        file.touch()
    two_days_ago = time.time() - timedelta(days=2).total_seconds()
    os.utime(old, (two_days_ago, two_days_ago))

    assert list(old_files([tmp_path], timedelta(days=1))) == [old]
