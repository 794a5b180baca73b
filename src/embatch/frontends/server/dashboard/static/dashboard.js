// The page: the link to the server, what it knows, and what of that is shown.

import { Link, keepKey, key } from "./link.js";
import * as panels from "./panels.js";
import * as search from "./search.js";
import { Store } from "./store.js";
import { duration } from "./words.js";

const element = (id) => document.getElementById(id);
const store = new Store();

let span = 300;
let paused = false;
let shownState = "";

function state(name, words) {
  // Said only when it changes: a screen reader tells each change once.
  if (shownState === `${name} ${words}`) return;
  shownState = `${name} ${words}`;
  element("state").dataset.state = name;
  element("state-words").textContent = words;
  document.body.classList.toggle("stale", name === "gone");
  document.body.classList.toggle("locked", name === "key");
}

const SERVER_STATES = { ready: "Live", draining: "Draining", starting: "Starting" };

const link = new Link({
  state(name, message) {
    if (name === "gone") state("gone", "Server gone, trying again");
    else if (name === "key") askForKey();
    else {
      element("key-section").hidden = true;
      const words = SERVER_STATES[message.state];
      state(message.state === "ready" ? name : message.state, name === "polling" ? `${words}, every 2 s` : words);
    }
  },
  status(message) {
    store.take(message);
    facts(message);
    search.served(message.index);
    if (!paused) panels.draw(store, span);
  },
});

function facts(message) {
  const open = message.models.filter((model) => model.state !== "not open").map((model) => model.name);
  const models = open.length ? open.join(", ") : "no model open";
  element("facts").textContent = `${models} · up ${duration(message.uptime_s)}`;
  element("version").textContent = `embatch ${message.version}`;
}

function askForKey() {
  state("key", "Needs a key");
  const again = key() !== "";
  keepKey("");
  element("key-section").hidden = false;
  element("key-error").textContent = again ? "The server does not know this key." : "";
  element("key").value = "";
  element("key").focus();
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(element("key").value.trim());
  element("key").value = "";
  link.again();
});

for (const input of document.querySelectorAll('input[name="span"]')) {
  input.addEventListener("change", () => {
    span = Number(input.value);
    if (store.last) panels.draw(store, span);
  });
}

element("pause").addEventListener("click", () => {
  paused = !paused;
  element("pause").setAttribute("aria-pressed", String(paused));
  if (!paused && store.last) panels.draw(store, span);
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", panels.recolour);
addEventListener("online", () => link.again());

panels.setUp();
search.setUp(askForKey);
link.run();
