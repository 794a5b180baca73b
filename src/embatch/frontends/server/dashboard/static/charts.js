// Charts, drawn by uPlot in the page's own colours. Each stands in a figure whose caption says in words what it shows.

import { tick } from "./words.js";

const uPlot = window.uPlot;
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function axes(bottom, left) {
  const ink = { stroke: colour("ink-3"), font: FONT, ticks: { show: false } };
  const grid = { stroke: colour("line"), width: 1 };
  return [
    { ...ink, size: 24, gap: 7, grid: { show: false }, ...bottom },
    { ...ink, size: 44, gap: 6, grid, values: (_, splits) => splits.map(tick), ...left },
  ];
}

const AGO = { 60: [-60, -45, -30, -15, 0], 300: [-300, -240, -180, -120, -60, 0] };

function ago(seconds) {
  if (seconds === 0) return "now";
  return seconds <= -120 || seconds === -60 ? `−${-seconds / 60} min` : `−${-seconds} s`;
}

// From 0 to somewhat above the highest, and never so close that noise looks like a trend.
function fromZero(least) {
  return (_, __, high) => [0, Math.max(least, (high || 0) * 1.12)];
}

// Powers of two around what is shown.
function powers(_, low, high) {
  if (!(low > 0) || !(high > 0)) return [1, 64];
  const from = Math.floor(Math.log2(low) + 1e-9);
  const to = Math.ceil(Math.log2(high) - 1e-9);
  return from === to ? [2 ** Math.max(0, from - 1), 2 ** (to + 1)] : [2 ** from, 2 ** to];
}

// Of all that is shown: uPlot itself looks for the ends by x, and leaves out points that share the last one.
function lowestAndHighest(data) {
  const values = data.slice(1).flat().filter((value) => value !== null);
  return values.length ? [Math.min(...values), Math.max(...values)] : [null, null];
}

function powerSplits(u, _, low, high) {
  const from = Math.ceil(Math.log2(low) - 1e-9);
  const to = Math.floor(Math.log2(high) + 1e-9);
  const step = Math.max(1, Math.ceil((to - from) / 6));
  const splits = [];
  for (let power = from; power <= to; power += step) splits.push(2 ** power);
  return splits;
}

class Chart {
  constructor(id, series) {
    this.figure = document.getElementById(id);
    this.plot = this.figure.querySelector(".plot");
    this.said = this.figure.querySelector(".said");
    this.series = series;
    this.chart = null;
    this.data = null;
    this.shape = null;
    this.empty = document.createElement("p");
    this.empty.className = "empty";
    this.empty.textContent = "No data yet";
    this.plot.append(this.empty);
    if (series.length > 1) this.figure.querySelector("figcaption").append(this.legend());
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  legend() {
    const list = document.createElement("span");
    list.className = "legend";
    for (const each of this.series) {
      const entry = document.createElement("span");
      const mark = document.createElement("i");
      mark.className = `c-${each.colour}`;
      mark.setAttribute("aria-hidden", "true");
      entry.append(mark, each.name);
      list.append(entry);
    }
    return list;
  }

  // `shape` names everything that needs a new chart when it changes.
  show(data, words, shape = "") {
    this.said.textContent = words;
    const empty = !data || !data.slice(1).some((column) => column.some((value) => value !== null));
    this.empty.hidden = !empty;
    this.plot.classList.toggle("has-none", empty);
    if (empty) return;
    this.data = data;
    if (this.chart && this.shape === shape) {
      this.chart.setData(data);
      return;
    }
    this.shape = shape;
    this.rebuild();
  }

  rebuild() {
    if (!this.data) return;
    if (this.chart) this.chart.destroy();
    const { clientWidth: width, clientHeight: height } = this.plot;
    this.chart = new uPlot(
      {
        width: Math.max(40, width),
        height: Math.max(40, height),
        padding: [8, 16, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        ...this.options(),
      },
      this.data,
      this.plot,
    );
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (this.chart && width && height) this.chart.setSize({ width, height });
  }
}

// Values over time. Series: { name, colour, fill, stepped }.
export class TimeChart extends Chart {
  constructor(id, series, { least = 1 } = {}) {
    super(id, series);
    this.least = least;
  }

  show(data, words, span) {
    this.span = span;
    super.show(data, words, String(span));
  }

  options() {
    const span = this.span;
    const splits = this.plot.clientWidth < 300 ? AGO[span].filter((_, at) => at % 2 === (AGO[span].length + 1) % 2) : AGO[span];
    return {
      scales: { x: { time: false, range: () => [-span, 0] }, y: { range: fromZero(this.least) } },
      axes: axes({ splits: () => splits, values: (_, all) => all.map(ago) }, {}),
      series: [
        {},
        ...this.series.map((each) => ({
          stroke: colour(each.colour),
          width: 1.75,
          fill: each.fill ? colour(`${each.colour}-wash`) : undefined,
          paths: each.stepped ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear(),
          points: { show: false },
        })),
      ],
    };
  }
}

// Points over a scale of powers of two. Series: { name, colour, line }.
export class PointChart extends Chart {
  constructor(id, series, { logarithmic = false } = {}) {
    super(id, series);
    this.logarithmic = logarithmic;
  }

  options() {
    const log = { time: false, distr: 3, log: 2, range: powers };
    const range = this.logarithmic ? powers : fromZero(1);
    return {
      scales: { x: log, y: { ...(this.logarithmic && log), range: (u) => range(u, ...lowestAndHighest(u.data)) } },
      axes: axes(
        { splits: powerSplits, values: (_, all) => all.map(tick), filter: (_, all) => all },
        this.logarithmic ? { splits: powerSplits, filter: (_, all) => all } : {},
      ),
      series: [
        {},
        ...this.series.map((each) => ({
          stroke: colour(each.colour),
          width: 1.75,
          paths: each.line ? uPlot.paths.linear() : () => null,
          spanGaps: true,
          points: {
            show: true,
            size: each.line ? 7 : 6,
            width: 0,
            fill: colour(each.line ? each.colour : `${each.colour}-dots`),
            stroke: "transparent",
          },
        })),
      ],
    };
  }
}
