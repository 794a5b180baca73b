// The search box over the served index. Everything that comes from documents goes in as text, never as HTML.

import { headers } from "./link.js";
import { count, number } from "./words.js";

const LINES = 8;
const element = (id) => document.getElementById(id);

let asking = null;
let name = null;

export function setUp(needKey) {
  element("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(needKey);
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && !element("query").disabled) {
      event.preventDefault();
      element("query").focus();
      element("query").select();
    }
  });
  element("query").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && focusHit(0)) event.preventDefault();
  });
  element("query").addEventListener("input", () => {
    if (element("query").value === "") clear();
  });
  element("hits").addEventListener("keydown", move);
}

export function served(index) {
  if (index === name && !element("search-section").hidden) return;
  name = index;
  element("search-section").hidden = false;
  const none = index === null;
  element("search-section").classList.toggle("none", none);
  element("search-form").hidden = none;
  element("search-help").hidden = none;
  element("query").disabled = none;
  if (none) {
    element("found").textContent = "No index is served here. Start the server with --index FOLDER to search it from this page.";
    element("hits").replaceChildren();
    element("main").append(element("search-section"));
  } else {
    element("found").textContent = "";
    element("query").placeholder = `Search ${index}`;
    element("query-label").textContent = `Search ${index}`;
    element("main").insertBefore(element("search-section"), element("live"));
  }
}

function clear() {
  if (asking) asking.abort();
  element("found").textContent = "";
  element("hits").replaceChildren();
}

async function ask(needKey) {
  const query = element("query").value.trim();
  if (!query) {
    element("found").textContent = "Say in a few words what to look for.";
    return;
  }
  if (asking) asking.abort();
  const mine = new AbortController();
  asking = mine;
  element("found").textContent = "Searching";
  element("hits").setAttribute("aria-busy", "true");
  try {
    const answer = await fetch("/v1/search", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify({ query, k: Number(element("k").value), mode: element("mode").value, filters: filters() }),
      signal: mine.signal,
    });
    const body = await answer.json().catch(() => ({}));
    if (answer.status === 401) needKey();
    if (!answer.ok) throw new Error(body.error ? body.error.message : `The server answered ${answer.status}.`);
    show(body);
  } catch (error) {
    if (error.name === "AbortError") return;
    element("hits").replaceChildren();
    element("found").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  } finally {
    if (asking === mine) element("hits").removeAttribute("aria-busy");
  }
}

function filters() {
  const chosen = {};
  const path = element("path").value.trim();
  const language = element("language").value.trim();
  if (path) chosen.path = path.split(/[\s,]+/).filter(Boolean);
  if (language) chosen.language = language.split(/[\s,]+/).filter(Boolean);
  if (element("kind").value) chosen.kind = [element("kind").value];
  return chosen;
}

function show(body) {
  const places = body.data;
  element("found").textContent = places.length
    ? `${count(places.length, "place")} in ${number(body.took_ms)} ms`
    : "Nothing found. Try other words, or fewer filters.";
  element("hits").replaceChildren(...places.map((place, at) => hit(place, at)));
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function hit(place, at) {
  const entry = make("li", "hit");
  entry.tabIndex = at === 0 ? 0 : -1;
  const lines = place.start_line === place.end_line ? `${place.start_line}` : `${place.start_line}–${place.end_line}`;
  const head = make("h3");
  head.id = `hit-${at}`;
  const where = make("span", "path", place.path);
  where.append(make("span", "lines", `:${lines}`));
  head.append(where);
  if (place.symbol) head.append(make("span", "symbol", place.symbol));
  const facts = make("p", "facts", `${place.language} ${place.kind}, score ${place.score.toFixed(3)}`);
  entry.setAttribute("aria-labelledby", head.id);
  const all = linesOf(place.text);
  const text = make("pre", "text", all.slice(0, LINES).join("\n"));
  entry.append(head, facts, text);
  if (all.length > LINES) entry.append(more(text, all, place.path));
  return entry;
}

// Without empty lines around it, and without the indentation that all lines have.
function linesOf(text) {
  const lines = text.replace(/^(?:[ \t]*\r?\n)+/, "").trimEnd().split(/\r?\n/);
  const indents = lines.filter((line) => line.trim()).map((line) => line.match(/^[ \t]*/)[0].length);
  const least = indents.length ? Math.min(...indents) : 0;
  return lines.map((line) => line.slice(least));
}

function more(text, all, path) {
  const button = make("button", "quiet more", `All ${all.length} lines`);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `All ${all.length} lines of this place in ${path}`);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Fewer lines" : `All ${all.length} lines`;
    text.textContent = (open ? all : all.slice(0, LINES)).join("\n");
  });
  return button;
}

function focusHit(at) {
  const all = [...element("hits").children];
  if (at < 0 || at >= all.length) return false;
  all.forEach((each, index) => { each.tabIndex = index === at ? 0 : -1; });
  all[at].focus();
  return true;
}

function move(event) {
  const all = [...element("hits").children];
  const at = all.indexOf(event.target.closest("li"));
  if (event.key === "Escape" || (event.key === "ArrowUp" && at === 0)) {
    event.preventDefault();
    element("query").focus();
    return;
  }
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 };
  if (event.key in steps && focusHit(steps[event.key])) event.preventDefault();
  if (event.key === "Enter" && event.target.matches("li")) event.target.querySelector("button")?.click();
}
