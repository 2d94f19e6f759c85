// What is shown beside the graph: details, services, flows, configuration. Each is a function of what
// the agent has told.

import { LANES, ago, bytes, bytesRate, count, duration, el, health, lanesOf, lanesText, placeKey, rate, share, stacked, svg } from "/dom.js";

const figure = (name, value, tone) =>
  el("div", { class: "figure" }, el("dt", {}, name), el("dd", { class: tone }, value));

const errorTone = (traffic) => ({ warn: "warn", bad: "bad" })[health(traffic)];

// Everything together, for the head of the page.
export function summary(all) {
  const denied = all.denied_per_second + all.limited_per_second;
  return [
    el("dl", { class: "figures" },
      figure("requests", rate(all.requests_per_second)),
      figure("errors", share(all.errors_per_second, all.requests_per_second), errorTone(all)),
      figure("denied", rate(denied), denied > 0 ? "refused" : undefined),
      figure("p50", duration(all.p50_us)),
      figure("p99", duration(all.p99_us)),
      el("div", { class: "figure wide" }, el("dt", {}, "lanes"), el("dd", {}, stacked(lanesOf(all), lanesText(all), { class: "stacked tall" }))),
      el("div", { class: "figure" }, el("dt", {}, "in total"), el("dd", { id: "total", "data-total": all.total }, count(all.total)))),
  ];
}

export const legend = () => [
  LANES.map((lane) => el("span", {}, key(`lane-${lane}`), lane)),
  el("span", { class: "apart" }, key("state-good"), "no errors"),
  el("span", {}, key("state-warn"), "< 5 % errors"),
  el("span", {}, key("state-bad"), "≥ 5 %"),
  el("span", {}, key("state-denied"), "mostly denied"),
];

const key = (name) => svg("svg", { class: "key", viewBox: "0 0 10 10" }, svg("rect", { class: name, width: 10, height: 10, rx: 2 }));

function numbers(traffic, split) {
  const all = traffic.requests_per_second;
  const codes = Object.entries(traffic.codes).filter(([, n]) => n > 0);
  const lanes = LANES.filter((lane) => traffic.lanes[lane] > 0);
  return [
    el("dl", { class: "figures" },
      figure("requests", rate(all)),
      figure("errors", share(traffic.errors_per_second, all), errorTone(traffic)),
      figure("in total", count(traffic.total))),
    el("dl", { class: "figures" },
      figure("p50", duration(traffic.p50_us)),
      figure("p90", duration(traffic.p90_us)),
      figure("p99", duration(traffic.p99_us)),
      figure("p99.9", duration(traffic.p999_us))),
    el("h3", {}, "Lanes"),
    lanes.length
      ? [stacked(lanesOf(traffic), lanesText(traffic)),
         el("ul", { class: "plain" }, lanes.map((lane) => row([key(`lane-${lane}`), lane], share(traffic.lanes[lane], all), rate(traffic.lanes[lane]))))]
      : el("p", { class: "muted" }, "Nothing in this window."),
    split,
    traffic.denied_per_second > 0 && el("p", { class: "refused" }, `${rate(traffic.denied_per_second)} denied by policy`),
    traffic.limited_per_second > 0 && el("p", { class: "refused" }, `${rate(traffic.limited_per_second)} over a rate limit`),
    codes.length > 0 && [
      el("h3", {}, "Status"),
      el("ul", { class: "plain" }, codes.map(([code, n]) =>
        row(code === "0" ? "no answer" : code, share(n, traffic.requests), count(n), code >= 500 || code === "0" ? "bad" : code >= 400 ? "refused" : undefined)))],
    el("h3", {}, "Bytes"),
    el("ul", { class: "plain" },
      row("from callers", "", bytesRate(traffic.request_bytes_per_second)),
      row("to callers", "", bytesRate(traffic.response_bytes_per_second))),
  ];
}

const row = (name, middle, value, tone) =>
  el("li", {}, el("span", { class: tone }, name), el("span", { class: "muted" }, middle), el("span", { class: "number" }, value));

