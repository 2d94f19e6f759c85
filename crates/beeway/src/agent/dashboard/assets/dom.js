// Elements, and numbers with their units.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) node.append(child);
  }
  return node;
}

export const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Makes `old` like `fresh` and leaves alone what is alike, so that nothing flickers and the focus, a
// selection and the scroll position stay. Listeners belong on what is never patched.
function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) setAttribute(old, name, value);
  patchChildren(old, [...fresh.childNodes]);
}

function patchChildren(parent, fresh) {
  const old = [...parent.childNodes];
  fresh.forEach((node, at) => (at < old.length ? patch(old[at], node) : parent.append(node)));
  old.slice(fresh.length).forEach((node) => node.remove());
}

// Shows `children` inside of `parent`.
export function show(parent, ...children) {
  const fresh = document.createElement("div");
  fill(fresh, {}, children);
  patchChildren(parent, [...fresh.childNodes]);
}

const digits = (value) => (value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
const short = (value) => String(Number(value.toFixed(digits(value))));

function scaled(value, step, units) {
  let at = 0;
  while (value >= step * 0.9995 && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  return `${short(value)} ${units[at]}`;
}

export const count = (value) => Math.round(value).toLocaleString("en-US");
export const rate = (value) =>
  value >= 99_950 ? `${short(value / 1000)}k/s` : value >= 1000 ? `${count(value)}/s` : `${short(value)}/s`;
export const duration = (us) =>
  us === null || us === undefined ? "–" : scaled(us, 1000, ["µs", "ms", "s"]);
export const bytes = (value) => scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]);
export const bytesRate = (value) => `${bytes(value)}/s`;

export function share(part, whole) {
  if (!whole || !part) return "0 %";
  const percent = (part / whole) * 100;
  return percent < 0.01 ? "< 0.01 %" : `${short(percent)} %`;
}

export function ago(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds / 60) % 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const LANES = ["native", "shortcut", "detour", "answered", "refused"];

// Parts of a whole beside each other; `parts` are [class, value].
export function stacked(parts, label, attributes = {}) {
  const whole = parts.reduce((sum, [, value]) => sum + value, 0);
  let x = 0;
  const rects = parts.filter(([, value]) => value > 0).map(([name, value]) => {
    const width = (value / whole) * 100;
    const rect = svg("rect", { class: name, x: x.toFixed(2), y: 0, width: width.toFixed(2), height: 10 });
    x += width;
    return rect;
  });
  return svg(
    "svg",
    { class: "stacked", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label, ...attributes },
    rects,
  );
}

export const lanesOf = (traffic) => LANES.map((lane) => [`lane-${lane}`, traffic.lanes[lane] ?? 0]);

export const lanesText = (traffic) =>
  LANES.filter((lane) => traffic.lanes[lane] > 0)
    .map((lane) => `${lane} ${share(traffic.lanes[lane], traffic.requests_per_second)}`)
    .join(", ") || "no requests";

// How bad it is, as a class.
export function health(traffic) {
  const all = traffic.requests_per_second;
  if (!(all > 0)) return "idle";
  if (traffic.errors_per_second / all >= 0.05) return "bad";
  if (traffic.errors_per_second > 0) return "warn";
  if ((traffic.denied_per_second + traffic.limited_per_second) / all >= 0.5) return "denied";
  return "good";
}

export const placeKey = (place) => `${place.namespace}/${place.name}`;
