// The path of a request, step by step, as `beeway explain` knows it.

import { el, share } from "/dom.js";

const part = (value) => (value > 0.999999 ? "every such request" : `${share(value, 1)} of such requests`);

const step = (title, ...more) => el("li", {}, el("h3", {}, title), more);

function targets(list) {
  if (!list.length) return null;
  return el("table", { class: "narrow" }, el("tbody", {}, list.map((target) => el("tr", {},
    el("td", {}, target.workload || "–"), el("td", { class: "number" }, target.address),
    el("td", { class: "number" }, share(target.share, 1)),
    el("td", { class: "muted" }, target.same_node ? "on the caller's node" : "")))));
}

function lane(found) {
  return el("p", { class: "lane" }, el("span", { class: `pill lane-${found.lane}` }, found.lane),
    found.share < 0.999999 && ` for ${share(found.share, 1)} of the connections`, ` ${found.why}`,
    found.lane === "native" && found.same_node && "; on one node, bytes take the shortcut past TCP",
    found.router_asked && "; the reference router decided the rule",
    !found.agrees && el("strong", { class: "bad" }, " The reference router says otherwise: this is a bug in Beeway."));
}

function outcome(found) {
  const what = found.cluster && !found.status ? ["goes to ", el("code", {}, found.cluster)]
    : found.status === 403 && found.cluster ? "is answered 403: a policy denies it"
    : found.cluster ? [`is answered ${found.status}: `, el("code", {}, found.cluster), " has no ready endpoint"]
    : [`is answered ${found.status}`, found.body && [": ", el("q", {}, found.body)]];
  return step([`${part(found.share)} `, what], found.lanes.map(lane), targets(found.endpoints));
}

function policy(found) {
  const list = (what, names) => names.length > 0 && `; ${what} ${names.join(", ")}`;
  const by = !found.policy ? "no policy applies" : found.rule === null ? `${found.policy} has no rule that allows it` : `${found.policy}, rule ${found.rule + 1}`;
  return el("tr", {}, el("td", {}, found.workload || found.endpoint),
    el("td", {}, el("span", { class: `verdict ${found.allowed ? "forwarded" : "denied"}` }, found.allowed ? "allowed" : "denied")),
    el("td", {}, by, list("asks the provider of", found.asks), list("reported by", found.reports), list("needs a token of", found.limits)));
}

export function answer(e) {
  return el("ol", { class: "steps" },
    step([el("code", {}, e.from), " asks from ", el("code", {}, e.source)],
      e.known_by.length > 0 && el("p", { class: "muted" }, `known by ${e.known_by.join(", else by ")}`)),
    step(["the service is ", el("code", {}, e.service), " at ", el("code", {}, e.address)], el("p", { class: "muted" }, `protocol ${String(e.protocol).toLowerCase()}`)),
    step("connect() leads to",
      e.connect.length ? targets(e.connect)
        : el("p", {}, e.to_proxy ? "the userspace proxy of this node, which takes the connection as a whole" : "nothing: it fails with ECONNREFUSED, there is no ready endpoint")),
    step(e.rule ? ["rule ", el("code", {}, e.rule.name), ` holds (${e.rule.index + 1} of ${e.rules})`] : e.rules ? `none of ${e.rules} rules holds` : "no rules are attached",
      e.rule?.detour && el("p", { class: "muted" }, `only userspace can carry it out: ${e.rule.detour}`)),
    e.outcomes.map(outcome),
    e.policies.length > 0 && step("policies say", el("table", { class: "narrow" }, el("tbody", {}, e.policies.map(policy)))),
    e.notices.length > 0 && step("left to userspace in this service", el("ul", {}, e.notices.map((notice) => el("li", {}, notice)))));
}