// Who of a service was asked how much: canaries.
function versions(parts) {
  const shares = new Map();
  for (const part of parts.flatMap((edge) => edge.workloads)) {
    const name = `${part.workload} ${part.version}`;
    const known = shares.get(name) ?? { ...part, requests_per_second: 0, errors_per_second: 0, total: 0 };
    known.requests_per_second += part.requests_per_second;
    known.errors_per_second += part.errors_per_second;
    known.total += part.total;
    shares.set(name, known);
  }
  const all = [...shares.values()].sort((a, b) => b.requests_per_second - a.requests_per_second || b.total - a.total);
  const sum = all.reduce((n, part) => n + part.requests_per_second, 0);
  return [
    el("h3", {}, "Workloads and versions"),
    el("ul", { class: "versions" }, all.map((part) => {
      const nobody = part.workload === "unknown";
      return el("li", { title: `${count(part.total)} in total, ${share(part.errors_per_second, part.requests_per_second)} errors` },
        el("span", {}, nobody ? "nobody was called" : part.workload, " ", !nobody && el("span", { class: "muted" }, part.version)),
        el("span", { class: "number" }, `${share(part.requests_per_second, sum)}  ${rate(part.requests_per_second)}`),
        stacked([["state-good", part.requests_per_second - part.errors_per_second], ["state-bad", part.errors_per_second], ["rest", Math.max(sum - part.requests_per_second, sum ? 0 : 1)]], ""));
    })),
  ];
}

const linkTo = (key, text, number) =>
  el("li", {}, el("button", { type: "button", class: "link", "data-select": key }, text), el("span", { class: "number" }, number));

const head = (kind, title, more) => el("div", { class: "head" },
  el("div", {}, el("p", { class: "kind" }, kind), el("h2", {}, title), more && el("p", { class: "muted" }, more)),
  el("button", { type: "button", "data-close": "", "aria-label": "Close details", title: "Close (Esc)" }, "×"));

// The panel for a node or edge of the graph; `null`: there is no such thing any more.
export function details(key, { nodes, edges }) {
  const edge = edges.get(key);
  if (edge) {
    return [
      head("From, to", [placeName(edge.from), " → ", placeName(edge.to)],
        edge.parts.map((part) => `${part.host}:${part.port} (${part.protocol})`).join(", ")),
      numbers(edge.traffic, versions(edge.parts)),
      el("button", { type: "button", "data-explain": key }, "Explain a request"),
    ];
  }
  const node = nodes.get(key);
  if (!node) return null;
  const calls = [...edges.values()].filter((e) => e.from === key);
  const callers = [...edges.values()].filter((e) => e.to === key);
  return [
    head(node.traffic ? "Service" : "Caller", node.place.name,
      node.place.name === "unknown" ? "who is no workload of the mesh" : `namespace ${node.place.namespace}`),
    node.traffic && numbers(node.traffic, versions(callers.flatMap((e) => e.parts))),
    callers.length > 0 && [
      el("h3", {}, "Called by"),
      el("ul", { class: "plain" }, callers.map((e) => linkTo(e.key, e.from, rate(e.traffic.requests_per_second))))],
    calls.length > 0 && [
      el("h3", {}, "Calls"),
      el("ul", { class: "plain" }, calls.map((e) => linkTo(e.key, e.to, rate(e.traffic.requests_per_second))))],
  ];
}

const placeName = (key) => key.slice(key.indexOf("/") + 1);

const COLUMNS = [
  ["Service", (s) => placeKey(s.service)],
  ["Requests", (s) => s.traffic.requests_per_second],
  ["Errors", (s) => s.traffic.errors_per_second / (s.traffic.requests_per_second || 1)],
  ["Denied", (s) => s.traffic.denied_per_second + s.traffic.limited_per_second],
  ["p50", (s) => s.traffic.p50_us ?? -1],
  ["p90", (s) => s.traffic.p90_us ?? -1],
  ["p99", (s) => s.traffic.p99_us ?? -1],
  ["In", (s) => s.traffic.request_bytes_per_second],
  ["Out", (s) => s.traffic.response_bytes_per_second],
  ["Lanes", (s) => s.traffic.lanes.native ?? 0],
  ["Total", (s) => s.traffic.total],
];

