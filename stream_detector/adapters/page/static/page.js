// The live page: one stream of whole states, so that any message can be lost. Every text is set as text.

import { draw } from "./charts.js";
import { heat, make, moment, number } from "./words.js";

const AGAIN = 1000; // ms until the next try
const SILENCE = 15000; // ms without a message, of which two a second come, after which a stream is taken for dead
const $ = (id) => document.getElementById(id);

let stream = null, retry = 0, heard = 0, last = null;
let chosen = fromAddress();
const tiles = new Map();

function fromAddress() {
  try {
    return location.hash.startsWith("#sensor=") ? decodeURIComponent(location.hash.slice(8)) : "";
  } catch {
    return "";
  }
}

function connect() {
  clearTimeout(retry);
  stream?.close();
  heard = Date.now();
  const own = new EventSource(chosen ? `stream?sensor=${encodeURIComponent(chosen)}` : "stream");
  stream = own;
  own.onopen = () => { heard = Date.now(); };
  own.onmessage = (event) => {
    if (own !== stream) return;
    heard = Date.now();
    last = JSON.parse(event.data);
    document.body.dataset.connected = "yes";
    show();
  };
  own.onerror = () => { if (own === stream) lost(); };
}

function lost() {
  stream?.close();
  document.body.dataset.connected = "no";
  state("disconnected, trying again …", "lost");
  clearTimeout(retry);
  retry = setTimeout(connect, AGAIN);
}

function state(text, kind) {
  const place = $("state");
  if (place.textContent !== text) place.textContent = text; // else it would be read aloud again and again
  place.className = `state ${kind}`;
}

function show() {
  const { about, overview, sensor } = last;
  state(about.ready ? `ready: ${about.state}` : about.state, about.ready ? "well" : "");
  figures(about);
  alerts(overview.alerts, about);
  fleet(overview.fleet);
  one(sensor);
  const firing = about.firing ? `(${about.firing}) ` : "";
  document.title = `${firing}stream-detector`;
}

function figures(about) {
  const facts = [
    ["events/s", number(about.events_per_second)],
    ["windows/s", number(about.windows_per_second)],
    ["events", number(about.events)],
    ["lag", about.lag === null ? "–" : `${number(about.lag)} events`],
    ["sensors", number(about.sensors)],
    ["last batch", `${number(about.batch_ms)} ms`],
    ["event time", moment(about.newest)],
    ["model", about.model],
  ];
  if (about.rejects) facts.push(["rejected", number(about.rejects)]);
  if (about.dropped) facts.push(["left out on this page", `${number(about.dropped)} batches`]);
  $("figures").replaceChildren(...facts.map(([name, text]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", text));
    return pair;
  }));
}

function alerts(firing, about) {
  $("alerts-count").textContent = about.firing ? String(about.firing) : "";
  keep($("alerts"), () => $("alerts").replaceChildren(...firing.map((alert) => {
    const item = make("li"), button = make("button", "alert");
    button.type = "button";
    button.dataset.key = `${alert.id} ${alert.from} ${alert.kind}`;
    button.append(
      make("span", `badge ${alert.severity}`, alert.severity),
      make("span", "", alert.summary),
      make("span", "when", `${alert.kind} since ${moment(alert.from)}, score up to ${number(alert.score)}`),
    );
    button.addEventListener("click", () => choose(alert.id));
    item.append(button);
    return item;
  })));
  const unlisted = about.firing - firing.length;
  const notes = [];
  if (!about.firing) notes.push("None.");
  if (unlisted > about.unknown) notes.push(`${unlisted - about.unknown} more are not listed.`);
  if (about.unknown) notes.push(`${about.unknown} sensors fire since before this page began; their tiles show them.`);
  $("alerts-note").textContent = notes.join(" ");
}

// What is drawn anew must not take the keyboard's place away.
function keep(parent, redraw) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  redraw();
  if (key === undefined) return;
  for (const element of parent.querySelectorAll("[data-key]")) if (element.dataset.key === key) element.focus({ preventScroll: true });
}

