// Asks the agent again and again, and shows what it says.

import { ago, byId, el, placeKey, setText, show } from "/dom.js";
import { Graph, matcher } from "/graph.js";
import { VERDICTS, configuration, details, flowDetails, flowText, flows, legend, services, summary } from "/panels.js";
import { answer } from "/explain.js";

const EVERY = 1500; // milliseconds
const RARELY = 6000; // what costs the agent more
const PATIENCE = 5000;
const FLOWS = 400;
const TABS = ["graph", "services", "flows", "explain", "configuration"];

const state = {
  tab: "graph",
  snapshot: null,
  configuration: null,
  status: null,
  asked: 0, // when the status was asked for
  flows: [],
  seen: { nodes: new Map(), edges: new Map() },
  selected: null, // a node or edge
  flow: null, // or a flow
  sort: { column: 1, down: true },
  verdict: "all",
  paused: false,
  heard: 0, // when the agent last answered
};

class Refused extends Error {}

async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (response.status === 401) throw new Refused();
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const filter = () => ({ text: byId("filter").value, namespace: byId("namespace").value });

async function renew() {
  const wanted = [ask(`/api/snapshot?seconds=${byId("window").value}`), ask("/api/configuration")];
  const looked = state.tab === "configuration" && Date.now() - state.asked > RARELY;
  if (looked) state.asked = Date.now();
  wanted.push(looked ? ask("/api/status") : state.status);
  if (state.tab === "flows" && !state.paused) {
    const verdict = state.verdict === "all" ? "" : `&verdict=${state.verdict}`;
    wanted.push(ask(`/api/flows?last=${FLOWS}${verdict}`));
  }
  try {
    const [snapshot, configuration, status, told] = await Promise.all(wanted);
    Object.assign(state, { snapshot, configuration, heard: Date.now() });
    if (looked) state.status = status;
    if (told) state.flows = told.flows;
    byId("gone").hidden = true;
    document.body.classList.remove("stale");
    render();
  } catch (error) {
    gone(error);
  }
}

function gone(error) {
  const since = state.heard ? ` for ${ago((Date.now() - state.heard) / 1000)}; what is shown is of then` : "";
  const refused = error instanceof Refused;
  show(byId("gone"), refused
    ? ["The agent was started anew: open the address that ", el("code", {}, "beeway dashboard"), " prints."]
    : [`The agent does not answer${since}. `, el("code", {}, "beeway status"), " tells whether it runs."]);
  byId("gone").hidden = false;
  document.body.classList.add("stale");
}

