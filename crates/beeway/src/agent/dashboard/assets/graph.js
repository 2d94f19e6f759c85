// The graph of services: drawn once for each set of nodes and edges, then only its numbers change.

import { LANES, bytesRate, duration, health, lanesText, placeKey, rate, setAttribute, setText, share, svg } from "/dom.js";
import { layout } from "/layout.js";

const SIZE = { width: 172, height: 56 };
const MARGIN = 36;
const BAR = 68;
// more labels than this at once cannot be read
const LABELS = 40;

// What goes from one service to another, on all ports together.
export function edgesOf(snapshot) {
  const edges = new Map();
  for (const part of snapshot.edges) {
    const [from, to] = [placeKey(part.source), placeKey(part.destination)];
    const key = `${from} → ${to}`;
    const edge = edges.get(key) ?? { key, from, to, parts: [], traffic: null };
    edge.parts.push(part);
    edge.traffic = edge.traffic ? sum(edge.traffic, part.traffic) : part.traffic;
    edges.set(key, edge);
  }
  return edges;
}

// Percentiles of two parts cannot be added: the longer one is told.
function sum(a, b) {
  const both = { lanes: { ...a.lanes }, codes: { ...a.codes } };
  for (const name of Object.keys(a)) {
    if (typeof a[name] === "number" || a[name] === null) {
      both[name] = /^p\d+_us$/.test(name) ? Math.max(a[name] ?? -1, b[name] ?? -1) : a[name] + b[name];
      if (both[name] < 0) both[name] = null;
    }
  }
  for (const kind of ["lanes", "codes"]) {
    for (const [name, value] of Object.entries(b[kind])) both[kind][name] = (both[kind][name] ?? 0) + value;
  }
  return both;
}

// Services and callers, each with what it is asked and what it sends.
export function nodesOf(snapshot, edges) {
  const nodes = new Map();
  const node = (place) => {
    const key = placeKey(place);
    if (!nodes.has(key)) nodes.set(key, { key, place, traffic: null, sends: 0 });
    return nodes.get(key);
  };
  for (const { service, traffic } of snapshot.services) node(service).traffic = traffic;
  for (const edge of edges.values()) {
    node(edge.parts[0].source).sends += edge.traffic.requests_per_second;
    node(edge.parts[0].destination);
  }
  return nodes;
}

// Whether all words are part of a key, and it is in the namespace.
export function matcher({ text, namespace }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (key) =>
    (!namespace || key.startsWith(`${namespace}/`)) &&
    words.every((word) => key.toLowerCase().includes(word));
}

export class Graph {
  constructor(canvas, onSelect) {
    this.canvas = canvas;
    this.onSelect = onSelect;
    this.view = { x: 0, y: 0, scale: 1 };
    this.touched = false;
    this.selected = this.hovered = null;
    this.nodes = new Map();
    this.edges = new Map();
    this.plane = svg("g", { class: "plane" });
    this.layers = ["edges", "nodes", "labels"].map((name) => svg("g", { class: name }));
    this.plane.append(...this.layers);
    canvas.append(svg("defs", {}, arrows()), this.plane);
    this.listen();
    new ResizeObserver(() => (this.touched ? this.move() : this.fit())).observe(canvas);
  }

  // Shows a snapshot; gives how many services there are, and how many fit the filter.
  update(snapshot, filter) {
    const edges = edgesOf(snapshot);
    const nodes = nodesOf(snapshot, edges);
    const fits = matcher(filter);
    const chosen = new Set([...nodes.keys()].filter(fits));
    const shown = new Map([...edges].filter(([, edge]) => chosen.has(edge.from) || chosen.has(edge.to)));
    const around = new Set(chosen);
    for (const edge of shown.values()) around.add(edge.from).add(edge.to);
    const kept = new Map([...nodes].filter(([key]) => around.has(key)));
    const shape = JSON.stringify([[...kept.keys()].sort(), [...shown.keys()].sort()]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.draw(kept, shown);
    }
    for (const [key, node] of kept) this.renewNode(this.nodes.get(key), node, chosen.has(key));
    for (const [key, edge] of shown) this.renewEdge(this.edges.get(key), edge);
    this.emphasise();
    return { all: nodes.size, chosen: chosen.size, nodes, edges };
  }