export function services(list, fits, sort) {
  const of = COLUMNS[sort.column][1];
  const compare = (a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0) * (sort.down ? -1 : 1);
  const rows = list.filter((s) => fits(placeKey(s.service))).sort(compare);
  const headings = COLUMNS.map(([name], column) => {
    const sorted = column === sort.column ? (sort.down ? "descending" : "ascending") : undefined;
    return el("th", { "aria-sort": sorted, class: column === 0 || name === "Lanes" ? "" : "number" },
      el("button", { type: "button", "data-sort": column }, name));
  });
  if (!rows.length) return nothing(list.length ? "No service fits the filter" : "No traffic yet", list.length ? "Clear it to see all." : "Services show here once somebody calls them.");
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, headings)),
    el("tbody", {}, rows.map(({ service, traffic }) => {
      const key = placeKey(service);
      const number = (text, tone) => el("td", { class: `number ${tone ?? ""}` }, text);
      return el("tr", { "data-service": key },
        el("td", {}, el("button", { type: "button", class: "link", "data-select": key }, service.name), el("span", { class: "muted" }, ` ${service.namespace}`)),
        number(rate(traffic.requests_per_second)),
        number(share(traffic.errors_per_second, traffic.requests_per_second), errorTone(traffic)),
        number(rate(traffic.denied_per_second + traffic.limited_per_second)),
        number(duration(traffic.p50_us)), number(duration(traffic.p90_us)), number(duration(traffic.p99_us)),
        number(bytesRate(traffic.request_bytes_per_second)), number(bytesRate(traffic.response_bytes_per_second)),
        el("td", { class: "lanes" }, stacked(lanesOf(traffic), lanesText(traffic))),
        el("td", { class: "number total", "data-total": traffic.total }, count(traffic.total)));
    }))));
}

const nothing = (title, hint) => el("div", { class: "empty" }, el("h2", {}, title), el("p", {}, hint));

const who = (party) =>
  !party ? el("span", { class: "muted" }, "nobody")
    : party.workload === "unknown" ? [party.address, el("span", { class: "muted" }, " outside")]
    : [party.workload, el("span", { class: "muted" }, ` ${party.namespace}`)];

export const flowText = (f) =>
  [f.source.namespace, f.source.workload, f.service.name, f.service.namespace, f.destination?.workload, f.method, f.path, f.status, f.verdict, f.lane, f.reason, f.policy, f.flags, f.rule].join(" ").toLowerCase();

export const VERDICTS = ["all", "denied", "limited", "failed", "answered", "forwarded"];

export function flows(list, chosen) {
  if (!list.length) return nothing("No flows", "The agent keeps the newest 4,096. None of them fits, or there was no traffic yet.");
  const shown = [...list].reverse();
  return el("table", {},
    el("thead", {}, el("tr", {}, ["Time", "From", "To", "Request", "Status", "Verdict", "Policy", "Lane", "Took"].map((name) =>
      el("th", { class: name === "Took" || name === "Status" ? "number" : "" }, name)))),
    el("tbody", {}, shown.map((f) => {
      const id = `${f.time} ${f.source.address} ${f.path}`;
      return el("tr", { class: id === chosen ? "chosen" : "", "data-flow": id, tabindex: 0, "data-verdict": f.verdict },
        el("td", { class: "number left" }, f.time.slice(11, 23)),
        el("td", {}, who(f.source)),
        el("td", {}, f.service.name, el("span", { class: "muted" }, f.destination && f.destination.workload !== "unknown" ? ` ${f.destination.version}` : "")),
        el("td", { class: "path" }, f.kind === "connection" ? "TCP connection" : `${f.method} ${f.path}`),
        el("td", { class: `number ${!f.status || f.status >= 500 ? (f.kind === "connection" ? "" : "bad") : f.status >= 400 ? "refused" : ""}` }, f.status ?? "–"),
        el("td", {}, el("span", { class: `verdict ${f.verdict}` }, f.verdict)),
        el("td", {}, f.policy || el("span", { class: "muted" }, "–")),
        el("td", {}, key(`lane-${f.lane}`), ` ${f.lane}`),
        el("td", { class: "number" }, duration(f.duration_us)));
    })));
}

