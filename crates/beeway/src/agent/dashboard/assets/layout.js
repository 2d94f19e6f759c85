// A layered layout, from the left to the right: who calls is left of who is called where there is no
// cycle. The same nodes and edges always give the same picture, whatever their traffic is.

const ROUNDS = 12;
const LAYERS = 8; // that are never too many

// `ids` of nodes; `edges`: [from, to], without loops. In pixels: the size of a node, the `distance` of
// layers, the `gap` between two nodes of a layer, and how far apart edges pass it (`thin`). Gives the
// upper left corners of nodes, and of each edge the points it passes.
export function layout(ids, edges, { width, height, distance, gap, thin }) {
  const nodes = new Map([...ids].sort().map((id) => [id, { id, out: [], in: [], rank: 0 }]));
  const links = edges.map(([from, to]) => ({ from: nodes.get(from), to: nodes.get(to), back: false }));
  const sorted = [...links].sort((a, b) => compare(a.from.id, b.from.id) || compare(a.to.id, b.to.id));
  breakCycles(nodes, sorted);
  rank(nodes);
  const layers = chain(nodes, sorted, height);
  order(layers);
  align(layers, (a, b) => (a.height + b.height) / 2 + (a.height && b.height ? gap : thin));
  const all = layers.flat();
  const top = Math.min(...all.map((node) => node.y - node.height / 2), 0);
  const x = (node) => node.rank * (width + distance);
  const places = new Map();
  for (const node of nodes.values()) {
    places.set(node.id, { x: x(node), y: node.y - height / 2 - top });
  }
  spread(nodes, height);
  const paths = links.map((link) => points(link, x, top, width));
  const bottom = Math.max(...all.map((node) => node.y + node.height / 2), height);
  return { places, paths, width: layers.length * (width + distance) - distance, height: bottom - top };
}

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

// Turns edges round that lead back to where a walk came from.
function breakCycles(nodes, links) {
  const leaving = new Map([...nodes.values()].map((node) => [node, []]));
  const called = new Set();
  for (const link of links) {
    leaving.get(link.from).push(link);
    called.add(link.to);
  }
  const state = new Map();
  const walk = (first) => {
    const path = [[first, 0]];
    state.set(first, 1);
    while (path.length) {
      const step = path[path.length - 1];
      const link = leaving.get(step[0])[step[1]++];
      if (!link) {
        state.set(step[0], 2);
        path.pop();
      } else if (state.get(link.to) === 1) {
        link.back = true;
      } else if (!state.has(link.to)) {
        state.set(link.to, 1);
        path.push([link.to, 0]);
      }
    }
  };
  const all = [...nodes.values()];
  for (const node of [...all.filter((n) => !called.has(n)), ...all]) {
    if (!state.has(node)) walk(node);
  }
  for (const link of links) {
    link.left = link.back ? link.to : link.from;
    link.right = link.back ? link.from : link.to;
    link.left.out.push(link);
    link.right.in.push(link);
  }
}

// Each node right of all that call it; who nobody calls, right beside whom it calls.
function rank(nodes) {
  const waiting = new Map([...nodes.values()].map((node) => [node, node.in.length]));
  const ready = [...nodes.values()].filter((node) => node.in.length === 0);
  for (let at = 0; at < ready.length; at++) {
    for (const { right } of ready[at].out) {
      right.rank = Math.max(right.rank, ready[at].rank + 1);
      waiting.set(right, waiting.get(right) - 1);
      if (waiting.get(right) === 0) ready.push(right);
    }
  }
  for (const node of nodes.values()) {
    if (!node.in.length && node.out.length) {
      node.rank = Math.min(...node.out.map((link) => link.right.rank)) - 1;
    }
  }
  // a picture about as high as wide: several ranks become one layer
  const deepest = Math.max(...[...nodes.values()].map((node) => node.rank)) + 1;
  const most = Math.max(LAYERS, Math.ceil(Math.sqrt(nodes.size) * 0.7));
  if (deepest > most) {
    for (const node of nodes.values()) node.rank = Math.floor((node.rank * most) / deepest);
  }
}

// Layers of nodes, and of one more for each layer that an edge passes.
function chain(nodes, links, height) {
  const layers = [];
  const put = (node) => (layers[node.rank] ??= []).push(node);
  for (const node of nodes.values()) {
    Object.assign(node, { height, up: [], down: [] });
    put(node);
  }
  for (const link of links) {
    let last = link.left;
    link.via = [];
    if (link.left.rank === link.right.rank) continue;
    for (let at = link.left.rank + 1; at < link.right.rank; at++) {
      const pass = { rank: at, height: 0, up: [last], down: [] };
      last.down.push(pass);
      put(pass);
      link.via.push(pass);
      last = pass;
    }
    last.down.push(link.right);
    link.right.up.push(last);
  }
  return Array.from(layers, (layer) => layer ?? []);
}