  draw(nodes, edges) {
    const pairs = [...edges.values()].filter((edge) => edge.from !== edge.to);
    const crowded = pairs.length > LABELS;
    const room = { ...SIZE, distance: crowded ? 150 : 132, gap: crowded ? 14 : 56, thin: crowded ? 6 : 24 };
    const place = () => layout([...nodes.keys()], pairs.map((edge) => [edge.from, edge.to]), room);
    let placed = place();
    // what is flat may be higher
    const { clientWidth, clientHeight } = this.canvas;
    const flat = (0.8 * placed.width * clientHeight) / ((clientWidth || 1) * placed.height);
    if (!crowded && flat > 1.2) {
      room.gap = Math.min(room.gap * flat, 130);
      room.thin = Math.min(room.thin * flat, 56);
      placed = place();
    }
    this.size = { width: placed.width, height: placed.height };
    for (const layer of this.layers) layer.replaceChildren();
    this.nodes = new Map([...nodes].map(([key, node]) => [key, this.makeNode(node, placed.places.get(key))]));
    this.edges = new Map();
    const paths = new Map(pairs.map((edge, at) => [edge.key, placed.paths[at]]));
    for (const edge of edges.values()) {
      const points = paths.get(edge.key) ?? loop(placed.places.get(edge.from));
      this.edges.set(edge.key, this.makeEdge(edge, points));
    }
    if (!this.touched || !this.visible()) this.fit();
  }

  makeNode(node, { x, y }) {
    const { namespace, name } = node.place;
    const group = svg("g", { class: "node", tabindex: 0, role: "button", transform: `translate(${x} ${y})`, "data-node": node.key });
    const parts = {
      group,
      name: svg("text", { class: "name", x: 14, y: 24 }, cut(name, 19)),
      where: svg("text", { class: "where", x: 14, y: 43 }, cut(namespace, 12)),
      rate: svg("text", { class: "rate", x: SIZE.width - 12, y: 43 }),
      title: svg("title"),
    };
    group.append(
      parts.title,
      svg("rect", { class: "box", ...SIZE, rx: 9 }),
      svg("rect", { class: "mark", x: 0, y: 12, width: 4, height: SIZE.height - 24, rx: 2 }),
      parts.name, parts.where, parts.rate,
    );
    // as large as fits, for who looks from far away
    parts.name.style.setProperty("--far", `${Math.min(26, (SIZE.width - 22) / (0.6 * Math.min(name.length, 19)))}px`);
    this.layers[1].append(group);
    return parts;
  }

  renewNode(parts, node, chosen) {
    const asked = node.traffic;
    const state = asked ? health(asked) : node.sends > 0 ? "good" : "idle";
    const outside = node.place.name === "unknown" ? " outside" : "";
    parts.base = `node ${state}${chosen ? "" : " context"}${outside}`;
    setAttribute(parts.group, "data-total", asked?.total ?? 0);
    const busy = asked && asked.requests_per_second > 0;
    const numbers = busy ? rate(asked.requests_per_second) : node.sends > 0 ? `sends ${rate(node.sends)}` : "idle";
    setText(parts.rate, numbers);
    const said = busy
      ? `${rate(asked.requests_per_second)}, ${share(asked.errors_per_second, asked.requests_per_second)} errors, p99 ${duration(asked.p99_us)}`
      : numbers;
    setText(parts.title, `${node.key}: ${said}`);
    setAttribute(parts.group, "aria-label", `${node.place.name} in ${node.place.namespace}: ${said}`);
  }