// Everything that is known of a flow.
export function flowDetails(f) {
  const line = (name, value) => value !== undefined && value !== null && value !== "" && value !== "-" &&
    el("div", {}, el("dt", {}, name), el("dd", {}, String(value)));
  const party = (p) => p && `${p.namespace}/${p.workload} ${p.version} (${p.address})`;
  return [
    head(f.kind === "connection" ? "Connection" : "Request", f.kind === "connection" ? f.service.name : `${f.method} ${f.path}`, f.time),
    el("p", {}, el("span", { class: `verdict ${f.verdict}` }, f.verdict), " ", f.policy && `by ${f.policy}`),
    el("dl", { class: "lines" },
      line("from", party(f.source)), line("service", `${f.service.host}:${f.service.port}`),
      line("to", party(f.destination) ?? "nobody"), line("status", f.status ?? "none"), line("gRPC status", f.grpc_status),
      line("protocol", f.version || f.protocol), line("lane", f.lane), line("reason", f.reason.replaceAll("_", " ")),
      line("rule", f.rule), line("cluster", f.cluster), line("flags", f.flags), line("detail", f.detail),
      line("AUDIT policies", f.audit.join(", ")), line("in dry run", f.dry_run.join(", ")),
      line("tries", f.attempts), line("took", duration(f.duration_us)),
      line("bytes", `${bytes(f.request_bytes)} in, ${bytes(f.response_bytes)} out`),
      line("seen", f.direction), line("trace", f.trace_id)),
  ];
}

export function configuration(status, now) {
  const generation = status.generation;
  const tone = { error: "bad", warning: "warn", notice: "muted" };
  const worst = Object.keys(tone);
  const problems = [...status.problems].sort((a, b) => worst.indexOf(a.severity) - worst.indexOf(b.severity));
  return [
    el("div", { class: "scroll" },
      status.rejected && el("p", { class: "banner bad", role: "alert" }, "The files as last read are not in force: ", status.rejected),
      el("h2", {}, "In force"),
      generation
        ? el("dl", { class: "figures" },
            figure("generation", count(generation.number)),
            figure("since", `${ago(Math.max(now / 1000 - generation.in_force_unix_ms / 1000, 0))} ago`),
            figure("took", duration(generation.took_ms * 1000)),
            figure("services", count(generation.services)),
            figure("endpoints", count(generation.endpoints)),
            figure("rules", count(generation.rules)),
            figure("tables", share(generation.words_used, generation.words_limit)))
        : el("p", {}, "No configuration is in force. ", el("code", {}, "beeway check DIR"), " tells why."),
      el("h2", {}, problems.length ? `Problems (${problems.length})` : "Problems"),
      problems.length
        ? el("table", { class: "problems" },
            el("thead", {}, el("tr", {}, ["Severity", "Where", "Object", "What is wrong"].map((name) => el("th", {}, name)))),
            el("tbody", {}, problems.map((p) => el("tr", {},
              el("td", { class: tone[p.severity] }, p.severity),
              el("td", { class: "where" }, p.line ? `${p.file}:${p.line}` : p.file),
              el("td", {}, p.object ?? ""),
              el("td", { class: "why" }, p.reason)))))
        : el("p", { class: "good" }, "None: every file is understood and in force."),
      el("h2", {}, "Lanes and reasons"),
      el("table", { class: "narrow" }, el("tbody", {}, status.requests.map((r) => el("tr", {},
        el("td", {}, key(`lane-${r.lane}`), ` ${r.lane}`), el("td", {}, r.reason.replaceAll("_", " ")), el("td", { class: "number" }, count(r.count)))))),
      el("h2", {}, "Kernel maps"),
      el("table", { class: "narrow" }, el("tbody", {}, status.maps.map((m) => el("tr", {},
        el("td", {}, m.name), el("td", { class: "number" }, `${count(m.used)} of ${count(m.limit)}`), el("td", { class: "number" }, share(m.used, m.limit)))))),
      el("p", { class: "muted" }, `Beeway ${status.version}, process ${status.pid}, state in ${status.state}`)),
  ];
}
