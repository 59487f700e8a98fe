"""The examples of all pages run, from top to bottom, and print what the pages say of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ebmsim_docs import examples

PAGES = examples.pages()


def test_there_are_pages_with_examples() -> None:
    found = [e for page in PAGES for e in examples.examples(page.read_text(encoding="utf-8"))]
    assert sum(e.language == "bash" for e in found) > 20
    assert sum(e.language == "python" for e in found) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page: Path) -> None:
    here = os.getcwd()
    for example, output in examples.run_page(page.read_text(encoding="utf-8")):
        skipped = "not run" in example.marks or ("needs" in example.marks and not output)
        assert output.strip() or skipped or not example.shown, f"nothing printed by\n{example.text}"
    assert os.getcwd() == here


PAGE = """Text.

<!-- file: chip.yaml -->
```yaml
name: chip
extends: rtx5090
```

```bash
ebmsim check chip.yaml   # a comment
cat \\
  chip.yaml
```
<!-- output: 2 lines -->
<!-- holds: extends; no problems -->

```python
x = 2 + 2
```

<!-- needs: math -->
```python
print(x)
```
<!-- output -->

<!-- not run: it would fail -->
```python
raise ValueError
```

<!-- needs: no_such_module -->
<!-- exit: 2 -->
```bash
ebmsim nothing
```
<!-- output -->

<!-- exit: 2 -->
```bash
ebmsim nothing
```
"""


def test_a_page_and_what_it_becomes() -> None:
    first, second, *rest = [output for _, output in examples.run_page(PAGE)][1:]
    assert first == "chip.yaml: no problems\nname: chip\nextends: rtx5090\n"
    assert second == "" and rest[:3] == ["4\n", "", ""] and "no command 'nothing'" in rest[3]
    shown = examples.with_outputs(PAGE)
    assert "\n```text\nchip.yaml: no problems\nname: chip\n… 1 more lines\n```\n" in shown
    assert "\n```text\n4\n```\n" in shown
    assert shown.count("```text") == 2


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("```bash\nebmsim nothing\n```\n", "ended with 2, not 0"),
        ("<!-- exit: 2 -->\n```bash\nebmsim --version\n```\n", "ended with 0, not 2"),
        ("```python\nprint(1)\n```\n<!-- holds: 2 -->\n", "the page says"),
        ("```python\nraise ValueError('no')\n```\n", "an example failed"),
    ],
)
def test_an_example_that_does_not_do_as_the_page_says_fails(page: str, expected: str) -> None:
    with pytest.raises(RuntimeError, match=expected):
        examples.run_page(page)