  makeEdge(edge, points) {
    const d = curve(points);
    const middle = edge.from === edge.to ? points[1] : between(points);
    const parts = {
      from: edge.from,
      to: edge.to,
      group: svg("g", { class: "edge", "data-edge": edge.key }),
      line: svg("path", { class: "line", d }),
      title: svg("title"),
      label: svg("g", { class: "label", "data-edge": edge.key }),
      middle,
      rate: svg("text", { class: "rate", y: -8 }),
      time: svg("text", { class: "time", y: 18 }),
      lanes: LANES.map((lane) => svg("rect", { class: `lane-${lane}`, y: -3, height: 5 })),
    };
    parts.group.append(parts.title, svg("path", { class: "reach", d }), parts.line);
    const back = svg("rect", { class: "back", x: -BAR / 2 - 9, y: -24, width: BAR + 18, height: 48, rx: 6 });
    parts.label.append(back, ...parts.lanes, parts.rate, parts.time);
    this.layers[0].append(parts.group);
    this.layers[2].append(parts.label);
    return parts;
  }

  renewEdge(parts, { traffic, key }) {
    const all = traffic.requests_per_second;
    const state = health(traffic);
    parts.state = state;
    setAttribute(parts.group, "data-total", traffic.total);
    const width = all > 0 ? Math.min(1.5 + Math.log10(1 + all) * 1.1, 6) : 1;
    setAttribute(parts.line, "stroke-width", width.toFixed(1));
    setAttribute(parts.line, "marker-end", `url(#arrow-${state})`);
    parts.base = `edge ${state}`;
    parts.labelBase = `label ${state}`;
    const errors = traffic.errors_per_second > 0 ? ` · ${share(traffic.errors_per_second, all)} err` : "";
    setText(parts.rate, rate(all) + errors);
    const refused = traffic.denied_per_second + traffic.limited_per_second;
    setText(parts.time, state === "denied" ? `${share(refused, all)} denied` : `p99 ${duration(traffic.p99_us)}`);
    let x = -BAR / 2;
    LANES.forEach((lane, at) => {
      const part = all > 0 ? ((traffic.lanes[lane] ?? 0) / all) * BAR : 0;
      setAttribute(parts.lanes[at], "x", x.toFixed(2));
      setAttribute(parts.lanes[at], "width", part.toFixed(2));
      x += part;
    });
    const flow = bytesRate(traffic.request_bytes_per_second + traffic.response_bytes_per_second);
    setText(parts.title, `${key}\n${rate(all)}, ${share(traffic.errors_per_second, all)} errors\np50 ${duration(traffic.p50_us)}, p99 ${duration(traffic.p99_us)}\n${lanesText(traffic)}\n${flow}`);
  }

  select(key) {
    this.selected = key;
    this.emphasise();
  }

