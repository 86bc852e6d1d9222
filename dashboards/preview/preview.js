// Draws one dashboard from its JSON (PREVIEW.dashboard) and what a real Prometheus answered to its queries
// (PREVIEW.results: panel id → refId → result). A preview for the documentation, not Grafana.
"use strict";

const WIDTH = 1584;
const UNIT = 30;
const GAP = 8;
const { dashboard, results, times, chosen } = PREVIEW;

function element(kind, className, content) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function placed(made, at) {
  const column = (WIDTH + GAP) / 24;
  made.style.left = `${at.x * column}px`;
  made.style.top = `${at.y * (UNIT + GAP)}px`;
  made.style.width = `${at.w * column - GAP}px`;
  made.style.height = `${at.h * (UNIT + GAP) - GAP}px`;
  return made;
}

function clock(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 16 + (times[times.length - 1] - times[0] < 900 ? 3 : 0));
}

function head() {
  const bar = document.getElementById("head");
  bar.append(element("h1", "", `Dashboards  ›  ${dashboard.title}`));
  for (const link of dashboard.links.slice(1)) bar.append(element("span", "link", link.title));
  for (const variable of dashboard.templating.list) {
    const pill = element("span", "pill");
    pill.append(element("b", "", variable.label), chosen[variable.name] ?? "All");
    bar.append(pill);
  }
  bar.append(element("span", "pill", `${clock(times[0])} – ${clock(times[times.length - 1])} UTC`));
}

function stat(body, panel, result) {
  const defaults = panel.fieldConfig.defaults;
  const [one] = series(panel, result, times);
  const box = element("div", "stat");
  body.append(box);
  if (!one || one.last === null) {
    box.append(element("div", "nothing", defaults.noValue || "No data"));
    return;
  }
  const named = mapped(one.last, defaults.mappings);
  const [number, unit] = named ? [named.text, ""] : format(one.last, defaults.unit, defaults.decimals);
  const tone = named ? named.color : threshold(one.last, defaults.thresholds.steps);
  const value = element("div", "value", number);
  value.style.color = tone;
  if (unit) value.append(element("small", "", unit));
  box.append(value);
  const drawn = one.values.map((each, index) => [index, each]).filter(([, each]) => each !== null);
  if (panel.options.graphMode !== "area" || drawn.length < 2) return;
  const most = Math.max(...drawn.map(([, each]) => each), 1e-9);
  const x = (index) => (index / (times.length - 1)) * 100;
  const line = drawn.map(([index, each]) => `${x(index).toFixed(2)},${(38 - (each / most) * 34).toFixed(2)}`).join(" ");
  box.insertAdjacentHTML(
    "beforeend",
    `<svg viewBox="0 0 100 40" preserveAspectRatio="none"><polygon fill="${tone}" fill-opacity="0.28" points="${x(drawn[0][0])},40 ${line} ${x(drawn[drawn.length - 1][0])},40"/>` +
      `<polyline fill="none" stroke="${tone}" stroke-width="1.2" vector-effect="non-scaling-stroke" points="${line}"/></svg>`,
  );
}

function overrides(panel, name) {
  const found = panel.fieldConfig.overrides.find((each) => each.matcher.options === name);
  return Object.fromEntries((found ? found.properties : []).map((each) => [each.id, each.value]));
}

