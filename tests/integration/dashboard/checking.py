"""What is wrong with a page for those who cannot see it well, or at all: checked in the page itself."""

from __future__ import annotations

FAULTS = r"""() => {
  const faults = [];
  const shown = (one) => one.checkVisibility({ checkOpacity: false, checkVisibilityCSS: true });
  const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
  const name = (one) => `${one.tagName} ${one.id} ${one.className} ${(one.textContent || "").trim().slice(0, 30)}`;

  if (!document.documentElement.lang) faults.push("no language");
  if (!document.title) faults.push("no title");
  for (const landmark of ["header", "main", "footer"]) {
    if (all(landmark).length !== 1) faults.push(`not one ${landmark}`);
  }

  // Headings: one of the first level, and none left out on the way down.
  let before = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) faults.push(`heading jumps from ${before} to ${level}: ${name(heading)}`);
    if (!heading.textContent.trim()) faults.push(`empty heading ${name(heading)}`);
    before = level;
  }
  if (all("h1").length !== 1) faults.push("not one h1");

  // Everything that can be used has a name, and is large enough to be hit.
  for (const one of all("input, select, textarea, button, meter, progress")) {
    const labelled = (one.labels && [...one.labels].some((label) => label.textContent.trim()))
      || one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
      || (one.tagName === "BUTTON" && one.textContent.trim());
    if (!labelled) faults.push(`no name: ${name(one)}`);
    const box = (one.type === "radio" ? one.parentElement : one).getBoundingClientRect();
    const small = box.width < 24 || box.height < 24;
    if (small && !/METER|PROGRESS/.test(one.tagName)) faults.push(`too small: ${name(one)}`);
  }
  for (const link of all("a")) if (!link.textContent.trim()) faults.push("a link without words");
  for (const one of all("[aria-labelledby], [aria-describedby]")) {
    for (const attribute of ["aria-labelledby", "aria-describedby"]) {
      for (const id of (one.getAttribute(attribute) || "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) faults.push(`${attribute} names nothing: ${id}`);
      }
    }
  }
  for (const canvas of all("canvas")) {
    if (!canvas.closest("[aria-hidden=true]")) faults.push("a drawing that is told of");
    const said = canvas.closest("figure").querySelector("figcaption .said");
    if (!said.textContent.trim()) faults.push("a drawing without words");
  }
  for (const table of all("table")) {
    if (!table.querySelector("caption") && !table.closest("[aria-labelledby]")) faults.push("a table without a name");
    for (const head of table.querySelectorAll("th")) if (!head.scope) faults.push(`a head of nothing: ${name(head)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) faults.push("two of one id");

  // Contrast of all text with what lies behind it: 4.5, or 3 for large text.
  const numbers = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return [red, green, blue, alpha];
  };
  const over = (front, back) => [0, 1, 2].map((at) => front[at] * front[3] + back[at] * (1 - front[3])).concat(1);
  const light = (colour) => {
    const [red, green, blue] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (one) => {
    const layers = [];
    for (let each = one; each; each = each.parentElement) layers.push(numbers(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set();
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (judged.has(one) || !walker.currentNode.textContent.trim() || !shown(one)) continue;
    if (one.closest("noscript, .unseen, .skip, option, script")) continue;
    judged.add(one);
    const style = getComputedStyle(one);
    const back = behind(one);
    const front = over(numbers(style.color), back);
    const [brighter, darker] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (brighter + 0.05) / (darker + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${name(one)}`);
    if (size < 11) faults.push(`tiny text: ${name(one)}`);
  }
  if (judged.size < 30) faults.push(`only ${judged.size} texts were looked at`);
  return faults;
}"""
"""A JavaScript function that gives a list of faults in words; empty if there are none."""
