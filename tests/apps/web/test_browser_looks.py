"""What the page looks like to everyone: in a narrow window, in the dark, to a screen reader."""

from __future__ import annotations

import re

import pytest

TABS = ("Draw", "Compare", "Edit", "Restore", "Write")

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: Texts whose contrast with what is behind them is below WCAG's 4.5 (3 for large ones); what is switched off may be.
_FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (element) => { const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]); };
  const faint = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    if (!own || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) ||
        element.closest('[disabled], [aria-hidden=true], .fs-blank')) continue;
    const back = behind(element), front = over(rgba(style.color), back);
    const [a, b] = [light(back), light(front)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)} ${element.innerText.slice(0, 40)}`);
  }
  return faint;
}"""


def sideways(page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def unfold(page) -> None:
    folds = page.panel.locator("button.label-wrap:not(.open)")
    for _ in range(folds.count()):
        folds.first.click()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_tab_is_readable(visit, dark):
    page = visit("Draw", dark=dark)
    for tab in TABS:
        page.open(tab)
        unfold(page)
        page.page.wait_for_timeout(400)  # colours fade in
        page.keep(f"{tab.lower()}-{'dark' if dark else 'light'}")
        assert page.page.evaluate(_FAINT) == [], tab
        assert sideways(page) == 0


def test_a_narrow_window_needs_no_scrolling_sideways(visit):
    page = visit("Draw", width=390, dark=True)
    for tab in TABS:
        assert page.page.get_by_role("tab", name=tab, exact=True).is_visible()
        page.open(tab)
        page.keep(f"{tab.lower()}-narrow")
        unfold(page)
        assert sideways(page) == 0, tab
        right = page.panel.evaluate(
            """panel => [...panel.querySelectorAll('input, textarea, button')].filter((element) =>
            element.checkVisibility() && element.getBoundingClientRect().right > window.innerWidth)
            .map((element) => element.outerHTML.slice(0, 100))"""
        )
        assert right == [], tab
    page.open("Compare")
    page.field("Steps").fill("1, 2, 3, 4, 5")
    page.slide("Guidance", 1)
    page.button("Compare").click()
    page.finished()
    assert page.panel.locator("table.fs-table img").count() == 3 * 5 + 1
    assert sideways(page) == 0  # the table scrolls in its own frame
    page.keep("compare-narrow-result")


def test_a_screen_reader_hears_a_name_of_every_control(visit):
    page = visit("Draw")
    for tab in TABS:
        page.open(tab)
        unfold(page)
        if tab == "Write":
            page.field("fill blanks").check()
        heard = page.page.locator("body").aria_snapshot()
        controls = re.findall(
            r"^\s*- (?:textbox|button|slider|spinbutton|combobox|listbox|checkbox|radio|tab)\b.*$", heard, re.M
        )
        assert len(controls) > 10
        assert [line for line in controls if not re.match(r'\s*- \w+ "\w', line)] == [], tab


def test_progress_and_results_are_announced(visit):
    page = visit("Write")
    page.slide("Length", 64)
    page.button("Write").click()
    page.finished()
    assert page.panel.get_by_role("status").filter(has_text="network calls").count() == 1
