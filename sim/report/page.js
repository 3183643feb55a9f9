"use strict";
(() => {
  const page = JSON.parse(document.getElementById("pictures").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const NARROW_PX = 600;

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
      responsive: false, // we begin anew at another width; two hands on one legend leave it over the marks
      displaylogo: false,
      // A finger has no room for the tool bar, and a drag must scroll the page.
      displayModeBar: coarse.matches ? false : "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { format: "png", filename: "gpuyard_" + key, scale: 2 },
      showSendToCloud: false,
      plotlyServerURL: "",
      topojsonURL: "",
    };
  }

  const placeOf = (picture) => document.getElementById("plot-" + picture.key);
  // In a closed section nothing has a width: it is drawn when it is opened.
  const isOpen = (place) => !place.closest("details:not([open])");
  const drawnAs = {};

  // Long names stand on two lines, so that the bars keep their room, and fewer ticks stand below them.
  const inLines = (name) => name.length > 16 && !name.includes("<") ? name.replace(/(.{6,16})[ _]/g, "$1<br>") : name;
  function narrowed(data, layout) {
    for (const trace of data) {
      if (trace.orientation === "h") trace.y = trace.y.map(inLines);
    }
    for (const [name, axis] of Object.entries(layout)) {
      if (name.startsWith("xaxis") && !axis.tickvals && !axis.dtick) axis.nticks = 5;
    }
    if (coarse.matches) layout.margin.r = 16;
  }

  function drawn(picture, look) {
    const place = placeOf(picture);
    const [, before] = (drawnAs[picture.key] ?? "").split(" ");
    drawnAs[picture.key] = `${look} ${place.clientWidth}`;
    // Plotly leaves a legend where another width had it: begin anew.
    if (before !== String(place.clientWidth)) Plotly.purge(place);
    const inks = page.inks[look];
    const layout = inked(picture.layout, inks, false);
    if (coarse.matches) layout.dragmode = false;
    const data = inked(picture.traces, inks, false);
    if (place.clientWidth < NARROW_PX) narrowed(data, layout);
    const frames = picture.frames.length ? inked(picture.frames, inks, false) : undefined;
    return Plotly.react(place, { data, layout, config: options(picture.key), frames });
  }

  async function draw() {
    const look = scheme.matches ? "dark" : "light";
    for (const picture of page.pictures) {
      const place = placeOf(picture);
      if (isOpen(place) && drawnAs[picture.key] !== `${look} ${place.clientWidth}`) await drawn(picture, look);
    }
    document.documentElement.dataset.drawn = look;
  }

  // One drawing at a time, and one more when the window has come to rest.
  let drawing = Promise.resolve();
  const redraw = () => { drawing = drawing.then(draw); };
  let rest;
  window.addEventListener("resize", () => { clearTimeout(rest); rest = setTimeout(redraw, 300); });
  scheme.addEventListener("change", redraw);
  document.addEventListener("toggle", redraw, true);

  // On paper every section is open, light, and as wide as a sheet.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details")].filter((one) => !one.closest("figure")).filter((one) => !one.open);
    for (const one of closed) one.open = true;
    document.documentElement.classList.add("paper");
    for (const picture of page.pictures) drawn(picture, "light");
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    for (const one of closed) one.open = false;
    redraw();
  });

  redraw();
})();