// The next question follows the last answer: a slow agent is not asked twice.
async function follow() {
  for (;;) {
    if (!document.hidden) await renew();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

const graph = new Graph(byId("canvas"), select);

function render() {
  const { snapshot, status } = state;
  if (!snapshot) return;
  show(byId("summary"), summary(snapshot.all));
  const { errors, warnings, rejected } = state.configuration;
  const problems = errors + warnings + (rejected ? 1 : 0);
  byId("problem-count").hidden = problems === 0;
  setText(byId("problem-count"), String(problems));
  const seen = graph.update(snapshot, filter());
  state.seen = seen;
  namespaces(seen.nodes);
  byId("empty").hidden = seen.all > 0;
  setText(byId("shown"), seen.all === 0 ? "" : seen.chosen === seen.all ? `${seen.all} services and callers` : `${seen.chosen} of ${seen.all}`);
  if (state.tab === "services") show(byId("services"), services(snapshot.services, matcher(filter()), state.sort));
  if (state.tab === "flows") renderFlows();
  if (state.tab === "configuration" && status) show(byId("configuration"), configuration(status, Date.now()));
  renderDetails();
}

function namespaces(nodes) {
  const known = [...new Set([...nodes.values()].map((node) => node.place.namespace))].sort();
  const list = byId("namespace");
  if (known.join() === [...list.options].slice(1).map((option) => option.value).join()) return;
  const before = list.value;
  list.replaceChildren(list.options[0], ...known.map((name) => el("option", { value: name }, name)));
  list.value = known.includes(before) ? before : "";
}

const flowId = (flow) => `${flow.time} ${flow.source.address} ${flow.path}`;

function renderFlows() {
  show(byId("verdicts"), VERDICTS.map((verdict) =>
    el("button", { type: "button", "aria-pressed": String(verdict === state.verdict), "data-pick": verdict }, verdict)));
  const { text, namespace } = filter();
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fitting = state.flows.filter((flow) => {
    const all = flowText(flow);
    const inside = !namespace || flow.source.namespace === namespace || flow.service.namespace === namespace;
    return inside && words.every((word) => all.includes(word));
  });
  show(byId("flow-list"), flows(fitting, state.flow && flowId(state.flow)));
}

function renderDetails() {
  const content = state.tab === "flows" ? state.flow && flowDetails(state.flow)
    : state.tab === "explain" || state.tab === "configuration" ? null
    : state.selected && details(state.selected, state.seen);
  byId("details").hidden = !content;
  if (content) show(byId("details"), content);
}

function select(key) {
  state.selected = key === state.selected ? null : key;
  graph.select(state.selected);
  renderDetails();
}

function open(tab) {
  state.tab = TABS.includes(tab) ? tab : "graph";
  for (const name of TABS) {
    const mine = name === state.tab;
    byId(name).hidden = !mine;
    const button = byId(`tab-${name}`);
    button.setAttribute("aria-selected", String(mine));
    button.tabIndex = mine ? 0 : -1;
  }
  if (location.hash !== `#${state.tab}`) history.replaceState(null, "", `#${state.tab}`);
  document.body.dataset.tab = state.tab;
  if (state.tab === "explain") names().catch(gone);
  render();
  if (state.tab === "configuration") state.asked = 0;
  if (state.tab === "flows" || state.tab === "configuration") renew();
}

async function names() {
  const known = await ask("/api/names");
  const options = (values) => values.slice(0, 2000).map((value) => el("option", { value }));
  show(byId("workloads"), options(known.workloads));
  show(byId("urls"), options(known.services));
  return known;
}

async function explain(event) {
  event?.preventDefault();
  const question = new URLSearchParams(new FormData(byId("question")));
  show(byId("answer"), el("p", { class: "muted" }, "Reading the configuration …"));
  try {
    show(byId("answer"), answer(await ask(`/api/explain?${question}`)));
  } catch (error) {
    show(byId("answer"), el("p", { class: "banner bad", role: "alert" }, error.message || "no answer"));
  }
}

// Fills in a question about an edge, as far as its names tell.
async function explainEdge(key) {
  const part = state.seen.edges.get(key).parts[0];
  open("explain");
  const form = byId("question").elements;
  const caller = placeKey(part.source);
  const { workloads } = await names();
  form.from.value = workloads.find((name) => name === caller || name.startsWith(`${caller}-`)) ?? caller;
  form.url.value = `http://${part.host}:${part.port}/`;
  await explain();
}

function theme() {
  const stored = localStorage.getItem("theme");
  if (stored) document.documentElement.dataset.theme = stored;
  const dark = stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme").textContent = dark ? "Light" : "Dark";
  return dark;
}

function listen() {
  byId("theme").addEventListener("click", () => {
    localStorage.setItem("theme", theme() ? "light" : "dark");
    theme();
  });
  for (const id of ["filter", "namespace"]) byId(id).addEventListener("input", render);
  byId("window").addEventListener("change", renew);
  byId("question").addEventListener("submit", explain);
  byId("zoom-in").addEventListener("click", () => graph.zoom(1.25));
  byId("zoom-out").addEventListener("click", () => graph.zoom(0.8));
  byId("zoom-fit").addEventListener("click", () => graph.fit());
  byId("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    byId("pause").setAttribute("aria-pressed", String(state.paused));
    if (!state.paused) renew();
  });
  for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => open(name));
  window.addEventListener("hashchange", () => open(location.hash.slice(1)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  document.addEventListener("click", pressed);
  document.addEventListener("keydown", typed);
  document.addEventListener("visibilitychange", () => !document.hidden && renew());
}

// What is shown anew all the time has no listeners of its own.
function pressed({ target }) {
  const found = (name) => target.closest(`[data-${name}]`)?.dataset[name];
  if (found("close") !== undefined) return close();
  if (found("select")) {
    state.selected = null;
    return select(found("select"));
  }
  if (found("sort")) {
    const column = Number(found("sort"));
    state.sort = { column, down: column === state.sort.column ? !state.sort.down : column !== 0 };
    return render();
  }
  if (found("pick")) {
    state.verdict = found("pick");
    return renew();
  }
  if (found("explain")) return explainEdge(found("explain"));
  if (found("flow")) {
    state.flow = state.flows.find((flow) => flowId(flow) === found("flow")) ?? null;
    render();
  }
}

function close() {
  state.selected = state.flow = null;
  graph.select(null);
  render();
}

function typed(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = target.matches("input, textarea, select");
  if (key === "Escape") {
    if (target.id === "filter") {
      target.value = "";
      render();
    } else close();
  } else if (key === "/" && !writing) {
    event.preventDefault();
    byId("filter").focus();
  } else if (key === "Enter" && target.dataset.flow) {
    pressed(event);
  } else if (target.matches("[role=tab]") && (key === "ArrowRight" || key === "ArrowLeft")) {
    const at = TABS.indexOf(state.tab) + (key === "ArrowRight" ? 1 : TABS.length - 1);
    open(TABS[at % TABS.length]);
    byId(`tab-${state.tab}`).focus();
  }
}

show(byId("legend"), legend());
theme();
listen();
open(location.hash.slice(1));
follow();