function fleet(sensors) {
  const present = new Set(sensors.map((sensor) => sensor.id));
  for (const [id, tile] of tiles) if (!present.has(id)) { tile.remove(); tiles.delete(id); }
  const order = sensors.map((sensor) => {
    let tile = tiles.get(sensor.id);
    if (!tile) {
      tile = make("button");
      tile.type = "button";
      tile.append(make("span", "name"), make("span", "score"));
      tile.addEventListener("click", () => choose(sensor.id));
      tiles.set(sensor.id, tile);
    }
    tile.className = `tile h${heat(sensor.score)}`;
    tile.title = sensor.label;
    tile.setAttribute("aria-pressed", String(sensor.id === chosen));
    tile.children[0].textContent = sensor.label;
    tile.children[1].textContent = number(sensor.score, 2) + (sensor.severity ? ` ${sensor.severity}` : "");
    return tile;
  });
  const parent = $("fleet");
  if (order.some((tile, at) => parent.children[at] !== tile)) {
    const focused = document.activeElement;
    parent.replaceChildren(...order);
    if (parent.contains(focused)) focused.focus({ preventScroll: true });
  }
}

function one(sensor) {
  const section = $("sensor");
  section.hidden = !chosen;
  if (!chosen || !sensor || sensor.id !== chosen) return;
  $("sensor-title").textContent = sensor.label;
  if (!sensor.known) {
    $("sensor-note").textContent = "Nothing was heard of it since this page looks.";
    for (const id of ["charts", "shares", "spans"]) $(id).replaceChildren();
    return;
  }
  $("sensor-note").textContent = sensor.more > 0 ? `The ${sensor.features.length} features blamed most are shown; ${sensor.more} more exist.` : "";
  const key = make("p", "key");
  key.append(make("span", "", "measured"), make("span", "k-expected", "expected by the model"), make("span", "k-span", "alert"));
  const whole = Math.max(240, $("charts").clientWidth), columns = whole >= 900 ? 2 : 1;
  const [score, ...features] = draw(sensor, whole, Math.floor((whole - 16 * (columns - 1)) / columns));
  const panels = make("div", `panels c${columns}`);
  panels.append(...features);
  $("charts").replaceChildren(key, ...(score ? [score] : []), panels);
  $("shares").replaceChildren(...[["worst shown", sensor.worst], ["newest", sensor.newest]].filter(([, of]) => of).map(([name, of]) => {
    const group = make("div", "group");
    group.append(make("h4", "", `${name}: ${number(of.score)} at ${moment(of.time)}`), ...of.shares.map(([feature, share]) => {
      const row = make("div", "share"), bar = make("meter");
      bar.max = 1;
      bar.value = share ?? 0;
      bar.setAttribute("aria-label", feature);
      row.append(make("span", "", feature), bar, make("span", "part", `${Math.round(100 * (share ?? 0))} %`));
      return row;
    }));
    return group;
  }));
  $("spans").replaceChildren(...(sensor.spans.length ? [...sensor.spans].reverse().map((span) => {
    const item = make("li");
    item.append(
      make("span", `badge ${span.to === null ? span.severity : "over"}`, span.to === null ? span.severity : `${span.severity}, over`),
      ` ${moment(span.from)} – ${span.to === null ? "now" : moment(span.to)}: ${span.summary}`,
    );
    return item;
  }) : [make("li", "over", "None since this page looks.")]));
}

function choose(id) {
  location.hash = id ? `sensor=${encodeURIComponent(id)}` : "";
}

addEventListener("hashchange", () => {
  chosen = fromAddress();
  if (last) show();
  connect();
  if (chosen) $("sensor").scrollIntoView({ block: "nearest" });
});
addEventListener("resize", () => { if (last) one(last.sensor); });
addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen) choose(""); });
$("close").addEventListener("click", () => choose(""));
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("wanted").value) choose($("wanted").value);
});
setInterval(() => { if (stream?.readyState === EventSource.OPEN && Date.now() - heard > SILENCE) lost(); }, 1000);
connect();
