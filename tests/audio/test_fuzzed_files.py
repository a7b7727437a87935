from tests.helpers import fuzzed_files


def test_damaged_files_neither_crash_nor_hang_nor_disturb_others():
    assert fuzzed_files.run(120, workers=2, seed=1) == []
