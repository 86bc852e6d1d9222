// What Prometheus answered, as the fields that panels draw: named series, joined tables.
"use strict";

function named(legend, labels) {
  if (legend && legend !== "__auto") return legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "");
  const shown = Object.entries(labels).filter(([name]) => name !== "__name__");
  return shown.map(([name, value]) => `${name}="${value}"`).join(", ");
}

// Series on one axis of times: [{ name, values }], a gap where there is no value
function series(panel, results, times) {
  const found = [];
  for (const target of panel.targets) {
    for (const one of results[target.refId]) {
      const points = one.values || [one.value];
      const at = new Map(points.map(([time, value]) => [Math.round(time * 1000), Number(value)]));
      const values = times.map((time) => {
        const value = at.get(Math.round(time * 1000));
        return value === undefined || !Number.isFinite(value) ? null : value;
      });
      found.push({ name: named(target.legendFormat, one.metric), values, last: last(points) });
    }
  }
  return found.sort((a, b) => a.name.localeCompare(b.name));
}

function last(points) {
  for (let index = points.length - 1; index >= 0; index -= 1) {
    const value = Number(points[index][1]);
    if (!Number.isNaN(value)) return value;
  }
  return null;
}

// Rows of a table after Grafana's transformations `merge` and `organize`: { columns: [title], rows: [{ title: value }] }
function merged(panel, results) {
  const organize = panel.transformations.find((each) => each.id === "organize").options;
  const several = panel.targets.length > 1;
  const frames = panel.targets.map((target) =>
    results[target.refId].map((one) => {
      const { __name__, ...labels } = one.metric;
      return { labels, field: several ? `Value #${target.refId}` : "Value", value: Number(one.value[1]) };
    }),
  );
  const full = frames.filter((frame) => frame.length);
  const shared = full.length ? Object.keys(full[0][0].labels).filter((label) => full.every((frame) => label in frame[0].labels)) : [];
  const rows = new Map();
  for (const one of full.flat()) {
    const key = JSON.stringify(shared.map((label) => one.labels[label]));
    rows.set(key, { ...rows.get(key), ...one.labels, [one.field]: one.value });
  }
  const fields = Object.keys(organize.indexByName)
    .filter((field) => !organize.excludeByName[field])
    .sort((a, b) => organize.indexByName[a] - organize.indexByName[b]);
  const titles = fields.map((field) => organize.renameByName[field] || field);
  const shown = [...rows.values()].map((row) => Object.fromEntries(fields.map((field, index) => [titles[index], row[field]])));
  const [sort] = panel.options.sortBy;
  const order = (a, b) => (typeof a === "number" || typeof b === "number" ? (a ?? -1) - (b ?? -1) : String(a).localeCompare(String(b)));
  shown.sort((a, b) => order(a[sort.displayName], b[sort.displayName]) * (sort.desc ? -1 : 1));
  return { columns: titles, rows: shown };
}
