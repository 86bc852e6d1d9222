// Values as Grafana writes them: units, thresholds, value mappings, colours.
"use strict";

const COLORS = { green: "#73bf69", yellow: "#f2cc0c", orange: "#ff9830", red: "#f2495c", blue: "#5794f2" };
const PALETTE = [
  "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ff7383", "#96d98d", "#ffb357",
  "#fade2a", "#ca95e5", "#3274d9", "#fa6400", "#37872d", "#e0b400", "#a352cc", "#c4162a",
];

function color(name) {
  return COLORS[name] || name;
}

function rounded(value, decimals) {
  if (decimals !== undefined) return value.toFixed(decimals);
  const size = Math.abs(value);
  if (size === 0) return "0";
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}

function scaled(value, base, names) {
  let index = 0;
  while (Math.abs(value) >= base && index < names.length - 1) {
    value /= base;
    index += 1;
  }
  return [value, names[index]];
}

// [number, unit] as text
function format(value, unit, decimals) {
  if (value === null || value === undefined || Number.isNaN(value)) return ["–", ""];
  const size = Math.abs(value);
  switch (unit) {
    case "s":
      if (size === 0) return ["0", "s"];
      if (size < 1e-3) return [rounded(value * 1e6, decimals), "µs"];
      if (size < 1) return [rounded(value * 1e3, decimals), "ms"];
      if (size < 120) return [rounded(value, decimals), "s"];
      if (size < 7200) return [rounded(value / 60, decimals), "min"];
      return [rounded(value / 3600, decimals), "h"];
    case "percentunit":
      return [rounded(value * 100, decimals), "%"];
    case "bytes":
    case "Bps": {
      const [scaledValue, name] = scaled(value, 1024, ["B", "KiB", "MiB", "GiB"]);
      return [rounded(scaledValue, decimals), unit === "Bps" ? `${name}/s` : name];
    }
    case "reqps": return [rounded(value, decimals), "req/s"];
    case "ops": return [rounded(value, decimals), "ops/s"];
    case "cps": return [rounded(value, decimals), "c/s"];
    default: {
      const [scaledValue, name] = scaled(value, 1000, ["", "K", "Mil"]);
      return [rounded(scaledValue, decimals), name];
    }
  }
}

function text(value, unit, decimals) {
  const [number, suffix] = format(value, unit, decimals);
  return suffix ? `${number} ${suffix}` : number;
}

function threshold(value, steps) {
  let found = "#ccccdc";
  for (const step of steps || []) if (step.value === null || value >= step.value) found = color(step.color);
  return found;
}

// { text, color } of a value mapping, or null
function mapped(value, mappings) {
  for (const mapping of mappings || []) {
    const found = mapping.type === "value" && mapping.options[String(value)];
    if (found) return { text: found.text, color: color(found.color) };
  }
  return null;
}
