// From what the page knows to what it shows: figures, charts with their words, tables. Text goes in as text only.

import { PointChart, TimeChart } from "./charts.js";
import * as words from "./words.js";

const element = (id) => document.getElementById(id);

function say(id, text) {
  const there = element(id);
  if (there.textContent !== text) there.textContent = text;
}

function make(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const charts = {};

export function setUp() {
  charts.texts = new TimeChart("chart-texts", [{ name: "texts", colour: "a", fill: true }], { least: 10 });
  charts.tokens = new TimeChart("chart-tokens", [{ name: "tokens", colour: "c", fill: true }], { least: 100 });
  charts.queue = new TimeChart("chart-queue", [
    { name: "interactive", colour: "a", fill: true },
    { name: "batch", colour: "b" },
    { name: "running", colour: "c" },
  ], { least: 8 });
  charts.latency = new TimeChart("chart-latency", [
    { name: "p99", colour: "b" },
    { name: "p90", colour: "c" },
    { name: "p50", colour: "a" },
  ], { least: 5 });
  charts.shapes = new PointChart("chart-shapes", [
    { name: "padding under 10 %", colour: "a" },
    { name: "10 to 30 %", colour: "b" },
    { name: "over 30 %", colour: "d" },
  ], { logarithmic: true });
  charts.budget = new TimeChart("chart-budget", [{ name: "budget", colour: "a", stepped: true }], { least: 64 });
  charts.speed = new PointChart("chart-speed", [
    { name: "a batch", colour: "c" },
    { name: "median", colour: "a", line: true },
  ]);
  charts.memory = new TimeChart("chart-memory", [{ name: "resident", colour: "a", fill: true }], { least: 64 });
}

export function recolour() {
  for (const chart of Object.values(charts)) chart.rebuild();
}

export function draw(store, span) {
  const { last } = store;
  const ago = span === 60 ? "the last minute" : `the last ${span / 60} min`;
  drawFigures(last, store);
  drawThroughput(store, span, ago);
  drawQueue(store, span, ago, last);
  drawLatency(store, span, last);
  drawShapes(store, span, ago);
  drawTuner(store, span, last);
  drawMemory(store, span, last);
  drawModels(last.models);
  drawMoney(last);
  drawJobs(last.jobs);
  arrange(Boolean(last.money), Boolean(last.jobs));
}

// Cards that are there fill the rows.
function arrange(money, jobs) {
  element("grid").dataset.more = money && jobs ? "both" : money || jobs ? "one" : "none";
}

function drawFigures(last, store) {
  const { recent, queue, totals } = last;
  const [, texts] = store.perSecond("texts", 5);
  const [, tokens] = store.perSecond("tokens", 5);
  const done = totals.asks.answered || 0;
  const lost = Object.entries(totals.asks).filter(([what]) => what !== "answered").reduce((sum, [, n]) => sum + n, 0);
  say("fig-texts", words.short(mean(texts)));
  say("fig-texts-sub", `${words.short(totals.inputs)} in ${words.count(done, "request")}`);
  say("fig-tokens", words.short(mean(tokens)));
  say("fig-tokens-sub", `${words.short(totals.tokens)} so far`);
  say("fig-waiting", words.short(queue.interactive + queue.batch));
  say("fig-waiting-sub", queue.room ? `room for ${words.short(queue.room)}` : "no model open");
  const all = last.latency_ms.all.total;
  say("fig-latency", words.time(all.p99));
  say("fig-latency-sub", all.p50 === null ? "no requests in a minute" : `p50 ${words.time(all.p50)}`);
  say("fig-padding", words.percent(recent.padding));
  const each = recent.items_per_batch;
  say("fig-padding-sub", each === null ? "no batches in a minute" : `${words.number(each)} texts a batch`);
  say("fig-memory", words.bytes(last.memory.rss_bytes));
  const lostWords = lost ? `, ${words.count(lost, "request")} not answered` : "";
  say("fig-memory-sub", `of ${words.bytes(last.memory.machine_bytes)}`);
  element("fig-texts-sub").textContent += lostWords;
}

function drawThroughput(store, span, ago) {
  for (const [name, noun] of [["texts", "texts/s"], ["tokens", "tokens/s"]]) {
    const data = store.perSecond(name, span);
    const most = Math.max(0, ...data[1].filter((value) => value !== null));
    const now = mean(data[1].slice(-5));
    charts[name].show(most ? data : null, most ? `${words.short(now)} ${noun} now, at most ${words.short(most)} in ${ago}` : `Nothing in ${ago}`, span);
  }
}

function drawQueue(store, span, ago, last) {
  const data = store.looks(["interactive", "batch", "running"], span);
  const { interactive, batch, running } = last.queue;
  const most = Math.max(0, ...store.gauges.filter((row) => row.at > store.now - span).map((row) => row.interactive + row.batch));
  const text = `${words.number(interactive)} interactive and ${words.number(batch)} of batch jobs wait, ${words.number(running)} in work; at most ${words.number(most)} waited in ${ago}`;
  charts.queue.show(last.queue.room ? data : null, last.queue.room ? text : "No model is open", span);
}

function drawLatency(store, span, last) {
  const data = store.looks(["p99", "p90", "p50"], span);
  const shown = data.map((column, at) => (at ? column.map((value) => (value === null ? null : 1000 * value)) : column));
  const all = last.latency_ms.all.total;
  const said = all.count ? `Half within ${words.time(all.p50)}, 99 of 100 within ${words.time(all.p99)}` : "No requests in the last minute";
  charts.latency.show(shown, said, span);
  const rows = [];
  const { all: everything, ...parts } = last.latency_ms;
  const shownParts = Object.keys(parts).length ? { interactive: parts.interactive, batch: parts.batch } : { all: everything };
  for (const [name, times] of Object.entries(shownParts)) {
    if (!times) continue;
    const of = name === "all" ? "" : `, ${name}`;
    rows.push([`whole${of}`, times.total], [`waiting${of}`, times.wait]);
  }
  element("latency-rows").replaceChildren(...rows.map(([name, times]) => row(name, [times.p50, times.p90, times.p99].map(words.milliseconds))));
}

function drawShapes(store, span, ago) {
  const batches = store.batchesWithin(span)
    .filter((each) => each.items > 0 && each.longest > 0)
    .map((each) => ({ ...each, x: each.items * 2 ** (0.22 * ((each.at * 997) % 1)) })) // side by side, not in a pile
    .sort((one, other) => one.x - other.x);
  const data = [[], [], [], []];
  let padded = 0;
  let real = 0;
  for (const each of batches) {
    const padding = each.padded_tokens ? 1 - each.tokens / each.padded_tokens : 0;
    const kind = padding < 0.1 ? 1 : padding <= 0.3 ? 2 : 3;
    data[0].push(each.x);
    for (const at of [1, 2, 3]) data[at].push(at === kind ? each.longest : null);
    padded += each.padded_tokens;
    real += each.tokens;
  }
  const texts = batches.reduce((sum, each) => sum + each.items, 0);
  const said = batches.length
    ? `${words.count(batches.length, "batch", "batches")} shown, ${words.number(texts / batches.length)} texts each, ${words.percent(padded ? 1 - real / padded : 0)} padding`
    : `No batches in ${ago}`;
  charts.shapes.show(batches.length ? data : null, said);
}

function drawTuner(store, span, last) {
  const batches = store.batchesWithin(span);
  const open = last.models.filter((model) => model.budget);
  const first = open[0];
  const data = store.looks(["budget"], span);
  const found = first && (first.provider ? "the most that a call may hold" : first.settled ? "settled" : "still searching");
  const said = first ? `${words.number(first.budget)} tokens, ${found}` : "No budget in use";
  charts.budget.show(first ? data : null, said, span);
  drawSpeed(batches.filter((each) => each.fresh && each.seconds > 0 && each.padded_tokens > 0));
}

// Each batch at its size, and the median of those of about the same size: half an octave.
function drawSpeed(batches) {
  const bySize = new Map();
  for (const each of batches) {
    const size = Math.round(2 * Math.log2(each.padded_tokens));
    if (!bySize.has(size)) bySize.set(size, []);
    bySize.get(size).push(each.tokens / each.seconds);
  }
  const points = batches.map((each) => [each.padded_tokens, each.tokens / each.seconds, null]);
  const medians = [...bySize].filter(([, speeds]) => speeds.length > 2).map(([size, speeds]) => [2 ** (size / 2), null, median(speeds)]);
  const sorted = [...points, ...medians].sort((x, y) => x[0] - y[0]);
  const best = medians.reduce((most, each) => (most === null || each[2] > most[2] ? each : most), null);
  const said = best
    ? `Fastest around ${words.number(Math.round(best[0]))} tokens a batch: ${words.short(best[2])} tokens/s on one stream`
    : "Too few batches to learn from";
  charts.speed.show(points.length ? [0, 1, 2].map((at) => sorted.map((each) => each[at])) : null, said);
}

function drawMemory(store, span, last) {
  const data = store.looks(["rss_bytes"], span);
  const megabytes = [data[0], data[1].map((value) => (value === null ? null : value / 1e6))];
  const seen = megabytes[1].filter((value) => value !== null);
  const grown = seen.length > 1 ? Math.round(seen[seen.length - 1] - seen[0]) : 0;
  const over = seen.length > 1 ? `, ${grown < 0 ? "−" : "+"}${words.number(Math.abs(grown))} MB in ${words.duration(-data[0][0])}` : "";
  const said = `${words.bytes(last.memory.rss_bytes)}${over}`;
  charts.memory.show(megabytes, said, span);
}

function drawModels(models) {
  element("model-rows").replaceChildren(...models.map((model) => {
    const lost = model.asks === undefined ? null : model.expired + model.failed;
    const numbers = [model.answered, model.refused, lost, model.batches, model.inputs, model.budget, model.tokens_per_s];
    const made = row(model.name, [model.state, ...numbers.map(words.short)]);
    made.children[1].className = `is-${model.state.replace(" ", "-")}`;
    if (model.model !== model.name) made.children[0].append(make("small", model.model));
    return made;
  }));
}

function drawMoney(last) {
  const { money } = last;
  element("lanes-card").hidden = !money;
  if (!money) return;
  const entries = [
    ["Calls so far", words.number(money.calls)],
    ["Texts in calls under way", words.number(money.texts_under_way)],
    ["Calls at once, at most", words.number(money.senders)],
    ["Spent since the start", words.dollars(money.dollars)],
  ];
  if (money.today !== null) entries.push(["Spent today", words.dollars(money.today)]);
  element("lanes").replaceChildren(...entries.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  const limit = money.limit_per_day;
  const spent = money.today;
  const known = limit !== null && spent !== null;
  say("money-said", known ? `${words.dollars(spent)} of ${words.dollars(limit)} for today` : limit === null ? "No limit for a day" : "");
  const bar = element("money");
  bar.hidden = !known;
  if (!known) return;
  bar.max = limit;
  bar.value = Math.min(limit, spent);
  bar.classList.toggle("near", spent >= 0.8 * limit);
}

function drawJobs(jobs) {
  const list = element("jobs");
  element("jobs-card").hidden = !jobs;
  if (!jobs) return;
  const counts = Object.entries(jobs.counts).filter(([, n]) => n);
  say("jobs-said", counts.length ? counts.map(([what, n]) => `${words.number(n)} ${what.replaceAll("_", " ")}`).join(", ") : "No jobs yet");
  list.replaceChildren(...jobs.recent.map((job) => {
    const entry = make("li");
    const head = make("p", undefined, "job");
    head.append(make("span", job.id, "id"), make("span", job.status.replaceAll("_", " "), `is-${job.status}`));
    const bar = make("progress");
    bar.max = Math.max(1, job.total);
    bar.value = job.done;
    bar.setAttribute("aria-label", `Progress of ${job.id}`);
    const failed = job.failed ? `, ${words.number(job.failed)} failed` : "";
    entry.append(head, bar, make("p", `${words.number(job.done)} of ${words.number(job.total)}${failed}`, "said"));
    return entry;
  }));
}

function row(name, cells) {
  const made = make("tr");
  const head = make("th", name);
  head.scope = "row";
  made.append(head, ...cells.map((cell) => make("td", cell)));
  return made;
}

function median(values) {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.floor(sorted.length / 2)];
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}