function timeseries(body, panel, result) {
  const defaults = panel.fieldConfig.defaults;
  const custom = defaults.custom;
  const lines = series(panel, result, times).filter((one) => one.values.some((value) => value !== null));
  if (!lines.length) {
    body.append(element("div", "nothing", "No data"));
    return;
  }
  let next = 0;
  for (const one of lines) {
    const fixed = overrides(panel, one.name).color;
    one.color = fixed ? color(fixed.fixedColor) : PALETTE[next++ % PALETTE.length];
  }
  const rows = Math.min(Math.ceil(lines.length / 2), 4);
  const height = body.clientHeight - rows * 15 - 6;
  const stacked = custom.stacking && custom.stacking.mode === "normal";
  const bars = custom.drawStyle === "bars";
  let below = times.map(() => 0);
  const data = lines.map((one) => {
    if (!stacked) return one.values;
    below = below.map((value, index) => value + (one.values[index] ?? 0));
    return below;
  });
  // the uppermost first, so that those below are drawn over it
  const order = stacked ? lines.map((_, index) => lines.length - 1 - index) : lines.map((_, index) => index);
  const steps = custom.thresholdsStyle && custom.thresholdsStyle.mode === "dashed" ? defaults.thresholds.steps.filter((step) => step.value !== null) : [];
  const most = Math.max(...data.flat().filter((value) => value !== null), 0);
  const top = defaults.max ?? (most > 0 ? most * 1.08 : 1);
  new uPlot(
    {
      width: body.clientWidth,
      height,
      padding: [6, 8, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: { x: { time: true }, y: { range: [0, top] } },
      axes: [
        { stroke: "#8e8fa3", grid: { stroke: "#23262d", width: 1 }, ticks: { show: false }, font: "10px DejaVu Sans", size: 22, space: 90, values: (_, marks) => marks.map(clock) },
        { stroke: "#8e8fa3", grid: { stroke: "#23262d", width: 1 }, ticks: { show: false }, font: "10px DejaVu Sans", size: 62, space: 34, values: (_, marks) => marks.map((mark) => text(mark, defaults.unit)) },
      ],
      series: [
        {},
        ...order.map((index) => ({
          stroke: lines[index].color,
          width: bars ? 0 : 1.3,
          fill: stacked || bars ? opaque(lines[index].color, bars ? 0.85 : 0.42) : opaque(lines[index].color, 0.09),
          points: { show: false },
          spanGaps: false,
          paths: bars ? uPlot.paths.bars({ size: [0.9, 12] }) : undefined,
        })),
      ],
      hooks: {
        draw: [
          (plot) => {
            for (const step of steps) {
              if (step.value > top) continue;
              const y = plot.valToPos(step.value, "y", true);
              plot.ctx.save();
              plot.ctx.strokeStyle = color(step.color);
              plot.ctx.globalAlpha = 0.75;
              plot.ctx.setLineDash([8, 6]);
              plot.ctx.beginPath();
              plot.ctx.moveTo(plot.bbox.left, y);
              plot.ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
              plot.ctx.stroke();
              plot.ctx.restore();
            }
          },
        ],
      },
    },
    [times, ...order.map((index) => data[index])],
    body,
  );
  const legend = element("div", "legend");
  const shown = lines.slice(0, rows * 2);
  for (const one of shown) {
    const line = element("div");
    const mark = element("i");
    mark.style.background = one.color;
    line.append(mark, element("span", "", one.name), element("em", "", text(one.last, defaults.unit)));
    legend.append(line);
  }
  if (shown.length < lines.length) legend.lastChild.replaceChildren(element("span", "", `and ${lines.length - shown.length + 1} more`));
  body.append(legend);
}

// Solid, mixed with the panel's background: areas that overlap stay readable
function opaque(tone, share) {
  const parse = (hex) => [1, 3, 5].map((index) => parseInt(hex.slice(index, index + 2), 16));
  const over = parse(tone);
  return share > 0.2 ? `rgb(${parse("#181b1f").map((value, index) => Math.round(value + (over[index] - value) * share)).join(",")})` : `rgba(${over.join(",")},${share})`;
}

function timeline(body, panel, result) {
  const mappings = panel.fieldConfig.defaults.mappings;
  const lanes = series(panel, result, times);
  if (!lanes.length) {
    body.append(element("div", "nothing", "No data"));
    return;
  }
  const height = Math.min((body.clientHeight - 40) / lanes.length - 3, 34);
  for (const one of lanes) {
    const lane = element("div", "lane");
    lane.style.height = `${height}px`;
    const track = element("div", "track");
    lane.append(element("span", "", one.name), track);
    let begin = 0;
    for (let index = 1; index <= times.length; index += 1) {
      if (index < times.length && one.values[index] === one.values[begin]) continue;
      const found = one.values[begin] === null ? null : mapped(one.values[begin], mappings);
      if (found) {
        const piece = element("i");
        piece.style.left = `${(begin / times.length) * 100}%`;
        piece.style.width = `${((index - begin) / times.length) * 100}%`;
        piece.style.background = opaque(found.color, 0.8);
        track.append(piece);
      }
      begin = index;
    }
    body.append(lane);
  }
  const axis = element("div", "axis");
  for (const share of [0.1, 0.3, 0.5, 0.7, 0.9]) {
    const mark = element("span", "", clock(times[Math.floor(share * (times.length - 1))]));
    mark.style.left = `${share * 100}%`;
    axis.append(mark);
  }
  const keys = element("div", "keys");
  for (const { text: word, color: tone } of Object.values(mappings[0].options)) {
    const key = element("span");
    const mark = element("i");
    mark.style.background = opaque(color(tone), 0.8);
    key.append(mark, word);
    keys.append(key);
  }
  body.append(axis, keys);
}

function table(body, panel, result) {
  const { columns, rows } = merged(panel, result);
  if (!rows.length) {
    body.append(element("div", "nothing", "No data"));
    return;
  }
  const made = element("table");
  const titles = element("tr");
  made.append(titles);
  const numeric = (column) => rows.some((row) => typeof row[column] === "number") && !overrides(panel, column).mappings;
  for (const column of columns) {
    const sorted = panel.options.sortBy[0].displayName === column ? (panel.options.sortBy[0].desc ? " ↓" : " ↑") : "";
    const bar = (overrides(panel, column)["custom.cellOptions"] || {}).type === "gauge";
    titles.append(element("th", numeric(column) && !bar ? "number" : "", column + sorted));
  }
  for (const row of rows.slice(0, Math.floor((body.clientHeight - 26) / 26))) {
    const line = element("tr");
    for (const column of columns) line.append(cell(row[column], overrides(panel, column), numeric(column)));
    made.append(line);
  }
  body.append(made);
}

function cell(value, how, numeric) {
  const made = element("td");
  if (typeof value !== "number") {
    if (how.links && value) made.append(element("a", "", value));
    else made.textContent = value ?? "";
    if (how.links && value) made.firstChild.href = "#";
    return made;
  }
  const found = mapped(value, how.mappings);
  const tone = found ? found.color : how.thresholds ? threshold(value, how.thresholds.steps) : "";
  if ((how["custom.cellOptions"] || {}).type === "gauge") {
    const bar = element("span", "bar");
    bar.style.width = `${Math.max(2, Math.min(value / how.max, 1) * 84)}px`;
    bar.style.background = tone;
    made.append(bar, text(value, how.unit, how.decimals));
    return made;
  }
  made.textContent = found ? found.text : text(value, how.unit, how.decimals);
  made.style.color = tone;
  if (numeric) made.className = "number";
  return made;
}

const DRAWN = { stat, timeseries, "state-timeline": timeline, table };

function draw() {
  head();
  const grid = document.getElementById("grid");
  let bottom = 0;
  for (const panel of dashboard.panels) {
    bottom = Math.max(bottom, panel.gridPos.y + panel.gridPos.h);
    if (panel.type === "row") {
      grid.append(placed(element("div", "row", panel.title), panel.gridPos));
      continue;
    }
    const box = placed(element("section", "panel"), panel.gridPos);
    box.append(element("h2", "", panel.title));
    const body = element("div", "body");
    box.append(body);
    grid.append(box);
    DRAWN[panel.type](body, panel, results[panel.id]);
  }
  const foot = element("footer", "", "Preview drawn from the dashboard's JSON and what a real Prometheus answered (make dashboards-preview). Not Grafana.");
  foot.style.top = `${bottom * (UNIT + GAP) + 4}px`;
  grid.append(foot);
  document.title = "drawn";
}

draw();
