"use strict";
(() => {
  const PALETTES = {
    light: ["#2563eb", "#d9570a", "#15803d", "#9333ea", "#dc2626", "#0b8aa8", "#a16207", "#db2777", "#7c4a2d", "#5b6b00"],
    dark: ["#6ea8fe", "#fb9248", "#4ade80", "#c58bff", "#ff7b7b", "#3fd0e8", "#e3c04a", "#ff8cc6", "#c9a184", "#b5cc3a"],
  };
  const REST = { light: "#7d8490", dark: "#6f7887" };
  const SVG_POINTS = 5000, LISTED = 50, NEAR = 8, PAUSE_MS = 120;
  const FULL = [-1.06, 1.06];

  const $ = (id) => document.getElementById(id);
  const element = (name, fields, ...children) => {
    const made = Object.assign(document.createElement(name), fields);
    made.append(...children);
    return made;
  };
  const number = (value) => value.toLocaleString("en-US");
  const ordinal = (value) => value + (value === 2 ? "nd" : value === 3 ? "rd" : "th");
  const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const integers = (text) => new Uint32Array(bytes(text).buffer);

  const data = JSON.parse($("data").textContent);
  $("data").textContent = "";
  const n = data.count;
  const x = floats(data.x), y = floats(data.y);
  const path = integers(data.path), kind = integers(data.kind), language = integers(data.language);
  const first = integers(data.first), last = integers(data.last);
  const groupings = Object.fromEntries(Object.entries(data.groupings).map(([name, grouping]) =>
    [name, { ...grouping, of: bytes(grouping.of), hidden: new Set() }]));
  const webgl = (() => {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch { return false; }
  })();
  const step = webgl ? 1 : Math.ceil(n / SVG_POINTS);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const plot = $("plot");

  let by = data.color, query = "", hits = [], listed = LISTED, selected = -1, traces = [];

  const theme = () => dark.matches ? "dark" : "light";
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const grouping = () => groupings[by];
  const color = (group) => group === grouping().rest ? REST[theme()] : PALETTES[theme()][group % 10];
  const place = (id) => `${data.paths[path[id]]}:${first[id]}` + (last[id] > first[id] ? `–${last[id]}` : "");
  const shown = (id) => !grouping().hidden.has(grouping().of[id]);

  // --- drawing ---------------------------------------------------------------------------------------------

  const size = (n < 300 ? 10 : n < 2000 ? 8 : n < 10000 ? 5 : 4) * (innerWidth < 600 ? 0.75 : 1);

  function trace(ids, colors, extra) {
    const xs = new Float32Array(ids.length), ys = new Float32Array(ids.length);
    ids.forEach((id, at) => { xs[at] = x[id]; ys[at] = y[id]; });
    const { marker, ...more } = extra;
    return {
      type: webgl ? "scattergl" : "scatter", mode: "markers", x: xs, y: ys, ids_: ids, hoverinfo: "none",
      marker: { color: colors, size, line: { width: 0 }, ...marker }, ...more,
    };
  }

  function draw() {
    const { names, of } = grouping();
    const members = names.map(() => []);
    for (let id = 0; id < n; id += step) members[of[id]].push(id);
    const searching = query !== "";
    traces = names.map((name, group) => trace(members[group], searching ? REST[theme()] : color(group), {
      name, visible: !grouping().hidden.has(group), opacity: searching ? 0.12 : n > 5000 ? 0.7 : 0.85,
    }));
    const found = hits.filter(shown).slice(0, webgl ? n : SVG_POINTS);
    const hue = names.map((_, group) => color(group));
    traces.push(trace(found, found.map((id) => hue[of[id]]), {
      visible: found.length > 0,
      marker: { size: size + 4, line: { width: found.length > 5000 ? 0 : 1, color: style("--ink") } },
    }));
    traces.push(trace(selected < 0 ? [] : [selected], "rgba(0,0,0,0)", {
      visible: selected >= 0, hoverinfo: "skip", marker: { size: size + 16, line: { width: 3, color: style("--ink") } },
    }));
    const axis = { visible: false, zeroline: false, showgrid: false, fixedrange: false };
    const view = plot.layout || { xaxis: { range: [...FULL] }, yaxis: { range: [...FULL] } };
    const layout = {
      paper_bgcolor: style("--back"), plot_bgcolor: style("--back"), showlegend: false, hovermode: "closest",
      dragmode: "pan", margin: { l: 0, r: 0, t: 0, b: 0 }, hoverdistance: 12,
      xaxis: { ...axis, range: [...view.xaxis.range] }, yaxis: { ...axis, range: [...view.yaxis.range] },
    };
    const config = { displayModeBar: false, scrollZoom: true, responsive: true, doubleClick: false, showTips: false };
    return Plotly.react(plot, traces, layout, config);
  }

  function zoom(factor, right, up) {
    const change = {};
    for (const [name, move] of [["xaxis", right || 0], ["yaxis", up || 0]]) {
      const [low, high] = plot.layout[name].range;
      const middle = (low + high) / 2 + move * (high - low), half = (high - low) / 2 * factor;
      change[`${name}.range`] = [middle - half, middle + half];
    }
    return Plotly.relayout(plot, change);
  }

  const whole = () => Plotly.relayout(plot, { "xaxis.range": [...FULL], "yaxis.range": [...FULL] });

  function center(id) {
    const change = {};
    for (const [name, at] of [["xaxis", x[id]], ["yaxis", y[id]]]) {
      const [low, high] = plot.layout[name].range, half = Math.min((high - low) / 2, 0.25);
      change[`${name}.range`] = [at - half, at + half];
    }
    return Plotly.relayout(plot, change);
  }

  function reveal(id) {  // moves the view only if the point lies outside of it
    const outside = [["xaxis", x[id]], ["yaxis", y[id]]].some(([name, at]) => {
      const [low, high] = plot.layout[name].range;
      return at < low || at > high;
    });
    if (outside) center(id);
  }

  // --- lists -----------------------------------------------------------------------------------------------

  function entry(id) {
    const dot = element("i", { className: "dot" });
    dot.style.background = color(grouping().of[id]);
    dot.setAttribute("aria-hidden", "true");
    const title = data.symbols[id] || data.excerpts[id].split("\n").find((line) => /\p{L}{2}/u.test(line)) || data.excerpts[id].split("\n")[0] || "(empty)";
    const button = element("button", { type: "button" }, dot, element("b", { textContent: title }),
      element("span", { textContent: place(id) }));
    button.dataset.id = id;
    if (id === selected) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => select(id));
    return element("li", {}, button);
  }

  function list() {
    $("results").hidden = query === "";
    $("results").dataset.query = query;
    $("hits").replaceChildren(...hits.slice(0, listed).map(entry));
    $("more").hidden = hits.length <= listed;
    $("more").textContent = `Show ${number(Math.min(LISTED, hits.length - listed))} more`;
    const hidden = hits.reduce((sum, id) => sum + !shown(id), 0);
    $("status").textContent = query === "" ? ""
      : `${number(hits.length)} of ${number(n)} points match` + (hidden ? `, ${number(hidden)} of them in hidden groups` : "");
  }

  function mark() {
    for (const button of document.querySelectorAll(".places button")) {
      if (Number(button.dataset.id) === selected) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  function table() {
    const { names, of, hidden, rest } = grouping();
    const counts = new Uint32Array(names.length);
    for (let id = 0; id < n; id++) counts[of[id]]++;
    $("groups-title").textContent = { folder: "Folders", kind: "Kinds", language: "Languages" }[by];
    $("all-groups").hidden = hidden.size === 0;
    $("groups").replaceChildren(...names.map((name, group) => {
      const box = element("input", { type: "checkbox", checked: !hidden.has(group), id: `group-${group}` });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(group); else hidden.add(group);
        $("all-groups").hidden = hidden.size === 0;
        list(); draw();
      });
      const dot = element("i", { className: "dot" });
      dot.style.background = color(group);
      const only = element("button", { type: "button", textContent: "Only" });
      only.setAttribute("aria-label", `Show only ${name}`);
      only.addEventListener("click", () => {
        names.forEach((_, other) => { if (other === group) hidden.delete(other); else hidden.add(other); });
        table(); list(); draw();
        $("groups").rows[group].querySelector("button").focus();
      });
      const label = element("label", { htmlFor: box.id }, dot, element("span", { textContent: group === rest ? "all others" : name }));
      return element("tr", {}, element("td", {}, box), element("td", {}, label),
        element("td", { className: "number", textContent: number(counts[group]) }), element("td", {}, only));
    }));
  }

  // --- selecting -------------------------------------------------------------------------------------------

  function nearest(id) {
    const far = (other) => (x[other] - x[id]) ** 2 + (y[other] - y[id]) ** 2;
    const best = [];
    for (let other = 0; other < n; other++) {
      if (other === id) continue;
      const distance = far(other);
      if (best.length < NEAR || distance < best[best.length - 1].distance) {
        let at = best.length;
        while (at > 0 && best[at - 1].distance > distance) at--;
        best.splice(at, 0, { other, distance });
        if (best.length > NEAR) best.pop();
      }
    }
    return best.map(({ other }) => other);
  }

  function select(id) {
    const within = $("near").contains(document.activeElement);
    selected = id;
    $("detail").hidden = id < 0;
    if (id >= 0) {
      $("detail-place").textContent = place(id);
      $("detail-what").textContent = [data.symbols[id], data.kinds[kind[id]], data.languages[language[id]]].filter(Boolean).join(" · ");
      $("detail-text").textContent = data.excerpts[id];
      $("near").replaceChildren(...nearest(id).map(entry));
      $("said").textContent = `Selected ${place(id)}`;
      $("detail-title").scrollIntoView({ block: "nearest" });
      if (within) $("detail-title").focus();
      reveal(id);
    }
    mark();
    draw();
  }

  // --- searching -------------------------------------------------------------------------------------------

  let haystack = null;
  function find(text) {
    query = text.trim().toLowerCase();
    const words = query.split(/\s+/).filter(Boolean);
    haystack ??= Array.from({ length: n }, (_, id) =>
      `${data.paths[path[id]]}\n${data.symbols[id]}\n${data.excerpts[id]}`.toLowerCase());
    hits = [];
    if (words.length) for (let id = 0; id < n; id++) if (words.every((word) => haystack[id].includes(word))) hits.push(id);
    listed = LISTED;
    list();
    return draw();
  }

  // --- events ----------------------------------------------------------------------------------------------

  let waiting = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => find($("search").value), PAUSE_MS);
  });
  $("search").addEventListener("keydown", (event) => {
    const begin = event.key === "ArrowDown" || event.key === "Enter";
    if (event.key === "Escape" && $("search").value) { $("search").value = ""; find(""); event.preventDefault(); }
    else if (begin) {
      clearTimeout(waiting);
      if ($("search").value.trim().toLowerCase() !== query) find($("search").value);
      $("hits").querySelector("button")?.focus();
      event.preventDefault();
    }
  });
  for (const id of ["hits", "near"]) {
    $(id).addEventListener("keydown", (event) => {
      const item = event.target.closest("li");
      const to = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling }[event.key];
      if (to === undefined) return;
      if (to) to.querySelector("button").focus();
      else if (event.key === "ArrowUp" && id === "hits") $("search").focus();
      event.preventDefault();
    });
  }
  $("more").addEventListener("click", () => {
    const from = listed;
    listed += LISTED;
    list();
    $("hits").children[from].querySelector("button").focus();
  });
  $("colors").addEventListener("change", (event) => { by = event.target.value; table(); list(); refreshNear(); draw(); });
  const refreshNear = () => { if (selected >= 0) $("near").replaceChildren(...nearest(selected).map(entry)); };
  $("all-groups").addEventListener("click", () => { grouping().hidden.clear(); table(); list(); draw(); $("groups-title").scrollIntoView({ block: "nearest" }); });
  $("detail-close").addEventListener("click", () => { select(-1); $("search").focus(); });
  $("detail-show").addEventListener("click", () => center(selected));
  $("detail-copy").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(place(selected).replace(/–.*/, "")); $("status").textContent = "Path copied."; }
    catch { $("status").textContent = "The browser does not let this page copy: select the path instead."; }
  });
  $("zoom-in").addEventListener("click", () => zoom(0.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
  $("zoom-all").addEventListener("click", whole);
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [1, -0.15, 0], ArrowRight: [1, 0.15, 0], ArrowUp: [1, 0, 0.15], ArrowDown: [1, 0, -0.15],
      "+": [0.7], "=": [0.7], "-": [1 / 0.7] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") whole();
    else if (moves[event.key]) zoom(...moves[event.key]);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type=search], textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { $("search").focus(); event.preventDefault(); }
    else if (event.key === "Escape" && !typing && selected >= 0) { select(-1); $("search").focus(); }
  });
  dark.addEventListener("change", () => { table(); list(); refreshNear(); draw(); });

  const pointed = (event) => {
    const point = event.points[0];
    return traces[point.curveNumber].ids_[point.pointNumber];
  };
  function tip(event) {
    const id = pointed(event), { clientX, clientY } = event.event;
    const text = data.excerpts[id].split("\n").slice(0, 6).join("\n");
    $("tip").replaceChildren(element("b", { textContent: place(id) }),
      element("span", { textContent: [data.symbols[id], data.kinds[kind[id]]].filter(Boolean).join(" · ") }), element("pre", { textContent: text }));
    $("tip").hidden = false;
    const { width, height } = $("tip").getBoundingClientRect();
    $("tip").style.left = `${Math.max(8, Math.min(clientX + 14, innerWidth - width - 8))}px`;
    $("tip").style.top = `${clientY + 14 + height > innerHeight ? Math.max(8, clientY - height - 14) : clientY + 14}px`;
  }

  // --- beginning -------------------------------------------------------------------------------------------

  const files = number(data.paths.length);
  $("summary").textContent = n < data.chunks
    ? `${number(n)} of ${number(data.chunks)} chunks (a sample), from ${files} files`
    : `${number(n)} chunks of ${files} files`;
  plot.setAttribute("aria-label", `Map of ${number(n)} points`);
  document.querySelector(`#colors input[value=${by}]`).checked = true;
  if (!webgl) {
    $("notice").hidden = step === 1;
    $("notice").textContent = `This browser offers no WebGL: every ${ordinal(step)} point is drawn, and the matches of a search. ` +
      "Search and tables know all of them.";
  }
  table();
  draw().then(() => {
    plot.on("plotly_hover", tip);
    plot.on("plotly_unhover", () => { $("tip").hidden = true; });
    plot.on("plotly_click", (event) => select(pointed(event)));
    plot.on("plotly_doubleclick", whole);
    document.body.dataset.ready = webgl ? "webgl" : "svg";
  });
})();
