"use strict";
(() => {
  const page = JSON.parse(document.getElementById("pictures").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");

  // Colours are written "@name", only under keys that hold colours: a variant may be called "@v0".
  function inked(value, inks, isColor) {
    if (typeof value === "string") {
      return isColor && value[0] === "@" ? inks[value.slice(1)] : value;
    }
    if (Array.isArray(value)) {
      return isColor ? value.map((part) => inked(part, inks, true))
        : value.length && typeof value[0] === "object" && value[0] !== null ? value.map((part) => inked(part, inks, false))
        : value;
    }
    if (value && typeof value === "object") {
      const copy = {};
      for (const key of Object.keys(value)) {
        copy[key] = inked(value[key], inks, key.endsWith("color") || key === "colorscale");
      }
      return copy;
    }
    return value;
  }

  // A map's cells are written as runs of one value, row after row.
  function unpacked({ runs, columns }) {
    const cells = [];
    for (let at = 0; at < runs.length; at += 2) {
      for (let left = runs[at + 1]; left > 0; left -= 1) cells.push(runs[at]);
    }
    return Array.from({ length: cells.length / columns }, (_, row) => cells.slice(row * columns, (row + 1) * columns));
  }
  for (const { traces } of page.pictures) {
    for (const trace of traces) {
      for (const name of ["z", "customdata"]) {
        if (trace[name]?.runs) trace[name] = unpacked(trace[name]);
      }
    }
  }

  function options(key) {
    return {
      responsive: true,
      displaylogo: false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { format: "png", filename: "gpuyard_" + key, scale: 2 },
      showSendToCloud: false,
      plotlyServerURL: "",
      topojsonURL: "",
    };
  }

  const widths = {};
  async function draw() {
    const inks = page.inks[scheme.matches ? "dark" : "light"];
    for (const picture of page.pictures) {
      const place = document.getElementById("plot-" + picture.key);
      const layout = inked(picture.layout, inks, false);
      // On a phone a drag must scroll the page, not zoom the plot.
      if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
      // Plotly leaves a legend where another width had it: begin anew.
      if (widths[picture.key] !== place.clientWidth) Plotly.purge(place);
      widths[picture.key] = place.clientWidth;
      const frames = picture.frames.length ? inked(picture.frames, inks, false) : undefined;
      await Plotly.react(place, { data: inked(picture.traces, inks, false), layout, config: options(picture.key), frames });
    }
    document.documentElement.dataset.drawn = scheme.matches ? "dark" : "light";
  }

  // One drawing at a time, and one more when the window has come to rest.
  let drawing = Promise.resolve();
  const redraw = () => { drawing = drawing.then(draw); };
  let rest;
  window.addEventListener("resize", () => { clearTimeout(rest); rest = setTimeout(redraw, 300); });
  scheme.addEventListener("change", redraw);
  redraw();
})();