// Sorts each layer by the middle of its neighbours, to and fro; then swaps neighbours where fewer
// edges cross.
function order(layers) {
  layers.forEach((layer) => layer.forEach((node, at) => (node.at = at)));
  for (let round = 0; round < ROUNDS; round++) {
    const down = round % 2 === 0;
    for (const layer of down ? layers.slice(1) : layers.slice(0, -1).reverse()) {
      for (const node of layer) {
        const near = down ? node.up : node.down;
        node.wish = near.length ? mean(near.map((other) => other.at)) : node.at;
      }
      layer.sort((a, b) => a.wish - b.wish || a.at - b.at);
      layer.forEach((node, at) => (node.at = at));
    }
  }
  for (let round = 0, better = true; better && round < ROUNDS; round++) {
    better = false;
    for (const layer of layers) {
      for (let at = 1; at < layer.length; at++) {
        const [a, b] = [layer[at - 1], layer[at]];
        if (crossings(b, a) < crossings(a, b)) {
          [layer[at - 1], layer[at], a.at, b.at] = [b, a, at, at - 1];
          better = true;
        }
      }
    }
  }
}

// Edges of `a` and `b` that cross when `a` is above.
function crossings(a, b) {
  let sum = 0;
  for (const side of ["up", "down"]) {
    for (const one of a[side]) sum += b[side].filter((other) => other.at < one.at).length;
  }
  return sum;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// Moves nodes to the height of their neighbours as far as their order and distances allow.
function align(layers, apart) {
  for (const layer of layers) {
    let y = 0;
    layer.forEach((node, at) => {
      y += at ? apart(layer[at - 1], node) : 0;
      node.y = y;
    });
    layer.forEach((node) => (node.y -= y / 2));
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const layer of round % 2 === 0 ? layers : [...layers].reverse()) {
      for (const node of layer) {
        const near = [...node.up, ...node.down];
        node.wish = near.length ? mean(near.map((other) => other.y)) : node.y;
      }
      settle(layer, apart);
    }
  }
}

// The places nearest to those wished for, by least squares (pool adjacent violators).
function settle(layer, apart) {
  const pools = [];
  let offset = 0;
  layer.forEach((node, at) => {
    offset += at ? apart(layer[at - 1], node) : 0;
    node.offset = offset;
    const weight = node.height ? 1 : 2; // edges rather straight
    pools.push({ sum: (node.wish - offset) * weight, weight, nodes: [node] });
    for (let last = pools.length - 1; last > 0; last--) {
      const [a, b] = [pools[last - 1], pools[last]];
      if (a.sum / a.weight <= b.sum / b.weight) break;
      pools.pop();
      Object.assign(a, { sum: a.sum + b.sum, weight: a.weight + b.weight });
      a.nodes.push(...b.nodes);
    }
  });
  for (const pool of pools) {
    for (const node of pool.nodes) node.y = pool.sum / pool.weight + node.offset;
  }
}

// Where edges leave and reach a node, one below the other.
function spread(nodes, height) {
  for (const node of nodes.values()) {
    for (const [links, end, next] of [
      [node.out, "leaves", (link) => (link.via[0] ?? link.right).y],
      [node.in, "reaches", (link) => (link.via[link.via.length - 1] ?? link.left).y],
    ]) {
      const step = Math.min(9, (height - 16) / Math.max(links.length, 1));
      const inOrder = [...links].sort((a, b) => next(a) - next(b));
      inOrder.forEach((link, at) => (link[end] = (at - (links.length - 1) / 2) * step));
    }
  }
}

function points(link, x, top, width) {
  if (link.left.rank === link.right.rank) {
    const side = x(link.left) + width;
    const [a, b] = [link.from, link.to].map((node) => node.y - top);
    return [[side, a + (a < b ? 12 : -12)], [side, b + (a < b ? -12 : 12)]];
  }
  const found = [
    [x(link.left) + width, link.left.y + link.leaves - top],
    ...link.via.flatMap((pass) => [
      [x(pass), pass.y - top],
      [x(pass) + width, pass.y - top],
    ]),
    [x(link.right), link.right.y + link.reaches - top],
  ];
  return link.back ? found.reverse() : found;
}