  // What is pointed at, or else selected, with what it touches; labels where there is room.
  emphasise() {
    const focus = this.hovered ?? this.selected;
    const hot = (edge, key) => key === focus || edge.from === focus || edge.to === focus;
    const near = new Set([focus]);
    for (const [key, edge] of this.edges) if (hot(edge, key)) near.add(edge.from).add(edge.to);
    const known = focus !== null && (this.nodes.has(focus) || this.edges.has(focus));
    const busy = [...this.edges.values()].filter((edge) => edge.state !== "idle").length;
    const away = this.hovered === null ? " aside" : " dim";
    const legible = this.view.scale > 0.45;
    const all = busy <= LABELS && legible;
    for (const [key, edge] of this.edges) {
      const mine = known && hot(edge, key);
      const tone = mine ? " hot" : known ? away : "";
      setAttribute(edge.group, "class", edge.base + tone);
      const labelled = edge.state !== "idle" && (key === focus || (mine && legible) || (all && !known) || (all && busy <= 16));
      const scale = key === focus ? Math.max(1, 0.9 / this.view.scale) : 1;
      setAttribute(edge.label, "transform", `translate(${edge.middle}) scale(${scale})`);
      setAttribute(edge.label, "class", edge.labelBase + tone + (labelled ? "" : " off"));
    }
    for (const [key, node] of this.nodes) {
      const tone = key === this.selected ? " chosen" : known && !near.has(key) ? away : "";
      setAttribute(node.group, "class", node.base + tone);
    }
    this.canvas.classList.toggle("far", this.view.scale < 0.5);
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.size || !width) return;
    const room = (all, own) => (all - 2 * MARGIN) / own;
    const scale = Math.min(room(width, this.size.width), room(height - 40, this.size.height), 1.15);
    this.touched = false;
    this.view = {
      scale,
      x: (width - this.size.width * scale) / 2,
      y: (height - 30 - this.size.height * scale) / 2,
    };
    this.move();
  }

  visible() {
    const { x, y, scale } = this.view;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return x < width && y < height && x + this.size.width * scale > 0 && y + this.size.height * scale > 0;
  }

  zoom(factor, at = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    const scale = Math.min(Math.max(this.view.scale * factor, 0.05), 3);
    const by = scale / this.view.scale;
    this.view = { scale, x: at[0] - (at[0] - this.view.x) * by, y: at[1] - (at[1] - this.view.y) * by };
    this.touched = true;
    this.move();
  }

  pan(x, y) {
    this.view.x += x;
    this.view.y += y;
    this.touched = true;
    this.move();
  }

  move() {
    const { x, y, scale } = this.view;
    setAttribute(this.plane, "transform", `translate(${x} ${y}) scale(${scale})`);
    this.emphasise();
  }

  listen() {
    const keyAt = (target) => {
      const found = target.closest?.("[data-node], [data-edge]");
      return found ? found.dataset.node ?? found.dataset.edge : null;
    };
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * 0.0015), [event.clientX - box.left, event.clientY - box.top]);
    }, { passive: false });
    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 0) grip = { x: event.clientX, y: event.clientY, moved: false };
    });
    window.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const [x, y] = [event.clientX - grip.x, event.clientY - grip.y];
      if (!grip.moved && Math.hypot(x, y) < 4) return;
      this.pan(x, y);
      grip = { x: event.clientX, y: event.clientY, moved: true };
      canvas.classList.add("dragging");
    });
    window.addEventListener("pointerup", () => {
      canvas.classList.remove("dragging");
      // the click that follows is part of the drag
      setTimeout(() => (grip = null));
    });
    canvas.addEventListener("click", (event) => {
      if (!grip?.moved) this.onSelect(keyAt(event.target));
    });
    canvas.addEventListener("pointerover", (event) => this.hover(keyAt(event.target)));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("keydown", (event) => {
      const actions = {
        "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit(),
        ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
        ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
        Enter: () => this.onSelect(keyAt(event.target)), " ": () => this.onSelect(keyAt(event.target)),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  hover(key) {
    if (key === this.hovered) return;
    this.hovered = key;
    this.emphasise();
  }
}

const arrows = () =>
  ["good", "warn", "bad", "denied", "idle"].map((state) =>
    svg("marker", { id: `arrow-${state}`, class: `arrow ${state}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
      svg("path", { d: "M0 0.5 L8 4 L0 7.5 z" })));

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// The place of a label: in the middle, or where a long edge passes a layer.
function between(points) {
  const at = 2 * Math.floor((points.length - 2) / 4);
  const [[x1, y1], [x2, y2]] = points.length > 2 ? points.slice(at + 1, at + 3) : points;
  return [(x1 + x2) / 2 + (x1 === x2 ? 24 : 0), (y1 + y2) / 2];
}

function curve(points) {
  let d = `M${points[0]}`;
  for (let at = 1; at < points.length; at++) {
    const [[x1, y1], [x2, y2]] = [points[at - 1], points[at]];
    // beside a layer, from one of its nodes to another
    const bend = x1 === x2 ? [34, 34] : [(x2 - x1) / 2, (x1 - x2) / 2];
    d += ` C${x1 + bend[0]},${y1} ${x2 + bend[1]},${y2} ${x2},${y2}`;
  }
  return d;
}

// From a service to itself.
const loop = ({ x, y }) => [
  [x + SIZE.width * 0.75, y],
  [x + SIZE.width * 0.75 + 18, y - 18],
  [x + SIZE.width * 0.9, y],
];
