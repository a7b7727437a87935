from melgpu.runs.formats import submission


def test_submission(tmp_path):
    submission.write_submission(tmp_path / "s.csv", ["b,1.mp3", "a.mp3"], ["10", "01"])
    assert (tmp_path / "s.csv").read_bytes() == b'Id,Genre\r\n"b,1.mp3",10\r\na.mp3,01\r\n'
