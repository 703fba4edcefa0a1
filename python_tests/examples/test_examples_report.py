"""report.py: one page that needs nothing beside it, what a failed part looks like, and wrong flags."""

import json
import re

from conftest import run_example

PROGRAM = "benchmarks/report.py"


def test_the_page(tmp_path):
    done = run_example(PROGRAM, "--form=tiny", "--parts=ladder,communication", f"--output={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<table>") == page.count("</table>") >= 6
    images = re.findall(r'<img src="([^"]*)"', page)
    assert len(images) == 3 and all(image.startswith("data:image/png;base64,iVBOR") for image in images)
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # self-contained
    for anchor in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{anchor}"' in page
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record["failed"] == [] and record["settings"]["form"] == "tiny"
    what = "loop order: naive over reordered"
    (order,) = (each for each in record["comparisons"] if each["what"] == what)
    assert order["reported"] == 13 and what in page
    assert len((tmp_path / "comparisons.csv").read_text().splitlines()) == 1 + len(record["comparisons"])
    assert (tmp_path / "ladder" / "sizes.csv").exists()


def test_a_part_that_fails_is_shown(tmp_path):
    done = run_example(PROGRAM, "--form=short", "--parts=report_layer", "--timeout=1", f"--output={tmp_path}")
    assert done.returncode == 1 and "failed parts: report_layer" in done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="failed"' in page and "ended after 1 seconds" in page
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == ["report_layer"]
