// Lines over time as SVG, drawn anew with every message.

import { moment, number } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 8, TOP = 16, BOTTOM = 4, AXIS = 18;

function part(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function path(times, values, x, y) {
  let text = "", pen = "M";
  for (let at = 0; at < times.length; at += 1) {
    if (values[at] === null) { pen = "M"; continue; }
    text += `${pen}${x(times[at]).toFixed(1)} ${y(values[at]).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function range(rows) {
  let low = Infinity, high = -Infinity;
  for (const row of rows) for (const value of row) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

function panel(width, height, title, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  part(svg, "text", { x: LEFT, y: 11, class: "title" }, title);
  return svg;
}

// The score over the whole width, and one panel a feature, all on the same axis of time.
export function draw(sensor, whole, each) {
  let width = each;
  const all = [...sensor.times, ...sensor.ends];
  if (!all.length) return [];
  const first = Math.min(sensor.times[0] ?? Infinity, sensor.ends[0] ?? Infinity);
  const last = Math.max(sensor.times.at(-1) ?? -Infinity, sensor.ends.at(-1) ?? -Infinity);
  const x = (time) => LEFT + ((width - LEFT - RIGHT) * (time - first)) / Math.max(1, last - first);
  const spans = (svg, height) => {
    for (const span of sensor.spans) {
      const from = Math.max(first, span.from), to = Math.min(last, span.to ?? last);
      if (to < from) continue;
      const box = part(svg, "rect", { x: x(from), y: TOP, width: Math.max(1, x(to) - x(from)), height: height - TOP - BOTTOM, class: "span" });
      part(box, "title", {}, span.summary);
    }
  };
  const charts = sensor.features.map((feature) => {
    const height = 86, [low, high] = range([feature.values, feature.expected]);
    const y = (value) => TOP + ((height - TOP - BOTTOM) * (high - value)) / (high - low);
    const svg = panel(width, height, feature.name, `${feature.name}: measured and expected`);
    spans(svg, height);
    part(svg, "path", { d: `M${LEFT} ${TOP}V${height - BOTTOM}H${width - RIGHT}`, class: "axis" });
    part(svg, "text", { x: LEFT - 5, y: TOP + 9, "text-anchor": "end" }, number(high));
    part(svg, "text", { x: LEFT - 5, y: height - BOTTOM, "text-anchor": "end" }, number(low));
    part(svg, "path", { d: path(sensor.times, feature.values, x, y), class: "value" });
    part(svg, "path", { d: path(sensor.times, feature.expected, x, y), class: "expected" });
    return svg;
  });
  width = whole;
  const height = 120, top = Math.max(1.5, ...sensor.scores.filter((score) => score !== null)) * 1.05;
  // Straight up to the threshold, and by powers above it: a score of a hundred must not flatten all others.
  const lift = (score) => (score <= 1 ? score : 1 + Math.log10(score));
  const y = (score) => TOP + ((height - TOP - BOTTOM - AXIS) * (lift(top) - lift(score))) / lift(top);
  const svg = panel(width, height, "score", "score against the threshold 1");
  spans(svg, height - AXIS);
  part(svg, "path", { d: `M${LEFT} ${TOP}V${height - BOTTOM - AXIS}H${width - RIGHT}`, class: "axis" });
  for (const tick of [0, 1, 10, 100, 1000]) {
    if (tick <= top) part(svg, "text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, String(tick));
  }
  part(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: y(1), y2: y(1), class: "limit" });
  part(svg, "path", { d: path(sensor.ends, sensor.scores, x, y), class: "line" });
  part(svg, "text", { x: LEFT, y: height - 4 }, moment(first));
  part(svg, "text", { x: width - RIGHT, y: height - 4, "text-anchor": "end" }, width > 330 ? `${moment(last)} UTC` : moment(last).slice(11));
  return [svg, ...charts];
}
