"""What the page's own parts show, without a browser."""

from __future__ import annotations

import re

from diagline.samples import GOOD, SampleSet
from generation.studio import prompt_book, shown
from generation.studio.session import ACCEPTED, REJECTED, Candidate


def judged(number: int, prompt: str, decision: str | None) -> Candidate:
    return Candidate(number, "a.png", prompt, "", "", "diag", decision, None, None, {}, None, {})


def test_hints_are_the_accepted_words_best_first_and_name_them_whole() -> None:
    words = 'thin "white" <scratch>'
    candidates = [judged(1, "dull", REJECTED), judged(2, "new", None), judged(3, "fair", ACCEPTED)]
    candidates += [judged(4, "fair", REJECTED), judged(5, words, ACCEPTED)]
    text = shown.hints(prompt_book.entries(candidates))
    assert text.count("<button") == 2 and text.index("100%") < text.index("50%")
    assert "dull" not in text and "new" not in text and "<scratch>" not in text


def test_methods_that_cannot_paint_are_grey_and_the_chosen_one_says_why() -> None:
    text = shown.note("diag", {"memseg": "", "diag": "no <model>; get it", "in_and_out": "none"})
    assert "input[value=diag]" in text and "input[value=in_and_out]" in text and "value=memseg" not in text
    assert "no &lt;model&gt;; get it" in text and "In&amp;Out cannot paint yet" in text
    assert "input" not in shown.note("memseg", {"memseg": "", "diag": "", "in_and_out": ""})


def test_pictures_of_the_training_split_come_first_and_a_search_finds_by_name(normals: SampleSet) -> None:
    turned = SampleSet(normals.root, tuple(reversed(normals.labelled(GOOD).samples)))
    tiles, page, pages = shown.normals_page(turned, "", 7, "4.png")
    split = {sample.image: sample.split for sample in turned}
    names = re.findall(r'data-key="([^"]+)"', tiles)
    assert (page, pages) == (0, 1) and [split[name] for name in names] == [
        "train",
        "train",
        "val",
        "val",
        "test",
        "test",
    ]
    assert re.findall(r'data-key="([^"]+)" class="chosen"', tiles) == ["4.png"]
    assert re.findall(r'data-key="([^"]+)"', shown.normals_page(turned, " 4 ", 0, "")[0]) == ["4.png"]
