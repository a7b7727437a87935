"""The Python code of docs/python.md runs as it stands, in a script without `if __name__ == "__main__"`."""

import re

from tests.helpers import ROOT, run_script


def test_the_code_of_the_page_runs(trained_run, corpus, short_music):
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    code = "\n".join(blocks)
    here = {
        "runs/mine": str(trained_run),
        "song.mp3": str(corpus / "audio" / "private0.mp3"),
        "music/": str(short_music),
        '"resnet50", pretrained=True': '"resnet10t", pretrained=False',
        "16, 20 * 22050": "2, 22050",
    }
    for text, replacement in here.items():
        assert text in code
        code = code.replace(text, replacement)
    process = run_script("-c", code)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[0] == "2 networks, stacked"
    assert len([line for line in lines if line.endswith("%")]) == 4  # a song and a folder of three
    assert len([line for line in lines if line.endswith(".ogg")]) == 2  # the neighbours
