"use strict";
// Draws the figures after the text is on the screen, in the page's light or dark mode. Figures in sight come first, the
// others when the browser is idle.
(() => {
  const read = (id) => JSON.parse(document.getElementById(`${id}-data`).textContent);
  const figures = read("figures"), trials = read("trials"), places = read("places");
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "toggleSpikelines"],
  };

  // The page holds Plotly as text, which loads fast. Run it as a script when it is needed.
  function start() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }

  function template() {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--rule"), tickcolor: colour("--rule"), ticks: "outside",
      showline: true, exponentformat: "e", title: { standoff: 8 }, fixedrange: matchMedia("(pointer: coarse)").matches,
    };
    return { layout: {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: { ...axis, automargin: "bottom" }, yaxis: { ...axis, automargin: "left" }, margin: { l: 50, r: 16, t: 12, b: 46 },
      legend: { orientation: "h", yref: "container", y: 1, yanchor: "top", xref: "paper", x: 0, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--rule"), font: { color: colour("--ink") }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink"), orientation: "v" },
    } };
  }

  function draw(plot) {
    if (plot.dataset.drawn) return undefined;
    plot.dataset.drawn = "begun";
    const { data, layout } = figures[plot.dataset.figure];
    for (const trace of data) {
      if (!trace.meta?.trials) continue;
      trace.text = trace.meta.trials.map((number) => trials[number]);
      trace.hovertemplate = "%{text}<extra></extra>";
      if (trace.meta.over) [trace.x, trace.y] = trace.meta.over.map((name) => trace.meta.trials.map((n) => (name === null ? n : places[name][n])));
    }
    return Plotly.newPlot(plot, data, { ...layout, template: template() }, config).then(() => { plot.dataset.drawn = "yes"; });
  }

  const sight = new IntersectionObserver((seen) => {
    for (const each of seen) if (each.isIntersecting) { draw(each.target); sight.unobserve(each.target); }
  }, { rootMargin: "300px" });

  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
  const shown = (plot) => !plot.dataset.drawn && plot.closest("details:not([open])") === null;
  const next = () => { const plot = plots.find(shown); if (plot) draw(plot).then(() => idle(next)); };
  const begin = () => { start(); plots.forEach((plot) => sight.observe(plot)); idle(next); };
  requestAnimationFrame(() => setTimeout(begin));  // the browser paints the text in between
  addEventListener("beforeprint", () => { start(); plots.filter(shown).forEach(draw); });
  dark.addEventListener("change", () => {
    for (const plot of plots) if (plot.dataset.drawn) Plotly.relayout(plot, { template: template() });
  });

  const refresh = Number(document.body.dataset.refresh);
  if (refresh) setTimeout(() => location.reload(), 1000 * refresh);
})();
