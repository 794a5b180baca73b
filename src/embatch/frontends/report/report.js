"use strict";
(function () {
  var told = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var narrow = window.matchMedia("(max-width: 40rem)");
  var config = {
    responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false, showTips: false,
    plotlyServerURL: ""
  };

  function themed(figure, isDark) {
    var ink = isDark ? "#d5dae2" : "#30363f", line = isDark ? "#2c343f" : "#e3e6ea";
    var layout = JSON.parse(JSON.stringify(figure.layout));
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: narrow.matches ? 11 : 13, color: ink };
    layout.hoverlabel = { bgcolor: isDark ? "#232a33" : "#ffffff", bordercolor: line, font: { color: ink } };
    layout.margin = { l: 8, r: 8, t: 34, b: 8, pad: 4 };
    layout.legend = { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: narrow.matches ? 10 : 12 } };
    layout.dragmode = false;
    Object.keys(layout).forEach(function (name) {
      if (/^[xy]axis/.test(name)) {
        layout[name].gridcolor = layout[name].linecolor = layout[name].zerolinecolor = line;
        layout[name].fixedrange = true;
      }
    });
    return layout;
  }

  function draw(isDark) {
    Object.keys(told).forEach(function (name) {
      var place = document.getElementById("plot-" + name);
      if (place) { window.Plotly.react(place, told[name].data, themed(told[name], isDark), config); }
    });
  }

  draw(dark.matches);
  document.documentElement.dataset.drawn = "yes";
  dark.addEventListener("change", function () { draw(dark.matches); });
  narrow.addEventListener("change", function () { draw(dark.matches); });
  window.addEventListener("beforeprint", function () { draw(false); });
  window.addEventListener("afterprint", function () { draw(dark.matches); });
})();
